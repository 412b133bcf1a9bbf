"""The search for modes: where to start, how to climb, and what counts as a peak.

Everything here stands with the mixtures, N of them, on the last axis and the starts, S for each,
before it; so each operation runs over long rows.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mdnjax._types import Array
from mdnjax.mixtures import _positive as positive
from mdnjax.mixtures.gaussian import GaussianMixture

_FIXED_POINT_STEPS = 5
_LONGEST_STEP = 1.0  # in local standard deviations
_PAIRED = 32  # components; of more, the tallest


class Problem(NamedTuple):
    """Mixtures as the search reads them."""

    log_weights: Array  # [K, N]
    log_peak: Array  # [K, N], log density of each component at its mean, but for a constant
    loc: Array  # [D, K, N]
    factor: Array  # [D, D, K, N], U
    precision: Array  # [D, D, K, N], U^T U


class Found(NamedTuple):
    """What the search found of one mixture each, the best first."""

    points: Array  # [N, M, D]
    is_mode: Array  # [N, M]
    converged: Array  # [N]
    truncated: Array  # [N]


class Surface(NamedTuple):
    """The density's shape at points `[D, S, N]`; see the docstring of `modes`."""

    log_density: Array  # [S, N], but for a constant
    gradient: Array  # [D, S, N], g
    metric: Array  # [D, D, S, N], M
    spread: Array  # [D, D, S, N], C


class Steps(NamedTuple):
    """Where to go from there."""

    fixed_point: Array  # [D, S, N], M^-1 g
    free: Array  # [D, S, N], the step that may go down
    is_newton: Array  # [S, N], where it is Newton's
    slope: Array  # [S, N], |M^-1/2 g|


def find_modes(
    mix: GaussianMixture, *, max_modes: int, max_starts: int, max_iterations: int
) -> Found:
    """Climbs from every start and keeps the peaks.

    Args:
        mix: One batch axis, N; in units in which no precision overflows.
        max_modes: M.
        max_starts: At most so many starts for each.
        max_iterations: At most so many steps from each start.
    """
    problem = describe(mix)
    points, converged = climb(problem, starts(problem, max_starts), max_iterations)
    return jax.tree.map(jnp.transpose, distinct(problem, points, converged, max_modes))


def describe(mix: GaussianMixture) -> Problem:
    """The mixtures, batch last."""
    factor = mix.precision_factors
    log_det = jnp.sum(jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1)), axis=-1)
    factor = jnp.moveaxis(factor, (0, 1), (-1, -2))
    precision = jnp.sum(factor[:, :, None] * factor[:, None], axis=0)
    return Problem(
        mix.log_weights.T,
        (mix.log_weights + log_det).T,
        jnp.moveaxis(mix.loc, (0, 1), (-1, -2)),
        factor,
        precision,
    )


def num_starts(num_components: int, max_starts: int) -> int:
    """S: of all means, the mixture's mean and all pairs, at most so many."""
    paired = min(num_components, _PAIRED)
    return min(num_components + 1 + math.comb(paired, 2), max_starts)


def starts(problem: Problem, max_starts: int) -> Array:
    """Means, the mixture's mean, and between components, `[D, S, N]`."""
    k = problem.loc.shape[1]
    means = _tallest(problem, max_starts).loc
    centre = jnp.sum(jnp.exp(problem.log_weights)[None] * problem.loc, axis=1, keepdims=True)
    between = _between(_tallest(problem, _PAIRED), max(max_starts - k - 1, 0))
    return jnp.concatenate([means, centre, between], axis=1)[:, :max_starts]


def _tallest(problem: Problem, num: int) -> Problem:
    """The components whose own peaks are highest."""
    if num >= problem.loc.shape[1]:
        return problem
    _, index = lax.top_k(problem.log_peak.T, num)
    return jax.tree.map(lambda x: _taken(x, index.T), problem)


