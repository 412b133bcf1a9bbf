"""Priming: a model reads lines somebody wrote, and goes on in their style."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from mdnjax._checks import require
from mdnjax._types import Array, Key
from mdnjax.mixtures import ProductHead
from mdnjax.strokes.generate import generate
from mdnjax.strokes.likelihood import as_partial
from mdnjax.strokes.normalize import Normalizer
from mdnjax.strokes.structure import Strokes

Carry = TypeVar("Carry")


class Continuation(NamedTuple):
    """Lines of which the first part was given and the rest made up.

    Attributes:
        lines: `Strokes` `[B, T + N]` in device units; a line's points come before its padding.
        given: `[B]`, how many points of each line, from its start, were given: as the pictures'
            `given` takes it.
    """

    lines: Strokes
    given: Int[np.ndarray, " B"]


def continue_lines(
    step: Callable[[Carry, Float[Array, "B 3"]], tuple[Carry, Float[Array, "B P"]]],
    init: Carry,
    head: ProductHead,
    key: Key,
    given: Strokes,
    *,
    num_points: int,
    normalizer: Normalizer,
    bias: float = 0.0,
    num_lines: int | None = None,
) -> Continuation:
    """Continues given lines in their style: `prime`, then `generate`.

    A model that has read a line carries what it needs to predict it: letter shapes, slant, size,
    how the pen moves. What it then samples goes on with the last point of the line, be it inside
    a letter.

    Args:
        step: `(carry, inputs [B, 3]) -> (carry, raw [B, P])`, as for `generate`.
        init: The model's carry before its first point, a pytree of arrays `[B, ...]`.
        head: `stroke_head(...)`.
        key: A random key.
        given: Lines `[B, T]` in device units, padding after the points of each, or one line
            `[T]`, which is continued `num_lines` times.
        num_points: N, how many points each line is continued by.
        normalizer: Of the training corpus.
        bias: Graves' probability bias, see `generate`.
        num_lines: B for one line, by default 1; for a batch None, or its size.

    Returns:
        The lines, each its given points, to the last bit, and N more; and where the given ones
        end.

    Raises:
        ValueError: See `prime` and `generate`; or `num_lines` or `num_points` does not fit.

    References:
        A. Graves. "Generating Sequences With Recurrent Neural Networks." 2013, section 5.5.
    """
    name = "continue_lines"
    require(num_points >= 1, name, "num_points", num_points, "at least 1")
    given, counts = _batch(given, name, num_lines)
    carry, first = prime(step, init, given, normalizer=normalizer)
    size, length = given.mask.shape
    new = generate(
        step,
        carry,
        head,
        key,
        num_lines=size,
        max_points=num_points + 1,
        normalizer=normalizer,
        bias=bias,
        first=first,
    )
    # Row b is points 0 to n_b of what was given, then all that is new.
    place = np.arange(length + num_points)[None, :] - counts[:, None]
    old = np.broadcast_to(np.minimum(np.arange(length + num_points), length - 1), place.shape)
    source = np.where(place < 0, old, length + np.clip(place, 0, num_points - 1))

    def joined(before: Any, after: Any) -> Array:
        both = jnp.concatenate([jnp.asarray(before, after.dtype), after[:, 1:]], axis=1)
        index = source.reshape(source.shape + (1,) * (both.ndim - 2))
        return jnp.take_along_axis(both, index, axis=1)

    there = jnp.asarray(place < num_points)
    offsets = jnp.where(there[..., None], joined(given.offsets, new.offsets), 0)
    pen_up = jnp.where(there, joined(given.pen_up, new.pen_up), 0)
    return Continuation(Strokes(offsets, pen_up, there), counts)


def prime(
    step: Callable[[Carry, Float[Array, "B 3"]], tuple[Carry, Float[Array, "B P"]]],
    init: Carry,
    given: Strokes,
    *,
    normalizer: Normalizer,
    num_lines: int | None = None,
) -> tuple[Carry, Float[Array, "B 3"]]:
    """Lets a model read given lines: one compiled scan for all of them.

    The model reads every point of a line but the last, which is left for `generate` to begin
    with. A line that is shorter than others keeps its carry while they are read on.

    Args:
        step: `(carry, inputs [B, 3]) -> (carry, raw [B, P])`, as for `generate`.
        init: The model's carry before its first point, a pytree of arrays `[B, ...]`.
        given: Lines `[B, T]` in device units, padding after the points of each, or one line
            `[T]`, which stands for `num_lines` equal ones.
        normalizer: Of the training corpus.
        num_lines: B for one line, by default 1; for a batch None, or its size.

    Returns:
        (the carry with which each line goes on, its last point normalised): `init` and `first` of
        `generate`.

    Raises:
        ValueError: A line without points or with padding before its points, a number that is
            not finite, or a carry that is not of B lines.
    """
    given, counts = _batch(given, "prime", num_lines)
    size = len(counts)
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(init)]
    fits = all(shape[:1] == (size,) for shape in shapes)
    require(fits, "prime", "init", f"shapes {shapes}", f"arrays of {size} lines, [{size}, ...]")
    real = normalizer.apply(given)
    points = np.concatenate([np.asarray(real.offsets), np.asarray(real.pen_up)[..., None]], -1)
    floats = [leaf for leaf in jax.tree.leaves(init) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    points = jnp.asarray(points, jnp.result_type(*floats) if floats else float)
    return _read(as_partial(step), init, points, jnp.asarray(counts))


def match_scale(given: Strokes, normalizer: Normalizer) -> tuple[Strokes, float]:
    r"""Scales lines from another device to the size of those that a model has learned from.

    Both coordinates are multiplied by the one factor that gives the offsets the root mean square
    length they have in training: with the given offsets d_t (the first of each line left out) and
    the normaliser's mean m and standard deviation s,

        factor = ((m_x^2 + s_x^2 + m_y^2 + s_y^2) / mean_t |d_t|^2)^{1/2}.

    It makes up for another unit and for another sampling rate, as far as offsets show it. Moments
    about zero, not about the mean: a straight line drawn at an even speed has a size, too. And all
    offsets, steps in the air included, since those are what the normaliser has measured: without
    them a line of the training corpus itself would be scaled by 1.8 (built-in pens) or 2.3
    (IAM-OnDB).

    People differ too: over single lines of one corpus (built-in pens or IAM-OnDB) the logarithm of
    the factor has a standard deviation of 0.25. So between 1/2 and 2 the size is more likely the
    writer's own, and better kept.

    Args:
        given: Lines `[..., T]` of one device, in its units, padding masked.
        normalizer: Of the training corpus.

    Returns:
        (the lines in training's units, the factor).

    Raises:
        ValueError: The pen never moves, or an offset is not finite.

    Example:
        >>> normalizer = Normalizer(mean=(30.0, 0.0), std=(24.0, 32.0), unit="device")
        >>> offsets = np.array([[0.0, 0.0], [0.3, 0.4], [0.5, 0.0]])
        >>> scaled, factor = match_scale(
        ...     Strokes(offsets, np.zeros(3), np.ones(3, bool)), normalizer
        ... )
        >>> round(factor, 1), scaled.offsets[1].round(2).tolist()
        (100.0, [30.0, 40.0])
    """
    offsets, mask = np.asarray(given.offsets, np.float64), np.asarray(given.mask)
    moving = offsets[..., 1:, :][mask[..., 1:] & mask[..., :-1]]
    length = float(np.sqrt(np.square(moving).sum(axis=-1).mean())) if len(moving) else 0.0
    got = f"{len(moving)} offsets of root mean square {length:g}"
    require(0 < length < np.inf, "match_scale", "given", got, "lines that move, and are finite")
    factor = math.hypot(*normalizer.mean, *normalizer.std) / length
    scaled = given.offsets * given.offsets.dtype.type(factor)
    return dataclasses.replace(given, offsets=scaled), factor


def _batch(
    given: Strokes, function: str, num_lines: int | None
) -> tuple[Strokes, Int[np.ndarray, " B"]]:
    """The lines as a checked batch, on the host, and how many points each has."""
    offsets, pen_up, mask = (np.asarray(a) for a in (given.offsets, given.pen_up, given.mask))
    if mask.ndim == 1:
        count = 1 if num_lines is None else num_lines
        require(count >= 1, function, "num_lines", count, "at least 1")
        offsets, pen_up, mask = (
            np.broadcast_to(a, (count, *a.shape)) for a in (offsets, pen_up, mask)
        )
    require(mask.ndim == 2, function, "given", f"shape {mask.shape}", "of shape [T] or [B, T]")
    size = len(mask)
    fits = num_lines is None or num_lines == size
    require(fits, function, "num_lines", num_lines, f"None or {size}, as many as there are lines")
    counts = mask.sum(axis=1)
    first = np.arange(mask.shape[1]) < counts[:, None]
    whole = size > 0 and bool((counts > 0).all()) and bool((mask == first).all())
    require(whole, function, "given", "others", "lines with points, and no padding before them")
    finite = bool(np.isfinite(offsets[mask]).all() and np.isfinite(pen_up[mask]).all())
    require(finite, function, "given", "NaN or infinity", "finite")
    return Strokes(offsets, pen_up, mask), counts


@jax.jit
def _read(
    step: Callable[[Any, Array], tuple[Any, Array]],
    init: Any,
    points: Float[Array, "B T 3"],
    counts: Int[Array, " B"],
) -> tuple[Any, Float[Array, "B 3"]]:
    """The carry after all points of each line but its last, and that last point."""

    def read(carry: Any, at: tuple[Array, Array]) -> tuple[Any, None]:
        t, point = at
        after, _ = step(carry, point)
        reading = t < counts - 1

        def either(new: Array, old: Array) -> Array:
            return jnp.where(reading.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)

        return jax.tree.map(either, after, carry), None

    times = jnp.arange(points.shape[1] - 1)
    carry, _ = jax.lax.scan(read, init, (times, jnp.swapaxes(points, 0, 1)[:-1]))
    last = jnp.take_along_axis(points, (counts - 1)[:, None, None], axis=1)[:, 0]
    return carry, last
