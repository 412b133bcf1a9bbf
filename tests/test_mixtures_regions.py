"""Highest-density regions against sorted fine grids, exact values and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import mdnjax as mdn
from mdnjax.mixtures.regions import _stationary_points

# Compiled for one shape, in float64, and with all derivatives in float32: that takes the time.
region = jax.jit(mdn.highest_density_region)
N = 24
LEVELS = np.resize([0.05, 0.5, 0.9, 0.99], N)


@jax.jit
@jax.vmap
def region_and_derivatives(logits, loc, log_scale, level):
    """Of each of a batch in its own numbers, `[..., 1 + 2 K, 3 K + 1]`: of log c, low and high."""

    def numbers(logits, loc, log_scale, level):
        mix = mdn.GaussianMixture(logits, loc[:, None], log_scale, None, "isotropic")
        got = mdn.highest_density_region(mix, level)
        return jnp.concatenate([got.log_density[None], got.low, got.high]), got

    derivatives, got = jax.jacfwd(numbers, (0, 1, 2, 3), has_aux=True)(
        logits, loc, log_scale, level
    )
    *rest, by_level = derivatives
    return got, jnp.concatenate([*rest, by_level[:, None]], axis=-1)


def line(loc, scale, weights=None):
    """A mixture with D = 1 of rows of numbers, made without compiling anything."""
    loc = np.asarray(loc, float)
    weights = np.ones(loc.shape) if weights is None else np.asarray(weights)
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights / weights.sum(-1, keepdims=True))
    parts = log_weights, loc[..., None], np.log(scale)
    return mdn.GaussianMixture(*map(jnp.asarray, parts), None, "isotropic")


def random_batch(n, k, seed):
    """Means within reach of each other, scales over two decades, weights over four."""
    rng = np.random.default_rng(seed)
    loc, scale = rng.normal(size=(n, k)) * 3, np.exp(rng.uniform(-3, 1.5, (n, k)))
    return line(loc, scale, rng.dirichlet(np.full(k, 0.5), n) + 1e-4)


def arrays(mix):
    weights = np.exp(np.asarray(mix.log_weights, float))
    return weights, np.asarray(mix.loc, float)[..., 0], np.exp(np.asarray(mix.log_scale, float))


def density(weights, loc, scale, y):
    z = (y[:, None] - loc) / scale
    return (weights / scale * np.exp(-z * z / 2)).sum(-1) / np.sqrt(2 * np.pi)


def by_grid(weights, loc, scale, level):
    """The threshold and the ends by sorting the densities of a grid fine at every component."""
    steps = np.concatenate([np.linspace(-9, 9, 6001), np.linspace(-60, 60, 4001)])
    y = np.unique((loc[:, None] + scale[:, None] * steps).ravel())
    y = np.unique(np.concatenate([y, np.linspace(y[0], y[-1], 100_000)]))
    middle, width = (y[1:] + y[:-1]) / 2, np.diff(y)
    p = density(weights, loc, scale, middle)
    order = np.argsort(-p)
    mass = np.cumsum((p * width)[order])
    c = p[order[np.searchsorted(mass, level)]]
    return np.log(c), middle, p >= c


def content(parts, low, high):
    """The probability in intervals, by SciPy."""
    weights, loc, scale = parts
    below = scipy.special.ndtr((np.stack([low, high])[..., None] - loc) / scale)
    return (weights * (below[1] - below[0])).sum()


def intervals(got, i):
    keep = np.asarray(got.is_interval[i])
    return np.asarray(got.low[i])[keep], np.asarray(got.high[i])[keep]


def of_few(loc, scale, weights, level):
    """The regions of one mixture at a few levels, as part of a batch that is compiled already."""
    k, n = len(loc), len(level)
    loc, weights = np.pad(loc, (0, 4 - k)), np.pad(weights, (0, 4 - k))
    scale = np.pad(scale, (0, 4 - k), constant_values=1.0)
    mix = line(*(np.broadcast_to(x, (N, 4)) for x in (loc, scale, weights)))
    got = region(mix, jnp.asarray(np.pad(level, (0, N - n), mode="edge"), mix.loc.dtype))
    return jax.tree.map(lambda x: np.asarray(x)[:n], got)


def test_random_mixtures_against_sorted_grids(x64):
    mix = random_batch(N, 4, seed=1)
    got = region(mix, LEVELS)
    assert np.all(got.converged)
    assert np.max(got.is_interval.sum(-1)) >= 3
    for i, level in enumerate(LEVELS):
        parts = [x[i] for x in arrays(mix)]
        log_c, middle, inside = by_grid(*parts, level)
        np.testing.assert_allclose(got.log_density[i], log_c, atol=3e-3)
        low, high = intervals(got, i)
        assert np.all(low < high)
        assert np.all(high[:-1] < low[1:])
        found = ((middle[:, None] >= low) & (middle[:, None] <= high)).any(-1)
        mass = density(*parts, middle) * np.gradient(middle)
        assert mass[found != inside].sum() < 2e-3
        # It holds what was asked for, and all ends are equally probable: the definition.
        np.testing.assert_allclose(content(parts, low, high), level, rtol=1e-12)
        ends = np.log(density(*parts, np.concatenate([low, high])))
        np.testing.assert_allclose(ends, float(got.log_density[i]), rtol=1e-9, atol=1e-9)


def test_one_component_has_the_central_interval(x64):
    level = np.array([1e-6, 0.1, 0.5, 0.9, 1 - 1e-9])
    got = of_few([3.0], [2.0], [1.0], level)
    assert np.all(got.converged)
    half = 2 * -scipy.special.ndtri((1 - level) / 2)
    # At 1e-6 of the probability log p falls by 1e-12 only.
    np.testing.assert_allclose(got.high[:, 0] - 3, half, rtol=1e-3)
    np.testing.assert_allclose(got.high[1:, 0] - 3, half[1:], rtol=1e-8)
    np.testing.assert_allclose(3 - got.low[1:, 0], half[1:], rtol=1e-8)
    expected = -((half / 2) ** 2) / 2 - np.log(2 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(got.log_density, expected, rtol=1e-12)
    np.testing.assert_array_equal(got.is_interval.sum(-1), 1)
    # The padding repeats it.
    np.testing.assert_array_equal(got.low, np.broadcast_to(got.low[:, :1], got.low.shape))


def test_two_far_components_share_the_level(x64):
    """Of equal height outside their tails: each holds its share."""
    got = of_few([-1e3, 1e3], [1.0, 2.0], [1 / 3, 2 / 3], [0.8])
    half = -scipy.special.ndtri(0.1)
    np.testing.assert_allclose(got.low[0, :2], [-1e3 - half, 1e3 - 2 * half], rtol=1e-6)
    np.testing.assert_allclose(got.high[0, :2], [-1e3 + half, 1e3 + 2 * half], rtol=1e-6)
    np.testing.assert_array_equal(got.is_interval, [[True, True, False, False]])


def slope_sign(weights, loc, scale, y):
    """The sign of p', terms scaled by their largest."""
    z = (y[..., None] - loc) / scale
    size = np.log(weights / scale**2) - z * z / 2
    return np.sign((-z * np.exp(size - size.max(-1, keepdims=True))).sum(-1))


