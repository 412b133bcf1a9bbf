"""Heads: static descriptions that turn a network's raw outputs into a density."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Float, Shaped

from mdnjax._batching import broadcast_with, columns_with
from mdnjax._checks import require, require_outputs
from mdnjax._saturation import clip, largest_float
from mdnjax._types import Array, ArrayLike, Key, as_float
from mdnjax.mixtures import _triangular as triangular
from mdnjax.mixtures import gaussian
from mdnjax.mixtures._bernoulli import bernoulli_nll
from mdnjax.mixtures.gaussian import CovarianceKind, GaussianMixture
from mdnjax.mixtures.gradients import Parameters, block_heights, log_likelihood, log_softmax
from mdnjax.mixtures.sampling import sample


@runtime_checkable
class Head(Protocol):
    """What a loss, a network's last layer and a decoder need to know of a density.

    A head is hashable and goes into `jit` as a constant. `y` may be any pytree.
    """

    @property
    def num_outputs(self) -> int:
        """How many raw outputs a network must supply."""
        ...

    def nll(self, raw: Any, y: Any) -> Array:
        """-log p(y) of the density that `raw` `[..., num_outputs]` describes: `[...]`, nats."""
        ...


@runtime_checkable
class ColumnsHead(Head, Protocol):
    """A head that takes raw outputs as columns, too: the batch axes behind."""

    def nll_columns(self, raw: Any, y: Any) -> Array:
        """`nll` of `raw` `[num_outputs, ...]` and of `y` likewise: `[...]`, nats."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianHead:
    r"""A Gaussian mixture from raw outputs: softmax weights, exponential scales, linear centres.

    The raw vector is rows of K, a row for each kind of parameter, in this order:

    | rows | isotropic | diagonal | full | meaning |
    | --- | --- | --- | --- | --- |
    | logits | 1 | 1 | 1 | pi = softmax(logits) |
    | log-scales s | 1 | D | D | exponential scales |
    | centres mu | D | D | D | used as they are |
    | upper entries | - | - | D(D-1)/2 | R_12, R_13, ..., R_23, ... |

    *Isotropic* is Bishop's network: sigma = exp(s), (D + 2) K outputs. *Full* has the precision
    U^T U with U = diag(exp(-s)) (I + R), and is *diagonal* where the upper entries are zero.

    Attributes:
        num_components: K.
        dim: D, of the target.
        covariance: "isotropic", "diagonal" or "full".

    Raises:
        ValueError: K or D is less than 1, or the covariance is none of the three.

    Example:
        >>> import jax.numpy as jnp
        >>> import mdnjax as mdn
        >>> head = mdn.GaussianHead(num_components=3, dim=2)
        >>> head.num_outputs
        12
        >>> print(head.nll(jnp.zeros(12), jnp.zeros(2)))  # log 2 pi
        1.837877

    References:
        C. M. Bishop. "Pattern Recognition and Machine Learning." 2006, eq. 5.150 to 5.152.
    """

    num_components: int
    dim: int
    covariance: CovarianceKind = "isotropic"

    def __post_init__(self) -> None:
        for name in ("num_components", "dim"):
            value = getattr(self, name)
            require(
                isinstance(value, int) and value >= 1, "GaussianHead", name, value, "an int >= 1"
            )
        kinds = ("isotropic", "diagonal", "full")
        require(
            self.covariance in kinds,
            "GaussianHead",
            "covariance",
            repr(self.covariance),
            "one of " + ", ".join(map(repr, kinds)),
        )

    @property
    def _rows(self) -> tuple[int, ...]:
        """How many rows of K there are of each parameter."""
        scales = 1 if self.covariance == "isotropic" else self.dim
        full = self.covariance == "full"
        return (1, scales, self.dim, triangular.num_entries(self.dim) if full else 0)

    @property
    def num_outputs(self) -> int:
        """(D+2)K isotropic, (2D+1)K diagonal, K(1 + 2D + D(D-1)/2) full."""
        return sum(self._rows) * self.num_components

    def mixture(self, raw: Float[ArrayLike, "*batch P"]) -> GaussianMixture:
        """The mixture that the raw outputs describe.

        Args:
            raw: `[..., num_outputs]`; bfloat16 and float16 are widened to float32.

        Returns:
            The mixtures, of batch shape `...`.

        Raises:
            ValueError: The last axis is not `num_outputs`.
        """
        raw = as_float(raw)
        require_outputs("GaussianHead.mixture", raw, self)
        logits, log_scale, loc, upper = (
            jnp.swapaxes(part, -2, -1) for part in self._split(raw, self._rows)
        )
        return GaussianMixture(
            log_softmax(logits[..., 0]),
            loc,
            log_scale[..., 0] if self.covariance == "isotropic" else log_scale,
            upper if self.covariance == "full" else None,
            self.covariance,
        )

    def raw(self, mix: GaussianMixture) -> Float[Array, "*batch P"]:
        """Raw outputs that describe `mix`: the inverse of `mixture`.

        For a network's initial bias, and for handing a fitted mixture to a head.

        Args:
            mix: Mixtures of this head's kind, K and D.

        Returns:
            `[..., num_outputs]`; the logits are the log-weights.

        Raises:
            ValueError: The mixture's kind, K or D is not the head's.
        """
        got = (mix.covariance_kind, mix.num_components, mix.dim)
        expected = (self.covariance, self.num_components, self.dim)
        require(got == expected, "GaussianHead.raw", "mix", f"(kind, K, D) = {got}", f"{expected}")
        logits, *blocks = jax.tree.leaves(gaussian.parameters(mix))
        rows = jnp.concatenate([logits[..., None, :], *blocks], axis=-2)
        return rows.reshape(*mix.batch_shape, self.num_outputs)

    def nll(
        self, raw: Float[ArrayLike, "*#batch P"], y: Shaped[ArrayLike, "*#batch D"]
    ) -> Float[Array, "*batch"]:
        """-log p(y), in nats, with the closed-form gradient of `mdnjax.mixtures.gradients`.

        Args:
            raw: `[..., num_outputs]`.
            y: `[..., D]`, promoted to the dtype of `raw`.

        Returns:
            `[...]`, the broadcast batch shape; finite for all finite inputs.

        Raises:
            ValueError: The last axes do not fit the head, or the batch shapes do not broadcast.
        """
        raw = as_float(raw)
        require_outputs("GaussianHead.nll", raw, self)
        raw, y = broadcast_with("GaussianHead.nll", "raw", raw, raw.shape[:-1], y, self.dim)
        return -log_likelihood(self._parameters(raw), y)

    def nll_columns(
        self, raw: Float[ArrayLike, "P *#batch"], y: Shaped[ArrayLike, "D *#batch"]
    ) -> Float[Array, "*batch"]:
        """`nll`, of raw outputs and targets with the batch behind: the same nats and gradients.

        On a CPU the loss of many examples and few outputs each takes half as long like this, since
        all its loops are over examples. It is for raw outputs that are columns already: turning
        rows takes longer than what is gained.

        Args:
            raw: `[num_outputs, ...]`.
            y: `[D, ...]`, promoted to the dtype of `raw`.

        Returns:
            `[...]`, the broadcast batch shape; finite for all finite inputs.

        Raises:
            ValueError: The first axes do not fit the head, or the batch shapes do not broadcast.

        Example:
            >>> import jax.numpy as jnp
            >>> import mdnjax as mdn
            >>> head = mdn.GaussianHead(num_components=3, dim=2)
            >>> print(head.nll_columns(jnp.zeros((12, 2)), jnp.zeros((2, 2))))  # log 2 pi
            [1.8379 1.8379]
        """
        raw = as_float(raw)
        require_outputs("GaussianHead.nll_columns", raw, self, columns=True)
        raw, y, batch = columns_with("GaussianHead.nll_columns", raw, y, self.dim)
        return -log_likelihood(self._parameters(raw, columns=True), y).reshape(batch)

    def sample(self, key: Key, raw: Float[ArrayLike, "*batch P"]) -> Float[Array, "*batch D"]:
        """A sample of each mixture, `sample(key, head.mixture(raw))`.

        Args:
            key: A random key.
            raw: `[..., num_outputs]`.

        Returns:
            `[..., D]`.

        Raises:
            ValueError: The last axis is not `num_outputs`.
        """
        return sample(key, self.mixture(raw))

    def _parameters(self, raw: Array, *, columns: bool = False) -> Parameters:
        # One split into all blocks: its transpose writes the gradient once, where it belongs.
        heights = block_heights(self.covariance, self.dim, columns=columns)
        split = self._split_columns if columns else self._split
        logits, *rest = split(raw, (1, *itertools.chain(*heights)))
        parts = iter(rest)
        scales, centres, entries = (tuple(itertools.islice(parts, len(h))) for h in heights)
        logits = jnp.squeeze(logits, -3 if columns else -2)
        return Parameters(logits, scales, centres, entries, columns)

    def _split(self, raw: Array, heights: Sequence[int]) -> Sequence[Array]:
        rows = raw.reshape(*raw.shape[:-1], sum(self._rows), self.num_components)
        return jax.lax.split(rows, heights, axis=rows.ndim - 2)

    def _split_columns(self, raw: Array, heights: Sequence[int]) -> Sequence[Array]:
        return jax.lax.split(raw.reshape(sum(self._rows), self.num_components, -1), heights)


