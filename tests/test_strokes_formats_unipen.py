import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdnjax.strokes.formats import StrokeFormatError, read, read_unipen, recognise

HEAD = """.VERSION 1.0
.LEXICON "a" "Q"
.COMMENT Class #01: [A] = { "a" }
.HIERARCHY CHARACTER

.COMMENT Lines ".DT 100" are artificial
"""
A = """
.SEGMENT CHARACTER 0 ? "a"
.COMMENT Class [A]

.PEN_DOWN
 557  844
 550  803
 549 -3
.PEN_UP
.DT 100
"""
Q = """
.SEGMENT CHARACTER 1-2 ? "Q"
.COMMENT Class [Q]

.PEN_DOWN
 10 20
 13 24
.PEN_UP
.DT 100
.PEN_DOWN
 50 60
.PEN_UP
.DT 100
"""
LAST = A.replace(" 0 ", " 3 ")
CHARACTERS = HEAD + A + Q + LAST

DIGITS = """.INCLUDE        dene.doc

.LEXICON "0" "5"
.HIERARCHY      DIGIT

.SEGMENT DIGIT    0 ? "0"
.COMMENT 0  6  138
.PEN_DOWN
 273  323
 272  330
.PEN_UP
.DT 100

.SEGMENT DIGIT  1-2 ? "5"
.COMMENT 5 12  192
.PEN_DOWN
 1  1
 2  3
.PEN_UP
.DT 100
.PEN_DOWN
 5  9
.PEN_UP
.DT 100

.SEGMENT DIGIT    3 ? "5"
.COMMENT 5 12  193
.PEN_DOWN
 1  1
.PEN_UP
.DT 100
"""


def put(file, text):
    file.write_bytes(text if isinstance(text, bytes) else text.encode("latin-1"))
    return file


def offsets(corpus):
    return [np.asarray(line.offsets).tolist() for line in corpus]


A_OFFSETS = [[0, 0], [-7, -41], [-1, -806]]
Q_OFFSETS = [[0, 0], [3, 4], [37, 36]]


def test_characters(tmp_path):
    file = put(tmp_path / "UJIpenchars-w07.txt", CHARACTERS)
    assert recognise(file) == "unipen"
    lines = read(file, strict=True)
    assert offsets(lines) == [A_OFFSETS, Q_OFFSETS, A_OFFSETS]
    assert lines.strokes.pen_up.tolist() == [0, 0, 1, 0, 1, 1, 0, 0, 1]
    assert lines.texts.tolist() == ["a", "Q", "a"]
    assert lines.ids.tolist() == ["w07/a/1", "w07/Q/1", "w07/a/2"]
    assert lines.forms.tolist() == lines.ids.tolist()
    assert set(lines.writers.tolist()) == {"w07"}
    assert (lines.unit, lines.resolution, lines.times, lines.parts) == ("device", 1.0, None, None)


def test_digits_point_up_and_name_their_writers(tmp_path):
    file = put(tmp_path / "pendigits-orig.tes", DIGITS)
    digits = read(file, strict=True)
    assert offsets(digits) == [[[0, 0], [-1, -7]], [[0, 0], [1, -2], [3, -6]], [[0, 0]]]
    assert digits.writers.tolist() == [f"pendigits-orig.tes/{n}" for n in ("6", "12", "12")]
    assert digits.ids.tolist()[1:] == [f"pendigits_orig.tes/12/5/{n}" for n in (1, 2)]
    assert digits.forms.tolist() == digits.ids.tolist()
    assert digits.parts.tolist() == ["test"] * 3

    put(tmp_path / "pendigits-orig.tra", DIGITS)
    both = read(tmp_path, strict=True)
    assert both.parts.tolist() == ["test"] * 3 + ["train"] * 3
    assert len(set(both.writers.tolist())) == 4


def test_which_way_y_points_can_be_said(tmp_path):
    characters = put(tmp_path / "a", CHARACTERS)
    digits = put(tmp_path / "b", DIGITS)
    assert offsets(read_unipen(characters, y_up=True))[1] == [[0, 0], [3, -4], [37, -36]]
    assert offsets(read_unipen(digits, y_up=False))[0] == [[0, 0], [-1, 7]]


def test_columns_times_and_decimals(tmp_path):
    text = ".COORD T Y X P\n.SEGMENT WORD 0-2 OK\n"
    text += (
        ".PEN_DOWN\n7 1 2 0\n27 3.25 2 1\n.PEN_UP\n40 0 0 0\n.PEN_DOWN 20 4 2 1\n57 4 -2.5 1\n.DT 1"
    )
    lines = read_unipen(put(tmp_path / "a", text), strict=True)
    assert offsets(lines) == [[[0, 0], [0, 2.25], [0, 0.75], [-4.5, 0]]]
    np.testing.assert_allclose(lines.times, [0, 0.02, 0.02, 0.05], rtol=1e-6)
    assert lines.resolution == 0.01
    assert lines.texts.tolist() == [""]
    assert lines.writers is None


