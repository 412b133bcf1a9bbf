import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdnjax.strokes.formats import StrokeFormatError, read, read_quickdraw, recognise

RAW = [
    [[10.5, 13.5, 13.5], [20, 24, 30], [0, 8, 24]],
    [[50], [60], [120]],
    [[55, 56], [61, 62.25], [200, 208]],
]
OFFSETS = [[0, 0], [3, 4], [0, 6], [36.5, 30], [5, 1], [1, 1.25]]
PEN_UP = [0, 0, 1, 1, 0, 1]
TIMES = [0, 0.008, 0.024, 0.12, 0.2, 0.208]


def line(drawing, word="cat", key="42", **more):
    fields = {"word": word, "countrycode": "GB", "recognized": True, "key_id": key}
    return json.dumps(fields | more | {"drawing": drawing}) + "\n"


def simplified(drawing):
    return [[[int(x) for x in xs], [int(y) for y in ys]] for xs, ys, *_ in drawing]


def put(file, *lines):
    file.write_text("".join(lines), encoding="utf-8")
    return file


def test_raw_drawings(tmp_path):
    file = put(tmp_path / "any name", line(RAW), line(RAW[:1], "The Eiffel Tower", "7"))
    assert recognise(file) == "quickdraw"
    drawings = read(file, strict=True)
    np.testing.assert_array_equal(drawings[0].offsets, OFFSETS)
    np.testing.assert_array_equal(drawings[0].pen_up, PEN_UP)
    np.testing.assert_allclose(drawings.times, TIMES + TIMES[:3], rtol=1e-6)
    assert drawings.lengths.tolist() == [6, 3]
    assert drawings.texts.tolist() == ["cat", "The Eiffel Tower"]
    assert drawings.ids.tolist() == ["cat/42", "The Eiffel Tower/7"]
    assert (drawings.unit, drawings.resolution) == ("px", 1.0)
    assert drawings.writers is None
    assert drawings.parts is None


def test_simplified_drawings_have_no_time(tmp_path):
    drawings = read(put(tmp_path / "a", line(simplified(RAW))), strict=True)
    np.testing.assert_array_equal(drawings[0].offsets[:4], [[0, 0], [3, 4], [0, 6], [37, 30]])
    np.testing.assert_array_equal(drawings[0].pen_up, PEN_UP)
    assert drawings.times is None
    assert drawings.resolution == 1.0


def test_each_drawing_is_its_own_form(tmp_path):
    file = put(tmp_path / "a", line(RAW, "t-shirt", "1"), line(RAW, "t-shirt", "2"))
    drawings = read(file, strict=True)
    assert drawings.texts.tolist() == ["t-shirt", "t-shirt"]
    assert drawings.forms.tolist() == drawings.ids.tolist() == ["t_shirt/1", "t_shirt/2"]


def test_strokes_without_points_leave_no_trace(tmp_path):
    drawing = [[[], [], []], RAW[0], [[], [], []], RAW[1], RAW[2], [[], [], []]]
    drawings = read(put(tmp_path / "a", line(drawing)), strict=True)
    np.testing.assert_array_equal(drawings[0].offsets, OFFSETS)
    np.testing.assert_array_equal(drawings[0].pen_up, PEN_UP)


def test_a_clock_that_runs_backwards_stands_still(tmp_path):
    back = [[[0, 1, 2, 3], [0, 0, 0, 0], [100, 300, 200, 350]], [[4, 5], [0, 0], [340, 400]]]
    file = put(tmp_path / "a", line(RAW), line(back), line([[[0, 1], [0, 0], [500, 501]]]))
    drawings = read(file, strict=True)
    np.testing.assert_allclose(
        drawings.times, [*TIMES, 0, 0.2, 0.2, 0.25, 0.25, 0.3, 0, 0.001], rtol=1e-5, atol=1e-9
    )


def test_a_byte_order_mark_blank_lines_and_other_line_ends(tmp_path):
    file = tmp_path / "a"
    text = f"\ufeff{line(RAW)}\n  \n{line(RAW, key='43')}".replace("\n", "\r\n").rstrip()
    file.write_bytes(text.encode())
    assert read(file, strict=True).ids.tolist() == ["cat/42", "cat/43"]


