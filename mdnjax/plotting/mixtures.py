"""Pictures of mixtures: their density, their components, their modes.

Each function draws one of three pictures, by what it is given:

- mixtures of one number t, one at each of N `inputs` x: the plane of x and t;
- one mixture of one number: its density as a curve;
- one mixture of two numbers: their plane.

The same axes take all three functions, one over the other. (More dimensions: `mdnjax.marginal` or
`mdnjax.condition` first.)
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float, Shaped

from mdnjax._checks import require
from mdnjax._types import Array
from mdnjax.mixtures import GaussianMixture, Modes, log_prob
from mdnjax.plotting import style

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.cm

_REACH = 3.5  # standard deviations that a picture shows around each component
_LIGHT = 0.01  # a component of less weight does not widen the picture
_CELLS = 100  # of the grid on which a density is drawn, in each direction

_Kind = Literal["inputs", "curve", "plane"]
Inputs = Shaped[np.ndarray | Array, " N"] | Shaped[np.ndarray | Array, "N 1"] | Sequence[float]


def plot_density(
    mix: GaussianMixture,
    inputs: Inputs | None = None,
    *,
    ax: "matplotlib.axes.Axes | None" = None,
    span: tuple[float, float] | Sequence[tuple[float, float]] | None = None,
    levels: Sequence[float] | None = None,
    color_bar: "bool | matplotlib.axes.Axes" = True,
    labels: tuple[str, str] | None = None,
    density_label: str = "density",
) -> "matplotlib.axes.Axes":
    """Draws the density: filled contours in a plane, or a curve.

    By default eight contours at powers of two: each at half the density of the next one inside.

    Args:
        mix: Mixtures of one number, one for each input; or one mixture of one or two numbers.
        inputs: The x of each mixture, rising; None for one mixture alone.
        ax: Axes to draw into; by default those of a new figure.
        span: From where to where the target is shown, for two numbers a pair of each; by default
            what holds all but the tails.
        levels: Densities to draw contours at, rising.
        color_bar: Whether a scale of the colours stands beside a plane; or the axes it goes into.
        labels: What the axes are called, with units; by default x and t, t, or t1 and t2.
        density_label: What the density is called, with its unit.

    Returns:
        The axes.

    Raises:
        ImportError: Matplotlib is not installed.
        ValueError: A mixture of more dimensions, inputs that do not rise or do not fit the batch
            of mixtures, or a parameter that is not finite.

    Example:
        >>> import mdnjax as mdn
        >>> from mdnjax import plotting
        >>> mix = mdn.GaussianMixture.isotropic([[-1.0], [1.0]], [0.3, 0.5], weights=[0.3, 0.7])
        >>> ax = plotting.plot_density(mix)
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('t', 'density')
    """
    name = "plot_density"
    kind, x = _checked(name, mix.dim, mix.batch_shape, inputs)
    ranges = _ranges(name, mix, span)
    grids = [np.linspace(low, high, _CELLS + 1) for low, high in ranges]
    if kind == "curve":
        density = np.exp(log_prob(mix, grids[0][:, None]))
        with style.house_style():
            ax = style.axes_or_new(ax)
            ax.fill_between(grids[0], density, color=style.INK, alpha=0.1, linewidth=0)
            ax.plot(grids[0], density, color=style.INK)
            ax.set_xlim(*ranges[0])
            ax.set_ylim(bottom=0)
            _name_axes(ax, labels or ("t", density_label))
        return ax
    if kind == "inputs":
        across, up = x, grids[0]
        log_density = log_prob(mix, up[:, None, None])  # [rows, N]
    else:
        across, up = grids
        log_density = log_prob(mix, np.stack(np.meshgrid(across, up), axis=-1))
    log_density = np.asarray(log_density, np.float64)
    highest = np.floor(log_density.max() / np.log(2) - 0.1)
    steps = 2.0 ** (highest + np.arange(-7, 1)) if levels is None else np.asarray(levels, float)
    with style.house_style():
        ax = style.axes_or_new(ax)
        shown = _contours(ax, across, up, log_density, steps)
        if color_bar:
            place = None if color_bar is True else color_bar
            _add_scale(ax, shown, steps, place, density_label)
        ax.set_xlim(across[0], across[-1])
        ax.set_ylim(up[0], up[-1])
        _name_axes(ax, labels or _NAMES[kind])
    return ax


def plot_components(
    mix: GaussianMixture,
    inputs: Inputs | None = None,
    *,
    ax: "matplotlib.axes.Axes | None" = None,
    show: Literal["means", "weights"] = "means",
    least: float = 0.05,
    labels: tuple[str, str] | None = None,
) -> "matplotlib.axes.Axes":
    """Draws every component in a colour of its own: its mean and scale, or its weight.

    Over inputs: the mean as a line inside a band of one standard deviation, strong where the
    component has a weight of at least `least` and a thread elsewhere; or the weight. Alone: each
    weighted component's curve; or, of two numbers, the ellipse of one standard deviation, as
    heavily drawn as the component weighs.

    Args:
        mix: Mixtures of one number, one for each input; or one mixture of one or two numbers.
        inputs: The x of each mixture, rising; None for one mixture alone.
        ax: Axes to draw into; by default those of a new figure.
        show: `"means"`, or, over inputs, `"weights"`.
        least: The weight from which a component is drawn strongly, over inputs.
        labels: What the axes are called, with units.

    Returns:
        The axes; the lines are labelled with the components' numbers, for a legend.

    Raises:
        ImportError: Matplotlib is not installed.
        ValueError: As for `plot_density`, or an option out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> import mdnjax as mdn
        >>> from mdnjax import plotting
        >>> head = mdn.GaussianHead(num_components=3, dim=1)
        >>> mix = head.mixture(jnp.linspace(-1, 1, 5 * 9).reshape(5, 9))
        >>> ax = plotting.plot_components(mix, jnp.arange(5.0), show="weights")
        >>> [line.get_label() for line in ax.lines]
        ['1', '2', '3']

    References:
        C. M. Bishop. "Pattern Recognition and Machine Learning." 2006, figure 5.21 (a) and (b).
    """
    name = "plot_components"
    kind, x = _checked(name, mix.dim, mix.batch_shape, inputs)
    shows = ("means", "weights") if kind == "inputs" else ("means",)
    require(show in shows, name, "show", repr(show), f"one of {shows} for such a mixture")
    require(0 <= least <= 1, name, "least", least, "from 0 to 1")
    ranges = _ranges(name, mix, None)
    weights, loc = np.asarray(mix.weights), np.asarray(mix.loc)
    covariances = np.asarray(mix.component_covariances)
    with style.house_style():
        ax = style.axes_or_new(ax)
        for k in range(mix.num_components):
            look: dict[str, Any] = {"color": style.COLORS[k % len(style.COLORS)]}
            look["linestyle"] = style.DASHES[k // len(style.COLORS) % len(style.DASHES)]
            label = str(k + 1)
            if kind == "inputs" and show == "weights":
                ax.plot(x, weights[:, k], label=label, **look)
            elif kind == "inputs":
                strong = weights[:, k] >= least
                mean, scale = loc[:, k, 0], np.sqrt(covariances[:, k, 0, 0])
                ax.plot(x, mean, linewidth=0.6, alpha=0.6, **look)
                ax.plot(x, np.where(strong, mean, np.nan), linewidth=1.8, label=label, **look)
                ax.fill_between(
                    x,
                    mean - scale,
                    mean + scale,
                    where=strong.tolist(),
                    color=look["color"],
                    alpha=0.18,
                    linewidth=0,
                )
            elif kind == "curve":
                t = np.linspace(*ranges[0], _CELLS + 1)
                component = GaussianMixture.full(loc[k : k + 1], covariances[k : k + 1])
                curve = weights[k] * np.exp(log_prob(component, t[:, None]))
                ax.plot(t, curve, linewidth=1.0, label=label, **look)
            else:
                ring = _ellipse(loc[k], covariances[k])
                ax.plot(*ring, linewidth=0.6 + 2.4 * weights[k], label=label, **look)
                ax.plot(*loc[k], "+", color=look["color"], markersize=5)
        if kind == "inputs":
            ax.set_xlim(x[0], x[-1])
            ax.set_ylim(*((0, 1) if show == "weights" else ranges[0]))
        given = ("x", "mixing coefficient") if show == "weights" else _NAMES[kind]
        _name_axes(ax, labels or given)
    return ax


def plot_modes(
    modes: Modes,
    inputs: Inputs | None = None,
    *,
    ax: "matplotlib.axes.Axes | None" = None,
    color: str = style.ORANGE,
    size: float = 3.0,
    least: float = 0.0,
    labels: tuple[str, str] | None = None,
) -> "matplotlib.axes.Axes":
    """Draws modes that `mdnjax.modes` found: the highest as full dots, all others as rings.

    Args:
        modes: Of mixtures of one number, one for each input; or of one mixture of one or two
            numbers. Only certified ones are drawn.
        inputs: The x of each mixture, rising; None for one mixture alone.
        ax: Axes to draw into; by default those of a new figure.
        color: Of the dots.
        size: Their diameter in points.
        least: The share of the highest mode's density from which another mode is drawn.
        labels: What the axes are called, with units.

    Returns:
        The axes; dots and rings are labelled, for a legend.

    Raises:
        ImportError: Matplotlib is not installed.
        ValueError: Points of more dimensions, or inputs that do not rise or do not fit the batch.

    Example:
        >>> import mdnjax as mdn
        >>> from mdnjax import plotting
        >>> mix = mdn.GaussianMixture.isotropic([[-1.0], [1.0]], [0.3, 0.5], weights=[0.3, 0.7])
        >>> ax = plotting.plot_modes(mdn.modes(mix), ax=plotting.plot_density(mix))
        >>> [line.get_label() for line in ax.lines[1:]]
        ['other modes', 'global mode']
    """
    require(0 <= least <= 1, "plot_modes", "least", least, "from 0 to 1")
    points, log_density = np.asarray(modes.points), np.asarray(modes.log_density)
    is_mode = np.asarray(modes.is_mode) & (np.exp(log_density - log_density[..., :1]) >= least)
    kind, x = _checked("plot_modes", points.shape[-1], points.shape[:-2], inputs)
    if kind == "inputs":
        across, up = np.broadcast_to(x[:, None], is_mode.shape), points[..., 0]
    elif kind == "curve":
        across, up = points[..., 0], np.exp(log_density)
    else:
        across, up = points[..., 0], points[..., 1]
    first = np.arange(is_mode.shape[-1]) == 0
    with style.house_style():
        ax = style.axes_or_new(ax)
        for chosen, label, fill in (
            (is_mode & ~first, "other modes", "white"),
            (is_mode & first, "global mode", color),
        ):
            ax.plot(
                across[chosen],
                up[chosen],
                "o",
                label=label,
                color=color,
                markersize=size,
                markerfacecolor=fill,
                markeredgewidth=0.7,
                zorder=3,
            )
        given = ("t", "density") if kind == "curve" else _NAMES[kind]
        _name_axes(ax, labels or given)
    return ax


_NAMES = {"inputs": ("x", "t"), "curve": ("t", "density"), "plane": ("t1", "t2")}


def _checked(
    function: str, dim: int, batch_shape: tuple[int, ...], inputs: Inputs | None
) -> tuple[_Kind, np.ndarray]:
    """Which picture this is, and the inputs `[N]` (none but for `"inputs"`)."""
    if inputs is None:
        single = f"D = {dim}, batch shape {batch_shape}"
        expected = "one mixture of D = 1 or 2 (or, with inputs, a batch of D = 1)"
        require(batch_shape == () and dim in (1, 2), function, "mix", single, expected)
        return ("curve" if dim == 1 else "plane"), np.empty(0)
    x = np.asarray(inputs, np.float64)
    shape = x.shape
    x = x[:, 0] if x.ndim == 2 and shape[1] == 1 else x
    require(dim == 1, function, "mix", f"D = {dim}", "of D = 1 where there are inputs")
    expected = f"[N] or [N, 1] beside mixtures of batch shape {batch_shape}"
    require(x.ndim == 1 and x.shape == batch_shape, function, "inputs", f"shape {shape}", expected)
    rising = len(x) >= 2 and np.isfinite(x).all() and (np.diff(x) > 0).all()
    require(bool(rising), function, "inputs", f"{len(x)} values", "two or more, finite and rising")
    return "inputs", x


def _ranges(function: str, mix: GaussianMixture, span: Any) -> list[tuple[float, float]]:
    """From where to where each dimension is shown: `span`, or what holds the components."""
    weights, loc = np.asarray(mix.weights), np.asarray(mix.loc, np.float64)
    variances = np.diagonal(np.asarray(mix.component_covariances), axis1=-2, axis2=-1)
    finite = all(np.isfinite(a).all() for a in (weights, loc, variances))
    require(finite, function, "mix", "a NaN or an infinity", "of finite parameters")
    if span is not None:
        pairs = np.asarray(span, np.float64).reshape(-1, 2)
        fine = len(pairs) == mix.dim and np.isfinite(pairs).all() and (np.diff(pairs) > 0).all()
        expected = f"(low, high) for each of {mix.dim} dimensions"
        require(bool(fine), function, "span", span, expected)
        return [(float(low), float(high)) for low, high in pairs]
    heavy = weights >= min(_LIGHT, weights.max())
    reach = _REACH * np.sqrt(variances)
    return [
        (
            float((loc - reach)[..., d][heavy].min()),
            float((loc + reach)[..., d][heavy].max()),
        )
        for d in range(mix.dim)
    ]


def _contours(
    ax: "matplotlib.axes.Axes",
    across: np.ndarray,
    up: np.ndarray,
    log_density: Float[np.ndarray, "rows columns"],
    levels: np.ndarray,
) -> "matplotlib.cm.ScalarMappable":
    """Filled contours, light to dark, one over the other: no seams, and every line only once."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm

    colors = style.density_colors(len(levels))
    # Logarithms: between the points of the grid they are all but quadratic, whatever the tails.
    above = max(np.log(levels[-1]), log_density.max()) + 1
    for n, level in enumerate(np.log(levels)):
        ax.contourf(across, up, log_density, levels=[level, above], colors=[colors(n)])
    edges = np.append(levels, 2 * levels[-1])
    return ScalarMappable(BoundaryNorm(edges, colors.N), colors)


