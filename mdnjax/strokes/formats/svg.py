"""Reads pen strokes from SVG: what is drawn along, as a plotter would, and not what is filled.

Read are `<polyline>`, `<polygon>`, `<line>` and `<path>` with every command, curves as polylines
to a tolerance, in nested groups with their `transform`s. Coordinates are user units: `viewBox`,
`width` and `height` of the picture change nothing. Each subpath is a stroke, in the order of the
document; points that repeat the one before are dropped (an SVG has no time), so `M1 2h0`, which
round caps make a dot, is a stroke of one point. A `M` that draws nothing is nothing.

What is not drawn is skipped: definitions, clip paths, masks, symbols, `display: none`, metadata.
`<rect>` without a stroke is paper, and `<circle>` and `<ellipse>` with `stroke="none"` are spots.
Ink of other kinds (other such shapes, `<text>`, `<image>`, `<use>`, a nested `<svg>`) is not read,
and a warning says so. Style sheets are not interpreted.

**What is a line?** Go down from the picture as long as all ink is in one group. If that group's
ink is all in groups of its own, each of these is a line, as `write_svg` sets them; otherwise,
and always with `groups=False`, the picture is one line. The lines of one picture are one form.

Why no library does this: the ones there are (svgpathtools, svgelements) are for editing geometry,
are no safer with hostile XML, and the part wanted here is a page of code.
"""

import math
import os
import pathlib
import re
from collections import Counter
from typing import NamedTuple

import numpy as np

from mdnjax._checks import require
from mdnjax.strokes.corpus import Corpus
from mdnjax.strokes.formats import _paths, _shared, _xml
from mdnjax.strokes.formats.errors import StrokeFormatError

_SIZE_LIMIT = 1 << 26
_DEPTH_LIMIT = 256
_POINT_LIMIT = 2_000_000
_FINENESS = 1 / 4000  # the default tolerance as a share of the picture's larger side
_FINEST = 1e-6  # resolution

_SPACES = ("http://www.w3.org/2000/svg", "")
_GROUPS = {"g", "a"}
# Shapes that are not drawn along where their stroke is one of these (None: nobody sets it).
_FILLED = {"rect": {None, "none"}, "circle": {"none"}, "ellipse": {"none"}}
# fmt: off
_UNREAD = {
    "text", "image", "use", "foreignObject", "svg", "switch", "video", "audio",
}
_NOT_DRAWN = {
    "defs", "clipPath", "mask", "marker", "pattern", "symbol", "linearGradient", "radialGradient",
    "filter", "metadata", "title", "desc", "style", "script", "view", "animate", "animateColor",
    "animateMotion", "animateTransform", "set", "cursor", "font", "font-face", "color-profile",
}
# fmt: on
_ROOT = re.compile(rb"<(?:[\w.-]+:)?svg[\s>]")
_ENTITY = re.compile(rb"&(?!(?:amp|lt|gt|quot|apos);)[A-Za-z_:][\w.:-]*;")
_MAP = re.compile(r"[\s,]*(matrix|translate|scale|rotate|skewX|skewY)\s*\(([^()]*)\)")


def recognises(path: pathlib.Path) -> bool:
    """Whether it begins as XML does and has an `<svg>` near the beginning; or a folder of such."""
    return _shared.recognises_any(path, _recognises_file)


