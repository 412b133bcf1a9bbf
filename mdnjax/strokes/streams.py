"""Streams of lines for truncated backpropagation: each batch goes on where the last one ended.

Short windows make many updates out of few points, but a network that starts each of them from
nothing never learns what lies further back than a window. So lines are laid end to end on tapes, a
tape for each row of the batch; a batch is the next `length` points of every tape; the network keeps
its carry from batch to batch, and forgets it where a line starts.
"""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from mdnjax._checks import require
from mdnjax.strokes.corpus import Corpus
from mdnjax.strokes.structure import Strokes


class StreamBatch(NamedTuple):
    """The next points of every tape.

    Attributes:
        strokes: `[B, T + 1]`: T inputs and their successors; T + 1 points of which the last is the
            next batch's first.
        starts: `[B, T + 1]`, True where a line starts: the carry is forgotten there, and the point
            is not predicted.
    """

    strokes: Strokes
    starts: Bool[np.ndarray, "B T+1"]


@dataclasses.dataclass(frozen=True, eq=False)
class Streams:
    """Batches that follow one another on tapes: `streams(step)` is the batch of that step.

    An epoch lays all lines end to end in a random order and cuts the result into B tapes of equal
    length, of which each step reads `length` points. At the start of an epoch every tape starts
    anew, in the middle of a line but for the first: so B - 1 lines an epoch are cut in two, and
    less than B * `length` points at the tapes' ends are left out. A pure function of (seed, step).

    Attributes:
        corpus: The lines, in any unit.
        batch_size: B.
        length: T, the points of a batch that are read on each tape.
        seed: Fixes the order.

    Raises:
        ValueError: A size is out of range, or the corpus is too small for a single batch.
    """

    corpus: Corpus
    batch_size: int
    length: int
    seed: int

    def __post_init__(self) -> None:
        require(self.batch_size > 0, "Streams", "batch_size", self.batch_size, "positive")
        require(self.length > 0, "Streams", "length", self.length, "positive")
        points = len(self.corpus.strokes.offsets)
        least = self.batch_size * (self.length + 1)
        require(points >= least, "Streams", "corpus", f"{points} points", f"at least {least}")

    @property
    def steps_per_epoch(self) -> int:
        """How many batches an epoch has."""
        return (self._tape_length - 1) // self.length

    @property
    def _tape_length(self) -> int:
        return len(self.corpus.strokes.offsets) // self.batch_size

    def __call__(self, step: int) -> StreamBatch:
        """The batch of a step: `[B, T + 1]` in the corpus' unit, NumPy."""
        require(step >= 0, "Streams", "step", step, "at least 0")
        epoch, place = divmod(step, self.steps_per_epoch)
        begin = place * self.length
        points, starts = self._tapes(epoch)
        points = points[:, begin : begin + self.length + 1]
        starts = starts[:, begin : begin + self.length + 1].copy()
        if place == 0:
            starts[:, 0] = True
        flat = self.corpus.strokes
        mask = np.ones(points.shape, bool)
        return StreamBatch(Strokes(flat.offsets[points], flat.pen_up[points], mask), starts)

    @functools.cached_property
    def _kept(self) -> dict[int, tuple[Int[np.ndarray, "B N"], Bool[np.ndarray, "B N"]]]:
        """The tapes of one epoch, the last that was asked for."""
        return {}

    def _tapes(self, epoch: int) -> tuple[Int[np.ndarray, "B N"], Bool[np.ndarray, "B N"]]:
        """Where each tape's points stand in the corpus, and which of them start a line."""
        if epoch not in self._kept:
            corpus = self.corpus
            order = np.random.default_rng([self.seed, epoch, 3]).permutation(len(corpus))
            lengths = corpus.lengths[order].astype(np.int64)
            firsts = np.cumsum(lengths) - lengths
            # From its line's place on the tape to its line's place in the corpus.
            points = np.arange(lengths.sum()) + np.repeat(corpus.starts[order] - firsts, lengths)
            starts = np.zeros(len(points), bool)
            starts[firsts] = True
            shape = self.batch_size, self._tape_length
            used = shape[0] * shape[1]
            self._kept.clear()
            self._kept[epoch] = points[:used].reshape(shape), starts[:used].reshape(shape)
        return self._kept[epoch]
