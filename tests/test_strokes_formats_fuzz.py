"""Every reader against damaged files: a named error or a correct reading, and nothing else.

Each `Target` is a small valid file, or a folder one of whose files is damaged, with what its format
promises: how many lines a file cut short still holds. A case passes if reading it

- raises a StrokeFormatError (or OSError) that names the file, or gives a sound corpus;
- is not silent about lines that are lost;
- takes a few seconds at most, and, for files that claim gigabytes, little memory.
"""

import dataclasses
import json
import pathlib
import pickle
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from made_clock import within
from made_files import flat, handwriting, iam, npy, npz, own, quickdraw, stroke3, svg, unipen
from made_stroke3 import objects_of

from mdnjax.strokes import Corpus
from mdnjax.strokes.formats import (
    StrokeFormatError,
    read,
    read_iam,
    read_npz,
    read_quickdraw,
    read_stroke3,
    read_svg,
    read_unipen,
)

FLIPS = 60
SECONDS = 5.0  # what takes a quadratic number of steps takes minutes on these files
HANGS = 60.0  # seconds by the clock on the wall

LINES = handwriting(4)


# What a file cut short still holds


def whole_only(data: bytes, cut: int) -> tuple[int, bool] | None:
    """A format that shows when an end is missing (spaces apart)."""
    return (len(LINES), False) if not data[cut:].strip() else None


def whole_lines(data: bytes, cut: int) -> tuple[int, bool] | None:
    """One drawing a line."""
    ends = [match.start() for match in re.finditer(rb"\n", data)]
    read_ = sum(end <= cut for end in ends)
    return read_, cut > 0 and not (cut in ends or cut - 1 in ends)


def whole_segments(data: bytes, cut: int) -> tuple[int, bool] | None:
    """A segment is whole when the pen was last lifted."""
    starts = [match.start() for match in re.finditer(rb"^\.SEGMENT", data, re.MULTILINE)]
    ends = [data.rindex(b".PEN_UP", 0, end) + 7 for end in [*starts[1:], len(data)]]
    read_ = sum(end <= cut for end in ends)
    # Of a keyword that is cut, the rest may be any keyword: it is seen when ".SEGMENT" is whole.
    return read_, any(start + 8 <= cut < end for start, end in zip(starts, ends, strict=True))


@dataclasses.dataclass(frozen=True)
class Target:
    reader: Callable[..., Corpus]
    data: bytes
    cut: Callable[[bytes, int], tuple[int, bool] | None]
    name: str = "file"  # of the damaged file, below the folder that is read if there is one
    others: tuple[tuple[str, bytes], ...] = ()
    checksum: bool = False  # a changed byte is refused or changes nothing
    tells_losses: bool = True  # a changed byte that loses a line is warned of

    def put(self, folder: pathlib.Path, data: bytes) -> pathlib.Path:
        """Writes the damaged file, and gives what to read."""
        for name, content in self.others:
            if not (folder / name).exists():  # of many cases in one folder, the first wrote them
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
        (folder / self.name).parent.mkdir(parents=True, exist_ok=True)
        (folder / self.name).write_bytes(data)
        return folder if self.others else folder / self.name


IAM_WORDS = "CSR:\n\n" + "".join(f"some words {i}\n" for i in range(len(LINES)))
IAM_TREE = {
    f"lineStrokes/a01/a01-001/a01-001w-{i + 1:02}.xml": iam(line).encode()
    for i, line in enumerate(LINES)
} | {"ascii/a01/a01-001/a01-001w.txt": IAM_WORDS.encode()}


def in_tree(name):
    others = tuple((other, data) for other, data in IAM_TREE.items() if other != name)
    return {"name": name, "data": IAM_TREE[name], "others": others}


RAGGED = objects_of([stroke3(line) for line in LINES])
EVEN = np.stack([stroke3(LINES[0])] * 4)
PARTS = {"train": RAGGED[:2], "valid": RAGGED[2:3], "test": RAGGED[3:]}

