"""Batches: right content, no line lost, pure in (seed, step), little padding."""

import itertools

import jax
import numpy as np
import pytest

from mdnjax import strokes as st


def _corpus(lengths, seed=0):
    """Every point's dx is its number in the corpus, but for the zero first ones."""
    n = sum(lengths)
    offsets = np.stack([np.arange(n), np.random.default_rng(seed).normal(size=n)], 1)
    offsets[np.cumsum(lengths) - lengths] = 0
    pen_up = np.random.default_rng(seed).integers(0, 2, n)
    ids = [f"a-{i}" for i in range(len(lengths))]
    return st.Corpus.from_offsets(
        offsets.astype(np.float32), pen_up, np.asarray(lengths), ids, [""] * len(lengths)
    )


def _same(a, b):
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def _total_padded(lengths, buckets):
    return sum(min(b for b in buckets if b >= n) for n in lengths)


@pytest.mark.parametrize("num_buckets", [1, 2, 3, 4, 9])
def test_buckets_waste_no_more_than_the_best_of_all_choices(num_buckets):
    for seed in range(5):
        lengths = np.random.default_rng(seed).integers(1, 12, 25)
        buckets = st.bucket_lengths(lengths, num_buckets=num_buckets)
        distinct = sorted(set(lengths.tolist()))
        assert list(buckets) == sorted(set(buckets))
        assert buckets[-1] == max(distinct)
        assert len(buckets) <= num_buckets
        best = min(
            _total_padded(lengths, (*choice, distinct[-1]))
            for k in range(num_buckets)
            for choice in itertools.combinations(distinct[:-1], min(k, len(distinct) - 1))
        )
        assert _total_padded(lengths, buckets) == best


def test_line_batches_hold_every_line_once_and_whole():
    lengths = np.random.default_rng(0).integers(1, 40, 53)
    corpus = _corpus(lengths)
    seen, shapes = [], set()
    for lines, batch in st.line_batches(corpus, batch_size=8):
        shapes.add(batch.mask.shape)
        assert batch.mask.sum(1).tolist() == [*lengths[lines], *[0] * (8 - len(lines))]
        for row, line in enumerate(lines):
            n = lengths[line]
            np.testing.assert_array_equal(batch.offsets[row, :n], corpus[line].offsets)
            np.testing.assert_array_equal(batch.pen_up[row, :n], corpus[line].pen_up)
        assert not batch.offsets[~batch.mask].any()
        assert not batch.pen_up[~batch.mask].any()
        assert batch.offsets.dtype == np.float32
        seen += lines.tolist()
    assert sorted(seen) == list(range(53))
    assert len(shapes) <= 4


def test_whole_lines_pass_through_each_epoch_once_in_few_shapes():
    lengths = np.random.default_rng(1).integers(2, 60, 41)
    corpus = _corpus(lengths)
    lines = st.WholeLines(corpus, batch_size=4, seed=7)
    assert len(lines.lengths) <= 4
    orders = []
    for epoch in range(2):
        batches = [lines(epoch * lines.steps_per_epoch + i) for i in range(lines.steps_per_epoch)]
        assert {b.mask.shape for b in batches} == {(4, t) for t in lines.lengths}
        # The last point's dx names the line.
        last = [b.offsets[r].max(0)[0] for b in batches for r in range(4) if b.mask[r].any()]
        assert sorted(last) == sorted(
            c.offsets[:, 0].max() for c in map(corpus.__getitem__, range(41))
        )
        orders.append(last)
    assert orders[0] != orders[1]
    assert _same(lines(11), st.WholeLines(corpus, batch_size=4, seed=7)(11))
    assert not _same(lines(0), st.WholeLines(corpus, batch_size=4, seed=8)(0))


def test_windows_are_stretches_of_lines():
    lengths = [5, 16, 17, 100, 64, 1]
    corpus = _corpus(lengths)
    windows = st.Windows(corpus, batch_size=7, length=16, seed=0)
    assert windows.slots_per_epoch == 1 + 1 + 2 + 7 + 4 + 1
    starts = np.cumsum(lengths) - lengths
    for step in range(20):
        batch = windows(step)
        assert batch.offsets.shape == (7, 16, 2)
        for row in range(7):
            n = int(batch.mask[row].sum())
            x = batch.offsets[row, :n, 0].astype(int)
            if n == 1:
                assert x[0] == 0
                continue
            first = x[1] - 1
            line = np.searchsorted(starts, first, side="right") - 1
            assert n == min(16, lengths[line])
            begin = first - starts[line]
            assert 0 <= begin <= lengths[line] - n
            want = corpus[line].offsets[begin : begin + n]
            np.testing.assert_array_equal(batch.offsets[row, :n], want)
            np.testing.assert_array_equal(
                batch.pen_up[row, :n], corpus[line].pen_up[begin : begin + n]
            )
            assert not batch.offsets[row, n:].any()
            assert not batch.mask[row, n:].any()


def test_windows_are_a_pure_function_of_seed_and_step():
    corpus = _corpus([50, 80, 33, 120])
    windows = st.Windows(corpus, batch_size=5, length=20, seed=3)
    batches = [windows(step) for step in range(9)]
    again = st.Windows(corpus, batch_size=5, length=20, seed=3)
    for step in (8, 2, 5, 0):
        assert _same(batches[step], again(step))
    assert not _same(batches[0], batches[1])
    assert not _same(batches[0], st.Windows(corpus, batch_size=5, length=20, seed=4)(0))


def test_an_epoch_of_windows_uses_every_slot_once():
    lengths = [40, 90, 200, 15]
    corpus = _corpus(lengths)
    windows = st.Windows(corpus, batch_size=3, length=20, seed=1)
    assert windows.slots_per_epoch == 2 + 5 + 10 + 1
    starts = np.cumsum(lengths) - lengths
    rows = np.concatenate([windows(step).offsets[:, 1, 0] for step in range(12)])
    for epoch in rows.reshape(2, 18):
        line = np.searchsorted(starts, epoch - 1, side="right") - 1
        assert np.bincount(line).tolist() == [2, 5, 10, 1]


def test_crops_are_fresh_at_every_step():
    windows = st.Windows(_corpus([1000]), batch_size=1, length=20, seed=0)
    phases = {int(windows(step).offsets[0, 1, 0]) % 20 for step in range(60)}
    assert len(phases) > 10


def test_windows_see_the_ends_of_lines_as_often_as_the_middle():
    corpus = _corpus([300])
    windows = st.Windows(corpus, batch_size=60, length=50, seed=0)
    counts = np.zeros(300)
    for step in range(100):
        first = windows(step).offsets[:, 1, 0].astype(int) - 1
        for begin in first:
            counts[begin : begin + 50] += 1
    density = counts / counts.mean()
    assert abs(density[:50].mean() - 1) < 0.05
    assert abs(density[-50:].mean() - 1) < 0.05
    assert density.min() > 0.4


def test_bad_sizes_are_refused():
    corpus = _corpus([5, 6])
    with pytest.raises(ValueError, match="Windows: length"):
        st.Windows(corpus, batch_size=2, length=1, seed=0)
    with pytest.raises(ValueError, match="Windows: step"):
        st.Windows(corpus, batch_size=2, length=3, seed=0)(-1)
    with pytest.raises(ValueError, match="gather_lines: length must be at least 6, got 5"):
        st.gather_lines(corpus, np.array([1]), 5)