@dataclasses.dataclass(frozen=True)
class BernoulliHead:
    """A yes or no from one raw output, the log-odds.

    Example:
        >>> import jax.numpy as jnp
        >>> import mdnjax as mdn
        >>> print(mdn.BernoulliHead().nll(jnp.zeros((1,)), 1.0))  # log 2
        0.6931472
    """

    @property
    def num_outputs(self) -> int:
        """One."""
        return 1

    def probability(self, raw: Float[ArrayLike, "*batch 1"]) -> Float[Array, "*batch"]:
        """p(y = 1) = sigmoid(raw).

        Args:
            raw: `[..., 1]`, log-odds.

        Returns:
            `[...]`, from 0 to 1.

        Raises:
            ValueError: The last axis of `raw` is not 1.
        """
        raw = as_float(raw)
        require_outputs("BernoulliHead.probability", raw, self)
        return jax.nn.sigmoid(raw[..., 0])

    def nll(
        self, raw: Float[ArrayLike, "*#batch 1"], y: Shaped[ArrayLike, "*#batch"]
    ) -> Float[Array, "*batch"]:
        """-y log p - (1 - y) log(1 - p) with p = sigmoid(raw), in nats.

        Its derivative with respect to the log-odds is p - y.

        Args:
            raw: `[..., 1]`, log-odds.
            y: `[...]`, 0, 1, or a probability between.

        Returns:
            `[...]`, the broadcast batch shape.

        Raises:
            ValueError: The last axis of `raw` is not 1, or the batch shapes do not broadcast.
        """
        raw = as_float(raw)
        require_outputs("BernoulliHead.nll", raw, self)
        y = jnp.asarray(y)[..., None]
        raw, y = broadcast_with("BernoulliHead.nll", "raw", raw, raw.shape[:-1], y, 1)
        return bernoulli_nll(raw[..., 0], y[..., 0])

    def nll_columns(
        self, raw: Float[ArrayLike, "1 *#batch"], y: Shaped[ArrayLike, "*#batch"]
    ) -> Float[Array, "*batch"]:
        """`nll`, of raw outputs with the batch behind.

        Args:
            raw: `[1, ...]`.
            y: `[...]`, as in `nll`.

        Returns:
            `[...]`, the broadcast batch shape.

        Raises:
            ValueError: The first axis of `raw` is not 1, or the batch shapes do not broadcast.
        """
        raw = as_float(raw)
        require_outputs("BernoulliHead.nll_columns", raw, self, columns=True)
        return self.nll(raw[0][..., None], y)

    def sample(self, key: Key, raw: Float[ArrayLike, "*batch 1"]) -> Float[Array, "*batch"]:
        """A yes or a no drawn for each.

        Args:
            key: A random key.
            raw: `[..., 1]`, log-odds.

        Returns:
            `[...]`, 0 or 1.

        Raises:
            ValueError: The last axis of `raw` is not 1.
        """
        raw = as_float(raw)
        require_outputs("BernoulliHead.sample", raw, self)
        return (jax.random.logistic(key, raw.shape[:-1], raw.dtype) < raw[..., 0]).astype(raw.dtype)


