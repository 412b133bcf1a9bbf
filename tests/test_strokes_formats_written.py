"""What is written in a format is read, whatever the strokes, to the last bit."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from made_files import flat, iam, npy, npz, own, quickdraw
from made_stroke3 import objects_of

from mdnjax.strokes.formats import read_iam, read_npz, read_quickdraw, read_stroke3

coordinates = st.integers(-(2**21), 2**21)
point = st.tuples(coordinates, coordinates)
line = st.lists(st.lists(point, min_size=1, max_size=5).map(np.array), min_size=1, max_size=3)
lines = st.lists(line, min_size=1, max_size=4)
THERE_AND_BACK = settings(max_examples=40, deadline=None)


def assert_read(corpus, written):
    assert len(corpus) == len(written)
    for got, strokes in zip(corpus, written, strict=True):
        xy = np.concatenate(strokes)
        np.testing.assert_array_equal(got.offsets, np.diff(xy, axis=0, prepend=xy[:1]))
        ends = np.cumsum([len(stroke) for stroke in strokes]) - 1
        np.testing.assert_array_equal(np.flatnonzero(got.pen_up), ends)


@THERE_AND_BACK
@given(lines)
def test_iam_as_written(tmp_path_factory, written):
    root = tmp_path_factory.mktemp("iam")
    words, ink = root / "ascii/a01/a01-001", root / "lineStrokes/a01/a01-001"
    words.mkdir(parents=True)
    ink.mkdir(parents=True)
    texts = [f"some words {i}" for i in range(len(written))]
    (words / "a01-001w.txt").write_text("\n".join(["CSR:", "", *texts, ""]))
    for i, strokes in enumerate(written):
        (ink / f"a01-001w-{i + 1:02}.xml").write_text(iam(strokes))
    corpus = read_iam(root, strict=True)
    assert_read(corpus, written)
    assert corpus.texts.tolist() == texts
    for i, strokes in enumerate(written):
        stop = corpus.starts[i] + corpus.lengths[i]
        expected = np.repeat(np.arange(len(strokes)), [len(stroke) for stroke in strokes])
        np.testing.assert_array_equal(corpus.times[corpus.starts[i] : stop], expected)


@THERE_AND_BACK
@given(lines, st.booleans())
def test_flat_archives_as_written(tmp_path_factory, written, compressed):
    file = tmp_path_factory.mktemp("flat") / "a"
    file.write_bytes(npz(flat(written), np.savez_compressed if compressed else np.savez))
    corpus = read_npz(file)
    assert_read(corpus, written)
    assert corpus.texts.tolist() == [f"words {i}" for i in range(len(written))]


@THERE_AND_BACK
@given(lines)
def test_our_own_archives_as_written(tmp_path_factory, written):
    file = tmp_path_factory.mktemp("own") / "a"
    arrays = own(written)
    file.write_bytes(npz(arrays))
    corpus = read_npz(file)
    assert_read(corpus, written)
    np.testing.assert_array_equal(corpus.times, arrays["times"])
    assert (corpus.unit, corpus.resolution) == ("mm", 0.25)
    assert corpus.parts.tolist() == ["test"] * len(written)
    assert corpus.writers.tolist() == ["w"] * len(written)


@THERE_AND_BACK
@given(lines, st.sampled_from(["<i4", ">i4", "<f4", "<f8"]), st.booleans())
def test_stroke3_as_written(tmp_path_factory, written, dtype, archive):
    drawings = []
    for strokes in written:
        xy = np.concatenate(strokes)
        ends = np.cumsum([len(stroke) for stroke in strokes]) - 1
        rows = np.concatenate([np.diff(xy, axis=0, prepend=0), np.zeros((len(xy), 1))], axis=1)
        rows[ends, 2] = 1
        drawings.append(rows.astype(dtype))
    file = tmp_path_factory.mktemp("stroke3") / "a"
    half = len(drawings) // 2
    parts = {"test": objects_of(drawings[half:]), "train": objects_of(drawings[:half])}
    file.write_bytes(npz(parts) if archive else npy(objects_of(drawings)))
    corpus = read_stroke3(file)
    assert_read(corpus, written)
    if archive:
        expected = ["train"] * half + ["test"] * (len(drawings) - half)
        assert corpus.parts.tolist() == expected


@THERE_AND_BACK
@given(lines)
def test_simplified_drawings_as_written(tmp_path_factory, written):
    file = tmp_path_factory.mktemp("quickdraw") / "a"
    file.write_text("".join(quickdraw(x, i, raw=False) for i, x in enumerate(written)))
    assert_read(read_quickdraw(file, strict=True), written)
