"""Pickles: read as NumPy reads them where they are honest, refused where not, and never run."""

import copyreg
import io
import os
import pathlib
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from made_clock import within
from made_stroke3 import DRAWINGS, assert_holds, npy, objects_of

from mdnjax.strokes.formats import StrokeFormatError, read

# Pickles by hand, in the words of Python 2, which sketch-rnn's authors used.

RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
NDARRAY = b"cnumpy\nndarray\n"
DTYPE = b"cnumpy\ndtype\n"
EMPTY = RECONSTRUCT + NDARRAY + b"K\0\x85U\x01b\x87R"


def number(value):
    return b"J" + struct.pack("<i", value)


def text(value):
    return b"U" + bytes([len(value)]) + value.encode()


PLAIN = b"NNN" + number(-1) + number(-1)


def dtype(letters="i2", order="<", rest=PLAIN, version=3):
    made, flags = DTYPE + text(letters) + b"K\0K\1\x87R", b"K\x3f" if letters == "O8" else b"K\0"
    return made + b"(" + number(version) + text(order) + rest + flags + b"tb"


def state(shape, element, data, version=b"K\1", fortran=b"\x89"):
    sizes = b"(" + b"".join(map(number, shape)) + b"t"
    return b"(" + version + sizes + element + fortran + data + b"t"


def raw(data):
    return b"T" + struct.pack("<i", len(data)) + data


def drawing(rows=((0, 0, 1),), **options):
    rows = np.array(rows, np.int16)
    return EMPTY + state(rows.shape, dtype(), raw(rows.tobytes()), **options) + b"b"


def objects(*elements, count=None, element=None):
    count = len(elements) if count is None else count
    listed = b"](" + b"".join(elements) + b"e"
    return EMPTY + state((count,), element or dtype("O8", "|"), listed) + b"b"


def program(body, protocol=2):
    return b"\x80" + bytes([protocol]) + body + b"."


# What is right


def test_the_words_of_python_2_are_read_as_numpy_reads_them(tmp_path):
    file = tmp_path / "drawings.npy"
    third = EMPTY + state((2, 3), dtype("f8", ">"), raw(np.ones(6, ">f8").tobytes())) + b"b"
    long_shape = b"(K\1(\x8a\1\2\x8a\2\3\0t" + dtype("u1", "|") + b"\x89U\6\1\2\0\3\4\1t"
    pickled = program(objects(drawing(DRAWINGS[0]), drawing(), third, EMPTY + long_shape + b"b"))
    file.write_bytes(npy(pickled, 4))
    oracle = np.load(file, allow_pickle=True, encoding="latin1")
    assert_holds(read(file), [DRAWINGS[0], [[0, 0, 1]], [[1, 1, 1]] * 2, [[1, 2, 0], [3, 4, 1]]])
    assert_holds(read(file), list(oracle))


def test_the_header_and_the_pickle_must_agree(tmp_path):
    file = tmp_path / "drawings.npy"
    file.write_bytes(npy(program(objects(drawing(), drawing())), 3))
    with pytest.raises(StrokeFormatError, match=r"claims objects of shape \(3,\), but has 2"):
        read(file)


# What is wrong


class Canary:
    """Leaves a file behind where it is made, given a state, or called."""

    def __new__(cls, path="", **more):
        pathlib.Path(path or more["path"]).touch()
        return super().__new__(cls)

    def __setstate__(self, path):
        pathlib.Path(path).touch()


class Reduced:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


HERE = f"c{__name__}\nCanary\n".encode()


