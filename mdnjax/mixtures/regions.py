r"""Highest-density regions: the smallest sets that hold a given probability.

The region of a level is {y: p(y) >= c}, c chosen such that it holds that probability (Hyndman
1996). For D = 1 it is a union of intervals, found by a ladder of roots, each rung of which parts
the line into stretches on which the next is monotone:

    roots of p''        between them p' is monotone,
    roots of p'         between them p is monotone: modes and antimodes,
    roots of p - c      the ends of the intervals,
    root of the probability inside, as a function of log c, which is monotone.

Where |z_k| >= 1 for all k, p'' > 0, so all of its roots lie within one sigma of some mean. They are
sought between neighbours of a grid, to which each component gives points out to eight sigma; a pair
of roots between two neighbours is missed, and with it no more than a ripple of p.

On the line a mixture of K normals, of whatever scales, has at most K modes: started as a point mass
at the time of the widest one, p is a solution of the heat equation to which K - 1 further point
masses are added; each adds at most one mode, and diffusion adds none. So K intervals always do.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import ndtri
from jaxtyping import Bool, Float, Real

from mdnjax._checks import require
from mdnjax._saturation import largest_float
from mdnjax._types import Array, ArrayLike, Key
from mdnjax.mixtures._normal import standard_normal
from mdnjax.mixtures._root import find_root, midpoint
from mdnjax.mixtures.gaussian import GaussianMixture
from mdnjax.mixtures.gradients import Parameters, log_likelihood, log_softmax, posterior
from mdnjax.mixtures.likelihood import log_prob
from mdnjax.mixtures.quantiles import standardized, with_levels
from mdnjax.mixtures.sampling import sample


class Region(NamedTuple):
    """The highest-density regions of a batch of mixtures: sets of at most K intervals.

    Attributes:
        low: `[..., K]`, where the intervals begin, ascending. Padded with the last interval.
        high: `[..., K]`, where they end.
        is_interval: `[..., K]`, whether there is one.
        log_density: `[...]`, the log-density at their ends, nats.
        converged: `[...]`, whether the intervals hold the probability asked for, to within
            sqrt(eps) (1 - level).
    """

    low: Float[Array, "*batch K"]
    high: Float[Array, "*batch K"]
    is_interval: Bool[Array, "*batch K"]
    log_density: Float[Array, "*batch"]
    converged: Bool[Array, "*batch"]


class Level(NamedTuple):
    """A log-density found by sampling, nats, and its standard error."""

    log_density: Float[Array, "*batch"]
    standard_error: Float[Array, "*batch"]


def highest_density_region(
    mix: GaussianMixture, level: Real[ArrayLike, "*#batch"] | list[Any]
) -> Region:
    r"""The smallest set that holds the probability `level`: {y: p(y) >= c}, of mixtures with D = 1.

    The derivatives are those of the implicit function theorem. With g = d log p / dy at the ends
    y_i, l_i = d log p(y_i) at fixed y_i and m the change of the probability inside fixed ends,

        d log c = (sum_i l_i / |g_i| + (m - d level) / c) / sum_i 1 / |g_i|,
        d y_i   = (d log c - l_i) / g_i.

    Args:
        mix: The mixtures, of batch shape `...`, D = 1.
        level: `[...]` or a number in (0, 1). Outside, everything is NaN and no interval is one.

    Returns:
        `Region(low, high, is_interval, log_density, converged)`, over the broadcast batch shape,
        in the units of y.

    Raises:
        ValueError: D is not 1, or the batches do not broadcast.

    Example:
        >>> import mdnjax as mdn
        >>> mix = mdn.GaussianMixture.isotropic([[-1.0], [1.0]], [0.1, 0.5], weights=[0.3, 0.7])
        >>> region = mdn.highest_density_region(mix, 0.9)
        >>> print(*region.low, *region.high)
        -1.198 0.228 -0.802 1.772

    References:
        R. J. Hyndman. "Computing and Graphing Highest Density Regions." The American Statistician
        50, 1996.
        C. Améndola, A. Engström and C. Haase. "Maximum number of modes of Gaussian mixtures."
        Information and Inference 9, 2020.
    """
    values, level = with_levels("highest_density_region", "level", mix, level)
    low, high, log_density, is_interval, converged = _region(values, level)
    return Region(low, high, is_interval, log_density, converged)


def highest_density_level(
    key: Key, mix: GaussianMixture, level: float, *, num_samples: int = 10_000
) -> Level:
    r"""The log-density c with P(log p(y) >= c) = level, for any D, by sampling.

    The region {y: log p(y) >= c} is the smallest that holds the probability `level`. c is the
    (1 - level) quantile of log p at samples; its standard error is half the distance between the
    order statistics one standard deviation, sqrt(n level (1 - level)), below and above. Neither has
    a derivative.

    Args:
        key: A random key.
        mix: The mixtures, of batch shape `...`.
        level: The probability inside, in (0, 1).
        num_samples: n, from each mixture.

    Returns:
        `Level(log_density, standard_error)`, each `[...]`, nats.

    Raises:
        ValueError: `level` is not in (0, 1), or so near its ends that `num_samples` cannot tell.

    Example:
        >>> import jax
        >>> import mdnjax as mdn
        >>> mix = mdn.GaussianMixture.isotropic([[0.0, 0.0]], [1.0])
        >>> found = mdn.highest_density_level(jax.random.key(0), mix, 0.5)
        >>> exact = -1.837877 - 0.693147  # -log 2 pi + log(1 - level)
        >>> bool(abs(found.log_density - exact) < 4 * found.standard_error)
        True

    References:
        R. J. Hyndman. "Computing and Graphing Highest Density Regions." The American Statistician
        50, 1996, section 3.1.
    """
    where = "highest_density_level"
    require(0 < level < 1, where, "level", level, "in (0, 1)")
    spread = (num_samples * level * (1 - level)) ** 0.5
    ranks = num_samples * (1 - level) - 0.5 + spread * np.array([-1, 0, 1])
    require(
        bool(ranks[0] >= 0 and ranks[2] <= num_samples - 1),
        where,
        "num_samples",
        num_samples,
        f"large enough for level {level}",
    )
    y = jax.lax.stop_gradient(sample(key, mix, (num_samples,)))
    density = jnp.sort(jax.lax.stop_gradient(log_prob(mix, y)), axis=0)
    low, middle, high = density[np.round(ranks).astype(int)]
    return Level(middle, 0.5 * (high - low))


@jax.custom_jvp
@jax.jit  # called outside of `jit`, a loop would be compiled anew each time
def _region(values: Parameters, level: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Low and high `[..., K]`, log c `[...]`, is_interval, converged."""
    eps = float(jnp.finfo(level.dtype).eps)
    is_level = (level > 0) & (level < 1)
    inside = jnp.where(is_level, level, 0.5)
    goal = jnp.minimum(inside, 1 - inside)
    points, is_point = _stationary_points(values)
    heights = jnp.where(is_point, _log_prob(values, points), -jnp.inf)

    # Between these two each component has as much as wanted, and so has {p >= the least p there}.
    reach = (-ndtri(0.5 * (1 - inside)) + 1e-3)[..., None] * jnp.exp(values.log_scale[0][..., 0, :])
    loc = values.loc[0][..., 0, :]
    hull = jnp.stack([jnp.min(loc - reach, axis=-1), jnp.max(loc + reach, axis=-1)], axis=-1)
    lowest = jnp.concatenate(
        [_log_prob(values, hull), jnp.where(is_point, heights, jnp.inf)], axis=-1
    )
    bottom, top = jnp.min(lowest, axis=-1) - 1e-3, jnp.max(heights, axis=-1)

    def missing(low: Array, high: Array) -> Array:
        """How much too much is outside, by the smaller part."""
        kept, lost = _inside_and_outside(values, low, high)
        return jnp.where(inside < 0.5, inside - kept, lost - (1 - inside))

    def excess(log_density: Array) -> tuple[Array, Array]:
        """The same, relative to that part, and its slope in log c."""
        low, high = _ends(values, points, heights, log_density)
        widening = jnp.sum(_per_slope(values, low) + _per_slope(values, high), axis=-1)
        return missing(low, high) / goal, jnp.exp(log_density) * widening / goal

    start = top + jnp.maximum(-0.5 * ndtri(0.5 * (1 - inside)) ** 2, bottom - top)
    log_density = find_root(excess, bottom, top, start, tolerance=8 * eps)
    low, high = _ends(values, points, heights, log_density)
    is_interval = low < jnp.inf
    converged = is_level & (jnp.abs(missing(low, high)) <= eps**0.5 * (1 - inside))

    # NaN leaves no trace in comparisons.
    numbers = values.logits + loc + values.log_scale[0][..., 0, :]
    lost = ~is_level | jnp.any(jnp.isnan(numbers), axis=-1)
    is_interval &= ~lost[..., None]
    last = jnp.maximum(jnp.sum(is_interval, axis=-1, keepdims=True) - 1, 0)
    place = jnp.minimum(lax.broadcasted_iota(last.dtype, low.shape, low.ndim - 1), last)
    low, high = (jnp.take_along_axis(x, place, axis=-1) for x in (low, high))
    low, high = (jnp.where(lost[..., None], jnp.nan, x) for x in (low, high))
    return low, high, jnp.where(lost, jnp.nan, log_density), is_interval, converged


