"""SVG's path data as strokes: the numbers, the commands, and curves as polylines.

A subpath is kept as a list of arrays: its first point `[1, 2]`, then runs of points `[n, 2]` to be
joined by straight lines and runs of cubic Béziers `[m, 4, 2]`, each run from where the last ended.
Affine maps of these arrays are exact, so curves become polylines last, when all maps are known.

Reference:
    W3C, "Scalable Vector Graphics (SVG) 2", chapter 9 (paths) and appendix B.2 (arcs).
"""

import math
import re

import numpy as np

from mdnjax.strokes.curves import bernstein
from mdnjax.strokes.formats import _shared

Subpath = list[np.ndarray]

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_COMMANDS = "MmZzLlHhVvCcSsQqTtAa"
_RUN = re.compile(rf"([{_COMMANDS}])([^{_COMMANDS}]*)")
_COUNTS = {"M": 2, "L": 2, "H": 1, "V": 1, "C": 6, "S": 4, "Q": 4, "T": 2, "A": 7}
_SEPARATORS = {"", ","}
_FLAG = re.compile(r"[01]")
_GAP = re.compile(r"\s*,?\s*")

# A cubic follows an arc of this angle to 4e-7 of its radius.
_ARC = math.pi / 6


def numbers(text: str) -> tuple[np.ndarray, int]:
    """The numbers of a list, and the most decimals seen; a ValueError where it is no such list."""
    words = _NUMBER.findall(text)
    between = [part.strip() for part in _NUMBER.split(text)]
    if not set(between) <= _SEPARATORS or between[0] or between[-1]:
        odd = next((part for part in between if part not in _SEPARATORS), ",")
        raise ValueError(f"{odd[:40]!r} among numbers")
    return _values(words), max(map(_decimals, words), default=0)


def parse(data: str) -> tuple[list[Subpath], int]:
    """The subpaths that draw something, and the most decimals seen.

    Raises:
        ValueError: The data is none; the message says where. (The standard would have what comes
            before that place drawn; but here a part is not taken for the whole.)
    """
    runs = list(_RUN.finditer(data))
    if before := data[: runs[0].start() if runs else None].strip():
        raise ValueError(f"path data begins with {before[:40]!r}, expected M")
    pen = _Pen()
    decimals = 0
    for run in runs:
        command, arguments = run.groups()
        try:
            values, seen = _arc_numbers(arguments) if command in "Aa" else numbers(arguments)
            pen.do(command, values)
        except ValueError as error:
            place = f"{run[0][:40]!r} at character {run.start() + 1} of the path data"
            raise ValueError(f"{place}: {error}") from error
        decimals = max(decimals, seen)
    return [subpath for subpath in pen.subpaths if len(subpath) > 1], decimals


def box(subpath: Subpath) -> np.ndarray:
    """Least and greatest coordinates `[2, 2]` of all control points."""
    points = np.concatenate([run.reshape(-1, 2) for run in subpath])
    return np.stack([points.min(axis=0), points.max(axis=0)])


def flatten(subpath: Subpath, tolerance: float, most: int) -> np.ndarray:
    """The points `[n, 2]` of a polyline that leaves the subpath by no more than the tolerance.

    A chord over the parameter interval h leaves a curve by at most h² max|p''| / 8, and of a cubic
    |p''| is greatest at an end. A point that repeats the one before is dropped.

    Raises:
        ValueError: That needs more points than `most`.
    """
    runs = [subpath[0]]
    for run in subpath[1:]:
        if run.ndim == 3:
            bends = np.linalg.norm(run[:, 2:] - 2 * run[:, 1:-1] + run[:, :-2], axis=-1)
            pieces = np.ceil(np.sqrt(0.75 * bends.max(axis=1) / tolerance)).clip(min=1)
            if not pieces.sum() <= most:
                raise ValueError(f"curves of more than {most} points at tolerance {tolerance:g}")
            pieces = pieces.astype(np.int64)
            curve = np.repeat(np.arange(len(run)), pieces)
            first = np.repeat(np.cumsum(pieces) - pieces, pieces)
            weights = bernstein((np.arange(len(curve)) - first + 1) / pieces[curve])
            run = np.einsum("mc,mcd->md", weights, run[curve])
        runs.append(run)
    points = np.concatenate(runs)
    moved = np.ones(len(points), bool)
    moved[1:] = (np.diff(points, axis=0) != 0).any(axis=1)
    return points[moved]


