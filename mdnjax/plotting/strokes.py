"""Handwriting as ink on paper."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mdnjax._checks import require
from mdnjax.plotting import style
from mdnjax.strokes.curves import Page, bezier, set_page, thin
from mdnjax.strokes.structure import Strokes

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# A quick pen leaves a thinner line. Widths come in few steps, for a run of equal width is drawn
# as one curve, and pieces that overlap show at their edges.
_WIDTHS = np.linspace(1.2, 0.7, 6)
_PIECES = 6  # straight pieces that draw one Bézier
_LABEL_SIZE = 7.0  # points


def plot_strokes(
    lines: Strokes | Sequence[Strokes],
    ax: "matplotlib.axes.Axes | None" = None,
    *,
    color: str = style.INK,
    pen_width: float | None = None,
    flow: bool = True,
    leading: float = 1.15,
    margin: float = 0.5,
) -> "matplotlib.axes.Axes":
    """Draws lines of handwriting into axes, one below the other.

    The axes get the units of the data, equal in both directions, y down, and show neither
    frame nor ticks. The pen's width is set for the axes' size at this moment.

    Args:
        lines: One line, a batch of lines (padding masked), or a sequence of either.
        ax: Axes to draw into; by default those of a new figure.
        color: Colour of the ink.
        pen_width: Width of the pen in the units of the data; by default one that suits the size
            of the writing.
        flow: Whether a quick pen leaves a thinner line; else the width is even.
        leading: Distance of two lines as a multiple of their usual height.
        margin: Margin on all sides as a multiple of a line's usual height.

    Returns:
        The axes.

    Raises:
        ImportError: Matplotlib is not installed.
        ValueError: No lines, a line without points, wrong shapes, a coordinate that is not
            finite, or an option out of range.
    """
    sheet = set_page(lines, leading=leading, margin=margin, function="plot_strokes")
    pen = _pen_width(sheet, pen_width, "plot_strokes")
    with style.house_style():
        if ax is None:
            ax = _full_axes(sheet.size, 8.0)
        else:
            _lay_paper(ax, sheet.size)
        draw_ink(ax, sheet, color=color, pen_width=pen, flow=flow)
    return ax


def page(
    lines: Strokes | Sequence[Strokes],
    *,
    width: float = 8.0,
    labels: Sequence[str] | None = None,
    color: str = style.INK,
    paper: str = style.PAPER,
    pen_width: float | None = None,
    flow: bool = True,
    leading: float = 1.15,
    margin: float = 0.5,
) -> "matplotlib.figure.Figure":
    """A page of handwriting: a figure that is all paper.

    Args:
        lines: One line, a batch of lines (padding masked), or a sequence of either.
        width: Width of the figure in inches; the height follows.
        labels: A few words for each line, to stand small at its left, "" for none.
        color: Colour of the ink.
        paper: Colour of the paper.
        pen_width: Width of the pen in the units of the data; by default one that suits the size
            of the writing.
        flow: Whether a quick pen leaves a thinner line; else the width is even.
        leading: Distance of two lines as a multiple of their usual height.
        margin: Margin on all sides as a multiple of a line's usual height.

    Returns:
        The figure; `save(figure, path)` writes it.

    Raises:
        ImportError: Matplotlib is not installed.
        ValueError: See `plot_strokes`; or as many labels as there are not lines.
    """
    sheet = set_page(lines, leading=leading, margin=margin, function="page")
    pen = _pen_width(sheet, pen_width, "page")
    gutter = 0.0
    if labels is not None:
        expected = f"one for each of the {len(sheet.lines)} lines"
        require(len(labels) == len(sheet.lines), "page", "labels", len(labels), expected)
        gutter = 0.15 + max(len(label) for label in labels) * _LABEL_SIZE * 0.62 / 72
    require(width > gutter, "page", "width", width, f"wider than the labels, {gutter:.2f} inches")
    with style.house_style():
        ax = _full_axes(sheet.size, width, gutter)
        figure = ax.get_figure(root=True)
        assert figure is not None
        figure.set_facecolor(paper)
        draw_ink(ax, sheet, color=color, pen_width=pen, flow=flow)
        for label, line in zip(labels or (), sheet.lines, strict=bool(labels)):
            middle = float(np.median(np.concatenate(line)[:, 1]))
            figure.text(
                0.25 / width,
                1 - middle / sheet.size[1],
                label,
                color=style.FAINT,
                fontsize=_LABEL_SIZE,
                va="center",
            )
    return figure


def draw_ink(
    ax: "matplotlib.axes.Axes",
    sheet: Page,
    *,
    color: str = style.INK,
    pen_width: float | None = None,
    flow: bool = True,
) -> None:
    """Draws a set page into axes that already have their limits and their place in the figure.

    Args:
        ax: Axes in the units of the page.
        sheet: The page.
        color: Colour of the ink.
        pen_width: Width of the pen in the units of the page; by default the page's own.
        flow: Whether a quick pen leaves a thinner line; else the width is even.
    """
    from matplotlib.collections import LineCollection

    pen = sheet.pen_width if pen_width is None else pen_width
    ax.apply_aspect()
    figure = ax.get_figure(root=True)
    assert figure is not None
    inches = ax.get_position().width * figure.get_figwidth()
    low, high = ax.get_xlim()
    points_a_unit = 72 * inches / abs(high - low)

    strokes = [stroke for line in sheet.lines for stroke in line]
    usual = _usual_step(strokes)
    runs: list[np.ndarray] = []
    widths: list[float] = []
    for stroke in strokes:
        kept = thin(stroke, pen / 8)
        points = stroke[kept]
        if len(points) == 1:
            # Round caps make it a dot; without any length, Agg would leave it out.
            runs.append(points + np.array([[0.0, 0.0], [0.02 * pen, 0.0]]))
            widths.append(float(_WIDTHS[0]))
            continue
        curve = _sample(bezier(points))
        levels = np.zeros(len(points) - 1, dtype=int)
        if flow:
            speed = _speed(stroke)[kept] / usual
            ease = np.clip((0.5 * (speed[:-1] + speed[1:]) - 0.5) / 1.5, 0, 1)
            levels = np.rint(ease * (len(_WIDTHS) - 1)).astype(int)
        cuts = np.flatnonzero(np.diff(levels)) + 1
        for first, last in zip([0, *cuts], [*cuts, len(levels)], strict=True):
            runs.append(curve[first * _PIECES : last * _PIECES + 1])
            widths.append(float(_WIDTHS[levels[first]]) if flow else 1.0)
    ink = LineCollection(
        runs,
        colors=color,
        linewidths=[w * pen * points_a_unit for w in widths],
        capstyle="round",
        joinstyle="round",
    )
    ax.add_collection(ink, autolim=False)


def _usual_step(strokes: Sequence[np.ndarray]) -> float:
    """Median distance of neighbouring points, those that stand still left out; 1 if all do."""
    steps = np.concatenate([np.hypot(*np.diff(s, axis=0).T) for s in strokes])
    steps = steps[steps > 0]
    return float(np.median(steps)) if len(steps) else 1.0


def _speed(stroke: np.ndarray) -> np.ndarray:
    """Distance a sample at every point, smoothed over five so that the width does not flicker."""
    steps = np.hypot(*np.diff(stroke, axis=0).T)
    steps = np.pad(steps, 3, mode="edge")
    return np.convolve(steps, np.ones(6) / 6, mode="valid")


def _sample(segments: np.ndarray) -> np.ndarray:
    """Points along Béziers `[n, 4, 2]`, `_PIECES` a segment and the end: `[n _PIECES + 1, 2]`."""
    u = np.arange(_PIECES)[:, None] / _PIECES
    basis = np.concatenate([(1 - u) ** 3, 3 * u * (1 - u) ** 2, 3 * u**2 * (1 - u), u**3], axis=1)
    inner = np.einsum("uc,ncd->nud", basis, segments).reshape(-1, 2)
    return np.concatenate([inner, segments[-1:, 3]])


def _pen_width(sheet: Page, given: float | None, function: str) -> float:
    """The pen's width: as given, if it is a width, else the page's own."""
    pen = sheet.pen_width if given is None else given
    require(bool(np.isfinite(pen) and pen > 0), function, "pen_width", pen, "positive")
    return pen


def _full_axes(
    size: tuple[float, float], width: float, gutter: float = 0.0
) -> "matplotlib.axes.Axes":
    """Axes without frame that fill a new figure but for a gutter at the left, all in inches."""
    height = (width - gutter) * size[1] / size[0]
    figure = style.new_figure(width, height)
    ax = figure.add_axes((gutter / width, 0.0, 1 - gutter / width, 1.0))
    _lay_paper(ax, size)
    return ax


def _lay_paper(ax: "matplotlib.axes.Axes", size: tuple[float, float]) -> None:
    """Gives axes the page's units, y down, and takes frame and ticks away."""
    ax.set_axis_off()
    ax.set_xlim(0, size[0])
    ax.set_ylim(size[1], 0)
    ax.set_aspect("equal")
