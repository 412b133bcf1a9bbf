"""The strokes of padded lines on the device: their ends, and how points leave them."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Num

from mdnjax._checks import require
from mdnjax._types import Array
from mdnjax.strokes.structure import Strokes


def check_points(strokes: Strokes, function: str) -> None:
    """A ValueError in the function's name if the lines have no room for a single point."""
    shape = strokes.mask.shape
    expected = "lines [..., T] with T at least 1"
    require(len(shape) > 0 and shape[-1] > 0, function, "strokes", f"shape {shape}", expected)


def stroke_ends(
    pen_up: Num[Array | np.ndarray, "*batch T"], mask: Bool[Array | np.ndarray, "*batch T"]
) -> tuple[Bool[Array, "*batch T"], Bool[Array, "*batch T"]]:
    """Which points begin a stroke, and which end one; a line's end ends its last stroke."""
    mask = jnp.asarray(mask)
    index = jax.lax.broadcasted_iota(jnp.int32, mask.shape, mask.ndim - 1)
    line_ends = index == mask.sum(-1, keepdims=True) - 1
    last = mask & ((jnp.asarray(pen_up) > 0.5) | line_ends)
    before = jnp.concatenate([jnp.ones_like(last[..., :1]), last[..., :-1]], axis=-1)
    return mask & before, last


def keep_points(strokes: Strokes, keep: Bool[Array, "*batch T"]) -> Strokes:
    """The points chosen, where they were, moved to the front; every stroke's ends are among them.

    The offset of a point that goes is added to that of the next point that stays.
    """
    offsets, pen_up, mask = jnp.vectorize(_keep_line, signature="(t,d),(t),(t)->(t,d),(t),(t)")(
        strokes.offsets, strokes.pen_up, keep & strokes.mask
    )
    return Strokes(offsets, pen_up, mask)


def _keep_line(
    offsets: Float[Array, "T 2"], pen_up: Float[Array, " T"], keep: Bool[Array, " T"]
) -> tuple[Float[Array, "T 2"], Float[Array, " T"], Bool[Array, " T"]]:
    size = len(keep)
    # Sums that start anew behind each point kept. Scattered additions would take half the time, but
    # on a GPU their order, and so the last bit, would differ from run to run.
    anew = jnp.concatenate([jnp.ones(1, bool), keep[:-1]])
    sums, _ = jax.lax.associative_scan(_restarting_sum, (offsets, anew[:, None]))
    place = jnp.where(keep, jnp.cumsum(keep) - 1, size)

    def move(values: Array) -> Array:
        return jnp.zeros_like(values).at[place].set(values, mode="drop", unique_indices=True)

    return move(sums), move(pen_up), jnp.arange(size) < keep.sum()


def _restarting_sum(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
    """The associative step of a running sum that starts anew wherever its flag is set."""
    return jnp.where(right[1], right[0], left[0] + right[0]), left[1] | right[1]
