"""How training went, beside what it has to beat."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from mdnjax._checks import require
from mdnjax.plotting import style

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

_AXES = {
    "points": ("points", 1.0, "training points seen"),
    "minutes": ("seconds", 1 / 60, "minutes of training"),
    "steps": ("step", 1.0, "training steps"),
}


def plot_learning_curve(
    records: Sequence[Mapping[str, Any]],
    *,
    ax: "matplotlib.axes.Axes | None" = None,
    baselines: Mapping[str, float] | None = None,
    against: Literal["points", "minutes", "steps"] = "points",
    smoothing: float = 0.05,
    unit: str = "nats per point",
) -> "matplotlib.axes.Axes":
    """Draws the negative log-likelihood in training and in validation, and levels to compare with.

    Names stand at the curves' ends, right of the axes, not in a legend. The first, steep part of
    the training curve is cut off where it would flatten all that follows.

    Args:
        records: Lines of metrics as `training.read_metrics` returns them: `nats` (training) and
            `valid` (validation) may be missing or None; the axis needs `points`, `seconds` or
            `step`.
        ax: Axes to draw into, with room for names at their right; by default those of a new
            figure (`learning_curve` makes one of any size).
        baselines: Name and level of each baseline, in the same unit.
        against: What the horizontal axis counts.
        smoothing: Share of the run over which the training curve is smoothed; 0 for not at all.
        unit: What the vertical axis is called.

    Returns:
        The axes.

    Raises:
        ImportError: Matplotlib is not installed.
        ValueError: No training or validation value in any record, or an option out of range.

    >>> records = [{"points": 1e4, "nats": 2.0, "valid": 1.8}, {"points": 2e4, "nats": 1.5}]
    >>> ax = plot_learning_curve(records, baselines={"static Gaussian": 2.5})
    >>> [text.get_text() for text in ax.texts]
    ['training: 1.50', 'validation: 1.80', 'static Gaussian: 2.50']
    """
    curves = _read("plot_learning_curve", records, baselines, against, smoothing)
    with style.house_style():
        if ax is None:
            ax = _axes_with_room("plot_learning_curve", curves, 8.0, 4.2)
        return _draw(ax, curves, unit)


def learning_curve(
    records: Sequence[Mapping[str, Any]],
    *,
    baselines: Mapping[str, float] | None = None,
    against: Literal["points", "minutes", "steps"] = "points",
    smoothing: float = 0.05,
    unit: str = "nats per point",
    width: float = 8.0,
    height: float = 4.2,
) -> "matplotlib.figure.Figure":
    """A figure of a size of one's own, with `plot_learning_curve` in it.

    Args:
        records: As for `plot_learning_curve`, like all that has the same name there.
        baselines: Name and level of each baseline, in the same unit.
        against: What the horizontal axis counts.
        smoothing: Share of the run over which the training curve is smoothed; 0 for not at all.
        unit: What the vertical axis is called.
        width: Width of the figure in inches.
        height: Height of the figure in inches.

    Returns:
        The figure; `save(figure, path)` writes it.

    Raises:
        ImportError: Matplotlib is not installed.
        ValueError: No training or validation value in any record, or an option out of range.

    >>> records = [{"points": 1e4, "nats": 2.0, "valid": 1.8}, {"points": 2e4, "nats": 1.5}]
    >>> figure = learning_curve(records, baselines={"static Gaussian": 2.5})
    >>> figure.axes[0].get_ylabel()
    'nats per point'
    """
    curves = _read("learning_curve", records, baselines, against, smoothing)
    with style.house_style():
        ax = _axes_with_room("learning_curve", curves, width, height)
        figure = _draw(ax, curves, unit).get_figure(root=True)
    assert figure is not None
    return figure


class _Curves(NamedTuple):
    """What a learning curve shows.

    Attributes:
        train: `[n, 2]`, place on the horizontal axis and nats.
        smooth: `[n]`, the training curve, smoothed.
        valid: `[m, 2]`.
        levels: Name and level of each baseline.
        against: What the horizontal axis counts.
    """

    train: np.ndarray
    smooth: np.ndarray
    valid: np.ndarray
    levels: dict[str, float]
    against: str

    def ends(self) -> list[tuple[float, str, str]]:
        """Level, name and colour of what ends at the right."""
        ends = [(y, _ending(title, y), style.TEXT) for title, y in self.levels.items()]
        if len(self.train):
            ends.append((self.smooth[-1], _ending("training", self.smooth[-1]), style.BLUE))
        if len(self.valid):
            last = self.valid[-1, 1]
            ends.append((last, _ending("validation", last), style.ORANGE))
        return ends


def _read(
    function: str,
    records: Sequence[Mapping[str, Any]],
    baselines: Mapping[str, float] | None,
    against: str,
    smoothing: float,
) -> _Curves:
    """The curves in lines of metrics, checked."""
    require(against in _AXES, function, "against", repr(against), f"one of {tuple(_AXES)}")
    require(0 <= smoothing < 1, function, "smoothing", smoothing, "at least 0 and below 1")
    key, factor, _ = _AXES[against]
    train, valid = _series(records, key, "nats", factor), _series(records, key, "valid", factor)
    some = len(train) + len(valid) > 0
    require(some, function, "records", f"{len(records)}", f"records with {key!r} and nats or valid")
    levels = dict(baselines or {})
    for level in levels.values():
        require(bool(np.isfinite(level)), function, "baselines", level, "finite")
    return _Curves(train, _smooth(train[:, 1], smoothing), valid, levels, against)


def _axes_with_room(
    function: str, curves: _Curves, width: float, height: float
) -> "matplotlib.axes.Axes":
    """Axes in a new figure, with room for the names at their right."""
    figure = style.new_figure(width, height)
    left, foot, head = 0.7, 0.55, 0.25  # inches
    right = 0.3 + max(_inches(title) for _, title, _ in curves.ends())
    require(width > left + right + 1, function, "width", width, f"over {left + right + 1:.1f}")
    return figure.add_axes(
        (left / width, foot / height, 1 - (left + right) / width, 1 - (foot + head) / height)
    )


def _draw(ax: "matplotlib.axes.Axes", curves: _Curves, unit: str) -> "matplotlib.axes.Axes":
    """Draws the curves, and names them."""
    train, smooth, valid, levels, against = curves
    for level in levels.values():
        ax.axhline(level, color=style.FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    alone = {"marker": "o", "markersize": 3.5} if len(train) == 1 else {}
    ax.plot(train[:, 0], train[:, 1], color=style.BLUE, alpha=0.25, linewidth=0.8)
    ax.plot(train[:, 0], smooth, color=style.BLUE, linewidth=1.6, **alone)
    ax.plot(
        valid[:, 0],
        valid[:, 1],
        "o-",
        color=style.ORANGE,
        markersize=3.5,
        markeredgewidth=0,
        linewidth=0.9,
        clip_on=False,
        zorder=3,
    )

    low, high = _limits(train, valid, list(levels.values()))
    ax.set_ylim(low, high)
    ax.set_xlim(0, max(float(series[-1, 0]) for series in (train, valid) if len(series)))
    ax.grid(axis="y")
    ax.set_axisbelow(True)
    ax.set_xlabel(_AXES[against][2])
    ax.set_ylabel(unit)
    if against != "minutes":
        _short_numbers(ax)
    _name_the_ends(ax, curves.ends())
    return ax


def _series(
    records: Sequence[Mapping[str, Any]], key: str, value: str, factor: float
) -> np.ndarray:
    """The records that have both keys, and finite numbers there, as `[n, 2]`."""
    pairs = [(r.get(key), r.get(value)) for r in records]
    found = [(x * factor, y) for x, y in pairs if x is not None and y is not None]
    series = np.array(found, dtype=np.float64).reshape(-1, 2)
    return series[np.isfinite(series).all(axis=1)]


def _smooth(values: np.ndarray, share: float) -> np.ndarray:
    """Mean over a window of a share of the run.

    Towards the steep start the window shrinks and stays centred; at the end, where the curve is
    level and its last value is quoted, it loses its right side only.
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    here = np.arange(len(values))
    reach = np.minimum(round(0.5 * share * len(values)), here)
    stop = np.minimum(here + reach + 1, len(values))
    return (sums[stop] - sums[here - reach]) / (stop - here + reach)


