"""Resampling: strokes keep their ends and their path; points stand where they were asked for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as hst

from mdnjax import strokes as st


def _corpus(seed, num_lines=7, *, dtype=np.float32):
    """Ragged lines of several strokes, some of one point, some that rest; with times."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 40, num_lines)
    starts = np.cumsum(lengths) - lengths
    n = lengths.sum()
    offsets = rng.normal(0, 10, (n, 2)).astype(dtype)
    offsets[rng.random(n) < 0.1] = 0
    offsets[starts] = 0
    pen_up = rng.random(n) < 0.2
    pen_up[starts + lengths - 1] = rng.random(num_lines) < 0.8
    waits = rng.exponential(0.01, n)
    waits[rng.random(n) < 0.1] = 0
    times = np.concatenate(
        [np.cumsum(np.r_[0, waits[s + 1 : s + k]]) for s, k in zip(starts, lengths, strict=True)]
    )
    return st.Corpus.from_offsets(
        offsets,
        pen_up,
        lengths,
        [f"f-{i}" for i in range(num_lines)],
        ["t"] * num_lines,
        writers=["w"] * num_lines,
        unit="mm",
        parts=["train"] * num_lines,
        times=times,
        resolution=0.25,
    )


def _strokes(corpus, i):
    """The strokes of a line: positions and times, in float64."""
    line, start = corpus[i], corpus.starts[i]
    xy = np.cumsum(np.asarray(line.offsets, np.float64), axis=0)
    times = corpus.times[start : start + len(xy)].astype(np.float64)
    cuts = np.flatnonzero(line.pen_up[:-1] > 0.5) + 1
    return list(zip(np.split(xy, cuts), np.split(times, cuts), strict=True))


def _travelled(xy):
    return np.r_[0, np.cumsum(np.hypot(*np.diff(xy, axis=0).T))]


def _same_lines(new, old):
    for name in ("ids", "texts", "writers", "parts"):
        np.testing.assert_array_equal(getattr(new, name), getattr(old, name))
    assert (new.unit, new.resolution) == (old.unit, old.resolution)
    # What the checked constructor asks of a corpus holds.
    s = new.strokes
    st.Corpus.from_offsets(s.offsets, s.pen_up, new.lengths, new.ids, new.texts, times=new.times)
    assert s.mask.all()
    assert s.offsets.dtype == s.pen_up.dtype == old.strokes.offsets.dtype
    for i in range(len(old)):
        assert new[i].pen_up[-1] == old[i].pen_up[-1]


