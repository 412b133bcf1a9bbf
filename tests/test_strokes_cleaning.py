"""Cleaning: planted faults are found and nothing else is touched."""

import numpy as np
import pytest

from mdnjax import strokes as st


def _corpus(lines):
    """Lines as lists of strokes, each a list of positions."""
    xy = np.array([p for line in lines for stroke in line for p in stroke])
    pen_up = [
        int(i == len(stroke) - 1) for line in lines for stroke in line for i in range(len(stroke))
    ]
    lengths = [sum(len(stroke) for stroke in line) for line in lines]
    ids = [f"a-{n}" for n in range(len(lines))]
    return st.Corpus.from_positions(xy, np.array(pen_up), lengths, ids, ["t"] * len(lines))


def _straight(x, y, n, step=10):
    return [[x + step * i, y] for i in range(n)]


def test_clean_writing_stays_as_it_is():
    corpus = _corpus([[_straight(0, 0, 8), _straight(90, 30, 5)], [_straight(0, 0, 6)]])
    cleaned, report = st.clean(corpus)
    assert report == st.CleaningReport(10.0, 0, 0, 0, 0)
    np.testing.assert_array_equal(cleaned.strokes.offsets, corpus.strokes.offsets)
    np.testing.assert_array_equal(cleaned.strokes.pen_up, corpus.strokes.pen_up)
    np.testing.assert_array_equal(cleaned.lengths, corpus.lengths)


@pytest.mark.parametrize("missing", [2, 3, 4])
def test_missing_readings_come_back(missing):
    whole = _straight(0, 0, 12)
    holed = whole[:4] + whole[4 + missing :]
    other = _straight(0, 5, 9)
    cleaned, report = st.clean(_corpus([[holed], [other]]))
    assert (report.gaps_filled, report.points_added) == (1, missing)
    assert (report.points_dropped, report.lifts_capped) == (0, 0)
    expected = _corpus([[whole], [other]])
    np.testing.assert_array_equal(cleaned.strokes.offsets, expected.strokes.offsets)
    np.testing.assert_array_equal(cleaned.strokes.pen_up, expected.strokes.pen_up)
    np.testing.assert_array_equal(cleaned.lengths, expected.lengths)
    assert cleaned.ids.tolist() == expected.ids.tolist()


def test_interpolated_points_lie_on_the_grid_and_add_up():
    stroke = [[0, 0], [10, 1], [20, 2], [51, 8], [61, 9], [71, 10], [81, 12]]
    cleaned, report = st.clean(_corpus([[stroke]]), median_step=10.0)
    assert (report.gaps_filled, report.points_added) == (1, 2)
    # The step (31, 6) in three: ends at round(31/3), round(62/3), 31 and 2, 4, 6.
    assert cleaned.positions(0)[2:6].tolist() == [[20, 2], [30, 4], [41, 6], [51, 8]]
    free, _ = st.clean(_corpus([[stroke]]), median_step=10.0, grid=None)
    np.testing.assert_allclose(free.positions(0)[3], [20 + 31 / 3, 4], rtol=1e-6)


def test_neither_a_turn_nor_a_pause_nor_a_short_hole_is_a_gap():
    turn = [[0, 0], [10, 0], [20, 0], [20, 40], [30, 40], [40, 40]]
    slow = [[0, 0], [5, 0], [10, 0], [20, 0], [25, 0], [30, 0]]
    pause = [[0, 0], [10, 0], [10, 0], [40, 0], [60, 0], [70, 0]]
    _, report = st.clean(_corpus([[turn], [slow], [pause]]), median_step=10.0)
    assert report.gaps_filled == 0