def _ending(title: str, level: float) -> str:
    """A name and its level, with a minus sign as wide as a plus."""
    return f"{title}: {level:.2f}".replace(" -", " \N{MINUS SIGN}")


def _inches(text: str) -> float:
    """How wide a text is in the house style's type."""
    import matplotlib
    from matplotlib.textpath import TextPath

    return (
        float(TextPath((0, 0), text, size=matplotlib.rcParams["font.size"]).get_extents().x1) / 72
    )


def _limits(train: np.ndarray, valid: np.ndarray, levels: list[float]) -> tuple[float, float]:
    """Limits that show all levels and validations, and all but the steepest of the training."""
    settled = train[len(train) // 50 :, 1]
    values = np.concatenate(
        [valid[:, 1], levels, np.quantile(settled, [0.002, 0.99]) if len(settled) else []]
    )
    low, high = float(values.min()), float(values.max())
    pad = 0.06 * (high - low) or 0.5
    return low - pad, high + pad


def _short_numbers(ax: "matplotlib.axes.Axes") -> None:
    """Writes 2M for 2000000 along the horizontal axis."""
    from matplotlib.ticker import EngFormatter

    ax.xaxis.set_major_formatter(EngFormatter(sep=""))


def _name_the_ends(ax: "matplotlib.axes.Axes", ends: list[tuple[float, str, str]]) -> None:
    """Writes each name at the right of its level, moved apart where names would overlap."""
    low, high = ax.get_ylim()
    figure = ax.get_figure(root=True)
    assert figure is not None
    inches = figure.get_size_inches()
    place = ax.get_position()
    row = 12 / 72 / (place.height * inches[1])
    step = 0.1 / (place.width * inches[0])
    ends = sorted(ends)
    true = [(level - low) / (high - low) for level, _, _ in ends]
    put = list(true)
    for i in range(1, len(put)):
        put[i] = max(put[i], put[i - 1] + row)
    ceiling = 1.0
    for i in reversed(range(len(put))):  # what was pushed above the top comes down again
        put[i] = min(put[i], ceiling)
        ceiling = put[i] - row
    for there, here, (_, title, color) in zip(true, put, ends, strict=True):
        ax.plot(
            [1, 1 + step],
            [there, here],
            color=color,
            linewidth=0.7,
            transform=ax.transAxes,
            clip_on=False,
        )
        ax.text(
            1 + 1.4 * step,
            here,
            title,
            color=color,
            va="center",
            transform=ax.transAxes,
        )
