"""Simplification: of a drawing's own points, those that Ramer, Douglas and Peucker keep."""

import functools
import itertools
from typing import overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from mdnjax._checks import require
from mdnjax._types import Array
from mdnjax.strokes import _padded, _ragged
from mdnjax.strokes.corpus import Corpus
from mdnjax.strokes.structure import Strokes

_CHUNK = 2**18  # points that are looked at together: a bound on the memory needed


@overload
def simplify(strokes: Corpus, tolerance: float) -> Corpus: ...


@overload
def simplify(strokes: Strokes, tolerance: float) -> Strokes: ...


def simplify(strokes: Corpus | Strokes, tolerance: float) -> Corpus | Strokes:
    r"""Keeps the points that matter to a drawing's shape: the Ramer-Douglas-Peucker algorithm.

    A stroke is first one segment between its ends. Of the points that a segment passes over, the
    one farthest from it (the first of several) is kept if it is farther than the tolerance, and
    splits the segment in two, which are treated alike; else all of them are dropped.

    The distance is to the *segment* from a to b,

    $$d(p) = \min_{0 \le u \le 1} |p - a - u (b - a)|,$$

    so every dropped point is within the tolerance of what is left of its stroke. Many
    implementations take the distance to the infinite line instead, which is the same but where a
    stroke turns back beyond its segment's ends: they lose the tip of a bar drawn to and fro.

    A `Corpus` is simplified on the host, where segments that are done cost nothing; its
    comparisons are exact for whole coordinates up to some thousands. `Strokes` are simplified by
    JAX, under `jit` and `vmap`, in their own precision: for small batches that is faster, and it
    needs no way back to the host; large ones are faster as a corpus (measured in
    `benchmarks/transforms.py`).

    Args:
        strokes: A corpus, or lines `[..., T]`, the points of a line before its padding.
        tolerance: The greatest distance of a dropped point, in the unit of the strokes: a Python
            number, static under `jit`.

    Returns:
        What came, with fewer points: a corpus (with the times of the points that stay), or JAX
        arrays of the same shape, what stays moved to the front and `mask` shorter.

    Raises:
        ValueError: The tolerance is negative or not finite, or T is 0.

    Example:
        >>> from mdnjax.strokes.transforms import to_offsets, to_positions
        >>> bar = to_offsets(np.array([[0.0, 0], [1, 0], [9, 1], [5, 0]]), np.array([0, 0, 0, 1]))
        >>> simpler = simplify(bar, 2.0)
        >>> to_positions(simpler)[simpler.mask].tolist()
        [[0.0, 0.0], [9.0, 1.0], [5.0, 0.0]]

    References:
        U. Ramer. "An Iterative Procedure for the Polygonal Approximation of Plane Curves." 1972.
        D. Douglas and T. Peucker. "Algorithms for the Reduction of the Number of Points Required
        to Represent a Digitized Line or Its Caricature." 1973.
    """
    finite = bool(0 <= tolerance < np.inf)
    require(finite, "simplify", "tolerance", tolerance, "finite and at least 0")
    if isinstance(strokes, Corpus):
        return _ragged.keep_points(strokes, _kept(strokes, tolerance), function="simplify")
    _padded.check_points(strokes, "simplify")
    return _padded.keep_points(strokes, _kept_on_device(strokes, tolerance * tolerance))


def _kept(corpus: Corpus, tolerance: float) -> Bool[np.ndarray, " N"]:
    """Which points of a corpus stay."""
    xy = _ragged.positions(corpus)
    first, last = _ragged.stroke_ends(corpus)
    keep = np.zeros(len(xy), bool)
    keep[first] = keep[last] = True
    chunk = first // _CHUNK
    borders = np.flatnonzero(np.diff(chunk, prepend=-1, append=-1))
    for begin, end in itertools.pairwise(borders):
        _mark(keep, xy, first[begin:end], last[begin:end], tolerance)
    return keep


def _mark(
    keep: Bool[np.ndarray, " N"],
    xy: Float[np.ndarray, "N 2"],
    left: Int[np.ndarray, " S"],
    right: Int[np.ndarray, " S"],
    tolerance: float,
) -> None:
    """Marks the points that stay between the ends of segments, level after level of splits."""
    while True:
        inner = right - left - 1
        left, right, inner = left[inner > 0], right[inner > 0], inner[inner > 0]
        if not len(left):
            return
        begin = np.cumsum(inner) - inner
        point = np.repeat(left + 1, inner) + _ragged.ranks(inner)
        error, unit = _errors(xy, left, right, inner, point)
        worst = np.maximum.reduceat(error, begin)
        split = worst > tolerance * tolerance * unit
        # The first of the worst points of each segment that is split.
        hits = np.flatnonzero(error == np.repeat(np.where(split, worst, np.inf), inner))
        segment = np.searchsorted(begin, hits, side="right")
        middle = point[hits[np.flatnonzero(np.diff(segment, prepend=0))]]
        keep[middle] = True
        left = np.stack([left[split], middle], axis=1).reshape(-1)
        right = np.stack([middle, right[split]], axis=1).reshape(-1)


