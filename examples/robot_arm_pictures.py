"""The pictures of `robot_arm.py`: arms, maps of the error, and a path that is followed."""

import io
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mdnjax import datasets, plotting
from mdnjax.plotting.style import BLUE, FAINT, INK, ORANGE, TEXT, heat_colors, new_figure

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure
    import matplotlib.path

Solve = Callable[[np.ndarray], Any]  # positions [N, 2] -> their `Answers`

UNIT = "arm lengths"
LEAST, MOST = 1e-5, 0.2  # of the maps' colours, in arm lengths
WORKSPACE = (0.08, 1.0), (0.02, 0.97)  # holds every position within the joints' ranges
ONE, TWO = "#f0f1f3", "#dfe2e7"  # the shades of positions with one solution and with two
FRAMES, FRAME_SECONDS = 64, 0.06


def distance(angles: Any, position: np.ndarray) -> np.ndarray:
    """How far the hand ends from where it should be, `[...]`, in arm lengths."""
    return np.linalg.norm(datasets.arm_position(angles) - position, axis=-1)


def choices(answers: Any) -> dict[str, Any]:
    """Three ways to choose one answer: angles `[N, 2]`, by their names."""
    return {
        "least squares": answers.average,
        "most probable component": answers.likely,
        "global mode": answers.peaks.points[:, 0],  # the first is the highest
    }


def arms(solve: Solve) -> "matplotlib.figure.Figure":
    """Three goals, and the arm as least squares and as each mode would have it."""
    goals = np.array([polar(0.84, 0.8), polar(0.93, 0.53), polar(0.9, 1.13)])
    answers = solve(goals)
    with plotting.house_style():
        figure = new_figure(9.6, 3.9)
        for panel, (goal, bent) in enumerate(zip(goals, answers.average, strict=True)):
            ax = figure.add_axes((0.055 + 0.325 * panel, 0.125, 0.285, 0.7))
            set_up(ax, (-0.05, 1.05), (-0.05, 1.0))
            if panel:
                ax.set_ylabel("")
            draw_workspace(ax)
            draw_arm(ax, bent, FAINT, width=6, zorder=2)
            real = answers.peaks.is_mode[panel]
            inside = [a for a in answers.peaks.points[panel][real] if is_allowed(a)]
            for angles in inside:
                draw_arm(ax, angles, BLUE if angles[1] <= np.pi else ORANGE)
            ax.plot(*goal, "+", color=INK, markersize=13, markeredgewidth=1.4, zorder=5)
            text = {0: "no mode", 1: "one mode"}.get(len(inside), "two modes")
            misses = " and ".join(f"{distance(angles, goal):.4f}" for angles in inside)
            off = f"least squares: {distance(bent, goal):.4f} off"
            ax.set_title(f"{text}: {misses} off\n{off}" if inside else f"{text}\n{off}")
        names = {"elbow up": BLUE, "elbow down": ORANGE, "least squares": FAINT}
        name_colors(figure, names, (0.055, 0.135, 0.235))
        shades = "shaded: within the joints' ranges; darker: both elbow up and elbow down"
        figure.text(0.345, 0.95, f"+ goal     {shades}")
    return figure


def error_maps(solve: Solve) -> "matplotlib.figure.Figure":
    """Where each way to choose one answer goes wrong, and how much."""
    from matplotlib.colors import LogNorm
    from matplotlib.patches import PathPatch

    axes = [np.linspace(low, high, 320) for low, high in WORKSPACE]
    grid = np.stack(np.meshgrid(*axes), axis=-1)
    with plotting.house_style():
        one, two = workspaces()
        # A little more than the workspace, to which the map is then cut.
        here = np.abs(np.linalg.norm(grid, axis=-1) - 0.91) < 0.1
        figure = new_figure(9.6, 3.6)
        image = None
        for panel, (name, angles) in enumerate(choices(solve(grid[here])).items()):
            ax = figure.add_axes((0.055 + 0.29 * panel, 0.13, 0.26, 0.7))
            set_up(ax, *WORKSPACE)
            if panel:
                ax.set_ylabel("")
            error = np.full(grid.shape[:2], np.nan)
            error[here] = np.clip(distance(angles, grid[here]), LEAST, MOST)
            image = ax.pcolormesh(*axes, error, norm=LogNorm(LEAST, MOST), cmap=heat_colors())
            image.set_clip_path(one, ax.transData)
            for path in (one, two):  # and what clipping leaves at the edge is painted over
                ax.add_patch(PathPatch(path, facecolor="none", edgecolor="white", linewidth=1.1))
            ax.set_title(name)
        assert image is not None
        bar = figure.colorbar(image, cax=figure.add_axes((0.92, 0.13, 0.013, 0.7)))
        bar.set_label(f"from hand to goal / {UNIT}")
        lines = "both elbow up and elbow down are within the joints' ranges"
        figure.text(0.055, 0.945, f"between the white lines {lines}")
    return figure