TARGETS = {
    "iam strokes": Target(
        read_iam,
        cut=lambda data, cut: (4, False) if not data[cut:].strip() else (3, True),
        **in_tree("lineStrokes/a01/a01-001/a01-001w-04.xml"),
    ),
    # A transcription that ends within a word looks as good as a whole one; only lines count.
    "iam words": Target(
        read_iam,
        cut=lambda data, cut: (4, False) if re.search(rb"words 2\n.", data[:cut]) else None,
        **in_tree("ascii/a01/a01-001/a01-001w.txt"),
    ),
    "npz flat": Target(read_npz, npz(flat(LINES)), whole_only, checksum=True),
    "npz own": Target(read_npz, npz(own(LINES)), whole_only, checksum=True),
    "npz own, stored": Target(read_npz, npz(own(LINES), np.savez), whole_only, checksum=True),
    "stroke-3 npz": Target(read_stroke3, npz(PARTS), whole_only, checksum=True),
    "stroke-3 npy": Target(read_stroke3, npy(RAGGED), whole_only),
    "stroke-3 npy, even": Target(read_stroke3, npy(EVEN), whole_only),
    "quickdraw raw": Target(
        read_quickdraw,
        "".join(quickdraw(line, i, raw=True) for i, line in enumerate(LINES)).encode(),
        whole_lines,
    ),
    "quickdraw simplified": Target(
        read_quickdraw,
        "".join(quickdraw(line, i, raw=False) for i, line in enumerate(LINES)).encode(),
        whole_lines,
    ),
    "unipen characters": Target(read_unipen, unipen(LINES, "CHARACTER").encode(), whole_segments),
    "unipen digits": Target(read_unipen, unipen(LINES, "DIGIT").encode(), whole_segments),
    # A changed letter can make ink into something that is well written and draws nothing.
    "svg": Target(read_svg, svg(LINES).encode(), whole_only, tells_losses=False),
}
EVERY = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())


# What every reading must be


@dataclasses.dataclass
class Reading:
    corpus: Corpus | None
    error: Exception | None
    warnings: list[str]


class _TooSlow(BaseException):
    """Not an Exception: no reader may take it for damage."""


def _too_slow(*_):
    raise _TooSlow


@pytest.fixture(autouse=True)
def no_hang():
    """Ends a reading that hangs; what only takes too long is told by `attempt`."""
    before = signal.signal(signal.SIGALRM, _too_slow)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def attempt(reader, path, named=None) -> Reading:
    """Reads, and holds what came of it against the promise."""
    signal.setitimer(signal.ITIMER_REAL, HANGS)
    with within(SECONDS), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            reading = Reading(reader(path), None, [])
        except (StrokeFormatError, OSError) as error:
            reading = Reading(None, error, [])
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert all(warning.category is UserWarning for warning in caught), caught
    reading.warnings = [str(warning.message) for warning in caught]
    assert len(reading.warnings) <= 1
    for message in [str(reading.error)] * (reading.error is not None) + reading.warnings:
        assert str(named or path) in message
        # A message is read by people: no dump of a damaged file, no control characters.
        assert len(message) < 2000 + 5 * len(str(path))
        assert message.replace("\n", "").isprintable()
    if reading.corpus is not None:
        assert_sound(reading.corpus)
    return reading


def assert_sound(corpus):
    offsets, pen_up = np.asarray(corpus.strokes.offsets), np.asarray(corpus.strokes.pen_up)
    assert len(corpus) > 0
    assert len(corpus) == len(corpus.lengths) == len(corpus.ids) == len(corpus.texts)
    assert corpus.lengths.min() > 0
    assert corpus.lengths.sum() == len(offsets) == len(pen_up) == len(corpus.strokes.mask)
    assert offsets.dtype in (np.float32, np.float64)
    assert np.isfinite(offsets).all()
    assert np.abs(offsets).max(initial=0) <= 2**24
    assert not offsets[corpus.starts].any()
    assert set(pen_up.tolist()) <= {0, 1}
    assert np.asarray(corpus.strokes.mask).all()
    assert 0 < corpus.resolution < np.inf
    json.dumps([corpus.ids.tolist(), corpus.texts.tolist(), corpus.unit])
    " ".join([*corpus.ids.tolist(), *corpus.texts.tolist(), corpus.unit]).encode()
    if corpus.times is not None:
        assert np.isfinite(corpus.times).all()
        assert not corpus.times[corpus.starts].any()
        falls = np.diff(corpus.times) < 0
        assert not np.delete(falls, corpus.starts[1:] - 1).any()


