"""Calibration in one picture: where the targets fell, and how many a region of p per cent held."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Shaped

from mdnjax._checks import require
from mdnjax._types import Array, Key
from mdnjax.mixtures import GaussianMixture, crps, energy_score, log_prob
from mdnjax.mixtures.calibration import density_pit, pit, uniformity
from mdnjax.plotting import style

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

_BAND = 0.95  # of calibrated sets of targets lie inside a band from end to end
_KOLMOGOROV = 1.3581  # his distribution's quantile of that level
_AT_A_TIME = 2048  # targets, for each of which some hundred samples are drawn


class CalibrationReport(NamedTuple):
    """What `calibration_report` returns.

    Attributes:
        metrics: Numbers by name, ready for JSON: `count`; `nll` (nats) and `crps`, or
            `energy_score` (in the units of y), with their standard errors `nll_error`, ...;
            `uniformity` and `p_value`, Kolmogorov's and Smirnov's; `coverage`, a list of
            {level, share, standard_error}.
        figure: The histogram and the coverage curve.
    """

    metrics: dict[str, Any]
    figure: "matplotlib.figure.Figure"


def plot_calibration(
    u: Shaped[np.ndarray | Array, "..."] | Sequence[float],
    *,
    show: Literal["histogram", "coverage"] = "histogram",
    regions: Literal["central", "densest"] = "central",
    bins: int = 20,
    ax: "matplotlib.axes.Axes | None" = None,
) -> "matplotlib.axes.Axes":
    """Draws how calibrated predictions are, beside what chance does to calibrated ones.

    The histogram is level if they are; U-shaped if they are too narrow, a hump if too wide,
    sloping if biased (of `density_pit`: rising if too narrow, falling if too wide). The coverage
    curve then is the diagonal; below it if they are too narrow. Of calibrated sets as large, 95 in
    100 lie wholly in the grey band; what leaves it is drawn in another colour.

    Args:
        u: What `mdnjax.pit` or `mdnjax.mixtures.density_pit` gave, of any shape.
        show: Which of the two.
        regions: What they gave: `"central"` for `pit`, whose intervals leave as much on either
            side, `"densest"` for `density_pit`.
        bins: How many bars the histogram has.
        ax: Axes to draw into; by default those of a new figure.

    Returns:
        The axes.

    Raises:
        ImportError: Matplotlib is not installed.
        ValueError: No number, one outside [0, 1], or an option that is none of these.

    Example:
        >>> import numpy as np
        >>> from mdnjax import plotting
        >>> u = np.random.default_rng(0).uniform(size=1000)
        >>> ax = plotting.plot_calibration(u, show="coverage")
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('content of the central interval (%)', 'targets inside (%)')
    """
    name = "plot_calibration"
    values = np.asarray(u, dtype=np.float64).ravel()
    inside = len(values) > 0 and bool(((values >= 0) & (values <= 1)).all())
    require(inside, name, "u", "none or others", "one or more numbers in [0, 1]")
    require(show in ("histogram", "coverage"), name, "show", repr(show), "histogram or coverage")
    require(regions in _REGIONS, name, "regions", repr(regions), f"one of {tuple(_REGIONS)}")
    require(bins >= 2, name, "bins", bins, "at least 2")
    with style.house_style():
        ax = style.axes_or_new(ax)
        if show == "histogram":
            _draw_histogram(ax, values, bins)
            ax.set_xlabel(_REGIONS[regions].histogram)
        else:
            _draw_coverage(ax, np.abs(2 * values - 1) if regions == "central" else values)
            ax.set_xlabel(_REGIONS[regions].coverage)
    return ax


class _Words(NamedTuple):
    histogram: str
    coverage: str


_REGIONS = {
    "central": _Words("probability of less than the target", "content of the central interval (%)"),
    "densest": _Words(
        "probability of what is denser than the target", "content of the densest region (%)"
    ),
}


def _draw_histogram(ax: "matplotlib.axes.Axes", values: np.ndarray, bins: int) -> None:
    counts, edges = np.histogram(values, bins=bins, range=(0, 1))
    expected = len(values) / bins
    low, high = _count_band(len(values), bins)
    outside = (counts < low) | (counts > high)
    ax.axhspan(low / expected, high / expected, color=style.GRID, linewidth=0, zorder=0)
    ax.bar(
        edges[:-1],
        counts / expected,
        width=1 / bins,
        align="edge",
        color=[style.ORANGE if out else style.BLUE for out in outside],
        alpha=0.7,
        edgecolor="white",
        linewidth=0.8,
    )
    for edge in (low, high):  # of the band, over the bars
        ax.axhline(edge / expected, color=style.FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
    ax.axhline(1, color=style.TEXT, linewidth=0.9)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.1 * max(1.5, counts.max() / expected, high / expected))
    ax.set_ylabel("targets, relative to expected")


def _draw_coverage(ax: "matplotlib.axes.Axes", contents: np.ndarray) -> None:
    levels = np.linspace(0, 1, 201)
    share = np.searchsorted(np.sort(contents), levels, side="right") / len(contents)
    width = _curve_band(len(contents))
    low, high = np.clip(levels - width, 0, 1), np.clip(levels + width, 0, 1)
    ax.fill_between(100 * levels, 100 * low, 100 * high, color=style.GRID, linewidth=0)
    ax.plot([0, 100], [0, 100], color=style.TEXT, linewidth=0.9)
    ax.plot(100 * levels, 100 * share, color=style.BLUE, linewidth=1.8)
    outside = np.where((share < low) | (share > high), share, np.nan)
    ax.plot(100 * levels, 100 * outside, color=style.ORANGE, linewidth=1.8)
    ax.set(xlim=(0, 100), ylim=(0, 100))
    ax.set_xticks(range(0, 101, 20))
    ax.set_yticks(range(0, 101, 20))
    ax.set_ylabel("targets inside (%)")
    ax.text(97, 4, "grey: 95 in 100 calibrated\ncurves stay within", ha="right", fontsize=8)


def _count_band(n: int, bins: int) -> tuple[int, int]:
    """The counts between which all bars lie, by Bonferroni: each is binomial."""
    k, p = np.arange(n + 1), 1 / bins
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(k[1:]))])
    log_mass = log_factorial[-1] - log_factorial - log_factorial[::-1]
    below = np.cumsum(np.exp(log_mass + k * np.log(p) + k[::-1] * np.log1p(-p)))
    tail = (1 - _BAND) / (2 * bins)
    return int(np.searchsorted(below, tail)), int(np.searchsorted(below, 1 - tail))


def _curve_band(n: int) -> float:
    """How far from the diagonal a curve strays: Kolmogorov's quantile, as Stephens corrects it."""
    return _KOLMOGOROV / (np.sqrt(n) + 0.12 + 0.11 / np.sqrt(n))


