"""The pen at work: when it is where, for drawings that draw themselves."""

import dataclasses
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float

from mdnjax._checks import require
from mdnjax.strokes.curves import Page, Piece, flatten

Clock: TypeAlias = tuple[tuple[np.ndarray, ...], ...]
"""For each line, for each of its strokes, the time of each of its points, `[n]`."""

_RATE = 100.0  # samples a second, about what pen sensors take
_LEAST = 3.0  # seconds: a drawing of few points can still be followed
_LONGEST_JUMP = 50.0  # samples

TIP_RADIUS = 1.6
"""Radius of the dot where the pen is, in widths of the pen."""


@dataclasses.dataclass(frozen=True)
class Animation:
    """How a drawing draws itself.

    A sensor samples at a constant rate, so from one point of a stroke to the next passes one unit
    of time. What the pen does in the air is not recorded: a jump takes as long as the pen usually
    needs for such a distance, but at least one unit and at most fifty.

    Attributes:
        seconds: How long all of it takes; by default a second for every hundred units of time,
            and at least three seconds.
        hold: Seconds for which the finished picture stays before all begins again.
        loop: Whether it begins again; else the finished picture stays for good.
        together: Whether all lines are written at the same time, each by its own pen, or one
            after the other.
        pace: "samples" as above. "length" for drawings whose points are no longer those of the
            sensor, as after simplification: the pen then moves at an even speed.
        tip: Colour of the dot where the pen is, as CSS writes it (for a GIF a name or #rrggbb), or
            None for no dot.

    Raises:
        ValueError: `seconds` is not positive, `hold` is negative, either is not finite, or
            `pace` is neither.
    """

    seconds: float | None = None
    hold: float = 2.0
    loop: bool = True
    together: bool = False
    pace: Literal["samples", "length"] = "samples"
    tip: str | None = "#d55e00"

    def __post_init__(self) -> None:
        name, seconds, hold = "Animation", self.seconds, self.hold
        positive = seconds is None or bool(np.isfinite(seconds) and seconds > 0)
        require(positive, name, "seconds", seconds, "positive and finite, or None")
        require(bool(np.isfinite(hold) and hold >= 0), name, "hold", hold, "finite and >= 0")
        known = self.pace in ("samples", "length")
        require(known, name, "pace", repr(self.pace), "'samples' or 'length'")


def pen_times(page: Page, animation: Animation) -> tuple[Clock, float]:
    """When the pen is at each point of a page.

    Args:
        page: The page.
        animation: How it draws itself.

    Returns:
        (the times, in seconds from 0, rising within a line; the seconds until all is written,
        without `hold`).

    >>> import numpy as np
    >>> from mdnjax.strokes import Strokes
    >>> from mdnjax.strokes.curves import set_page
    >>> offsets, pen_up = np.array([[0.0, 0], [2, 0], [6, 0], [2, 0]]), np.array([0.0, 1, 0, 1])
    >>> page = set_page(Strokes(offsets, pen_up, np.ones(4, bool)))
    >>> times, total = pen_times(page, Animation(seconds=10.0))
    >>> [stroke.tolist() for stroke in times[0]], total
    ([[0.0, 2.0], [8.0, 10.0]], 10.0)
    """
    usual = usual_step([stroke for line in page.lines for stroke in line])
    times: list[list[np.ndarray]] = []
    now, last, end = 0.0, None, 0.0
    for line in page.lines:
        if animation.together:
            now, last = 0.0, None
        times.append([])
        for stroke in line:
            if last is not None:
                distance = float(np.hypot(*(stroke[0] - last)))
                now += min(max(distance / usual, 1.0), _LONGEST_JUMP)
            steps = np.ones(len(stroke) - 1)
            if animation.pace == "length":
                steps = np.hypot(*np.diff(stroke, axis=0).T) / usual
            times[-1].append(now + np.cumsum([0.0, *steps]))
            now, last = float(times[-1][-1][-1]), stroke[-1]
        end = max(end, now)
    seconds = animation.seconds
    total = max(end / _RATE, _LEAST) if seconds is None else float(seconds)
    scale = total / end if end > 0 else 0.0
    return tuple(tuple(scale * stroke for stroke in line) for line in times), total


def follow(
    piece: Piece, times: Float[np.ndarray, " n"], pieces: int
) -> tuple[Float[np.ndarray, "m 2"], Float[np.ndarray, " m"]]:
    """Where the pen is along a piece of ink, and when.

    Between two points that the curve passes through the pen keeps its speed.

    Args:
        piece: The piece.
        times: When the pen is at each point of the piece's stroke.
        pieces: Into how many straight pieces each Bézier is cut.

    Returns:
        (points along the curve, the times at which the pen is there, rising).
    """
    points = flatten(piece.curve, pieces)
    along = np.cumsum(np.hypot(*np.diff(points, axis=0).T).reshape(-1, pieces), axis=1)
    length = along[:, -1:]
    share = np.divide(along, length, out=np.zeros_like(along), where=length > 0)
    at = times[piece.points]
    starts, ends = (at, at) if len(at) == 1 else (at[:-1], at[1:])
    inner = starts[:, None] + share * (ends - starts)[:, None]
    return points, np.concatenate([starts[:1], inner.ravel()])


def usual_step(strokes: Sequence[np.ndarray]) -> float:
    """Median distance of neighbouring points, those that stand still left out; 1 if all do."""
    steps = np.concatenate([np.hypot(*np.diff(s, axis=0).T) for s in strokes])
    steps = steps[steps > 0]
    return float(np.median(steps)) if len(steps) else 1.0
