"""The strokes of ragged lines on the host: their ends, and how points leave them."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from mdnjax._checks import require
from mdnjax.strokes.corpus import Corpus
from mdnjax.strokes.structure import Strokes


def stroke_ends(corpus: Corpus) -> tuple[Int[np.ndarray, " S"], Int[np.ndarray, " S"]]:
    """The first and the last point of every stroke; a line's end ends its last stroke."""
    ends = np.asarray(corpus.strokes.pen_up) > 0.5
    ends[corpus.starts + corpus.lengths - 1] = True
    last = np.flatnonzero(ends)
    first = np.zeros_like(last)
    first[1:] = last[:-1] + 1
    return first, last


def positions(corpus: Corpus) -> Float[np.ndarray, "N 2"]:
    """Positions relative to each line's first point, in float64."""
    return cumsum(np.asarray(corpus.strokes.offsets), corpus)


def cumsum(values: Float[np.ndarray, "N ..."], corpus: Corpus) -> Float[np.ndarray, "N ..."]:
    """Running sums within lines, in float64: no line's size costs another its digits."""
    sums = np.empty(values.shape)
    for start, stop in zip(corpus.starts, corpus.starts + corpus.lengths, strict=True):
        np.cumsum(values[start:stop], axis=0, dtype=np.float64, out=sums[start:stop])
    return sums


def keep_points(corpus: Corpus, keep: Bool[np.ndarray, " N"], *, function: str) -> Corpus:
    """The points chosen, where they were; every stroke's ends are among them.

    The offset of a point that goes is added to that of the next point that stays.
    """
    chosen = np.flatnonzero(keep)
    group = np.zeros_like(chosen)  # the first of the offsets that a chosen point's offset sums
    group[1:] = chosen[:-1] + 1
    offsets = np.asarray(corpus.strokes.offsets)
    sums = np.empty((len(chosen), 2), offsets.dtype)
    if len(chosen):
        with np.errstate(over="ignore"):  # found by `replace_points`
            for axis in range(2):
                sums[:, axis] = np.add.reduceat(offsets[:, axis], group, dtype=np.float64)
    return replace_points(
        corpus,
        sums,
        np.asarray(corpus.strokes.pen_up)[chosen],
        sum_lines(keep, corpus.starts),
        None if corpus.times is None else corpus.times[chosen],
        function=function,
    )


def replace_points(
    corpus: Corpus,
    offsets: Float[np.ndarray, "M 2"],
    pen_up: Float[np.ndarray, " M"],
    lengths: Int[np.ndarray, " L"],
    times: Float[np.ndarray, " M"] | None,
    *,
    function: str,
) -> Corpus:
    """The same lines by the same writers, made of other points; errors speak as `function`."""
    finite = bool(np.isfinite(offsets).all())
    expected = f"of lines whose result is finite in {offsets.dtype}"
    require(finite, function, "corpus", "an overflow", expected)
    mask = np.ones(len(offsets), bool)
    for array in (offsets, pen_up, mask, lengths, times):
        if array is not None:
            array.flags.writeable = False
    return dataclasses.replace(
        corpus, strokes=Strokes(offsets, pen_up, mask), lengths=lengths, times=times
    )


def sum_lines(
    values: Int[np.ndarray, " N"] | Bool[np.ndarray, " N"], starts: Int[np.ndarray, " L"]
) -> Int[np.ndarray, " L"]:
    """The sums of the runs that begin at `starts`, none of them empty."""
    if not len(starts):
        return np.zeros(0, np.int64)
    return np.add.reduceat(values, starts, dtype=np.int64)


def ranks(counts: Int[np.ndarray, " S"]) -> Int[np.ndarray, " M"]:
    """0, 1, ..., count - 1 for each of the counts, one after another."""
    total = int(counts.sum())
    return np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
