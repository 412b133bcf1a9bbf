import contextlib
import os
import re
import shutil

import numpy as np
import pytest

from mdnjax.strokes.formats import StrokeFormatError, read, read_iam

LINE = """<?xml version="1.0" encoding="ISO-8859-1"?>
<WhiteboardCaptureSession>
  <WhiteboardDescription>
    <SensorLocation corner="top_left"/>
    <DiagonallyOppositeCoords x="6659" y="2572"/>
  </WhiteboardDescription>
  <StrokeSet>
    <Stroke colour="black" start_time="1.00" end_time="1.02">
      <Point x="1087" y="2405" time="1.00"/>
      <Point x="1084" y="2411" time="1.01"/>
      <Point x="1080" y="2400" time="1.02"/>
    </Stroke>
    <Stroke colour="black" start_time="1.10" end_time="1.10">
      <Point x="1190" y="2399" time="1.10"/>
    </Stroke>
    <Stroke colour="black" start_time="1.20" end_time="1.21">
      <Point x="1200" y="2401" time="1.20"/>
      <Point x="1201" y="2431" time="1.21"/>
    </Stroke>
  </StrokeSet>
</WhiteboardCaptureSession>
"""
OFFSETS = [[0, 0], [-3, 6], [-4, -11], [110, -1], [10, 2], [1, 30]]
PEN_UP = [0, 0, 1, 1, 0, 1]
TIMES = [0, 0.01, 0.02, 0.1, 0.2, 0.21]

FORMS = {
    "a01-001w": "OCR:\n\nnot this\n\nCSR:\n\nBy Trevor Williams. \n\nstop Mr. # Gaitskell \n",
    "a01-001z": "OCR:\r\n\r\nCSR:\r\n\r\nhe paid £5\r\n",
    "b04-020": "CSR:\nfirst line%%%%%%%%%%%second line\nthird line",
}
IDS = ["a01-001w-01", "a01-001w-02", "a01-001z-01", "b04-020-01", "b04-020-02", "b04-020-03"]
TEXTS = ["By Trevor Williams.", "stop Mr. # Gaitskell", "he paid £5"]
TEXTS += ["first line", "second line", "third line"]


def strokes_file(root, line):
    return root / "lineStrokes" / line[:3] / line[:7] / f"{line}.xml"


def ascii_file(root, form):
    return root / "ascii" / form[:3] / form[:7] / f"{form}.txt"


def put(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode("latin-1"))


@pytest.fixture
def database(tmp_path):
    """Six lines of three forms, laid out as the real database is."""
    root = tmp_path / "IAM-OnDB"
    for line in IDS:
        put(strokes_file(root, line), LINE)
    for form, text in FORMS.items():
        put(ascii_file(root, form), text)
    return root


def only_line(database):
    for line in IDS[1:]:
        strokes_file(database, line).unlink()


# What is right


def test_a_database_is_read_line_by_line(database):
    lines = read_iam(database, strict=True)
    assert lines.ids.tolist() == IDS
    assert lines.texts.tolist() == TEXTS
    assert lines.forms.tolist() == [line[:-3] for line in IDS]
    assert lines.writers is None
    assert lines.unit == "device"
    np.testing.assert_array_equal(lines.times, np.tile(TIMES, len(IDS)).astype(np.float32))
    for line in lines:
        np.testing.assert_array_equal(line.offsets, OFFSETS)
        np.testing.assert_array_equal(line.pen_up, PEN_UP)


@pytest.mark.parametrize("start", [".", "..", "lineStrokes"])
@pytest.mark.parametrize("archives", [False, True])
def test_the_folder_is_found_from_where_people_point(database, start, archives):
    if archives:
        for name in ("lineStrokes", "ascii"):
            (database / f"{name}-all").mkdir()
            (database / name).rename(database / f"{name}-all" / name)
        start = start.replace("lineStrokes", "lineStrokes-all")
    assert read(database / start, strict=True).ids.tolist() == IDS


def test_two_databases_under_one_folder_are_not_chosen_between(database):
    shutil.copytree(database, database.parent / "copy")
    with pytest.raises(StrokeFormatError, match=r"found 2 of them: .*IAM-OnDB"):
        read_iam(database.parent)


