"""Handwriting as single-line SVG: what a pen drew, as paths a browser, or a plotter, follows.

No Matplotlib, no other dependency: an SVG is a string. Each pen-down stroke is one `<path>` of
cubic Béziers (see `mdnjax.strokes.curves`), a touch of the pen is a dot, and the coordinates are
those of the data, y down, so a drawing can be measured.
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
from mdnjax.strokes.curves import bezier, set_page, thin
from mdnjax.strokes.structure import Strokes


class SvgOptions(TypedDict, total=False):
    """The options of `to_svg`, where they are explained."""

    width: float
    stroke_width: float | None
    color: str
    background: str | None
    leading: float
    margin: float
    decimals: int | None
    title: str


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
    decimals: int | None = None,
    title: str = "Handwriting",
) -> str:
    """Draws lines of handwriting as a page of smooth single-line SVG.

    Every curve passes through the data's points; only points so near to their neighbour that
    the pen's width hides them (an eighth of it) are left out, and numbers are rounded.

    Args:
        lines: One line, a batch of lines (padding masked), or a sequence of either; they are
            set one below the other.
        width: Width of the picture in CSS pixels; the height follows. The `viewBox` is in the
            units of the data.
        stroke_width: Width of the pen in the units of the data; by default one that suits the
            size of the writing.
        color: Colour of the ink, as CSS writes it.
        background: Colour of the paper, or None for none (as for a plotter).
        leading: Distance of two lines as a multiple of their usual height.
        margin: Margin on all sides as a multiple of a line's usual height.
        decimals: Decimals of a coordinate; by default so many that rounding moves no point by
            more than a fortieth of the pen's width.
        title: What a screen reader says the picture is.

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
    page = set_page(lines, leading=leading, margin=margin, function="to_svg")
    pen = page.pen_width if stroke_width is None else stroke_width
    require(bool(math.isfinite(pen) and pen > 0), "to_svg", "stroke_width", pen, "positive")
    if decimals is None:
        decimals = max(0, math.ceil(-math.log10(_ROUNDING * pen)))
    require(0 <= decimals <= 15, "to_svg", "decimals", decimals, "from 0 to 15")

    across, down = page.size
    box = _text(np.ceil(np.multiply(page.size, 10**decimals)).astype(np.int64), decimals)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.10g}" '
        f'height="{max(1, round(width * down / across))}" viewBox="0 0 {box}" role="img">',
        f"<title>{escape(title)}</title>",
    ]
    if background is not None:
        parts.append(f'<rect width="100%" height="100%" fill={quoteattr(background)}/>')
    parts.append(
        f'<g fill="none" stroke={quoteattr(color)} stroke-width="{pen:.3g}" '
        'stroke-linecap="round" stroke-linejoin="round">'
    )
    for line in page.lines:
        parts.append("<g>")
        parts.extend(f'<path d="{_path(s, _SPACING * pen, decimals)}"/>' for s in line)
        parts.append("</g>")
    parts += ["</g>", "</svg>"]
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


def _path(points: np.ndarray, spacing: float, decimals: int) -> str:
    """The `d` of one stroke: absolute start, then relative cubics."""
    curve = points[thin(points, spacing)]
    if len(curve) == 1:
        return f"M{_text(_lattice(curve, decimals), decimals)}h0"  # round caps make it a dot
    # Differences of rounded numbers add up to rounded numbers: the error does not accumulate.
    segments = _lattice(bezier(curve), decimals)
    start = _text(segments[0, 0], decimals)
    if len(segments) == 1:
        return f"M{start}l{_text(segments[0, 3] - segments[0, 0], decimals)}"
    return f"M{start}c{_text(segments[:, 1:] - segments[:, :1], decimals)}"


def _lattice(values: np.ndarray, decimals: int) -> np.ndarray:
    """Values in whole units of the last decimal; halves go up, so that equal steps stay equal."""
    return np.floor(values * 10**decimals + 0.5).astype(np.int64)


def _text(units: np.ndarray, decimals: int) -> str:
    """Whole units of the last decimal as the shortest list of numbers that SVG reads."""
    words = []
    for unit in units.ravel().tolist():
        whole, part = divmod(abs(unit), 10**decimals)
        fraction = f".{part:0{decimals}d}".rstrip("0") if part else ""
        sign = "-" if unit < 0 else ""
        words.append(f"{sign}{whole or ('' if fraction else 0)}{fraction}")
    return " ".join(words).replace(" -", "-")
