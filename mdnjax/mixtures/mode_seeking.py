r"""Every mode of a mixture: where p(y) has a peak.

A mixture of K Gaussians may have fewer modes than components, where they merge, and more, where
elongated ones cross; the highest mode need not be near any mean. So the search starts at the means,
at the mixture's mean and between components that overlap, and climbs from all of them.

With gamma the responsibilities, P_k the precisions and g_k = P_k (mu_k - y),

    grad log p = g = sum_k gamma_k g_k
    hess log p = C - M,    M = sum_k gamma_k P_k,    C = sum_k gamma_k (g_k - g)(g_k - g)^T.

The step M^{-1} g is the fixed-point iteration (mean shift, weighted by precision): it never
descends, and slows down near its goal. The step (M - C)^{-1} g is Newton's. M is also the local
measure of length: sqrt(v^T M v) is v in local standard deviations, and |M^{-1/2} g| is a gradient
without units.

References:
    M. A. Carreira-Perpinan. "Mode-finding for mixtures of Gaussian distributions." IEEE PAMI 22,
        2000.
    S. Ray and B. G. Lindsay. "The topography of multivariate normal mixtures." Annals of
        Statistics 33, 2005.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float

from mdnjax._checks import require
from mdnjax._types import Array
from mdnjax.mixtures import _positive as positive
from mdnjax.mixtures._ascent import Found, find_modes, num_starts
from mdnjax.mixtures.gaussian import GaussianMixture, affine
from mdnjax.mixtures.likelihood import log_prob


class Modes(NamedTuple):
    """The modes of each mixture, highest first, padded to a common number M.

    Attributes:
        points: `[..., M, D]`, in the units of y. Where there is no further mode, the first again.
        log_density: `[..., M]`, log p there in nats; -inf where there is no further mode.
        is_mode: `[..., M]`, whether the row is a certified mode.
        converged: `[...]`, whether the climb from every start ended at a stationary point.
        truncated: `[...]`, whether more than M modes were found.
    """

    points: Float[Array, "*batch M D"]
    log_density: Float[Array, "*batch M"]
    is_mode: Bool[Array, "*batch M"]
    converged: Bool[Array, "*batch"]
    truncated: Bool[Array, "*batch"]


def modes(
    mix: GaussianMixture,
    *,
    max_modes: int | None = None,
    max_starts: int = 64,
    max_iterations: int = 100,
) -> Modes:
    r"""Every mode of each mixture, highest first.

    Starts are the component means (of those whose own peaks are highest, if there are more than
    `max_starts`), the mixture's mean, and between the pairs of components that overlap best (among
    the 32 of highest peaks) the point where pi_i N_i pi_j N_j is largest,
    (P_i + P_j) y = P_i mu_i + P_j mu_j. From each the climb never descends:
    some steps of the fixed-point iteration, then Newton's, no longer than one local standard
    deviation and given up for the fixed-point step where log p would fall. A point is a mode if
    |M^{-1/2} g| is zero up to rounding and the smallest eigenvalue of M^{-1/2} (M - C) M^{-1/2},
    which is 1 for a single Gaussian and 0 where a mode is about to vanish, exceeds eps^(1/3)
    (0.005 in float32). Two modes nearer to each other than eps^(1/6) local standard deviations
    (0.07) count as one.

    Modes are differentiable in the mixture's parameters to any order, by the implicit function
    theorem, d y = (-hess log p)^{-1} d(grad log p); rows that are no mode have derivative zero.

    Args:
        mix: The mixtures, of batch shape `...`.
        max_modes: M; by default 2K, but at most 32.
        max_starts: At most so many starts a mixture.
        max_iterations: At most so many steps from each.

    Returns:
        The `Modes`.

    Raises:
        ValueError: An option is less than 1.

    Example:
        >>> import mdnjax as mdn
        >>> mix = mdn.GaussianMixture.diagonal(
        ...     [[0.0, 0.0], [1.0, 1.0]], [[1.0, 0.05**0.5], [0.05**0.5, 1.0]]
        ... )
        >>> found = mdn.modes(mix)  # two components, three modes
        >>> int(found.is_mode.sum())
        3
        >>> print(found.points[0])  # the highest is far from both means: (20/21, 1/21)
        [0.952381 0.047619]

    References:
        S. Ray and B. G. Lindsay. "The topography of multivariate normal mixtures." 2005.
    """
    k = mix.num_components
    max_modes = min(2 * k, 32) if max_modes is None else max_modes
    limits = {"max_modes": max_modes, "max_starts": max_starts, "max_iterations": max_iterations}
    for name, value in limits.items():
        require(isinstance(value, int) and value >= 1, "modes", name, value, "an int >= 1")

    return _modes(mix, **limits)


def mode(mix: GaussianMixture) -> Float[Array, "*batch D"]:
    """The global mode: where p(y) is largest.

    The first of `modes`, and differentiable like it; where no mode could be certified, the highest
    point that the search came to. `most_probable`, the mean of the heaviest component, is the quick
    answer.

    Args:
        mix: The mixtures, of batch shape `...`.

    Returns:
        `[..., D]`, in the units of y.

    Example:
        >>> import mdnjax as mdn
        >>> mix = mdn.GaussianMixture.isotropic([[-1.0], [1.0]], [0.1, 0.5], weights=[0.3, 0.7])
        >>> print(mdn.mode(mix).round(4))  # the narrow one is higher, the heavy one is not
        [-1.]
    """
    return modes(mix, max_modes=1).points[..., 0, :]


# Compiled here: called outside of `jit`, the loop would be compiled anew each time, and all around
# it line by line.
@functools.partial(
    jax.jit, static_argnames=("max_modes", "max_starts", "max_iterations"), inline=True
)
def _modes(mix: GaussianMixture, **limits: int) -> Modes:
    """`modes`, its arguments seen to."""
    mix = _with_every_weight(mix)
    # In a frame of the mixture's own, lengths and precisions are within the range of the dtype.
    frame = _frame(lax.stop_gradient(mix))
    local = _in_frame(mix, frame)
    found = _search(lax.stop_gradient(local), **limits)
    points = _follow(local, found.points, found.is_mode)
    log_unit = jnp.sum(jnp.log(jnp.broadcast_to(frame.unit, frame.centre.shape)), axis=-1)
    log_density = log_prob(_expanded(local), points) - log_unit[..., None]
    lost = jnp.isnan(log_density)
    points = frame.centre[..., None, :] + frame.unit[..., None, :] * points
    return Modes(
        jnp.where(lost[..., None], jnp.nan, points),
        jnp.where(found.is_mode | lost, log_density, -jnp.inf),
        found.is_mode,
        found.converged,
        found.truncated,
    )


class _Frame(NamedTuple):
    """Coordinates (y - centre) / unit."""

    centre: Array  # [..., D]
    unit: Array  # [..., D], or [..., 1]


def _with_every_weight(mix: GaussianMixture) -> GaussianMixture:
    """Components of no weight as copies of the heaviest: they have no say, and now no extremes."""
    own = lax.expand_dims(jnp.arange(mix.num_components), range(len(mix.batch_shape)))
    heaviest = jnp.argmax(mix.log_weights, axis=-1, keepdims=True)
    index = jnp.where(mix.log_weights > -jnp.inf, own, heaviest)

    def chosen(x: Array) -> Array:
        where = lax.expand_dims(index, range(index.ndim, x.ndim))
        return jnp.take_along_axis(x, where, axis=index.ndim - 1)

    return dataclasses.replace(jax.tree.map(chosen, mix), log_weights=mix.log_weights)


def _frame(mix: GaussianMixture) -> _Frame:
    """The mean of the heaviest component, and the narrowest scale of each coordinate."""
    heaviest = jnp.argmax(mix.log_weights, axis=-1)
    centre = jnp.take_along_axis(mix.loc, heaviest[..., None, None], axis=-2)[..., 0, :]
    if mix.covariance_kind == "isotropic":
        return _Frame(centre, jnp.exp(jnp.min(mix.log_scale, axis=-1, keepdims=True)))
    return _Frame(centre, jnp.exp(jnp.min(mix.log_scale, axis=-2)))


def _in_frame(mix: GaussianMixture, frame: _Frame) -> GaussianMixture:
    # First the difference: of neighbouring numbers it is exact.
    mix = dataclasses.replace(mix, loc=mix.loc - frame.centre[..., None, :])
    return affine(mix, jnp.zeros_like(frame.centre), 1 / frame.unit)


def _expanded(mix: GaussianMixture) -> GaussianMixture:
    """With an axis for the modes at the end of the batch."""
    return mix[..., None]


@jax.custom_jvp
def _follow(mix: GaussianMixture, points: Array, is_mode: Array) -> Array:
    """The points, and how they move with the mixture: implicitly, g(y, theta) = 0."""
    del mix, is_mode
    return points


@_follow.defjvp
def _follow_jvp(primals, tangents):
    mix, points, is_mode = primals
    points = _follow(mix, points, is_mode)  # so that the rule itself has the right derivative

    def log_density(mix: GaussianMixture, y: Array) -> Array:
        return log_prob(_expanded(mix), y)

    def gradient(mix: GaussianMixture, y: Array) -> Array:
        return jax.grad(lambda y: jnp.sum(log_density(mix, y)))(y)

    _, force = jax.jvp(lambda mix: gradient(mix, points), (mix,), (tangents[0],))
    directions = jnp.broadcast_to(
        lax.expand_dims(jnp.eye(mix.dim, dtype=points.dtype), range(1, points.ndim)),
        (mix.dim, *points.shape),
    )
    bend = jax.vmap(lambda v: jax.jvp(lambda y: gradient(mix, y), (points,), (v,))[1])(directions)
    # Rows of padding get a matrix that can be solved.
    curvature = jnp.where(is_mode[..., None], -bend, directions)
    force = jnp.where(is_mode[..., None], force, 0)
    lower = positive.cholesky(jnp.moveaxis(curvature, -1, 0))
    return points, jnp.moveaxis(positive.solve_factored(lower, jnp.moveaxis(force, -1, 0)), 0, -1)


def _search(mix: GaussianMixture, *, max_modes: int, max_starts: int, max_iterations: int) -> Found:
    """`find_modes` of a batch of any shape, by blocks that stay in the cache."""
    find = functools.partial(
        find_modes, max_modes=max_modes, max_starts=max_starts, max_iterations=max_iterations
    )
    batch = mix.batch_shape
    num = math.prod(batch)
    width = num_starts(mix.num_components, max_starts) * mix.num_components * mix.dim
    size = max(min(num, _BLOCK // width), 1)
    num_blocks = math.ceil(num / size)

    def blocks(x: Array) -> Array:
        x = x.reshape(num, *x.shape[len(batch) :])
        x = jnp.concatenate([x, x[: num_blocks * size - num]])
        return x.reshape(num_blocks, size, *x.shape[1:])

    def whole(x: Array) -> Array:
        x = x.reshape(num_blocks * size, *x.shape[2:])
        return x[:num].reshape(*batch, *x.shape[1:])

    return jax.tree.map(whole, lax.map(find, jax.tree.map(blocks, mix)))


_BLOCK = 2**15  # numbers, one for each start, component and dimension