BROKEN = [
    ("{", "Expecting property name"),
    ("[1, 2]", "a JSON list, expected an object"),
    (line(RAW)[:-9], "Expecting"),
    (line(RAW).replace("key_id", "key"), "no 'key_id'"),
    (line(RAW).replace('"word"', '"ward"'), "no 'word'"),
    (line(RAW).replace("drawing", "drowing"), "no 'drawing'"),
    (line(RAW)[:-2] + "," + line(RAW, key="8")[1:], "a field stands there twice"),
    (line(RAW, word=""), "the word is '', expected a string"),
    (line(RAW, word="a\tb"), r"the word is 'a\\tb', which cannot be printed"),
    (line(RAW, word="\ud800"), "cannot be printed"),
    (line(RAW, word="a" * 201), "the word is 201 letters long, expected 200 at most"),
    (line(RAW, key=42), "the key_id is '42', expected a string"),
    (line([]), "not a list of strokes"),
    (line({"x": 1}), "not a list of strokes"),
    (line([5]), r"stroke 1: expected \[xs, ys\]"),
    (line([[[1], [2], [3], [4]]]), r"stroke 1: expected \[xs, ys\]"),
    (line([*RAW, RAW[0][:2]]), "stroke 4: expected 3 lists, as in stroke 1"),
    (line([RAW[0], [[1, 2], [3], [4, 5]]]), "stroke 2: expected 3 lists of one length"),
    (line([RAW[0], [[1, 2], [3, 4], []]]), "stroke 2: expected 3 lists of one length"),
    (line([RAW[0], [[1, 2], [3, 4], None]]), "stroke 2: expected 3 lists of one length"),
    (line([[[], [], []]]), "no points"),
    (line([[[1, "2"], [3, 4], [5, 6]]]), "one x is not a number"),
    (line([[[1, 2], [3, True], [5, 6]]]), "one y is not a number"),
    (line([[[1, 2], [3, 4], [5, None]]]), "one time is not a number"),
    (line([[[1, [2]], [3, 4], [5, 6]]]), "one x is not a number"),
    (line([[[1, float("nan")], [3, 4], [5, 6]]]), "NaN is no coordinate"),
    (line([[[1, float("-inf")], [3, 4], [5, 6]]]), "-Infinity is no coordinate"),
    (line(RAW).replace("10.5", "1e999"), "one x is not less than 8388608 in size"),
    (line(RAW).replace("10.5", "-8388608"), "one x is not less than 8388608 in size"),
    (line(RAW).replace("10.5", "9" * 5000), "Exceeds the limit"),
    (line(RAW).replace("[0, 8, 24]", "[0, 1e17, 24]"), "one time is not less than"),
    (line("[" * 100_000).replace('"[', "[").replace('["', "["), "recursion|Recursion"),
    (line(simplified(RAW)), "a simplified drawing, but those of .* are raw"),
]


@pytest.mark.parametrize(("bad", "words"), BROKEN, ids=[words for _, words in BROKEN])
def test_a_broken_drawing_is_skipped_and_counted(tmp_path, bad, words):
    file = put(tmp_path / "a", line(RAW, key="1"), bad.strip() + "\n", line(RAW, key="3"))
    with pytest.warns(UserWarning, match=r"drawings skipped: 1, read: 2\)") as caught:
        drawings = read(file)
    assert len(caught) == 1
    assert re.search(f"{re.escape(str(file))}: line 2: .*(?:{words})", str(caught[0].message))
    assert drawings.ids.tolist() == ["cat/1", "cat/3"]
    with pytest.raises(StrokeFormatError, match=f"line 2: .*(?:{words})"):
        read(file, strict=True)