def test_modes_and_antimodes_are_all_found(x64):
    """Against the sign changes of p' on a grid of 40 steps a sigma; narrow beside wide."""
    mix = random_batch(200, 5, seed=2)
    values = mdn.mixtures.gaussian.parameters(mix)
    points, is_point = (np.asarray(x) for x in jax.jit(_stationary_points)(values))
    for i in range(200):
        parts = [x[i] for x in arrays(mix)]
        _, loc, scale = parts
        y = np.unique((loc[:, None] + scale[:, None] * np.linspace(-8, 8, 640)).ravel())
        sign = slope_sign(*parts, y)
        change = np.flatnonzero(sign[1:] != sign[:-1])
        found = points[i][is_point[i]]
        assert len(found) == len(change)
        assert np.all((y[change] <= found) & (found <= y[change + 1]))
        # A mode and an antimode by turns.
        before, after = (slope_sign(*parts, found + s * 1e-7 * scale.min()) for s in (-1, 1))
        np.testing.assert_array_equal(before, np.where(np.arange(len(found)) % 2, -1, 1))
        np.testing.assert_array_equal(after, -before)


def test_scales_of_1e_6_to_1e6(x64):
    parts = [np.array(x) for x in ([0.3, 0.4, 0.3], [0.0, 0.5, 2.0], [1e-6, 1.0, 1e6])]
    weights, loc, scale = parts
    level = [0.2, 0.5, 0.69, 0.9, 0.999999]
    got = of_few(loc, scale, weights, level)
    assert np.all(got.converged)
    for i, inside in enumerate(level):
        np.testing.assert_allclose(content(parts, *intervals(got, i)), inside, rtol=1e-9)
    # The needle; needle and hill, one around the other; the plain around both.
    assert got.high[0, 0] < 1e-5
    assert 1 < got.high[1, 0] < 10
    assert got.high[3, 0] > 1e5


