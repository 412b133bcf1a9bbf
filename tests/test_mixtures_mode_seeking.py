"""Modes: exact examples, a search in NumPy, finite differences, symmetries, extremes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from made_mixtures import make

import mdnjax as mdn

# Compiled once for each shape, which is what takes the time.
compiled = functools.cache(lambda **options: jax.jit(functools.partial(mdn.modes, **options)))


def mixture(kind, loc, scale, logits=None):
    """From rows of numbers, made without compiling anything."""
    logits = np.zeros(np.shape(loc)[:-1]) if logits is None else logits
    parts = scipy.special.log_softmax(logits, axis=-1), np.asarray(loc), np.log(scale)
    return mdn.GaussianMixture(*(jnp.asarray(x) for x in parts), None, kind)


def crossed():
    """Ray and Lindsay's two components with three modes, which the lecture shows."""
    narrow, wide = np.sqrt(0.05), 1.0
    return mixture("diagonal", [[0.0, 0.0], [1.0, 1.0]], [[wide, narrow], [narrow, wide]])


def triangle(sigma):
    """Three equal components on a circle of radius 1, one at the top."""
    angle = np.pi / 2 + 2 * np.pi / 3 * np.arange(3)
    corners = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return mixture("isotropic", corners, [sigma] * 3), corners


def random_parameters(rng, kind, shape):
    """Weights, means, what the constructor wants, covariances."""
    *batch, k, dim = shape
    loc = rng.normal(size=shape) * np.exp(rng.uniform(-0.5, 1.2, size=(*batch, 1, 1)))
    weights = rng.dirichlet(np.full(k, 2.0), size=batch)
    if kind == "full":
        axes, _ = np.linalg.qr(rng.normal(size=(*shape, dim)))
        spread = np.exp(1.4 * rng.normal(size=shape))
        covariance = np.einsum("...ij,...j,...kj->...ik", axes, spread, axes)
        covariance = (covariance + covariance.swapaxes(-1, -2)) / 2
        return weights, loc, covariance, covariance
    size = (*batch, k) if kind == "isotropic" else shape
    scale = np.exp(0.7 * rng.normal(size=size))
    wide = np.broadcast_to(scale[..., None], shape) if kind == "isotropic" else scale
    return weights, loc, scale, wide[..., None] ** 2 * np.eye(dim)


def surface(weights, loc, precision, y):
    """Log density, its gradient, and the mean precision, in NumPy, at points `[S, D]`."""
    apart = loc - y[:, None]
    pull = np.einsum("kij,skj->ski", precision, apart)
    log_joint = np.log(weights) + 0.5 * np.linalg.slogdet(precision)[1]
    log_joint = log_joint - 0.5 * np.sum(apart * pull, axis=-1)
    peak = log_joint.max(axis=-1, keepdims=True)
    gamma = np.exp(log_joint - peak)
    total = gamma.sum(axis=-1, keepdims=True)
    gamma /= total
    gradient = np.einsum("sk,ski->si", gamma, pull)
    return (peak + np.log(total))[:, 0], gradient, np.einsum("sk,kij->sij", gamma, precision)


def searched(rng, weights, loc, covariance, num=40):
    """Peaks by mean shift from random points, in float64: positions and log densities."""
    k, dim = loc.shape
    precision = np.linalg.inv(covariance)
    component = rng.integers(k, size=num)
    noise = rng.normal(size=(num, dim))
    y = loc[component] + np.einsum("sij,sj->si", np.linalg.cholesky(covariance)[component], noise)
    y = np.concatenate([y, loc, rng.dirichlet(np.ones(k), size=num) @ loc])
    for _ in range(400):
        height, gradient, metric = surface(weights, loc, precision, y)
        y = y + np.linalg.solve(metric, gradient[..., None])[..., 0]
    height, gradient, metric = surface(weights, loc, precision, y)
    settled = np.einsum("si,si->s", gradient, np.linalg.solve(metric, gradient[..., None])[..., 0])
    found = []
    for i in np.argsort(-height):
        near = [np.sqrt((y[i] - y[j]) @ metric[j] @ (y[i] - y[j])) < 0.05 for j in found]
        if settled[i] < 1e-8 and not any(near):
            found.append(i)
    # A point that rolls onto a saddle stays there: a peak is higher than what surrounds it.
    peaks = []
    for i in found:
        around = 1e-3 * ring(dim) @ np.linalg.cholesky(np.linalg.inv(metric[i])).T
        if np.all(surface(weights, loc, precision, y[i] + around)[0] < height[i]):
            peaks.append((y[i], height[i], metric[i]))
    return peaks


