"""Streams against the lines themselves, put together by hand."""

import itertools

import numpy as np
import pytest

from mdnjax import strokes as st


def _corpus(seed=0, num_lines=40):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 30, num_lines)
    xy = rng.integers(-300, 300, (lengths.sum(), 2)).cumsum(axis=0)
    pen_up = rng.integers(0, 2, lengths.sum())
    return st.Corpus.from_positions(
        xy, pen_up, lengths, [f"a-{n}" for n in range(num_lines)], ["x"] * num_lines
    )


def _tape(streams, row, epoch=0):
    """All points a row reads in an epoch, the shared ones once: offsets, pen_up, starts."""
    batches = [streams(epoch * streams.steps_per_epoch + n) for n in range(streams.steps_per_epoch)]
    parts = [
        (b.strokes.offsets[row, :-1], b.strokes.pen_up[row, :-1], b.starts[row, :-1])
        for b in batches
    ]
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def test_batches_follow_one_another():
    streams = st.Streams(_corpus(), batch_size=3, length=7, seed=1)
    assert streams.steps_per_epoch > 5
    for n in range(streams.steps_per_epoch - 1):
        before, after = streams(n), streams(n + 1)
        np.testing.assert_array_equal(before.strokes.offsets[:, -1], after.strokes.offsets[:, 0])
        np.testing.assert_array_equal(before.starts[:, -1], after.starts[:, 0])
        assert before.strokes.mask.all()
        assert before.strokes.offsets.shape == (3, 8, 2)


def test_between_two_starts_stands_a_whole_line():
    corpus = _corpus()
    lines = {np.asarray(line.offsets).tobytes() + line.pen_up.tobytes() for line in corpus}
    streams = st.Streams(corpus, batch_size=2, length=5, seed=4)
    seen = 0
    for row in range(2):
        offsets, pen_up, starts = _tape(streams, row)
        marks = np.flatnonzero(starts)
        for begin, end in list(itertools.pairwise(marks))[1:]:
            assert offsets[begin:end].tobytes() + pen_up[begin:end].tobytes() in lines
            assert (offsets[begin] == 0).all()
            seen += 1
    assert seen > 25


def test_an_epoch_reads_each_point_at_most_once_and_nearly_all():
    corpus = _corpus()
    offsets = np.arange(2 * len(corpus.strokes.offsets), dtype=np.float32).reshape(-1, 2)
    numbered = st.Corpus(
        st.Strokes(offsets, corpus.strokes.pen_up, corpus.strokes.mask),
        corpus.lengths,
        corpus.ids,
        corpus.texts,
    )
    streams = st.Streams(numbered, batch_size=3, length=7, seed=2)
    first, second = (
        np.concatenate([_tape(streams, row, epoch)[0][:, 0] for row in range(3)])
        for epoch in (0, 1)
    )
    assert len(np.unique(first)) == len(first) > len(offsets) - 3 * 8
    assert not np.array_equal(first, second)


def test_a_batch_is_a_function_of_seed_and_step():
    corpus = _corpus()
    one = st.Streams(corpus, batch_size=3, length=7, seed=1)
    steps = [0, one.steps_per_epoch + 2, 1]
    want = [one(n) for n in steps]
    for n, batch in zip(reversed(steps), reversed(want), strict=True):
        again = st.Streams(corpus, batch_size=3, length=7, seed=1)(n)
        np.testing.assert_array_equal(again.strokes.offsets, batch.strokes.offsets)
        np.testing.assert_array_equal(again.starts, batch.starts)
    other = st.Streams(corpus, batch_size=3, length=7, seed=2)(1)
    assert not np.array_equal(other.strokes.offsets, want[2].strokes.offsets)
    assert one(one.steps_per_epoch).starts[:, 0].all()


def test_sizes_out_of_range_are_named():
    corpus = _corpus()
    for options, message in (
        ({"batch_size": 0, "length": 5}, r"Streams: batch_size must be positive, got 0"),
        ({"batch_size": 3, "length": 0}, r"Streams: length must be positive, got 0"),
        ({"batch_size": 9, "length": 500}, r"Streams: corpus must be at least 4509, got .* points"),
    ):
        with pytest.raises(ValueError, match=message):
            st.Streams(corpus, seed=0, **options)
    with pytest.raises(ValueError, match=r"Streams: step must be at least 0, got -1"):
        st.Streams(corpus, batch_size=2, length=5, seed=0)(-1)
