"""The pen at work, as a GIF."""

import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mdnjax._checks import require, require_extra
from mdnjax._files import write_whole
from mdnjax.plotting import style
from mdnjax.plotting._gif import encode_gif
from mdnjax.plotting.strokes import checked_pen, draw_ink, full_axes, pen_widths
from mdnjax.strokes.animation import TIP_RADIUS, Animation, follow, pen_times
from mdnjax.strokes.curves import set_page
from mdnjax.strokes.structure import Strokes

if TYPE_CHECKING:
    import matplotlib.axes

_DEFAULT = Animation()
_SHADES = 15  # between the paper and a colour, for smooth edges
_PIECES = 8  # straight pieces that follow one Bézier
_REACH = 1.0  # pixels beyond the ink's edge in which it leaves a shade
_SHORTEST = 2  # hundredths of a second, to which viewers keep


class _Course(NamedTuple):
    """A way of the pen on the picture: `[m, 2]` (column, row) in pixels, and when it is there."""

    places: np.ndarray
    times: np.ndarray


def write_gif(
    path: str | os.PathLike[str],
    lines: Strokes | Sequence[Strokes],
    *,
    animation: Animation = _DEFAULT,
    frames_per_second: float = 20.0,
    width: int = 800,
    color: str = style.INK,
    paper: str = style.PAPER,
    pen_width: float | None = None,
    flow: bool = True,
    leading: float = 1.15,
    margin: float = 0.5,
    columns: int | None = 1,
    given: int | Sequence[int] | np.ndarray | None = None,
    given_color: str = style.ORANGE,
) -> None:
    """Writes a page of handwriting that draws itself, as an animated GIF.

    The last frame is the picture that `page` makes, in few colours. It is drawn once, and every
    frame uncovers of it what the pen has reached by then.

    Args:
        path: The file; its folder must exist. It is written whole or not at all.
        lines: One line, a batch of lines (padding masked), or a sequence of either.
        animation: How the picture draws itself.
        frames_per_second: At most 50, which is the most that viewers play.
        width: Width of the picture in pixels; the height follows.
        color: Colour of the ink. This one, the others and the animation's `tip` are written as
            Matplotlib writes them, which is not in all of CSS's ways.
        paper: Colour of the paper.
        pen_width: Width of the pen in the units of the data; by default one that suits the size
            of the writing.
        flow: Whether a quick pen leaves a thinner line; else the width is even.
        leading: See `page`.
        margin: See `page`.
        columns: See `page`.
        given: See `page`.
        given_color: See `page`.

    Raises:
        ImportError: Matplotlib is not installed.
        ValueError: See `page`; or an option out of range, or a colour that is none.
        OSError: The file cannot be written; one already there is left as it was.
    """
    name = "write_gif"
    usable = bool(np.isfinite(frames_per_second)) and 0 < frames_per_second <= 50
    require(usable, name, "frames_per_second", frames_per_second, "above 0 and at most 50")
    require(16 <= width <= 8192, name, "width", width, "from 16 to 8192 pixels")
    _check_color("color", color)
    _check_color("paper", paper)
    _check_color("given_color", given_color)
    if animation.tip is not None:
        _check_color("animation.tip", animation.tip)
    sheet = set_page(
        lines, leading=leading, margin=margin, columns=columns, given=given, function=name
    )
    pen = checked_pen(sheet, pen_width, name)
    with style.house_style():
        # An inch is a pixel here, so that the picture is as wide as it should be.
        ax = full_axes(sheet.size, float(width))
        draw_ink(ax, sheet, color=color, given_color=given_color, pen_width=pen, flow=flow)
        picture = _pixels(ax, paper)
        inks = [color, given_color] if any(sheet.given) else [color]
        palette = _palette(paper, [*inks, animation.tip or paper])
    scale = width / sheet.size[0]
    clock, seconds = pen_times(sheet, animation)
    reached = np.full(picture.shape[:2], np.inf)
    courses: list[list[_Course]] = []
    for line, times in zip(pen_widths(sheet, pen, flow=flow), clock, strict=True):
        courses.append([])
        for piece, widths in line:
            points, at = follow(piece, times[piece.stroke], _PIECES)
            course = _Course(_places(ax, points, len(picture)), at)
            _reach(reached, course, np.repeat(0.5 * pen * scale * widths, _PIECES))
            courses[-1].append(course)
    if not animation.together:  # one pen does it all
        courses = [[course for line in courses for course in line]]
    pens = [_Course(*map(np.concatenate, zip(*line, strict=True))) for line in courses]
    frames = _frames(
        _nearest(picture, palette),
        reached,
        pens if animation.tip is not None else [],
        max(2.5, TIP_RADIUS * pen * scale),
        first_tip=len(palette) - _SHADES,
        seconds=seconds,
        count=max(1, round(seconds * frames_per_second)),
        hold=animation.hold,
    )
    write_whole(pathlib.Path(path), encode_gif(frames, palette, loop=animation.loop))


def _check_color(argument: str, value: str) -> None:
    """Matplotlib's "none" is refused, too: a GIF of it would be black."""
    colors = require_extra("matplotlib.colors", "plot")
    seen = colors.is_color_like(value) and colors.to_rgba(value)[3] > 0
    expected = "a colour as Matplotlib writes it, such as '#1b2a49' or 'navy'"
    require(seen, "write_gif", argument, repr(value), expected)


