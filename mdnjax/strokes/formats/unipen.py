"""Reads UNIPEN text, as UCI keeps the UJI pen characters and the pen digits in it.

A line that begins with "." is a keyword with its arguments, which go on up to the next keyword.
These matter here; all others are skipped, as the standard wants it:

    .COORD X Y T                   what the columns of a point are (default X Y; T in milliseconds)
    .HIERARCHY PAGE WORD           the levels of labels, the coarsest first
    .SEGMENT WORD 3-4 ? "of"       components 3 and 4, of unknown quality, are the word "of"
    .PEN_DOWN, .PEN_UP             a component: a point a line, on paper or in the air

Components are counted from 0, those in the air only where they have points. A segment lists
components and ranges of them ("0-2,5"), and a range may begin and end at a point of a component
("0:12-3:7"). A file that `.INCLUDE` names is not opened.

The text does not say which way y points. In the UJI characters it points down, as in most files
since; in the pen digits it points up, and these are known by the level of their labels, DIGIT.

References:
    I. Guyon, L. Schomaker, R. Plamondon, M. Liberman and S. Janet, "UNIPEN project of on-line
    data exchange and recognizer benchmarks", ICPR 1994.
    D. Llorens et al., "The UJIpenchars database", LREC 2008.
    F. Alimoglu and E. Alpaydin, "Methods of combining multiple classifiers based on different
    representations for pen-based handwriting recognition", TAINN 1996.
"""

import os
import pathlib
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mdnjax.strokes.corpus import Corpus
from mdnjax.strokes.formats import _shared, _unipen
from mdnjax.strokes.formats.errors import StrokeFormatError

_SIZE_LIMIT = 1 << 28

_RECOGNISED = re.compile(rb"^\.(PEN_DOWN|SEGMENT|HIERARCHY|COORD)\b", re.MULTILINE)

_LEVEL_OF_Y_UP = "DIGIT"
# The names of the UJI files (UJIpenchars-w01), and of the two files of the pen digits.
_WRITER = re.compile(r".*[_-](w[0-9]+)", re.IGNORECASE)
_PARTS = {".tra": "train", ".tes": "test"}


def recognises(path: pathlib.Path) -> bool:
    """Whether a line begins with a keyword of UNIPEN; or a folder of such files."""
    return _shared.recognises_any(path, _recognises_file)


def read_unipen(
    path: str | os.PathLike[str], *, strict: bool = False, y_up: bool | None = None
) -> Corpus:
    """Reads the labelled segments of UNIPEN text, from one file or a folder of them.

    Where segments have several levels, those of the coarsest are read. A segment's text is its
    label. Its id is the writer, the label and a count, such as "w01/a/2" (a "-" becomes "_", so
    that each segment is a form of its own). The UJI characters name the writer only in the file's
    name (`UJIpenchars-w01`), the pen digits in a comment on each digit (`.COMMENT 8 6 138`: an 8
    by the file's writer 6); where neither does, the id begins with the file's name. The parts of
    the pen digits' two files, `.tra` and `.tes`, are "train" and "test".

    Args:
        path: The file or folder.
        strict: Raise at the first thing that is broken. Otherwise broken segments, and broken
            files of a folder, are skipped, and one warning counts them and lists the first few.
            Broken is a segment that is not written as above, has no points, or is not whole: a
            point is none, or the file ends before the pen is lifted. Broken as a whole is a file
            in which the numbers of the components do not fit. Components that belong to no
            segment are in the warning, too.
        y_up: Whether y points up in the file, to be turned over. None takes it as up where the
            segments are of the level DIGIT, as in the pen digits, else as down.

    Returns:
        The corpus in device units. `times` are there only where all points have a column T; where
        its clock runs backwards they stand still. (".DT" alone dates no point.)

    Raises:
        StrokeFormatError: No segment can be read, the only file is broken as a whole, or, if
            `strict`, anything is broken.
        OSError: There is no such file, or it cannot be opened.

    Warns:
        UserWarning: Something was broken.
    """
    path = pathlib.Path(path)
    broken = _shared.Broken("read_unipen", strict, drawings="segments")
    segments: list[_Segment] = []
    files = _shared.files_of(path, _recognises_file, broken)
    for file, (source, writer) in zip(files, _names(files), strict=True):
        try:
            with _shared.opening(file, path):
                segments.extend(_read_file(file, source, writer, y_up, broken))
        except StrokeFormatError as error:
            if len(files) == 1:
                raise
            broken.add(error, skipped=0)
    if not segments:
        raise broken.nothing(path)
    broken.warn(path, len(segments))

    counts: Counter[str] = Counter()
    ids: list[str] = []
    for segment in segments:
        stem = f"{segment.writer or segment.source}/{segment.text}".replace("-", "_")
        counts[stem] += 1
        ids.append(f"{stem}/{counts[stem]}")
    writers = [segment.writer for segment in segments]
    parts = [_PARTS.get(pathlib.PurePath(segment.source).suffix, "") for segment in segments]
    times = [segment.times for segment in segments if segment.times is not None]
    return Corpus.from_positions(
        np.concatenate([segment.xy for segment in segments]),
        np.concatenate([segment.pen_up for segment in segments]),
        [len(segment.xy) for segment in segments],
        ids,
        [segment.text for segment in segments],
        writers=writers if any(writers) else None,
        parts=parts if all(parts) else None,
        times=np.concatenate(times) if len(times) == len(segments) else None,
        resolution=10.0 ** -max(segment.decimals for segment in segments),
    )


class _Segment(NamedTuple):
    source: str
    writer: str
    text: str
    xy: np.ndarray
    pen_up: np.ndarray
    times: np.ndarray | None
    decimals: int