def _taken(x: Array, index: Array) -> Array:
    """`[..., K, N]` at `[M, N]`."""
    index = lax.expand_dims(index, range(x.ndim - 2))
    return jnp.take_along_axis(x, index, axis=-2)


def _between(problem: Problem, num: int) -> Array:
    """Where N_i N_j is largest, of the pairs of which the product is largest there."""
    i, j = np.triu_indices(problem.loc.shape[1], 1)
    one, other = (Problem(*(x[..., index, :] for x in problem)) for index in (i, j))
    apart = other.loc - one.loc
    lower = positive.cholesky(one.precision + other.precision)
    points = one.loc + positive.solve_factored(lower, _times(other.precision, apart))
    if num >= len(i):
        return points
    height = _log_normal(one, points) + _log_normal(other, points)
    _, index = lax.top_k(height.T, num)
    return _taken(points, index.T)


def _log_normal(components: Problem, points: Array) -> Array:
    z = _times(components.factor, points - components.loc)
    return components.log_peak - 0.5 * jnp.sum(z * z, axis=0)


def climb(problem: Problem, start: Array, max_iterations: int) -> tuple[Array, Array]:
    """From each start to a stationary point, never down.

    Args:
        problem: The mixtures.
        start: `[D, S, N]`.
        max_iterations: At most so many steps.

    Returns:
        The points `[D, S, N]`, and whether each is stationary, `[S, N]`.
    """

    def step(carry):
        count, x, retreat, floor, pace, arrived = carry
        surface = survey(problem, x)
        rises = surface.log_density >= floor - _rounding(floor)
        floor = jnp.where(rises, surface.log_density, floor)
        steps = ways(surface, pace)
        stationary = rises & (steps.slope <= tolerance(surface, x))
        free = stationary | (count >= _FIXED_POINT_STEPS)
        onward = x + jnp.where(free[None], steps.free, steps.fixed_point)
        # Where a step went down, the fixed-point step from the place before does not.
        following = jnp.where(rises[None], onward, retreat)
        retreat = jnp.where(rises[None], x + steps.fixed_point, retreat)
        pace = jnp.where(rises & free & ~steps.is_newton, 2 * pace, 1)
        x = jnp.where(arrived[None], x, following)
        return count + 1, x, retreat, floor, pace, arrived | stationary

    def goes_on(carry):
        count, *_, arrived = carry
        return (count < max_iterations) & ~jnp.all(arrived)

    floor = jnp.full(start.shape[1:], -jnp.inf, start.dtype)
    arrived = jnp.zeros(start.shape[1:], bool)
    carry = (0, start, start, floor, jnp.ones_like(floor), arrived)
    _, x, *_, arrived = lax.while_loop(goes_on, step, carry)
    return x, arrived


def survey(problem: Problem, x: Array) -> Surface:
    """Density, gradient and Hessian at x `[D, S, N]`."""
    delta = problem.loc[:, :, None] - x[:, None]
    factor, precision = problem.factor[:, :, :, None], problem.precision[:, :, :, None]
    z = _times(factor, delta)
    pull = jnp.sum(factor * z[:, None], axis=0)
    log_joint = problem.log_peak[:, None] - 0.5 * jnp.sum(z * z, axis=0)
    peak = jnp.max(log_joint, axis=0, keepdims=True)
    share = jnp.exp(log_joint - peak)
    total = jnp.sum(share, axis=0)
    gamma = (share / total[None])[None]
    gradient = jnp.sum(gamma * pull, axis=1)
    metric = jnp.sum(gamma[None] * precision, axis=2)
    beside = pull - gradient[:, None]
    spread = jnp.sum(gamma[None] * (beside[:, None] * beside[None]), axis=2)
    return Surface(peak[0] + jnp.log(total), gradient, metric, spread)