def write_path_gif(path: pathlib.Path, solve: Solve) -> None:
    """Writes the animation of an arm that follows a path, at each step by the nearest mode."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    goals = figure_eight(FRAMES)
    answers = solve(goals)
    wrong, peaks = answers.average, answers.peaks
    bent = np.where(peaks.is_mode[0], peaks.points[0, :, 1], np.inf)
    elbow_up = peaks.points[0, np.argmin(bent)]
    chosen = follow(peaks.points, peaks.is_mode, elbow_up)
    with plotting.house_style():
        figure = new_figure(6.4, 3.8)
        names = {"the nearest mode": BLUE, "every mode": ORANGE, "least squares": FAINT}
        name_colors(figure, names, (0.08, 0.325, 0.5))
        room = figure.add_axes((0.08, 0.12, 0.52, 0.72))
        set_up(room, (-0.05, 1.02), (-0.05, 0.97))
        room.set_title("the hand, on the dotted path")
        draw_workspace(room)
        room.plot(*goals[[*range(FRAMES), 0]].T, ":", color=INK, linewidth=1)
        joints = figure.add_axes((0.7, 0.12, 0.28, 0.72))
        set_up_joints(joints)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        still = canvas.copy_from_bbox(figure.bbox)
        frames = []
        for k in range(FRAMES):
            for angles, color in ((wrong, FAINT), (chosen, BLUE)):
                draw_arm(room, angles[k], color)
                way = datasets.arm_position(angles[: k + 1])
                room.plot(*way.T, color=color, linewidth=1.8)
                joints.plot(*angles[: k + 1].T, color=color, linewidth=1.8)
                joints.plot(*angles[k], "o", color=color, markersize=6)
            room.plot(*goals[k], "+", color=INK, markersize=11, markeredgewidth=1.3)
            every = peaks.points[k][peaks.is_mode[k]]
            joints.plot(*every.T, "o", color=ORANGE, markersize=9, fillstyle="none")
            # Only what moves is drawn anew.
            canvas.restore_region(still)
            for ax, moving in ((room, room.lines[1:]), (joints, joints.lines[:])):
                for line in moving:
                    ax.draw_artist(line)
                    line.remove()
            frames.append(np.array(canvas.buffer_rgba())[..., :3])
    path.write_bytes(encode(frames))


def follow(points: np.ndarray, real: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Of the modes at each step the one nearest to the angles of the step before.

    Args:
        points: `[T, M, 2]`.
        real: `[T, M]`, whether it is a mode.
        start: `[2]`, the angles before the first step.

    Returns:
        `[T, 2]`; where a step has no mode, the arm stays as it is.
    """
    chosen = [start]
    for candidates, there in zip(points, real, strict=True):
        apart = np.where(there, np.linalg.norm(candidates - chosen[-1], axis=-1), np.inf)
        nearest = int(np.argmin(apart))
        chosen.append(candidates[nearest] if there[nearest] else chosen[-1])
    return np.array(chosen[1:])


def figure_eight(num: int) -> np.ndarray:
    """A closed path of `num` positions: elbow up, all of it is within the joints' ranges."""
    t = 2 * np.pi * np.arange(num) / num
    return polar(0.91 + 0.06 * np.sin(2 * t), 0.62 + 0.33 * np.sin(t))


def polar(radius: Any, direction: Any) -> np.ndarray:
    """Positions `[..., 2]`, by distance from the shoulder and direction in radians."""
    return np.stack([radius * np.cos(direction), radius * np.sin(direction)], axis=-1)


def is_allowed(angles: np.ndarray) -> bool:
    """Whether the joints can take these angles, but for what a network may be off."""
    low, high = np.array(datasets.ARM_RANGES).T
    return bool(np.all((low - 0.02 <= angles) & (angles <= high + 0.02)))