def ring(dim):
    """Directions all around."""
    directions = np.random.default_rng(0).normal(size=(64, dim))
    return directions / np.linalg.norm(directions, axis=-1, keepdims=True)


@pytest.mark.parametrize(("bits", "tolerance"), [(32, 1e-4), (64, 1e-8)])
def test_two_components_with_three_modes(bits, tolerance):
    with jax.enable_x64(bits == 64):
        found = compiled()(crossed())
        expected = [[20 / 21, 1 / 21], [0.000556582942, 0.000001392230]]
        expected.append([0.999998607770, 0.999443417058])
        np.testing.assert_array_equal(found.is_mode, [True] * 3 + [False])
        # The two lower ones are equally high.
        order = 1 + np.argsort(np.asarray(found.points)[1:3, 0])
        points = np.asarray(found.points)[[0, *order]]
        np.testing.assert_allclose(points, expected, atol=tolerance)
        heights = [-0.816201405823, -1.033130420847, -1.033130420847, -np.inf]
        np.testing.assert_allclose(found.log_density, heights, atol=tolerance)
        np.testing.assert_array_equal(found.points[3], found.points[0])
        assert bool(found.converged)
        assert not bool(found.truncated)


def test_three_spheres_with_four_modes():
    counts = [compiled()(triangle(s)[0]).is_mode.sum() for s in (0.70, 0.72, 0.75)]
    np.testing.assert_array_equal(counts, [3, 4, 1])
    mix, corners = triangle(0.72)
    found = jax.tree.map(np.asarray, compiled()(mix))
    heights = [-2.131474889656] * 3 + [-2.145375105305]
    np.testing.assert_allclose(found.log_density[:4], heights, rtol=1e-4)
    np.testing.assert_allclose(found.points[3], 0, atol=1e-4)
    for corner in 0.647641954 * corners:
        assert np.linalg.norm(found.points[:3] - corner, axis=-1).min() < 1e-4


@pytest.mark.parametrize(
    ("kind", "k", "dim"), [("isotropic", 4, 1), ("diagonal", 8, 2), ("full", 4, 3)]
)
def test_no_mode_is_missed_and_none_invented(kind, k, dim):
    rng = np.random.default_rng(k)
    weights, loc, spread, covariance = random_parameters(rng, kind, (12, k, dim))
    mix = jax.jit(getattr(mdn.GaussianMixture, kind))(
        loc.astype(np.float32), spread.astype(np.float32), weights=weights.astype(np.float32)
    )
    found = jax.tree.map(np.asarray, compiled()(mix))
    assert bool(found.converged.all())
    for b in range(12):
        expected = searched(rng, weights[b], loc[b], covariance[b])
        mine = found.points[b][found.is_mode[b]].astype(np.float64)
        assert len(mine) == len(expected)
        for y, height, metric in expected:
            apart = np.sqrt(np.einsum("si,ij,sj->s", mine - y, metric, mine - y))
            assert apart.min() < 0.02
            constant = 0.5 * dim * np.log(2 * np.pi)
            best = found.log_density[b][int(np.argmin(apart))]
            np.testing.assert_allclose(best, height - constant, atol=2e-5)


