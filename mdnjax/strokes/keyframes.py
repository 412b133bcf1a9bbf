"""CSS that makes an SVG draw itself: no script, and a finished picture wherever it does not run.

Every piece of ink is a path of which a dash shows the part that is written (`pathLength="1"`,
`stroke-dasharray: 1`, a `stroke-dashoffset` that falls from 1 to 0), and the pen's tip is a circle
that a `transform` moves. All animations last as long as the whole, so that they repeat in step. The
rules stand inside `@media (prefers-reduced-motion: no-preference)`: who asks for less motion, and
whatever knows no CSS animations, gets the picture as it is without them, which is the finished one.
Inside an HTML `<img>` CSS animations run, scripts would not.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import quoteattr

import numpy as np
from jaxtyping import Float, Int

from mdnjax.strokes._decimals import shortest
from mdnjax.strokes.animation import TIP_RADIUS, Animation, follow, pen_times
from mdnjax.strokes.curves import Page, Piece

_PIECES = 8  # straight pieces that follow one Bézier
# How far from their place tip and ink's end may be at any time, in widths of the pen: together not
# much more than the tip's radius, so that it covers the end.
_TIP_TOLERANCE, _INK_TOLERANCE = 0.5, 0.75
_FADE = 0.3  # seconds in which the tip goes when all is written


class Motion(NamedTuple):
    """What an SVG needs to draw itself.

    Attributes:
        name: The class of the groups that hold ink and tips.
        style: The content of the `<style>`.
        ink: For each piece of ink, in writing order, the attributes of its path.
        tips: The elements of the pens' tips.
    """

    name: str
    style: list[str]
    ink: list[str]
    tips: list[str]


def set_in_motion(
    page: Page,
    ink: Sequence[Sequence[Piece]],
    animation: Animation,
    *,
    pen: float,
) -> Motion:
    """Writes the animation of a page.

    Args:
        page: The page.
        ink: Its pieces of ink, see `mdnjax.strokes.curves.ink`.
        animation: How it draws itself.
        pen: The pen's width.

    Returns:
        The rules and attributes.
    """
    times, seconds = pen_times(page, animation)
    total = seconds + animation.hold if animation.loop else seconds
    # Two drawings inlined into one HTML page must not share names.
    content = b"".join(stroke.tobytes() for line in page.lines for stroke in line)
    name = "pen" + hashlib.sha256(content + repr(animation).encode()).hexdigest()[:6]
    rules: list[str] = []
    attributes: list[str] = []
    courses: list[list[tuple[np.ndarray, np.ndarray]]] = []
    for line, clocks in zip(ink, times, strict=True):
        course: list[tuple[np.ndarray, np.ndarray]] = []
        for piece in line:
            points, at = follow(piece, clocks[piece.stroke], _PIECES)
            course.append((points, at))
            frames, dashed = _ink_frames(points, at / total, _INK_TOLERANCE * pen)
            rules.append(f"@keyframes {name}-{len(attributes)}{{{frames}}}")
            own = f'style="animation-name:{name}-{len(attributes)}"'
            attributes.append(f'pathLength="1" {own}' if dashed else own)
        courses.append(course)
    if not animation.together:  # one pen does it all
        courses = [[part for course in courses for part in course]]
    tips: list[str] = []
    for course in courses if animation.tip is not None else ():
        assert animation.tip is not None
        points = np.concatenate([points for points, _ in course])
        at = np.concatenate([at for _, at in course])
        frames = _tip_frames(points, at / total, pen, _FADE / total)
        rules.append(f"@keyframes {name}-tip{len(tips)}{{{frames}}}")
        tips.append(
            f'<circle r="{TIP_RADIUS * pen:.3g}" fill={quoteattr(animation.tip)} stroke="none" '
            f'opacity="0" style="animation-name:{name}-tip{len(tips)}"/>'
        )
    times_played = "infinite" if animation.loop else "1"
    style = [
        "@media (prefers-reduced-motion:no-preference){",
        f".{name} path,.{name} circle{{animation:{total:.6g}s linear {times_played}}}",
        f".{name} path[pathLength]{{stroke-dasharray:1}}",
        "}",
        *rules,
    ]
    return Motion(name, style, attributes, tips)


def knots(
    times: Float[np.ndarray, " n"], values: Float[np.ndarray, "n d"], tolerance: float
) -> Int[np.ndarray, " m"]:
    """The moments between which a movement can be taken as even.

    The rule of Ramer, Douglas and Peucker, in time: where the movement strays from the even one
    between two knots by more than the tolerance, the moment at which it strays most is a knot.

    Args:
        times: n >= 1 moments, not falling.
        values: Where it is at each.
        tolerance: How far it may be from there.

    Returns:
        The indices of the knots, the first and the last moment among them, rising.

    >>> import numpy as np
    >>> knots(np.arange(5.0), np.array([[0.0], [1.0], [2.0], [8.0], [14.0]]), 0.1).tolist()
    [0, 2, 4]
    """
    kept = {0, len(times) - 1}
    spans = [(0, len(times) - 1)]
    while spans:
        a, b = spans.pop()
        if b - a < 2:
            continue
        share = (times[a + 1 : b] - times[a]) / max(times[b] - times[a], 1e-30)
        even = values[a] + share[:, None] * (values[b] - values[a])
        strays = np.linalg.norm(values[a + 1 : b] - even, axis=1)
        worst = int(np.argmax(strays))
        if strays[worst] > tolerance:
            kept.add(a + 1 + worst)
            spans += [(a, a + 1 + worst), (a + 1 + worst, b)]
    return np.array(sorted(kept))


def _ink_frames(points: np.ndarray, at: np.ndarray, tolerance: float) -> tuple[str, bool]:
    """The keyframes of a piece of ink, and whether it is dashed: a mere touch is not."""
    along = np.cumsum([0.0, *np.hypot(*np.diff(points, axis=0).T)])
    start = _percent(at[0])
    begin = start if start == "0%" else f"0%,{start}"
    # Round caps would show a dash without length as a dot. Hidden ends, by the rules of CSS, as
    # soon as anything moves.
    if along[-1] == 0:
        return f"{begin}{{visibility:hidden}}", False
    chosen = knots(at, along[:, None], tolerance)
    frames = {_percent(float(at[i])): _number(1 - along[i] / along[-1], 4) for i in chosen[1:-1]}
    frames.pop(start, None)
    end = _percent(at[-1])
    frames.pop(end, None)
    inner = "".join(f"{when}{{stroke-dashoffset:{o}}}" for when, o in frames.items())
    last = end if end == "100%" else f"{end},to"
    return (
        f"{begin}{{visibility:hidden;stroke-dashoffset:1}}{inner}{last}{{stroke-dashoffset:0}}",
        True,
    )


def _tip_frames(points: np.ndarray, at: np.ndarray, pen: float, fade: float) -> str:
    """The keyframes of a pen's tip, which goes when all is written."""
    chosen = knots(at, points, _TIP_TOLERANCE * pen)
    decimals = max(0, math.ceil(-math.log10(pen / 4)))
    frames: dict[str, str] = {}
    for i in chosen:
        x, y = (_number(value, decimals) for value in points[i])
        frames[_percent(float(at[i]))] = f"transform:translate({x}px,{y}px)"
    first, last = _percent(at[0]), _percent(at[-1])
    if first != "0%":
        frames = {"0%": frames[first], **frames}
    frames["0%"] += ";opacity:1"
    if last != "100%":
        place = frames[last]
        frames[last] = f"{place};opacity:1"
        gone = _percent(min(1.0, float(at[-1]) + fade))
        frames[gone if gone == "100%" else f"{gone},to"] = f"{place};opacity:0"
    return "".join(f"{when}{{{what}}}" for when, what in frames.items())


def _percent(share: float) -> str:
    return f"{_number(100 * share, 3)}%"


def _number(value: float, decimals: int) -> str:
    """The shortest text of a number rounded to so many decimals."""
    return shortest(round(float(value) * 10**decimals), decimals)
