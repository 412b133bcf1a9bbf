"""Ramer-Douglas-Peucker: as a plain recursion does it, and no point farther than the tolerance."""

import dataclasses
import importlib
import itertools
from fractions import Fraction

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as hst

from mdnjax import strokes as st


def _distance(p, a, b):
    """Of a point from the segment, float64."""
    chord = b - a
    square = chord @ chord
    u = np.clip((p - a) @ chord / square, 0, 1) if square else 0.0
    return np.hypot(*(p - a - u * chord))


def _square(p, a, b):
    """The square of that distance, exactly."""
    (px, py), (cx, cy) = (p[0] - a[0], p[1] - a[1]), (b[0] - a[0], b[1] - a[1])
    square = cx * cx + cy * cy
    u = min(max((px * cx + py * cy) / square, Fraction(0)), Fraction(1)) if square else 0
    return (px - u * cx) ** 2 + (py - u * cy) ** 2


def _recursive(xy, begin, end, tolerance):
    """The points kept strictly between two that are: the textbook's recursion."""
    if end - begin < 2:
        return []
    squares = [_square(xy[i], xy[begin], xy[end]) for i in range(begin + 1, end)]
    if max(squares) <= Fraction(tolerance) ** 2:
        return []
    middle = begin + 1 + squares.index(max(squares))
    left = _recursive(xy, begin, middle, tolerance)
    return [*left, middle, *_recursive(xy, middle, end, tolerance)]


def _expected(xy, pen_up, tolerance):
    xy = [(Fraction(x), Fraction(y)) for x, y in xy.tolist()]
    ends = sorted({len(xy) - 1, *np.flatnonzero(pen_up).tolist()})
    kept, begin = [], 0
    for end in ends:
        inner = _recursive(xy, begin, end, tolerance)
        kept += sorted({begin, *inner, end})
        begin = end + 1
    return kept


def _corpus(lines, **options):
    xy = np.concatenate([xy for xy, _ in lines])
    pen_up = np.concatenate([pen_up for _, pen_up in lines])
    ids = [f"a-{i}" for i in range(len(lines))]
    return st.Corpus.from_positions(
        xy, pen_up, [len(p) for _, p in lines], ids, [""] * len(lines), **options
    )


def _drawing(seed, length=300):
    """A smooth pen with some strokes, off any lattice: no ties."""
    rng = np.random.default_rng(seed)
    steps = np.cumsum(rng.normal(size=(length, 2)), axis=0)
    return np.cumsum(steps / (1 + np.abs(steps)), axis=0) * 4, rng.random(length) < 0.02


# So few places that points repeat, strokes close, and distances tie.
_points = hst.lists(
    hst.tuples(hst.integers(-6, 6), hst.integers(-6, 6), hst.booleans()), min_size=1, max_size=25
)


@settings(max_examples=200, deadline=None)
@given(_points, _points, hst.sampled_from([0.0, 0.75, 1.25, 3.0, 100.0]))
def test_every_dropped_point_is_within_the_tolerance_of_what_is_left(first, second, tolerance):
    lines = [(np.array([p[:2] for p in q]), np.array([p[2] for p in q])) for q in (first, second)]
    corpus = _corpus(lines)
    simple = st.simplify(corpus, tolerance)
    for i, (xy, pen_up) in enumerate(lines):
        xy = xy - xy[0]
        left, left_up = simple.positions(i), simple[i].pen_up
        # Strokes keep their ends, and what is left are points of the stroke, in order.
        old = np.split(xy, np.flatnonzero(pen_up[:-1]) + 1)
        new = np.split(left, np.flatnonzero(left_up[:-1]) + 1)
        assert len(old) == len(new)
        for a, b in zip(old, new, strict=True):
            assert b[0].tolist() == a[0].tolist()
            assert b[-1].tolist() == a[-1].tolist()
            assert len(b) == min(len(a), 2) or len(b) > 2
            at = 0
            for p in b:
                at += next(k for k, q in enumerate(a[at:].tolist()) if q == p.tolist())
            segments = list(itertools.pairwise(b)) or [(b[0], b[0])]
            for p in a:
                assert min(_distance(p, u, v) for u, v in segments) <= tolerance + 1e-12


@settings(max_examples=200, deadline=None)
@given(_points, hst.sampled_from([0.0, 0.75, 1.25, 3.0]))
def test_whole_coordinates_are_simplified_exactly_as_the_recursion_does_it(points, tolerance):
    xy, pen_up = np.array([p[:2] for p in points]), np.array([p[2] for p in points])
    simple = st.simplify(_corpus([(xy, pen_up)]), tolerance)
    kept = _expected(xy, pen_up, tolerance)
    assert simple.positions(0).tolist() == (xy[kept] - xy[0]).tolist()
    np.testing.assert_array_equal(simple[0].pen_up, pen_up[kept])


