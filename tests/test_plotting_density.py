"""Predictive densities against SciPy, and their pictures."""

import inspect
import itertools

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from made_pictures import assert_text_is_inside, mixtures
from made_writing import wave
from matplotlib.collections import LineCollection

from mdnjax import plotting
from mdnjax.strokes.curves import set_page
from mdnjax.strokes.structure import Strokes


def naive(positions, log_weights, loc, covariances, x, y):
    points = np.stack(np.meshgrid(x, y), axis=-1)
    total = np.zeros(points.shape[:2])
    for t, k in np.ndindex(*log_weights.shape):
        normal = scipy.stats.multivariate_normal(positions[t] + loc[t, k], covariances[t, k])
        total += np.exp(log_weights[t, k]) * normal.pdf(points)
    return total


@pytest.mark.parametrize("scale", [0.7, 3.0, 30.0])
def test_offset_density_is_the_sum_of_gaussians(scale):
    # The grid's cells are 0.5 and 0.4, so the widest go through a grid four times as coarse.
    positions = np.random.default_rng(1).normal(size=(5, 2)) * 10
    mixture = mixtures(5, 4, scale)
    x, y = np.linspace(-40, 50, 181), np.linspace(-30, 34, 161)
    got = plotting.offset_density(positions, *mixture, x, y)
    expected = naive(positions, *mixture, x, y)
    assert got.shape == (161, 181)
    np.testing.assert_allclose(got, expected, atol=3e-3 * expected.max())
    assert np.abs(got - expected).sum() < 3e-3 * expected.sum()


@pytest.mark.parametrize("scale", [0.01, 0.3, 2.0, 20.0])
def test_offset_density_integrates_to_the_number_of_steps(scale):
    positions = np.random.default_rng(2).normal(size=(40, 2)) * 10
    x, y = np.linspace(-180, 180, 361), np.linspace(-180, 180, 361)
    got = plotting.offset_density(positions, *mixtures(40, 3, scale), x, y, blur=0.5)
    assert got.sum() == pytest.approx(40, rel=0.02)
    assert (got >= 0).all()


def test_blur_is_an_added_variance():
    positions = np.zeros((2, 2))
    log_weights, loc, covariances = mixtures(2, 3, 1.0)
    x, y = np.linspace(-10, 10, 41), np.linspace(-10, 10, 51)
    got = plotting.offset_density(positions, log_weights, loc, covariances, x, y, blur=2.0)
    expected = naive(positions, log_weights, loc, covariances + 4 * np.eye(2), x, y)
    np.testing.assert_allclose(got, expected, atol=1e-4 * expected.max())


def test_weightless_components_add_nothing_and_jax_arrays_do():
    positions = np.zeros((3, 2))
    log_weights, loc, covariances = mixtures(3, 2, 2.0)
    x = y = np.linspace(-15, 15, 61)
    expected = plotting.offset_density(positions, log_weights, loc, covariances, x, y)
    padded = (
        np.concatenate([log_weights, np.full((3, 1), -np.inf)], axis=1),
        np.concatenate([loc, np.zeros((3, 1, 2))], axis=1),
        np.concatenate([covariances, np.tile(np.eye(2), (3, 1, 1, 1))], axis=1),
    )
    where, *mixture = (jnp.asarray(a, dtype=jnp.float32) for a in (positions, *padded))
    got = plotting.offset_density(where, mixture[0], mixture[1], mixture[2], x, y)
    np.testing.assert_allclose(got, expected, atol=1e-5 * expected.max())


