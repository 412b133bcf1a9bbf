"""UNIPEN text as it stands in a file: its keywords, the components they make, and their labels.

What the labels mean, and which components make a drawing, is said in `unipen`.
"""

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mdnjax.strokes.formats import _shared
from mdnjax.strokes.formats.errors import StrokeFormatError

_FINEST = 6  # decimals
_SEGMENT = re.compile(r'(\w+)\s+([0-9][0-9:,-]*)(?:\s+([^\s"]+))?(?:\s+"(.*)")?\s*')
_RANGE = re.compile(r"([0-9]{1,9})(?:(?::([0-9]{1,9}))?-([0-9]{1,9})(?::([0-9]{1,9}))?)?")
_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]*)?")
# What stands in a comment on each of the pen digits: the digit, its writer, the sample's number.
_SAMPLE = re.compile(r"\s*(\S+)\s+([0-9]+)\s+[0-9]+\s*")


class Component(NamedTuple):
    """Points as they stand in the file: the line of the keyword, what follows it, its columns."""

    place: int
    down: bool
    rows: list[str]
    columns: list[str]


class Points(NamedTuple):
    """The points of a component, or some of them: positions, milliseconds, decimals seen."""

    xy: np.ndarray
    clock: np.ndarray | None
    decimals: int


class Range(NamedTuple):
    """From a point of one component (None: its first) to, inclusive, one of another (its last)."""

    first: int
    begin: int | None
    last: int
    end: int | None


@dataclasses.dataclass
class Label:
    """A `.SEGMENT`: its line, how many components stand before it, and what it says."""

    place: int
    position: int
    level: str
    ranges: list[Range]
    text: str
    writer: str = ""

    @property
    def first(self) -> int:
        return min(part.first for part in self.ranges)

    @property
    def last(self) -> int:
        return max(part.last for part in self.ranges)


class Ink(NamedTuple):
    """What a file says: components, labels, its levels, and whether it ends with the pen down."""

    components: list[Component]
    labels: list[Label]
    levels: list[str]
    open_end: bool


def parse(path: pathlib.Path, text: str, broken: _shared.Broken) -> Ink:
    """Reads the keywords, but not yet the points."""
    components: list[Component] = []
    labels: list[Label] = []
    levels: list[str] = []
    columns = ["X", "Y"]
    open_end = False
    statements = list(_statements(path, text))
    for place, keyword, rows in statements:
        if keyword == "COORD":
            columns = " ".join(rows).split()
            if not {"X", "Y"} <= set(columns):
                reason = f"the columns are {columns}, expected X and Y among them"
                raise StrokeFormatError(path, f"line {place}", reason)
        elif keyword == "HIERARCHY":
            levels = " ".join(rows).split()
        elif keyword in ("PEN_DOWN", "PEN_UP"):
            open_end = keyword == "PEN_DOWN"
            if open_end or any(row and not row.isspace() for row in rows):
                components.append(Component(place, open_end, rows, columns))
        elif keyword == "SEGMENT":
            open_end = False
            try:
                if place == statements[-1][0] and not text.endswith("\n"):
                    raise ValueError("the file ends within it")
                labels.append(_label(place, len(components), " ".join(rows)))
            except ValueError as error:
                broken.add(StrokeFormatError(path, f"line {place}", str(error)), skipped=1)
        elif keyword == "DT":
            open_end = False
        elif keyword == "COMMENT" and labels and labels[-1].position == len(components):
            sample = _SAMPLE.fullmatch(" ".join(rows))
            if sample is not None and sample[1] == labels[-1].text:
                labels[-1].writer = sample[2]
    if not levels and labels:
        levels = [labels[0].level]
    return Ink(components, labels, levels, open_end)


def _statements(path: pathlib.Path, text: str) -> Iterator[tuple[int, str, list[str]]]:
    """Every keyword: the number of its line, its name, and the lines of its arguments."""
    lines = text.split("\n")
    starts = [i for i, line in enumerate(lines) if line[:1] == "." and line[1:2].isalpha()]
    for i, line in enumerate(lines[: starts[0] if starts else None]):
        if line and not line.isspace():
            reason = f"got {line[:40]!r}, expected a keyword, such as .PEN_DOWN"
            raise StrokeFormatError(path, f"line {i + 1}", reason)
    for start, stop in itertools.pairwise([*starts, len(lines)]):
        keyword, *rest = lines[start][1:].split(maxsplit=1)
        yield start + 1, keyword, [*rest, *lines[start + 1 : stop]]


def _label(place: int, position: int, arguments: str) -> Label:
    match = _SEGMENT.fullmatch(arguments)
    if match is None:
        raise ValueError(f"got {arguments[:60]!r}, expected such as 'CHARACTER 3-4 ? \"a\"'")
    level, delineation, _, label = match.groups()
    ranges: list[Range] = []
    for part in delineation.split(","):
        numbers = _RANGE.fullmatch(part)
        if numbers is None:
            raise ValueError(f"components {delineation[:40]!r}, expected such as '0-2,5'")
        first, begin, last, end = (None if n is None else int(n) for n in numbers.groups())
        assert first is not None  # the expression has no match without it
        if last is None:
            last = first
        if last < first:
            raise ValueError(f"components {part!r} run backwards")
        ranges.append(Range(first, begin, last, end))
    text = _shared.check_text("label", (label or "").replace(r"\"", '"'))
    return Label(place, position, level, ranges, text)


def read_points(component: Component) -> Points:
    """The points of a component; a ValueError names the first line that is none."""
    values: list[list[str]] = []
    for row in component.rows:
        numbers = row.split()
        if not numbers:
            continue
        if len(numbers) != len(component.columns) or not all(map(_NUMBER.fullmatch, numbers)):
            columns = " ".join(component.columns)
            reason = f"point {len(values) + 1} of the component at line {component.place} is "
            raise ValueError(f"{reason}{row[:40]!r}, expected {columns}")
        values.append(numbers)
    table = np.array(values, np.float64).reshape(-1, len(component.columns))
    xy = table[:, [component.columns.index("X"), component.columns.index("Y")]]
    if not (np.abs(xy) < _shared.COORDINATE_LIMIT).all():
        limit = f"{_shared.COORDINATE_LIMIT:.0f}"
        raise ValueError(f"a coordinate of line {component.place} on is not below {limit} in size")
    clock = table[:, component.columns.index("T")] if "T" in component.columns else None
    if clock is not None and not (np.abs(clock) < _shared.TIME_LIMIT).all():
        raise ValueError(f"a time of line {component.place} on is not below 2^53 in size")
    texts = (number.partition(".")[2] for numbers in values for number in numbers)
    return Points(xy, clock, min(max(map(len, texts), default=0), _FINEST))