def test_over_long_jumps_are_dropped_and_strokes_keep_their_ends():
    jump = [*_straight(0, 0, 4), *_straight(30, 400, 4)]
    at_end = [*_straight(0, 0, 3), [20, 900], [20, 1800]]
    corpus = _corpus([[jump, _straight(100, 400, 3)], [at_end, _straight(30, 1800, 2)]])
    cleaned, report = st.clean(corpus, median_step=10.0)
    assert report == st.CleaningReport(10.0, 0, 0, 3, 0)
    assert cleaned.lengths.tolist() == [10, 5]
    np.testing.assert_array_equal(cleaned.positions(0)[:7], _straight(0, 0, 7))
    # Dropping the last points of a stroke makes the one before them its end.
    assert cleaned[0].pen_up.tolist() == [0] * 6 + [1, 0, 0, 1]
    assert cleaned[1].pen_up.tolist() == [0, 0, 1, 0, 1]
    assert cleaned[1].offsets[3].tolist() == [10, 0]


def test_long_lifts_are_shortened_in_their_direction():
    corpus = _corpus([[_straight(0, 0, 4), _straight(30 + 3000, -4000, 4)]])
    cleaned, report = st.clean(corpus, median_step=10.0)
    assert report == st.CleaningReport(10.0, 0, 0, 0, 1)
    assert cleaned[0].offsets[4].tolist() == [600, -800]
    np.testing.assert_array_equal(cleaned.strokes.pen_up, corpus.strokes.pen_up)


def test_a_gap_with_too_many_missing_is_a_jump_when_too_long():
    stroke = [*_straight(0, 0, 4), *_straight(330, 0, 4)]
    cleaned, report = st.clean(_corpus([[stroke]]), median_step=10.0)
    assert (report.gaps_filled, report.points_dropped) == (0, 1)
    np.testing.assert_array_equal(cleaned.positions(0), _straight(0, 0, 7))


def test_real_lines_lose_no_stroke_and_change_little(data_dir):
    corpus = st.read(data_dir / "iam_ondb" / "train_t1.npz").subset(range(200))
    cleaned, report = st.clean(corpus)
    assert len(cleaned.strokes.pen_up) == len(corpus.strokes.pen_up) + (
        report.points_added - report.points_dropped
    )
    assert cleaned.strokes.pen_up.sum() == corpus.strokes.pen_up.sum()
    assert report.points_dropped + report.points_added < 0.02 * len(corpus.strokes.pen_up)
    assert (cleaned.strokes.offsets == np.rint(cleaned.strokes.offsets)).all()


def test_parts_times_and_resolution_come_along():
    whole, other = _straight(0, 0, 12), _straight(0, 5, 9)
    other[4] = [9000, 0]  # two jumps, there and back
    holed = whole[:4] + whole[7:]
    corpus = _corpus([[holed], [other]])
    times = np.concatenate([[0.01 * (p[0] / 10) for p in holed], np.arange(9) / 50])
    fine = st.Corpus.from_offsets(
        corpus.strokes.offsets * 0.5,
        corpus.strokes.pen_up,
        corpus.lengths,
        corpus.ids,
        corpus.texts,
        parts=["train", "test"],
        times=times,
        resolution=0.5,
    )
    cleaned, report = st.clean(fine)
    assert (report.points_added, report.points_dropped) == (3, 2)
    assert cleaned.parts.tolist() == ["train", "test"]
    assert cleaned.resolution == 0.5
    np.testing.assert_allclose(cleaned.times[:12], np.arange(12) / 100, atol=1e-7)
    assert cleaned.times[12:].tolist() == np.delete(fine.times[9:], [4, 5]).tolist()
    assert st.clean(corpus)[0].times is None


def test_the_grid_is_that_of_the_lattice():
    stroke = [[0, 0], [10, 1], [20, 2], [51, 8], [61, 9], [71, 10], [81, 12]]
    coarse = _corpus([[stroke]])
    rest = coarse.strokes.pen_up, coarse.lengths, coarse.ids, coarse.texts
    fine = st.Corpus.from_offsets(coarse.strokes.offsets / 8, *rest, resolution=0.125)
    expected = st.clean(coarse, median_step=10.0)[0].strokes.offsets / 8
    cleaned = st.clean(fine, median_step=10.0 / 8)[0]
    np.testing.assert_array_equal(cleaned.strokes.offsets, expected)