def test_offset_density_names_what_is_wrong():
    # Past the tests' type checker, as a user calls it.
    density = inspect.unwrap(plotting.offset_density)
    grid = np.linspace(-1, 1, 5)
    good = dict(zip(("log_weights", "loc", "covariances"), mixtures(3, 2, 1.0), strict=True))
    good = {"positions": np.zeros((3, 2)), "x": grid, "y": grid} | good
    density(**good)
    for name, bad, message in [
        ("positions", np.zeros((4, 2)), "positions"),
        ("loc", np.zeros((3, 2, 3)), "loc"),
        ("log_weights", np.zeros(3), "log_weights"),
        ("covariances", np.zeros((3, 2, 2)), "covariances"),
        ("covariances", -good["covariances"], "positive definite"),
        ("loc", np.full((3, 2, 2), np.nan), "finite"),
        ("x", np.array([0.0, 1.0, 3.0]), "x must be"),
        ("y", np.array([1.0, 0.0]), "y must be"),
        ("blur", -1.0, "blur"),
    ]:
        with pytest.raises(ValueError, match=f"offset_density: .*{message}"):
            density(**(good | {name: bad}))


@pytest.mark.parametrize("beyond", [0, 1])
@pytest.mark.parametrize("weights", [True, False])
def test_density_map_shows_three_panels_with_their_text(beyond, weights):
    line = wave(40)
    mixture = mixtures(39 + beyond, 5, 2.0)
    figure = plotting.density_map(line, *mixture, weights=weights, width=8.0)
    panels = figure.axes
    assert len(panels) == (5 if weights else 3)  # with colour bars
    assert_text_is_inside(figure)
    if weights:
        shown = np.asarray(panels[2].images[0].get_array())
        np.testing.assert_allclose(shown, np.exp(mixture[0]).T)


def test_density_map_puts_the_density_at_the_true_next_points():
    line = wave(80)
    nexts = np.concatenate([line.offsets[1:], np.zeros((1, 2))])[:, None]
    covariances = np.tile(4 * np.eye(2), (80, 1, 1, 1))
    figure = plotting.density_map(line, np.zeros((80, 1)), nexts, covariances)
    image = figure.axes[1].images[0]
    density = np.asarray(image.get_array())
    left, right, bottom, top = image.get_extent()
    points = np.concatenate(set_page(line, margin=0.35).lines[0])[1:]
    column = (points[:, 0] - left) / (right - left) * density.shape[1]
    row = (points[:, 1] - top) / (bottom - top) * density.shape[0]
    peak = 1 / (2 * np.pi * 4)
    assert (density[row.astype(int), column.astype(int)] > 0.9 * peak).all()
    assert np.median(density) < 1e-3 * peak


def test_density_map_of_a_network_that_is_far_off_is_dark():
    log_weights, loc, covariances = mixtures(10, 2, 1.0)
    figure = plotting.density_map(wave(10), log_weights, loc + 1e6, covariances)
    assert not np.asarray(figure.axes[1].images[0].get_array()).max() > 1e-3
    assert_text_is_inside(figure)


def polyline(*strokes, points: int = 5) -> Strokes:
    """Strokes of straight pieces between corners, `points` to a piece."""
    drawn = []
    for corners in strokes:
        ends = np.array(corners, dtype=float)
        pieces = [np.linspace(a, b, points) for a, b in itertools.pairwise(ends)]
        drawn.append(np.concatenate(pieces))
    positions = np.concatenate(drawn)
    pen_up = np.zeros(len(positions))
    pen_up[np.cumsum([len(stroke) for stroke in drawn]) - 1] = 1
    offsets = np.diff(positions, axis=0, prepend=positions[:1])
    return Strokes(offsets, pen_up, np.ones(len(positions), bool))