def test_where_nothing_can_be_read_the_first_reason_is_said(tmp_path):
    file = put(tmp_path / "a", line([]), line(RAW)[:50])
    with pytest.raises(StrokeFormatError, match=r"no drawing could be read; first: .* line 1: the"):
        read_quickdraw(file)
    with pytest.raises(StrokeFormatError, match="no drawing could be read"):
        read_quickdraw(put(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError):
        read_quickdraw(tmp_path / "absent")


def test_a_folder(tmp_path):
    put(tmp_path / "b.ndjson", line(RAW, "bee"))
    put(tmp_path / "a.ndjson", line(RAW, "ant"))
    put(tmp_path / "README.md", "the drawings")
    put(tmp_path / ".hidden.ndjson", "no drawing")
    assert recognise(tmp_path) == "quickdraw"
    assert read(tmp_path, strict=True).texts.tolist() == ["ant", "bee"]

    put(tmp_path / "c.ndjson", "")
    with pytest.warns(UserWarning, match=r"c\.ndjson: file: not of the format of its neighbours"):
        assert len(read(tmp_path)) == 2
    put(tmp_path / "c.ndjson", line(simplified(RAW)))
    with pytest.raises(StrokeFormatError, match=r"c\.ndjson: line 1: a simplified drawing, but"):
        read(tmp_path)


def test_a_line_without_end_is_not_read_to_its_end(tmp_path):
    file = put(tmp_path / "a", line(RAW), " " * (17 << 20))
    with pytest.raises(StrokeFormatError, match="line 2: longer than 16 MiB"):
        read(file)


coordinates = st.integers(-(2**22), 2**22) | st.floats(-(2.0**22), 2.0**22)
strokes = st.lists(st.tuples(coordinates, coordinates, st.integers(0, 500)), max_size=6)
drawings = st.lists(strokes, min_size=1, max_size=4).filter(any)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.text("ab -é", min_size=1), drawings), min_size=1, max_size=4))
def test_what_is_written_is_read(tmp_path_factory, items):
    lines, expected = [], []
    for number, (word, strokes) in enumerate(items):
        columns, clock = [], 0
        for stroke in strokes:
            xs, ys, steps = ([point[i] for point in stroke] for i in range(3))
            ts = (clock + np.cumsum(steps)).astype(int).tolist()
            clock = ts[-1] if ts else clock
            columns.append([xs, ys, ts])
        lines.append(line(columns, word, f"{number}"))
        expected.append([point for stroke in columns for point in zip(*stroke, strict=True)])
    read_back = read_quickdraw(put(tmp_path_factory.mktemp("q") / "a", *lines), strict=True)
    assert read_back.texts.tolist() == [word for word, _ in items]
    for number, points in enumerate(expected):
        xy = np.array(points)[:, :2]
        steps = np.diff(xy, axis=0, prepend=xy[:1]).astype(np.float32)
        np.testing.assert_array_equal(read_back[number].offsets, steps)
        start = read_back.starts[number]
        ts = np.array(points)[:, 2]
        np.testing.assert_allclose(
            read_back.times[start : start + len(ts)], (ts - ts[0]) / 1000, rtol=1e-6
        )
        ends = np.cumsum([len(stroke) for stroke in items[number][1] if stroke]) - 1
        np.testing.assert_array_equal(np.flatnonzero(read_back[number].pen_up), ends)


def test_real_drawings(data_dir):
    folder = data_dir / "quickdraw" / "raw"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    drawings = read(folder, strict=True)
    assert dict(zip(*np.unique(drawings.texts, return_counts=True), strict=True)) == {
        "cat": 25,
        "fish": 35,
        "square": 46,
    }
    # Straight from the JSON of one drawing.
    fields = json.loads((folder / "fish.ndjson").read_text().splitlines()[3])
    at = drawings.ids.tolist().index(f"fish/{fields['key_id']}")
    points = np.array([p for stroke in fields["drawing"] for p in zip(*stroke, strict=True)])
    np.testing.assert_allclose(drawings.positions(at), points[:, :2] - points[0, :2], atol=1e-3)
    start = drawings.starts[at]
    times = drawings.times[start : start + len(points)]
    np.testing.assert_allclose(times, points[:, 2] / 1000 - points[0, 2] / 1000, rtol=1e-6)

    archive = dict(np.load(data_dir / "quickdraw" / "quickdraw_raw.npz").items())
    known = {
        (word, int(length))
        for word, length in zip(archive["words"], archive["lengths"], strict=True)
    }
    both = [(w, int(n)) in known for w, n in zip(drawings.texts, drawings.lengths, strict=True)]
    assert np.mean(both) > 0.3
