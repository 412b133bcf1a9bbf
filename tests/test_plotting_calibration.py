"""Calibration pictures and reports: bands that hold what they should, words and numbers."""

import json

import jax
import numpy as np
import pytest
from made_pictures import assert_text_is_inside, pixels
from matplotlib.colors import to_hex

import mdnjax as mdn
from mdnjax import plotting
from mdnjax.plotting import style
from mdnjax.plotting.calibration import _count_band, _curve_band

LINE = mdn.GaussianMixture.isotropic([[-1.0], [1.0]], [0.3, 0.5], weights=[0.3, 0.7])
sample = jax.jit(mdn.sample, static_argnums=2)
TRUTH = sample(jax.random.key(0), LINE, (2000,))


@pytest.mark.parametrize("n", [50, 2000])
def test_the_bands_hold_ninety_five_of_a_hundred_calibrated_sets(n):
    """By the definition of calibration: 4000 sets of uniform numbers."""
    sets, bins = np.random.default_rng(n).uniform(size=(4000, n)), 20
    low, high = _count_band(n, bins)
    counts = np.stack([np.histogram(u, bins, (0, 1))[0] for u in sets])
    held = ((counts >= low) & (counts <= high)).all(axis=1).mean()
    assert 0.945 < held < 0.99  # Bonferroni and whole counts are on the safe side
    rank = np.arange(1, n + 1) / n
    u = np.sort(sets, axis=1)
    strayed = np.maximum(rank - u, u - rank + 1 / n).max(axis=1)
    # 4 standard deviations of a share of 4000
    assert abs((strayed <= _curve_band(n)).mean() - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 4000)


def bars(ax):
    return ax.containers[0].patches


def colors_of(ax):
    return [to_hex(bar.get_facecolor()) for bar in bars(ax)]


def test_the_histogram_shows_how_many_fell_where():
    u = np.concatenate([np.linspace(0.001, 0.999, 960), np.full(40, 0.01)])
    ax = plotting.plot_calibration(u)
    heights = [bar.get_height() for bar in bars(ax)]
    np.testing.assert_allclose(heights, np.histogram(u, 20, (0, 1))[0] / 50)
    assert colors_of(ax) == [style.ORANGE] + 19 * [style.BLUE]
    assert ax.get_xlabel() == "probability of less than the target"
    assert ax.get_ylabel() == "targets, relative to expected"
    assert_text_is_inside(ax.figure)


@pytest.mark.parametrize("regions", ["central", "densest"])
def test_the_curve_counts_the_targets_inside(regions):
    u = np.random.default_rng(0).beta(2, 1, size=300)
    ax = plotting.plot_calibration(u, show="coverage", regions=regions)
    level, share = ax.lines[1].get_data()
    contents = np.abs(2 * u - 1) if regions == "central" else u
    for at in (0.1, 0.5, 0.9):
        (place,) = np.flatnonzero(np.isclose(level, 100 * at))
        np.testing.assert_allclose(share[place], 100 * np.mean(contents <= at))
    assert_text_is_inside(ax.figure)


def test_it_draws_into_given_axes_and_leaves_them_its_ink():
    figure = style.new_figure(4.0, 3.0)
    ax = figure.add_subplot()
    assert plotting.plot_calibration([0.1, 0.5, 0.9], bins=4, ax=ax) is ax
    assert (pixels(figure) < 0.6).mean() > 0.01


def test_a_report_has_numbers_and_a_picture():
    metrics, figure = plotting.calibration_report(LINE, TRUTH, unit="m", levels=(0.5, 0.9))
    assert json.loads(json.dumps(metrics)) == metrics
    assert metrics["count"] == 2000
    nll = -np.asarray(jax.jit(mdn.log_prob)(LINE, TRUTH), np.float64)
    np.testing.assert_allclose(metrics["nll"], nll.mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["nll_error"], nll.std(ddof=1) / np.sqrt(2000), rtol=1e-6)
    # E crps of a calibrated mixture is E|Y - Y'| / 2, here from the targets themselves
    y = np.sort(np.asarray(TRUTH, np.float64).ravel())
    half = ((2 * np.arange(1, 2001) - 2001) @ y) / (2000 * 1999)
    assert abs(metrics["crps"] - half) < 4 * metrics["crps_error"]
    assert metrics["p_value"] > 1e-4
    for row in metrics["coverage"]:
        assert abs(row["share"] - row["level"]) < 4 * row["standard_error"]
    assert [ax.get_title("left") for ax in figure.axes] == ["PIT histogram", "Coverage"]
    assert " m " in figure.get_suptitle()
    assert_text_is_inside(figure)


def test_a_report_tells_the_overconfident_and_the_biased_from_the_calibrated():
    narrow = plotting.calibration_report(mdn.bias(LINE, 0.5), TRUTH)
    assert narrow.metrics["p_value"] < 1e-6
    assert all(row["share"] < row["level"] for row in narrow.metrics["coverage"])
    heights = [bar.get_height() for bar in bars(narrow.figure.axes[0])]
    assert min(heights[0], heights[-1]) > 1.5
    aside = mdn.GaussianMixture.isotropic(LINE.loc + 0.3, LINE.scale, weights=LINE.weights)
    biased = plotting.calibration_report(aside, TRUTH)
    assert biased.metrics["p_value"] < 1e-6
    heights = [bar.get_height() for bar in bars(biased.figure.axes[0])]
    assert np.mean(heights[:4]) > 1.3 * np.mean(heights[-4:])


def test_a_report_in_the_plane_and_with_padding():
    plane = mdn.GaussianMixture.isotropic([[0.0, 0.0], [3.0, 1.0]], [0.5, 1.0])
    y = np.array(sample(jax.random.key(1), plane, (40, 8)))
    mask = np.arange(8)[None] < np.arange(40)[:, None] % 8
    y[~mask] = np.nan
    metrics, figure = plotting.calibration_report(plane, y, key=jax.random.key(2), mask=mask)
    assert metrics["count"] == mask.sum()
    assert metrics["p_value"] > 1e-4
    assert metrics["energy_score"] > 0
    assert figure.axes[0].get_title("left") == "Density PIT histogram"
    assert_text_is_inside(figure)


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match="plot_calibration: u must be one or more numbers in"):
        plotting.plot_calibration([0.5, 1.5])
    with pytest.raises(ValueError, match="plot_calibration: bins must be at least 2, got 1"):
        plotting.plot_calibration([0.5], bins=1)
    plane = mdn.GaussianMixture.isotropic([[0.0, 0.0]], [1.0])
    with pytest.raises(ValueError, match="calibration_report: key must be a random key for D > 1"):
        plotting.calibration_report(plane, np.zeros((5, 2)))
    with pytest.raises(ValueError, match="calibration_report: y must be at least two"):
        plotting.calibration_report(LINE, np.zeros((1, 1)))
    with pytest.raises(ValueError, match="mix, y must be of finite scores, got 1 of 2 scores"):
        plotting.calibration_report(LINE, np.array([[0.0], [np.nan]], np.float32))
