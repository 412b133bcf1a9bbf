"""sketch-rnn's files, against NumPy's own unpickling of them."""

import pickle
import re

import numpy as np
import pytest
from made_clock import within
from made_stroke3 import DRAWINGS, assert_holds, npy, objects_of

from mdnjax.strokes.formats import StrokeFormatError, read, read_stroke3

# What is right


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_is_read_part_by_part(tmp_path, save):
    file = tmp_path / "drawings"
    parts = {"test": DRAWINGS[2:], "train": DRAWINGS, "valid": DRAWINGS[1:]}
    with file.open("wb") as stream:
        save(stream, **{part: objects_of(drawings) for part, drawings in parts.items()}, std=3.0)
    corpus = read(file)
    assert_holds(corpus, DRAWINGS + DRAWINGS[1:] + DRAWINGS[2:])
    assert corpus.ids.tolist() == [
        *("train/00000", "train/00001", "train/00002", "valid/00000", "valid/00001", "test/00000")
    ]
    assert corpus.parts.tolist() == ["train"] * 3 + ["valid"] * 2 + ["test"]
    assert len(set(corpus.forms.tolist())) == 6
    assert set(corpus.texts.tolist()) == {""}
    assert corpus.writers is corpus.times is None
    assert (corpus.unit, corpus.resolution) == ("device", 1.0)
    assert corpus.strokes.offsets.dtype == np.float32


def test_an_array_of_drawings_or_one_drawing(tmp_path):
    file = tmp_path / "drawings.npy"
    np.save(file, objects_of(DRAWINGS))
    corpus = read(file)
    assert_holds(corpus, DRAWINGS)
    assert corpus.ids.tolist() == ["00000", "00001", "00002"]
    assert corpus.parts is None
    np.save(file, DRAWINGS[0])
    assert_holds(read(file), DRAWINGS[:1])
    np.save(file, np.array([DRAWINGS[0], DRAWINGS[0][::-1]]))
    assert_holds(read(file), [DRAWINGS[0], DRAWINGS[0][::-1]])


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("core", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_every_protocol_and_number_type_is_read_as_numpy_reads_it(tmp_path, protocol, core):
    types = ["i1", "u1", "<i2", ">i2", "u2", "<i4", ">i4", "i8", "u8", "f2", ">f4", "f4", "f8"]
    drawings = [abs(DRAWINGS[2]).astype(letters) for letters in types]
    drawings += [np.asfortranarray(DRAWINGS[0]), DRAWINGS[0].T.copy().T, DRAWINGS[0][::2]]
    drawings += [drawings[0]]  # the same object twice
    pickled = pickle.dumps(objects_of(drawings), protocol=protocol)
    here = np.zeros(0).__reduce__()[0].__module__.encode()
    pickled = pickled.replace(here, core) if protocol < 4 else pickled
    file = tmp_path / "drawings.npy"
    file.write_bytes(npy(pickled, len(drawings)))
    oracle = np.load(file, allow_pickle=True)
    assert_holds(read(file), list(oracle))


def test_steps_that_are_no_whole_numbers_need_a_resolution(tmp_path):
    file = tmp_path / "drawings.npy"
    np.save(file, np.array([[0.3, 0, 0], [1, 2, 0], [0.25, -1, 1]]))
    with pytest.raises(
        StrokeFormatError, match=r"00000, row 2: got \[0.25, -1.0, 1.0\], .*resolution="
    ):
        read(file)
    corpus = read_stroke3(file, resolution=0.25)
    assert corpus.resolution == 0.25
    np.testing.assert_array_equal(corpus[0].offsets, [[0, 0], [1, 2], [0.25, -1]])
    with pytest.raises(ValueError, match="resolution must be positive and finite, got 0"):
        read_stroke3(file, resolution=0.0)


# What is wrong


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[0, 0, 0], [1, 1, 2]], r"test/00001, row 1: got \[1.0, 1.0, 2.0\], expected 0 or 1"),
        ([[0, 0, np.nan]], r"test/00001, row 0: got .*expected 0 or 1 in its third column"),
        ([[0, 0, 0], [np.nan, 1, 1]], "test/00001, row 1: got .*expected steps below"),
        ([[0, 0, 0], [1, -np.inf, 1]], "test/00001, row 1: got .*expected steps below"),
        ([[0, 0, 0], [2.0**24, 0, 1]], "test/00001, row 1: got .*expected steps below"),
        ([[0, 1], [0, 1]], r"test\[1\]: got shape \(2, 2\), expected rows of \(dx, dy, pen"),
        (np.zeros((0, 3)), r"test\[1\]: got shape \(0, 3\)"),
        (np.zeros((1, 1, 3)), r"test\[1\]: got shape \(1, 1, 3\)"),
        (np.zeros(3), r"test\[1\]: got shape \(3,\)"),
        (np.zeros((1, 3), bool), "test: byte .*a call that no array needs; it was not run"),
        (np.zeros((1, 3), complex), "test: byte .*a call that no array needs; it was not run"),
        (np.zeros((1, 3), object), "test: byte .*it was not run"),
        (np.zeros(1, "i4,i4"), "test: byte .*it was not run"),
        ("words", "test: byte .*: an element that is no numeric array"),
        ([None], "test: byte .*it was not run"),
    ],
)
def test_what_is_no_drawing_is_named(tmp_path, rows, words):
    file = tmp_path / "drawings.npz"
    element = np.array(rows, np.float64) if isinstance(rows, list) and rows != [None] else rows
    array = np.empty(2, object)
    array[0], array[1] = DRAWINGS[0], element
    np.savez(file, train=objects_of(DRAWINGS), test=array)
    with pytest.raises(StrokeFormatError, match=re.escape(f"{file}: ") + words):
        read(file)


