"""Reads Quick, Draw!, 50 million drawings of 345 words, as its publisher keeps it: `.ndjson`.

Every line of a file is one drawing, a JSON object. Of its fields `word`, `key_id` and `drawing`
are read here; the last is a list of strokes in one of two forms:

    raw           [[x, ...], [y, ...], [t, ...]]    pixels of the page and milliseconds
    simplified    [[x, ...], [y, ...]]              whole numbers from 0 to 255, resampled, no time

In both y points down. Raw coordinates are whole numbers from some devices and fractions of a pixel
from others; raw drawings are as large as the page was, simplified ones fill a square of 256 pixels.

References:
    D. Ha and D. Eck, "A neural representation of sketch drawings", ICLR 2018, section 3.1;
    the data: github.com/googlecreativelab/quickdraw-dataset (CC BY 4.0).
"""

import array
import itertools
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

import numpy as np

from mdnjax.strokes.corpus import Corpus
from mdnjax.strokes.formats import _shared
from mdnjax.strokes.formats.errors import StrokeFormatError

# The longest raw drawings are some hundred thousand bytes: they took twenty seconds at most.
_LINE_LIMIT = 1 << 24
_NUMBERS = {int, float}  # and not bool
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def recognises(path: pathlib.Path) -> bool:
    """Whether it begins with an object that has a word and a drawing; or a folder of such files."""
    return _shared.recognises_any(path, _recognises_file)


def read_quickdraw(path: str | os.PathLike[str], *, strict: bool = False) -> Corpus:
    """Reads the drawings of Quick, Draw!, raw or simplified, from one file or a folder of them.

    A drawing is called `word/key_id` (a "-" in the word becomes "_", so that each drawing is a
    form of its own), and its text is the word. A stroke of one point is a dot and stays; a stroke
    without points leaves no trace. Times count from a drawing's first point; where its clock ran
    backwards they stand still until it has caught up.

    Args:
        path: The file, or a folder of files, all raw or all simplified.
        strict: Raise at the first broken drawing. Otherwise broken ones are skipped, and one
            warning counts them and lists the first few. Broken is a line that is no such object
            (the last one of a file cut short), has no points, has a point without one of its
            coordinates or, in a raw file, without its time, or is of the other form.

    Returns:
        The corpus, in pixels; `times` is None if the drawings are simplified.

    Raises:
        StrokeFormatError: No drawing can be read, a folder holds both forms, a file is not lines
            of text, or, if `strict`, a drawing is broken.
        OSError: A file cannot be opened.

    Warns:
        UserWarning: Drawings were broken.
    """
    path = pathlib.Path(path)
    broken = _shared.Broken("read_quickdraw", strict, drawings="drawings")
    found = _Found()
    for file in _shared.files_of(path, _recognises_file, broken):
        _read_file(file, found, broken)
    if not found.lengths:
        raise broken.nothing(path)
    broken.warn(path, len(found.lengths))
    lengths = np.array(found.lengths, np.int64)
    return Corpus.from_positions(
        np.stack([np.frombuffer(found.x), np.frombuffer(found.y)], axis=1),
        _shared.pen_up(found.sizes),
        lengths,
        found.ids,
        found.words,
        unit="px",
        times=_times(np.frombuffer(found.t), lengths) if found.raw else None,
    )


class _Found:
    """The drawings so far: coordinates point after point, points of each stroke and drawing."""

    def __init__(self):
        self.x, self.y, self.t = array.array("d"), array.array("d"), array.array("d")
        self.sizes: list[int] = []
        self.lengths: list[int] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.raw: bool | None = None
        self.first: pathlib.Path | None = None


class _Drawing(NamedTuple):
    word: str
    key: str
    columns: list[list[float]]
    sizes: list[int]


def _recognises_file(path: pathlib.Path) -> bool:
    start = _shared.beginning(path).removeprefix(_BYTE_ORDER_MARK).lstrip()
    return start.startswith(b"{") and b'"drawing"' in start and b'"word"' in start


