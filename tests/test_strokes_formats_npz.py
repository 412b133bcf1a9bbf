import base64
import dataclasses
import re
import zipfile
import zlib

import numpy as np
import pytest

from mdnjax.strokes.corpus import Corpus
from mdnjax.strokes.formats import StrokeFormatError, read, read_npz, write_npz


@pytest.fixture
def corpus():
    xy = np.array([[10, 20], [13, 24], [0, 5], [7, 7], [2**22, -9]])
    lines = {"ids": ["f-1", "f-2"], "texts": ["Große # words", ""]}
    pen_up = np.array([0, 1, 1, 0, 1])
    return Corpus.from_positions(xy, pen_up, [3, 2], writers=["anna", ""], unit="mm", **lines)


def assert_same(one, other):
    for field in ("offsets", "pen_up", "mask"):
        got, expected = getattr(one.strokes, field), getattr(other.strokes, field)
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(one.lengths, other.lengths)
    assert one.ids.tolist() == other.ids.tolist()
    assert one.texts.tolist() == other.texts.tolist()
    assert (one.unit, one.resolution) == (other.unit, other.resolution)
    for field in ("writers", "parts", "times"):
        got, expected = getattr(one, field), getattr(other, field)
        assert (got is None) == (expected is None), field
        if got is not None:
            assert got.dtype.kind == expected.dtype.kind
            assert got.tolist() == expected.tolist()


def flat_arrays():
    return {
        "xy": np.array([[5, 5], [6, 8], [100, 0]], np.int32),
        "pen_up": np.array([0, 1, 1], np.uint8),
        "lengths": np.array([2, 1], np.int32),
        "ids": np.array(["a-1", "a-2"]),
        "texts": np.array(["one", "two"]),
    }


def test_the_flat_layout(tmp_path):
    file = tmp_path / "lines.npz"
    np.savez(file, other=np.zeros(3), **flat_arrays())
    lines = read(file)
    np.testing.assert_array_equal(lines.strokes.offsets, [[0, 0], [1, 3], [0, 0]])
    np.testing.assert_array_equal(lines.strokes.pen_up, [0, 1, 1])
    assert lines.texts.tolist() == ["one", "two"]
    assert lines.writers is None
    assert lines.unit == "device"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("writers", [True, False])
@pytest.mark.parametrize("more", [True, False])
def test_our_own_format_gives_back_what_was_written(tmp_path, corpus, dtype, writers, more):
    strokes = corpus.strokes
    written = Corpus.from_offsets(
        strokes.offsets.astype(dtype) * dtype(1 / 3),
        strokes.pen_up,
        corpus.lengths,
        corpus.ids,
        corpus.texts,
        writers=corpus.writers if writers else None,
        unit="third of a millimetre",
        parts=["valid", "test"] if more else None,
        times=np.array([0, 0.1, 0.3, 0, 7]) if more else None,
        resolution=1 / 3 if more else 1.0,
    )
    file = tmp_path / "no suffix is added"
    write_npz(file, written)
    assert_same(read_npz(file), written)
    first = file.read_bytes()
    write_npz(file, read(file))
    assert file.read_bytes() == first
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]


# What the release before wrote (version 1 of the format) of the corpus above, deflated.
VERSION_1 = """
eNqllF9IU2EYxr+zsx3nUXKUZP+wUxYk5W6sERIxSIZljPXnqmabss1N7GzMmXZnxkp2JTpESnSuWSPWwgupC2+KaEky
KCEIuxpBEXXVRUVCfe/8znbOt9gZ9ME5YxcP7+883/s8tk5W24IQ0uNnHzJ9t6M/5PCoHnn8wavdIaMYuM4gA3qKNo+H
/N792vBlt2Hlle2l7dHsxKUZe0JciInb+rzx9L3Y7JTj4vnodMOcIzrBTwQ6V5utukhD74HtCc2vXXfa+CU+itJ2jrtV
L2TZ3BHBqs3xwjtdrkcwMrn9QrYq1y9YwxEW2RSEicW5hxJhDSa85g4O+PyihDhG0CxlESd98zTh1qF/ENYzRguH5yoR
oqblFQlBjxEGRV+Int+hYlGiwvngEGfgKILRlp9rEkEdJvB2DziGgr4Q9kICuUEATpUDuTLpSlZsBMWwMzv1TX4Rfo9n
wB0qzE+SuY7yF+GJq82/38Zb8gwu1sgdDwScTi/KjdysrW3d8rx9buPxD01kr5Ziy1w+2Shf44BbdAwGJLQwQTpd1poL
fUl1tE1zkJGzWDjaIP/7ZVFuUL9b7A15CwaNk+ln/ndTLQUKD6d3jr6lMJqGM88kjCqM4XMVEKbJ6HMqy5qqGCF9FK9r
l2DS9uxY148xSpInuk9eiaQak4Tcw8V9+UwYXGrdklLrFgLzkTUO4XbJN8lv8wz/gjenahdezweFY81m+6q5kY71h6Y9
6/L7ogIVI2BWFcB45Wa1Y74Th7jFNwxGYTQtrLKIoWahcnlUPCNMvoALtUzroB6h+6CHahS6OH7LypIWQql1EKFeITyI
R0oVR6ugiKBhoG3qFKoHWEXVEi2GBoF6SJawHtYgeZ/QQog3hDdcYk4GC4thp3WQSIjbeMnAsyyS55MWQoYgJBCYKoVw
DQtJomgRrDtsM2x2tULUpUXF5adlsIawY7ESyA0sU9ip41DeAR614u++rYN/fwHM5EuH
"""