def test_a_split_list_chooses_forms(database, tmp_path):
    split = tmp_path / "trainset.txt"
    split.write_text(" a01-001z\r\n\n b04-020 \n")  # the official lists begin with a space
    lines = read_iam(database, split=split, strict=True)
    assert lines.ids.tolist() == IDS[2:]

    split.write_bytes(b"\xef\xbb\xbfa01-001z\r\nb04-020\r\n")  # as editors of Windows keep it
    assert len(read_iam(database, split=split, strict=True)) == len(lines)

    split.write_text("a01-001z\nc01-001\nd01-001w\n")
    with pytest.warns(UserWarning, match=r"2 of 3 forms are not in .* here: c01-001, d01-001w"):
        assert read_iam(database, split=split).ids.tolist() == ["a01-001z-01"]
    with pytest.raises(StrokeFormatError, match="2 of 3 forms"):
        read_iam(database, split=split, strict=True)

    split.write_text("a01-001z\nwhat is this\n")
    with pytest.raises(StrokeFormatError, match=r"trainset.txt: line 2: got 'what is this'"):
        read_iam(database, split=split)
    split.write_text("c01-001\n")
    with pytest.raises(StrokeFormatError, match=r"no line could be read; first: .*c01-001"):
        read_iam(database, split=split)


def test_writers_from_the_list_of_forms(database):
    put(database / "forms.txt", "# form writer\na01-001w 10125\nb04-020,7\nz99-999 1\n")
    lines = read_iam(database, strict=True)
    assert lines.writers.tolist() == ["10125", "10125", "", "7", "7", "7"]
    put(database / "forms.txt", "nothing of the kind\n")
    with pytest.warns(UserWarning, match="forms.txt: file: no line names a form"):
        assert read_iam(database).writers is None


@pytest.mark.parametrize("archive", ["", "original-xml-all", "original-xml-part"])
def test_writers_from_the_headers_of_whole_forms(database, archive):
    header = '<WhiteboardCaptureSession><General><Form id="{}"{}/></General><StrokeSet>'
    original = database / archive / "original"
    # Only the header is read: that these files end early does not matter.
    filler = '<Stroke><Point x="1" y="2"/></Stroke>' * 2000
    put(original / "a01/a01-001/strokesw.xml", header.format("w", ' writerID="10125"') + filler)
    put(original / "a01/a01-001/strokesz.xml", header.format("z", "") + filler)
    put(original / "b04/b04-020/strokes.xml", header.format("", ' writerID="10007"') + filler)
    lines = read_iam(database, strict=True)
    assert lines.writers.tolist() == ["10125", "10125", "", "10007", "10007", "10007"]

    put(original / "b04/b04-020/strokes.xml", "<WhiteboardCaptureSession><General>")
    with pytest.warns(UserWarning, match=r"lines skipped: 0(.|\n)*strokes\.xml: line 1"):
        assert read_iam(database).writers.tolist() == ["10125", "10125", "", "", "", ""]
    with pytest.raises(StrokeFormatError, match=r"strokes\.xml: line 1"):
        read_iam(database, strict=True)
    put(original / "b04/b04-020/strokes.xml", "<WhiteboardCaptureSession/>")
    assert read_iam(database, strict=True).writers[3] == ""


def test_what_file_managers_leave_behind_is_no_line(database):
    put(strokes_file(database, "a01-001w-01").with_name("._a01-001w-01.xml"), b"\0\5\x16\7")
    assert len(read_iam(database, strict=True)) == 6


def test_utf8_and_empty_strokes_are_read_too(database):
    put(ascii_file(database, "a01-001z"), FORMS["a01-001z"].encode("utf-8-sig"))
    put(strokes_file(database, IDS[0]), LINE.replace("</StrokeSet>", "<Stroke/></StrokeSet>"))
    lines = read_iam(database, strict=True)
    assert lines.texts.tolist() == TEXTS
    np.testing.assert_array_equal(lines[0].pen_up, PEN_UP)