def _read_file(file: pathlib.Path, found: _Found, broken: _shared.Broken) -> None:
    for number, line in _lines(file):
        if line.isspace():
            continue
        try:
            drawing = _parse(line)
        # Damaged text, JSON that is none, numbers too long to read: all ValueErrors.
        except (ValueError, RecursionError) as error:
            reason = str(error) or type(error).__name__
            broken.add(StrokeFormatError(file, f"line {number}", reason), skipped=1)
            continue
        raw = len(drawing.columns) == 3
        if found.raw is None:
            found.raw, found.first = raw, file
        if raw != found.raw:
            this, other = ("raw", "simplified") if raw else ("simplified", "raw")
            reason = f"a {this} drawing, but those of {found.first} are {other}"
            error = StrokeFormatError(file, f"line {number}", reason)
            if file != found.first:
                raise error
            broken.add(error, skipped=1)
            continue
        for column, values in zip((found.x, found.y, found.t), drawing.columns, strict=False):
            column.fromlist(values)
        found.sizes.extend(drawing.sizes)
        found.lengths.append(len(drawing.columns[0]))
        found.ids.append(f"{drawing.word.replace('-', '_')}/{drawing.key.replace('-', '_')}")
        found.words.append(drawing.word)


def _lines(file: pathlib.Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, one at a time, with their numbers from 1."""
    if not file.is_file():
        raise StrokeFormatError(file, "file", "not a file")
    with file.open("rb") as stream:
        for number in itertools.count(1):
            line = stream.readline(_LINE_LIMIT)
            if not line:
                return
            if len(line) == _LINE_LIMIT:
                reason = f"longer than {_LINE_LIMIT >> 20} MiB, which no drawing is"
                raise StrokeFormatError(file, f"line {number}", reason)
            yield number, line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no coordinate")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of an object; lost letters can make one object of two."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a field stands there twice")
    return fields


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_unique)


def _parse(line: bytes) -> _Drawing:
    """One drawing; a ValueError says what is wrong with it."""
    fields: Any = _DECODER.decode(line.decode())
    if not isinstance(fields, dict):
        raise ValueError(f"a JSON {type(fields).__name__}, expected an object")
    for name in ("word", "key_id", "drawing"):
        if name not in fields:
            raise ValueError(f"no {name!r}")
    word, key = (_string(fields, name) for name in ("word", "key_id"))
    strokes = fields["drawing"]
    if not isinstance(strokes, list) or not strokes:
        raise ValueError("the drawing is not a list of strokes")
    count = len(strokes[0]) if isinstance(strokes[0], list) else 0
    if count not in (2, 3):
        raise ValueError("stroke 1: expected [xs, ys] or [xs, ys, ts]")
    columns: list[list[float]] = [[] for _ in range(count)]
    sizes: list[int] = []
    for number, stroke in enumerate(strokes, start=1):
        if not isinstance(stroke, list) or len(stroke) != count:
            raise ValueError(f"stroke {number}: expected {count} lists, as in stroke 1")
        for column, values in zip(columns, stroke, strict=True):
            if not isinstance(values, list) or len(values) != len(stroke[0]):
                raise ValueError(f"stroke {number}: expected {count} lists of one length")
            column.extend(values)
        if stroke[0]:
            sizes.append(len(stroke[0]))
    if not sizes:
        raise ValueError("no points")
    limits = (_shared.COORDINATE_LIMIT, _shared.COORDINATE_LIMIT, _shared.TIME_LIMIT)
    for name, values, limit in zip(("x", "y", "time"), columns, limits, strict=False):
        if not set(map(type, values)) <= _NUMBERS:
            raise ValueError(f"one {name} is not a number")
        if not -limit < min(values) <= max(values) < limit:
            raise ValueError(f"one {name} is not less than {limit:.0f} in size")
    return _Drawing(word, key, columns, sizes)


def _string(fields: dict[str, Any], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str) or not value:
        raise ValueError(f"the {name} is {str(value)[:40]!r}, expected a string")
    return _shared.check_text(name, value)


def _times(milliseconds: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Times in seconds from each drawing's first point, never falling within one."""
    starts = np.cumsum(lengths) - lengths
    times = (milliseconds - np.repeat(milliseconds[starts], lengths)) / 1000
    # A running maximum over all would carry over between drawings, and few clocks run backwards.
    falls = np.diff(times) < 0
    falls[starts[1:] - 1] = False
    fallen = np.searchsorted(starts, np.flatnonzero(falls), side="right") - 1
    for drawing in np.unique(fallen):
        points = slice(starts[drawing], starts[drawing] + lengths[drawing])
        times[points] = _shared.seconds(milliseconds[points])
    return times