def calibration_report(
    mix: GaussianMixture,
    y: Shaped[np.ndarray | Array, "*batch D"],
    *,
    key: Key | None = None,
    mask: Bool[np.ndarray | Array, "*batch"] | None = None,
    levels: Sequence[float] = (0.5, 0.8, 0.9, 0.95),
    bins: int = 20,
    unit: str = "",
) -> CalibrationReport:
    """Scores and calibration of predictions on a set of targets: numbers and a picture.

    For D = 1 by `crps`, `pit` and central intervals, exactly; beyond, by samples, with
    `energy_score`, `density_pit` and highest-density regions. Errors and bands take the targets for
    independent.

    Args:
        mix: One mixture for each target, or mixtures that broadcast with them.
        y: `[..., D]`, held-out targets.
        key: A random key, needed for D > 1.
        mask: `[...]`, True where there is a target and not padding; all by default.
        levels: Levels at which coverage is reported.
        bins: How many bars the histogram has.
        unit: The unit of y, for the picture.

    Returns:
        The `CalibrationReport`.

    Raises:
        ImportError: Matplotlib is not installed.
        ValueError: No target or fewer than two, a NaN among the scores, no key for D > 1, or
            shapes that do not fit.

    Example:
        >>> import jax
        >>> import mdnjax as mdn
        >>> from mdnjax import plotting
        >>> mix = mdn.GaussianMixture.isotropic([[-1.0], [1.0]], [0.1, 0.5])
        >>> y = mdn.sample(jax.random.key(0), mix, (1000,))
        >>> metrics, figure = plotting.calibration_report(mix, y)
        >>> metrics["p_value"] > 0.05
        True
    """
    name = "calibration_report"
    require(mix.dim == 1 or key is not None, name, "key", "None", "a random key for D > 1")
    mix, y = _listed(name, mix, jnp.asarray(y), mask)
    if mix.dim == 1:
        score_name, regions = "crps", "central"
        nll, score, u = _exact(mix, y)
    else:
        score_name, regions = "energy_score", "densest"
        assert key is not None
        nll, score, u = _sampled(mix, y, jax.random.split(key, len(y)))
    n = len(y)
    nll, score, u = (np.asarray(x, np.float64) for x in (nll, score, u))
    lost = int((~np.isfinite(nll + score + u)).sum())
    require(lost == 0, name, "mix, y", f"{lost} of {n} scores that are not", "of finite scores")
    test = uniformity(jnp.asarray(u, y.dtype))
    contents = np.abs(2 * u - 1) if regions == "central" else u
    metrics = {
        "count": n,
        "nll": float(nll.mean()),
        "nll_error": float(nll.std(ddof=1) / np.sqrt(n)),
        score_name: float(score.mean()),
        f"{score_name}_error": float(score.std(ddof=1) / np.sqrt(n)),
        "uniformity": float(test.statistic),
        "p_value": float(test.p_value),
        "coverage": [
            {
                "level": level,
                "share": float((contents <= level).mean()),
                "standard_error": float(np.sqrt(level * (1 - level) / n)),
            }
            for level in levels
        ],
    }

    figure = style.new_figure(8.0, 3.9)
    with style.house_style():
        figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.08)
        left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
        plot_calibration(u, bins=bins, regions=regions, ax=left)
        plot_calibration(u, show="coverage", regions=regions, ax=right)
        left.set_title("PIT histogram" if regions == "central" else "Density PIT histogram")
        right.set_title("Coverage")
        words = {"crps": "CRPS", "energy_score": "energy score"}
        parts = [
            f"{n:,} targets",
            f"nll {_with_error(nll)} nats",
            f"{words[score_name]} {_with_error(score)} {unit}".strip(),
            "uniform: " + _p_value(metrics["p_value"]),
        ]
        figure.suptitle("   \N{MIDDLE DOT}   ".join(parts), fontsize=9)
    return CalibrationReport(metrics, figure)


