"""Graves' cleaning: missing readings are filled in, over-long jumps taken out."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from mdnjax._checks import require
from mdnjax.strokes.corpus import Corpus


@dataclasses.dataclass(frozen=True)
class CleaningReport:
    """What `clean` changed.

    Attributes:
        median_step: The step length that the thresholds are multiples of, in the corpus' unit.
        gaps_filled: Steps recognised as missing readings.
        points_added: Points put into those gaps.
        points_dropped: Points reached by an over-long jump within a stroke.
        lifts_capped: Over-long steps in the air, shortened.
    """

    median_step: float
    gaps_filled: int
    points_added: int
    points_dropped: int
    lifts_capped: int


def clean(
    corpus: Corpus,
    *,
    median_step: float | None = None,
    gap_ratio: float = 1.75,
    gap_cosine: float = 0.7,
    max_missing: int = 4,
    max_step: float = 15.0,
    max_lift: float = 100.0,
    grid: float | None = 1.0,
) -> tuple[Corpus, CleaningReport]:
    """Interpolates missing readings and removes over-long jumps.

    Graves (2013, section 4) does both and gives no thresholds; these are ours. Lengths are in
    units of the corpus' median step (within strokes, zeros left out). Without time stamps, a
    missing reading shows as a step that is what several steps would be:

    - *Gap*: a step within a stroke, longer than two median steps, whose neighbours on both sides
      belong to the same stroke, point the same way (cosine at least `gap_cosine`), are on average
      at least half a median step long, and are `gap_ratio` times shorter on average. With
      k = round(step / mean neighbour), k - 1 <= `max_missing` points are set evenly on the
      segment.
    - *Jump*: any other step within a stroke longer than `max_step`. Its point is dropped and the
      rest of the line moves up to the point before, as if the step had not been made.
    - *Lift*: a step in the air (the first of a stroke) longer than `max_lift` is shortened to it,
      in its own direction: dropping it would write one word over another.

    Strokes keep their ends, and every stroke keeps a point at least.

    Args:
        corpus: Lines in any unit.
        median_step: The length that the thresholds are multiples of, in the corpus' unit; measured
            here by default. Give the training corpus' to clean another in the same way.
        gap_ratio: See above; more than 1.
        gap_cosine: See above.
        max_missing: The most readings that may be missing in one gap.
        max_step: The longest step within a stroke, in median steps.
        max_lift: The longest step in the air, in median steps.
        grid: Interpolated points and shortened lifts are rounded to multiples of this many
            `corpus.resolution`, so that they lie where device coordinates lie. None rounds nothing.

    Returns:
        The cleaned corpus and what was changed. Ids, texts, writers and parts are as they were; a
        point set into a gap gets the time of its place in it.

    Raises:
        ValueError: A threshold is out of range, or no step within a stroke gives a median.

    References:
        A. Graves. "Generating Sequences With Recurrent Neural Networks." 2013, section 4.
    """
    require(gap_ratio > 1, "clean", "gap_ratio", gap_ratio, "more than 1")
    require(max_missing >= 0, "clean", "max_missing", max_missing, "at least 0")
    dtype = corpus.strokes.offsets.dtype
    offsets = np.asarray(corpus.strokes.offsets, dtype=np.float64)
    pen_up = np.asarray(corpus.strokes.pen_up) > 0.5
    lengths = corpus.lengths
    grid = None if grid is None else grid * corpus.resolution
    first_of_line = np.zeros(len(offsets), dtype=bool)
    first_of_line[corpus.starts] = True
    first_of_stroke = first_of_line | np.concatenate([[True], pen_up[:-1]])

    size = np.hypot(offsets[:, 0], offsets[:, 1])
    if median_step is None:
        steps = size[~first_of_stroke & (size > 0)]
        require(len(steps) > 0, "clean", "corpus", "no steps within strokes", "of longer strokes")
        median_step = float(np.median(steps))
    require(median_step > 0, "clean", "median_step", median_step, "positive")

    pieces = _gap_pieces(
        offsets, size, first_of_stroke, median_step, gap_ratio, gap_cosine, max_missing
    )
    gap = pieces > 1
    jump = ~first_of_stroke & ~gap & (size > max_step * median_step)
    lift = first_of_stroke & ~first_of_line & (size > max_lift * median_step)

    shrink = np.where(lift, max_lift * median_step / np.where(lift, size, 1.0), 1.0)
    offsets = np.where(lift[:, None], _rounded(offsets * shrink[:, None], grid), offsets)

    # Each point becomes 0 (dropped), 1, or several (a filled gap); `source` says of which point.
    repeats = np.where(jump, 0, pieces)
    source = np.repeat(np.arange(len(offsets)), repeats)
    piece = np.arange(len(source)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    offsets = _piece(offsets[source], piece, repeats[source], grid)

    # The last point left of a stroke takes over the stroke's pen-up.
    stroke = np.cumsum(first_of_stroke) - 1
    lifted = np.zeros(stroke[-1] + 1, dtype=bool)
    lifted[stroke[pen_up]] = True
    stroke = stroke[source]
    last_of_stroke = np.concatenate([stroke[1:] != stroke[:-1], [True]])

    line = np.repeat(np.arange(len(lengths)), lengths)
    cleaned = type(corpus).from_offsets(
        offsets.astype(dtype),
        last_of_stroke & lifted[stroke],
        np.bincount(line[source], minlength=len(lengths)),
        corpus.ids,
        corpus.texts,
        writers=corpus.writers,
        unit=corpus.unit,
        parts=corpus.parts,
        times=None if corpus.times is None else _times(corpus.times, source, piece, repeats),
        resolution=corpus.resolution,
    )
    return cleaned, CleaningReport(
        median_step=median_step,
        gaps_filled=int(gap.sum()),
        points_added=int((pieces - 1).sum()),
        points_dropped=int(jump.sum()),
        lifts_capped=int(lift.sum()),
    )


def _times(
    times: Float[np.ndarray, " N"],
    source: Int[np.ndarray, " M"],
    piece: Int[np.ndarray, " M"],
    repeats: Int[np.ndarray, " N"],
) -> Float[np.ndarray, " M"]:
    """When each new point was reached: those of a gap evenly between its ends."""
    times = times.astype(np.float64)
    # A first point, whose step would come from another line, is never one of several pieces.
    step = times[source] - times[source - 1]
    return times[source] - step * ((repeats[source] - 1 - piece) / repeats[source])


def _gap_pieces(
    offsets: Float[np.ndarray, "N 2"],
    size: Float[np.ndarray, " N"],
    first_of_stroke: Bool[np.ndarray, " N"],
    median_step: float,
    gap_ratio: float,
    gap_cosine: float,
    max_missing: int,
) -> Int[np.ndarray, " N"]:
    """How many steps each step should have been: more than 1 in a gap."""
    pieces = np.ones(len(offsets), dtype=np.int64)
    within = ~first_of_stroke
    here = 1 + np.flatnonzero(
        within[1:-1] & within[:-2] & within[2:] & (size[1:-1] > 2 * median_step)
    )
    before, after = here - 1, here + 1
    neighbours = (size[before] + size[after]) / 2

    def aligned(other: Int[np.ndarray, " M"]) -> Bool[np.ndarray, " M"]:
        dot = np.sum(offsets[here] * offsets[other], axis=1)
        return (dot > 0) & (dot >= gap_cosine * size[here] * size[other])

    gap = (
        aligned(before)
        & aligned(after)
        & (neighbours >= median_step / 2)
        & (size[here] >= gap_ratio * neighbours)
    )
    here, neighbours = here[gap], neighbours[gap]
    count = np.maximum(np.rint(size[here] / neighbours).astype(np.int64), 2)
    fits = count - 1 <= max_missing
    pieces[here[fits]] = count[fits]
    return pieces


def _rounded(x: Float[np.ndarray, "N 2"], grid: float | None) -> Float[np.ndarray, "N 2"]:
    return x if grid is None else np.rint(x / grid) * grid


def _piece(
    step: Float[np.ndarray, "N 2"],
    piece: Int[np.ndarray, " N"],
    pieces: Int[np.ndarray, " N"],
    grid: float | None,
) -> Float[np.ndarray, "N 2"]:
    """Piece 0 <= j < n of a step cut into n, its inner ends on the grid; the pieces add up."""

    def reached(j: Int[np.ndarray, " N"]) -> Float[np.ndarray, "N 2"]:
        inner = _rounded(step * (j / pieces)[:, None], grid)
        return np.where((j == pieces)[:, None], step, inner)

    return reached(piece + 1) - reached(piece)