def read_svg(
    path: str | os.PathLike[str],
    *,
    strict: bool = False,
    tolerance: float | None = None,
    groups: bool = True,
) -> Corpus:
    """Reads the strokes of an SVG, or of every SVG of a folder.

    What is read, and what counts as a line, is said at the head of the module. A picture of one
    line has the file's name for its id, those of several the name and a number, such as
    "letter-02" (a "-" in the name becomes "_"). Texts are empty: an SVG does not say what is
    written.

    Args:
        path: The file or folder.
        strict: Raise at the first broken file of a folder, and at ink that is not read. Otherwise
            broken files are skipped, and one warning counts and lists all of that.
        tolerance: How far, in user units, a polyline may leave its curve. By default 1/4000 of the
            larger side of the picture's ink.
        groups: Whether groups can be lines. Without, every picture is one line.

    Returns:
        The corpus in user units; its `resolution` is one unit of the last decimal seen, as the
        finest `transform` leaves it, from 1e-6 to 1.

    Raises:
        ValueError: The tolerance is not positive and finite.
        StrokeFormatError: The file, or each of the folder, is no well-formed SVG, declares
            entities, is too large, has path data or numbers that are none, or draws nothing.
        OSError: There is no such file, or it cannot be opened.

    Warns:
        UserWarning: Files were broken, or ink was not read.
    """
    if tolerance is not None:
        positive = math.isfinite(tolerance) and tolerance > 0
        require(positive, "read_svg", "tolerance", tolerance, "positive and finite")
    path = pathlib.Path(path)
    broken = _shared.Broken("read_svg", strict, drawings="pictures")
    files = _shared.files_of(path, _recognises_file, broken)
    ids: list[str] = []
    lines: list[list[np.ndarray]] = []
    resolution = 1.0
    read = 0
    for file in files:
        try:
            with _shared.opening(file, path):
                picture = _read_file(file, tolerance, groups, broken)
        except StrokeFormatError as error:
            if len(files) == 1:
                raise
            broken.add(error, skipped=1)
            continue
        read += 1
        stem = file.stem.replace("-", "_")
        one = len(picture.lines) == 1
        ids += [stem] if one else [f"{stem}-{i + 1:02}" for i in range(len(picture.lines))]
        lines += picture.lines
        resolution = min(resolution, picture.resolution)
    if not lines:
        raise broken.nothing(path)
    broken.warn(path, read)

    strokes = [stroke for line in lines for stroke in line]
    return Corpus.from_positions(
        np.concatenate(strokes),
        _shared.pen_up([len(stroke) for stroke in strokes]),
        [sum(map(len, line)) for line in lines],
        ids,
        [""] * len(ids),
        unit="user unit",
        resolution=resolution,
    )


class _Picture(NamedTuple):
    lines: list[list[np.ndarray]]
    resolution: float


class _Group(NamedTuple):
    """A group: its ink in order, the map to user units `[2, 3]`, the stroke it sets or inherits."""

    ink: "list[_paths.Subpath | _Group]"
    map: np.ndarray
    stroke: str | None


def _recognises_file(path: pathlib.Path) -> bool:
    start = _shared.beginning(path)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):  # UTF-16
        start = start[2:].replace(b"\0", b"")
    start = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    return start.startswith(b"<") and _ROOT.search(start) is not None


def _read_file(
    path: pathlib.Path, tolerance: float | None, groups: bool, broken: _shared.Broken
) -> _Picture:
    parser = _Parser(path)
    picture = parser.parse(_shared.content(path, _SIZE_LIMIT))
    unread = ", ".join(f"{count} <{name}>" for name, count in sorted(parser.unread.items()))
    if not picture.ink:
        reason = "no strokes" + (f"; what there is is not read: {unread}" if unread else "")
        raise StrokeFormatError(path, "file", reason)
    if unread:
        broken.add(StrokeFormatError(path, "file", f"not read: {unread}"), skipped=0)
    lines = _lines(picture, groups)
    boxes = np.stack([_paths.box(subpath) for line in lines for subpath in line])
    if not (np.abs(boxes) < _shared.COORDINATE_LIMIT).all():
        reason = f"coordinates are not all below {_shared.COORDINATE_LIMIT:.0f} in size"
        raise StrokeFormatError(path, "file", reason)
    if tolerance is None:
        tolerance = float((boxes[:, 1].max(axis=0) - boxes[:, 0].min(axis=0)).max()) * _FINENESS
    strokes: list[list[np.ndarray]] = []
    room = _POINT_LIMIT
    for line in lines:
        strokes.append([])
        for subpath in line:
            try:
                # Only where all ink is in one point can the default be zero.
                strokes[-1].append(_paths.flatten(subpath, tolerance or 1.0, room))
            except ValueError as error:
                raise StrokeFormatError(path, "file", str(error)) from error
            room -= len(strokes[-1][-1])
    return _Picture(strokes, parser.resolution)