def _recognises_file(path: pathlib.Path) -> bool:
    return _RECOGNISED.search(_shared.beginning(path)) is not None


def _names(files: list[pathlib.Path]) -> list[tuple[str, str]]:
    """For each file what to call it, and its writer, or "" if its name does not say."""
    names = [file.name.removesuffix(".txt") for file in files]
    matches = [_WRITER.fullmatch(name) for name in names]
    writers = ["" if match is None else match[1].lower() for match in matches]
    short = [writer or name for writer, name in zip(writers, names, strict=True)]
    if len(set(short)) < len(files):  # writers of the same number from two sources
        short = names
    return [(name, name if writer else "") for name, writer in zip(short, writers, strict=True)]


def _read_file(
    path: pathlib.Path, source: str, writer: str, y_up: bool | None, broken: _shared.Broken
) -> list[_Segment]:
    ink = _unipen.parse(path, _shared.read_text(path, _SIZE_LIMIT), broken)
    level = next((level for level in ink.levels if any(x.level == level for x in ink.labels)), "")
    down = np.array([1.0, -1.0 if (level == _LEVEL_OF_Y_UP if y_up is None else y_up) else 1.0])
    segments: list[_Segment] = []
    known: dict[int, _unipen.Points] = {}
    used: Counter[int] = Counter()
    for label in _labels(path, ink, level, broken):
        try:
            strokes = _strokes(path, ink, label, known, used)
        except StrokeFormatError:
            raise  # the file is broken, not the segment
        except ValueError as error:
            broken.add(StrokeFormatError(path, f"line {label.place}", str(error)), skipped=1)
            continue
        clocks = [stroke.clock for stroke in strokes if stroke.clock is not None]
        times = np.concatenate(clocks) if len(clocks) == len(strokes) else None
        segments.append(
            _Segment(
                source=source,
                writer=writer or (label.writer and f"{source}/{label.writer}"),
                text=label.text,
                xy=np.concatenate([stroke.xy for stroke in strokes]) * down,
                pen_up=_shared.pen_up([len(stroke.xy) for stroke in strokes]),
                times=None if times is None else _shared.seconds(times),
                decimals=max(stroke.decimals for stroke in strokes),
            )
        )
    return segments


def _labels(
    path: pathlib.Path, ink: _unipen.Ink, level: str, broken: _shared.Broken
) -> Iterator[_unipen.Label]:
    """The labels of a level whose components are all there.

    Where a damaged keyword hides a component, all after it have other numbers than the labels
    say. So the numbers are checked against where the labels stand: before the components they
    name, one by one or all at the top of the file, or after them.
    """
    count = len(ink.components)
    ahead = all(label.first == label.position for label in ink.labels)
    named: set[int] = set()
    spare = count  # components that labels may still name; neighbours may share one
    for label in ink.labels:
        place = f"line {label.place}"
        if not (label.position in (0, label.first) or label.last < label.position):
            reason = f"names component {label.first}, but {label.position} stand before it"
            raise StrokeFormatError(path, place, reason)
        if label.last >= count and not ahead:
            reason = f"names component {label.last}, but the file has {count}"
            raise StrokeFormatError(path, place, reason)
        if label.level not in ink.levels:
            reason = f"the level is {label.level!r}, expected one of {ink.levels}"
            broken.add(StrokeFormatError(path, place, reason), skipped=1)
        if label.level != level:
            continue
        for part in label.ranges:
            spare -= max(0, min(part.last, count - 1) - part.first)
            if spare < 0:
                raise StrokeFormatError(path, place, "components belong to two segments")
            named.update(range(part.first, min(part.last + 1, count)))
        if label.last >= count:
            reason = f"names component {label.last}, but the file ends after {count}"
            broken.add(StrokeFormatError(path, place, reason), skipped=1)
            continue
        yield label
    lost = [i for i, x in enumerate(ink.components) if x.down and i not in named]
    if lost:
        listed = _shared.listed(list(map(str, lost)))
        place = f"line {ink.components[lost[0]].place}"
        reason = f"components that belong to no segment: {listed} ({len(lost)} in all)"
        broken.add(StrokeFormatError(path, place, reason), skipped=0)


def _strokes(
    path: pathlib.Path,
    ink: _unipen.Ink,
    label: _unipen.Label,
    known: dict[int, _unipen.Points],
    used: Counter[int],
) -> list[_unipen.Points]:
    """The pen-down strokes of a segment; a ValueError says what is wrong with it."""
    if ink.open_end and label.last == len(ink.components) - 1:
        raise ValueError("the pen is still down where the file ends")
    strokes: list[_unipen.Points] = []
    for part in label.ranges:
        for number in range(part.first, part.last + 1):
            if number not in known:
                known[number] = _unipen.read_points(ink.components[number])
            whole = known[number]
            begin = part.begin if number == part.first and part.begin is not None else 0
            end = part.end if number == part.last and part.end is not None else len(whole.xy) - 1
            if begin > max(end, 0) or end >= len(whole.xy):
                reason = f"points {begin} to {end} of component {number}, which has {len(whole.xy)}"
                raise ValueError(reason)
            size = end + 1 - begin
            # Neighbours that share a component may share the point between them, and no more.
            used[number] += size - (size < len(whole.xy))
            if used[number] > len(whole.xy):
                reason = f"component {number} belongs to another segment already"
                raise StrokeFormatError(path, f"line {label.place}", reason)
            if ink.components[number].down and size:
                clock = None if whole.clock is None else whole.clock[begin : end + 1]
                strokes.append(_unipen.Points(whole.xy[begin : end + 1], clock, whole.decimals))
    if not strokes:
        raise ValueError("a segment without points")
    return strokes
