"""PIT, coverage and the test of uniformity: SciPy, closed forms, samples of the truth."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from made_mixtures import make

import mdnjax as mdn
from mdnjax.mixtures import density_coverage, density_pit, uniformity

# Compiled: an eager call would compile each operation by itself.
sample = jax.jit(mdn.sample, static_argnums=2)
pit = jax.jit(mdn.pit)
coverage = jax.jit(mdn.coverage)
contents = jax.jit(density_pit, static_argnames="num_samples")
of_uniform = jax.jit(uniformity)


def test_pit_against_scipy(x64):
    mix, y = make("diagonal", (2, 4), dim=1), np.random.default_rng(1).normal(size=(2, 4, 1))
    z = (y - np.asarray(mix.loc[..., 0])) / np.exp(np.asarray(mix.log_scale[..., 0]))
    expected = (np.exp(mix.log_weights) * scipy.stats.norm.cdf(z)).sum(-1)
    np.testing.assert_allclose(pit(mix, y), expected, rtol=1e-12)


def test_pit_stays_in_the_unit_interval_and_nan_stays():
    mix = make("isotropic", (500,), k=7, dim=1)
    for y, expected in ((1e30, 1.0), (-1e30, 0.0)):
        values = np.asarray(pit(mix, np.full((500, 1), y, np.float32)))
        assert values.max() <= 1
        np.testing.assert_allclose(values, expected, atol=1e-6)
    assert np.isnan(pit(mix, np.full((500, 1), np.nan, np.float32))).all()


def test_the_content_of_a_gaussians_regions_is_chi_squared():
    """P(p(Y) >= p(y)) = P(chi^2_D <= z^2), for any covariance."""
    rng, n = np.random.default_rng(0), 20_000
    mix = make("full", k=1, dim=3)
    y = np.asarray(mix.loc[0]) + rng.normal(size=(40, 3))
    # z = diag(exp(-s)) (I + R) (y - mu)
    shape = np.eye(3)
    shape[np.triu_indices(3, 1)] = mix.upper[0]
    z = (y - np.asarray(mix.loc[0])) @ shape.T / np.exp(mix.log_scale[0])
    exact = scipy.stats.chi2.cdf((z**2).sum(-1), 3)
    got = np.asarray(contents(jax.random.key(0), mix, y, num_samples=n), np.float64)
    deviation = np.sqrt(exact * (1 - exact) / n) + 2 / n
    assert (np.abs(got - exact) < scipy.stats.norm.isf(1e-4 / 40 / 2) * deviation).all()


@pytest.mark.parametrize("num_samples", [1, 7])
def test_the_content_of_a_draw_is_uniform_whatever_the_number_of_samples(num_samples):
    mix = make("full", k=3, dim=2)
    y = np.array(sample(jax.random.key(1), mix, (20_000,)))
    y[0, 1] = np.nan
    first, *u = np.asarray(contents(jax.random.key(2), mix, y, num_samples=num_samples))
    assert np.isnan(first)
    assert scipy.stats.kstest(u, "uniform").pvalue > 1e-4
    # and every example has samples of its own: else they were not independent
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 4 / np.sqrt(len(u))


def test_coverage_counts_what_lies_inside_central_intervals(x64):
    mix, levels = make("isotropic", k=1, dim=1), [0.5, 0.9]
    loc, scale = float(mix.loc[0, 0]), float(np.exp(mix.log_scale[0]))
    y = loc + scale * np.array([0.0, 0.6, -0.7, 1.6, -1.7])  # 0.674 and 1.645 are the limits
    result = coverage(mix, y[:, None], levels)
    np.testing.assert_allclose(result.level, levels)
    np.testing.assert_allclose(result.share, [0.4, 0.8])
    np.testing.assert_allclose(result.standard_error, np.sqrt([0.25 / 5, 0.09 / 5]))
    mask = np.array([True, True, True, False, False])
    np.testing.assert_allclose(coverage(mix, y[:, None], levels, mask=mask).share, [2 / 3, 1])
    y[4] = np.nan
    assert np.isnan(coverage(mix, y[:, None], levels).share).all()
    np.testing.assert_allclose(coverage(mix, y[:, None], levels, mask=mask).share, [2 / 3, 1])


def test_the_share_strays_as_far_as_its_standard_error_says():
    """Over 2000 sets of 200 targets drawn from the truth."""
    mix, levels = make("diagonal", k=2, dim=1), [0.5, 0.8, 0.95]
    y = sample(jax.random.key(0), mix, (2000, 200))
    sets = jax.jit(jax.vmap(lambda y: mdn.coverage(mix, y, jnp.array(levels))))(y)
    share, error = np.asarray(sets.share), np.asarray(sets.standard_error[0])
    bound = scipy.stats.norm.isf(1e-4 / 3 / 2) * error / np.sqrt(2000)
    assert (np.abs(share.mean(0) - levels) < bound).all()
    np.testing.assert_allclose(share.std(0), error, rtol=0.07)


def test_highest_density_regions_cover_what_they_should():
    mix = make("full", k=3, dim=2)
    y = sample(jax.random.key(3), mix, (4000,))
    covered = jax.jit(lambda mix: density_coverage(jax.random.key(4), mix, y, [0.5, 0.9]))
    result = covered(mix)
    bound = scipy.stats.norm.isf(1e-4 / 2 / 2)
    assert (np.abs(result.share - result.level) < bound * result.standard_error).all()
    short = covered(dataclasses.replace(mix, log_scale=mix.log_scale - 1.0))
    assert (short.level - short.share > 0.2).all()


@pytest.mark.parametrize("n", [5, 20, 1000])
def test_p_values_against_scipys_exact_ones(n, x64):
    """Vrbik's correction leaves errors of the order of 1 / N^(3/2)."""
    rng = np.random.default_rng(n)
    for shape in (1.0, 1.3, 0.7):
        u = rng.beta(shape, 1.0, size=n)
        result, expected = of_uniform(u), scipy.stats.kstest(u, "uniform", method="exact")
        np.testing.assert_allclose(result.statistic, expected.statistic, rtol=1e-12)
        np.testing.assert_allclose(result.p_value, expected.pvalue, atol=0.03 / n)