@pytest.mark.parametrize("kind", ["isotropic", "full"])
def test_derivatives_are_those_of_finite_differences(kind, x64):
    head = mdn.GaussianHead(num_components=3, dim=2, covariance=kind)
    raw, direction = np.random.default_rng(3).normal(size=(2, head.num_outputs))

    @jax.jit
    @jax.vmap
    def moving(t):
        return jax.jvp(lambda t: mdn.modes(head.mixture(raw + t * direction))[:2], (t,), (1.0,))

    step = 1e-5
    values, slopes = jax.tree.map(np.asarray, moving(np.array([0, -step, step])))
    is_mode = values[1][0] > -np.inf
    for (_, before, after), (mine, *_) in zip(values, slopes, strict=True):
        expected = (after[is_mode] - before[is_mode]) / (2 * step)
        assert np.abs(expected).max() > 0.01
        np.testing.assert_allclose(mine[is_mode], expected, rtol=1e-6, atol=1e-8)
        np.testing.assert_array_equal(mine[~is_mode], 0)


def test_second_derivatives_are_differences_of_first_ones(x64):
    head = mdn.GaussianHead(num_components=2, dim=2)
    raw = np.array([0.3, -0.2, 0.1, -0.1, 0.0, 0.8, 0.5, -0.3])  # close enough for a single mode

    @jax.jit
    @jax.vmap
    def derivatives(raw):
        def gradient(raw):
            first = jax.grad(lambda raw: mdn.mode(head.mixture(raw))[0])(raw)
            return first, first

        return jax.jacfwd(gradient, has_aux=True)(raw)

    steps = 1e-5 * np.eye(len(raw))
    hessian, gradient = derivatives(np.stack([raw, *raw + steps, *raw - steps]))
    after, before = np.split(np.asarray(gradient)[1:], 2)
    expected = (after - before) / 2e-5
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(hessian[0], expected, rtol=1e-5, atol=1e-6)


def test_batches_of_any_shape_and_size():
    mix = jax.tree.map(np.asarray, make("isotropic", (3, 2), k=2, seed=5))
    one_by_one = jax.jit(jax.vmap(jax.vmap(mdn.modes)))(mix)
    # Many more than one block of the search.
    many = compiled()(jax.tree.map(lambda x: np.tile(x, (400,) + (1,) * (x.ndim - 1)), mix))
    assert many.points.shape == (1200, 2, 4, 2)
    assert many.converged.shape == many.truncated.shape == (1200, 2)
    for one, other in zip(one_by_one, many, strict=True):
        one = np.tile(one, (400,) + (1,) * (one.ndim - 1))
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    nothing = jax.eval_shape(mdn.modes, jax.tree.map(lambda x: x[:0], mix))
    assert nothing.points.shape == (0, 2, 4, 2)


@given(st.floats(-30, 30), st.floats(-3, 3), st.floats(-3, 3))
@settings(max_examples=30, deadline=None)
def test_units_and_origin_do_not_matter(log_unit, x, y):
    mix = crossed()
    unit = np.float32(np.exp(log_unit))
    origin = unit * np.array([x, y], np.float32)
    moved = mixture("diagonal", origin + unit * np.asarray(mix.loc), unit * np.exp(mix.log_scale))
    here, there = compiled()(mix), compiled()(moved)
    assert there.is_mode.sum() == 3
    expected = origin + unit * here.points[0]
    np.testing.assert_allclose(there.points[0], expected, rtol=1e-4, atol=1e-4 * unit)
    expected = here.log_density[:3] - 2 * log_unit
    np.testing.assert_allclose(there.log_density[:3], expected, atol=1e-3)


def test_components_far_apart_or_of_very_different_widths():
    loc, scale = [[0.0], [1e6], [1e6 + 1.0]], [1e-6, 1e3, 1e-3]
    found = compiled()(mixture("isotropic", loc, scale))
    np.testing.assert_array_equal(found.is_mode, [True] * 3 + [False] * 3)
    np.testing.assert_allclose(found.points[:3, 0], [0, 1e6 + 1, 1e6], rtol=1e-7)
    alone = compiled()(mixture("diagonal", [[3.0, -2.0]], [[1e-15, 1e12]]))
    np.testing.assert_array_equal(alone.is_mode, [True, False])
    np.testing.assert_allclose(alone.points[0], [3, -2], rtol=1e-6)