def test_float32_is_float64_rounded():
    with jax.enable_x64(True):
        wide = random_batch(N, 4, seed=1)
        exact = jax.tree.map(np.asarray, region(wide, LEVELS))
    numbers = (wide.log_weights, wide.loc[..., 0], wide.log_scale, LEVELS)
    got, _ = region_and_derivatives(*(jnp.asarray(np.asarray(x), jnp.float32) for x in numbers))
    assert got.log_density.dtype == np.float32
    assert np.all(got.converged)
    np.testing.assert_allclose(got.log_density, exact.log_density, atol=2e-4)
    np.testing.assert_array_equal(got.is_interval, exact.is_interval)
    np.testing.assert_allclose(got.low, exact.low, atol=2e-3)


def test_derivatives_by_finite_differences():
    """Of the float32 derivatives, differences taken in float64; one component has no weight."""
    logits, loc, log_scale = (
        [0.1, -0.3, 0.0, -np.inf],
        [-1.0, 0.4, 3.0, 0.0],
        [-0.5, -0.2, -0.3, 0.0],
    )
    h = 1e-5
    steps = h * np.eye(13)[np.r_[:3, 4:7, 8:11, 12]]
    for level in (0.3, 0.85):
        point = np.array([*logits, *loc, *log_scale, level])
        around = np.concatenate([point + steps, point - steps, np.resize(point, (4, 13))])
        with jax.enable_x64(True):
            logits_, loc_, log_scale_, levels = jnp.split(jnp.asarray(around), (4, 8, 12), axis=-1)
            mix = mdn.GaussianMixture(logits_, loc_[..., None], log_scale_, None, "isotropic")
            got = region(mix, levels[:, 0])
            values = np.concatenate([got.log_density[:, None], got.low, got.high], axis=-1)
        expected = ((values[:10] - values[10:20]) / (2 * h)).T
        parts = np.split(np.resize(point, (N, 13)).astype(np.float32), (4, 8, 12), axis=-1)
        _, derivatives = region_and_derivatives(*parts[:3], parts[3][:, 0])
        weightless = np.asarray(derivatives[0])[:, [3, 7, 11]]
        np.testing.assert_array_equal(weightless, 0)
        derivatives = np.asarray(derivatives[0])[:, np.r_[:3, 4:7, 8:11, 12]]
        size = np.abs(expected).max()
        np.testing.assert_allclose(derivatives / size, expected / size, atol=1e-5)