def _add_scale(
    ax: "matplotlib.axes.Axes",
    shown: "matplotlib.cm.ScalarMappable",
    levels: np.ndarray,
    place: "matplotlib.axes.Axes | None",
    label: str,
) -> None:
    """The scale of the colours: beside the axes, or in a place of its own, lying if it is wide."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    where: dict[str, Any] = {"ax": ax, "fraction": 0.05, "pad": 0.03}
    if place is not None:
        box = place.get_window_extent()
        lying = box.width > box.height
        where = {"cax": place, "orientation": "horizontal" if lying else "vertical"}
    scale = figure.colorbar(shown, spacing="uniform", **where)
    scale.outline.set_visible(False)
    ticks = levels[::-2]
    scale.set_ticks(ticks.tolist(), labels=[f"{tick:.3g}" for tick in ticks])
    scale.set_label(label, fontsize=8)
    scale.ax.tick_params(labelsize=7, length=2)
    scale.ax.minorticks_off()


def _ellipse(centre: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """`[2, points]`: the ellipse of one standard deviation."""
    variances, axes = np.linalg.eigh(covariance)
    angle = np.linspace(0, 2 * np.pi, 73)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    return centre[:, None] + axes @ (np.sqrt(np.maximum(variances, 0))[:, None] * circle)


def _name_axes(ax: "matplotlib.axes.Axes", labels: tuple[str, str]) -> None:
    """Names the axes."""
    ax.set_xlabel(labels[0])
    ax.set_ylabel(labels[1])
