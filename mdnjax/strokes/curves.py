"""Smooth curves through pen trajectories, and lines and drawings set out on a page.

A sensor samples the pen some hundred times a second; joining the samples by straight lines shows
the sensor, not the hand. Here each pen-down stroke becomes one smooth curve *through* its points,
as cubic Béziers, the form that SVG, PDF and Matplotlib all draw natively.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from mdnjax._checks import require
from mdnjax.strokes.structure import Strokes


@dataclasses.dataclass(frozen=True, eq=False)
class Page:
    """Lines of handwriting set one below the other, or drawings in a grid.

    Attributes:
        lines: For each line its pen-down strokes in writing order, each the points `[n, 2]` on
            the page, n >= 1. All coordinates are inside `size`.
        size: Width and height of the page, margins included, in the units of the lines.
        line_height: What is usual between the middles of two lines, or of two rows of a grid.
        pen_width: A pen width that suits the size of the writing.
        columns: How many lines stand side by side.
        given: For each line how many of its points, from its start, were given and not made up;
            zeros where nothing was said.
    """

    lines: tuple[tuple[np.ndarray, ...], ...]
    size: tuple[float, float]
    line_height: float
    pen_width: float
    columns: int
    given: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
    """Ink of one colour that is drawn in one movement: a stroke, or a part of one.

    Attributes:
        stroke: Of which stroke of its line it is, as an index.
        curve: Its Béziers `[m, 4, 2]`; if the pen only touched the paper, one without length.
        points: The indices `[m + 1]`, among the points of its stroke, of those it passes through;
            one index for a touch.
        given: Whether it was given, or made up.
    """

    stroke: int
    curve: np.ndarray
    points: np.ndarray
    given: bool


def split_strokes(
    lines: Strokes | Sequence[Strokes], *, function: str = "split_strokes"
) -> list[list[np.ndarray]]:
    """Cuts lines into pen-down strokes.

    Args:
        lines: One line (`[T]`), a batch of lines (`[..., T]`, padding masked), or a sequence of
            either.
        function: The name that errors speak in.

    Returns:
        For each line the positions `[n, 2]` (float64, from the line's first point) of each of
        its strokes, in writing order.

    Raises:
        ValueError: A wrong shape, a line without points, or a coordinate that is not finite.

    >>> import numpy as np
    >>> offsets, pen_up = np.array([[0.0, 0], [1, 2], [5, 0]]), np.array([0.0, 1, 1])
    >>> line = Strokes(offsets, pen_up, np.ones(3, bool))
    >>> [stroke.tolist() for stroke in split_strokes(line)[0]]
    [[[0.0, 0.0], [1.0, 2.0]], [[6.0, 2.0]]]
    """
    batches = [lines] if isinstance(lines, Strokes) else list(lines)
    require(len(batches) > 0, function, "lines", "none", "at least one line")
    result = []
    for batch in batches:
        require(isinstance(batch, Strokes), function, "lines", type(batch).__name__, "Strokes")
        offsets = np.asarray(batch.offsets, dtype=np.float64)
        pen_up, mask = np.asarray(batch.pen_up), np.asarray(batch.mask)
        shapes = f"offsets {offsets.shape}, pen_up {pen_up.shape}, mask {mask.shape}"
        fits = offsets.ndim >= 2 and offsets.shape[-1] == 2
        fits = fits and pen_up.shape == offsets.shape[:-1] == mask.shape
        require(fits, function, "lines", shapes, "offsets [..., T, 2], pen_up and mask [..., T]")
        length = offsets.shape[-2]
        for steps, up, real in zip(
            offsets.reshape(-1, length, 2),
            pen_up.reshape(-1, length),
            mask.reshape(-1, length),
            strict=True,
        ):
            place = f"line {len(result)}"
            steps, up = steps[real], up[real]
            require(len(steps) > 0, function, "lines", f"{place} with none", "lines with points")
            points = np.cumsum(steps, axis=0)
            finite = bool(np.isfinite(points).all() and np.isfinite(up).all())
            require(finite, function, "lines", f"a NaN or infinity in {place}", "finite")
            result.append(np.split(points, np.flatnonzero(up[:-1] > 0.5) + 1))
    require(len(result) > 0, function, "lines", "an empty batch", "at least one line")
    return result


def bezier(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n-1 4 2"]:
    r"""The smooth curve through points: a centripetal Catmull-Rom spline, as cubic Béziers.

    With knots $\tau_i = |p_{i+1} - p_i|^{1/2}$ and slopes $s_i = (p_{i+1} - p_i)/\tau_i$, the
    velocity at a point is that of the parabola through it and its two neighbours,
    $v_i = (\tau_i s_{i-1} + \tau_{i-1} s_i) / (\tau_{i-1} + \tau_i)$ (at an end, the slope of
    the only segment), and segment i has the control points $p_i$, $p_i + \tau_i v_i/3$,
    $p_{i+1} - \tau_i v_{i+1}/3$, $p_{i+1}$. The centripetal knots are those for which no
    segment has a loop or a cusp, however unevenly the points are spaced.

    Args:
        points: n >= 2 points, each different from the one before.

    Returns:
        The control points of the n - 1 segments. The curve passes through the points exactly,
        and its tangent is continuous.

    Raises:
        ValueError: Fewer than two points, or a point that repeats the one before.

    References:
        C. Yuksel, S. Schaefer and J. Keyser, Parameterization and applications of Catmull-Rom
        curves, Computer-Aided Design 43, 2011.

    >>> import numpy as np
    >>> bezier(np.array([[0.0, 0.0], [3.0, 0.0]])).tolist()
    [[[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]]
    """
    require(len(points) >= 2, "bezier", "points", f"{len(points)}", "at least two points")
    steps = np.diff(points, axis=0)
    knots = np.sqrt(np.hypot(steps[:, 0], steps[:, 1]))[:, None]
    require(bool((knots > 0).all()), "bezier", "points", "repeated points", "distinct neighbours")
    slopes = steps / knots
    before, after = knots[:-1], knots[1:]
    inner = (after * slopes[:-1] + before * slopes[1:]) / (before + after)
    velocities = np.concatenate([slopes[:1], inner, slopes[-1:]])
    return np.stack(
        [
            points[:-1],
            points[:-1] + knots * velocities[:-1] / 3,
            points[1:] - knots * velocities[1:] / 3,
            points[1:],
        ],
        axis=1,
    )


def thin(points: Float[np.ndarray, "n 2"], spacing: float) -> Int[np.ndarray, " m"]:
    """Finds the points that do not crowd together, as they do where a pen slows down or rests.

    The first and the last point stay, and of the others those at least `spacing` from the last
    one kept and from the end. Neighbours that stay differ, even for a spacing of zero, so that
    they suit `bezier` (unless all points are one, which leaves the first).

    Args:
        points: n >= 1 points.
        spacing: The smallest distance that is kept, in the units of the points.

    Returns:
        The indices of the points that stay, rising.

    >>> import numpy as np
    >>> points = np.array([[0.0, 0.0], [0.0, 0.0], [0.1, 0.0], [2.0, 0.0], [5.0, 0.0]])
    >>> thin(points, 0.5).tolist()
    [0, 3, 4]
    """
    require(len(points) >= 1, "thin", "points", "none", "at least one point")
    values = points.tolist()
    (x, y), (end_x, end_y) = values[0], values[-1]
    kept = [0]
    limit = spacing * spacing
    for i, (a, b) in enumerate(values[1:-1], start=1):
        here = (a - x) ** 2 + (b - y) ** 2
        there = (a - end_x) ** 2 + (b - end_y) ** 2
        if min(here, there) > 0 and min(here, there) >= limit:
            kept.append(i)
            x, y = a, b
    if (x, y) != (end_x, end_y):
        kept.append(len(values) - 1)
    return np.array(kept)


def bernstein(u: Float[np.ndarray, " m"]) -> Float[np.ndarray, "m 4"]:
    """The weights of the four control points of a cubic Bézier: Bernstein's polynomials.

    Args:
        u: Parameters in [0, 1].

    Returns:
        The weights, each row of sum 1.

    >>> bernstein(np.array([0.0, 0.5])).tolist()
    [[1.0, 0.0, 0.0, 0.0], [0.125, 0.375, 0.375, 0.125]]
    """
    v = 1 - u
    return np.stack([v * v * v, 3 * u * v * v, 3 * u * u * v, u * u * u], axis=1)


def flatten(segments: Float[np.ndarray, "n 4 2"], pieces: int) -> Float[np.ndarray, "m 2"]:
    """Points along Béziers that follow on one another, evenly in each one's parameter.

    Args:
        segments: The control points of n >= 1 segments.
        pieces: Into how many straight pieces each segment is cut.

    Returns:
        The n `pieces` + 1 points, both ends among them.

    >>> import numpy as np
    >>> flatten(bezier(np.array([[0.0, 0.0], [3.0, 0.0]])), 2).tolist()
    [[0.0, 0.0], [1.5, 0.0], [3.0, 0.0]]
    """
    basis = bernstein(np.arange(pieces) / pieces)
    inner = np.einsum("uc,ncd->nud", basis, segments).reshape(-1, 2)
    return np.concatenate([inner, segments[-1:, 3]])


def ink(page: Page, spacing: float) -> list[list[Piece]]:
    """The ink of a page: for each line its pieces in writing order.

    A stroke is one piece, but for that in which the given points of a line end: it is cut there,
    and both pieces lie on the one curve.

    Args:
        page: The page.
        spacing: Points nearer than this to their neighbour are passed over, see `thin`.

    Returns:
        As many lists as lines.
    """
    result: list[list[Piece]] = []
    for line, given in zip(page.lines, page.given, strict=True):
        pieces, left = [], given
        for index, stroke in enumerate(line):
            kept = thin(stroke, spacing)
            if len(kept) == 1:
                touch = np.tile(stroke[:1, None], (1, 4, 1))
                pieces.append(Piece(index, touch, kept, left > 0))
            else:
                curve = bezier(stroke[kept])
                cut = max(0, int(np.searchsorted(kept, left - 1, side="right")) - 1)
                for a, b, which in ((0, cut, True), (cut, len(curve), False)):
                    if a < b:
                        pieces.append(Piece(index, curve[a:b], kept[a : b + 1], which))
            left = max(0, left - len(stroke))
        result.append(pieces)
    return result


def set_page(
    lines: Strokes | Sequence[Strokes],
    *,
    leading: float = 1.15,
    margin: float = 0.5,
    columns: int | None = 1,
    given: int | Sequence[int] | Int[np.ndarray, " L"] | None = None,
    function: str = "set_page",
) -> Page:
    """Sets lines of handwriting one below the other, or drawings in a grid, at their own size.

    Lines are set flush left. A line's place is that of its middle (the median height of its
    points), so that a line with tall ascenders does not sink; the distance is even, except where
    two lines would touch. The cells of a grid are of one size, that of the widest and tallest
    drawing, and each drawing stands in the middle of its cell.

    Args:
        lines: See `split_strokes`.
        leading: Distance of two lines as a multiple of the usual height of a line. In a grid,
            twice what is above 1 parts the cells, as a multiple of the usual size of a drawing.
        margin: Margin on all four sides, as a multiple of the usual height of a line, or of the
            usual size of a drawing.
        columns: How many stand side by side: 1 for lines of writing, more for a grid of
            drawings, row after row; None for what suits their shapes, see `suggest_columns`.
        given: How many points of each line, from its start, were given and not made up: one
            number, or one for each line.
        function: The name that errors speak in.

    Returns:
        The page.

    Raises:
        ValueError: See `split_strokes`; or a `leading` or `margin` that is not a finite number
            of at least zero, `columns` less than 1, or `given` that does not fit the lines.

    >>> import numpy as np
    >>> line = Strokes(np.array([[0.0, 0], [8, 4]]), np.array([0.0, 1]), np.ones(2, bool))
    >>> set_page([line, line], leading=1.5, margin=0.25).size
    (10.0, 12.0)
    >>> set_page([line] * 4, leading=1.5, margin=0.25, columns=2).size
    (28.0, 20.0)
    """
    for name, value in (("leading", leading), ("margin", margin)):
        require(bool(np.isfinite(value) and value >= 0), function, name, value, "finite and >= 0")
    strokes = split_strokes(lines, function=function)
    points = [np.concatenate(line) for line in strokes]
    low = np.array([p.min(axis=0) for p in points])
    high = np.array([p.max(axis=0) for p in points])
    if columns is None:
        columns = suggest_columns(high - low)
    whole = isinstance(columns, int | np.integer) and columns >= 1
    require(whole, function, "columns", columns, "a whole number of at least 1, or None")
    columns = min(int(columns), len(points))
    if columns == 1:
        shifts, size, line_height, usual = _set_lines(points, low, high, leading, margin)
    else:
        shifts, size, line_height, usual = _set_grid(low, high, leading, margin, columns)
    placed = tuple(
        tuple(stroke + shift for stroke in line)
        for line, shift in zip(strokes, shifts, strict=True)
    )
    # The spread of a line about its own slope: unlike its height, steady against one long tail.
    spread = float(np.median([_spread(p) for p in points])) or 0.25 * usual
    counts = _given(given, [len(p) for p in points], function)
    return Page(placed, size, line_height, 0.14 * spread, columns, counts)


def suggest_columns(sizes: Float[np.ndarray, "L 2"]) -> int:
    """How many drawings to set side by side so that they make a page one likes to look at.

    Lines of writing, usually more than four times as wide as high, stand one below the other.
    Of the rest, the grid is taken that is nearest to a page half as wide again as high, by the
    logarithm of that ratio, plus two for a grid all of whose cells are empty.

    Args:
        sizes: Width and height of each drawing.

    Returns:
        The number of columns, at least 1.

    >>> suggest_columns(np.array([[600.0, 40.0]] * 8)), suggest_columns(np.ones((12, 2)))
    (1, 4)
    """
    count = len(sizes)
    usual = np.median(sizes, axis=0)
    if usual[0] > 4 * usual[1]:  # level lines too
        return 1
    across = np.arange(1, count + 1)
    down = -(-count // across)
    width, height = np.maximum(sizes.max(axis=0), 1e-3 * (sizes.max() or 1.0))
    cost = np.abs(np.log(across * width / (1.5 * down * height)))
    return int(across[np.argmin(cost + 2 * (1 - count / (across * down)))])


_Setting: TypeAlias = tuple[list[np.ndarray], tuple[float, float], float, float]
"""The shift of every drawing, the page's size, the distance of two rows, the usual size."""


def _set_lines(
    points: list[np.ndarray], low: np.ndarray, high: np.ndarray, leading: float, margin: float
) -> _Setting:
    """Lines one below the other, flush left."""
    middle = [np.median(p[:, 1]) for p in points]
    above = [m - y for m, y in zip(middle, low[:, 1], strict=True)]
    below = [y - m for m, y in zip(middle, high[:, 1], strict=True)]
    width = float((high - low)[:, 0].max())

    height = float(np.median(np.add(above, below)))
    if height == 0:  # a dot, or a level line
        height = width or 1.0
    edge = margin * height
    touching = np.add(below[:-1], above[1:]) + 0.1 * height
    middles = above[0] + np.cumsum([0.0, *np.maximum(leading * height, touching)])
    shifts = [
        np.array([edge - x, edge + new - old])
        for x, old, new in zip(low[:, 0], middle, middles, strict=True)
    ]
    size = (width + 2 * edge, float(middles[-1]) + below[-1] + 2 * edge)
    return shifts, (float(size[0]), float(size[1])), leading * height, height


def _set_grid(
    low: np.ndarray, high: np.ndarray, leading: float, margin: float, columns: int
) -> _Setting:
    """Drawings in the middle of equal cells, row after row."""
    usual = float(np.median((high - low).max(axis=1))) or 1.0
    cell = (high - low).max(axis=0)
    pitch = cell + max(2 * (leading - 1), 0.1) * usual
    rows, places = np.divmod(np.arange(len(low)), columns)
    edge = margin * usual
    centres = edge + cell / 2 + np.stack([places, rows], axis=1) * pitch
    size = 2 * edge + cell + (np.array([columns, rows[-1] + 1]) - 1) * pitch
    shifts = list(centres - (low + high) / 2)
    return shifts, (float(size[0]), float(size[1])), float(pitch[1]), usual


def _given(given: Any, lengths: list[int], function: str) -> tuple[int, ...]:
    """How many points of each line were given, as said."""
    counts = np.asarray(0 if given is None else given)
    fits = counts.shape in ((), (len(lengths),)) and np.issubdtype(counts.dtype, np.integer)
    expected = f"a whole number, or one for each of the {len(lengths)} lines"
    require(fits, function, "given", given, expected)
    counts = np.broadcast_to(counts, (len(lengths),))
    inside = bool((counts >= 0).all() and (counts <= lengths).all())
    require(inside, function, "given", given, "from 0 to the number of points of each line")
    return tuple(counts.tolist())


def _spread(points: np.ndarray) -> float:
    """Standard deviation of the height of points about the straight line fitted to them."""
    x, y = (points - points.mean(axis=0)).T
    square = float(x @ x)
    return float(np.std(y - x * (float(x @ y) / square))) if square > 0 else float(np.std(y))
