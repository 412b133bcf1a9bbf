import io
import os
import pathlib
import pickle

import numpy as np
import pytest

from mdnjax.strokes.formats import FORMATS, StrokeFormatError, read, recognise, write_npz

REAL = {
    "iam_ondb/official": "iam",
    "iam_ondb/train_t1.npz": "npz",
    "omniglot_stroke3/omniglot.npz": "stroke-3",
    "kanji_stroke3/short_kanji.npz": "stroke-3",
    "mnist": None,
    "cmu_mocap/cmu8_poses17_mm.npz": "npz",  # an archive, though none of lines: reading says so
    "README.md": None,
}


def test_an_unknown_file_or_folder_is_described(tmp_path):
    file = tmp_path / "notes.npz"
    file.write_bytes(b"%PDF-1.7 and so on")
    with pytest.raises(StrokeFormatError, match=r"begins with b'%PDF-1.7 .*lineStrokes/.*\.npz"):
        read(file)
    expected = r"a folder with notes\.npz: not understood, by 1 of its files\. Understood"
    with pytest.raises(StrokeFormatError, match=expected):
        read(tmp_path)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(StrokeFormatError, match="a folder with nothing"):
        recognise(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="absent"):
        read(tmp_path / "absent")


def test_the_error_lists_every_format_that_is_understood(tmp_path):
    with pytest.raises(StrokeFormatError) as error:
        recognise(tmp_path)
    assert len({known.name for known in FORMATS}) == len(FORMATS)
    for known in FORMATS:
        assert f"{known.description} ({known.name})" in error.value.reason


def test_content_decides_and_not_the_name(tmp_path):
    drawing = np.array([[0, 0, 0], [3, 4, 1]])
    np.save(tmp_path / "drawing.npy", drawing)
    corpus = read(tmp_path / "drawing.npy")
    write_npz(tmp_path / "drawing.xml", corpus)
    np.savez(tmp_path / "drawings.npz", train=np.array([drawing, drawing[1:]], object))
    np.savez(tmp_path / "numbers.npz", train=np.zeros(3), xy=np.zeros((3, 2)))
    np.save(tmp_path / "numbers.npy", np.zeros((3, 2)))
    assert recognise(str(tmp_path / "drawing.npy")) == "stroke-3"
    assert recognise(tmp_path / "drawing.xml") == "npz"
    assert recognise(tmp_path / "drawings.npz") == "stroke-3"
    assert recognise(tmp_path / "numbers.npz") == "npz"
    with pytest.raises(StrokeFormatError, match=r"begins with .*NUMPY"):
        recognise(tmp_path / "numbers.npy")


def test_a_format_that_is_named_is_not_guessed(tmp_path):
    np.save(tmp_path / "drawing.npy", np.array([[0, 0, 1]]))
    assert len(read(tmp_path / "drawing.npy", format="stroke-3")) == 1
    with pytest.raises(StrokeFormatError, match="damaged"):
        read(tmp_path / "drawing.npy", format="npz")
    names = ", ".join(known.name for known in FORMATS)
    with pytest.raises(ValueError, match=f"format must be one of {names}, got 'stroke3'"):
        read(tmp_path / "drawing.npy", format="stroke3")


def test_two_formats_in_one_folder_are_not_chosen_between(tmp_path):
    (tmp_path / "lineStrokes").mkdir()
    (tmp_path / "a.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg"><polyline points="0,0 1,1"/></svg>'
    )
    with pytest.raises(StrokeFormatError, match="iam and svg: several formats in one folder"):
        read(tmp_path)
    assert len(read(tmp_path, format="svg")) == 1


def test_the_error_survives_pickling():
    error = StrokeFormatError("file.xml", "line 3", "wrong")
    again = pickle.load(io.BytesIO(pickle.dumps(error)))
    assert str(again) == str(error) == "file.xml: line 3: wrong"
    assert (again.path, again.place, again.reason) == ("file.xml", "line 3", "wrong")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StrokeFormatError, match="neither a file nor a folder: not understood"):
        recognise(tmp_path / "pipe")
    for known in FORMATS:
        with pytest.raises(
            StrokeFormatError, match=r"pipe: .*(not a file|could be read|found none)"
        ):
            read(tmp_path / "pipe", format=known.name)