def test_archives_of_version_1_are_read(tmp_path, corpus):
    file = tmp_path / "old.npz"
    file.write_bytes(zlib.decompress(base64.b64decode(VERSION_1)))
    with np.load(file) as archive:
        assert archive["version"] == 1
        assert "resolution" not in archive
    assert_same(read(file), corpus)


def test_an_empty_corpus_is_written_and_read(tmp_path, corpus):
    write_npz(tmp_path / "empty.npz", corpus.subset([]))
    assert_same(read_npz(tmp_path / "empty.npz"), corpus.subset([]))


def test_other_byte_orders_are_read(tmp_path):
    arrays = flat_arrays()
    swapped = {key: array.astype(array.dtype.newbyteorder(">")) for key, array in arrays.items()}
    np.savez(tmp_path / "a.npz", **arrays)
    np.savez(tmp_path / "b.npz", **swapped)
    assert_same(read_npz(tmp_path / "a.npz"), read_npz(tmp_path / "b.npz"))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, corpus, monkeypatch):
    file = tmp_path / "lines.npz"
    write_npz(file, corpus)
    old = file.read_bytes()

    def fails(stream, **_):
        stream.write(b"half of it")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez_compressed", fails)
    with pytest.raises(OSError, match="no space left"):
        write_npz(file, corpus.subset([0]))
    assert file.read_bytes() == old
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"xy": None}, r"xy: no such key; got \['ids', .*, expected \['xy', 'pen_up'"),
        ({"texts": None}, "texts: no such key"),
        (
            {"xy": np.zeros((3, 3))},
            r"xy: got float64 of shape \(3, 3\), expected numbers of .*N, 2",
        ),
        ({"xy": np.zeros(6)}, r"xy: got float64 of shape \(6,\)"),
        ({"xy": np.zeros((3, 2), complex)}, "xy: got complex128"),
        ({"pen_up": np.zeros(4)}, r"pen_up: got float64 of shape \(4,\), expected .* with N = 3"),
        ({"pen_up": np.array([0, 2, 1])}, "values: .*pen_up must be 0 or 1"),
        ({"lengths": np.array([2.0, 1.0])}, "lengths: got float64 .*expected integers"),
        (
            {"lengths": np.array([2, 2])},
            "values: .*lengths must be 3 points in all, got a sum of 4",
        ),
        ({"lengths": np.array([3, 0])}, "values: .*lengths must be between 1 and 3"),
        ({"ids": np.array(["a-1"])}, r"ids: got <U3 of shape \(1,\), expected strings .* L = 2"),
        ({"ids": np.array([1, 2])}, "ids: got int64"),
        ({"ids": np.array([b"a", b"b"])}, r"ids: got \|S1"),
        ({"xy": np.array([[5, 5], [np.nan, 8], [1, 0]])}, "values: .*xy must be finite"),
        ({"texts": np.array(["one", 2], object)}, r"texts: an array of \|O, .*no pickle is read"),
        (
            {"texts": np.array([2**31 - 1, 7], "<u4").view("<U1")},
            "texts: character 2147483647, beyond Unicode",
        ),
        ({"texts": np.array([(1, 2)], "i4,i4")}, "texts: not the header of a plain array"),
        ({"texts": np.array(["NaT", "NaT"], "M8[s]")}, "texts: not the header of a plain array"),
    ],
)
def test_what_a_flat_archive_lacks_is_named(tmp_path, changes, words):
    file = tmp_path / "lines.npz"
    arrays = {key: value for key, value in (flat_arrays() | changes).items() if value is not None}
    np.savez(file, **arrays)
    with pytest.raises(StrokeFormatError, match=re.escape(f"{file}: ") + words):
        read(file)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": np.array(3)}, "version: got 3, this release of mdnjax reads versions 1 to 2"),
        ({"version": np.array(0)}, "version: got 0, this release of mdnjax reads versions 1 to 2"),
        ({"version": np.array("1")}, "version: got <U1"),
        ({"format": np.array("other")}, "format: got 'other', expected 'mdnjax-strokes'"),
        ({"unit": None}, "unit: no such key"),
        ({"offsets": np.zeros((5, 2), int)}, "offsets: got int64 .*expected floating-point"),
        ({"offsets": np.ones((5, 2))}, "values: .*offsets must be zero where a line starts"),
        ({"writers": np.array(["one"])}, r"writers: got <U3 of shape \(1,\)"),
        ({"has_writers": None}, "has_writers: no such key"),
        ({"has_parts": None}, "has_parts: no such key"),
        ({"has_parts": np.array(True)}, "parts: no such key"),
        ({"has_times": np.array(1)}, "has_times: got int64 .*expected a boolean"),
        ({"has_times": np.array(True), "times": np.zeros(4)}, r"times: got .*\(4,\).*N = 5"),
        ({"has_times": np.array(True), "times": np.ones(5)}, "values: .*times must be zero where"),
        ({"resolution": None}, "resolution: no such key"),
        ({"resolution": np.array(-1.0)}, "values: .*resolution must be positive"),
        ({"resolution": np.array(np.nan)}, "values: .*resolution must be positive"),
    ],
)
def test_what_our_own_archive_lacks_is_named(tmp_path, corpus, changes, words):
    file = tmp_path / "lines.npz"
    write_npz(file, corpus)
    arrays = dict(np.load(file).items()) | changes
    np.savez(file, **{key: value for key, value in arrays.items() if value is not None})
    with pytest.raises(StrokeFormatError, match=re.escape(f"{file}: ") + words):
        read_npz(file)