@pytest.mark.parametrize("rate", [3.0, 50.0, 400.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rate_is_linear_interpolation_in_time_within_strokes(rate, dtype):
    corpus = _corpus(0, dtype=dtype)
    new = st.resample_rate(corpus, rate)
    _same_lines(new, corpus)
    for i in range(len(corpus)):
        strokes = _strokes(corpus, i)
        resampled = _strokes(new, i)
        assert len(strokes) == len(resampled)
        for (xy, t), (new_xy, new_t) in zip(strokes, resampled, strict=True):
            ticks = np.arange(0, t[-1] * rate + 1)
            ticks = ticks[(ticks > t[0] * rate + 1e-3) & (ticks < t[-1] * rate - 1e-3)]
            expected = np.r_[t[0], ticks / rate, t[-1] if len(t) > 1 else []]
            np.testing.assert_allclose(new_t, expected, rtol=1e-6, atol=1e-7)
            inside = slice(1, len(ticks) + 1)
            for axis in range(2):
                there = np.interp(ticks / rate, t, xy[:, axis])
                np.testing.assert_allclose(new_xy[inside, axis], there, atol=2e-4)
            np.testing.assert_allclose(new_xy[[0, -1]], xy[[0, -1]], atol=1e-4)


def test_rate_of_the_device_gives_back_its_points():
    rng = np.random.default_rng(1)
    xy = rng.integers(-99, 99, (300, 2))
    pen_up = rng.random(300) < 0.1
    for rate in (60.0, 100.0, 133.0):
        corpus = st.Corpus.from_positions(
            xy,
            pen_up,
            [100, 200],
            ["a", "b"],
            ["", ""],
            times=np.r_[np.arange(100), np.arange(200)] / rate,
        )
        new = st.resample_rate(corpus, rate)
        np.testing.assert_array_equal(new.lengths, corpus.lengths)
        np.testing.assert_array_equal(new.strokes.pen_up, corpus.strokes.pen_up)
        # Times are float32: 1e-7 s at 133 points a second, of steps up to 198 long.
        np.testing.assert_allclose(new.strokes.offsets, corpus.strokes.offsets, atol=5e-3)
        np.testing.assert_array_equal(new.times, corpus.times)


def test_rate_needs_times_and_a_rate():
    corpus = _corpus(2)
    with pytest.raises(ValueError, match=r"resample_rate: corpus must be one with times"):
        st.resample_rate(dataclasses.replace(corpus, times=None), 10.0)
    for rate in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="resample_rate: rate must be positive and finite"):
            st.resample_rate(corpus, rate)
    with pytest.raises(
        ValueError, match=r"rate must be one that asks for fewer than .* points, got 1"
    ):
        st.resample_rate(corpus, 1e12)


@pytest.mark.parametrize("spacing", [0.5, 7.0, 300.0])
@pytest.mark.parametrize("timed", [True, False])
def test_arc_length_makes_equal_pieces_of_each_stroke(spacing, timed):
    corpus = _corpus(3)
    new = st.resample_arc_length(
        corpus if timed else dataclasses.replace(corpus, times=None), spacing
    )
    assert (new.times is not None) == timed
    _same_lines(new, corpus)
    new = new if timed else dataclasses.replace(new, times=np.zeros(new.lengths.sum(), np.float32))
    for i in range(len(corpus)):
        for (xy, t), (new_xy, new_t) in zip(_strokes(corpus, i), _strokes(new, i), strict=True):
            along = _travelled(xy)
            pieces = max(1, round(along[-1] / spacing)) if along[-1] else 0
            assert len(new_xy) == pieces + 1
            wanted = np.linspace(0, along[-1], pieces + 1)
            for axis in range(2):
                there = np.interp(wanted, along, xy[:, axis])
                np.testing.assert_allclose(new_xy[:, axis], there, atol=1e-3)
            if timed:
                assert new_t[0] == t[0]
                if pieces:
                    assert new_t[-1] == t[-1]
                    # A pen that rests has many times at one place: both are right.
                    first = [np.interp(w - 1e-6, along, t) for w in wanted[1:-1]]
                    late = [np.interp(w + 1e-6, along, t) for w in wanted[1:-1]]
                    assert (new_t[1:-1] >= np.array(first) - 1e-6).all()
                    assert (new_t[1:-1] <= np.array(late) + 1e-6).all()


def test_arc_length_keeps_what_is_even_and_counts_a_dot_once():
    xy = np.array([[0, 0], [0, 0], [5, 5], [8, 9], [11, 13], [7, 7]])
    corpus = st.Corpus.from_positions(xy, np.array([0, 1, 0, 0, 1, 1]), [6], ["a"], [""])
    new = st.resample_arc_length(corpus, 5.0)
    assert new.positions(0).tolist() == [[0, 0], [5, 5], [8, 9], [11, 13], [7, 7]]
    assert new.strokes.pen_up.tolist() == [1, 0, 0, 1, 1]
    halved = st.resample_arc_length(corpus, 2.5).positions(0)
    np.testing.assert_allclose(halved[1:6], np.linspace([5, 5], [11, 13], 5), rtol=1e-6)


def test_one_line_of_huge_numbers_costs_no_other_its_digits():
    corpus = st.Corpus.from_positions(
        np.array([[0, 0], [3e30, 4e30], [0, 0], [3, 4]]),
        np.array([0, 1, 0, 1]),
        [2, 2],
        ["a", "b"],
        ["", ""],
    )
    new = st.resample_arc_length(corpus, 2.5e30)
    assert new.lengths.tolist() == [3, 2]
    assert new.positions(1).tolist() == [[0, 0], [3, 4]]


def test_arc_length_refuses_bad_spacings():
    corpus = _corpus(4)
    for spacing in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="resample_arc_length: spacing must be positive"):
            st.resample_arc_length(corpus, spacing)
    with pytest.raises(ValueError, match="spacing must be one that asks for fewer than"):
        st.resample_arc_length(corpus, 1e-9)


def test_no_lines_stay_no_lines():
    none = _corpus(5).subset([])
    for new in (st.resample_rate(none, 10.0), st.resample_arc_length(none, 1.0)):
        assert len(new) == 0
        assert new.strokes.offsets.shape == (0, 2)


def _batch(corpus, length=48, rows=None):
    rows = len(corpus) if rows is None else rows
    return st.gather_lines(corpus, np.arange(len(corpus)), length, rows=rows)


_resample_count = jax.jit(st.resample_count, static_argnums=1)