def workspaces() -> "list[matplotlib.path.Path]":
    """Outlines of where the hand can go, and of where it can go elbow up and elbow down."""
    from matplotlib.path import Path

    (low, high), (least, most) = datasets.ARM_RANGES
    upper, fore = datasets.ARM_LENGTHS
    # From the line to the hand to the first link, where the elbow is bent most.
    swing = np.arctan2(fore * np.sin(least), upper - fore * np.cos(least))
    up, down = np.linspace(least, np.pi, 60), np.linspace(np.pi, most, 60)

    def outline(*sides: tuple[Any, Any]) -> Path:
        angles = [np.stack(np.broadcast_arrays(*side), axis=-1) for side in sides]
        return Path(datasets.arm_position(np.concatenate(angles)))

    one = outline(
        (high, down),
        (np.linspace(high, low - 2 * swing, 120), most),
        (low, up),
        (np.linspace(low, high, 120), np.pi),
    )
    two = outline(
        (high, up),
        (np.linspace(high, low, 120), np.pi),
        (low, down),
        (np.linspace(low, high - 2 * swing, 120), most),
    )
    return [one, two]


def set_up(
    ax: "matplotlib.axes.Axes", across: tuple[float, float], up: tuple[float, float]
) -> None:
    """Axes of the plane in which the arm moves."""
    ax.set(xlim=across, ylim=up, aspect="equal", anchor="W")
    ax.set(xlabel=f"$x_1$ / {UNIT}", ylabel=f"$x_2$ / {UNIT}")


def set_up_joints(ax: "matplotlib.axes.Axes") -> None:
    """Axes of the joints' angles, as far as the joints go."""
    ax.set(xlim=datasets.ARM_RANGES[0], ylim=datasets.ARM_RANGES[1], title="the joints")
    ax.set(xlabel=r"$\theta_1$ (shoulder) / rad", ylabel=r"$\theta_2$ (inside the elbow) / rad")
    ax.set_yticks([np.pi / 2, np.pi, 3 * np.pi / 2], [r"$\pi/2$", r"$\pi$", r"$3\pi/2$"])


def name_colors(
    figure: "matplotlib.figure.Figure", names: Mapping[str, str], places: Sequence[float]
) -> None:
    """Writes names in their colours along the top of a figure."""
    for place, (name, color) in zip(places, names.items(), strict=True):
        figure.text(place, 0.95, name, color=color, weight="bold")


def draw_arm(
    ax: "matplotlib.axes.Axes",
    angles: np.ndarray,
    color: str,
    *,
    width: float = 3.2,
    zorder: float = 3,
) -> None:
    """Two links and two joints."""
    elbow = polar(datasets.ARM_LENGTHS[0], angles[0])
    joints = np.array([[0.0, 0.0], elbow, datasets.arm_position(angles)])
    ax.plot(*joints.T, color=color, linewidth=width, solid_joinstyle="round", zorder=zorder)
    ax.plot(
        *joints[:2].T,
        "o",
        color="white",
        markeredgecolor=color,
        markeredgewidth=1.6,
        markersize=6,
        zorder=zorder + 0.5,
    )


def draw_workspace(ax: "matplotlib.axes.Axes") -> None:
    """Shades where the hand can go, and darker where it can go both ways."""
    from matplotlib.patches import PathPatch

    for path, shade in zip(workspaces(), (ONE, TWO), strict=True):
        ax.add_patch(PathPatch(path, facecolor=shade, linewidth=0, zorder=0))


def encode(frames: list[np.ndarray]) -> bytes:
    """An animated GIF with one palette, so that what does not move does not flicker."""
    from matplotlib.colors import to_rgb
    from PIL import Image

    # The paper, the shades of the workspace, and eight steps from the paper to each colour.
    inks = np.array([to_rgb(color) for color in (BLUE, ORANGE, FAINT, TEXT)])
    steps = 1 - np.arange(1, 9)[:, None, None] / 8 * (1 - inks)
    colors = np.concatenate([[to_rgb("white"), to_rgb(ONE), to_rgb(TWO)], *steps])
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.rint(255 * colors).astype(np.uint8).tobytes())
    first, *others = [
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in frames
    ]
    buffer = io.BytesIO()
    first.save(
        buffer,
        "GIF",
        save_all=True,
        append_images=others,
        duration=round(1000 * FRAME_SECONDS),
        loop=0,
        optimize=True,
    )
    return buffer.getvalue()
