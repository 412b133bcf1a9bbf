r"""A Gaussian's coordinates in another order, by reversing one arc at a time.

With the precision U^T U, U = diag(exp(-s)) (I + R), each coordinate is a regression on those after
it: y_a = -sum_j R_aj y_j + sigma_a epsilon_a, sigma = exp(s). Neighbours a, b change places when
"a given b" becomes "b given a" (Shachter and Kenley 1989, arc reversal): with r = R_ab and
q = r sigma_b / sigma_a,

    R_a <- R_a - r R_b,                      the rows of I + R, units on the diagonal included;
    R_b <- R_b + r' R_a,                     r' = r sigma_b^2 / (sigma_a^2 + r^2 sigma_b^2);
    s_a <- s_a + log sqrt(1 + q^2),
    s_b <- s_b - log sqrt(1 + q^2).

This is a Givens rotation of two rows of U without its square roots (Gentleman 1973): no covariance
is formed, nothing is squared away, and no exp(-s) is taken.

References:
    R. D. Shachter and C. R. Kenley. "Gaussian Influence Diagrams." 1989.
    W. M. Gentleman. "Least Squares Computations by Givens Transformations Without Square Roots."
    1973.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax

from mdnjax._saturation import bounded, clip, largest_float, log_limit, product
from mdnjax._types import Array

_MOST_UNROLLED = 64
"""Reversals traced one by one; of more a loop is made, which compiles sooner and runs slower."""


def reorder(unit: Array, log_scale: Array, order: Sequence[int]) -> tuple[Array, Array]:
    """I + R and s of the same Gaussians, their coordinates taken in another order.

    The trailing rows and columns are then the marginal of the last coordinates, the leading ones
    the conditional of the first given the last.

    Args:
        unit: `[..., D, D]`, I + R.
        log_scale: `[..., D]`, s.
        order: The coordinate that comes first, second, ...; a permutation.

    Returns:
        I + R and s, shaped as before.
    """
    pairs = _neighbours_to_swap(order)
    if not pairs:
        return unit, log_scale
    log_scale = clip(log_scale, largest_float(unit.dtype, terms=16))  # may be subtracted
    # The result does not depend on the units, which are therefore constants; but in these no entry
    # is larger than 1.
    size = lax.stop_gradient(_sizes(unit, log_scale))
    ratio = bounded(size[..., None, :] - size[..., :, None])
    unit, log_scale = product(unit, jnp.exp(ratio), terms=2), log_scale - size
    if len(pairs) <= _MOST_UNROLLED:
        unit, log_scale = _unrolled(unit, log_scale, pairs)
    else:
        unit, log_scale = _looped(unit, log_scale, pairs)
    unit = product(unit, jnp.exp(-ratio), terms=2)
    chosen = np.asarray(order)
    return unit[..., chosen, :][..., :, chosen], (log_scale + size)[..., chosen]


def _neighbours_to_swap(order: Sequence[int]) -> list[tuple[int, int]]:
    """The pairs (a, b), a before b, whose swaps turn 0, 1, 2, ... into `order`: the inversions."""
    now, pairs = list(range(len(order))), []
    for position in reversed(range(len(order))):
        here = now.index(order[position])
        pairs += [(now[here], b) for b in now[here + 1 : position + 1]]
        now.insert(position, now.pop(here))
    return pairs


def _sizes(unit: Array, log_scale: Array) -> Array:
    """About the log of each coordinate's standard deviation: the largest term of its regression."""
    dim = log_scale.shape[-1]
    size = log_scale[..., dim - 1 :]
    for i in range(dim - 2, -1, -1):
        term = jnp.max(jnp.log(jnp.abs(unit[..., i, i + 1 :])) + size, axis=-1, keepdims=True)
        size = jnp.concatenate([jnp.maximum(log_scale[..., i : i + 1], term), size], axis=-1)
    return size


def _unrolled(unit: Array, log_scale: Array, pairs: list[tuple[int, int]]) -> tuple[Array, Array]:
    dim = log_scale.shape[-1]
    rows = [unit[..., i, :] for i in range(dim)]
    scales = [log_scale[..., i : i + 1] for i in range(dim)]
    for a, b in pairs:
        r = rows[a][..., b : b + 1]
        rows[a], rows[b], scales[a], scales[b] = _reversed(
            rows[a], rows[b], scales[a], scales[b], r
        )
    return jnp.stack(rows, axis=-2), jnp.concatenate(scales, axis=-1)


def _looped(unit: Array, log_scale: Array, pairs: list[tuple[int, int]]) -> tuple[Array, Array]:
    def step(carry, pair):
        unit, log_scale = carry
        a, b = pair
        row_a, row_b = (
            lax.dynamic_index_in_dim(unit, i, unit.ndim - 2, keepdims=False) for i in pair
        )
        scale_a, scale_b = (
            lax.dynamic_index_in_dim(log_scale, i, log_scale.ndim - 1) for i in pair
        )
        r = lax.dynamic_index_in_dim(row_a, b, row_a.ndim - 1)
        row_a, row_b, scale_a, scale_b = _reversed(row_a, row_b, scale_a, scale_b, r)
        for i, row, scale in ((a, row_a, scale_a), (b, row_b, scale_b)):
            unit = lax.dynamic_update_index_in_dim(unit, row, i, unit.ndim - 2)
            log_scale = lax.dynamic_update_index_in_dim(log_scale, scale, i, log_scale.ndim - 1)
        return (unit, log_scale), None

    return lax.scan(step, (unit, log_scale), tuple(np.asarray(pairs).T))[0]


def _reversed(
    row_a: Array, row_b: Array, s_a: Array, s_b: Array, r: Array
) -> tuple[Array, Array, Array, Array]:
    """The rows of I + R `[..., D]` and the log-scales `[..., 1]` once a follows b no more."""
    # Each of the two branches is smooth where it is used, and takes nothing of size above 1.
    log_ratio = s_b - s_a
    is_small = log_ratio + jnp.log(jnp.abs(r)) <= 0
    half = 0.5 * log_limit(r.dtype)
    ratio = jnp.exp(jnp.minimum(log_ratio, half))
    q = jnp.where(is_small, r, 0) * jnp.where(is_small, ratio, 1)
    r_large = jnp.where(is_small, 1, r)
    r_large = jnp.where(r_large < 0, -1, 1) * jnp.maximum(jnp.abs(r_large), math.exp(-half))
    log_ratio = jnp.where(is_small, 0, log_ratio)
    inverse_q = jnp.exp(-bounded(log_ratio)) / r_large
    grown = jnp.where(
        is_small,
        0.5 * jnp.log1p(q * q),
        log_ratio + jnp.log(jnp.abs(r_large)) + 0.5 * jnp.log1p(inverse_q * inverse_q),
    )
    back = jnp.where(is_small, ratio * (q / (1 + q * q)), 1 / r_large / (1 + inverse_q * inverse_q))
    # Beyond all precision, where units are of no help: but infinities would make NaN.
    limit = largest_float(r.dtype, terms=8)
    row_a = clip(row_a - product(r, row_b, terms=2), limit)
    row_b = clip(row_b + product(back, row_a, terms=2), limit)
    return row_a, row_b, s_a + grown, s_b - grown