@_region.defjvp
def _region_jvp(primals, tangents) -> Any:
    (values, level), (dots, level_dot) = primals, tangents
    low, high, log_density, is_interval, converged = _region(values, level)
    ends = jnp.concatenate([low, high], axis=-1)
    is_end = jnp.concatenate([is_interval, is_interval], axis=-1)

    # l_i, and the change of the probability between fixed ends, by the smaller of the two parts.
    _, ell = jax.jvp(lambda v: _log_prob(v, ends), (values,), (dots,))
    closed = (jnp.where(is_interval, x, jnp.inf) for x in (low, high))
    _, (kept_dot, lost_dot) = jax.jvp(
        lambda v, low, high: _inside_and_outside(v, low, high),
        (values, *(lax.stop_gradient(x) for x in closed)),
        (dots, jnp.zeros_like(low), jnp.zeros_like(high)),
    )
    kept_dot = jnp.where(level < 0.5, kept_dot, -lost_dot)

    per_slope = jnp.where(is_end, _per_slope(values, ends), 0)
    total = jnp.sum(per_slope, axis=-1)
    largest = jnp.max(per_slope, axis=-1, keepdims=True)
    share = per_slope / largest
    share = share / jnp.sum(share, axis=-1, keepdims=True)
    limit = math.log(largest_float(level.dtype, terms=8))
    per_mass = jnp.exp(jnp.minimum(-log_density - jnp.log(total), limit))
    density_dot = jnp.sum(jnp.where(is_end, share * ell, 0), axis=-1)
    density_dot = density_dot + (kept_dot - level_dot) * per_mass
    rising = jnp.concatenate([jnp.ones_like(low), -jnp.ones_like(high)], axis=-1)
    ends_dot = rising * _per_slope(values, ends) * (density_dot[..., None] - ell)
    low_dot, high_dot = jnp.split(ends_dot, 2, axis=-1)
    flags = (np.zeros(x.shape, jax.dtypes.float0) for x in (is_interval, converged))
    return (low, high, log_density, is_interval, converged), (
        low_dot,
        high_dot,
        density_dot,
        *flags,
    )


