r"""What a network expects, drawn where it is expected: the heat maps of Graves' figures 10 to 12.

At every point of a line the network predicts the density of the *next* offset. Put at the point
itself, $p_t(y - x_t)$ is a density over the page, and the sum over the line,
$\sum_t p_t(y - x_t)$, shows the whole story in one picture: a fine thread where the next point
is all but certain, wide blobs where a stroke ends and the pen may go anywhere.

References:
    A. Graves, Generating sequences with recurrent neural networks, 2013, figures 10 to 12.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from mdnjax._checks import require
from mdnjax._types import Array
from mdnjax.plotting import style
from mdnjax.plotting.strokes import draw_ink
from mdnjax.strokes.curves import set_page
from mdnjax.strokes.structure import Strokes

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure
    from matplotlib.image import AxesImage

_REACH = 5.0  # standard deviations: what lies beyond is 4e-6 of a Gaussian's mass in the plane
_DROPPED = 1e-4  # of a step's mass, in its lightest components
_RESOLUTION = 180  # cells an inch
_WIDE = 2.5  # a page this much wider than high is a line of writing; stacked, it fills a square
_PEN = 0.01  # of the width of a drawing's panel
_FINE = 8.0  # pixels a standard deviation: linear interpolation then errs by 0.2 % of the peak


def offset_density(
    positions: Float[np.ndarray | Array, "T 2"],
    log_weights: Float[np.ndarray | Array, "T K"],
    loc: Float[np.ndarray | Array, "T K 2"],
    covariances: Float[np.ndarray | Array, "T K 2 2"],
    x: Float[np.ndarray, " W"],
    y: Float[np.ndarray, " H"],
    *,
    blur: float = 0.0,
) -> Float[np.ndarray, "H W"]:
    r"""The predicted densities of all steps, each put at its own position, summed on a grid.

    $$ d(p) = \sum_t \sum_k \pi_{tk}\, N(p \mid x_t + \mu_{tk}, \Sigma_{tk} + b^2 I). $$

    A component is evaluated within five standard deviations, one much wider than a pixel on a
    coarser grid that is then interpolated, and the lightest components of a step, 1e-4 of its
    mass together, are left out: 600 steps of 20 components take a second or less. The result
    is within half a per cent of the sum.

    Args:
        positions: True positions, from which the offsets count.
        log_weights: Log of the mixing coefficients of every step.
        loc: Means of the next offset, in the units of the positions.
        covariances: Covariances of the next offset, in the same units squared.
        x: Evenly spaced, rising columns of the grid, at least two.
        y: Evenly spaced, rising rows of the grid, at least two.
        blur: The b above, in the units of the positions. A grid misses a density much finer
            than its cells; half a cell of blur keeps all of its mass.

    Returns:
        The density at the grid's points, per unit squared. Over the whole plane it integrates
        to T.

    Raises:
        ValueError: Shapes that do not fit, a value that is not finite (a log-weight may be
            -inf), a covariance that is not positive definite, or an uneven grid.

    >>> import numpy as np
    >>> here, log_weights, loc = np.zeros((1, 2)), np.zeros((1, 1)), np.ones((1, 1, 2))
    >>> covariances = np.eye(2)[None, None]
    >>> grid = np.linspace(-8.0, 8.0, 65)
    >>> density = offset_density(here, log_weights, loc, covariances, grid, grid)
    >>> round(float(density.sum() * 0.25**2), 3)
    1.0
    """
    name = "offset_density"
    for argument, axis in (("x", x), ("y", y)):
        steps = np.diff(np.asarray(axis, dtype=np.float64))
        even = len(steps) > 0 and np.allclose(steps, steps.mean(), rtol=1e-3) and steps.min() > 0
        require(bool(even), name, argument, f"{len(axis)} values", "two or more, evenly rising")
    require(bool(np.isfinite(blur) and blur >= 0), name, "blur", blur, "finite and >= 0")
    weights, centres, spreads = _checked(name, positions, log_weights, loc, covariances)
    spreads = spreads + blur**2 * np.eye(2)
    variances, correlated = spreads[..., [0, 1], [0, 1]], spreads[..., 0, 1]
    determinant = variances[..., 0] * variances[..., 1] - correlated**2
    positive = (variances > 0).all() and (determinant > 0).all()
    require(bool(positive), name, "covariances", "one that is not", "positive definite")

    order = np.argsort(weights, axis=-1)
    light = np.take_along_axis(weights, order, axis=-1).cumsum(axis=-1) <= _DROPPED
    kept = np.ones_like(weights, dtype=bool)
    np.put_along_axis(kept, order, ~light, axis=-1)
    weights, centres, variances, correlated, determinant = (
        a[kept] for a in (weights, centres, variances, correlated, determinant)
    )

    cell = np.array([(x[-1] - x[0]) / (len(x) - 1), (y[-1] - y[0]) / (len(y) - 1)])
    # The narrowest direction, in the grid's cells, says how coarse a grid will do.
    mean = 0.5 * variances.sum(axis=-1)
    narrow = np.sqrt(determinant / (mean + np.sqrt(np.maximum(mean**2 - determinant, 0))))
    level = np.floor(np.log2(np.maximum(narrow / cell.max() / _FINE, 1))).astype(int)
    total = np.zeros((len(y), len(x)))
    for stride in 2 ** np.unique(level):
        chosen = 2**level == stride
        columns, rows = (np.arange(0, len(a) - 1 + stride, stride) for a in (x, y))
        coarse = _sum_of_gaussians(
            weights[chosen],
            (centres[chosen] - np.array([x[0], y[0]])) / cell,
            variances[chosen] / cell**2,
            correlated[chosen] / cell.prod(),
            (columns, rows),
        )
        total += _hats(rows, len(y)) @ coarse @ _hats(columns, len(x)).T
    return total / cell.prod()


def _sum_of_gaussians(
    weights: np.ndarray,
    centres: np.ndarray,
    variances: np.ndarray,
    correlated: np.ndarray,
    axes: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """Weighted Gaussians on the grid of two even axes, all in the same units: `[rows, columns]`."""
    columns, rows = axes
    stride = columns[1] - columns[0]
    # p(dx, dy) = p(dx | dy) p(dy): one exponential in the plane, the others along an edge.
    slope = correlated / variances[:, 1]
    conditional = variances[:, 0] - slope * correlated
    peak = weights / (2 * np.pi * np.sqrt(conditional * variances[:, 1]))
    reach = _REACH * np.sqrt(variances)
    first = np.ceil((centres - reach) / stride).astype(int)
    last = np.floor((centres + reach) / stride).astype(int) + 1
    size = (len(columns), len(rows))
    first, last = np.clip(first, 0, size), np.clip(last, 0, size)
    total = np.zeros((len(rows), len(columns)))
    for n in np.flatnonzero((last > first).all(axis=-1)):
        (left, top), (right, bottom) = first[n], last[n]
        dy = rows[top:bottom] - centres[n, 1]
        dx = columns[left:right] - centres[n, 0] - slope[n] * dy[:, None]
        edge = peak[n] * np.exp(-0.5 / variances[n, 1] * dy**2)
        np.multiply(dx, dx, out=dx)
        np.multiply(dx, -0.5 / conditional[n], out=dx)
        np.exp(dx, out=dx)
        total[top:bottom, left:right] += edge[:, None] * dx
    return total


def _hats(knots: np.ndarray, length: int) -> np.ndarray:
    """The matrix that interpolates linearly from even knots to 0, 1, ..., length - 1."""
    stride = knots[1] - knots[0]
    return np.maximum(0, 1 - np.abs(np.arange(length)[:, None] - knots) / stride)


def _checked(
    function: str,
    positions: np.ndarray | Array,
    log_weights: np.ndarray | Array,
    loc: np.ndarray | Array,
    covariances: np.ndarray | Array,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, centres on the page and covariances in float64, of shapes that fit."""
    where, logs, means, spreads = (
        np.asarray(a, dtype=np.float64) for a in (positions, log_weights, loc, covariances)
    )
    T, K = logs.shape if logs.ndim == 2 else (-1, -1)
    for argument, got, expected in (
        ("log_weights", logs.shape, (T, K)),
        ("positions", where.shape, (T, 2)),
        ("loc", means.shape, (T, K, 2)),
        ("covariances", spreads.shape, (T, K, 2, 2)),
    ):
        require(got == expected, function, argument, got, f"{expected} beside {T} steps")
    finite = all(np.isfinite(a).all() for a in (where, means, spreads, np.exp(logs)))
    require(finite, function, "positions and mixture", "a NaN or infinity", "finite")
    return np.exp(logs), where[:, None] + means, spreads