def test_a_component_without_weight_changes_nothing():
    logits = np.array([0.0, 0.5, -np.inf], np.float32)
    loc, scale = np.array([[0.0], [5.0], [2.0]]), np.array([1.0, 0.5, 1e-30])

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1, 2))
    def highest(logits, loc, scale):
        return mdn.mode(mdn.GaussianMixture.isotropic(loc, scale, logits=logits))[0]

    def density(y):
        return np.exp(logits[:2]) @ scipy.stats.norm.pdf(y, loc[:2, 0], scale[:2])

    found, gradients = highest(logits, np.float32(loc), np.float32(scale))
    peak = scipy.optimize.minimize_scalar(lambda y: -density(y), bounds=(4, 6), method="bounded")
    np.testing.assert_allclose(found, peak.x, rtol=1e-6)
    assert density(float(found)) >= density(peak.x) * (1 - 1e-12)
    for gradient in gradients:
        assert np.isfinite(gradient).all()
    assert gradients[0][2] == 0


def test_nothing_is_hidden():
    rng = np.random.default_rng(0)
    loc, scale = rng.normal(size=(12, 4)), np.ones((12, 4))
    loc[0, 1] = scale[1, 2] = np.nan
    mix = mixture("isotropic", loc[..., None], scale)
    found = jax.tree.map(np.asarray, compiled()(mix))
    lost = np.arange(12) < 2
    np.testing.assert_array_equal(np.isnan(found.points).all((-2, -1)), lost)
    np.testing.assert_array_equal(found.is_mode.any(-1), ~lost)


def test_too_many_modes_and_too_few_starts():
    loc = 10.0 * np.arange(12)[:, None]
    mix = mixture("isotropic", loc, np.ones(12), logits=-0.1 * np.arange(12))
    few = compiled(max_modes=11)(mix)
    assert few.points.shape == (11, 1)
    assert bool(few.truncated)  # which says that the twelfth was found, too
    np.testing.assert_allclose(few.points, loc[:11], atol=1e-4)
    tallest = compiled(max_starts=3)(mix)
    np.testing.assert_allclose(tallest.points[:3], loc[:3], atol=1e-4)
    assert tallest.is_mode.sum() == 3


def test_of_the_pairs_those_that_overlap_most_are_started_from():
    """Ten components far away, and room for one pair: the two that cross."""
    mix, far = crossed(), 100.0 * (1 + np.arange(10))
    loc = np.concatenate([np.stack([far, -far], axis=-1), mix.loc])
    scale = np.concatenate([np.ones((10, 2)), np.exp(mix.log_scale)])
    found = compiled(max_starts=14)(mixture("diagonal", loc, scale))
    np.testing.assert_allclose(found.points[0], [20 / 21, 1 / 21], atol=1e-4)


def test_a_climb_cut_short_is_told():
    mix, _ = triangle(0.72)
    cut = compiled(max_iterations=2)(mix)
    assert not bool(cut.converged)
    assert np.isfinite(cut.points).all()
    assert bool(compiled()(mix).converged)


@pytest.mark.parametrize("option", ["max_modes", "max_starts", "max_iterations"])
def test_options_that_are_no_counts(option):
    with pytest.raises(ValueError, match=f"modes: {option} must be an int >= 1, got 0"):
        mdn.modes(crossed(), **{option: 0})


def test_more_dimensions_than_are_unrolled(x64):
    rng = np.random.default_rng(0)
    weights, loc, spread, covariance = random_parameters(rng, "full", (2, 12))
    mix = jax.jit(mdn.GaussianMixture.full)(8 * loc, spread, weights=weights)
    found = jax.tree.map(np.asarray, compiled()(mix))
    assert found.is_mode.sum() == 2
    for y in found.points[:2]:
        _, gradient, _ = surface(weights, 8 * loc, np.linalg.inv(covariance), y[None])
        np.testing.assert_allclose(gradient, 0, atol=1e-6)