def test_times_are_exact_far_from_the_clocks_zero(database):
    put(strokes_file(database, IDS[0]), LINE.replace('time="', 'time="1292479'))
    lines = read_iam(database, strict=True)
    np.testing.assert_allclose(lines.times[:6], TIMES, atol=1e-8)


def test_lines_without_times(database):
    for line in IDS:
        put(strokes_file(database, line), re.sub(' time="[0-9.]*"', "", LINE))
    assert read_iam(database, strict=True).times is None


@pytest.mark.parametrize(
    "content",
    [
        re.sub(' time="[0-9.]*"', "", LINE),
        LINE.replace(' time="1.10"', ""),
        LINE.replace('time="1.10"', 'time="1.01"'),
    ],
)
def test_times_that_only_some_lines_have_are_left_out_aloud(database, content):
    put(strokes_file(database, "a01-001w-02"), content)
    words = r"a01-001w-02\.xml: time: missing or falling in 1 of 6 lines: no times are kept"
    with pytest.warns(UserWarning, match=words):
        lines = read_iam(database)
    assert lines.times is None
    assert len(lines) == 6
    with pytest.raises(StrokeFormatError, match=words):
        read_iam(database, strict=True)


def test_decimal_and_negative_coordinates(database):
    put(strokes_file(database, IDS[0]), LINE.replace('x="1084"', 'x="-1084.25"'))
    assert read_iam(database, strict=True)[0].offsets[1, 0] == -1084.25 - 1087


# What is broken

BROKEN_LINES = [
    ("", "line 1, column 1: not well-formed XML"),
    ("hello", "line 1, column 1: not well-formed XML"),
    (LINE[:700], "line 18, column 7: not well-formed XML .unclosed token"),
    (LINE[: LINE.index("</Stroke>")], r"line 12, .*: not well-formed XML"),
    (LINE.replace("</StrokeSet>", "</Strokeset>"), "line 20, .*mismatched tag"),
    (LINE.replace('x="1084" ', ""), r"line 10, column 7 \(stroke 1, point 2\): the point has no x"),
    (LINE.replace('y="2431" ', ""), r"line 18, column 7 \(stroke 3, point 2\): the point has no y"),
    (LINE.replace("1190", "12a"), r"line 14, .*\(stroke 2, point 1\): x is '12a', expected a dec"),
    (LINE.replace("1190", "nan"), "x is 'nan'"),
    (LINE.replace("1190", "1_0"), "x is '1_0'"),
    (LINE.replace("1190", "&#1633;"), r"x is '\u0661'"),
    (LINE.replace("1190", ""), "x is ''"),
    (LINE.replace("1190", "9" * 30), "x is 9+, expected less than 8388608"),
    (LINE.replace("1190", "-8388608"), "x is -8388608, expected less than 8388608"),
    (LINE.replace('time="1.10"', 'time="noon"'), "time is 'noon', expected a decimal number"),
    (LINE.replace('time="1.10"', 'time="-9999999999"'), "time is -9+, expected less than 858"),
    (LINE.replace("<Point ", "<Pont ", 1), r"line 9, .*<Pont> in Stroke, expected Point"),
    (LINE.replace("<Point ", "Point ", 2), r"line 11, .*text in Stroke: 'Point x="),
    (re.sub("<Stroke .*</Stroke>", "", LINE, flags=re.DOTALL), "no points"),
    (re.sub("<Point.*/>", "", LINE), "no points"),
    (LINE.replace("WhiteboardCaptureSession", "html"), "<html> in the file, expected Whiteboard"),
    (LINE.replace("ISO-8859-1", "base64"), "not well-formed XML .*base64"),
    (LINE.replace("ISO-8859-1", "no-such-thing"), "not well-formed XML .*no-such-thing"),
]


