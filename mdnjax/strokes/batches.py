"""Batches of lines: random windows, and whole lines in a few padded shapes.

Both are pure functions of (seed, step): batch n can be computed without batches 0 to n - 1, in
any order, by any process, which is what resuming a run relies on. All of it is NumPy on the host.
"""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int

from mdnjax._checks import require
from mdnjax._epochs import order, shuffled
from mdnjax.strokes.corpus import Corpus
from mdnjax.strokes.structure import Strokes


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
    """Random windows of a fixed length: `windows(step)` is the batch of that step.

    A line of L points has ceil(L / length) slots. An epoch is a random order of all slots, so
    each line is seen in proportion to its length, and batches run across the ends of epochs. In
    slot j of n the window's centre is uniform on the j-th n-th of the line, and the window is then
    pushed inside the line: beginnings and ends are seen as often as middles, and only lines
    shorter than the window are padded. The offset of a window's first point is the step that led
    to it, zero only at the start of a line.

    Attributes:
        corpus: The lines, in any unit.
        batch_size: B.
        length: T, the points of a window (of which T - 1 are predicted).
        seed: Fixes order and crops.

    Example:
        A training run of 1,000 steps, resumed at step 400, sees `windows(400)` to
        `windows(999)`, as it would have uninterrupted.
    """

    corpus: Corpus
    batch_size: int
    length: int
    seed: int

    def __post_init__(self) -> None:
        require(self.batch_size > 0, "Windows", "batch_size", self.batch_size, "positive")
        require(self.length > 1, "Windows", "length", self.length, "at least 2")
        require(len(self.corpus) > 0, "Windows", "corpus", "no lines", "at least one line")

    @functools.cached_property
    def _slots(self) -> Int[np.ndarray, " L"]:
        """How many slots each line has."""
        return -(-self.corpus.lengths // self.length)

    @functools.cached_property
    def _line_of_slot(self) -> Int[np.ndarray, " S"]:
        return np.repeat(np.arange(len(self.corpus)), self._slots)

    @functools.cached_property
    def _first_slot(self) -> Int[np.ndarray, " L"]:
        return np.cumsum(self._slots) - self._slots

    @property
    def slots_per_epoch(self) -> int:
        """How many windows an epoch has; divided by `batch_size`, its steps."""
        return len(self._line_of_slot)

    def __call__(self, step: int) -> Strokes:
        """The batch of a step: `Strokes` `[B, T]` in the corpus' unit, NumPy."""
        require(step >= 0, "Windows", "step", step, "at least 0")
        slot = shuffled(self.seed, step, self.batch_size, self.slots_per_epoch)
        line = self._line_of_slot[slot]
        lengths = self.corpus.lengths[line]
        uniform = np.random.default_rng([self.seed, step, 1]).random(self.batch_size)
        centre = (slot - self._first_slot[line] + uniform) * lengths / self._slots[line]
        room = np.maximum(lengths - self.length, 0)
        crop = np.clip(np.floor(centre - self.length / 2 + 0.5).astype(np.int64), 0, room)
        return _gather(
            self.corpus.strokes,
            self.corpus.starts[line] + crop,
            np.minimum(lengths, self.length),
            self.length,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class WholeLines:
    """Whole lines, shuffled, padded to at most `num_buckets` lengths: `lines(step)` is a batch.

    In every epoch the lines of each bucket are shuffled and cut into batches, and the batches of
    all buckets shuffled. The last batch of a bucket is filled with empty rows (mask all False),
    so that a compiled step sees one shape a bucket.

    Attributes:
        corpus: The lines, in any unit.
        batch_size: B.
        seed: Fixes the order.
        num_buckets: The most shapes.
    """

    corpus: Corpus
    batch_size: int
    seed: int
    num_buckets: int = 4

    def __post_init__(self) -> None:
        require(self.batch_size > 0, "WholeLines", "batch_size", self.batch_size, "positive")

    @functools.cached_property
    def _buckets(self) -> tuple[tuple[int, Int[np.ndarray, " n"]], ...]:
        return _buckets(self.corpus, self.num_buckets)

    @property
    def lengths(self) -> tuple[int, ...]:
        """T of each bucket, ascending."""
        return tuple(length for length, _ in self._buckets)

    @property
    def steps_per_epoch(self) -> int:
        """How many batches an epoch has."""
        return sum(-(-len(lines) // self.batch_size) for _, lines in self._buckets)

    def __call__(self, step: int) -> Strokes:
        """The batch of a step: `Strokes` `[B, T]` in the corpus' unit, T of its bucket, NumPy."""
        require(step >= 0, "WholeLines", "step", step, "at least 0")
        epoch, place = divmod(step, self.steps_per_epoch)
        batch = int(order(self.seed, epoch, self.steps_per_epoch)[place])
        for bucket, (length, lines) in enumerate(self._buckets):
            batches = -(-len(lines) // self.batch_size)
            if batch < batches:
                rng = np.random.default_rng([self.seed, epoch, bucket, 2])
                chosen = rng.permutation(lines)[batch * self.batch_size :][: self.batch_size]
                return gather_lines(self.corpus, chosen, length, rows=self.batch_size)
            batch -= batches
        raise AssertionError("a batch beyond the last bucket")


def line_batches(
    corpus: Corpus, *, batch_size: int, num_buckets: int = 4
) -> Iterator[tuple[Int[np.ndarray, " n"], Strokes]]:
    """Every line once, in order of bucket and corpus, for evaluation.

    Args:
        corpus: The lines, in any unit.
        batch_size: B.
        num_buckets: The most shapes.

    Yields:
        The indices `[n]` of the batch's lines, and their `Strokes` `[B, T]`; the B - n rows after
        them are empty.
    """
    require(batch_size > 0, "line_batches", "batch_size", batch_size, "positive")
    for length, lines in _buckets(corpus, num_buckets):
        for begin in range(0, len(lines), batch_size):
            chosen = lines[begin : begin + batch_size]
            yield chosen, gather_lines(corpus, chosen, length, rows=batch_size)


def gather_lines(
    corpus: Corpus, indices: Int[np.ndarray, " n"], length: int, *, rows: int | None = None
) -> Strokes:
    """Whole lines as one padded batch.

    Args:
        corpus: The lines, in any unit.
        indices: `[n]`, which lines.
        length: T; no line may be longer.
        rows: B, by default n; the B - n rows after the lines are empty.

    Returns:
        `Strokes` `[B, T]`, NumPy.

    Raises:
        ValueError: A line is longer than `length`, or `rows` is less than n.
    """
    rows = len(indices) if rows is None else rows
    require(rows >= len(indices), "gather_lines", "rows", rows, f"at least {len(indices)}")
    starts = np.zeros(rows, dtype=np.int64)
    lengths = np.zeros(rows, dtype=np.int64)
    lengths[: len(indices)] = corpus.lengths[indices]
    starts[: len(indices)] = corpus.starts[indices]
    longest = int(lengths.max(initial=0))
    require(longest <= length, "gather_lines", "length", length, f"at least {longest}")
    return _gather(corpus.strokes, starts, lengths, length)


def bucket_lengths(lengths: Int[np.ndarray, " L"], *, num_buckets: int = 4) -> tuple[int, ...]:
    """The padded lengths, at most `num_buckets`, that waste the least padding.

    Minimises sum_l bucket(l), where bucket(l) is the smallest chosen length that holds line l, by
    dynamic programming over the distinct lengths u_1 < ... < u_m:
    cost_b(j) = min_{i < j} cost_{b-1}(i) + u_j * #{l : u_i < l <= u_j}.

    Args:
        lengths: `[L]`, points of each line.
        num_buckets: The most shapes, at least 1.

    Returns:
        The chosen lengths, ascending; the last is the longest line's.

    Example:
        >>> bucket_lengths(np.array([10, 11, 11, 40, 42]), num_buckets=2)
        (11, 42)
    """
    require(num_buckets >= 1, "bucket_lengths", "num_buckets", num_buckets, "at least 1")
    require(len(lengths) > 0, "bucket_lengths", "lengths", "none", "of at least one line")
    distinct, counts = np.unique(np.asarray(lengths, dtype=np.int64), return_counts=True)
    m = len(distinct)
    below = np.concatenate([[0], np.cumsum(counts)])
    # padded[i, j]: the points of one bucket that holds the distinct lengths i + 1 .. j.
    upper = np.concatenate([[0], distinct])
    padded = np.where(
        np.arange(m + 1)[:, None] < np.arange(m + 1),
        upper * (below - below[:, None]),
        np.inf,
    )
    cost = padded[0]
    choices = []
    for _ in range(min(num_buckets, m) - 1):
        total = cost[:, None] + padded
        choices.append(np.argmin(total, axis=0))
        cost = np.min(total, axis=0)
    chosen = [m]
    for choice in reversed(choices):
        chosen.append(int(choice[chosen[-1]]))
    return tuple(int(distinct[j - 1]) for j in reversed(chosen))


def _buckets(corpus: Corpus, num_buckets: int) -> tuple[tuple[int, Int[np.ndarray, " n"]], ...]:
    """(padded length, lines) of each bucket, ascending."""
    chosen = bucket_lengths(corpus.lengths, num_buckets=num_buckets)
    bucket = np.searchsorted(chosen, corpus.lengths)
    return tuple((length, np.flatnonzero(bucket == b)) for b, length in enumerate(chosen))


def _gather(
    flat: Strokes,
    starts: Int[np.ndarray, " B"],
    lengths: Int[np.ndarray, " B"],
    length: int,
) -> Strokes:
    """Rows of `length` points from the flat arrays, `lengths` of them real, the rest zero."""
    mask = np.arange(length) < lengths[:, None]
    index = starts[:, None] + np.arange(length)
    if mask.all():
        return Strokes(flat.offsets[index], flat.pen_up[index], mask)
    index = np.where(mask, index, 0)
    return Strokes(
        offsets=np.where(mask[..., None], flat.offsets[index], 0),
        pen_up=np.where(mask, flat.pen_up[index], 0),
        mask=mask,
    )