def assert_first_lines(corpus, whole, count):
    """The corpus is the first lines of the whole one."""
    assert corpus.ids.tolist() == whole.ids.tolist()[:count]
    for one, other in zip(corpus, whole, strict=False):
        np.testing.assert_array_equal(one.offsets, other.offsets)
        np.testing.assert_array_equal(one.pen_up, other.pen_up)
    if corpus.times is not None:
        np.testing.assert_array_equal(corpus.times, whole.times[: len(corpus.times)])


@EVERY
def test_the_undamaged_file_is_read_whole(tmp_path, target):
    path = target.put(tmp_path, target.data)
    reading = attempt(read, path)
    assert len(reading.corpus) == len(LINES)
    assert not reading.warnings
    assert target.reader(path).ids.tolist() == reading.corpus.ids.tolist()


# Truncation


def cuts(target):
    """Lengths to cut to, at every one of a hundred; two of a tiny file can be the same."""
    return [len(target.data) * percent // 100 for percent in range(100)]


@EVERY
def test_truncation(tmp_path, target):
    whole = target.reader(target.put(tmp_path, target.data))
    done = 0
    for cut in cuts(target):
        path = target.put(tmp_path, target.data[:cut])
        reading = attempt(target.reader, path)
        kept = target.cut(target.data, cut)
        if kept is None or kept[0] == 0:
            assert reading.error is not None, f"cut at {cut}"
        else:
            assert reading.corpus is not None, f"cut at {cut}: {reading.error}"
            assert len(reading.corpus) == kept[0], f"cut at {cut}"
            assert_first_lines(reading.corpus, whole, kept[0])
            assert bool(reading.warnings) == kept[1], f"cut at {cut}: {reading.warnings}"
        done += 1
    assert done == 100


# Changed, lost and doubled bytes


def damaged(target, seed=3):
    """Files with one byte changed, lost or doubled, or a stretch moved, from a fixed seed."""
    rng = np.random.default_rng(seed)
    for _ in range(FLIPS):
        data = bytearray(target.data)
        at = int(rng.integers(len(data)))
        data[at] ^= int(rng.integers(1, 256))
        yield bytes(data)
    # In text, a changed letter is more often another letter.
    for _ in range(FLIPS // 2):
        data = bytearray(target.data)
        at = int(rng.integers(len(data)))
        data[at] = int(rng.choice(list(b' .,0-9e<>/"[]{}:\nMZx')))
        yield bytes(data)
    for _ in range(FLIPS // 4):
        at, size = int(rng.integers(len(target.data))), int(rng.integers(1, 20))
        yield target.data[:at] + target.data[at + size :]
        yield target.data[: at + size] + target.data[at:]


@EVERY
def test_damaged_bytes(tmp_path, target):
    whole = target.reader(target.put(tmp_path, target.data))
    done = 0
    for data in damaged(target):
        path = target.put(tmp_path, data)
        reading = attempt(target.reader, path)
        if reading.corpus is not None:
            if target.checksum:
                assert_first_lines(reading.corpus, whole, len(LINES))
            if target.tells_losses:
                assert len(reading.corpus) >= len(LINES) or reading.warnings
        done += 1
    assert done == FLIPS + FLIPS // 2 + 2 * (FLIPS // 4)


@EVERY
def test_damaged_bytes_and_what_recognises_them(tmp_path, target):
    """`read` must make of any bytes what it promises, whichever reader it chooses."""
    done = 0
    for data in list(damaged(target, seed=4))[::4]:
        attempt(read, target.put(tmp_path, data))
        done += 1
    assert done == 30


# What files say that no file should


NUMBERS = ["NaN", "nan", "-Infinity", "inf", "1e999", "-1e999", "1e308", "9" * 400, "9" * 5000]
NUMBERS += [
    "8388608",
    "0x10",
    "1_000",
    "\u0661",
    "--5",
    "1.2.3",
    "",
    " ",
    "null",
    "true",
    '"5"',
    "[5]",
]


def coordinate(name):
    """Where the first coordinate of the last line stands in the text of a target."""
    text = TARGETS[name].data.decode()
    begin = {
        "iam strokes": text.find('x="') + 3,
        "svg": text.rfind('points="') + 8,
    }.get(name)
    if begin is None:
        begin = (
            text.rfind('"drawing":[[[') + 13 if "quickdraw" in name else text.rfind("DOWN\n ") + 6
        )
    end = begin + re.match(r"[-0-9.]+", text[begin:]).end()
    return text, begin, end


TEXTS = ["iam strokes", "quickdraw raw", "quickdraw simplified", "unipen characters"]
TEXTS += ["unipen digits", "svg"]


def numbers():
    for name in TEXTS:
        text, begin, end = coordinate(name)
        for number in NUMBERS:
            yield name, (text[:begin] + number + text[end:]).encode()


def test_numbers_that_are_none(tmp_path):
    """Where a coordinate should stand. Only SVG's grammar makes two numbers of "1.2.3"."""
    done = 0
    for name, data in numbers():
        target = TARGETS[name]
        path = target.put(tmp_path, data)
        reading = attempt(target.reader, path)
        if reading.corpus is not None:
            assert len(reading.corpus) == len(LINES) - 1, (name, data)
            assert "skipped: 1" in reading.warnings[0]
        for file in sorted(tmp_path.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        done += 1
    assert done == len(NUMBERS) * len(TEXTS)


ENCODINGS = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp500", "utf-7", "utf-8-sig"]


def encodings():
    for name in TEXTS:
        text = TARGETS[name].data.decode()
        for encoding in ENCODINGS:
            yield name, text.encode(encoding)
        yield name, text.replace("cat", "c\xe4t").replace('"a"', '"\xe4"').encode("latin-1")
        yield name, text.replace("\n", "\r\n").encode()
        yield name, text.replace("\n", "\r").encode()
        yield name, b"\0" + text.encode()
        yield name, text.encode() + b"\0"
        yield name, bytes(len(text))
        yield name, b""
        yield name, b"\n" * 1000
        yield name, np.random.default_rng(0).bytes(5000)
        yield name, bytes(range(256)) * 20


def test_other_encodings(tmp_path):
    done, read_ = 0, 0
    for name, data in encodings():
        target = TARGETS[name]
        reading = attempt(target.reader, target.put(tmp_path, data))
        if reading.corpus is not None and not reading.warnings:
            assert len(reading.corpus) == len(LINES), (name, data[:80])
            read_ += 1
        done += 1
    assert done == (len(ENCODINGS) + 10) * len(TEXTS)
    assert read_ >= 3 * len(TEXTS)


def words(name, *changes, count=1):
    text = TARGETS[name].data.decode()
    for old, new in changes:
        assert old in text, (name, old)
        text = text.replace(old, new, count)
    return text.encode()


def arrays(name, **changes):
    arrays = {"npz flat": flat, "npz own": own}[name](LINES) | changes
    return npz({key: array for key, array in arrays.items() if array is not None})


XY = flat(LINES)["xy"]
PEN = flat(LINES)["pen_up"]
LENGTHS = flat(LINES)["lengths"]
DOT = [[np.array([[5, 5]])]]
NEST = 100_000
# (target, file, what comes of it: an error, all lines, all but one with a warning, or any of these)
SPECIAL = {
    "iam: columns swapped": (
        "iam strokes",
        words("iam strokes", (" x=", " q="), (" y=", " x=")),
        "skip",
    ),
    "iam: an empty stroke": (
        "iam strokes",
        words("iam strokes", ("    <Stroke", "<Stroke/><Stroke")),
        "all",
    ),
    "iam: no strokes": (
        "iam strokes",
        re.sub(rb"<Stroke .*</Stroke>", b"", TARGETS["iam strokes"].data, flags=re.S),
        "skip",
    ),
    "iam: a dot": ("iam strokes", iam(DOT[0]).encode(), "all"),
    "iam: deep": (
        "iam strokes",
        words("iam strokes", ("<Point", "<Stroke>" * NEST + "<Point")),
        "skip",
    ),
    "iam: long": (
        "iam strokes",
        words("iam strokes", ('colour="black"', f'colour="{"b" * 10**6}"')),
        "all",
    ),
    "iam: entities": (
        "iam strokes",
        words("iam strokes", ("<White", '<!DOCTYPE x [<!ENTITY a "b">]><White')),
        "skip",
    ),
    "flat: transposed": ("npz flat", arrays("npz flat", xy=XY.T), "error"),
    "flat: three columns": ("npz flat", arrays("npz flat", xy=np.c_[XY, PEN]), "error"),
    "flat: keys swapped": ("npz flat", arrays("npz flat", pen_up=LENGTHS, lengths=PEN), "error"),
    "flat: texts are numbers": ("npz flat", arrays("npz flat", texts=LENGTHS), "error"),
    "flat: columns swapped": ("npz flat", arrays("npz flat", xy=XY[:, ::-1]), "all"),
    "flat: NaN": ("npz flat", arrays("npz flat", xy=np.where(XY[5] == XY, np.nan, XY)), "error"),
    "flat: infinity": (
        "npz flat",
        arrays("npz flat", xy=np.where(XY[5] == XY, np.inf, XY)),
        "error",
    ),
    "flat: huge": ("npz flat", arrays("npz flat", xy=np.where(XY[5] == XY, 1e300, XY)), "error"),
    "flat: an empty line": (
        "npz flat",
        arrays("npz flat", lengths=LENGTHS + np.array([-LENGTHS[0], LENGTHS[0], 0, 0])),
        "error",
    ),
    "flat: negative": (
        "npz flat",
        arrays("npz flat", lengths=LENGTHS + np.array([-2000, 2000, 0, 0])),
        "error",
    ),
    "flat: overflow": (
        "npz flat",
        arrays("npz flat", lengths=LENGTHS + np.array([2**62, 2**62, 2**62, 2**62])),
        "error",
    ),
    "flat: objects": (
        "npz flat",
        arrays("npz flat", texts=np.array(["a", "b", "c", None])),
        "error",
    ),
    "flat: a key less": ("npz flat", arrays("npz flat", lengths=None), "error"),
    "flat: dots": ("npz flat", npz(flat(DOT * 4)), "all"),
    "flat: nothing": ("npz flat", npz({}), "error"),
    "own: NaN": ("npz own", arrays("npz own", offsets=np.full((len(XY), 2), np.nan)), "error"),
    "own: times fall": ("npz own", arrays("npz own", times=-own(LINES)["times"]), "error"),
    "own: times NaN": ("npz own", arrays("npz own", times=own(LINES)["times"] * np.nan), "error"),
    "own: parts": ("npz own", arrays("npz own", parts=np.array(["a"] * 4)), "error"),
    "own: resolution": ("npz own", arrays("npz own", resolution=np.array(0.0)), "error"),
    "own: version": ("npz own", arrays("npz own", version=np.array(10**9)), "error"),
    "own: pen": ("npz own", arrays("npz own", pen_up=PEN + 1), "error"),
    "stroke-3: columns swapped": (
        "stroke-3 npz",
        npz({"train": objects_of([stroke3(x)[:, ::-1] for x in LINES])}),
        "error",
    ),
    "stroke-3: transposed": (
        "stroke-3 npz",
        npz({"train": objects_of([stroke3(x).T for x in LINES])}),
        "error",
    ),
    "stroke-3: NaN": (
        "stroke-3 npz",
        npz({"train": objects_of([stroke3(x) * np.nan for x in LINES])}),
        "error",
    ),
    "stroke-3: infinity": (
        "stroke-3 npz",
        npz({"train": objects_of([stroke3(x) + np.array([np.inf, 0, 0]) for x in LINES])}),
        "error",
    ),
    "stroke-3: an empty drawing": (
        "stroke-3 npz",
        npz({"train": objects_of([*RAGGED, RAGGED[0][:0]])}),
        "error",
    ),
    "stroke-3: no drawing": ("stroke-3 npz", npz({"train": objects_of([])}), "error"),
    "stroke-3: dots": (
        "stroke-3 npz",
        npz({"train": objects_of([stroke3(x) for x in DOT * 4])}),
        "all",
    ),
    "stroke-3: one dot": ("stroke-3 npy", npy(np.array([[0, 0, 1]])), "any"),
    "stroke-3: strings": ("stroke-3 npy", npy(objects_of(["abc"] * 4)), "error"),
    "stroke-3: hostile": ("stroke-3 npy", npy(RAGGED[:0]) + pickle.dumps(print), "error"),
    "stroke-3: deep": (
        "stroke-3 npy",
        npy(RAGGED)[:128] + b"\x80\x04" + b"(" * NEST + b"t" * NEST + b".",
        "error",
    ),
    "stroke-3: deep lists": (
        "stroke-3 npy",
        npy(RAGGED)[:128] + b"\x80\x04" + b"]" * NEST + b"a" * NEST + b".",
        "error",
    ),
    "quickdraw: three strokes swapped": (
        "quickdraw raw",
        words("quickdraw raw", ("]],[[", "],[["), count=1),
        "skip",
    ),
    "quickdraw: an empty stroke": (
        "quickdraw raw",
        words("quickdraw raw", ('"drawing":[', '"drawing":[[[],[],[]],')),
        "all",
    ),
    "quickdraw: nothing drawn": (
        "quickdraw raw",
        words("quickdraw raw", ('"drawing":[', '"drawing":[],"x":[')),
        "skip",
    ),
    "quickdraw: dots": ("quickdraw raw", quickdraw(DOT[0], 1, raw=True).encode() * 4, "all"),
    "quickdraw: deep": (
        "quickdraw raw",
        words("quickdraw raw", ('"drawing":', '"drawing":' + "[" * NEST)),
        "skip",
    ),
    "quickdraw: deep objects": (
        "quickdraw raw",
        words("quickdraw raw", ('"drawing":', '"drawing":' + '{"a":' * NEST)),
        "skip",
    ),
    "quickdraw: long word": (
        "quickdraw raw",
        words("quickdraw raw", ('"cat"', f'"{"cat" * 10**6}"')),
        "skip",
    ),
    "quickdraw: a surrogate": (
        "quickdraw raw",
        words("quickdraw raw", ('"cat"', '"\\ud800"')),
        "skip",
    ),
    "quickdraw: a zero": ("quickdraw raw", words("quickdraw raw", ('"cat"', '"\\u0000"')), "skip"),
    "quickdraw: both": (
        "quickdraw raw",
        TARGETS["quickdraw raw"].data + quickdraw(LINES[0], 9, raw=False).encode(),
        "any",
    ),
    "unipen: columns swapped": (
        "unipen characters",
        b".COORD Y X\n" + TARGETS["unipen characters"].data,
        "all",
    ),
    "unipen: too many columns": (
        "unipen characters",
        b".COORD X Y T\n" + TARGETS["unipen characters"].data,
        "error",
    ),
    "unipen: no columns": (
        "unipen characters",
        b".COORD\n" + TARGETS["unipen characters"].data,
        "error",
    ),
    "unipen: one empty stroke": (
        "unipen characters",
        re.sub(rb"DOWN\n[^.]*", b"DOWN\n", TARGETS["unipen characters"].data, count=1),
        "all",
    ),
    "unipen: empty strokes": (
        "unipen characters",
        re.sub(rb"DOWN\n[^.]*", b"DOWN\n", TARGETS["unipen characters"].data),
        "error",
    ),
    "unipen: dots": ("unipen characters", unipen(DOT * 4, "A").encode(), "all"),
    "unipen: labels only": ("unipen characters", b'.SEGMENT A 0 ? "a"\n' * 4, "error"),
    "unipen: huge ranges": (
        "unipen characters",
        words("unipen characters", ("0-2", "0-999999999")),
        "error",
    ),
    "unipen: huger ranges": (
        "unipen characters",
        words("unipen characters", ("0-2", "0-" + "9" * 5000)),
        "any",
    ),
    "unipen: long": (
        "unipen characters",
        words("unipen characters", ('"a"\n.C', f'"{"a" * 10**6}"\n.C')),
        "skip",
    ),
    "unipen: many commas": (
        "unipen characters",
        words("unipen characters", (" 0-2 ", " " + "0," * 10**5 + "0 ")),
        "any",
    ),
    "svg: an empty stroke": (
        "svg",
        words("svg", ("<polyline", '<polyline points=""/><polyline')),
        "all",
    ),
    "svg: dots": ("svg", svg(LINES).encode(), "all"),
    "svg: deep": ("svg", words("svg", ("<g>", "<g>" * NEST), ("</g>", "</g>" * NEST)), "error"),
    "svg: deep defs": (
        "svg",
        words("svg", ("<g>", "<defs>" * NEST + "</defs>" * NEST + "<g>")),
        "all",
    ),
    "svg: entities": ("svg", b'<!DOCTYPE svg [<!ENTITY a "b">]>' + TARGETS["svg"].data, "error"),
    "svg: a huge curve": ("svg", words("svg", ("Q", "Q8e6 8e6 -8e6 8e6 ")), "any"),
    "svg: many arcs": (
        "svg",
        words("svg", ("Q", "a1 1 0 0 1 1 1" + "1 1 0 0 1 1 1" * 3000 + "Q")),
        "any",
    ),
    "svg: many digits": ("svg", words("svg", ("Q", "Q" + "1" * 10**6)), "error"),
    "svg: many commas": ("svg", words("svg", ("Q", "Q" + "," * 10**6)), "error"),
    "svg: a long transform": ("svg", words("svg", ("translate(3 4)", "scale(1)" * 10**4)), "all"),
    "svg: a broken transform": (
        "svg",
        words("svg", ("translate(3 4)", "scale(1" * 10**4)),
        "error",
    ),
    "svg: a singular map": ("svg", words("svg", ("translate(3 4)", "scale(0)")), "all"),
    "svg: a tiny arc": ("svg", words("svg", ("Q", "A1e-300 1e300 0 0 1 ")), "error"),
}


@pytest.mark.parametrize(("name", "data", "outcome"), SPECIAL.values(), ids=SPECIAL.keys())
def test_special_cases(tmp_path, name, data, outcome):
    target = TARGETS[name]
    reading = attempt(target.reader, target.put(tmp_path, data))
    if outcome == "error":
        assert reading.error is not None
    elif outcome in ("all", "skip"):
        assert reading.corpus is not None, reading.error
        assert len(reading.corpus) == len(LINES) - (outcome == "skip")
        assert bool(reading.warnings) == (outcome == "skip")


# Files that claim, or have, gigabytes


HUGE = 10**10
CAP = 1 << 29  # bytes of memory beyond what the imports took

READ_ALL = """
import json, resource, sys, time, warnings
from mdnjax.strokes import formats

used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]),) * 2)
warnings.simplefilter("ignore")
for line in sys.stdin:
    name, path = json.loads(line)
    began = time.thread_time()
    try:
        outcome = f"{len(getattr(formats, name)(path))} lines"
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
    print(json.dumps([name, path, outcome, time.thread_time() - began]))
"""


def claimed_array(header_shape, data=b"\0" * 600):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {header_shape}, }}"
    return (
        b"\x93NUMPY\x01\x00"
        + (118).to_bytes(2, "little")
        + header.ljust(117).encode()
        + b"\n"
        + data
    )


def claimed_member():
    """An archive whose directory says that each member unpacks to ten gigabytes, or almost."""
    data = bytearray(npz(flat(LINES)))
    for match in re.finditer(b"PK\x01\x02", bytes(data)):
        data[match.start() + 24 : match.start() + 28] = (2**32 - 2).to_bytes(4, "little")
    return bytes(data)


def claimed_pickle(program):
    return npy(RAGGED)[:128] + b"\x80\x04" + program + b"."


EIGHT = HUGE.to_bytes(8, "little")
FOUR = (2**32 - 2).to_bytes(4, "little")
CLAIMS = {
    "npz flat": [
        claimed_member(),
        npz({}) + b"",
        npz({"xy": np.zeros(0)}).replace(b"(0,), }" + b" " * 9, b"(9999999999,), }"),
    ],
    "stroke-3 npy, even": [
        claimed_array(f"({HUGE}, 3)"),
        claimed_array("(9, 99999999999999999, 3)"),
    ],
    "stroke-3 npy": [
        claimed_pickle(b"\x8e" + EIGHT),
        claimed_pickle(b"B" + FOUR),
        claimed_pickle(b"\x8d" + EIGHT),
        claimed_pickle(b"X" + FOUR),
        claimed_pickle(b"\x95" + EIGHT),
        claimed_pickle(b"r" + FOUR),
        claimed_pickle(b"Nr" + FOUR),
        claimed_pickle(b"\x8b" + FOUR),
        claimed_pickle(b"]" + b"\x94" * 1000 + b"(" * 1000),
    ],
    "quickdraw raw": [words("quickdraw raw", ("[[[", "[[[" + "1" * 10**7 + ","))],
    "unipen characters": [words("unipen characters", (" 0-2 ", f" 0-{HUGE - 1} "))],
    "svg": [words("svg", ("Q", "C" + "8e6 8e6 -8e6 8e6 8e6 -8e6 " * 10**5 + "Q"))],
}


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_gigabytes_are_refused_in_little_memory_and_time(tmp_path):
    tasks = []
    for number, (name, target) in enumerate(TARGETS.items()):
        for content in CLAIMS.get(name, []):
            folder = tmp_path / f"{number} {len(tasks)}"
            tasks.append((target.reader.__name__, str(target.put(folder, content))))
        folder = tmp_path / f"{number} sparse"
        tasks.append((target.reader.__name__, str(target.put(folder, target.data))))
        with (folder / target.name).open("r+b") as file:
            file.truncate(HUGE)  # a hole: it takes no room on the disk
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(CAP)],
        input="\n".join(map(json.dumps, tasks)),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(outcomes) == len(tasks) == len(TARGETS) + sum(map(len, CLAIMS.values()))
    for reader, path, outcome, seconds in outcomes:
        assert seconds < SECONDS, (reader, path, seconds)
        # Of a folder, or of lines of which one is broken, the others are read.
        assert re.match(r"StrokeFormatError: |3 lines", outcome), (reader, path, outcome)
        assert path in outcome or outcome == "3 lines"


def test_there_are_three_thousand_cases():
    flips = FLIPS + FLIPS // 2 + 2 * (FLIPS // 4)
    each = len(TARGETS) * (1 + 100 + flips + flips // 4)
    shared = len(NUMBERS) * len(TEXTS) + (len(ENCODINGS) + 10) * len(TEXTS) + len(SPECIAL)
    shared += len(TARGETS) + sum(map(len, CLAIMS.values()))
    print(f"{each + shared} cases")
    assert each + shared >= 3000