@pytest.mark.parametrize(("content", "words"), BROKEN_LINES)
def test_a_broken_line_is_named_with_its_place(database, content, words):
    file = strokes_file(database, "a01-001w-02")
    put(file, content.encode("utf-8"))
    with pytest.raises(StrokeFormatError, match=re.escape(f"{file}: ") + ".*" + words) as error:
        read_iam(database, strict=True)
    assert error.value.path == str(file)
    assert isinstance(error.value, ValueError)

    with pytest.warns(UserWarning, match="a01-001w-02") as caught:
        lines = read_iam(database)
    assert len(caught) == 1
    assert "lines skipped: 1, read: 5" in str(caught[0].message)
    assert lines.ids.tolist() == [line for line in IDS if line != "a01-001w-02"]
    assert lines.texts.tolist() == [text for text in TEXTS if text != TEXTS[1]]


@pytest.mark.parametrize("definition", ['<!ENTITY x "1190">', '<!ENTITY x SYSTEM "other.txt">', ""])
def test_no_document_type_is_accepted_and_no_entity_expanded(database, definition):
    put(database / "other.txt", "1190")
    file = strokes_file(database, IDS[0])
    doctype = f"<!DOCTYPE WhiteboardCaptureSession [{definition}]>\n<Whiteboard"
    content = LINE.replace("<Whiteboard", doctype, 1)
    put(file, content.replace('x="1190"', 'x="&x;"'))
    with pytest.raises(StrokeFormatError, match=r"line 2, .*: a document type definition, refused"):
        read_iam(database, strict=True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "file: cannot be read .No such file"),
        ("OCR:\n\nBy Trevor\nstop\n", "CSR:: no such heading"),
        ("CSR:\n\n  \n", "CSR:: 0 lines of text, but the strokes of line 2"),
        ("CSR:\n\nonly one\n", "CSR:: 1 lines of text, but the strokes of line 2"),
        ("CSR:\n\nBy Tre\0vor\nstop\n", "byte 12: a zero byte"),
    ],
)
def test_a_form_without_its_words_is_left_out_whole(database, content, words):
    file = ascii_file(database, "a01-001w")
    file.unlink()
    if content is not None:
        put(file, content)
    with pytest.raises(StrokeFormatError, match=re.escape(f"{file}: ") + words.replace("(", ".")):
        read_iam(database, strict=True)
    with pytest.warns(UserWarning, match="lines skipped: 2, read: 4"):
        assert read_iam(database).ids.tolist() == IDS[2:]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nonsense", "name: expected form-number.xml"),
        ("a01-001w-1", "name: line 1 of the form again, after .*a01-001w-01.xml"),
        ("c01-001-00", "name: lines are counted from 1"),
    ],
)
def test_a_misnamed_line(database, name, words):
    put(strokes_file(database, name), LINE)
    put(ascii_file(database, "c01-001"), "CSR:\n\nwords\n")
    with pytest.warns(UserWarning, match="lines skipped: 1, read: 6(.|\n)*" + words):
        read_iam(database)
    with pytest.raises(StrokeFormatError, match=words):
        read_iam(database, strict=True)


@pytest.mark.parametrize(
    ("closed", "skipped"),
    [("a01", "a01"), ("b04/b04-020", "b04")],
)
def test_a_folder_of_lines_that_is_closed_to_us_is_broken(database, monkeypatch, closed, skipped):
    scan = os.scandir

    def scandir(path):
        if str(path) == str(database / "lineStrokes" / closed):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    expected = rf"1 thing in .* is broken(.|\n)*{closed}: folder: cannot be read .Permission denied"
    with pytest.warns(UserWarning, match=expected):
        kept = read_iam(database).ids.tolist()
    assert kept == [line for line in IDS if not line.startswith(skipped)]
    with pytest.raises(StrokeFormatError, match=f"{closed}: folder: cannot be read"):
        read_iam(database, strict=True)


def test_what_is_hidden_or_deeper_is_none_of_the_database(database):
    home = database / "lineStrokes"
    for place in ("a01/a01-001/more", "a01/.trash", ".trash/a01-001", "a01", "."):
        put(home / place / "a01-001w-09.xml", "<")
    (home / "b04").rename(database / "elsewhere")
    (home / "b04").symlink_to(database / "elsewhere", target_is_directory=True)
    assert read_iam(database, strict=True).ids.tolist() == IDS


