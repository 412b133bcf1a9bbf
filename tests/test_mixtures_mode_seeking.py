"""Modes: exact examples, a search in NumPy, finite differences, symmetries, extremes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mdnjax as mdn

KINDS = ("isotropic", "diagonal", "full")
compiled = functools.cache(lambda **options: jax.jit(functools.partial(mdn.modes, **options)))


def crossed():
    """Ray and Lindsay's two components with three modes, which the lecture shows."""
    narrow, wide = np.sqrt(0.05), 1.0
    return mdn.GaussianMixture.diagonal([[0.0, 0.0], [1.0, 1.0]], [[wide, narrow], [narrow, wide]])


def triangle(sigma):
    """Three equal components on a circle of radius 1, one at the top."""
    angle = np.pi / 2 + 2 * np.pi / 3 * np.arange(3)
    corners = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return mdn.GaussianMixture.isotropic(corners, [sigma] * 3), corners


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


@pytest.mark.parametrize(("bits", "tolerance"), [(32, 1e-4), (64, 1e-6)])
def test_two_components_with_three_modes(bits, tolerance):
    with jax.enable_x64(bits == 64):
        found = compiled()(crossed())
        expected = [[20 / 21, 1 / 21], [0.000556582942, 0.000001392230]]
        expected.append([0.999998607770, 0.999443417058])
        np.testing.assert_array_equal(found.is_mode, [True] * 3 + [False])
        order = 1 + np.argsort(found.points[1:3, 0])  # the two lower ones are equally high
        points = found.points[np.array([0, *order])]
        np.testing.assert_allclose(points, expected, atol=tolerance)
        heights = [-0.816201405823, -1.033130420847, -1.033130420847, -np.inf]
        np.testing.assert_allclose(found.log_density, heights, atol=tolerance)
        np.testing.assert_array_equal(found.points[3], found.points[0])
        assert bool(found.converged)
        assert not bool(found.truncated)
        np.testing.assert_allclose(jax.jit(mdn.mode)(crossed()), expected[0], atol=tolerance)


@pytest.mark.parametrize("bits", [32, 64])
def test_three_spheres_with_four_modes(bits):
    with jax.enable_x64(bits == 64):
        counts = [compiled()(triangle(s)[0]).is_mode.sum() for s in (0.70, 0.72, 0.75)]
        np.testing.assert_array_equal(counts, [3, 4, 1])
        mix, corners = triangle(0.72)
        found = compiled()(mix)
        tolerance = 1e-4 if bits == 32 else 1e-8
        heights = [-2.131474889656] * 3 + [-2.145375105305]
        np.testing.assert_allclose(found.log_density[:4], heights, rtol=tolerance)
        np.testing.assert_allclose(found.points[3], 0, atol=tolerance)
        for corner in 0.647641954 * corners:
            apart = np.linalg.norm(np.asarray(found.points[:3]) - corner, axis=-1)
            assert apart.min() < tolerance