def test_files_without_drawings(tmp_path):
    file = tmp_path / "drawings.npz"
    np.savez(file, train=objects_of([]))
    with pytest.raises(StrokeFormatError, match="no drawings"):
        read(file)
    np.savez(file, train=objects_of([]), valid=objects_of(DRAWINGS))
    assert len(read(file)) == 3
    np.savez(file, other=objects_of(DRAWINGS))
    with pytest.raises(StrokeFormatError, match="no member train, valid or test"):
        read_stroke3(file)
    np.savez(file, train=objects_of(DRAWINGS), test=np.array(["a"]))
    with pytest.raises(StrokeFormatError, match=r"test: got <U1 of shape \(1,\), expected numbers"):
        read(file)
    np.save(tmp_path / "a.npy", objects_of(DRAWINGS).reshape(3, 1))
    with pytest.raises(StrokeFormatError, match="not understood"):
        read(tmp_path / "a.npy")
    with pytest.raises(FileNotFoundError):
        read_stroke3(tmp_path / "absent")


@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_cut_or_changed_files_are_refused_or_read_with_the_same_lines(tmp_path, suffix):
    file = tmp_path / "drawings"
    with file.open("wb") as stream:
        if suffix == "npz":
            np.savez(stream, train=objects_of(DRAWINGS), test=objects_of(DRAWINGS))
        else:
            np.save(stream, objects_of(DRAWINGS))
    original, whole = file.read_bytes(), read(file)
    for length in range(len(original)):
        file.write_bytes(original[:length])
        with pytest.raises(StrokeFormatError):
            read(file, format="stroke-3")
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(1000):
        content = bytearray(original)
        content[rng.integers(len(content))] ^= rng.integers(1, 256)
        file.write_bytes(content)
        try:
            corpus = read(file, format="stroke-3")
        except StrokeFormatError:
            refused += 1
        else:
            assert len(corpus) in (3, 6)
            if suffix == "npz" and len(corpus) == 6:
                np.testing.assert_array_equal(corpus.strokes.offsets, whole.strokes.offsets)
    assert 500 < refused < 1000


# Real data


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("omniglot_stroke3/omniglot.npz", {"train": 30000, "valid": 1000, "test": 1000}),
        ("kanji_stroke3/short_kanji.npz", {"train": 10000, "valid": 600, "test": 500}),
    ],
)
@pytest.mark.usefixtures("without_jaxtyping")  # as users read: tens of thousands of drawings
def test_real_files_are_read_as_numpy_reads_them(data_dir, name, sizes):
    with within(10.0):  # half a second, were nothing else going on
        corpus = read(data_dir / name)
    with np.load(data_dir / name, allow_pickle=True, encoding="latin1") as archive:
        parts = {part: list(archive[part]) for part in sizes}
    assert {part: len(drawings) for part, drawings in parts.items()} == sizes
    assert corpus.parts.tolist() == [part for part in parts for _ in parts[part]]
    drawings = [drawing for part in parts.values() for drawing in part]
    assert corpus.lengths.tolist() == [len(drawing) for drawing in drawings]
    rows = np.concatenate(drawings)
    rows[corpus.starts, :2] = 0
    np.testing.assert_array_equal(corpus.strokes.offsets, rows[:, :2])
    np.testing.assert_array_equal(corpus.strokes.pen_up, rows[:, 2])