def test_what_is_no_level_is_nan(x64):
    got = of_few([-1.0, 1.0], [0.1, 0.5], [0.3, 0.7], [0.9, 0.0, 1.0, 1.5, np.nan])
    np.testing.assert_array_equal(got.converged, [True, False, False, False, False])
    np.testing.assert_allclose(got.low[0, :2], [-1.1977375, 0.227804], atol=2e-5)
    assert np.all(np.isnan(got.low[1:]) & np.isnan(got.high[1:]) & ~got.is_interval[1:])
    assert np.all(np.isnan(got.log_density[1:]))


def test_batches_broadcast():
    mix = random_batch(2, 3, seed=0)
    shapes = jax.eval_shape(mdn.highest_density_region, mix, np.full((4, 1), 0.5))
    assert shapes.low.shape == shapes.high.shape == shapes.is_interval.shape == (4, 2, 3)
    assert shapes.log_density.shape == shapes.converged.shape == (4, 2)


def test_derivatives_are_finite():
    logits = np.log(np.resize(np.float32([0.3, 0.7, 1e-4, 1e-30]), (N, 4)))
    logits[::2, 2:] = -np.inf
    loc = np.resize(np.float32([-1.0, 1.0, 9.0, 1e6]), (N, 4))
    log_scale = np.resize(np.float32([-2.3, -0.7, 0.0, -9.0]), (N, 4))
    level = np.repeat(np.float32([1e-4, 0.5, 0.9, 0.999]), N // 4)
    got = region_and_derivatives(logits, loc, log_scale, level)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(got))


find_level = jax.jit(mdn.highest_density_level, static_argnames=("level", "num_samples"))


@pytest.mark.parametrize(("dim", "level"), [(1, 0.5), (5, 0.95)])
def test_the_level_of_a_region_by_sampling(dim, level):
    """-2 log p of a normal is, but for its constant, chi-squared: exact for every dimension."""
    mix = mdn.GaussianMixture.isotropic(np.zeros((1, dim)), [1.0])
    got = find_level(jax.random.key(3), mix, level, num_samples=20_000)
    square = scipy.special.chdtri(dim, 1 - level)
    exact = -square / 2 - dim / 2 * np.log(2 * np.pi)
    assert abs(got.log_density - exact) <= scipy.special.ndtri(1 - 1e-5) * got.standard_error
    # The standard error of a quantile is sqrt(level (1 - level) / n) / density there.
    slope = np.exp(-square / 2) * (square / 2) ** (dim / 2 - 1) / scipy.special.gamma(dim / 2)
    expected = np.sqrt(level * (1 - level) / 20_000) / slope
    np.testing.assert_allclose(got.standard_error, expected, rtol=0.25)


def test_the_level_by_sampling_is_that_of_the_line(x64):
    mix = random_batch(N, 4, seed=5)
    exact = region(mix, np.full(N, 0.8)).log_density
    got = find_level(jax.random.key(1), mix, 0.8, num_samples=10_000)
    assert got.log_density.shape == (N,)
    assert np.all(np.abs(got.log_density - exact) <= 5 * got.standard_error)


def test_what_does_not_fit_is_named():
    plane = mdn.GaussianMixture.isotropic(np.zeros((2, 2)), [1.0, 1.0])
    with pytest.raises(ValueError, match="highest_density_region: mix must be of dimension D = 1"):
        mdn.highest_density_region(plane, 0.5)
    with pytest.raises(ValueError, match="highest_density_region: the batch shapes of mix and"):
        mdn.highest_density_region(random_batch(3, 2, seed=0), [0.1, 0.2])
    with pytest.raises(ValueError, match="highest_density_level: level must be in"):
        mdn.highest_density_level(jax.random.key(0), plane, 1.0)
    with pytest.raises(ValueError, match="highest_density_level: num_samples must be large"):
        mdn.highest_density_level(jax.random.key(0), plane, 0.9999, num_samples=100)