def _frames(
    finished: np.ndarray,
    reached: np.ndarray,
    pens: list[_Course],
    radius: float,
    *,
    first_tip: int,
    seconds: float,
    count: int,
    hold: float,
) -> Iterator[tuple[np.ndarray, int]]:
    """The frames, as indices into the palette, and how long each is seen."""
    order = np.argsort(reached, axis=None, kind="stable")
    when = reached.ravel()[order]
    canvas = np.zeros_like(finished)
    ends = np.rint(100 * seconds * np.arange(count + 1) / count).astype(int)
    done = 0
    for k in range(count):
        now = seconds * k / count
        upto = int(np.searchsorted(when, now, side="right"))
        canvas.ravel()[order[done:upto]] = finished.ravel()[order[done:upto]]
        done = upto
        frame = canvas.copy() if pens else canvas
        for places, times in pens:
            if now <= times[-1]:
                place = [np.interp(now, times, axis) for axis in places.T]
                _stamp(frame, np.array(place), radius, first_tip)
        yield frame, max(_SHORTEST, int(ends[k + 1] - ends[k]))
    held = max(hold, seconds / count)
    yield finished, max(_SHORTEST, round(100 * held))


def _reach(reached: np.ndarray, course: _Course, radii: np.ndarray) -> None:
    """Notes when the pen first comes so near to each pixel that its ink leaves a shade there.

    Args:
        reached: The times so far, `[rows, columns]`; changed.
        course: The way of the pen.
        radii: Half the width of the line between two places, in pixels.
    """
    along = np.cumsum([0.0, *np.hypot(*np.diff(course.places, axis=0).T)])
    # Discs at such a distance leave out less than a thirtieth of a pixel between them.
    step = 0.5 * np.sqrt(radii.max() + _REACH)
    even = np.linspace(0, along[-1], 2 + int(along[-1] / step))
    x, y, t = (np.interp(even, along, v) for v in (*course.places.T, course.times))
    span = np.searchsorted(along, even, side="right") - 1
    radius = radii[np.clip(span, 0, len(radii) - 1)] + _REACH
    far = int(np.ceil(radius.max()))
    for row in range(-far, far + 1):
        for column in range(-far, far + 1):
            i, j = np.floor(y).astype(int) + row, np.floor(x).astype(int) + column
            near = np.hypot(i + 0.5 - y, j + 0.5 - x) <= radius
            near &= (i >= 0) & (i < reached.shape[0]) & (j >= 0) & (j < reached.shape[1])
            np.minimum.at(reached, (i[near], j[near]), t[near])


def _stamp(frame: np.ndarray, place: np.ndarray, radius: float, first: int) -> None:
    """Puts the pen's tip on a frame, with a smooth edge."""
    low = np.maximum(np.floor(place - radius - 1).astype(int), 0)
    high = np.ceil(place + radius + 1).astype(int)
    part = frame[low[1] : high[1], low[0] : high[0]]
    rows, columns = (0.5 + a + np.arange(n) for a, n in zip(low[::-1], part.shape, strict=True))
    distance = np.hypot(rows[:, None] - place[1], columns[None, :] - place[0])
    shade = np.rint(np.clip(radius + 0.5 - distance, 0, 1) * _SHADES).astype(int)
    # The shades are those between paper and tip: over ink the edge is hard.
    covered = np.where(part == 0, shade > 0, shade > _SHADES // 2)
    full = np.where(part == 0, shade, _SHADES)
    part[covered] = (first + full - 1)[covered]


def _pixels(ax: "matplotlib.axes.Axes", paper: str) -> np.ndarray:
    """The figure around axes, `[rows, columns, 3]`, a pixel an inch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.set_facecolor(paper)
    figure.set_dpi(1)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def _places(ax: "matplotlib.axes.Axes", points: np.ndarray, rows: int) -> np.ndarray:
    """Points of the page as (column, row) of the picture."""
    across, up = ax.transData.transform(points).T
    return np.stack([across, rows - up], axis=1)


def _palette(paper: str, colors: Sequence[str]) -> np.ndarray:
    """The paper, then for each colour the shades from near the paper to the colour itself."""
    from matplotlib.colors import to_rgb

    ground = np.array(to_rgb(paper))
    share = np.arange(1, _SHADES + 1)[:, None] / _SHADES
    mixed = [ground[None], *(ground + share * (np.array(to_rgb(c)) - ground) for c in colors)]
    return np.rint(255 * np.concatenate(mixed)).astype(np.uint8)


def _nearest(picture: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """For each pixel the index of the nearest colour; of equals the first."""
    weights = np.array([1 << 16, 1 << 8, 1])
    colors, places = np.unique(picture.astype(int) @ weights, return_inverse=True)
    rgb = colors[:, None] // weights % 256
    distance = ((rgb[:, None] - palette.astype(int)) ** 2).sum(axis=-1)
    return np.argmin(distance, axis=1).astype(np.uint8)[places].reshape(picture.shape[:2])