@pytest.mark.parametrize("num_points", [50, 101])
def test_count_gives_every_stroke_its_ends_and_even_steps(num_points):
    corpus = _corpus(6)
    new = _resample_count(_batch(corpus, rows=9), num_points)
    assert new.offsets.shape == (9, num_points, 2)
    assert not new.mask[7:].any()
    there = np.asarray(new.mask)
    assert not np.asarray(new.offsets)[~there].any()
    assert not np.asarray(new.pen_up)[~there].any()
    for i in range(len(corpus)):
        old = [xy for xy, _ in _strokes(corpus, i)]
        size = there[i].sum()
        assert there[i, :size].all()
        xy = np.cumsum(np.asarray(new.offsets[i, :size], np.float64), axis=0)
        assert new.offsets[i, 0].tolist() == [0, 0]
        got = np.split(xy, np.flatnonzero(new.pen_up[i, : size - 1]) + 1)
        assert len(got) == len(old)
        assert new.pen_up[i, size - 1] == corpus[i].pen_up[-1]
        lengths = np.array([_travelled(s)[-1] for s in old])
        least = 1 + (lengths > 0)
        assert size == (num_points if lengths.any() else len(old))
        share = (num_points - least.sum()) * lengths / max(lengths.sum(), 1e-9)
        for a, b, k, extra in zip(old, got, least, share, strict=True):
            np.testing.assert_allclose(b[[0, -1]], a[[0, -1]], atol=1e-3)
            assert abs(len(b) - k - extra) < 1 + 1e-3
            wanted = np.linspace(0, _travelled(a)[-1], len(b))
            for axis in range(2):
                there_ = np.interp(wanted, _travelled(a), a[:, axis])
                np.testing.assert_allclose(b[:, axis], there_, atol=5e-3)


def test_count_of_a_line_with_too_many_ends_is_empty():
    pen_up = np.array([0.0, 1, 0, 1, 0, 1], np.float32)
    line = st.to_offsets(np.arange(12.0, dtype=np.float32).reshape(6, 2), pen_up)
    whole, short = (jax.tree.map(np.asarray, _resample_count(line, size)) for size in (6, 5))
    assert whole.mask.all()
    np.testing.assert_allclose(whole.offsets, line.offsets, atol=1e-5)
    assert not short.mask.any()
    assert not short.offsets.any()
    empty = st.Strokes(np.zeros((3, 0, 2), np.float32), np.zeros((3, 0)), np.zeros((3, 0), bool))
    with pytest.raises(ValueError, match=r"resample_count: strokes must be .*got shape \(3, 0\)"):
        st.resample_count(empty, 4)
    with pytest.raises(ValueError, match="resample_count: num_points must be at least 2, got 1"):
        st.resample_count(line, 1)


def test_count_under_vmap_and_with_finite_derivatives():
    batch = jax.tree.map(jnp.asarray, _batch(_corpus(7), rows=9))
    resample = jax.jit(lambda lines: st.resample_count(lines, 60))
    whole, rows = resample(batch), jax.vmap(resample)(batch)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(rows), strict=True):
        np.testing.assert_array_equal(a, b)

    def size(offsets):
        lines = resample(dataclasses.replace(batch, offsets=offsets))
        return (lines.offsets**2).sum()

    assert np.isfinite(jax.jit(jax.grad(size))(batch.offsets)).all()


@settings(max_examples=60, deadline=None)
@given(
    hst.lists(
        hst.tuples(hst.integers(-9, 9), hst.integers(-9, 9), hst.booleans()),
        min_size=1,
        max_size=12,
    ),
    hst.sampled_from([0.3, 1.0, 4.0]),
)
def test_arc_length_never_leaves_the_path(points, spacing):
    xy, pen_up = np.array([p[:2] for p in points]), np.array([p[2] for p in points])
    corpus = st.Corpus.from_positions(xy, pen_up, [len(xy)], ["a"], [""])
    new = st.resample_arc_length(corpus, spacing)
    new = dataclasses.replace(new, times=np.zeros(new.lengths.sum(), np.float32))
    corpus = dataclasses.replace(corpus, times=np.zeros(len(xy), np.float32))
    for (a, _), (b, _) in zip(_strokes(corpus, 0), _strokes(new, 0), strict=True):
        gaps = np.diff(_travelled(b))
        assert (gaps <= _travelled(a)[-1] / max(len(b) - 1, 1) + 1e-4).all()
        np.testing.assert_allclose(b[[0, -1]], a[[0, -1]], atol=1e-4)