# Fine where the component is concave; then to where nothing higher than e^32 is left of its foot.
_GRID = np.concatenate([np.arange(0, 1, 1 / 8), np.arange(1, 3, 1 / 4), np.arange(3, 8.5, 1 / 2)])
_GRID = np.unique([-_GRID, _GRID])


def _stationary_points(values: Parameters) -> tuple[Array, Array]:
    """Modes at even places and antimodes between them, `[..., 2K - 1]`, and whether one is there.

    They alternate, because p' is positive at the left end, negative at the right one.
    """
    loc, log_scale = values.loc[0][..., 0, :], values.log_scale[0][..., 0, :]
    num_components = loc.shape[-1]
    scale = jnp.exp(log_scale)
    grid = loc[..., None] + scale[..., None] * _like(_GRID, loc)
    grid = jnp.sort(grid.reshape(*loc.shape[:-1], -1), axis=-1)
    ends = (jnp.min(loc - scale, -1, keepdims=True), jnp.max(loc + scale, -1, keepdims=True))

    def curvature(y: Array) -> tuple[Array, Array]:
        shape = _shape(values, y)
        return shape.curvature / shape.curvature_size, jnp.full_like(y, jnp.nan)

    def slope(y: Array) -> tuple[Array, Array]:
        shape = _shape(values, y)
        return shape.slope, (shape.curvature - shape.slope**2) / shape.unit

    # Where p' turns is wanted only well enough to part its monotone stretches.
    turns, is_turn = _roots(curvature, grid, 4 * num_components, tolerance=1e-3)
    turns = jnp.where(is_turn, turns, ends[1])
    breaks = jnp.concatenate([ends[0], jnp.sort(turns, axis=-1), ends[1]], axis=-1)
    return _roots(slope, breaks, 2 * num_components - 1, tolerance=float(jnp.finfo(loc.dtype).eps))