def _lines(picture: _Group, groups: bool) -> list[list[_paths.Subpath]]:
    """The lines of a picture, each all of its ink in order."""
    while len(picture.ink) == 1 and isinstance(picture.ink[0], _Group):
        picture = picture.ink[0]
    inner = [ink for ink in picture.ink if isinstance(ink, _Group)]
    if groups and len(inner) == len(picture.ink):
        return [_subpaths(group) for group in inner]
    return [_subpaths(picture)]


def _subpaths(group: _Group) -> list[_paths.Subpath]:
    found: list[_paths.Subpath] = []
    for ink in group.ink:
        found.extend(_subpaths(ink) if isinstance(ink, _Group) else [ink])
    return found


class _Parser:
    """One file's elements, as expat reports them."""

    def __init__(self, path: pathlib.Path):
        self.resolution = 1.0
        self.unread: Counter[str] = Counter()
        self._groups: list[_Group] = []
        self._root = _Group([], np.eye(2, 3), stroke=None)
        self._space = ""  # the root's namespace
        self._skipping = 0  # how deep we are in an element that is skipped
        self._xml = _xml.Parser(
            path, self._start, self._end, self._text, namespaces=True, external=True
        )

    def parse(self, content: bytes) -> _Group:
        """The whole document; its groups hold what they draw, and groups that draw nothing go."""
        self._xml.feed(content)
        # Of entities that an outer document type may declare expat says nothing.
        if self._xml.has_doctype and (entity := _ENTITY.search(content.replace(b"\0", b""))):
            self._xml.fail(f"the entity {entity[0][:40]!r}, which is not declared here")
        return self._root

    def _start(self, full_name: str, attributes: dict[str, str]) -> None:
        if self._skipping:
            self._skipping += 1
            return
        space, _, name = full_name.rpartition(" ")
        at_root = not self._groups
        if at_root and (space not in _SPACES or name != "svg"):
            self._xml.fail(f"<{name}>, expected <svg>")
        self._space = space if at_root else self._space
        style = _style(attributes)
        if space != self._space or name in _NOT_DRAWN or style.get("display") == "none":
            self._skipping = 1
            return
        if len(self._groups) == _DEPTH_LIMIT:
            self._xml.fail(f"groups nested more than {_DEPTH_LIMIT} deep")
        stroke = style.get("stroke") or (None if at_root else self._groups[-1].stroke)
        try:
            if style.get("transform", "none") != "none":
                raise ValueError("a transform in a style, which is not read")
            inner = _map(attributes.get("transform", ""))
            if name in _GROUPS or at_root:
                outer = self._root if at_root else self._groups[-1]
                self._groups.append(_Group([], _after(outer.map, inner), stroke))
                return
            self._skipping = 1
            if name in _SHAPES:
                self._draw(*_SHAPES[name](attributes), _after(self._groups[-1].map, inner))
            elif name in _UNREAD or stroke not in _FILLED.get(name, {stroke}):
                self.unread[name] += 1
            elif name not in _FILLED:
                raise ValueError("no element of SVG")
        except ValueError as error:
            self._xml.fail(f"<{name}>: {error}", error)

    def _draw(self, subpaths: list[_paths.Subpath], decimals: int, map_: np.ndarray) -> None:
        if not subpaths:
            return
        turn, move = map_[:, :2], map_[:, 2]
        with np.errstate(over="ignore", invalid="ignore"):
            self._groups[-1].ink.extend([run @ turn.T + move for run in path] for path in subpaths)
            scale = math.sqrt(abs(turn[0, 0] * turn[1, 1] - turn[0, 1] * turn[1, 0]))
        spacing = float(f"{10.0 ** -min(decimals, 9) * scale:.6g}")
        self.resolution = max(_FINEST, min(self.resolution, spacing))

    def _end(self, _name: str) -> None:
        if self._skipping:
            self._skipping -= 1
            return
        group = self._groups.pop()
        if not self._groups:
            self._root = group
        elif group.ink:
            self._groups[-1].ink.append(group)

    def _text(self, data: str) -> None:
        # Damage to one letter of a tag must not drop a stroke in silence.
        if not self._skipping and not data.isspace():
            self._xml.fail(f"text between elements: {data.strip()[:40]!r}")


