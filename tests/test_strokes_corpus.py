import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from made_clock import within

from mdnjax.strokes.corpus import Corpus
from mdnjax.strokes.structure import Strokes

LENGTHS = [3, 1, 4]
XY = np.array(
    [[1035, 1064], [1055, 1085], [1055, 1096], [7, 7], [10, 9], [3, 4], [3, 4], [-5, 60]], np.int32
)
PEN_UP = np.array([0, 1, 1, 1, 0, 0, 0, 1], np.uint8)
IDS = ["a01-000u-01", "a01-000u-02", "b-1"]
TEXTS = ["By", "", "Mr. Große"]


def corpus(**changes) -> Corpus:
    arguments = {"xy": XY, "pen_up": PEN_UP, "lengths": LENGTHS, "ids": IDS, "texts": TEXTS}
    return Corpus.from_positions(**(arguments | changes))


def test_offsets_are_the_steps_within_each_line_and_zero_at_its_start():
    expected = [[0, 0], [20, 21], [0, 11], [0, 0], [0, 0], [-7, -5], [0, 0], [-8, 56]]
    lines = corpus()
    np.testing.assert_array_equal(lines.strokes.offsets, expected)
    np.testing.assert_array_equal(lines.strokes.pen_up, PEN_UP)
    assert lines.strokes.mask.all()
    assert lines.strokes.offsets.dtype == lines.strokes.pen_up.dtype == np.float32
    assert lines.lengths.dtype == np.int64
    assert lines.unit == "device"
    assert lines.writers is None


def test_a_line_is_a_view_and_its_positions_start_at_zero():
    lines = corpus()
    start = 0
    for i, length in enumerate(LENGTHS):
        line = lines[i]
        assert isinstance(line, Strokes)
        assert np.shares_memory(line.offsets, lines.strokes.offsets)
        expected = XY[start : start + length] - XY[start]
        np.testing.assert_array_equal(lines.positions(i), expected)
        np.testing.assert_array_equal(line.pen_up, PEN_UP[start : start + length])
        assert line.mask.shape == (length,)
        start += length
    np.testing.assert_array_equal(lines[-1].offsets, lines[2].offsets)
    np.testing.assert_array_equal(lines[np.int64(1)].offsets, lines[1].offsets)
    assert len(list(lines)) == len(lines) == 3


@pytest.mark.parametrize("index", [3, -4])
def test_an_index_out_of_range_says_so(index):
    with pytest.raises(IndexError, match=f"index {index} is out of range for 3 lines"):
        corpus()[index]


def test_forms_are_the_ids_up_to_the_last_dash():
    assert corpus().forms.tolist() == ["a01-000u", "a01-000u", "b"]
    assert corpus(ids=["alone", "x-", "-x"]).forms.tolist() == ["alone", "x", "-x"]


@pytest.mark.parametrize(
    "indices", [[2, 0], [1], [2, 2, 0, 2], [-1], [], np.array([True, False, True]), range(3)]
)
def test_subset_takes_whole_lines_in_the_order_asked_for(indices):
    lines = corpus(writers=["anna", "", "bert"], unit="mm")
    chosen = lines.subset(indices)
    numbers = np.arange(3)[np.array(indices, dtype=None if len(indices) else int)]
    assert len(chosen) == len(numbers)
    for i, number in enumerate(numbers):
        np.testing.assert_array_equal(chosen[i].offsets, lines[number].offsets)
        np.testing.assert_array_equal(chosen[i].pen_up, lines[number].pen_up)
        assert chosen[i].mask.all()
        assert chosen.ids[i] == lines.ids[number]
        assert chosen.texts[i] == lines.texts[number]
        assert chosen.writers[i] == lines.writers[number]
    assert chosen.unit == "mm"
    assert len(chosen.strokes.offsets) == chosen.lengths.sum()


def test_subset_of_a_line_that_is_not_there():
    with pytest.raises(IndexError):
        corpus().subset([0, 3])


def test_what_came_in_stays_writable_and_what_went_out_cannot_be_changed():
    offsets = np.zeros((8, 2), np.float32)
    lines = Corpus.from_offsets(offsets, PEN_UP, LENGTHS, IDS, TEXTS)
    assert np.shares_memory(offsets, lines.strokes.offsets)
    with pytest.raises(ValueError, match="read-only"):
        lines[0].offsets[1] = 5.0
    offsets[1] = 5.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        lines.unit = "mm"
    assert jnp.asarray(lines[0].offsets).shape == (3, 2)


def test_offsets_keep_their_dtype_and_integers_stay_exact():
    offsets = np.zeros((2, 2), np.float64)
    offsets[1] = 0.1
    kept = Corpus.from_offsets(offsets, np.array([0, 1]), [2], ["a"], [""])
    assert kept.strokes.offsets.dtype == kept.strokes.pen_up.dtype == np.float64
    assert kept.positions(0)[1, 0] == 0.1

    rng = np.random.default_rng(0)
    xy = rng.integers(-(2**23) + 1, 2**23, (4000, 2))
    exact = corpus(xy=xy, pen_up=np.ones(4000), lengths=[4000], ids=["a"], texts=[""])
    steps = np.diff(xy, axis=0)
    assert np.abs(steps).max() > 2**23
    np.testing.assert_array_equal(exact.strokes.offsets[1:].astype(np.int64), steps)
    np.testing.assert_array_equal(exact.positions(0).astype(np.int64), xy - xy[0])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint32, np.int8, np.int64, np.float32, ">i4"])
def test_positions_of_any_number_type(dtype):
    xy = np.array([[100, 3], [0, 5], [127, 0]]).astype(dtype)
    lines = corpus(xy=xy, pen_up=np.ones(3, bool), lengths=np.array([3]), ids=["a"], texts=["x"])
    np.testing.assert_array_equal(lines.strokes.offsets, [[0, 0], [-100, 2], [127, -5]])