def _with_error(values: np.ndarray) -> str:
    """Mean and standard error, with two digits of the error."""
    mean, error = values.mean(), values.std(ddof=1) / np.sqrt(len(values))
    digits = max(0, 1 - int(np.floor(np.log10(error)))) if error > 0 else 3
    text = f"{mean:.{digits}f} \N{PLUS-MINUS SIGN} {error:.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def _p_value(p: float) -> str:
    return f"p = {p:.2g}" if p >= 1e-4 else "p < 0.0001"


def _listed(
    function: str, mix: GaussianMixture, y: Array, mask: Any
) -> tuple[GaussianMixture, Array]:
    """Mixtures and targets as lists of equal length, without padding."""
    batch = jnp.broadcast_shapes(mix.batch_shape, y.shape[:-1])
    kept = np.ones(batch, bool) if mask is None else np.broadcast_to(np.asarray(mask), batch)
    kept = np.flatnonzero(kept)
    require(len(kept) > 1, function, "y", f"{len(kept)} targets", "at least two")
    rank = len(mix.batch_shape)

    def listed(x: Array, event: tuple[int, ...]) -> Array:
        return jnp.broadcast_to(x, (*batch, *event)).reshape(-1, *event)[kept]

    return jax.tree.map(lambda x: listed(x, x.shape[rank:]), mix), listed(y, y.shape[-1:])


@jax.jit
def _exact(mix: GaussianMixture, y: Array) -> tuple[Array, Array, Array]:
    return -log_prob(mix, y), crps(mix, y), pit(mix, y)


@jax.jit
def _sampled(mix: GaussianMixture, y: Array, keys: Array) -> tuple[Array, Array, Array]:
    def one(item: tuple[GaussianMixture, Array, Array]) -> tuple[Array, Array, Array]:
        mix, y, key = item
        key_score, key_pit = jax.random.split(key)
        u = density_pit(key_pit, mix, y)
        return -log_prob(mix, y), energy_score(key_score, mix, y), u

    return jax.lax.map(one, (mix, y, keys), batch_size=_AT_A_TIME)