def component(*points):
    rows = "\n".join(f"{x} {y}" for x, y in points)
    return f".PEN_DOWN\n{rows}\n.PEN_UP\n"


FOUR = "".join(component((i, 0), (i, 10), (i, 20)) for i in range(4))


def test_lists_ranges_and_parts_of_components(tmp_path):
    labels = '.SEGMENT WORD 0,2-2 ? "one"\n.SEGMENT WORD 1:0-1:1 ? "two"\n'
    labels += '.SEGMENT WORD 1:1-3 BAD "say \\"three\\""\n'
    for text in (labels + FOUR, FOUR + labels):
        file = put(tmp_path / "a", text.replace("1:1-3", "1:1-1:2,3"))
        lines = read_unipen(file, strict=True)
        assert lines.texts.tolist() == ["one", "two", 'say "three"']
        assert offsets(lines)[0] == [[0, 0], [0, 10], [0, 10], [2, -20], [0, 10], [0, 10]]
        assert offsets(lines)[1] == [[0, 0], [0, 10]]
        assert offsets(lines)[2] == [[0, 0], [0, 10], [2, -20], [0, 10], [0, 10]]
        assert lines[2].pen_up.tolist() == [0, 1, 0, 0, 1]


def test_the_coarsest_level_is_read(tmp_path):
    text = ".HIERARCHY PAGE WORD LETTER\n"
    text += "".join(f'.SEGMENT LETTER {i} ? "{i}"\n' for i in range(4))
    text += '.SEGMENT WORD 0-1 ? "01"\n.SEGMENT WORD 2-3 ? "23"\n'
    assert read_unipen(put(tmp_path / "a", text + FOUR), strict=True).texts.tolist() == ["01", "23"]


def test_air_counts_where_it_has_points(tmp_path):
    text = component((0, 0), (1, 1)).rstrip() + "\n5 5\n6 6\n" + component((9, 9))
    file = put(tmp_path / "a", text + '.SEGMENT WORD 0-2 ? "x"\n')
    assert offsets(read_unipen(file, strict=True)) == [[[0, 0], [1, 1], [8, 8]]]


def test_empty_strokes_leave_no_trace(tmp_path):
    text = CHARACTERS.replace(" 50 60\n", "")
    lines = read_unipen(put(tmp_path / "a", text), strict=True)
    assert offsets(lines)[1] == Q_OFFSETS[:2]
    assert lines[1].pen_up.tolist() == [0, 1]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8", "utf-8-sig"])
def test_encodings_and_line_ends(tmp_path, encoding):
    text = CHARACTERS.replace('"Q"', '"é"').replace("\n", "\r\n")
    lines = read_unipen(put(tmp_path / "a", text.encode(encoding)), strict=True)
    assert lines.texts.tolist() == ["a", "é", "a"]


BROKEN_SEGMENTS = [
    (CHARACTERS.replace("13 24", "13 2e"), "point 2 of the component at line .* is ' 13 2e'"),
    (CHARACTERS.replace("13 24", "13"), "is ' 13', expected X Y"),
    (CHARACTERS.replace("13 24", "13 24 5"), "is ' 13 24 5', expected X Y"),
    (CHARACTERS.replace("13 24", "13 nan"), "is ' 13 nan', expected X Y"),
    (CHARACTERS.replace("13 24", "13 1_0"), "is ' 13 1_0', expected X Y"),
    (CHARACTERS.replace("13 24", "13 8388608"), "not below 8388608 in size"),
    (CHARACTERS.replace("13 24", "13 " + "9" * 400), "not below 8388608 in size"),
    (re.sub(r"^ (10|13|50) .*\n", "", CHARACTERS, flags=re.MULTILINE), "a segment without points"),
    (CHARACTERS.replace('"Q"', '"Q'), "got .*, expected such as"),
    (CHARACTERS.replace('"Q"', "Q Q"), "got .*, expected such as"),
    (CHARACTERS.replace('"Q"', '"\x01"'), "cannot be printed"),
    (CHARACTERS.replace('"Q"', f'"{"Q" * 201}"'), "201 letters long"),
    (CHARACTERS.replace("1-2", "2-1"), "components '2-1' run backwards"),
    (CHARACTERS.replace("1-2", "1-2-3"), "components '1-2-3', expected such as"),
    (CHARACTERS.replace("1-2", "1:2-2:9"), "points 2 to 1 of component 1, which has 2"),
    (CHARACTERS.replace("1-2", "1-2:9"), "points 0 to 9 of component 2, which has 1"),
    (CHARACTERS.replace("CHARACTER 1", "CHARACTOR 1"), "the level is 'CHARACTOR', expected one of"),
]