def density_map(
    line: Strokes,
    log_weights: Float[np.ndarray | Array, "S K"],
    loc: Float[np.ndarray | Array, "S K 2"],
    covariances: Float[np.ndarray | Array, "S K 2 2"],
    *,
    width: float = 10.0,
    weights: bool = True,
    decades: float = 3.5,
    unit: str = "device units",
) -> "matplotlib.figure.Figure":
    """A line of handwriting, the density a network expected it with, and the mixing weights.

    Above, the writing; below it, on the same scale, `offset_density` in a logarithmic colour
    scale; at the bottom, the weight of every component at every point, and where the pen was
    lifted. What is not wide, a character or a drawing, has its density at its right.

    Args:
        line: One line of writing, or one drawing, of T points, padding masked.
        log_weights: Log of the mixing coefficients; step t is what was expected after points 0
            to t, so that there are S = T - 1 steps, or T with the one beyond the end.
        loc: Means of the next offset, in the units of the line.
        covariances: Covariances of the next offset, in the same units squared.
        width: Width of the figure in inches.
        weights: Whether to show the mixing weights.
        decades: How many powers of ten the colours span.
        unit: What a unit of the line is called.

    Returns:
        The figure; `save(figure, path)` writes it.

    Raises:
        ImportError: Matplotlib is not installed.
        ValueError: More than one line, shapes that do not fit, or a value that is not finite.

    References:
        A. Graves, Generating sequences with recurrent neural networks, 2013, figure 10.
    """
    sheet = set_page(line, margin=0.35, function="density_map")
    require(len(sheet.lines) == 1, "density_map", "line", f"{len(sheet.lines)} lines", "one line")
    wide = sheet.size[0] > _WIDE * sheet.size[1]
    if not wide:
        sheet = set_page(line, margin=0.2, function="density_map")
    positions = np.concatenate(sheet.lines[0])
    steps, count = len(log_weights), len(positions)
    expected = f"{count - 1} or {count} steps for {count} points"
    require(steps in (count - 1, count), "density_map", "log_weights", steps, expected)
    require(bool(decades > 0), "density_map", "decades", decades, "positive")

    arrange = _stack if wide else _pair
    layout = arrange(sheet.size, width, weights)
    (first, last), (_, _, across, _) = layout.view, layout.boxes[1]
    columns = round(_RESOLUTION * across)
    cell = (last - first) / columns
    x = first + (np.arange(columns) + 0.5) * cell
    y = (np.arange(max(2, round(sheet.size[1] / cell))) + 0.5) * cell
    density = offset_density(
        positions[:steps], log_weights, loc, covariances, x, y, blur=0.5 * cell
    )
    with style.house_style():
        from matplotlib.colors import LogNorm

        figure = style.new_figure(width, layout.height)
        inches = np.array([width, layout.height] * 2)
        panels = [figure.add_axes(tuple(box / inches)) for box in np.array(layout.boxes)]
        for ax in panels[:2]:
            ax.set_xlim(first, last)
            ax.set_ylim(sheet.size[1], 0)
            ax.set_aspect("equal")
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_visible(False)
        panels[0].set_facecolor(style.PAPER)
        panels[0].set_title("The writing" if wide else "The drawing")
        draw_ink(panels[0], sheet, pen_width=None if wide else _PEN * (last - first))
        _scale_bar(panels[0], last - first, unit)

        lit = density[density > 0]
        high = float(np.quantile(lit, 0.999)) if len(lit) else 1.0
        norm = LogNorm(high * 10.0**-decades, high)
        shown = panels[1].imshow(
            np.maximum(density, norm.vmin or 0),
            norm=norm,
            cmap=style.heat_colors(),
            extent=(first, last, y[-1] + 0.5 * cell, 0),
            interpolation="bilinear",
            interpolation_stage="data",
        )
        panels[1].set_title("Where the network expected each next point")
        note = f"sum of the predicted densities, per square {unit.removesuffix('s')}"
        if wide:
            panels[1].set_title(note, loc="right", fontsize=8, color=style.FAINT)
        else:
            panels[1].set_xlabel(note, loc="right", fontsize=8, color=style.FAINT)
        _color_bar(figure, panels[1], shown)
        if weights:
            _draw_weights(figure, panels[2], np.exp(np.asarray(log_weights)), line)
    return figure


