"""Resampling: points at a constant rate, at equal distances, or of a fixed number.

A pen is sampled at its device's rate, so a slow hand leaves many points and a fast one few. These
functions put other points on the same straight segments between the same ends: within a stroke
only, never across the air between two strokes, which stays one step, from the last point of the
one to the first point of the next.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from mdnjax._checks import require
from mdnjax._types import Array
from mdnjax.strokes import _padded, _ragged
from mdnjax.strokes.corpus import Corpus
from mdnjax.strokes.structure import Strokes

# A sampling time closer to a stroke's end than this part of an interval is that end.
_SAME_TIME = 1e-3
_MOST_POINTS = 2**31


def resample_rate(corpus: Corpus, rate: float) -> Corpus:
    """Lines as a device of another, constant rate would have seen them.

    Each stroke is interpolated linearly in time at k / `rate` (k a whole number, the clock set to
    zero at the line's first point), and keeps its first and last point, so that the interval
    beside an end is shorter than the others. Between two strokes there are no points: the air
    stays one step, and how long it took stands in `times` alone.

    Args:
        corpus: Lines with `times`.
        rate: Points a second.

    Returns:
        A corpus of the same lines, strokes and lattice spacing (`resolution`, as what the points
        are known to; they no longer lie on it), with the times of the new points. A stroke of one
        point keeps it.

    Raises:
        ValueError: The corpus has no times, or the rate is not positive and finite.

    Example:
        >>> line = Corpus.from_positions(
        ...     np.array([[0, 0], [4, 0], [4, 8], [20, 8]]),
        ...     np.array([0, 0, 1, 1]),
        ...     lengths=[4],
        ...     ids=["a"],
        ...     texts=[""],
        ...     times=np.array([0.0, 0.04, 0.08, 0.2]),
        ... )
        >>> slower = resample_rate(line, 50.0)
        >>> slower.positions(0).tolist()
        [[0.0, 0.0], [2.0, 0.0], [4.0, 0.0], [4.0, 4.0], [4.0, 8.0], [20.0, 8.0]]
        >>> slower.times.round(3).tolist()
        [0.0, 0.02, 0.04, 0.06, 0.08, 0.2]
    """
    require(corpus.times is not None, "resample_rate", "corpus", "times of None", "one with times")
    assert corpus.times is not None
    positive = bool(np.isfinite(rate) and rate > 0)
    require(positive, "resample_rate", "rate", rate, "positive and finite")
    first, last = _ragged.stroke_ends(corpus)
    times = corpus.times.astype(np.float64)
    ticks = times * rate
    begin = np.floor(ticks[first] + _SAME_TIME) + 1
    inner = np.maximum(np.ceil(ticks[last] - _SAME_TIME) - begin, 0)
    counts = _checked_counts(inner + 1 + (last > first), "resample_rate", "rate", rate)

    rank = _ragged.ranks(counts)
    tick = np.repeat(begin, counts) + rank - 1
    zero = ticks[first]
    where, weight = _brackets(
        first, last, counts, ticks - _spread(zero, first, last), tick - np.repeat(zero, counts)
    )
    at_end = (rank == 0) | (rank == np.repeat(counts - 1, counts))
    at = np.where(at_end, times[where], tick / rate)
    return _interpolated(corpus, first, last, counts, where, weight, at, function="resample_rate")


def resample_arc_length(corpus: Corpus, spacing: float) -> Corpus:
    r"""Lines whose points stand at equal distances along each stroke.

    A stroke of length $\ell$ (of its polyline, pen down) becomes $n = \max(1,
    \mathrm{round}(\ell / h))$ pieces of length $\ell / n$, h the `spacing`, with n + 1 points; its
    first and last point stay. Distances are along the stroke: across a corner the straight
    distance of two neighbours is less.

    Args:
        corpus: Lines in any unit.
        spacing: h, in the corpus' unit.

    Returns:
        A corpus of the same lines, strokes and lattice spacing (`resolution`, as what the points
        are known to; they no longer lie on it). Where there are times, those between two points of
        old are interpolated linearly. A stroke without length becomes one point.

    Raises:
        ValueError: The spacing is not positive and finite.

    Example:
        >>> line = Corpus.from_positions(
        ...     np.array([[0, 0], [1, 0], [4, 0], [4, 5]]),
        ...     np.array([0, 0, 1, 1]),
        ...     lengths=[4],
        ...     ids=["a"],
        ...     texts=[""],
        ... )
        >>> resample_arc_length(line, 2.0).positions(0).tolist()
        [[0.0, 0.0], [2.0, 0.0], [4.0, 0.0], [4.0, 5.0]]
    """
    positive = bool(np.isfinite(spacing) and spacing > 0)
    require(positive, "resample_arc_length", "spacing", spacing, "positive and finite")
    first, last = _ragged.stroke_ends(corpus)
    steps = np.asarray(corpus.strokes.offsets, np.float64)
    travelled = _ragged.cumsum(np.hypot(steps[:, 0], steps[:, 1]), corpus)
    begin = travelled[first]
    length = travelled[last] - begin
    moves = length > 0
    pieces = np.where(moves, np.maximum(np.rint(length / spacing), 1), 0)
    counts = _checked_counts(pieces + 1, "resample_arc_length", "spacing", spacing)

    unit = np.where(moves, length, 1) / np.maximum(pieces, 1)
    along = (travelled - _spread(begin, first, last)) / _spread(unit, first, last)
    where, weight = _brackets(first, last, counts, along, _ragged.ranks(counts).astype(np.float64))
    times = None
    if corpus.times is not None:
        before = corpus.times[where].astype(np.float64)
        after = corpus.times[np.minimum(where + 1, len(corpus.times) - 1)]
        times = np.where(weight == 0, before, np.minimum(before + weight * (after - before), after))
    return _interpolated(
        corpus, first, last, counts, where, weight, times, function="resample_arc_length"
    )


def resample_count(strokes: Strokes, num_points: int) -> Strokes:
    r"""Lines of one fixed number of points, as evenly spaced as their strokes allow.

    Every stroke keeps its first and last point (a stroke without length is one point). The R
    points that are left are shared out by length: after the strokes up to s, of length C_s out of
    C, round(R C_s / C) of them are spent. Within a stroke they stand at equal distances along it.
    Pure JAX with static shapes, for models that read a fixed number of points; it runs under
    `jit` and `vmap`, and has derivatives almost everywhere.

    Args:
        strokes: Lines `[..., T]` in any unit, the points of a line before its padding.
        num_points: P, a Python number, static under `jit`.

    Returns:
        `Strokes` `[..., P]`, JAX arrays. All P points of a line are there, but for two cases: a
        line of dots alone has as many points as dots; and a line whose strokes have more than P
        ends, like one without points, comes out empty (mask all False): see that P is large
        enough, and that an empty line has no weight.

    Raises:
        ValueError: `num_points` is less than 2, or T is 0.

    Example:
        >>> from mdnjax.strokes.transforms import to_offsets, to_positions
        >>> line = to_offsets(np.array([[0.0, 0], [1, 0], [4, 0], [9, 9]]), np.array([0, 0, 1, 1]))
        >>> even = resample_count(line, 6)
        >>> to_positions(even).tolist()
        [[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 0.0], [9.0, 9.0]]
        >>> even.pen_up.tolist()
        [0.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    """
    require(num_points >= 2, "resample_count", "num_points", num_points, "at least 2")
    _padded.check_points(strokes, "resample_count")
    one_line = functools.partial(_resample_line, num_points=num_points)
    offsets, pen_up, mask = jnp.vectorize(one_line, signature="(t,d),(t),(t)->(p,d),(p),(p)")(
        strokes.offsets, strokes.pen_up, strokes.mask
    )
    return Strokes(offsets, pen_up, mask)


def _checked_counts(
    counts: Float[np.ndarray, " S"], function: str, argument: str, value: float
) -> Int[np.ndarray, " S"]:
    """The counts as integers, if memory has a chance."""
    total = float(counts.sum())
    expected = f"one that asks for fewer than {_MOST_POINTS:.1e} points"
    require(total < _MOST_POINTS, function, argument, f"{value}, for {total:.1e}", expected)
    return counts.astype(np.int64)


def _spread(
    values: Float[np.ndarray, " S"], first: Int[np.ndarray, " S"], last: Int[np.ndarray, " S"]
) -> Float[np.ndarray, " N"]:
    """The value of each point's stroke."""
    return np.repeat(values, last - first + 1)


def _brackets(
    first: Int[np.ndarray, " S"],
    last: Int[np.ndarray, " S"],
    counts: Int[np.ndarray, " S"],
    along: Float[np.ndarray, " N"],
    wanted: Float[np.ndarray, " M"],
) -> tuple[Int[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """The old point before each new one, and how far it is on the way to the next one.

    Args:
        first: The first point of each stroke.
        last: The last point of each stroke.
        counts: The number of new points of each stroke.
        along: How far along its stroke each old point is; 0 at the first, never falling.
        wanted: How far along its stroke each new point is, rising; a stroke's first and last are
            its ends, whatever stands here.

    Returns:
        The number of the old point, and a weight in [0, 1), zero at a stroke's ends.
    """
    # One search for all strokes: they are laid end to end, one apart.
    room = along[last] + 1
    begin = np.cumsum(room) - room
    place = along + _spread(begin, first, last)
    where = np.searchsorted(place, wanted + np.repeat(begin, counts), side="right") - 1
    following = np.minimum(where + 1, np.repeat(last, counts))
    width = along[following] - along[where]
    weight = np.clip((wanted - along[where]) / np.where(width > 0, width, 1), 0, 1)
    stop = np.cumsum(counts)
    for place_of_end, end in ((stop - 1, last), (stop - counts, first)):
        where[place_of_end], weight[place_of_end] = end, 0
    return where, weight


def _interpolated(
    corpus: Corpus,
    first: Int[np.ndarray, " S"],
    last: Int[np.ndarray, " S"],
    counts: Int[np.ndarray, " S"],
    where: Int[np.ndarray, " M"],
    weight: Float[np.ndarray, " M"],
    times: Float[np.ndarray, " M"] | None,
    *,
    function: str,
) -> Corpus:
    """The corpus of the new points, each on the segment from `where` to the point after it."""
    dtype = corpus.strokes.offsets.dtype
    steps = np.asarray(corpus.strokes.offsets, np.float64)
    xy = _ragged.positions(corpus)
    # A point at a stroke's end has weight 0, and the step after it goes elsewhere.
    new = xy[where] + weight[:, None] * steps[np.minimum(where + 1, len(steps) - 1)]
    stop = np.cumsum(counts)
    lengths = _ragged.sum_lines(counts, np.searchsorted(first, corpus.starts))
    offsets = np.empty_like(new)
    offsets[1:] = new[1:] - new[:-1]
    offsets[np.cumsum(lengths) - lengths] = 0
    pen_up = np.zeros(len(new), dtype)
    pen_up[stop - 1] = np.asarray(corpus.strokes.pen_up)[last]
    with np.errstate(over="ignore"):  # found below
        offsets = offsets.astype(dtype)
    return _ragged.replace_points(
        corpus,
        offsets,
        pen_up,
        lengths,
        None if times is None else times.astype(np.float32),
        function=function,
    )


def _resample_line(
    offsets: Float[Array | np.ndarray, "T 2"],
    pen_up: Float[Array | np.ndarray, " T"],
    mask: Bool[Array | np.ndarray, " T"],
    num_points: int,
) -> tuple[Float[Array, "P 2"], Float[Array, " P"], Bool[Array, " P"]]:
    """`resample_count` for one line."""
    offsets, pen_up, mask = jnp.asarray(offsets), jnp.asarray(pen_up), jnp.asarray(mask)
    first, last = _padded.stroke_ends(pen_up, mask)
    size = len(mask)
    index = jnp.arange(size)

    # How far the pen has come on paper, here, and where this stroke began and ends.
    drawn = jnp.where(mask & ~first, jnp.hypot(offsets[:, 0], offsets[:, 1]), 0)
    travelled = jnp.cumsum(drawn)
    begin = travelled[jax.lax.cummax(jnp.where(first, index, 0))]
    end = travelled[jax.lax.cummin(jnp.where(last, index, size - 1), reverse=True)]
    length, total = end - begin, travelled[-1]
    moves = length > 0

    # Each stroke needs its ends, and gets its share of the rest.
    ends = 1 + moves.astype(jnp.int32)
    needed = jnp.cumsum(jnp.where(first, ends, 0))
    spare = num_points - needed[-1]
    share = spare / jnp.where(total > 0, total, 1)
    spent, spent_then = (jnp.round(share * c).astype(jnp.int32) for c in (begin, end))
    pieces = jnp.where(moves, 1 + spent_then - spent, 0)
    start = needed - ends + spent  # where the stroke begins among the new points
    along = jnp.where(moves, (travelled - begin) / jnp.where(moves, length, 1) * pieces, 0)
    along = jnp.where(last, pieces, along)

    # New point j follows the old points that are at most j along: found by counting them.
    slot = jnp.where(mask, start + jnp.ceil(along).astype(jnp.int32), num_points)
    where = jnp.cumsum(jnp.zeros(num_points, jnp.int32).at[slot].add(1, mode="drop")) - 1
    where = jnp.maximum(where, 0)
    following = jnp.minimum(where + 1, size - 1)
    new = jnp.arange(num_points)
    inside = ~last[where] & (along[following] > along[where])
    width = jnp.where(inside, along[following] - along[where], 1)
    weight = jnp.where(inside, jnp.clip((new - start[where] - along[where]) / width, 0, 1), 0)

    total_points = needed[-1] + jnp.where(total > 0, spare, 0)
    there = (new < total_points) & (spare >= 0)
    xy = jnp.cumsum(jnp.where(mask[:, None], offsets, 0), axis=0)
    xy = xy[where] + weight[:, None] * jnp.where(inside[:, None], offsets[following], 0)
    steps = jnp.concatenate([jnp.zeros_like(xy[:1]), xy[1:] - xy[:-1]])
    return (
        jnp.where(there[:, None], steps, 0),
        jnp.where(there & last[where] & (new == slot[where]), pen_up[where], 0),
        there,
    )
