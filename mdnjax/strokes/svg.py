"""Handwriting as single-line SVG: what a pen drew, as paths a browser, or a plotter, follows.

No Matplotlib, no other dependency: an SVG is a string. Each pen-down stroke is one `<path>` of
cubic Béziers (see `mdnjax.strokes.curves`), a touch of the pen is a dot, and the coordinates are
those of the data, y down, so a drawing can be measured. With an `Animation` it draws itself.
"""

import math
import os
import pathlib
from collections.abc import Sequence
from typing import TypedDict, Unpack
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from mdnjax._checks import require
from mdnjax._files import write_whole
from mdnjax.strokes._decimals import shortest
from mdnjax.strokes.animation import Animation
from mdnjax.strokes.curves import Piece, ink, set_page
from mdnjax.strokes.keyframes import set_in_motion
from mdnjax.strokes.structure import Strokes


class SvgOptions(TypedDict, total=False):
    """The options of `to_svg`, where they are explained."""

    width: float
    stroke_width: float | None
    color: str
    background: str | None
    leading: float
    margin: float
    columns: int | None
    given: int | Sequence[int] | np.ndarray | None
    given_color: str
    decimals: int | None
    title: str
    animation: Animation | None


# Nearer points than this share of the pen's width draw the same ink; rounding is finer still.
_SPACING = 1 / 8
_ROUNDING = 1 / 20


def to_svg(
    lines: Strokes | Sequence[Strokes],
    *,
    width: float = 1000.0,
    stroke_width: float | None = None,
    color: str = "#1b2a49",
    background: str | None = "#ffffff",
    leading: float = 1.15,
    margin: float = 0.5,
    columns: int | None = 1,
    given: int | Sequence[int] | np.ndarray | None = None,
    given_color: str = "#d55e00",
    decimals: int | None = None,
    title: str = "Handwriting",
    animation: Animation | None = None,
) -> str:
    """Draws lines of handwriting, or drawings, as a page of smooth single-line SVG.

    Every curve passes through the data's points; only points so near to their neighbour that
    the pen's width hides them (an eighth of it) are left out, and numbers are rounded.

    Args:
        lines: One line, a batch of lines (padding masked), or a sequence of either; they are
            set one below the other, or in a grid.
        width: Width of the picture in CSS pixels; the height follows. The `viewBox` is in the
            units of the data.
        stroke_width: Width of the pen in the units of the data; by default one that suits the
            size of the writing.
        color: Colour of the ink, as CSS writes it.
        background: Colour of the paper, or None for none (as for a plotter).
        leading: Distance of two lines as a multiple of their usual height. In a grid, twice what
            is above 1 parts the cells, as a multiple of a drawing's usual size.
        margin: Margin on all sides as a multiple of a line's usual height, or of a drawing's
            usual size.
        columns: How many stand side by side: 1 for lines of writing, more for a grid of equal
            cells with a drawing in the middle of each, None for what suits their shapes.
        given: How many points of each line, from its start, were given and not made up, as
            `continue_lines` says: one number, or one for each line.
        given_color: Colour of their ink.
        decimals: Decimals of a coordinate; by default so many that rounding moves no point by
            more than a fortieth of the pen's width.
        title: What a screen reader says the picture is.
        animation: How the picture draws itself where CSS animations run, as in an HTML `<img>`;
            it stays finished for readers who ask for less motion, and elsewhere. None for a
            picture that does not move.

    Returns:
        The SVG document. The same input gives the same string.

    Raises:
        ValueError: No lines, a line without points, wrong shapes, a coordinate that is not
            finite, or an option out of range.

    >>> import numpy as np
    >>> tick = Strokes(
    ...     np.array([[0.0, 0], [10, 20], [20, -40]]), np.array([0.0, 0, 1]), np.ones(3, bool)
    ... )
    >>> print(to_svg(tick, width=300.0, stroke_width=4.0, background=None, title="A tick"))
    <svg xmlns="http://www.w3.org/2000/svg" width="300" height="343" viewBox="0 0 70 80" role="img">
    <title>A tick</title>
    <g fill="none" stroke="#1b2a49" stroke-width="4" stroke-linecap="round" stroke-linejoin="round">
    <g>
    <path d="M20 40c3.3 6.7 6.1 20 10 20 5.5 0 13.3-26.7 20-40"/>
    </g>
    </g>
    </svg>
    """
    require(bool(math.isfinite(width) and width > 0), "to_svg", "width", width, "positive")
    page = set_page(
        lines, leading=leading, margin=margin, columns=columns, given=given, function="to_svg"
    )
    pen = page.pen_width if stroke_width is None else stroke_width
    require(bool(math.isfinite(pen) and pen > 0), "to_svg", "stroke_width", pen, "positive")
    if decimals is None:
        decimals = max(0, math.ceil(-math.log10(_ROUNDING * pen)))
    require(0 <= decimals <= 15, "to_svg", "decimals", decimals, "from 0 to 15")
    pieces = ink(page, _SPACING * pen)
    motion = None
    if animation is not None:
        motion = set_in_motion(page, pieces, animation, pen=pen)

    across, down = page.size
    box = _text(np.ceil(np.multiply(page.size, 10**decimals)).astype(np.int64), decimals)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.10g}" '
        f'height="{max(1, round(width * down / across))}" viewBox="0 0 {box}" role="img">',
        f"<title>{escape(title)}</title>",
    ]
    if motion is not None:
        parts += ["<style>", *motion.style, "</style>"]
    if background is not None:
        parts.append(f'<rect width="100%" height="100%" fill={quoteattr(background)}/>')
    named = "" if motion is None else f'class="{motion.name}" '
    parts.append(
        f'<g {named}fill="none" stroke={quoteattr(color)} stroke-width="{pen:.3g}" '
        'stroke-linecap="round" stroke-linejoin="round">'
    )
    moving = iter(() if motion is None else motion.ink)
    for line in pieces:
        parts.append("<g>")
        for piece in line:
            own = f"stroke={quoteattr(given_color)} " if piece.given else ""
            own += "" if motion is None else f"{next(moving)} "
            parts.append(f'<path {own}d="{_path(piece, decimals)}"/>')
        parts.append("</g>")
    parts += [*(() if motion is None else motion.tips), "</g>", "</svg>"]
    return "\n".join(parts)