def fixed_point_step(surface: Surface) -> tuple[Array, Array]:
    """M^-1 g `[D, S, N]`, and the slope |M^-1/2 g| `[S, N]`."""
    step = positive.solve_factored(positive.cholesky(surface.metric), surface.gradient)
    return step, jnp.sqrt(jnp.maximum(_dot(surface.gradient, step), 0))


def ways(surface: Surface, pace: Array) -> Steps:
    """The fixed-point step; and Newton's, or the fixed-point step times `pace`, cut to length."""
    fixed_point, slope = fixed_point_step(surface)
    lower = positive.cholesky(surface.metric - surface.spread)
    is_newton = positive.exists(lower)
    newton = positive.solve_factored(lower, surface.gradient)
    free = jnp.where(is_newton[None], newton, pace[None] * fixed_point)
    length = jnp.sqrt(jnp.maximum(_dot(free, _times(surface.metric, free)), 0))
    free = free * (_LONGEST_STEP / jnp.maximum(length, _LONGEST_STEP))[None]
    return Steps(fixed_point, free, is_newton, slope)


def tolerance(surface: Surface, x: Array) -> Array:
    """The slope, `[S, N]`, that a stationary point may have: some rounding, in it and in x."""
    eps = float(jnp.finfo(x.dtype).eps)
    reach = jnp.sqrt(jnp.maximum(_dot(x, _times(surface.metric, x)), 0))
    return eps ** (2 / 3) + 4 * eps * reach


def distinct(problem: Problem, x: Array, converged: Array, max_modes: int) -> Found:
    """The peaks among points `[D, S, N]`, each once, the highest first; `Found`, the batch last."""
    eps = float(jnp.finfo(x.dtype).eps)
    surface = survey(problem, x)
    height = surface.log_density
    _, slope = fixed_point_step(surface)
    flattest = positive.cholesky((1 - eps ** (1 / 3)) * surface.metric - surface.spread)
    is_mode = (slope <= 16 * tolerance(surface, x)) & positive.exists(flattest)
    # Of two that are one the higher stays, or the first.
    apart = x[:, :, None] - x[:, None]
    square = jnp.sum(apart[:, None] * apart[None] * surface.metric[:, :, :, None], axis=(0, 1))
    first = np.arange(x.shape[1])
    earlier = jnp.asarray(first[:, None] < first[None, :])[..., None]
    above = (height[:, None] > height[None]) | ((height[:, None] == height[None]) & earlier)
    repeats = jnp.any((square <= eps ** (1 / 3)) & above & is_mode[:, None], axis=0)
    is_mode = is_mode & ~repeats

    num = min(max_modes, x.shape[1])
    rank, index = lax.top_k(jnp.where(is_mode, height, -jnp.inf).T, num)
    is_row = (rank > -jnp.inf).T
    # Where there is no further mode, the first; where there is none, the highest point of all.
    shown = is_mode | ~jnp.any(is_mode, axis=0, keepdims=True)
    best = jnp.argmax(jnp.where(shown, height, -jnp.inf), axis=0)
    index = jnp.where(is_row, index.T, best[None])
    missing = (max_modes - num, best.shape[0])
    index = jnp.concatenate([index, jnp.broadcast_to(best[None], missing)])
    is_row = jnp.concatenate([is_row, jnp.zeros(missing, bool)])
    truncated = jnp.sum(is_mode, axis=0) > max_modes
    return Found(_taken(x, index), is_row, jnp.all(converged, axis=0), truncated)


def _rounding(log_density: Array) -> Array:
    eps = float(jnp.finfo(log_density.dtype).eps)
    return jnp.where(jnp.isfinite(log_density), 8 * eps * (1 + jnp.abs(log_density)), 0)


def _dot(x: Array, y: Array) -> Array:
    return jnp.sum(x * y, axis=0)


def _times(matrix: Array, x: Array) -> Array:
    """`[D, D, ...]` times `[D, ...]`."""
    return jnp.sum(matrix * x[None], axis=1)
