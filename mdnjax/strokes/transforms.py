"""From positions to offsets and back."""

import numpy as np
from jaxtyping import Bool, Num

from mdnjax._checks import require
from mdnjax._types import Array
from mdnjax.strokes.structure import Strokes


def to_offsets(
    positions: Num[Array | np.ndarray, "*batch T 2"],
    pen_up: Num[Array | np.ndarray, "*batch T"] | Bool[Array | np.ndarray, "*batch T"],
    mask: Bool[Array | np.ndarray, "*batch T"] | None = None,
) -> Strokes:
    """Offsets of absolute pen positions: the step that led to each point.

    offset_0 = 0 and offset_t = position_t - position_{t-1}. The difference is taken in the dtype
    that came, so that integer device coordinates lose nothing; the result is floating (float32
    for integers). Padding gets zeros whatever stood there.

    Args:
        positions: `[..., T, 2]` absolute positions, y down.
        pen_up: `[..., T]`, 1 where a point ends a stroke.
        mask: `[..., T]`, True where there is a point; the points of a line come before its
            padding. All are points by default.

    Returns:
        `Strokes` of the same batch shape, in the unit of `positions`; NumPy arrays for NumPy
        arrays, JAX arrays for JAX arrays.

    Example:
        >>> line = to_offsets(np.array([[5, 1], [7, 1], [7, 4]]), np.array([0, 0, 1]))
        >>> line.offsets.tolist()
        [[0.0, 0.0], [2.0, 0.0], [0.0, 3.0]]
    """
    require(
        positions.shape[:-1] == pen_up.shape,
        "to_offsets",
        "pen_up",
        pen_up.shape,
        f"of shape {positions.shape[:-1]}, as the positions are",
    )
    xp = positions.__array_namespace__()
    there = xp.ones(positions.shape[:-1], dtype=bool) if mask is None else mask
    dtype = positions.dtype if np.issubdtype(positions.dtype, np.inexact) else xp.float32
    first = xp.zeros_like(positions[..., :1, :])
    offsets = xp.concatenate([first, positions[..., 1:, :] - positions[..., :-1, :]], axis=-2)
    return Strokes(
        offsets=xp.where(there[..., None], offsets, 0).astype(dtype),
        pen_up=xp.where(there, pen_up, 0).astype(dtype),
        mask=there,
    )


def to_positions(strokes: Strokes) -> Num[Array | np.ndarray, "*batch T 2"]:
    """Absolute pen positions, the first point of every line at its own first offset (zero).

    position_t = sum_{s <= t} offset_s. Padding stays where the last point is.

    Args:
        strokes: Lines `[..., T]` in any unit, as batches and not as a flat corpus.

    Returns:
        `[..., T, 2]` positions in the unit of `strokes.offsets`, y down.

    Example:
        >>> positions = np.array([[0, 0], [2, 0], [2, 3]])
        >>> to_positions(to_offsets(positions, np.array([0, 0, 1]))).tolist()
        [[0.0, 0.0], [2.0, 0.0], [2.0, 3.0]]
    """
    offsets, mask = strokes.offsets, strokes.mask
    xp = offsets.__array_namespace__()
    return xp.cumsum(xp.where(mask[..., None], offsets, 0), axis=-2, dtype=offsets.dtype)