@pytest.mark.parametrize(("text", "words"), BROKEN_SEGMENTS)
def test_a_broken_segment_is_skipped_and_counted(tmp_path, text, words):
    assert text != CHARACTERS
    file = put(tmp_path / "a", text)
    with pytest.warns(UserWarning, match=r"segments skipped: 1, read: 2\)") as caught:
        lines = read(file)
    assert len(caught) == 1
    assert re.search(f"{re.escape(str(file))}: line [0-9]+: .*{words}", str(caught[0].message))
    assert lines.texts.tolist() == ["a", "a"]
    assert offsets(lines) == [A_OFFSETS, A_OFFSETS]
    with pytest.raises(StrokeFormatError, match=words):
        read(file, strict=True)


CUT = [
    (CHARACTERS[: CHARACTERS.rindex(".PEN_UP")], "the pen is still down where the file ends"),
    (CHARACTERS[: CHARACTERS.rindex("549 -3") + 3], "the pen is still down where the file ends"),
    (CHARACTERS[: CHARACTERS.rindex(".PEN_UP") + 4], "the pen is still down where the file ends"),
    (CHARACTERS[: CHARACTERS.rindex(".PEN_D")], "names component 3, but the file ends after 3"),
    (CHARACTERS[: CHARACTERS.rindex("CHARACTER 3") + 11], "the file ends within it"),
]


@pytest.mark.parametrize(("text", "words"), CUT)
def test_where_the_file_is_cut_the_last_segment_is_not_whole(tmp_path, text, words):
    file = put(tmp_path / "a", text)
    with pytest.warns(UserWarning, match=rf"segments skipped: 1, read: 2\)(.|\n)*{words}"):
        assert read(file).texts.tolist() == ["a", "Q"]
    with pytest.raises(StrokeFormatError, match=words):
        read(file, strict=True)


def test_components_without_a_segment_are_told(tmp_path):
    file = put(tmp_path / "a", CHARACTERS.replace("SEGMENT CHARACTER 3", "SEGMEMT CHARACTER 3"))
    with pytest.warns(UserWarning, match=r"line 3[0-9]: components that belong to no segment: 3 "):
        assert read(file).texts.tolist() == ["a", "Q"]


BROKEN_FILES = [
    # A component is hidden by its keyword: what follows would be labelled wrongly.
    (CHARACTERS.replace(".PEN_DOWN", ".PEN_DAWN", 1), "names component 3, but 2 stand before it"),
    (CHARACTERS.replace(".PEN_DOWN", "PEN_DOWN", 1), "names component 3, but 2 stand before it"),
    (CHARACTERS.replace("1-2", "1-3"), "component 3 belongs to another segment already"),
    (CHARACTERS.replace("CHARACTER 3", "CHARACTER 7"), "names component 7, but 3 stand before it"),
    ('.SEGMENT W 0-1 ? "x"\n.SEGMENT W 2-4 ? "y"\n' + FOUR, "component 4, but the file has 4"),
    (CHARACTERS.replace(".VERSION", "VERSION"), "got 'VERSION 1.0', expected a keyword"),
    (".COORD X Z\n" + CHARACTERS, r"the columns are \['X', 'Z'\], expected X and Y"),
    ("\0" + CHARACTERS, "byte 0: a zero byte"),
    (".PEN_DOWN\n1 2\n.PEN_UP\n", "components that belong to no segment: 0"),
    ("", "no segment could be read"),
    (".SEGMENT W " + "0-3," * 3 + '0-3 ? "x"\n' + FOUR, "components belong to two segments"),
]


@pytest.mark.parametrize(("text", "words"), BROKEN_FILES)
def test_a_broken_file_is_refused_or_skipped_in_a_folder(tmp_path, text, words):
    file = put(tmp_path / "a.txt", text)
    with pytest.raises(StrokeFormatError, match=re.escape(str(file)) + ".*" + words):
        read_unipen(file)
    with pytest.raises(StrokeFormatError, match=words):
        read_unipen(file, strict=True)
    put(tmp_path / "b.txt", CHARACTERS)
    with pytest.warns(UserWarning, match=r"a\.txt"):
        assert len(read(tmp_path)) == 3
    with pytest.raises(StrokeFormatError, match=r"a\.txt"):
        read(tmp_path, strict=True)


def test_writers_of_one_name_in_one_folder_stay_two(tmp_path):
    put(tmp_path / "one-w01", CHARACTERS)
    put(tmp_path / "two-w01", CHARACTERS)
    lines = read(tmp_path, strict=True)
    assert sorted(set(lines.writers.tolist())) == ["one-w01", "two-w01"]
    assert len(set(lines.ids.tolist())) == 6
    assert "-" not in "".join(lines.ids.tolist())