def test_one_warning_counts_all_and_lists_the_first_few(database):
    for line in IDS:
        shutil.copy(strokes_file(database, IDS[0]), strokes_file(database, line[:-2] + "99"))
        put(strokes_file(database, line), "<")
    for i in range(9):
        put(strokes_file(database, f"c01-00{i}-01"), "<")
        put(ascii_file(database, f"c01-00{i}"), "CSR:\n\nwords\n")
        put(strokes_file(database, f"d01-00{i}-01"), LINE)
        put(ascii_file(database, f"d01-00{i}"), "CSR:\n\nwords\n")
    with pytest.warns(UserWarning, match="12 things in .* are broken") as caught:
        assert len(read(database)) == 9
    message = str(caught[0].message)
    assert len(caught) == 1
    assert "lines skipped: 18, read: 9" in message
    assert message.count("\n  ") == 6
    assert "and 7 more" in message


def test_nothing_readable_is_an_error_even_when_not_strict(database):
    for line in IDS:
        put(strokes_file(database, line), LINE[:200])
    with pytest.raises(StrokeFormatError, match=r"no line could be read; first: .*a01-001w-01.xml"):
        read_iam(database)
    shutil.rmtree(database / "ascii")
    with pytest.raises(StrokeFormatError, match="ascii: no such folder"):
        read_iam(database)
    shutil.rmtree(database / "lineStrokes")
    with pytest.raises(
        StrokeFormatError, match="lineStrokes: expected one such folder, found none"
    ):
        read_iam(database)
    with pytest.raises(FileNotFoundError):
        read_iam(database / "not here")


def test_no_truncation_of_a_line_is_read_as_something_else(database):
    only_line(database)
    file = strokes_file(database, IDS[0])
    end = LINE.rindex(">") + 1
    for length in range(0, len(LINE), 7):
        file.write_bytes(LINE.encode()[:length])
        if length < end:
            with pytest.raises(StrokeFormatError, match=r"a01-001w-01\.xml: line "):
                read_iam(database, strict=True)


def test_a_changed_byte_raises_the_named_error_or_changes_one_number(database):
    only_line(database)
    file = strokes_file(database, IDS[0])
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        content = bytearray(LINE.encode())
        content[rng.integers(len(content))] = rng.integers(256)
        file.write_bytes(content)
        try:
            line = read_iam(database, strict=True)[0]
        except StrokeFormatError:
            refused += 1
        else:
            np.testing.assert_array_equal(line.pen_up, PEN_UP)
            # Another digit in x or y: steps to and from that point change, and no other.
            assert (line.offsets != OFFSETS).sum() <= 2
    assert 100 < refused < 350


def test_changed_bytes_in_a_transcription_never_raise_anything_else(database):
    shutil.rmtree(database / "lineStrokes" / "a01")
    file, original = ascii_file(database, "b04-020"), FORMS["b04-020"].encode()
    rng = np.random.default_rng(1)
    for _ in range(100):
        content = bytearray(original)
        content[rng.integers(len(content))] = rng.integers(256)
        file.write_bytes(content[: rng.integers(1, len(content) + 30)])
        with contextlib.suppress(StrokeFormatError):
            assert len(read_iam(database, strict=True)) == 3


# Real data


def test_the_official_files_agree_with_the_archive(data_dir):
    folder = data_dir / "iam_ondb"
    official = read(folder / "official", strict=True)
    archive = read(folder / "train_t1.npz")
    assert len(official) == 43
    number = {line: i for i, line in enumerate(archive.ids.tolist())}
    shared = archive.subset([number[line] for line in official.ids.tolist()])
    np.testing.assert_array_equal(official.strokes.offsets, shared.strokes.offsets)
    np.testing.assert_array_equal(official.strokes.pen_up, shared.strokes.pen_up)
    assert official.lengths.tolist() == shared.lengths.tolist()
    assert official.texts.tolist() == shared.texts.tolist()
    assert official.times[official.starts + official.lengths - 1].max() == pytest.approx(38.45)
    seconds = np.diff(official.times)
    assert 0.005 < np.median(seconds[seconds > 0]) < 0.025  # some sixty to a hundred a second
    assert shared.times is None
