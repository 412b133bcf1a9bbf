"""Pen trajectories: one structure for a line, a batch of lines, and a whole corpus.

A pen trajectory is a sequence of T points. We keep, for every point, the step that led to it
(its *offset* from the point before; the first offset is zero), whether the pen was lifted after
it, and whether the point is there at all (padding is not). Throughout the library y points
**down**, as on a screen or a whiteboard sensor, and offsets are in device units until a
`Normalizer` says otherwise.
"""

import dataclasses

import jax
import numpy as np
from jaxtyping import Bool, Float

from mdnjax._types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Strokes:
    """A pen trajectory, or any batch of them, as a pytree of NumPy or JAX arrays.

    Attributes:
        offsets: `[..., T, 2]`, the step (dx, dy) that led to each point, y down. The first is
            zero.
        pen_up: `[..., T]`, 1 where the pen is lifted after the point (the point ends a stroke),
            else 0, in the dtype of `offsets`.
        mask: `[..., T]`, True where there is a point, False where there is padding.
    """

    offsets: Float[Array | np.ndarray, "*batch T 2"]
    pen_up: Float[Array | np.ndarray, "*batch T"]
    mask: Bool[Array | np.ndarray, "*batch T"]