class _Layout(NamedTuple):
    """Where the panels stand, in inches; the last one, of the weights, may be missing.

    Attributes:
        height: Of the figure.
        view: The first and the last x of the page that the two upper panels show.
        boxes: Left, bottom, width and height of every panel.
    """

    height: float
    view: tuple[float, float]
    boxes: list[tuple[float, float, float, float]]


_LEFT, _RIGHT, _GAP = 0.55, 0.6, 0.36  # inches: axis, colour bar, title of a panel
_WEIGHTS, _BELOW = 1.35, 0.48  # inches: the panel of the weights, what is written below it


def _across(width: float, gap: float) -> float:
    """What is left of a figure's width for its panels."""
    least = _LEFT + _RIGHT + gap
    require(width > least, "density_map", "width", width, f"more than {least:.2f} inches")
    return width - least


def _stack(size: tuple[float, float], width: float, weights: bool) -> _Layout:
    """One panel below the other, for lines."""
    across = _across(width, 0.0)
    tall = max(across * size[1] / size[0], 0.5)
    heights = [tall, tall] + ([_WEIGHTS] if weights else [])
    height = sum(heights) + _GAP * len(heights) + (_BELOW if weights else 0.3)
    tops = height - _GAP - np.concatenate([[0], np.cumsum(np.add(heights, _GAP))[:-1]])
    boxes = [(_LEFT, top - h, across, h) for top, h in zip(tops.tolist(), heights, strict=True)]
    return _Layout(height, (0.0, size[0]), boxes)


