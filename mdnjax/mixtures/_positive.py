"""Symmetric positive definite matrices `[D, D, ...]`, the batch last.

Up to D = 8 the factors are formed entry by entry over the whole batch at once; on CPU the library's
solver takes matrix by matrix. A matrix that is not positive definite has a factor with NaN.
"""

import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from mdnjax._types import Array

_LARGEST_UNROLLED = 8


def cholesky(a: Array) -> Array:
    """L with a = L L^T, lower triangular."""
    dim = a.shape[0]
    if dim > _LARGEST_UNROLLED:
        factor = jnp.linalg.cholesky(jnp.moveaxis(a, (0, 1), (-2, -1)))
        return jnp.moveaxis(factor, (-2, -1), (0, 1))
    lower: list[list[Array]] = []
    for i in range(dim):
        row: list[Array] = []
        for j in range(i):
            row.append((a[i, j] - _dot(row, lower[j])) / lower[j][j])
        row.append(jnp.sqrt(a[i, i] - _dot(row, row)))
        lower.append(row)
    zero = jnp.zeros_like(a[0, 0])
    return jnp.stack([jnp.stack(row + [zero] * (dim - len(row))) for row in lower])


def solve_factored(lower: Array, b: Array) -> Array:
    """The x of L L^T x = b, `[D, ...]`."""
    dim = lower.shape[0]
    if dim > _LARGEST_UNROLLED:
        factor, x = jnp.moveaxis(lower, (0, 1), (-2, -1)), jnp.moveaxis(b, 0, -1)[..., None]
        x = solve_triangular(factor, x, lower=True)
        x = solve_triangular(factor, x, lower=True, trans="T")
        return jnp.moveaxis(x[..., 0], -1, 0)
    forward: list[Array] = []
    for i in range(dim):
        forward.append((b[i] - _dot(lower[i, :i], forward)) / lower[i, i])
    back: list[Array] = []  # from the last to the first
    for i in reversed(range(dim)):
        known = _dot(lower[i + 1 :, i][::-1], back)
        back.append((forward[i] - known) / lower[i, i])
    return jnp.stack(back[::-1])


def exists(lower: Array) -> Array:
    """Whether a factor exists."""
    return jnp.all(jnp.isfinite(lower), axis=(0, 1))


def _dot(x, y) -> Array | float:
    return sum((a * b for a, b in zip(x, y, strict=False)), start=0.0)