DRAWINGS = {
    "kanji": polyline([(5, 30), (95, 28)], [(60, 5), (55, 60), (10, 95)], [(55, 50), (95, 95)]),
    "square": polyline([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)], points=3),
    "cat": polyline(
        [(-40, -25), (-35, -60), (-10, -38), (10, -38), (35, -60), (40, -25), (0, 40), (-40, -25)],
        [(-15, -10), (-14, -9)],
        [(15, -10), (16, -9)],
        [(-10, 8), (10, 8), (0, 14), (-10, 8)],
    ),
    "stroke": polyline([(0, 0), (0, 100)], points=10),
    "wide": polyline([(0, 0), (100, 80), (200, 0)]),
}


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("name", DRAWINGS)
def test_density_map_of_a_drawing_fits_a_screen(name, weights):
    line = DRAWINGS[name]
    steps = len(line.pen_up) - 1
    scale = 0.1 * float(np.ptp(np.cumsum(line.offsets, axis=0), axis=0).max())
    log_weights, _, covariances = mixtures(steps, 3, scale)
    loc = np.repeat(line.offsets[1:, None], 3, axis=1)
    figure = plotting.density_map(line, log_weights, loc, covariances, weights=weights, width=8.0)
    assert_text_is_inside(figure)
    width, height = figure.get_size_inches()
    assert 0.25 * width < height < 0.8 * width

    boxes = [ax.get_position() for ax in figure.axes]
    ink, density = boxes[:2]
    assert (ink.y0, ink.y1) == pytest.approx((density.y0, density.y1))
    assert ink.width == pytest.approx(density.width)
    assert ink.x1 < density.x0
    if weights:
        below = boxes[2]
        assert (below.x0, below.x1) == pytest.approx((ink.x0, density.x1))
        assert below.y1 < ink.y0
        bars = boxes[3:]
        assert bars[0].x0 == pytest.approx(bars[1].x0)
    for ax in figure.axes[:2]:  # the picture fills its panel, and the drawing is in the middle
        before = ax.get_position(original=True)
        ax.apply_aspect()
        assert ax.get_position().bounds == pytest.approx(before.bounds, rel=1e-6)
    points = np.cumsum(line.offsets, axis=0)
    sheet = np.concatenate(set_page(line, margin=0.2).lines[0])
    low, high = figure.axes[0].get_xlim()
    assert low + high == pytest.approx(sheet[:, 0].min() + sheet[:, 0].max())
    assert np.ptp(points, axis=0).max() > 0.55 * min(high - low, figure.axes[0].get_ylim()[0])

    # The pen is as thick on the page for any drawing: about a hundredth of its panel.
    (drawn,) = figure.axes[0].collections
    assert isinstance(drawn, LineCollection)
    pen = np.array(drawn.get_linewidth()) / 72
    assert (pen > 0.006 * ink.width * width).all()
    assert (pen < 0.013 * ink.width * width).all()

    # The density is where the next points are.
    image = figure.axes[1].images[0]
    shown = np.asarray(image.get_array())
    left, right, bottom, top = image.get_extent()
    column = (sheet[1:, 0] - left) / (right - left) * shown.shape[1]
    row = (sheet[1:, 1] - top) / (bottom - top) * shown.shape[0]
    assert shown[row.astype(int), column.astype(int)].min() > 0.02 * shown.max()


def test_density_map_of_a_line_stays_stacked():
    figure = plotting.density_map(wave(40), *mixtures(39, 5, 2.0))
    writing, density, weights = (ax.get_position() for ax in figure.axes[:3])
    for panel in (density, weights):
        assert (panel.x0, panel.x1) == pytest.approx((writing.x0, writing.x1))
    assert writing.y0 > density.y1 > density.y0 > weights.y1
    assert figure.axes[0].get_title("left") == "The writing"


def test_density_map_counts_a_few_points_in_whole_numbers():
    line = DRAWINGS["kanji"]
    figure = plotting.density_map(line, *mixtures(len(line.pen_up), 3, 9.0))
    ticks = np.asarray(figure.axes[2].get_xticks())
    np.testing.assert_array_equal(ticks, np.round(ticks))


def test_density_map_names_what_is_wrong():
    with pytest.raises(ValueError, match="density_map: log_weights must be 39 or 40 steps"):
        plotting.density_map(wave(40), *mixtures(41, 2, 1.0))
    two = Strokes(*(np.stack([a, a]) for a in vars(wave(40)).values()))
    for line, least in ((wave(40), "1.15"), (DRAWINGS["square"], "1.51")):
        mixture = mixtures(len(line.pen_up), 2, 1.0)
        with pytest.raises(ValueError, match=f"width must be more than {least} inches, got 1.1"):
            plotting.density_map(line, *mixture, width=1.1)
    with pytest.raises(ValueError, match="density_map: line must be one line"):
        plotting.density_map(two, *mixtures(40, 2, 1.0))
