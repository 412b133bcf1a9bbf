"""Strictly upper triangular matrices R, packed, with the components on the last axis.

The entries stand row by row: R_01, R_02, ..., R_0D, R_12, ... . Vectors are `[..., D, K]`, packed
matrices `[..., D(D-1)/2, K]`, and every product saturates where a sum of D of them could overflow,
so that no inf - inf can arise.

Up to D = 8 the products go row by row and touch no zero, which is fastest but is traced D times;
beyond, they go through dense matrices, which costs about as much and compiles twenty times faster
(D = 64, value and gradient on CPU: half a second for ten).
"""

import itertools
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from mdnjax._types import Array


def num_entries(dim: int) -> int:
    """The number of entries above the diagonal."""
    return dim * (dim - 1) // 2


LARGEST_UNROLLED = 8


def _dim(upper: Array) -> int:
    return (1 + int(np.sqrt(1 + 8 * upper.shape[-2]))) // 2


def _entries(upper: Array, dim: int) -> Iterator[tuple[tuple[int, int], Array]]:
    """(i, j) and R_ij, `[..., 1, K]`, in the order in which they are packed."""
    for n, place in enumerate(itertools.combinations(range(dim), 2)):
        yield place, upper[..., n : n + 1, :]


def _product(a: Array, b: Array, dim: int) -> Array:
    limit = float(jnp.finfo(a.dtype).max) / (8 * dim)
    return jnp.minimum(jnp.maximum(a * b, -limit), limit)


def _position(dim: int) -> np.ndarray:
    """Where entry (i, j) of R stands among the packed ones; one past the last where R is zero."""
    position = np.full((dim, dim), num_entries(dim))
    position[np.triu_indices(dim, 1)] = np.arange(num_entries(dim))
    return position


def _dense(upper: Array, dim: int) -> Array:
    """R as `[..., D, D, K]`."""
    zero = jnp.zeros((*upper.shape[:-2], 1, upper.shape[-1]), upper.dtype)
    return jnp.concatenate([upper, zero], axis=-2)[..., _position(dim), :]


def multiply(upper: Array, x: list[Array]) -> list[Array]:
    """(I + R) x."""
    dim = _dim(upper)
    if dim > LARGEST_UNROLLED:
        (whole,) = x
        return [whole + jnp.sum(_product(_dense(upper, dim), whole[..., None, :, :], dim), axis=-2)]
    rows = list(x)
    for (i, j), entry in _entries(upper, dim):
        rows[i] = rows[i] + _product(entry, x[j], dim)
    return rows


def multiply_transposed(upper: Array, x: list[Array]) -> list[Array]:
    """(I + R)^T x."""
    dim = _dim(upper)
    if dim > LARGEST_UNROLLED:
        (whole,) = x
        return [whole + jnp.sum(_product(_dense(upper, dim), whole[..., :, None, :], dim), axis=-3)]
    columns = list(x)
    for (i, j), entry in _entries(upper, dim):
        columns[j] = columns[j] + _product(entry, x[i], dim)
    return columns


def outer(x: list[Array], y: list[Array]) -> list[Array]:
    """x_i y_j for i < j, in blocks whose concatenation is packed."""
    if len(x) == 1:
        row, column = np.triu_indices(x[0].shape[-2], 1)
        return [_product(x[0][..., row, :], y[0][..., column, :], x[0].shape[-2])]
    dim = len(x)
    return [_product(x[i], y[j], dim) for i in range(dim) for j in range(i + 1, dim)]


def unit_upper(packed: Array) -> Array:
    """I + R as dense matrices `[..., D, D]`, from entries on the last axis."""
    dim = _dim(packed[..., None])
    position = _position(dim)
    position[np.diag_indices(dim)] = packed.shape[-1] + 1
    one = jnp.ones((*packed.shape[:-1], 1), packed.dtype)
    return jnp.concatenate([packed, 0 * one, one], axis=-1)[..., position]


def solve_unit_upper(packed: Array, x: Array) -> Array:
    """Solves (I + R) y = x for y `[..., D]`, from entries on the last axis."""
    dim = x.shape[-1]
    if dim > LARGEST_UNROLLED:
        return solve_triangular(unit_upper(packed), x[..., None], unit_diagonal=True)[..., 0]
    # Back substitution over the whole batch at once; on CPU the solver takes matrix by matrix.
    y = x[..., dim - 1 :]
    start = num_entries(dim)
    for i in range(dim - 2, -1, -1):
        start, stop = start - (dim - 1 - i), start
        known = jnp.sum(packed[..., start:stop] * y, axis=-1, keepdims=True)
        y = jnp.concatenate([x[..., i : i + 1] - known, y], axis=-1)
    return y


def pack(matrix: Array) -> Array:
    """The entries above the diagonal of `[..., D, D]`, row by row: `[..., D(D-1)/2]`."""
    row, column = np.triu_indices(matrix.shape[-1], 1)
    return matrix[..., row, column]