def _roots(function, grid: Array, capacity: int, *, tolerance: float) -> tuple[Array, Array]:
    """One root between neighbours of the grid wherever the sign changes, `[..., capacity]`."""
    is_positive = function(grid)[0] >= 0
    is_change = is_positive[..., :-1] != is_positive[..., 1:]
    # The cells with a change first, in order.
    place = jnp.argsort(~is_change, axis=-1, stable=True)[..., :capacity]
    is_root = jnp.take_along_axis(is_change, place, axis=-1)
    falls = jnp.take_along_axis(is_positive, place, axis=-1)
    lower = jnp.take_along_axis(grid, place, axis=-1)
    upper = jnp.take_along_axis(grid, place + 1, axis=-1)
    sign = jnp.where(falls, -1, 1).astype(grid.dtype)

    def increasing(y: Array) -> tuple[Array, Array]:
        value, slope = function(y)
        return sign * value, sign * slope

    middle = midpoint(lower, upper)
    return find_root(increasing, lower, upper, middle, tolerance=tolerance, active=is_root), is_root


class _Shape(NamedTuple):
    """With gamma_k = pi_k N_k / p, in units of the least sigma, so that nothing overflows."""

    slope: Array  # p' / p = -sum_k gamma_k z_k / sigma_k
    curvature: Array  # p'' / p = sum_k gamma_k (z_k^2 - 1) / sigma_k^2
    curvature_size: Array  # the sum of the terms' sizes
    unit: Array


def _shape(values: Parameters, y: Array) -> _Shape:
    """How log p bends at y `[..., M]`."""
    spread = _spread(values, y.shape[-1])
    at = posterior(spread, y[..., None])
    gamma, z = at.responsibilities, at.z[0][..., 0, :]
    log_scale = spread.log_scale[0][..., 0, :]
    log_unit = jnp.min(log_scale, axis=-1, keepdims=True)
    ratio = jnp.exp(log_unit - log_scale)
    return _Shape(
        -jnp.sum(gamma * z * ratio, axis=-1),
        jnp.sum(gamma * (z * z - 1) * ratio**2, axis=-1),
        jnp.sum(gamma * (z * z + 1) * ratio**2, axis=-1) + float(jnp.finfo(y.dtype).tiny),
        jnp.exp(log_unit[..., 0]),
    )


