"""Smooth curves through pen trajectories, and lines set out on a page.

A sensor samples the pen some hundred times a second; joining the samples by straight lines shows
the sensor, not the hand. Here each pen-down stroke becomes one smooth curve *through* its points,
as cubic Béziers, the form that SVG, PDF and Matplotlib all draw natively.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from mdnjax._checks import require
from mdnjax.strokes.structure import Strokes


@dataclasses.dataclass(frozen=True, eq=False)
class Page:
    """Lines of handwriting set one below the other.

    Attributes:
        lines: For each line its pen-down strokes in writing order, each the points `[n, 2]` on
            the page, n >= 1. All coordinates are inside `size`.
        size: Width and height of the page, margins included, in the units of the lines.
        line_height: What is usual between the middles of two lines.
        pen_width: A pen width that suits the size of the writing.
    """

    lines: tuple[tuple[np.ndarray, ...], ...]
    size: tuple[float, float]
    line_height: float
    pen_width: float


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


def set_page(
    lines: Strokes | Sequence[Strokes],
    *,
    leading: float = 1.15,
    margin: float = 0.5,
    function: str = "set_page",
) -> Page:
    """Sets lines of handwriting one below the other, flush left, at their own size.

    A line's place is that of its middle (the median height of its points), so that a line with
    tall ascenders does not sink; the distance is even, except where two lines would touch.

    Args:
        lines: See `split_strokes`.
        leading: Distance of two lines as a multiple of the usual height of a line.
        margin: Margin on all four sides, as a multiple of the usual height of a line.
        function: The name that errors speak in.

    Returns:
        The page.

    Raises:
        ValueError: See `split_strokes`; or a `leading` or `margin` that is not a finite number
            of at least zero.

    >>> import numpy as np
    >>> line = Strokes(np.array([[0.0, 0], [8, 4]]), np.array([0.0, 1]), np.ones(2, bool))
    >>> set_page([line, line], leading=1.5, margin=0.25).size
    (10.0, 12.0)
    """
    for name, value in (("leading", leading), ("margin", margin)):
        require(bool(np.isfinite(value) and value >= 0), function, name, value, "finite and >= 0")
    strokes = split_strokes(lines, function=function)
    points = [np.concatenate(line) for line in strokes]
    left = [p[:, 0].min() for p in points]
    middle = [np.median(p[:, 1]) for p in points]
    above = [m - p[:, 1].min() for m, p in zip(middle, points, strict=True)]
    below = [p[:, 1].max() - m for m, p in zip(middle, points, strict=True)]
    width = max(float(np.ptp(p[:, 0])) for p in points)

    height = float(np.median(np.add(above, below)))
    if height == 0:  # a dot, or a level line
        height = width or 1.0
    edge = margin * height
    touching = np.add(below[:-1], above[1:]) + 0.1 * height
    middles = above[0] + np.cumsum([0.0, *np.maximum(leading * height, touching)])

    placed = tuple(
        tuple(stroke + np.array([edge - x, edge + new - old]) for stroke in line)
        for line, x, old, new in zip(strokes, left, middle, middles, strict=True)
    )
    size = (width + 2 * edge, float(middles[-1]) + below[-1] + 2 * edge)
    # The spread of a line about its own slope: unlike its height, steady against one long tail.
    spread = float(np.median([_spread(p) for p in points])) or 0.25 * height
    return Page(placed, (float(size[0]), float(size[1])), leading * height, 0.14 * spread)


def _spread(points: np.ndarray) -> float:
    """Standard deviation of the height of points about the straight line fitted to them."""
    x, y = (points - points.mean(axis=0)).T
    square = float(x @ x)
    return float(np.std(y - x * (float(x @ y) / square))) if square > 0 else float(np.std(y))
