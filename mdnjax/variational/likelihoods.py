"""Likelihoods p(x | z) of one pixel or coordinate, as heads; sums over them are the caller's.

`BernoulliHead`, `GaussianHead` (a mixture density network as decoder) and `ProductHead` of
`mdnjax.mixtures` serve as well.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import logsumexp
from jaxtyping import Float, Int, Shaped

from mdnjax._batching import broadcast_with, common_batch
from mdnjax._checks import require, require_outputs
from mdnjax._saturation import bounded, clip, largest_float
from mdnjax._types import Array, ArrayLike, Key, as_float
from mdnjax.mixtures.gradients import log_softmax
from mdnjax.variational._elementwise import half_square, saturated


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormalHead:
    r"""A Gaussian for each number x: -log N(x | mu, sigma^2) with nothing left out.

        (x - mu)^2 / (2 sigma^2) + log sigma + log(2 pi) / 2

    Squared error is the case sigma = 1 / sqrt(2), up to a constant; it sets the balance between
    reconstruction and divergence, which is what sigma says. With `scale` given a network supplies
    mu alone; without, mu and log sigma. A scale that is learnt for each pixel but is the same for
    all examples is a parameter that the decoder puts in the place of the second output.

    Attributes:
        scale: sigma, or None where the network supplies it.

    Raises:
        ValueError: `scale` is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from mdnjax import variational
        >>> print(variational.NormalHead(scale=1.0).nll(jnp.zeros((1,)), 0.0))  # log(2 pi) / 2
        0.9189385
    """

    scale: float | None = None

    def __post_init__(self) -> None:
        is_valid = self.scale is None or 0 < self.scale < math.inf
        require(is_valid, "NormalHead", "scale", self.scale, "a positive number, or None")

    @property
    def num_outputs(self) -> int:
        """One with a scale that is given, two without."""
        return 2 if self.scale is None else 1

    def loc(self, raw: Float[ArrayLike, "*batch P"]) -> Float[Array, "*batch"]:
        """Mu.

        Args:
            raw: `[..., num_outputs]`.

        Returns:
            `[...]`.
        """
        return self._parts("NormalHead.loc", raw)[0]

    def log_scale(self, raw: Float[ArrayLike, "*batch P"]) -> Float[Array, "*batch"]:
        """Log sigma.

        Args:
            raw: `[..., num_outputs]`.

        Returns:
            `[...]`.
        """
        return self._parts("NormalHead.log_scale", raw)[1]

    def nll(
        self, raw: Float[ArrayLike, "*#batch P"], y: Shaped[ArrayLike, "*#batch"]
    ) -> Float[Array, "*batch"]:
        """-log N(y | mu, sigma^2), in nats.

        Args:
            raw: `[..., num_outputs]`.
            y: `[...]`.

        Returns:
            `[...]`, the broadcast batch shape.

        Raises:
            ValueError: The last axis of `raw` is not `num_outputs`, or the shapes do not broadcast.
        """
        loc, log_scale = self._parts("NormalHead.nll", raw)
        y = jnp.asarray(y).astype(loc.dtype)
        batch = common_batch("NormalHead.nll", ("raw", "y"), loc.shape, y.shape)
        loc, log_scale, y = (jnp.broadcast_to(x, batch) for x in (loc, log_scale, y))
        square = half_square(y - loc, log_scale)
        return square + saturated(log_scale) + 0.5 * math.log(2 * math.pi)

    def sample(self, key: Key, raw: Float[ArrayLike, "*batch P"]) -> Float[Array, "*batch"]:
        """A sample for each number, reparameterised.

        Args:
            key: A random key.
            raw: `[..., num_outputs]`.

        Returns:
            `[...]`.
        """
        loc, log_scale = self._parts("NormalHead.sample", raw)
        epsilon = jax.random.normal(key, loc.shape, loc.dtype)
        return loc + jnp.exp(bounded(log_scale)) * epsilon

    def _parts(self, function: str, raw: ArrayLike) -> tuple[Array, Array]:
        raw = as_float(raw)
        require_outputs(function, raw, self)
        loc = raw[..., 0]
        if self.scale is None:
            return loc, raw[..., 1]
        return loc, jnp.full_like(loc, math.log(self.scale))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CategoricalHead:
    """One of C classes from as many raw outputs, their logits.

    Attributes:
        num_classes: C.

    Raises:
        ValueError: C is less than 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from mdnjax import variational
        >>> print(variational.CategoricalHead(num_classes=4).nll(jnp.zeros(4), 2))  # log 4
        1.3862944
    """

    num_classes: int

    def __post_init__(self) -> None:
        require(
            isinstance(self.num_classes, int) and self.num_classes >= 1,
            "CategoricalHead",
            "num_classes",
            self.num_classes,
            "an int >= 1",
        )

    @property
    def num_outputs(self) -> int:
        """C."""
        return self.num_classes

    def log_probabilities(self, raw: Float[ArrayLike, "*batch C"]) -> Float[Array, "*batch C"]:
        """Log p of every class.

        Args:
            raw: `[..., C]`, logits.

        Returns:
            `[..., C]`, nats.
        """
        raw = as_float(raw)
        require_outputs("CategoricalHead.log_probabilities", raw, self)
        return log_softmax(raw)

    def nll(
        self, raw: Float[ArrayLike, "*#batch C"], y: Int[ArrayLike, "*#batch"]
    ) -> Float[Array, "*batch"]:
        """-log p(y), in nats.

        Args:
            raw: `[..., C]`, logits.
            y: `[...]`, the class, 0 to C - 1.

        Returns:
            `[...]`, the broadcast batch shape; NaN where y is no class.

        Raises:
            ValueError: The last axis of `raw` is not C, or the shapes do not broadcast.
        """
        name = "CategoricalHead.nll"
        raw = as_float(raw)
        require_outputs(name, raw, self)
        y = jnp.asarray(y)
        batch = common_batch(name, ("raw", "y"), raw.shape[:-1], y.shape)
        log_p = jnp.broadcast_to(log_softmax(raw), (*batch, self.num_classes))
        y = jnp.broadcast_to(y, batch)[..., None]
        is_class = (y >= 0) & (y < self.num_classes)
        chosen = jnp.take_along_axis(log_p, jnp.where(is_class, y, 0), axis=-1)
        return jnp.where(is_class, -chosen, jnp.nan)[..., 0]

    def sample(self, key: Key, raw: Float[ArrayLike, "*batch C"]) -> Int[Array, "*batch"]:
        """A class drawn for each.

        Args:
            key: A random key.
            raw: `[..., C]`, logits.

        Returns:
            `[...]`, 0 to C - 1.
        """
        raw = as_float(raw)
        require_outputs("CategoricalHead.sample", raw, self)
        return jax.random.categorical(key, raw)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiscretizedLogisticHead:
    r"""A mixture of K logistics for one pixel of C channels, each one of L levels.

    With levels as x in [-1, 1], h = 1 / (L - 1) half the distance between two, and the component's
    mean of a channel linear in the channels before it,

        m_c = mu_c + sum_{b < c} tanh(r_bc) x_b,
        p(y_c | k) = S((x_c + h - m_c) / s_c) - S((x_c - h - m_c) / s_c),        S the logistic,

    where the lowest level takes all below it and the highest all above. In log space the difference
    is log S(a) + log S(-b) + log(1 - exp(b - a)), so that no level is ever impossible or rounded to
    it. The raw vector is rows of K: logits, means (C rows), log-scales (C rows), r (12, 13, 23).

    Attributes:
        num_components: K.
        num_channels: C, 1 for grey and 3 for colour.
        num_levels: L.

    Raises:
        ValueError: K or C is less than 1, or L less than 2.

    Example:
        >>> import jax.numpy as jnp
        >>> from mdnjax import variational
        >>> head = variational.DiscretizedLogisticHead(num_components=10, num_channels=3)
        >>> head.num_outputs
        100
        >>> grey = variational.DiscretizedLogisticHead(num_components=5)
        >>> levels = jnp.arange(256)[:, None]
        >>> print(jnp.exp(-grey.nll(jnp.zeros((256, 15)), levels)).sum().round(3))
        1.0

    References:
        T. Salimans, A. Karpathy, X. Chen and D. P. Kingma. "PixelCNN++." 2017, eq. 2 and 3.
    """

    num_components: int
    num_channels: int = 1
    num_levels: int = 256

    def __post_init__(self) -> None:
        for name, least in (("num_components", 1), ("num_channels", 1), ("num_levels", 2)):
            value = getattr(self, name)
            is_valid = isinstance(value, int) and value >= least
            require(is_valid, "DiscretizedLogisticHead", name, value, f"an int >= {least}")

    @property
    def num_outputs(self) -> int:
        """K (1 + 2 C + C (C - 1) / 2)."""
        c = self.num_channels
        return self.num_components * (1 + 2 * c + c * (c - 1) // 2)

    def nll(
        self, raw: Float[ArrayLike, "*#batch P"], y: Shaped[ArrayLike, "*#batch C"]
    ) -> Float[Array, "*batch"]:
        """-log p(y) of a pixel, all its channels, in nats.

        Args:
            raw: `[..., num_outputs]`.
            y: `[..., C]`, levels 0 to L - 1.

        Returns:
            `[...]`, the broadcast batch shape; finite for all finite `raw`, NaN where y is no level
            (as pixels divided by 255 are).

        Raises:
            ValueError: The last axes do not fit the head, or the batches do not broadcast.
        """
        name = "DiscretizedLogisticHead.nll"
        raw = as_float(raw)
        require_outputs(name, raw, self)
        raw, y = broadcast_with(name, "raw", raw, raw.shape[:-1], y, self.num_channels)
        log_weights, loc, log_scale, link = self._parts(raw)
        half = 1 / (self.num_levels - 1)
        x = (2 * half * y - 1)[..., None]
        inverse_scale = jnp.exp(-bounded(log_scale))
        limit = largest_float(raw.dtype, terms=8 * self.num_channels)
        delta = clip(x - self._means(loc, link, x), limit)
        above, below = (clip((delta + d) * inverse_scale, limit) for d in (half, -half))
        width = 2 * half * inverse_scale
        is_wide = width > float(jnp.finfo(width.dtype).eps)
        log_width = jnp.where(
            is_wide,
            jnp.log(-jnp.expm1(-jnp.where(is_wide, width, 1))),
            math.log(2 * half) - clip(log_scale, limit),
        )
        is_lowest, is_highest = y[..., None] == 0, y[..., None] == self.num_levels - 1
        log_p = (
            jnp.where(is_highest, 0, jax.nn.log_sigmoid(above))
            + jnp.where(is_lowest, 0, jax.nn.log_sigmoid(-below))
            + jnp.where(is_lowest | is_highest, 0, log_width)
        )
        nats = -logsumexp(log_weights + jnp.sum(log_p, axis=-2), axis=-1)
        is_level = (y >= 0) & (y <= self.num_levels - 1) & (y == jnp.round(y))
        return jnp.where(jnp.all(is_level, axis=-1), nats, jnp.nan)

    def sample(self, key: Key, raw: Float[ArrayLike, "*batch P"]) -> Int[Array, "*batch C"]:
        """A pixel drawn from p, exactly: a logistic number rounded to the next level.

        Args:
            key: A random key.
            raw: `[..., num_outputs]`.

        Returns:
            `[..., C]`, levels 0 to L - 1.
        """
        raw = as_float(raw)
        require_outputs("DiscretizedLogisticHead.sample", raw, self)
        key_component, key_level = jax.random.split(key)
        log_weights, *parts = self._parts(raw)
        k = jax.random.categorical(key_component, log_weights)[..., None, None]
        loc, log_scale, link = (jnp.take_along_axis(x, k, axis=-1) for x in parts)
        noise = jnp.exp(bounded(log_scale)) * jax.random.logistic(key_level, loc.shape, loc.dtype)
        top = self.num_levels - 1
        x: list[Array] = []
        for c in range(self.num_channels):
            centre = loc[..., c, :] + _linked(link, x) + noise[..., c, :]
            x.append(2 / top * jnp.clip(jnp.round((centre + 1) * (top / 2)), 0, top) - 1)
        levels = (jnp.concatenate(x, axis=-1) + 1) * (top / 2)
        return jnp.round(levels).astype(jnp.int32)

    def _parts(self, raw: Array) -> tuple[Array, Array, Array, Array]:
        """Log-weights `[..., K]`; means, log-scales, r: `[..., rows, K]`."""
        c, k = self.num_channels, self.num_components
        rows = raw.reshape(*raw.shape[:-1], self.num_outputs // k, k)
        logits, loc, log_scale, link = lax.split(
            rows, (1, c, c, c * (c - 1) // 2), axis=rows.ndim - 2
        )
        return log_softmax(logits[..., 0, :]), loc, log_scale, jnp.tanh(link)

    def _means(self, loc: Array, link: Array, x: Array) -> Array:
        """M `[..., C, K]`."""
        channels = [x[..., c, :] for c in range(self.num_channels)]
        means = [loc[..., c, :] + _linked(link, channels[:c]) for c in range(self.num_channels)]
        return jnp.stack(means, axis=-2)


def _linked(link: Array, before: list[Array]) -> Array | float:
    """sum_{b < c} r_bc x_b, the r_bc of a channel following those of the channel before it."""
    c = len(before)
    start = c * (c - 1) // 2
    return sum((link[..., start + b, :] * x for b, x in enumerate(before)), start=0.0)