def test_an_empty_corpus_is_a_corpus():
    empty = Corpus.from_positions(np.zeros((0, 2)), np.zeros(0), [], [], [])
    assert len(empty) == len(empty.forms) == len(empty.strokes.offsets) == 0
    assert len(empty.subset([])) == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lengths": [3, 1, 3]}, "lengths must be 8 points in all, got a sum of 7"),
        ({"lengths": [4, 0, 4]}, "lengths must be between 1 and 8 points each"),
        ({"lengths": [9, -5, 4]}, "lengths must be between 1 and 8 points each"),
        ({"lengths": np.array([2**63, 3, 5], np.uint64)}, "lengths must be between"),
        ({"lengths": [8]}, "ids must be 1 strings, got"),
        ({"ids": IDS[:2]}, "ids must be 3 strings, got"),
        ({"texts": [*TEXTS, "more"]}, "texts must be 3 strings, got"),
        ({"writers": ["one"]}, "writers must be 3 strings, got"),
        ({"xy": np.where(XY == 7, np.nan, XY)}, "xy must be finite, got NaN"),
        ({"xy": np.where(XY == 9, np.inf, XY)}, "xy must be finite, got NaN or inf"),
        ({"xy": np.where(XY == 9, 1e39, XY)}, "offsets must be finite in float32"),
        ({"pen_up": PEN_UP + 1}, "pen_up must be 0 or 1 everywhere"),
        ({"pen_up": np.full(8, np.nan)}, "pen_up must be 0 or 1 everywhere"),
        ({"pen_up": np.full(8, "1")}, "pen_up must be 0 or 1 everywhere"),
    ],
)
def test_what_does_not_fit_is_named(changes, words):
    with pytest.raises(ValueError, match=words) as error:
        corpus(**changes)
    assert str(error.value).startswith("Corpus.from_positions: ")


def test_a_first_step_that_is_not_zero_is_refused():
    offsets = np.zeros((8, 2), np.float32)
    offsets[3, 1] = 1.0
    with pytest.raises(ValueError, match=r"Corpus\.from_offsets: offsets must be zero where"):
        Corpus.from_offsets(offsets, PEN_UP, LENGTHS, IDS, TEXTS)


def test_three_million_points_are_taken_in_without_a_loop():
    lengths = np.full(5000, 600)
    xy = np.random.default_rng(0).integers(0, 9000, (lengths.sum(), 2), np.int32)
    pen_up = np.zeros(len(xy), np.uint8)
    names = [f"f-{i}" for i in range(5000)]
    # A loop over the points would take some three seconds; this takes a tenth of one.
    with within(1.5):
        lines = corpus(xy=xy, pen_up=pen_up, lengths=lengths, ids=names, texts=names)
        shuffled = lines.subset(np.arange(5000)[::-1])
    np.testing.assert_array_equal(shuffled[0].offsets, lines[-1].offsets)


TIMES = np.array([0, 0.01, 0.01, 0, 0, 0.5, 0.5, 2])
PARTS = ["train", "test", "valid"]


def test_parts_times_and_resolution_come_in_by_either_door_and_stay_with_their_lines():
    extras = {"parts": PARTS, "times": TIMES, "resolution": 0.25}
    lines = corpus(**extras)
    again = Corpus.from_offsets(lines.strokes.offsets, PEN_UP, LENGTHS, IDS, TEXTS, **extras)
    for built in (lines, again):
        assert built.parts.tolist() == PARTS
        assert built.times.dtype == np.float32
        np.testing.assert_array_equal(built.times, TIMES.astype(np.float32))
        assert built.resolution == 0.25
        with pytest.raises(ValueError, match="read-only"):
            built.times[0] = 1.0
    chosen = lines.subset([2, 0])
    assert chosen.parts.tolist() == ["valid", "train"]
    np.testing.assert_array_equal(chosen.times, TIMES.astype(np.float32)[[4, 5, 6, 7, 0, 1, 2]])
    assert chosen.resolution == 0.25
    plain = corpus()
    assert plain.parts is plain.times is plain.subset([1]).parts is plain.subset([1]).times is None
    assert plain.resolution == 1.0


def changed(array, index, value):
    array = np.array(array)
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parts": PARTS[:2]}, "parts must be 3 strings, got"),
        (
            {"parts": ["train", "dev", "test"]},
            r"parts must be each one of train.*, got also \['dev",
        ),
        ({"times": changed(TIMES, 2, 0.0)}, "times must be rising within a line, got less at po"),
        ({"times": changed(TIMES, 3, 1.0)}, "times must be zero where a line starts"),
        ({"times": changed(TIMES, 7, np.nan)}, "times must be finite numbers"),
        ({"times": changed(TIMES, 7, 1e39)}, "times must be finite in float32"),
        ({"resolution": 0.0}, "resolution must be positive and finite, got 0.0"),
        ({"resolution": -1.0}, "resolution must be positive and finite, got -1.0"),
        ({"resolution": float("nan")}, "resolution must be positive and finite, got nan"),
        ({"resolution": float("inf")}, "resolution must be positive and finite, got inf"),
    ],
)
def test_parts_times_and_resolution_that_do_not_fit_are_named(changes, words):
    with pytest.raises(ValueError, match=words) as error:
        corpus(**changes)
    assert str(error.value).startswith("Corpus.from_positions: ")


def test_times_of_an_empty_corpus():
    empty = np.zeros((0, 2)), np.zeros(0), [], [], []
    assert Corpus.from_positions(*empty, parts=[], times=np.zeros(0)).times.shape == (0,)
