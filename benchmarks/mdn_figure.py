"""The figure of the loss's benchmarks: everybody's time beside ours, and how cost grows.

python benchmarks/mdn_figure.py rows.json [more.json ...] figure.png

draws what several runs of mdn_gradients.py have written, say one for each covariance.
"""

import json
import pathlib
import sys
from typing import TYPE_CHECKING, Any

import mdn_limits
import numpy as np
from mdn_race import BEST, COLUMNS, OURS, PLAIN

from mdnjax import plotting
from mdnjax.plotting import style

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

Row = dict[str, Any]

# Okabe and Ito's colours again. Ours is the line at 1, the limits are on its left.
GREEN, SKY, PINK, YELLOW = "#009e73", "#56b4e9", "#cc79a7", "#e69f00"
MARKS = {
    COLUMNS: (style.BLUE, "s"),
    PLAIN: (style.ORANGE, "o"),
    BEST: (GREEN, "o"),
    "numpyro": (PINK, "s"),
    "torch": (SKY, "D"),
    "torch, compiled": (SKY, "d"),
    "distrax": (YELLOW, "^"),
    "tfp": (style.FAINT, "v"),
    mdn_limits.COPY: (style.INK, "|"),
    mdn_limits.SUMMED: (style.INK, "x"),
}
COLORS = {OURS: style.BLUE, PLAIN: style.ORANGE, BEST: GREEN}
AXES = {"B": "examples, B", "K": "components, K", "D": "dimensions, D"}


def main() -> None:
    *sources, target = (pathlib.Path(argument) for argument in sys.argv[1:])
    rows = [row for source in sources for row in json.loads(source.read_text("utf-8"))["rows"]]
    plotting.save(figure(rows), target, dpi=150.0)


def figure(rows: list[Row]) -> "matplotlib.figure.Figure":
    """Above, times of value and gradient over ours (section "alone"); below, the sweeps.

    Raises:
        ValueError: There are rows of neither section, or mdnjax was not measured.
    """
    alone = [row for row in rows if row["section"] == "alone" and row["reference"] == OURS]
    swept = [row for row in rows if row["section"] == "sweep" and OURS in row["seconds"]]
    if not alone and not swept:
        raise ValueError('figure: rows: expected some of "alone" or "sweep" with mdnjax, got none.')
    top = max(0.27 * len(alone) + 0.7, 1.9) if alone else 0.0
    bottom = 2.9 if swept else 0.0
    with style.house_style():
        made = style.new_figure(8.0, top + bottom)
        made.set_layout_engine("constrained")
        parts = made.subfigures(
            len([h for h in (top, bottom) if h]),
            1,
            height_ratios=[h for h in (top, bottom) if h],
            squeeze=False,
        )[:, 0]
        if alone:
            _draw_alone(parts[0].subplots(), alone)
        if swept:
            _draw_sweeps(parts[-1].subplots(1, 3, sharey=True), swept)
    return made


def _draw_alone(ax: "matplotlib.axes.Axes", rows: list[Row]) -> None:
    for name, (color, marker) in MARKS.items():
        found = [
            (row["ratio"]["gradient"][name], -n)
            for n, row in enumerate(rows)
            if name in row["ratio"]["gradient"]
        ]
        if found:
            x, y = zip(*found, strict=True)
            ax.plot(x, y, linestyle="", marker=marker, color=color, markersize=5.5, label=name)
    ax.axvline(1, color=COLORS[OURS], linewidth=1.6, zorder=0, label=OURS)
    ax.set_xscale("log")
    ticks = [t for t in (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100) if _within(t, ax.get_xlim())]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.minorticks_off()
    ax.grid(axis="y")
    ax.set_axisbelow(True)
    kinds = [(row["covariance"], row["batch"], row["components"], row["dim"]) for row in rows]
    labels = [f"{kind}  ({b:,}, {k}, {d})" for kind, b, k, d in kinds]
    ax.set_yticks([-n for n in range(len(rows))], labels)
    ax.set_ylim(0.6 - len(rows), 0.6)
    ax.tick_params(axis="y", length=0)
    ax.set_title("Value and gradient, (B, K, D): times as long as mdnjax takes")
    ax.figure.legend(
        loc="outside right upper", frameon=False, fontsize=8, handletextpad=0.3, labelspacing=0.7
    )


def _within(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]


def _draw_sweeps(axes: Any, rows: list[Row]) -> None:
    covariance = rows[0]["covariance"]
    for ax, axis in zip(axes, "BKD", strict=True):
        points = [r for r in rows if r["axis"] == axis and r["covariance"] == covariance]
        where = {"B": "batch", "K": "components", "D": "dim"}
        x = [row[where[axis]] for row in points]
        for name in (PLAIN, BEST, OURS):
            times = [np.array(row["seconds"][name]) / row["batch"] for row in points]
            low, middle, high = 1e9 * np.array([np.quantile(t, (0.25, 0.5, 0.75)) for t in times]).T
            color = COLORS[name]
            ax.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
            ax.plot(x, middle, "o-", color=color, markersize=3, linewidth=1.4, label=name)
        ax.set_xscale("log")
        ax.set_yscale("log")
        _powers(ax, x)
        ax.grid(axis="y")
        ax.set_axisbelow(True)
        others = [f"{n} {points[0][where[n]]:,}" for n in "BKD" if n != axis]
        ax.set_xlabel(f"{AXES[axis]}   ({', '.join(others)})")
    axes[0].set_ylabel("ns an example")
    axes[0].set_title(f"How cost grows ({covariance})")
    axes[0].legend(frameon=False, fontsize=8, loc="upper right")


def _powers(ax: "matplotlib.axes.Axes", x: list[int]) -> None:
    """A tick at every second value that was measured, written short."""
    shown = x[:: 2 if len(x) > 4 else 1]
    ax.set_xticks(shown, [f"{v // 1024}k" if v % 1024 == 0 else f"{v}" for v in shown])
    ax.minorticks_off()
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


if __name__ == "__main__":
    main()