def test_what_is_closed_to_us_in_a_folder_does_not_close_the_folder(tmp_path, monkeypatch):
    svg = '<svg xmlns="http://www.w3.org/2000/svg"><polyline points="0,0 1,1"/></svg>'
    for name in ("a.svg", "b.svg"):
        (tmp_path / name).write_text(svg)
    (tmp_path / "lost+found").mkdir()
    closed = {tmp_path / "a.svg", tmp_path / "lost+found"}
    opened, looked, may = pathlib.Path.open, pathlib.Path.stat, os.access

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    def open_(path, *args, **options):
        return (refuse if path in closed else opened)(path, *args, **options)

    def stat(path, **options):
        return (refuse if path.parent in closed else looked)(path, **options)

    monkeypatch.setattr(pathlib.Path, "open", open_)
    monkeypatch.setattr(pathlib.Path, "stat", stat)
    monkeypatch.setattr(os, "access", lambda path, mode: path not in closed and may(path, mode))
    assert recognise(tmp_path) == "svg"
    with pytest.warns(UserWarning, match=r"a\.svg: file: may not be read"):
        assert len(read(tmp_path)) == 1
    with pytest.raises(StrokeFormatError, match=r"a\.svg: file: may not be read"):
        read(tmp_path, strict=True)
    with pytest.raises(PermissionError):
        recognise(tmp_path / "a.svg")
    (tmp_path / "c.npz").write_bytes(b"PK\x03\x04")
    closed.add(tmp_path / "c.npz")
    with pytest.raises(PermissionError):
        read(tmp_path / "c.npz", format="npz")


SVG = '<svg xmlns="http://www.w3.org/2000/svg"><polyline points="0,0 1,1"/></svg>'
UNIPEN = '.SEGMENT WORD 0-0 ? "a"\n.PEN_DOWN\n1 2\n.PEN_UP\n'
QUICKDRAW = '{"word":"cat","key_id":"1","drawing":[[[0,1],[0,1]]]}\n'


def test_what_else_lies_in_a_folder_does_not_hide_the_drawings(tmp_path):
    for number in range(300):
        (tmp_path / f"a{number:03}.txt").write_text("notes")
        (tmp_path / f"photo{number % 3}.{number}").write_text("other")
    for number in range(25):
        (tmp_path / f"z{number}.svg").write_text(SVG if number % 2 else "<svg")
    assert recognise(tmp_path) == "svg"
    for file in tmp_path.glob("*.svg"):
        file.unlink()
    (tmp_path / ".hidden.svg").write_text(SVG)
    # 20 of the notes, and one of each of the next 19 suffixes.
    with pytest.raises(StrokeFormatError, match="not understood, by 39 of its files"):
        recognise(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [("svg", SVG), ("unipen", UNIPEN), ("quickdraw", QUICKDRAW)],
    ids=["svg", "unipen", "quickdraw"],
)
def test_the_file_asked_for_is_closed_to_us(tmp_path, monkeypatch, name, content):
    """Nothing is broken then: it is the system's error, which says what to do."""
    file = tmp_path / "drawings"
    file.write_text(content)
    assert len(read(file, format=name)) == 1

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(pathlib.Path, "open", refuse)
    with pytest.raises(PermissionError, match="drawings"):
        read(file, format=name)


@pytest.mark.parametrize(
    ("name", "content"), [("svg", SVG), ("unipen", UNIPEN)], ids=["svg", "unipen"]
)
def test_a_file_of_a_folder_that_fails_while_it_is_read(tmp_path, monkeypatch, name, content):
    for letter in "ab":
        (tmp_path / letter).write_text(content)
    whole = pathlib.Path.read_bytes

    def read_bytes(path):
        if path.name == "a":
            raise OSError(5, "Input/output error")
        return whole(path)

    monkeypatch.setattr(pathlib.Path, "read_bytes", read_bytes)
    expected = r"1 thing in .* is broken or missing(.|\n)*a: file: cannot be read .Input/output"
    with pytest.warns(UserWarning, match=expected):
        assert len(read(tmp_path, format=name)) == 1


@pytest.mark.parametrize(("name", "expected"), REAL.items())
def test_real_files_are_recognised(data_dir, name, expected):
    path = pathlib.Path(data_dir / name)
    if expected is None:
        with pytest.raises(StrokeFormatError, match="not understood"):
            recognise(path)
    else:
        assert recognise(path) == expected