def unicode(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def extension(path):
    copyreg.add_extension(__name__, "Canary", 200)
    pickle.loads(b"\x80\x02\x82\xc8.")  # it is in the cache of extensions now
    return program(b"\x82\xc8" + unicode(path) + b"\x85R")


ATTACKS = {
    "REDUCE": lambda path: pickle.dumps(Reduced(path), protocol=2),
    "REDUCE in protocol 4": lambda path: pickle.dumps(Reduced(path), protocol=4),
    "REDUCE in an element": lambda path: pickle.dumps(objects_of([Reduced(path)]), protocol=4),
    "GLOBAL": lambda path: program(
        b"cbuiltins\neval\n" + unicode(f"open({path!r}, 'w').close()") + b"\x85R"
    ),
    "STACK_GLOBAL": lambda path: program(
        b"\x8c\x08builtins\x8c\x04eval\x93" + unicode(f"open({path!r}, 'w').close()") + b"\x85R", 4
    ),
    "a dotted name": lambda path: program(
        b"\x8c\x02os\x8c\x0epath.os.system\x93" + unicode(f"touch {path}") + b"\x85R", 4
    ),
    "INST": lambda path: b"(" + unicode(f"touch {path}") + b"ios\nsystem\n.",
    "OBJ": lambda path: b"(" + HERE + unicode(path) + b"o.",
    "NEWOBJ": lambda path: program(HERE + unicode(path) + b"\x85\x81"),
    "NEWOBJ_EX": lambda path: program(HERE + b")}" + unicode("path") + unicode(path) + b"s\x92", 4),
    "BUILD": lambda path: program(HERE + unicode(path) + b"\x85\x81" + unicode(path) + b"b"),
    "EXT1": extension,
    "numpy's exec": lambda path: program(
        b"cnumpy.testing._private.utils\nrunstring\n"
        + unicode(f"open({path!r}, 'w').close()")
        + b"}\x86R"
    ),
    "beside an array": lambda path: program(
        b"(" + objects(drawing()) + HERE + unicode(path) + b"\x85R" + b"t"
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_pickle_is_refused_and_nothing_runs(tmp_path, attack):
    canary, file = tmp_path / "canary", tmp_path / "drawings.npy"
    pickled = ATTACKS[attack](str(canary))
    try:
        canary.unlink(missing_ok=True)
        pickle.loads(pickled, encoding="latin1")
        assert canary.exists(), "the attack must work on pickle itself to mean anything"
        canary.unlink()
        for content in (npy(pickled, 1), npz(npy(pickled, 1))):
            file.write_bytes(content)
            with pytest.raises(StrokeFormatError, match="it was not run"):
                read(file)
            assert not canary.exists()
    finally:
        if attack == "EXT1":
            copyreg.remove_extension(__name__, "Canary", 200)
            copyreg._extension_cache.clear()


def npz(member):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("train.npy", member)
    return file.getvalue()


MALFORMED = {
    "nothing": (b"", "it ends too early"),
    "no end": (program(objects(drawing()))[:-1], "it ends too early"),
    "more after the end": (program(objects(drawing())) + b"N.", "2 bytes after its end"),
    "protocol 0": (b"I1\n.", "operation 0x49, which no array needs"),
    "protocol 5": (pickle.dumps(objects_of(DRAWINGS), protocol=5), "protocol 5, expected 2 to 4"),
    "an empty stack": (program(b"R"), "an empty stack"),
    "no mark": (program(b"Nt"), "an empty stack"),
    "PERSID": (b"Pos.system\n.", "operation 0x50"),
    "BINPERSID": (program(b"NQ"), "operation 0x51"),
    "EXT4": (program(b"\x84\1\0\0\0"), "operation 0x84"),
    "a dict": (program(b"}"), "operation 0x7d"),
    "a set": (program(b"\x8f", 4), "operation 0x8f"),
    "a number": (program(b"K\1"), "does not end with an array of objects"),
    "an array of numbers": (program(drawing()), "does not end with an array of objects"),
    "two arrays": (program(objects(drawing()) + b"N"), "does not end with an array of objects"),
    "an array without a state": (program(EMPTY), "does not end with an array of objects"),
    "an open mark": (program(b"(" + objects(drawing())), "does not end with an array of objects"),
    "globals by a dotted name": (
        program(b"\x8c\x16numpy._core.multiarray\x8c\x18_reconstruct.__globals__\x93", 4),
        r"the name numpy._core.multiarray._reconstruct.__globals__, which",
    ),
    "another name there": (program(b"cnumpy.core.multiarray\nfromfile\n"), "multiarray.fromfile"),
    "the class of a name": (program(b"cnumpy\ndtype.__class__\n"), "name numpy.dtype.__class__"),
    "a name without an end": (program(b"c" + b"a" * 300), "a name without an end"),
    "a name that is no text": (program(b"NN\x93", 4), "a name that is no text"),
    "a list in a name": (program(b"]N\x93", 4), "a name that is no text"),
    "a call of no name": (program(b"NNR"), "a call that no array needs"),
    "a matrix": (program(RECONSTRUCT + DTYPE + b"K\0\x85U\1b\x87R"), "a call that no array needs"),
    "a filled array": (program(RECONSTRUCT + NDARRAY + number(10**9) + b"\x85U\1b\x87R"), "a call"),
    "a call of ndarray": (program(NDARRAY + number(10**9) + b"\x85\x85R"), "a call that no arr"),
    "another codec": (program(b"c_codecs\nencode\nU\1aU\5rot13\x86R"), "a call that no array"),
    "bytes encoded": (program(b"c_codecs\nencode\nU\1aU\6latin1\x86R"), "a call that no array"),
    "text encoded": (
        program(b"c_codecs\nencode\nX\3\0\0\0\xe2\x82\xacU\6latin1\x86R"),
        "stand for",
    ),
    "a list as dtype": (program(DTYPE + b"]K\0K\1\x87R"), "a call that no array needs"),
    "records": (program(dtype("V8", "|")), "a call that no array needs"),
    "strings": (program(dtype("S9", "|")), "a call that no array needs"),
    "dates": (program(dtype("M8", "<")), "a call that no array needs"),
    "fields": (
        program(dtype(rest=b"NU\1a\x85}" + number(-1) + number(-1))),
        "operation 0x7d",
    ),
    "names": (
        program(dtype(rest=b"NU\1a\x85N" + number(-1) + number(-1))),
        "a dtype that is neither a number nor an object",
    ),
    "a size of its own": (program(dtype(rest=b"NNN" + number(9) + number(1))), "a dtype that is"),
    "an unknown version": (program(dtype(version=9)), "a dtype that is neither"),
    "no byte order": (program(dtype(order="|")), "a byte order that i2 does not have"),
    "another byte order": (program(dtype("i1", "<")), "a byte order that i1 does not have"),
    "a dtype twice": (program(dtype() + b"NNt"), "an empty stack"),
    "a state of a dtype twice": (program(dtype() + b")b"), "a state for what takes none"),
    "a state of an array twice": (program(drawing() + b")b"), "a state for what takes none"),
    "a state of a name": (program(NDARRAY + b")b"), "a state for what takes none"),
    "a state of text": (program(EMPTY + b"U\1ab"), "an array's state that is not"),
    "an odd state": (program(EMPTY + b"(K\1K\1K\1K\1K\1tb"), "an array's state that is not"),
    "a bare dtype": (
        program(EMPTY + state((1, 3), DTYPE + b"U\2i2K\0K\1\x87R", raw(bytes(6))) + b"b"),
        "an array of an unknown version, dtype or shape",
    ),
    "version 9 of an array": (program(drawing(version=b"K\x09")), "an array of an unknown ver"),
    "a negative shape": (
        program(EMPTY + state((-1, -3), dtype(), raw(bytes(6))) + b"b"),
        "an array of an unknown version, dtype or shape",
    ),
    "too little data": (
        program(EMPTY + state((10**9, 3), dtype("f8"), raw(bytes(6))) + b"b"),
        "an array that claims 24,000,000,000 bytes and has 6 bytes",
    ),
    "too much data": (
        program(EMPTY + state((1, 3), dtype(), raw(bytes(7))) + b"b"),
        "an array that claims 6 bytes and has 7 bytes",
    ),
    "an impossible shape": (
        program(EMPTY + state((0, *[2**31 - 1] * 3), dtype("f8"), raw(b"")) + b"b"),
        "an array of an impossible shape",
    ),
    "forty axes": (
        program(EMPTY + state([1] * 40, dtype("i1", "|"), raw(b"\0")) + b"b"),
        "an array that claims 1 bytes",
    ),
    "objects in a claim of floats": (
        program(EMPTY + state((1,), dtype("f8"), b"](" + drawing() + b"e") + b"b"),
        "an array that claims 8 bytes and has something else",
    ),
    "bytes in a claim of objects": (
        program(EMPTY + state((1,), dtype("O8", "|"), raw(bytes(8))) + b"b"),
        "an array of objects that is no list, or not as long",
    ),
    "fewer objects than claimed": (program(objects(drawing(), count=9)), "or not as long as it"),
    "an element without a state": (program(objects(EMPTY)), "an element that is no numeric array"),
    "an element of text": (program(objects(b"U\1a")), "an element that is no numeric array"),
    "an element in itself": (program(b"]q\0h\0a"), "an element that is no numeric array"),
    "elements of elements": (program(objects(objects(drawing()))), "a second list"),
    "an unkept number": (program(b"h\7"), "recalls number 7, which it has not kept"),
    "text that is not text": (program(b"X\1\0\0\0\xff"), "text that is not UTF-8"),
}
BOMBS = {
    "a long string": (program(b"T\xff\xff\xff\x7fa"), "claims 2,147,483,647 bytes, but 2 are left"),
    "a longer one": (program(b"\x8e" + b"\xff" * 8, 4), "bytes, but 1 are left"),
    "a long frame": (program(b"\x95" + b"\xff" * 7 + b"\x7f", 4), "bytes, but 1 are left"),
    "a long number": (program(b"\x8a\xff" + bytes(255)), "a number of 255 bytes"),
    "a large memo": (program(b"Nr\xff\xff\xff\x7f"), "does not end with an array"),
    "a memo without end": (program(b"N" + b"\x94" * 10**5, 4), "keeps more than arrays need"),
    "many marks": (program(b"(" * 10**6), "deeper than arrays are"),
    "many lists": (program(b"]" * 10**6), "a second list"),
    "deep lists": (program(b"](" * 10**6 + b"e" * 10**6), "a second list"),
    "deep tuples": (program(b"N" + b"\x85" * 10**6), "deeper than arrays are"),
    "a high stack": (program(b"N" * 10**6), "a stack higher than arrays need"),
    "a tuple of tuples of tuples": (
        program(b"(K\1t" + b"q\0h\0h\0h\0\x87" * 10**5),
        "deeper than arrays are",
    ),
    "one array many times": (
        program(objects(drawing([[0, 0, 1]] * 500) + b"q\5" + b"e(" + b"h\5" * 9000, count=9001)),
        "repeats its arrays to 27,003,000 bytes, but has 21,",
    ),
}


@pytest.mark.parametrize("name", MALFORMED | BOMBS)
def test_a_malformed_pickle_is_refused_in_little_memory(tmp_path, name):
    pickled, words = (MALFORMED | BOMBS)[name]
    file = tmp_path / "drawings.npy"
    file.write_bytes(npy(pickled, 1))
    tracemalloc.start()
    try:
        with (
            within(5.0),
            pytest.raises(StrokeFormatError, match=f": array: byte .*{words}.*; it was not run"),
        ):
            read(file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20 + 20 * len(pickled)