def test_an_array_that_claims_to_be_huge_is_refused(tmp_path):
    file = tmp_path / "lines.npz"
    np.savez(file, **flat_arrays())
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    # The header is padded with spaces to its length: the longer number takes some of them.
    claim = b"(3" + b"0" * 15 + b", 2), }"
    members["xy.npy"] = members["xy.npy"].replace(b"(3, 2), }" + b" " * 15, claim)
    assert b"30000" in members["xy.npy"]
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(StrokeFormatError, match=r"xy: .* is 24,000,000,000,000,000 bytes, but 24 "):
        read_npz(file)


def npy(header, data=b""):
    text = header.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + data


def described(dtype, shape, order=False):
    return f"{{'descr': '{dtype}', 'fortran_order': {order}, 'shape': {shape}, }}"


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (b"", "begins with b'', expected a NumPy array"),
        (b"\x93NUMPY\x09\x00" + bytes(20), "in version 9.0, expected 1.0 or 2.0"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + bytes(20), "a header of 2147483647 bytes, exp"),
        (npy(described("<f8", "(3, 2)"), bytes(40)), "is 48 bytes, but 40 are here"),
        (npy(described("<f8", "(3, 2)"), bytes(56)), "is 48 bytes, but 56 are here"),
        (npy(described("<f8", "(1" + "0" * 17 + ", 2)")), "but 0 are here"),
        (npy(described("<f8", f"(0, {10**17}, {10**17})")), "an array of an impossible shape"),
        (npy(described("<f8", "(" + "1" * 100 + ")")), "not the header of a plain array"),
        (npy(described("<f8", "(3, -2)")), "not the header of a plain array"),
        (npy(described("<f8", "__import__('os').abort()")), "not the header of a plain array"),
        (npy(described("<f3", "(0,)")), "no dtype of NumPy's: '<f3'"),
        (npy(described("<U0", f"({10**17},)")), "an array of <U0, which has no size"),
        (npy(described("|b1", "(2,)"), b"\1\2"), "bytes that are no booleans"),
    ],
)
def test_what_a_member_claims_is_held_against_what_it_has(tmp_path, member, words):
    file = tmp_path / "lines.npz"
    np.savez(file, **{key: array for key, array in flat_arrays().items() if key != "xy"})
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("xy.npy", member)
    with pytest.raises(StrokeFormatError, match=re.escape(f"{file}: xy: ") + ".*" + words):
        read_npz(file)


def test_arrays_are_read_as_numpy_reads_them(tmp_path):
    arrays = flat_arrays()
    arrays["xy"] = np.asfortranarray(arrays["xy"])
    file = tmp_path / "lines.npz"
    np.savez(file, **arrays)
    first = read_npz(file)
    # As Python 2 wrote it, in the longer kind of header.
    header = described("<i4", "(3L, 2L)").encode() + b"\n"
    data = arrays["xy"].tobytes()
    with zipfile.ZipFile(file, "w") as archive:
        length = len(header).to_bytes(4, "little")
        archive.writestr("xy.npy", b"\x93NUMPY\x02\x00" + length + header + data)
        for key in list(arrays)[1:]:
            with archive.open(f"{key}.npy", "w") as member:
                np.lib.format.write_array(member, arrays[key], allow_pickle=False)
    assert_same(read_npz(file), first)