@pytest.mark.parametrize("tolerance", [0.0, 0.3, 2.0, 30.0])
def test_a_corpus_is_simplified_as_the_recursion_does_it(tolerance):
    lines = [_drawing(seed, length) for seed, length in enumerate([300, 1, 2, 57])]
    times = np.concatenate([np.arange(len(xy)) / 100 for xy, _ in lines])
    corpus = _corpus(lines, times=times, writers=["w"] * 4, parts=["test"] * 4, resolution=0.5)
    # Offsets are float32: the recursion gets what the corpus holds.
    simple = st.simplify(corpus, tolerance)
    assert (simple.parts.tolist(), simple.resolution) == (["test"] * 4, 0.5)
    for i, (_, pen_up) in enumerate(lines):
        xy = np.cumsum(corpus[i].offsets, axis=0, dtype=np.float64)
        kept = _expected(xy, pen_up, tolerance)
        assert simple.lengths[i] == len(kept)
        np.testing.assert_allclose(simple.positions(i), xy[kept], atol=1e-4)
        np.testing.assert_array_equal(simple[i].pen_up, pen_up[kept])
        begin = simple.starts[i]
        np.testing.assert_allclose(
            simple.times[begin : begin + len(kept)], np.array(kept) / 100, rtol=1e-6
        )


@pytest.mark.parametrize("tolerance", [0.5, 2.0, 30.0])
def test_padded_lines_are_simplified_alike_on_the_device(tolerance):
    corpus = _corpus([_drawing(seed, length) for seed, length in enumerate([130, 1, 2, 57])])
    batch = st.gather_lines(corpus, np.arange(4), 140, rows=5)
    simple = jax.jit(st.simplify, static_argnums=1)(batch, tolerance)
    host = st.simplify(corpus, tolerance)
    expected = st.gather_lines(host, np.arange(4), 140, rows=5)
    np.testing.assert_array_equal(simple.mask, expected.mask)
    np.testing.assert_array_equal(simple.pen_up, expected.pen_up)
    np.testing.assert_allclose(simple.offsets, expected.offsets, rtol=1e-5, atol=1e-4)
    assert not np.asarray(simple.offsets)[~expected.mask].any()


def test_whole_coordinates_stay_whole_and_ties_go_to_the_first():
    # 1 and 3 are equally far from the segment (0, 0)-(4, 0), 2 is on it.
    xy = np.array([[0, 0], [1, 3], [2, 0], [3, -3], [4, 0]]) * 1000
    corpus = _corpus([(xy, np.zeros(5, bool))])
    assert st.simplify(corpus, 3000.0).positions(0).tolist() == [[0, 0], [4000, 0]]
    assert st.simplify(corpus, 2999.9).positions(0).tolist() == [
        [0, 0],
        [1000, 3000],
        [3000, -3000],
        [4000, 0],
    ]


def test_a_bar_drawn_to_and_fro_keeps_its_tip():
    bar = np.array([[0, 0], [50, 0], [100, 0], [60, 0], [20, 0]])
    assert st.simplify(_corpus([(bar, np.zeros(5, bool))]), 2.0).positions(0).tolist() == [
        [0, 0],
        [100, 0],
        [20, 0],
    ]
    closed = np.array([[0, 0], [5, 0], [9, 9], [0, 5], [0, 0]])
    assert st.simplify(_corpus([(closed, np.zeros(5, bool))]), 5.0).lengths.tolist() == [3]


def test_a_long_zigzag_that_splits_one_point_at_a_time_is_no_deep_recursion():
    n = 3000
    xy = np.stack([np.arange(n), np.where(np.arange(n) % 2, np.arange(n), 0)], axis=1)
    simple = st.simplify(_corpus([(xy, np.zeros(n, bool))]), 0.5)
    assert simple.lengths[0] > 0.99 * n


def test_many_strokes_are_split_into_chunks_without_a_seam(monkeypatch):
    lines = [_drawing(seed, 40) for seed in range(12)]
    whole = st.simplify(_corpus(lines), 1.0)
    module = importlib.import_module("mdnjax.strokes.simplify")
    monkeypatch.setattr(module, "_CHUNK", 64)
    parts = st.simplify(_corpus(lines), 1.0)
    np.testing.assert_array_equal(whole.strokes.offsets, parts.strokes.offsets)
    np.testing.assert_array_equal(whole.lengths, parts.lengths)


def test_nothing_to_simplify_and_nothing_to_allow():
    corpus = _corpus([_drawing(0, 9)])
    none = st.simplify(corpus.subset([]), 1.0)
    assert len(none) == len(none.strokes.pen_up) == 0
    for tolerance in (-1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="simplify: tolerance must be finite and at least 0"):
            st.simplify(corpus, tolerance)
    empty = st.Strokes(np.zeros((3, 0, 2), np.float32), np.zeros((3, 0)), np.zeros((3, 0), bool))
    with pytest.raises(ValueError, match=r"simplify: strokes must be .*got shape \(3, 0\)"):
        st.simplify(empty, 1.0)


def test_an_overflow_is_named():
    xy = np.array([[0, 0], [2e38, 0], [3.4e38, 0]])
    corpus = _corpus([(xy, np.zeros(3, bool))])
    huge = dataclasses.replace(
        corpus,
        strokes=dataclasses.replace(corpus.strokes, offsets=np.float32([[0, 0]] + [[3e38, 0]] * 2)),
    )
    with pytest.raises(
        ValueError, match="simplify: corpus must be of lines whose result is finite"
    ):
        st.simplify(huge, 1.0)