class _Pen:
    """Follows the commands; knows where it is and where its subpath began."""

    def __init__(self):
        self.subpaths: list[Subpath] = []
        self.here = self.start = np.zeros(2)
        self.drawing = False
        # The last control point, for the smooth commands, and of which kind of curve it was.
        self.control: tuple[str, np.ndarray] = ("", self.here)

    def do(self, command: str, values: np.ndarray) -> None:
        """Carries out one command with all its repetitions."""
        kind, relative = command.upper(), command.islower()
        if kind == "Z":
            if len(values):
                raise ValueError("numbers after it")
            if self.subpaths and not self.drawing:
                return
            kind, relative, values = "L", False, self.start
        elif not len(values) or len(values) % _COUNTS[kind]:
            raise ValueError(f"{len(values)} numbers, expected a multiple of {_COUNTS[kind]}")
        if kind == "M":
            self._begin(values[:2] + (self.here if relative else 0.0))
            kind, values = "L", values[2:]
        elif not self.subpaths:
            raise ValueError("the path data does not begin with M")
        elif not self.drawing:
            self._begin(self.here)  # what follows Z begins where Z ended
        if len(values):
            if kind in "LHV":
                self._lines(kind, relative, values)
            elif kind == "C":
                self._cubics(relative, values.reshape(-1, 3, 2))
            else:
                for row in values.reshape(-1, _COUNTS[kind]):
                    self._curve(kind, relative, row)
        self.drawing = command not in "Zz"

    def _begin(self, point: np.ndarray) -> None:
        self.here = self.start = point
        self.control = ("", point)
        self.subpaths.append([point[None]])

    def _add(self, run: np.ndarray, kind: str = "") -> None:
        """Draws a run of points, or of cubics with control points of that kind."""
        if len(run):
            self.subpaths[-1].append(run)
            self.here = run[-1] if run.ndim == 2 else run[-1, 3]
            self.control = (kind, run[-1] if run.ndim == 2 else run[-1, 2])

    def _lines(self, kind: str, relative: bool, values: np.ndarray) -> None:
        points = np.tile(np.zeros(2) if relative else self.here, (len(values) // _COUNTS[kind], 1))
        points[:, {"L": slice(None), "H": slice(0, 1), "V": slice(1, 2)}[kind]] = values.reshape(
            len(points), -1
        )
        self._add(self.here + np.cumsum(points, axis=0) if relative else points)

    def _cubics(self, relative: bool, controls: np.ndarray) -> None:
        """Control points `[m, 3, 2]`, relative ones to where their curve begins."""
        if relative:
            ends = self.here + np.cumsum(controls[:, 2], axis=0)
            begins = np.concatenate([self.here[None], ends[:-1]])
            controls = controls + begins[:, None]
        else:
            begins = np.concatenate([self.here[None], controls[:-1, 2]])
        self._add(np.concatenate([begins[:, None], controls], axis=1), "C")

    def _curve(self, kind: str, relative: bool, row: np.ndarray) -> None:
        here = self.here
        end = row[-2:] + (here if relative else 0.0)
        if kind == "A":
            rx, ry, degrees, large, sweep = row[:5].tolist()
            self._add(_arc(here, end, rx, ry, degrees, large=large == 1, sweep=sweep == 1))
            return
        family = "C" if kind == "S" else "Q"
        smooth = 2 * here - self.control[1] if self.control[0] == family else here
        given = row[:2] + (here if relative else 0.0)
        if family == "C":
            self._add(np.stack([here, smooth, given, end])[None], family)
            return
        control = smooth if kind == "T" else given
        raised = [here, here + 2 / 3 * (control - here), end + 2 / 3 * (control - end), end]
        self._add(np.stack(raised)[None], family)
        self.control = (family, control)


def _arc(
    begin: np.ndarray,
    end: np.ndarray,
    rx: float,
    ry: float,
    degrees: float,
    *,
    large: bool,
    sweep: bool,
) -> np.ndarray:
    """An elliptic arc as cubics `[m, 4, 2]`, or as the point `[1, 2]` that ends a straight line.

    Everything is done on the unit circle, to which the ellipse is mapped.
    """
    if (begin == end).all():
        return np.zeros((0, 2))
    angle = math.radians(degrees)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    radii = np.abs([rx, ry])
    half = turn.T @ (begin - end) / 2
    if not (radii > 1e-12 * np.abs(half).max()).all():
        return end[None]  # as the standard says of radii of zero
    point = half / radii
    square = float(point @ point)
    if square > 1:  # too small to reach: the ellipse grows until it does
        radii, point, square = radii * math.sqrt(square), point / math.sqrt(square), 1.0
    away = math.sqrt((1 - square) / square) * (1 if large != sweep else -1)
    center = away * np.array([point[1], -point[0]])
    from_, to = point - center, -point - center
    start = math.atan2(from_[1], from_[0])
    swept = math.atan2(from_[0] * to[1] - from_[1] * to[0], float(from_ @ to))
    if sweep != (swept > 0):
        swept += math.tau if sweep else -math.tau
    angles = start + swept * np.linspace(0, 1, max(1, math.ceil(abs(swept) / _ARC)) + 1)
    on = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    along = np.stack([-on[:, 1], on[:, 0]], axis=1) * (4 / 3 * math.tan(np.diff(angles)[0] / 4))
    cubics = np.stack([on[:-1], on[:-1] + along[:-1], on[1:] - along[1:], on[1:]], axis=1)
    cubics = ((cubics + center) * radii) @ turn.T + (begin + end) / 2
    cubics[0, 0], cubics[-1, 3] = begin, end
    return cubics


def _values(words: list[str]) -> np.ndarray:
    values = np.array([float(word) for word in words])
    if not (np.abs(values) < _shared.COORDINATE_LIMIT).all():
        raise ValueError(f"a number is not below {_shared.COORDINATE_LIMIT:.0f} in size")
    return values


def _decimals(word: str) -> int:
    mantissa, _, exponent = word.lower().partition("e")
    return len(mantissa.partition(".")[2]) - int(exponent or 0)


def _arc_numbers(text: str) -> tuple[np.ndarray, int]:
    """The arguments of A, whose two flags need nothing between them and what follows."""
    words: list[str] = []
    text, at = text.strip(), 0
    while at < len(text):
        gap = _GAP.match(text, at) if words else None
        at = at if gap is None else gap.end()
        word = (_FLAG if len(words) % 7 in (3, 4) else _NUMBER).match(text, at)
        if word is None:
            raise ValueError(f"{text[at:][:40]!r} among numbers")
        words.append(word[0])
        at = word.end()
    return _values(words), max(map(_decimals, words), default=0)