def test_a_small_archive_does_not_unpack_to_a_large_one(tmp_path):
    file = tmp_path / "lines.npz"
    np.savez_compressed(file, **flat_arrays(), padding=np.zeros(2**25, np.uint8))
    assert len(read_npz(file)) == 2  # a compressible member, within reason
    content = file.read_bytes()
    claim = (2**25 + 128).to_bytes(4, "little")
    assert content.count(claim) in (1, 2)  # here in the directory, and perhaps before the member
    file.write_bytes(content.replace(claim, (2**32 - 2).to_bytes(4, "little")))
    with pytest.raises(StrokeFormatError, match=r"archive: claims 4,294,\d+,\d+ bytes, of which"):
        read_npz(file)


def test_a_name_stands_once(tmp_path):
    file = tmp_path / "lines.npz"
    np.savez(file, **flat_arrays())
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("xy", b"")
    with pytest.raises(StrokeFormatError, match="xy: stands twice in the archive"):
        read_npz(file)


def test_an_array_whose_header_claims_too_little_is_refused(tmp_path):
    # Each name would lose its tail, at the right shape, and NumPy would not see the checksum.
    file = tmp_path / "lines.npz"
    names = np.array([f"line-{i:05}" for i in range(3000)])
    ones = np.ones(3000, np.int32)
    arrays = {"xy": np.zeros((3000, 2)), "pen_up": ones, "lengths": ones}
    np.savez(file, ids=names, texts=np.full(3000, ""), **arrays)
    content = file.read_bytes()
    assert content.count(b"'<U10'") == 1
    file.write_bytes(content.replace(b"'<U10'", b"'<U09'"))
    with np.load(file) as archive:
        assert archive["ids"].shape == (3000,)
        assert archive["ids"][1] != names[1]
    with pytest.raises(StrokeFormatError, match=r"ids: not an archive .*CRC"):
        read_npz(file)


def test_truncated_archives_are_refused(tmp_path, corpus):
    file = tmp_path / "lines.npz"
    write_npz(file, corpus)
    content = file.read_bytes()
    for length in range(0, len(content), 17):
        file.write_bytes(content[:length])
        with pytest.raises(StrokeFormatError, match=re.escape(str(file))):
            read(file)


@pytest.mark.parametrize("compressed", [True, False])
def test_a_changed_byte_is_refused_or_changes_nothing(tmp_path, corpus, compressed):
    file = tmp_path / "lines.npz"
    write_npz(file, corpus)
    if not compressed:
        np.savez(file, **dict(np.load(file).items()))
    original = file.read_bytes()
    rng = np.random.default_rng(2)
    refused = 0
    for _ in range(500):
        content = bytearray(original)
        content[rng.integers(len(content))] ^= rng.integers(1, 256)
        file.write_bytes(content)
        try:
            lines = read(file)
        except StrokeFormatError:
            refused += 1
        else:
            assert_same(lines, corpus)
    assert 150 < refused < 500


def test_a_zip_that_is_no_archive_of_arrays(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "words")
    with pytest.raises(StrokeFormatError, match=r"xy: no such key; got \['readme\.txt'\]"):
        read(tmp_path / "a.zip")


# Real data


def test_the_training_set_of_iam_ondb(data_dir):
    lines = read(data_dir / "iam_ondb" / "train_t1.npz")
    assert len(lines) == 5364
    assert len(lines.strokes.offsets) == lines.lengths.sum() == 3_298_424
    assert len(set(lines.forms.tolist())) == 775
    offsets = np.delete(lines.strokes.offsets, lines.starts, axis=0).astype(np.float64)
    np.testing.assert_allclose(offsets.mean(axis=0), [8.46, 0.08], atol=0.01)
    np.testing.assert_allclose(offsets.std(axis=0), [42.5, 36.4], rtol=0.01)
    assert lines.strokes.pen_up[lines.starts + lines.lengths - 1].all()
    assert lines.texts[0] == "By Trevor Williams. A move to"

    xy = np.load(data_dir / "iam_ondb" / "train_t1.npz")["xy"].astype(np.int64)
    steps = np.diff(xy, axis=0)
    within = np.ones(len(steps), bool)
    within[lines.starts[1:] - 1] = False
    np.testing.assert_array_equal(lines.strokes.offsets[1:][within], steps[within])
    assert not lines.strokes.offsets[lines.starts].any()


def test_a_real_corpus_survives_our_own_format(data_dir, tmp_path):
    official = dataclasses.replace(read(data_dir / "iam_ondb" / "official"), unit="counts")
    write_npz(tmp_path / "lines.npz", official)
    assert_same(read(tmp_path / "lines.npz"), official)
