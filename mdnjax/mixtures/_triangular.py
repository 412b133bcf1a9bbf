"""Strictly upper triangular matrices R, packed, with the components behind the rows.

The entries stand row by row: R_01, R_02, ..., R_0D, R_12, ... . Vectors and packed matrices come
in blocks of rows, one by one or all together; `axis`, counted from the end, is that of the rows:
-2 of `[..., *, K]`, -3 of `[*, K, B]`. Up to D = 16 the products go entry by
entry and touch no zero, which is fastest but is traced once an entry; beyond, they go through dense
matrices, and compile far sooner. Every product saturates where a sum of D of them, or of those of
all components, could overflow, so that no inf - inf can arise.
"""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import solve_triangular

from mdnjax._saturation import product
from mdnjax._types import Array


def num_entries(dim: int) -> int:
    """The number of entries above the diagonal."""
    return dim * (dim - 1) // 2


LARGEST_UNROLLED = 16


def _product(a: Array, b: Array, dim: int, axis: int) -> Array:
    return product(a, b, terms=2 * dim * a.shape[axis + 1])


def _take(x: Array, index: np.ndarray, axis: int) -> Array:
    return x[(..., index, *(slice(None),) * (-1 - axis))]


def _position(dim: int) -> np.ndarray:
    """Where entry (i, j) of R stands among the packed ones; one past the last where R is zero."""
    position = np.full((dim, dim), num_entries(dim))
    position[np.triu_indices(dim, 1)] = np.arange(num_entries(dim))
    return position


def rows(blocks: Sequence[Array], axis: int) -> list[Array]:
    """The rows of blocks, one by one: `[..., 1, K]`."""
    return [
        row
        for block in blocks
        for row in lax.split(block, (1,) * block.shape[axis], block.ndim + axis)
    ]


def multiply(
    upper: Sequence[Array], x: Sequence[Array], axis: int, *, transposed: bool = False
) -> list[Array]:
    """(I + R) x or (I + R)^T x, of blocks: row by row, or beyond D = 16 all together."""
    dim = sum(block.shape[axis] for block in x)
    if dim > LARGEST_UNROLLED:
        return [x[0] + _dense_product(upper[0], x[0], axis, transposed=transposed)]
    entries = rows(x, axis)
    total = list(entries)
    pairs = itertools.combinations(range(dim), 2)
    for (i, j), entry in zip(pairs, rows(upper, axis), strict=True):
        to, by = (j, i) if transposed else (i, j)
        total[to] = total[to] + _product(entry, entries[by], dim, axis)
    return total


def _dense_product(upper: Array, x: Array, axis: int, *, transposed: bool) -> Array:
    """R x or R^T x, through R as `[..., D, D, K]`."""
    dim = x.shape[axis]
    zero = jnp.zeros_like(lax.slice_in_dim(upper, 0, 1, axis=axis))
    dense = _take(jnp.concatenate([upper, zero], axis=axis), _position(dim), axis)
    if transposed:
        return jnp.sum(_product(dense, jnp.expand_dims(x, axis), dim, axis), axis=axis - 1)
    return jnp.sum(_product(dense, jnp.expand_dims(x, axis - 1), dim, axis), axis=axis)


def outer(x: Sequence[Array], y: Sequence[Array], axis: int) -> list[Array]:
    """x_i y_j for i < j, packed, of blocks and in blocks."""
    if len(x) == 1:
        dim = x[0].shape[axis]
        row, column = np.triu_indices(dim, 1)
        return [_product(_take(x[0], row, axis), _take(y[0], column, axis), dim, axis)]
    pairs = itertools.combinations(range(len(x)), 2)
    return [_product(x[i], y[j], len(x), axis) for i, j in pairs]


def unit_upper(packed: Array) -> Array:
    """I + R as dense matrices `[..., D, D]`, from entries on the last axis."""
    dim = (1 + int(np.sqrt(1 + 8 * packed.shape[-1]))) // 2
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