@pytest.mark.parametrize(
    ("kind", "k", "dim"), [("isotropic", 4, 1), ("diagonal", 8, 2), ("full", 4, 3)]
)
def test_no_mode_is_missed_and_none_invented(kind, k, dim):
    rng = np.random.default_rng(k)
    weights, loc, spread, covariance = random_parameters(rng, kind, (12, k, dim))
    mix = getattr(mdn.GaussianMixture, kind)(
        loc.astype(np.float32), spread.astype(np.float32), weights=weights.astype(np.float32)
    )
    found = compiled()(mix)
    assert bool(found.converged.all())
    for b in range(12):
        expected = searched(rng, weights[b], loc[b], covariance[b])
        mine = np.asarray(found.points[b], np.float64)[np.asarray(found.is_mode[b])]
        assert len(mine) == len(expected)
        for y, height, metric in expected:
            apart = np.sqrt(np.einsum("si,ij,sj->s", mine - y, metric, mine - y))
            assert apart.min() < 0.02
            constant = 0.5 * dim * np.log(2 * np.pi)
            best = found.log_density[b][int(np.argmin(apart))]
            np.testing.assert_allclose(best, height - constant, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_are_those_of_finite_differences(kind, x64):
    rng = np.random.default_rng(3)
    head = mdn.GaussianHead(num_components=3, dim=2, covariance=kind)
    raw, direction = rng.normal(size=(2, head.num_outputs))
    points = jax.jit(lambda raw: mdn.modes(head.mixture(raw))[:2])
    (_, height), moved = jax.jvp(points, (raw,), (direction,))
    step = 1e-5
    after, before = points(raw + step * direction), points(raw - step * direction)
    is_mode = height > -np.inf
    for mine, late, early in zip(moved, after, before, strict=True):
        expected = (late - early)[is_mode] / (2 * step)
        assert np.abs(expected).max() > 0.01
        np.testing.assert_allclose(mine[is_mode], expected, rtol=1e-6, atol=1e-8)
        np.testing.assert_array_equal(mine[~is_mode], 0)


def test_second_derivatives_are_differences_of_first_ones(x64):
    head = mdn.GaussianHead(num_components=2, dim=2, covariance="full")
    raw = np.random.default_rng(1).normal(size=head.num_outputs)
    gradient = jax.jit(jax.grad(lambda raw: mdn.mode(head.mixture(raw))[0]))
    hessian = jax.jit(jax.jacfwd(gradient))(raw)
    steps = 1e-5 * np.eye(len(raw))
    expected = [(gradient(raw + h) - gradient(raw - h)) / 2e-5 for h in steps]
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(hessian, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["isotropic", "full"])
def test_batches_of_any_shape_and_size(kind):
    rng = np.random.default_rng(5)
    head = mdn.GaussianHead(num_components=3, dim=2, covariance=kind)
    raw = rng.normal(size=(3, 2, head.num_outputs)).astype(np.float32)
    mix = head.mixture(raw)
    whole = compiled()(mix)
    mapped = jax.jit(jax.vmap(jax.vmap(mdn.modes)))(mix)
    assert whole.points.shape == (3, 2, 6, 2)
    assert whole.converged.shape == whole.truncated.shape == (3, 2)
    for one, other in zip(whole, mapped, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    # Many more than one block of the search.
    many = compiled()(jax.tree.map(lambda x: jnp.tile(x, (200,) + (1,) * (x.ndim - 1)), mix))
    for one, other in zip(whole, many, strict=True):
        np.testing.assert_allclose(jnp.tile(one, (200,) + (1,) * (one.ndim - 1)), other, atol=1e-4)
    nothing = compiled()(head.mixture(np.zeros((0, head.num_outputs), np.float32)))
    assert nothing.points.shape == (0, 6, 2)


@given(st.floats(-30, 30), st.floats(-3, 3), st.floats(-3, 3))
@settings(max_examples=30, deadline=None)
def test_units_and_origin_do_not_matter(log_unit, x, y):
    mix = crossed()
    unit = np.float32(np.exp(log_unit))
    origin = unit * np.array([x, y], np.float32)
    moved = mdn.GaussianMixture.diagonal(origin[None] + unit * mix.loc, unit * mix.scale)
    here, there = compiled()(mix), compiled()(moved)
    assert there.is_mode.sum() == 3
    expected = origin + unit * here.points[0]
    np.testing.assert_allclose(there.points[0], expected, rtol=1e-4, atol=1e-4 * unit)
    expected = here.log_density[:3] - 2 * log_unit
    np.testing.assert_allclose(there.log_density[:3], expected, atol=1e-3)


def test_components_far_apart_or_of_very_different_widths():
    loc, scale = [[0.0], [1e6], [1e6 + 1.0]], [1e-6, 1e3, 1e-3]
    found = compiled()(mdn.GaussianMixture.isotropic(loc, scale))
    np.testing.assert_array_equal(found.is_mode, [True] * 3 + [False] * 3)
    np.testing.assert_allclose(found.points[:3, 0], [0, 1e6 + 1, 1e6], rtol=1e-7)
    alone = compiled()(mdn.GaussianMixture.diagonal([[3.0, -2.0]], [[1e-15, 1e12]]))
    np.testing.assert_array_equal(alone.is_mode, [True, False])
    np.testing.assert_allclose(alone.points[0], [3, -2], rtol=1e-6)


def test_a_component_without_weight_changes_nothing():
    logits = jnp.array([0.0, 0.5, -jnp.inf])
    loc, scale = jnp.array([[0.0], [5.0], [2.0]]), jnp.array([1.0, 0.5, 1e-30])

    def highest(logits, loc, scale):
        return mdn.mode(mdn.GaussianMixture.isotropic(loc, scale, logits=logits))[0]

    value_and_grad = jax.jit(jax.value_and_grad(highest, argnums=(0, 1, 2)))
    with_it, gradients = value_and_grad(logits, loc, scale)
    without = jax.jit(highest)(logits[:2], loc[:2], scale[:2])
    np.testing.assert_allclose(with_it, without, rtol=1e-6)
    for gradient in gradients:
        assert np.isfinite(gradient).all()
    assert gradients[0][2] == 0


def test_nothing_is_hidden():
    loc, scale = np.zeros((3, 2, 2), np.float32), np.ones((3, 2), np.float32)
    loc[0, 1, 0] = scale[1, 1] = np.nan
    found = compiled()(mdn.GaussianMixture.isotropic(loc, scale))
    np.testing.assert_array_equal(np.isnan(found.points).all((-2, -1)), [True, True, False])
    np.testing.assert_array_equal(found.is_mode.any(-1), [False, False, True])


def test_too_many_modes_and_too_few_starts():
    loc = 10.0 * np.arange(12)[:, None]
    mix = mdn.GaussianMixture.isotropic(loc, np.ones(12), logits=-0.1 * np.arange(12))
    assert compiled()(mix).is_mode.sum() == 12
    few = compiled(max_modes=5)(mix)
    assert few.points.shape == (5, 1)
    assert bool(few.truncated)
    np.testing.assert_allclose(few.points, loc[:5], atol=1e-4)
    tallest = compiled(max_starts=3)(mix)
    np.testing.assert_allclose(tallest.points[:3], loc[:3], atol=1e-4)
    assert tallest.is_mode.sum() == 3


def test_of_the_pairs_those_that_overlap_most_are_started_from():
    """Ten components far away, and room for one pair: the two that cross."""
    mix, far = crossed(), 100.0 * (1 + np.arange(10))
    loc = np.concatenate([np.stack([far, -far], axis=-1), mix.loc])
    scale = np.concatenate([np.ones((10, 2)), mix.scale])
    found = compiled(max_starts=14)(mdn.GaussianMixture.diagonal(loc, scale))
    np.testing.assert_allclose(found.points[0], [20 / 21, 1 / 21], atol=1e-4)


def test_a_climb_cut_short_is_told():
    mix = mdn.GaussianMixture.isotropic([[0.0], [1.9]], [1.0, 1.0])
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
    found = compiled()(mdn.GaussianMixture.full(8 * loc, spread, weights=weights))
    assert found.is_mode.sum() == 2
    for y in np.asarray(found.points[:2]):
        _, gradient, _ = surface(weights, 8 * loc, np.linalg.inv(covariance), y[None])
        np.testing.assert_allclose(gradient, 0, atol=1e-6)