def test_kolmogorovs_distribution_itself(x64):
    """Of a known distance, with the same correction: both series against SciPy."""
    n = 1000
    for x in (0.2, 0.5, 0.8, 0.999, 1.0, 1.2, 2.0, 4.0):
        u = np.clip((np.arange(n) + 0.5) / n + x / np.sqrt(n) - 0.5 / n, 0, 1)
        corrected = x + 1 / (6 * np.sqrt(n)) + (x - 1) / (4 * n)
        expected = scipy.stats.kstwobign.sf(corrected)
        np.testing.assert_allclose(of_uniform(u).p_value, expected, rtol=1e-6)


def test_uniformity_of_perfect_numbers_of_none_and_of_nan():
    u = (np.arange(1000) + 0.5) / 1000
    assert of_uniform(u).p_value == 1
    assert of_uniform(np.zeros(1000)).p_value < 1e-30
    u[3] = np.nan
    assert np.isnan(of_uniform(u).p_value)
    with pytest.raises(ValueError, match="uniformity: u must be at least one number"):
        uniformity(np.zeros((0, 3)))


def test_what_is_wrong_is_named():
    plane = make("full", dim=2)
    with pytest.raises(ValueError, match=r"pit: mix must be of D = 1 \(density_pit has any D\)"):
        mdn.pit(plane, [0.0])
    with pytest.raises(ValueError, match="density_pit: num_samples must be at least 1, got 0"):
        density_pit(jax.random.key(0), plane, [0.0, 0.0], num_samples=0)
    with pytest.raises(ValueError, match="coverage: levels must be numbers between 0 and 1"):
        jax.eval_shape(lambda: mdn.coverage(make("full", dim=1), [0.0], [0.5, 1.5]))
    with pytest.raises(ValueError, match="density_coverage: levels must be numbers"):
        jax.eval_shape(lambda: density_coverage(jax.random.key(0), plane, [0.0, 0.0], [90.0]))