@dataclasses.dataclass(frozen=True, init=False)
class ProductHead:
    """Independent parts side by side: the raw vector is split among them, their nlls added.

    Attributes:
        parts: (name, head) pairs in the order of their raw outputs.

    Example:
        >>> import mdnjax as mdn
        >>> offset = mdn.GaussianHead(num_components=20, dim=2, covariance="full")
        >>> head = mdn.ProductHead(offset=offset, pen_up=mdn.BernoulliHead())
        >>> head.num_outputs
        121
        >>> head["pen_up"]
        BernoulliHead()
    """

    parts: tuple[tuple[str, Head], ...]

    def __init__(self, **parts: Head) -> None:
        require(len(parts) > 0, "ProductHead", "parts", "none", "at least one head by keyword")
        for name, part in parts.items():
            require(isinstance(part, Head), "ProductHead", name, repr(part), "a head")
        object.__setattr__(self, "parts", tuple(parts.items()))

    def __getitem__(self, name: str) -> Head:
        return dict(self.parts)[name]

    @property
    def num_outputs(self) -> int:
        """The sum of the parts'."""
        return sum(part.num_outputs for _, part in self.parts)

    def split(self, raw: Float[ArrayLike, "*batch P"]) -> dict[str, Array]:
        """Each part's raw outputs, by name: `[..., part.num_outputs]`.

        Args:
            raw: `[..., num_outputs]`.

        Raises:
            ValueError: The last axis is not `num_outputs`.
        """
        raw = as_float(raw)
        require_outputs("ProductHead.split", raw, self)
        return self._split(raw, raw.ndim - 1)

    def nll(self, raw: Float[ArrayLike, "*batch P"], y: Mapping[str, Any]) -> Array:
        """The sum of the parts' nlls, in nats.

        Each of n parts saturates at 1/2n of the largest number, so that the sum is finite where
        the parts are.

        Args:
            raw: `[..., num_outputs]`.
            y: A target for each part, by name.

        Returns:
            `[...]`, the broadcast batch shape.

        Raises:
            ValueError: The last axis of `raw` is not `num_outputs`, the names of `y` are not the
                parts', or a part refuses its target.
        """
        self._require_names("ProductHead.nll", y)
        pieces = self.split(raw)
        return _sum([part.nll(pieces[name], y[name]) for name, part in self.parts])

    def nll_columns(self, raw: Float[ArrayLike, "P *#batch"], y: Mapping[str, Any]) -> Array:
        """`nll`, of raw outputs with the batch behind, and of targets as the parts then take them.

        Args:
            raw: `[num_outputs, ...]`.
            y: A target for each part, by name.

        Returns:
            `[...]`, the broadcast batch shape.

        Raises:
            ValueError: As for `nll`, or a part takes no columns.
        """
        function = "ProductHead.nll_columns"
        raw = as_float(raw)
        require_outputs(function, raw, self, columns=True)
        self._require_names(function, y)
        pieces = self._split(raw, 0)
        nats = []
        for name, part in self.parts:
            is_able = isinstance(part, ColumnsHead)
            require(is_able, function, name, repr(part), "a head with nll_columns")
            if is_able:
                nats.append(part.nll_columns(pieces[name], y[name]))
        return _sum(nats)

    def _split(self, raw: Array, axis: int) -> dict[str, Array]:
        sizes = [part.num_outputs for _, part in self.parts]
        pieces = jax.lax.split(raw, sizes, axis=axis)
        return {name: piece for (name, _), piece in zip(self.parts, pieces, strict=True)}

    def _require_names(self, function: str, y: Any) -> None:
        names = {name for name, _ in self.parts}
        require(
            isinstance(y, Mapping) and set(y) == names,
            function,
            "y",
            f"keys {sorted(y)}" if isinstance(y, Mapping) else type(y).__name__,
            f"a mapping with the keys {sorted(names)}",
        )


def _sum(nats: Sequence[Array]) -> Array:
    """The terms, saturated and broadcast, added up."""
    nats = [_saturate(terms, len(nats)) for terms in nats]
    batch = jnp.broadcast_shapes(*(terms.shape for terms in nats))
    first, *others = (jnp.broadcast_to(terms, batch) for terms in nats)
    return sum(others, start=first)


def _saturate(nats: Array, num_terms: int) -> Array:
    """`nats`, kept where a sum of so many of them is finite; straight-through, inf stays inf."""
    limit = largest_float(nats.dtype, terms=2 * num_terms)
    excess = jnp.where(jnp.isfinite(nats), nats - clip(nats, limit), 0)
    return nats - jax.lax.stop_gradient(excess)