def test_a_hostile_count_of_members_does_not_take_long(tmp_path):
    empty = ".PEN_DOWN\n" * 3000
    labels = '.SEGMENT W 0-2999 ? "x"\n' * 3000
    with pytest.raises(StrokeFormatError, match="components belong to two segments"):
        read_unipen(put(tmp_path / "a", labels + empty))
    huge = '.SEGMENT W 0-999999999 ? "x"\n.SEGMENT W 999999999 ? "x"\n'
    with pytest.raises(StrokeFormatError, match="names component 999999999"):
        read_unipen(put(tmp_path / "a", huge + FOUR))


points = st.tuples(*[st.decimals(-(2**22), 2**22, places=2)] * 2)
segments = st.lists(
    st.tuples(
        st.text(st.characters(codec="latin-1", exclude_categories=["C", "Z"]), min_size=1),
        st.lists(st.lists(points, min_size=1, max_size=5), min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(segments, st.booleans(), st.sampled_from(["utf-8", "latin-1"]))
def test_what_is_written_is_read(tmp_path_factory, items, y_up, encoding):
    text, count = ".HIERARCHY DIGIT\n" if y_up else ".HIERARCHY CHARACTER\n", 0
    for label, strokes in items:
        ends = f"{count}-{count + len(strokes) - 1}" if len(strokes) > 1 else f"{count}"
        escaped = label.replace('"', r"\"")
        text += f'.SEGMENT {"DIGIT" if y_up else "CHARACTER"} {ends} ? "{escaped}"\n'
        text += "".join(component(*stroke) for stroke in strokes)
        count += len(strokes)
    if encoding == "latin-1":
        # Only what is no UTF-8 is taken for ISO-8859-1.
        text += ".COMMENT \xff\n"
    file = put(tmp_path_factory.mktemp("u") / "a", text.encode(encoding))
    lines = read_unipen(file, strict=True)
    assert lines.texts.tolist() == [label for label, _ in items]
    assert lines.resolution == 0.01
    for line, (_, strokes) in zip(lines, items, strict=True):
        xy = np.array([p for stroke in strokes for p in stroke], float) * [1, -1 if y_up else 1]
        np.testing.assert_array_equal(
            line.offsets, np.diff(xy, axis=0, prepend=xy[:1]).astype(np.float32)
        )
        ends = np.cumsum([len(stroke) for stroke in strokes]) - 1
        np.testing.assert_array_equal(np.flatnonzero(line.pen_up), ends)


def archive(data_dir, name):
    path = data_dir / name
    if not path.exists():
        pytest.skip(f"no {path}")
    return dict(np.load(path).items())


def assert_trajectories(lines, xy, pen_up, lengths, labels):
    """The lines are the first of the archive's, read by somebody else."""
    count, points = len(lines), int(lines.lengths.sum())
    np.testing.assert_array_equal(lines.lengths, lengths[:count])
    np.testing.assert_array_equal(lines.texts, labels[:count])
    np.testing.assert_array_equal(lines.strokes.pen_up, pen_up[:points])
    steps = np.diff(xy[:points].astype(np.int64), axis=0, prepend=0)
    steps[lines.starts] = 0
    np.testing.assert_array_equal(lines.strokes.offsets, steps)


def test_real_characters(data_dir):
    known = archive(data_dir, "uji_pen/uji_v1.npz")
    lines = read(data_dir / "uji_pen" / "raw", strict=True)
    assert len(lines) == 3 * 124
    assert sorted(set(lines.writers.tolist())) == ["w01", "w02", "w03"]
    assert lines.ids[0] == "w01/a/1"
    assert len(set(lines.ids.tolist())) == len(lines)
    assert_trajectories(lines, known["xy"], known["pen_up"], known["lengths"], known["labels"])


def test_real_digits(data_dir):
    known = archive(data_dir, "pendigits/pendigits_orig.npz")
    file = data_dir / "pendigits" / "raw" / "pendigits-orig-head.txt"
    with pytest.warns(UserWarning, match=r"skipped: 1, read: 125\)(.|\n)*the pen is still down"):
        digits = read(file)
    assert_trajectories(
        digits,
        known["tes_xy"] * np.array([1, -1]),
        known["tes_pen_up"],
        known["tes_lengths"],
        known["tes_labels"],
    )
    # The last of fourteen writers is there too; and a 7 begins with its bar, at the top.
    assert len(set(digits.writers.tolist())) == 14
    sevens = [digits.positions(i)[-1, 1] for i in np.flatnonzero(digits.texts == "7")]
    assert np.median(sevens) > 0