def _style(attributes: dict[str, str]) -> dict[str, str]:
    """The properties of an element: its attributes, and those in its style, which go first."""
    found = {name: attributes[name].strip() for name in ("display", "stroke") if name in attributes}
    for declaration in attributes.get("style", "").split(";"):
        name, _, value = declaration.partition(":")
        found[name.strip()] = value.replace("!important", "").strip()
    return found


def _map(text: str) -> np.ndarray:
    """The affine map `[2, 3]` of a `transform`: its functions one after another, the last first."""
    whole = np.eye(2, 3)
    at = 0
    text = text.strip()
    while at < len(text):
        function = _MAP.match(text, at)
        if function is None:
            raise ValueError(f"{text[at:][:40]!r} in its transform")
        values, _ = _paths.numbers(function[2].strip())
        whole = _after(whole, _function(function[1], values.tolist()))
        at = function.end()
    return whole


def _function(name: str, values: list[float]) -> np.ndarray:
    match name, values:
        case "matrix", [a, b, c, d, e, f]:
            return np.array([[a, c, e], [b, d, f]])
        case "translate", [x, *rest] if len(rest) <= 1:
            return np.array([[1, 0, x], [0, 1, rest[0] if rest else 0]])
        case "scale", [x, *rest] if len(rest) <= 1:
            return np.array([[x, 0, 0], [0, rest[0] if rest else x, 0]])
        case "rotate", [angle, *center] if len(center) in (0, 2):
            x, y = center or (0.0, 0.0)
            cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            return np.array([[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]])
        case "skewX", [angle]:
            return np.array([[1, math.tan(math.radians(angle)), 0], [0, 1, 0]])
        case "skewY", [angle]:
            return np.array([[1, 0, 0], [math.tan(math.radians(angle)), 1, 0]])
    raise ValueError(f"{len(values)} numbers in its transform's {name}")


def _after(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """The map that is `inner` and then `outer`."""
    with np.errstate(over="ignore", invalid="ignore"):  # found out when something is drawn
        whole = outer[:, :2] @ inner
        whole[:, 2] += outer[:, 2]
        return whole


def _polyline(attributes: dict[str, str]) -> tuple[list[_paths.Subpath], int]:
    values, decimals = _paths.numbers(_needed(attributes, "points").strip())
    if len(values) % 2:
        raise ValueError(f"{len(values)} numbers in its points, expected pairs")
    points = values.reshape(-1, 2)
    return ([[points]] if len(points) else []), decimals


def _polygon(attributes: dict[str, str]) -> tuple[list[_paths.Subpath], int]:
    subpaths, decimals = _polyline(attributes)
    for subpath in subpaths:
        subpath.append(subpath[0][:1])
    return subpaths, decimals


def _line(attributes: dict[str, str]) -> tuple[list[_paths.Subpath], int]:
    ends = [attributes.get(name, "0").strip() for name in ("x1", "y1", "x2", "y2")]
    values, decimals = zip(*(_paths.numbers(end.removesuffix("px")) for end in ends), strict=True)
    if any(len(value) != 1 for value in values):
        raise ValueError(f"ends at {', '.join(ends)[:40]!r}, expected a number each")
    return [[np.concatenate(values).reshape(2, 2)]], max(decimals)


def _path(attributes: dict[str, str]) -> tuple[list[_paths.Subpath], int]:
    return _paths.parse(_needed(attributes, "d"))


def _needed(attributes: dict[str, str], name: str) -> str:
    if name not in attributes:
        raise ValueError(f"no {name}")
    return attributes[name]


_SHAPES = {"polyline": _polyline, "polygon": _polygon, "line": _line, "path": _path}
