"""Calibration: does what is called 90 per cent likely happen in 90 of 100 cases?

A density is calibrated if targets fall into it as its own samples would. Where one falls is told by
a number in [0, 1] that is then uniform: `pit`, the probability of what is lower, for D = 1, and
`density_pit`, the probability of what is denser, for any D. `coverage` and `density_coverage` count
the targets inside regions of a given content, and `uniformity` tests for the whole at once.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Real, Shaped

from mdnjax._batching import broadcast_with
from mdnjax._checks import require
from mdnjax._types import Array, ArrayLike, Key
from mdnjax.mixtures.gaussian import GaussianMixture
from mdnjax.mixtures.likelihood import log_prob
from mdnjax.mixtures.quantiles import cdf
from mdnjax.mixtures.sampling import sample


class Coverage(NamedTuple):
    """How many targets lie inside regions that should hold a given share of them.

    Attributes:
        level: `[L]`, the share that should.
        share: `[L]`, the share that does; NaN if any target's is.
        standard_error: `[L]`, sqrt(level (1 - level) / N): how far the share of N independent
            targets strays from the level if all is well.
    """

    level: Float[Array, " L"]
    share: Float[Array, " L"]
    standard_error: Float[Array, " L"]


class Uniformity(NamedTuple):
    """A test of the hypothesis that numbers are independent and uniform on [0, 1].

    Attributes:
        statistic: The largest distance between their distribution function and the diagonal.
        p_value: The probability of one at least as large, if they are.
    """

    statistic: Float[Array, ""]
    p_value: Float[Array, ""]


def pit(
    mix: GaussianMixture, y: Shaped[ArrayLike, "*#batch 1"] | list[Any]
) -> Float[Array, "*batch"]:
    r"""The probability integral transform F(y), uniform on [0, 1] if the mixtures are calibrated.

    A histogram shaped like a U says that they are too narrow, a hump too wide, a slope biased.

    Args:
        mix: The mixtures, of batch shape `...`, with D = 1.
        y: `[..., 1]`, promoted to the mixture's dtype.

    Returns:
        `[...]`, the broadcast batch shape, in [0, 1].

    Raises:
        ValueError: D is not 1 (`density_pit` has any D), or the shapes do not fit.

    Example:
        >>> import mdnjax as mdn
        >>> mix = mdn.GaussianMixture.isotropic([[-1.0], [1.0]], [0.1, 0.5], weights=[0.3, 0.7])
        >>> print(mdn.pit(mix, [0.0]))
        0.315925

    References:
        A. P. Dawid. "Statistical Theory: The Prequential Approach." 1984.
    """
    require(mix.dim == 1, "pit", "mix", f"D = {mix.dim}", "of D = 1 (density_pit has any D)")
    return jnp.minimum(cdf(mix, y), 1)


def density_pit(
    key: Key,
    mix: GaussianMixture,
    y: Shaped[ArrayLike, "*#batch D"] | list[Any],
    *,
    num_samples: int = 255,
) -> Float[Array, "*batch"]:
    r"""P(p(Y) >= p(y)) for any D: the content of the highest-density region that just holds y.

    Small where y is near the highest mode, almost 1 far out in the tails. Of samples Y_1 ... Y_N
    it is

        (#{i: p(Y_i) >= p(y)} + u) / (N + 1),      u ~ U(0, 1).

    If y is one more draw from p, its rank among them is uniform, and so this is *exactly* uniform
    whatever N; for one given y its standard deviation is 1 / (2 sqrt(N)) at most.

    Args:
        key: A random key.
        mix: The mixtures, of batch shape `...`.
        y: `[..., D]`, promoted to the mixture's dtype.
        num_samples: N, drawn for each example.

    Returns:
        `[...]`, the broadcast batch shape, in [0, 1].

    Raises:
        ValueError: `num_samples` is below 1, or the shapes do not fit.

    Example:
        >>> import functools
        >>> import jax
        >>> import mdnjax as mdn
        >>> mix = mdn.GaussianMixture.isotropic([[0.0, 0.0]], [1.0])
        >>> y = [[0.0, 0.0], [1.1774, 0.0], [6.0, 0.0]]  # 1 - exp(-r^2 / 2) is 0, 1/2 and 1
        >>> pit = jax.jit(functools.partial(mdn.mixtures.density_pit, num_samples=10_000))
        >>> print(pit(jax.random.key(0), mix, y).round(1))
        [0.  0.5 1. ]

    References:
        R. J. Hyndman. "Computing and Graphing Highest Density Regions." 1996.
    """
    require(num_samples >= 1, "density_pit", "num_samples", num_samples, "at least 1")
    mix, y = broadcast_with("density_pit", "mix", mix, mix.batch_shape, y, mix.dim)
    key_samples, key_rank = jax.random.split(key)
    density = log_prob(mix, y)
    samples = sample(key_samples, mix, (num_samples,))
    denser = log_prob(mix, samples) >= density[None]
    u = jax.random.uniform(key_rank, density.shape, density.dtype)
    content = (jnp.sum(denser, axis=0, dtype=density.dtype) + u) / (num_samples + 1)
    return jnp.where(jnp.isnan(density), jnp.nan, content)


def coverage(
    mix: GaussianMixture,
    y: Shaped[ArrayLike, "*#batch 1"] | list[Any],
    levels: Real[ArrayLike, " L"] | list[Any],
    *,
    mask: Bool[ArrayLike, "*#batch"] | None = None,
) -> Coverage:
    r"""The share of targets inside the central intervals of given levels: |2 F(y) - 1| <= level.

    Args:
        mix: The mixtures, of batch shape `...`, with D = 1.
        y: `[..., 1]`.
        levels: `[L]`, in (0, 1).
        mask: `[...]`, True where a target counts; all by default.

    Returns:
        The `Coverage`, over the whole batch.

    Raises:
        ValueError: D is not 1, a level is not in (0, 1), or the shapes do not fit.

    Example:
        >>> import jax
        >>> import mdnjax as mdn
        >>> mix = mdn.GaussianMixture.isotropic([[-1.0], [1.0]], [0.1, 0.5])
        >>> y = jax.jit(lambda key: mdn.sample(key, mix, (10_000,)))(jax.random.key(0))
        >>> result = jax.jit(lambda y: mdn.coverage(mix, y, [0.5, 0.9]))(y)
        >>> [round(float(share), 1) for share in result.share]
        [0.5, 0.9]
    """
    _check_levels("coverage", levels)
    return _count(jnp.abs(2 * pit(mix, y) - 1), levels, mask)


def density_coverage(
    key: Key,
    mix: GaussianMixture,
    y: Shaped[ArrayLike, "*#batch D"] | list[Any],
    levels: Real[ArrayLike, " L"] | list[Any],
    *,
    num_samples: int = 255,
    mask: Bool[ArrayLike, "*#batch"] | None = None,
) -> Coverage:
    r"""The share of targets inside the highest-density regions of given levels, for any D.

    Args:
        key: A random key.
        mix: The mixtures, of batch shape `...`.
        y: `[..., D]`.
        levels: `[L]`, in (0, 1).
        num_samples: As in `density_pit`, whose numbers it counts.
        mask: `[...]`, True where a target counts; all by default.

    Returns:
        The `Coverage`, over the whole batch.

    Raises:
        ValueError: A level is not in (0, 1), `num_samples` is below 1, or the shapes do not fit.

    Example:
        >>> import jax
        >>> import mdnjax as mdn
        >>> mix = mdn.GaussianMixture.isotropic([[0.0, 0.0], [9.0, 9.0]], [0.1, 0.5])
        >>> @jax.jit
        ... def of_samples(key_y, key):
        ...     y = mdn.sample(key_y, mix, (10_000,))
        ...     return mdn.mixtures.density_coverage(key, mix, y, [0.5, 0.9])
        >>> result = of_samples(jax.random.key(0), jax.random.key(1))
        >>> [round(float(share), 1) for share in result.share]
        [0.5, 0.9]
    """
    _check_levels("density_coverage", levels)
    return _count(density_pit(key, mix, y, num_samples=num_samples), levels, mask)


def uniformity(u: Float[ArrayLike, "*batch"]) -> Uniformity:
    r"""Kolmogorov's and Smirnov's test of a batch of `pit` or `density_pit`.

    D = max_i max(i/N - u_i, u_i - (i-1)/N) over the sorted u, and x = sqrt(N) D has, corrected
    for finite N (Vrbik: x + 1 / (6 sqrt(N)) + (x - 1) / (4 N)), the distribution of Kolmogorov,

        P(X > x) = 2 sum_j (-1)^(j-1) exp(-2 j^2 x^2)
                 = 1 - sqrt(2 pi) / x sum_j exp(-(2j-1)^2 pi^2 / (8 x^2)).

    Args:
        u: `[...]`, numbers in [0, 1], all of them together; they must be independent.

    Returns:
        The `Uniformity`; NaN if any of them is.

    Raises:
        ValueError: There is no number.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import mdnjax as mdn
        >>> u = jnp.linspace(0.0, 0.9, 10)
        >>> print(jax.jit(mdn.mixtures.uniformity)(u).p_value.round(2))
        1.0

    References:
        G. Marsaglia, W. W. Tsang and J. Wang. "Evaluating Kolmogorov's Distribution." 2003.
        J. Vrbik. "Small-Sample Corrections to Kolmogorov-Smirnov Test Statistic." 2018.
    """
    u = jnp.sort(jnp.ravel(jnp.asarray(u)))
    n = u.size
    require(n > 0, "uniformity", "u", "no numbers", "at least one number")
    i = jnp.arange(1, n + 1, dtype=u.dtype)
    statistic = jnp.max(jnp.maximum(i / n - u, u - (i - 1) / n))
    x = math.sqrt(n) * statistic
    x = x + 1 / (6 * math.sqrt(n)) + (x - 1) / (4 * n)
    # Either series is exact after five terms on its own side of 1.
    j = jnp.arange(1, 6, dtype=u.dtype)
    large, small = jnp.maximum(x, 1), jnp.clip(x, 0.1, 1)
    upper = 2 * jnp.sum((-1) ** (j - 1) * jnp.exp(-2 * (j * large) ** 2))
    lower = jnp.sum(jnp.exp(-(((2 * j - 1) * math.pi / small) ** 2) / 8))
    p_value = jnp.where(x > 1, upper, 1 - math.sqrt(2 * math.pi) / small * lower)
    return Uniformity(statistic, jnp.where(jnp.isnan(statistic), jnp.nan, p_value))


def _check_levels(function: str, levels: Any) -> None:
    shape = jnp.asarray(levels).shape
    require(len(shape) == 1, function, "levels", f"shape {shape}", "[L]")
    known = [x for x in levels if isinstance(x, (int, float))]  # NumPy's floats are floats
    require(all(0 < x < 1 for x in known), function, "levels", levels, "numbers between 0 and 1")


def _count(content: Array, levels: Any, mask: Any) -> Coverage:
    """How much of the batch has a content up to each level."""
    level = jnp.asarray(levels, content.dtype)
    counts = jnp.ones(content.shape, bool) if mask is None else jnp.asarray(mask)
    counts = jnp.broadcast_to(counts, content.shape).ravel()
    content = content.ravel()
    total = jnp.sum(counts)
    share = jnp.sum(counts[:, None] & (content[:, None] <= level[None]), axis=0) / total
    lost = jnp.any(counts & jnp.isnan(content))
    share = jnp.where(lost, jnp.nan, share).astype(level.dtype)
    return Coverage(level, share, jnp.sqrt(level * (1 - level) / total))