def _ends(values: Parameters, points: Array, heights: Array, log_c: Array) -> tuple[Array, Array]:
    """Where p rises through c, and where it falls, `[..., K]`, ascending; inf for none."""
    loc, log_scale = values.loc[0][..., 0, :], values.log_scale[0][..., 0, :]
    # p <= max_k N_k, so that p = c is no farther out than N_k = c.
    height = -log_scale - 0.5 * math.log(2 * math.pi) - log_c[..., None]
    reach = jnp.exp(log_scale) * (1.001 * jnp.sqrt(2 * jnp.maximum(height, 0)) + 1e-3)
    first = jnp.min(loc - reach, axis=-1, keepdims=True)
    last = jnp.max(loc + reach, axis=-1, keepdims=True)

    modes, peaks = points[..., ::2], heights[..., ::2]
    valleys, depths = points[..., 1::2], heights[..., 1::2]
    nothing = jnp.full_like(first, -jnp.inf)
    is_valley = depths > -jnp.inf
    left = jnp.concatenate([first, valleys], axis=-1)
    right = jnp.concatenate([jnp.where(is_valley, valleys, last), last], axis=-1)
    level = log_c[..., None]
    has_left = (peaks >= level) & (jnp.concatenate([nothing, depths], axis=-1) <= level)
    has_right = (peaks >= level) & (jnp.concatenate([depths, nothing], axis=-1) <= level)

    sign = jnp.concatenate([jnp.ones_like(left), -jnp.ones_like(right)], axis=-1)
    lower = jnp.concatenate([jnp.minimum(left, modes), modes], axis=-1)
    upper = jnp.concatenate([modes, jnp.maximum(right, modes)], axis=-1)
    is_end = jnp.concatenate([has_left, has_right], axis=-1)

    def rise(y: Array) -> tuple[Array, Array]:
        shape = _shape(values, y)
        scale = 1 + jnp.abs(level)
        value = (_log_prob(values, y) - level) / scale
        return sign * value, sign * shape.slope / (shape.unit * scale)

    eps = float(jnp.finfo(loc.dtype).eps)
    start = midpoint(lower, upper)
    found = find_root(rise, lower, upper, start, tolerance=2 * eps, active=is_end)
    low, high = jnp.split(jnp.where(is_end, found, jnp.inf), 2, axis=-1)
    return jnp.sort(low, axis=-1), jnp.sort(high, axis=-1)


def _inside_and_outside(values: Parameters, low: Array, high: Array) -> tuple[Array, Array]:
    """The probability within intervals, ascending and padded with inf, and that of the gaps."""
    infinite = jnp.full_like(low[..., :1], jnp.inf)
    before = jnp.concatenate([-infinite, high], axis=-1)
    after = jnp.concatenate([low, infinite], axis=-1)
    return _mass(values, low, high), _mass(values, before, after)


def _mass(values: Parameters, a: Array, b: Array) -> Array:
    """The probability of all [a, b] `[..., M]` together, component by component, tail by tail."""
    spread = _spread(values, a.shape[-1])

    def standard(x: Array) -> Array:
        # Infinity would turn derivatives that are zero into NaN; at 40 nothing is left of a tail.
        is_finite = jnp.isfinite(x)
        z, _ = standardized(spread, jnp.where(is_finite, x, 0))
        return jnp.where(is_finite[..., None], z, jnp.where(x > 0, 40, -40)[..., None])

    z_a, z_b = standard(a), standard(b)
    at_a, at_b = standard_normal(z_a), standard_normal(z_b)
    of_component = jnp.where(z_a > 0, at_a.upper - at_b.upper, at_b.lower - at_a.lower)
    weights = jnp.exp(log_softmax(values.logits))
    return jnp.sum(weights * jnp.sum(of_component, axis=-2), axis=-1)


def _per_slope(values: Parameters, y: Array) -> Array:
    """1 / |d log p / dy| at y `[..., M]`, saturated; 0 at infinity."""
    is_finite = jnp.isfinite(y)
    shape = _shape(values, jnp.where(is_finite, y, 0))
    least = float(jnp.finfo(y.dtype).eps) ** 2
    return jnp.where(is_finite, shape.unit / jnp.maximum(jnp.abs(shape.slope), least), 0)


def _log_prob(values: Parameters, y: Array) -> Array:
    """Log p at y `[..., M]`."""
    return log_likelihood(_spread(values, y.shape[-1]), y[..., None])


def _spread(values: Parameters, count: int) -> Parameters:
    """Each mixture `count` times, on a new last axis of the batch."""
    rank = values.logits.ndim - 1

    def repeated(x: Array) -> Array:
        return jnp.broadcast_to(jnp.expand_dims(x, rank), (*x.shape[:rank], count, *x.shape[rank:]))

    return jax.tree.map(repeated, values)


def _like(x: np.ndarray, pattern: Array) -> Array:
    """Numbers on a new last axis."""
    return jnp.asarray(x, pattern.dtype).reshape((1,) * pattern.ndim + (-1,))