def _pair(size: tuple[float, float], width: float, weights: bool) -> _Layout:
    """Ink and density side by side, at most as high as wide, and the weights below both."""
    note = 0.3
    across = _across(width, _GAP) / 2
    tall = min(across * size[1] / size[0], across)
    below = note + (_GAP + _WEIGHTS + _BELOW if weights else 0.0)
    boxes = [(_LEFT, below, across, tall), (_LEFT + across + _GAP, below, across, tall)]
    if weights:
        boxes.append((_LEFT, _BELOW, 2 * across + _GAP, _WEIGHTS))
    # What is higher than wide stands in the middle of its panel.
    beside = 0.5 * (size[1] * across / tall - size[0])
    return _Layout(_GAP + tall + below, (-beside, size[0] + beside), boxes)


def _draw_weights(
    figure: "matplotlib.figure.Figure",
    ax: "matplotlib.axes.Axes",
    weights: np.ndarray,
    line: Strokes,
) -> None:
    """The weight of every component at every step, and ticks where the pen was lifted."""
    steps, components = weights.shape
    shown = ax.imshow(
        weights.T,
        aspect="auto",
        cmap=style.heat_colors(),
        vmin=0,
        vmax=1,
        extent=(0.5, steps + 0.5, components + 0.5, 0.5),
        interpolation="nearest",
    )
    ax.set_title("Weights of the mixture's components", pad=9)
    ax.set_title("▾ pen lifted", loc="right", fontsize=8, color=style.ORANGE, pad=9)
    ax.set_xlabel("point of the line")
    ax.set_ylabel("component")
    ax.set_yticks(sorted({1, components}))
    ax.locator_params(axis="x", integer=True)
    ax.spines[:].set_visible(False)
    up = np.asarray(line.pen_up)[np.asarray(line.mask)][:steps]
    lifted = np.flatnonzero(up > 0.5) + 1
    ax.plot(
        lifted,
        np.full(len(lifted), 1.045),
        "v",
        color=style.ORANGE,
        markersize=3,
        markeredgewidth=0,
        transform=ax.get_xaxis_transform(),
        clip_on=False,
    )
    _color_bar(figure, ax, shown)


def _scale_bar(ax: "matplotlib.axes.Axes", across: float, unit: str) -> None:
    """A bar of a round length above the right end of a panel so wide, with its length."""
    about = 0.1 * across
    power = 10.0 ** np.floor(np.log10(about))
    length = max(m for m in (1, 2, 5) if m * power <= about) * power
    figure = ax.get_figure(root=True)
    assert figure is not None
    row = 1 + 0.12 / (ax.get_position().height * figure.get_figheight())  # 0.12 inch above
    share = length / across
    ax.plot(
        [1 - share, 1],
        [row, row],
        color=style.FAINT,
        linewidth=2,
        solid_capstyle="butt",
        transform=ax.transAxes,
        clip_on=False,
    )
    ax.text(
        0.993 - share,
        row,
        f"{length:g} {unit}",
        color=style.FAINT,
        fontsize=8,
        ha="right",
        va="center",
        transform=ax.transAxes,
    )


def _color_bar(
    figure: "matplotlib.figure.Figure", ax: "matplotlib.axes.Axes", shown: "AxesImage"
) -> None:
    """A narrow scale of the colours at the right of a panel."""
    place, width = ax.get_position(), figure.get_figwidth()
    bar = figure.add_axes((place.x1 + 0.08 / width, place.y0, 0.1 / width, place.height))
    scale = figure.colorbar(shown, cax=bar)
    scale.outline.set_visible(False)
    bar.tick_params(labelsize=7, length=2, which="major")
    bar.tick_params(which="minor", length=0)
