"""How the pen moves: minimum-jerk strokes that overlap in time, sampled at a constant rate.

A movement is a polyline. Each of its segments is one ballistic stroke of the hand, whose speed is
the minimum-jerk bell; successive strokes overlap, so their velocities add:

    x(t) = x_0 + sum_i d_i m((t - t_i) / D_i),    m(u) = 10 u^3 - 15 u^4 + 6 u^5 on [0, 1].

The overlap rounds the corners and makes the pen slow in them; the pace of a segment follows the
two-thirds power law, speed ~ curvature^(-1/3), so tight curves are slow and long stems are fast.

References:
    Morasso and Mussa Ivaldi (1982), Trajectory formation and handwriting: a computational model.
    Flash and Hogan (1985), The coordination of arm movements, equation 3.
    Lacquaniti, Terzuolo and Viviani (1983), The law relating kinematic and figural aspects of
    drawing movements.
"""

import numpy as np
from jaxtyping import Bool, Float

# Added to the curvature: keeps the power law finite on a straight line.
_STRAIGHT = 0.3


def minimum_jerk(u: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """The minimum-jerk course from 0 to 1, constant outside `[0, 1]`."""
    u = np.clip(u, 0.0, 1.0)
    return u**3 * (10.0 + u * (6.0 * u - 15.0))


def pace(
    points: Float[np.ndarray, "P 2"], inside: Bool[np.ndarray, " P-1"]
) -> Float[np.ndarray, " P-1"]:
    """Speed of each segment of a polyline by the two-thirds power law.

    Args:
        points: `[P, 2]`, control points of one or more movements, in x-heights.
        inside: `[P - 1]`, whether a segment belongs to a movement (else the pen is up).

    Returns:
        `[P - 1]`, in x-heights per unit of time; 1 at curvature 0.7 per x-height.
    """
    step = np.diff(points, axis=0)
    length = np.hypot(step[:, 0], step[:, 1])
    heading = np.arctan2(step[:, 1], step[:, 0])
    turn = np.abs((np.diff(heading) + np.pi) % (2 * np.pi) - np.pi)
    corner = inside[1:] & inside[:-1]
    curvature = np.where(corner, 2 * turn / (length[1:] + length[:-1] + 1e-9), 0.0)
    curvature = np.concatenate([[0.0], curvature, [0.0]])
    corners = np.concatenate([[0.0], corner, [0.0]])
    mean = (curvature[1:] + curvature[:-1]) / np.maximum(corners[1:] + corners[:-1], 1.0)
    return (mean + _STRAIGHT) ** (-1 / 3)


def trace(
    rng: np.random.Generator,
    points: Float[np.ndarray, "P 2"],
    ends: Bool[np.ndarray, " P"],
    *,
    overlap: float,
    speed: float,
    period: float,
) -> tuple[Float[np.ndarray, "T 2"], Bool[np.ndarray, " T"]]:
    """Moves a pen along polylines and samples where it is.

    Args:
        rng: Draws the phase of the sensor's clock as each movement begins.
        points: `[P, 2]`, the control points of all movements, in x-heights.
        ends: `[P]`, whether the pen is lifted after the point.
        overlap: How long a stroke overlaps its neighbours, in units of time.
        speed: Multiplies the pace.
        period: Of the sensor, in units of time.

    Returns:
        Positions `[T, 2]` in x-heights and pen-up flags `[T]`. Every movement has two samples or
        more.
    """
    step = np.diff(points, axis=0)
    inside = ~ends[:-1]
    length = np.hypot(step[:, 0], step[:, 1])
    # Nobody sees the way through the air: the pen leaves the one end at rest, and finds the other.
    lead = np.where(inside, length / (speed * pace(points, inside)), overlap)
    lasts = np.where(inside, lead + overlap, overlap)
    before_lift = np.append(~inside[1:], False)
    start = np.cumsum(lead + before_lift * overlap)
    start = np.concatenate([[0.0], start[:-1]])

    # Touch-down and lift happen while the pen moves: its rest at either end goes unseen.
    opens = np.flatnonzero(np.concatenate([[True], ends[:-1]]))
    closes = np.flatnonzero(ends) - 1
    down = start[opens] + 0.25 * overlap
    up = start[closes] + lasts[closes] - 0.25 * overlap
    phase = rng.random(len(down))
    count = np.floor((up - down) / period - phase).astype(int) + 1
    brief = count < 2
    count = np.where(brief, 2, count)
    tick = np.where(brief, up - down, period)
    last = np.cumsum(count) - 1
    rank = np.arange(last[-1] + 1) - np.repeat(last + 1 - count, count)
    time = np.repeat(down + np.where(brief, 0.0, phase * period), count)
    time = time + rank * np.repeat(tick, count)
    pen_up = np.zeros(len(time), bool)
    pen_up[last] = True

    # Of the segments begun by time t only the latest few are still under way.
    few = int(np.max(np.searchsorted(start, start + lasts) - np.arange(len(start))))
    begun = np.searchsorted(start, time, side="right")
    recent = begun[:, None] - 1 - np.arange(few)
    progress = minimum_jerk((time[:, None] - start[recent]) / lasts[recent])
    progress = np.where(recent >= 0, progress, 0.0)
    where = points[np.maximum(begun - few, 0)]
    return where + np.einsum("tm,tmd->td", progress, step[recent]), pen_up


def shake(
    rng: np.random.Generator, num_samples: int, *, width: int = 7
) -> Float[np.ndarray, "T 2"]:
    """Draws a smooth tremor `[T, 2]` of unit variance, correlated over about `width` samples."""
    window = np.hanning(width + 2)[1:-1]
    white = rng.standard_normal((2, num_samples + width - 1))
    smooth = [np.convolve(row, window, mode="valid") for row in white]
    return np.stack(smooth, axis=1) / np.sqrt(np.sum(window**2))