def _errors(
    xy: Float[np.ndarray, "N 2"],
    left: Int[np.ndarray, " S"],
    right: Int[np.ndarray, " S"],
    inner: Int[np.ndarray, " S"],
    point: Int[np.ndarray, " n"],
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " S"]]:
    """Squared distances of inner points from their segments, and the unit they are in.

    The unit is the segment's squared length (1 for one without length): so there is no division,
    and whole coordinates give whole numbers, by which ties are ties.
    """
    chord = xy[right] - xy[left]
    unit = (chord * chord).sum(axis=1)
    unit[unit == 0] = 1
    cx, cy, squared = (np.repeat(a, inner) for a in (chord[:, 0], chord[:, 1], unit))
    dx, dy = (xy[point] - np.repeat(xy[left], inner, axis=0)).T
    along = dx * cx + dy * cy
    error = (dx * cy - dy * cx) ** 2
    # Beyond the ends: the distance from the end.
    before, beyond = np.flatnonzero(along <= 0), np.flatnonzero(along > squared)
    error[before] = (dx[before] ** 2 + dy[before] ** 2) * squared[before]
    dx, dy = dx[beyond] - cx[beyond], dy[beyond] - cy[beyond]
    error[beyond] = (dx**2 + dy**2) * squared[beyond]
    return error, unit


# Called outside of `jit`, a loop would be compiled anew each time.
@functools.partial(jax.jit, inline=True)
def _kept_on_device(strokes: Strokes, squared_tolerance: Array | float) -> Bool[Array, "*batch T"]:
    """Which points of padded lines stay."""
    mask = jnp.asarray(strokes.mask)
    first, last = _padded.stroke_ends(strokes.pen_up, mask)
    xy = jnp.cumsum(jnp.where(mask[..., None], strokes.offsets, 0), axis=-2)

    def one_line(xy: Array, first: Array, last: Array, mask: Array) -> Array:
        return _kept_of_line(xy, first, last, mask, squared_tolerance)

    return jnp.vectorize(one_line, signature="(t,d),(t),(t),(t)->(t)")(xy, first, last, mask)


def _kept_of_line(
    xy: Float[Array, "T 2"],
    first: Bool[Array, " T"],
    last: Bool[Array, " T"],
    mask: Bool[Array, " T"],
    squared_tolerance: Array | float,
) -> Bool[Array, " T"]:
    size = len(mask)
    index = jnp.arange(size)
    # The ends of the segment that passes each point.
    left = jax.lax.cummax(jnp.where(first, index, 0))
    right = jax.lax.cummin(jnp.where(last, index, size - 1), reverse=True)

    def level(state: tuple[Array, ...]) -> tuple[Array, ...]:
        keep, left, right, _ = state
        chord, to = xy[right] - xy[left], xy - xy[left]
        squared = (chord * chord).sum(axis=-1)
        along = (chord * to).sum(axis=-1)
        cross = to[:, 0] * chord[:, 1] - to[:, 1] * chord[:, 0]
        beyond = jnp.where((along > squared)[:, None], to - chord, to)
        error = jnp.where(
            (along <= 0) | (along > squared),
            (beyond * beyond).sum(axis=-1),
            cross * cross / jnp.where(squared > 0, squared, 1),
        )
        error = jnp.where(keep | ~mask, -1, error)
        # The first of the worst points of each segment, told to all of its points.
        worst = jnp.full_like(error, -1).at[left].max(error)[left]
        hit = (error == worst) & (error > squared_tolerance)
        middle = jnp.full_like(index, size).at[left].min(jnp.where(hit, index, size))[left]
        found = middle < size
        return (
            keep | (index == middle),
            jnp.where(found & (index >= middle), middle, left),
            jnp.where(found & (index <= middle), middle, right),
            found.any(),
        )

    state = first | last, left, right, mask.any()
    keep, *_ = jax.lax.while_loop(lambda state: state[-1], level, state)
    return keep