def write_svg(
    path: str | os.PathLike[str],
    lines: Strokes | Sequence[Strokes],
    **options: Unpack[SvgOptions],
) -> None:
    """Writes `to_svg(lines, **options)` to a file, whole or not at all.

    Args:
        path: The file; its folder must exist.
        lines: See `to_svg`.
        **options: See `to_svg`.

    Raises:
        ValueError: See `to_svg`; nothing is written then.
        OSError: The file cannot be written; one already there is left as it was.
    """
    document = to_svg(lines, **options) + "\n"
    write_whole(pathlib.Path(path), document.encode())


def _path(piece: Piece, decimals: int) -> str:
    """The `d` of a piece of ink: absolute start, then relative cubics."""
    # Differences of rounded numbers add up to rounded numbers: the error does not accumulate.
    segments = _lattice(piece.curve, decimals)
    start = _text(segments[0, 0], decimals)
    if len(piece.points) == 1:
        return f"M{start}h0"  # round caps make it a dot
    if len(segments) == 1:
        return f"M{start}l{_text(segments[0, 3] - segments[0, 0], decimals)}"
    return f"M{start}c{_text(segments[:, 1:] - segments[:, :1], decimals)}"


def _lattice(values: np.ndarray, decimals: int) -> np.ndarray:
    """Values in whole units of the last decimal; halves go up, so that equal steps stay equal."""
    return np.floor(values * 10**decimals + 0.5).astype(np.int64)


def _text(units: np.ndarray, decimals: int) -> str:
    """Whole units of the last decimal as the shortest list of numbers that SVG reads."""
    return " ".join(shortest(unit, decimals) for unit in units.ravel().tolist()).replace(" -", "-")
