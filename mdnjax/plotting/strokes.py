"""Handwriting as ink on paper."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mdnjax._checks import require
from mdnjax.plotting import style
from mdnjax.strokes.animation import usual_step
from mdnjax.strokes.curves import Page, Piece, flatten, ink, set_page
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
    columns: int | None = 1,
    given: int | Sequence[int] | np.ndarray | None = None,
    given_color: str = style.ORANGE,
) -> "matplotlib.axes.Axes":
    """Draws lines of handwriting into axes, one below the other, or drawings in a grid.

    The axes get the units of the data, equal in both directions, y down, and show neither
    frame nor ticks. The pen's width is set for the axes' size at this moment.

    Args:
        lines: One line, a batch of lines (padding masked), or a sequence of either.
        ax: Axes to draw into; by default those of a new figure.
        color: Colour of the ink.
        pen_width: Width of the pen in the units of the data; by default one that suits the size
            of the writing.
        flow: Whether a quick pen leaves a thinner line; else the width is even.
        leading: Distance of two lines as a multiple of their usual height. In a grid, twice what
            is above 1 parts the cells, as a multiple of a drawing's usual size.
        margin: Margin on all sides as a multiple of a line's usual height, or of a drawing's
            usual size.
        columns: How many stand side by side: 1 for lines of writing, more for a grid of equal
            cells with a drawing in the middle of each, None for what suits their shapes.
        given: How many points of each line, from its start, were given and not made up, as
            `strokes.continue_lines` says: one number, or one for each line.
        given_color: Colour of their ink.

    Returns:
        The axes.

    Raises:
        ImportError: Matplotlib is not installed.
        ValueError: No lines, a line without points, wrong shapes, a coordinate that is not
            finite, or an option out of range.
    """
    sheet = set_page(
        lines,
        leading=leading,
        margin=margin,
        columns=columns,
        given=given,
        function="plot_strokes",
    )
    pen = checked_pen(sheet, pen_width, "plot_strokes")
    with style.house_style():
        if ax is None:
            ax = full_axes(sheet.size, 8.0)
        else:
            _lay_paper(ax, sheet.size)
        draw_ink(ax, sheet, color=color, given_color=given_color, pen_width=pen, flow=flow)
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
    columns: int | None = 1,
    given: int | Sequence[int] | np.ndarray | None = None,
    given_color: str = style.ORANGE,
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
        leading: Distance of two lines as a multiple of their usual height. In a grid, twice what
            is above 1 parts the cells, as a multiple of a drawing's usual size.
        margin: Margin on all sides as a multiple of a line's usual height, or of a drawing's
            usual size.
        columns: How many stand side by side: 1 for lines of writing, more for a grid of equal
            cells with a drawing in the middle of each, None for what suits their shapes.
        given: How many points of each line, from its start, were given and not made up, as
            `strokes.continue_lines` says: one number, or one for each line.
        given_color: Colour of their ink.

    Returns:
        The figure; `save(figure, path)` writes it.

    Raises:
        ImportError: Matplotlib is not installed.
        ValueError: See `plot_strokes`; or as many labels as there are not lines.
    """
    sheet = set_page(
        lines, leading=leading, margin=margin, columns=columns, given=given, function="page"
    )
    pen = checked_pen(sheet, pen_width, "page")
    gutter = 0.0
    if labels is not None:
        expected = f"one for each of the {len(sheet.lines)} lines"
        require(len(labels) == len(sheet.lines), "page", "labels", len(labels), expected)
        require(sheet.columns == 1, "page", "labels", f"{sheet.columns} columns", "None in a grid")
        gutter = 0.15 + max(len(label) for label in labels) * _LABEL_SIZE * 0.62 / 72
    require(width > gutter, "page", "width", width, f"wider than the labels, {gutter:.2f} inches")
    with style.house_style():
        ax = full_axes(sheet.size, width, gutter)
        figure = ax.get_figure(root=True)
        assert figure is not None
        figure.set_facecolor(paper)
        draw_ink(ax, sheet, color=color, given_color=given_color, pen_width=pen, flow=flow)
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
    given_color: str = style.ORANGE,
    pen_width: float | None = None,
    flow: bool = True,
) -> None:
    """Draws a set page into axes that already have their limits and their place in the figure.

    Args:
        ax: Axes in the units of the page.
        sheet: The page.
        color: Colour of the ink.
        given_color: Colour of the ink of the points that were given.
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

    runs: list[np.ndarray] = []
    widths: list[float] = []
    colors: list[str] = []
    for piece, levels in itertools.chain(*pen_widths(sheet, pen, flow=flow)):
        curve = flatten(piece.curve, _PIECES)
        if len(piece.points) == 1:
            # Round caps make it a dot; without any length, Agg would leave it out.
            curve = curve[:1] + np.array([[0.0, 0.0], [0.02 * pen, 0.0]])
        cuts = np.flatnonzero(np.diff(levels)) + 1
        for first, last in zip([0, *cuts], [*cuts, len(levels)], strict=True):
            runs.append(curve[first * _PIECES : last * _PIECES + 1])
            widths.append(float(levels[first]))
            colors.append(given_color if piece.given else color)
    drawn = LineCollection(
        runs,
        colors=colors,
        linewidths=[w * pen * points_a_unit for w in widths],
        capstyle="round",
        joinstyle="round",
        snap=False,  # onto whole pixels, which would leave dots out and shift level lines
    )
    ax.add_collection(drawn, autolim=False)


def pen_widths(sheet: Page, pen: float, *, flow: bool) -> list[list[tuple[Piece, np.ndarray]]]:
    """The ink of a page, and how wide a line the pen leaves along it.

    Args:
        sheet: The page.
        pen: Width of the pen in the units of the page.
        flow: Whether a quick pen leaves a thinner line.

    Returns:
        For each line its pieces in writing order, each with the width along each of its Béziers
        as a multiple of `pen`.
    """
    usual = usual_step([stroke for line in sheet.lines for stroke in line])
    result: list[list[tuple[Piece, np.ndarray]]] = []
    for line, pieces in zip(sheet.lines, ink(sheet, pen / 8), strict=True):
        result.append([])
        for piece in pieces:
            widths = np.ones(len(piece.curve))
            if len(piece.points) == 1:
                widths[:] = _WIDTHS[0]
            elif flow:
                speed = _speed(line[piece.stroke])[piece.points] / usual
                ease = np.clip((0.5 * (speed[:-1] + speed[1:]) - 0.5) / 1.5, 0, 1)
                widths = _WIDTHS[np.rint(ease * (len(_WIDTHS) - 1)).astype(int)]
            result[-1].append((piece, widths))
    return result


def _speed(stroke: np.ndarray) -> np.ndarray:
    """Distance a sample at every point, smoothed over five so that the width does not flicker."""
    steps = np.hypot(*np.diff(stroke, axis=0).T)
    steps = np.pad(steps, 3, mode="edge")
    return np.convolve(steps, np.ones(6) / 6, mode="valid")


def checked_pen(sheet: Page, given: float | None, function: str) -> float:
    """The pen's width: as given, if it is a width, else the page's own."""
    pen = sheet.pen_width if given is None else given
    require(bool(np.isfinite(pen) and pen > 0), function, "pen_width", pen, "positive")
    return pen


def full_axes(
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
