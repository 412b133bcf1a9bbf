"""CRPS and energy score: exact numbers, quadrature, high precision, other packages."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from made_mixtures import make

import mdnjax as mdn

# Compiled for few shapes, since compiling is what takes the time.
crps = jax.jit(mdn.crps)
crps_gradient = jax.jit(jax.grad(lambda mix, y: mdn.crps(mix, y).sum(), argnums=(0, 1)))
energy_score = jax.jit(mdn.energy_score, static_argnames=("num_samples", "with_error"))
KINDS = ("isotropic", "diagonal", "full")
SHAPE = (12, 4)


def numbers(mix):
    """Weights and, of D = 1, means and scales, `[..., K]`."""
    loc = np.asarray(mix.loc)[..., 0]
    return np.exp(mix.log_weights), loc, np.exp(np.asarray(mix.log_scale)).reshape(loc.shape)


def padded(mix, y):
    """One mixture with components of no weight, four in all, and up to twelve y."""
    k, n = mix.num_components, len(y)

    def repeated(x, value):
        x = np.asarray(x)
        x = np.pad(x, ((0, SHAPE[1] - k), *((0, 0),) * (x.ndim - 1)), constant_values=value)
        return jnp.asarray(np.broadcast_to(x, (SHAPE[0], *x.shape)))

    upper = None if mix.upper is None else repeated(mix.upper, 0)
    fields = repeated(mix.log_weights, -np.inf), repeated(mix.loc, 0), repeated(mix.log_scale, 0)
    y = np.pad(np.asarray(y, mix.loc.dtype), (0, SHAPE[0] - n), mode="edge")[:, None]
    return mdn.GaussianMixture(*fields, upper, mix.covariance_kind), jnp.asarray(y)


def score(mix, y):
    """CRPS of one mixture at up to twelve y."""
    return np.asarray(crps(*padded(mix, y)))[: len(y)]


def score_gradient(mix, y):
    """Its derivatives at one y."""
    at_mix, at_y = crps_gradient(*padded(mix, [y]))
    k = mix.num_components
    return jax.tree.map(lambda x: np.asarray(x)[0, :k], at_mix), np.asarray(at_y)[0]


def line(loc, scale, weights=None):
    """A mixture with D = 1 of rows of numbers, made without compiling anything."""
    loc = np.asarray(loc)
    weights = np.ones_like(loc) if weights is None else np.asarray(weights, loc.dtype)
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights / weights.sum(-1, keepdims=True, dtype=float))
    parts = log_weights, loc[..., None], np.log(scale)
    return mdn.GaussianMixture(*map(jnp.asarray, parts), None, "isotropic")


def exact_crps(mix, y):
    """Grimit's formula as it stands, with 60 digits, of a mixture as it is stored."""
    with mpmath.workdps(60):
        numbers = (mpmath.mpf(float(x)) for x in mix.log_weights)
        weights = [mpmath.exp(x) for x in numbers]
        weights = [w / sum(weights) for w in weights]
        scales = [mpmath.exp(mpmath.mpf(float(s))) for s in np.ravel(mix.log_scale)]
        locs, y = [mpmath.mpf(float(m)) for m in np.ravel(mix.loc)], mpmath.mpf(float(y))

        def a(m, v):
            s = mpmath.sqrt(v)
            return 2 * s * mpmath.npdf(m / s) + m * mpmath.erf(m / (s * mpmath.sqrt(2)))

        parts = list(zip(weights, locs, scales, strict=True))
        near = sum(w * a(y - m, s**2) for w, m, s in parts)
        apart = (v * w * a(m - n, s**2 + t**2) for v, m, s in parts for w, n, t in parts)
        return near - mpmath.fsum(apart) / 2


def test_scoringrules_own_examples(x64):
    loc, scale = [0.0, -2.9, 0.9], [0.5, 1.4, 0.7]
    np.testing.assert_allclose(score(line(loc, scale), [0.3]), 0.4510451, atol=5e-8)
    weighted = line(loc, scale, [0.3, 0.1, 0.6])
    np.testing.assert_allclose(score(weighted, [0.3]), 0.2354619, atol=5e-8)


def test_one_gaussian_at_its_centre(x64):
    """sigma (sqrt(2) - 1) / sqrt(pi), Gneiting and Raftery's closed form at z = 0."""
    expected = 3 * (np.sqrt(2) - 1) / np.sqrt(np.pi)
    np.testing.assert_allclose(score(line([7.0], [3.0]), [7.0]), expected, rtol=1e-15)


def test_batches_against_scoringrules(x64):
    rules = pytest.importorskip("scoringrules")
    y = np.random.default_rng(1).normal(size=(*SHAPE[:1], 1))
    mixes = [make(kind, SHAPE[:1], k=4, dim=1) for kind in KINDS]
    got = jax.jit(lambda mixes: [mdn.crps(mix, y) for mix in mixes])(mixes)
    for mix, value in zip(mixes, got, strict=True):
        weights, loc, scale = numbers(mix)
        expected = rules.crps_mixnorm(y[..., 0], loc, scale, weights, backend="numpy")
        np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_it_is_the_integral_of_the_squared_distance_of_distribution_functions(x64):
    mix = make("isotropic", k=3, seed=3, dim=1)
    weights, loc, scale = numbers(mix)

    def cdf(x):
        return weights @ scipy.special.ndtr((x - loc) / scale)

    for y in (-2.0, 0.1, 5.0):
        left = scipy.integrate.quad(lambda x: cdf(x) ** 2, -60, y, epsabs=1e-12, limit=200)[0]
        right = scipy.integrate.quad(lambda x: (1 - cdf(x)) ** 2, y, 60, epsabs=1e-12, limit=200)[0]
        np.testing.assert_allclose(score(mix, [y]), left + right, rtol=1e-9)


HARD = {
    "apart": ([0.3, 0.7], [-1.0, 1.0], [0.1, 0.5], 0.0),
    "light and far": ([1e-8, 1.0], [0.0, 1e6], [1.0, 1e-3], 1e6),
    "lighter and far": ([1e-5, 1.0], [1e6, 0.0], [1.0, 1e-3], 0.0),
    "light and wide": ([1 - 1e-6, 1e-6], [0.0, 0.0], [1e-10, 1.0], 0.0),
    "far from the origin": ([0.5, 0.5], [1e6, 1e6 + 1], [0.1, 0.1], 1e6 + 0.5),
    "points": ([0.5, 0.5], [0.0, 1.0], [1e-20, 1e-20], 0.5),
    "y far": ([0.9, 0.1], [0.0, 1.0], [1e-20, 1e10], 1e15),
    "huge": ([0.2, 0.8], [0.0, 1e20], [1e18, 1e-18], 3e19),
    "tiny": ([1.0], [5.0], [1e-30], 5.0),
    "far": ([1.0], [0.0], [1.0], 1e5),
    "y between": ([0.5, 0.5], [-10.0, 10.0], [1.0, 2.0], 0.0),
    "alike": ([0.25] * 4, [1.0] * 4, [2.0] * 4, 1.1),
}


@pytest.mark.parametrize("name", HARD)
def test_float32_keeps_its_digits_where_the_formula_as_printed_cancels(name):
    """The formula as printed: off by 3e-4 and 6e-4 in the lighter cases, NaN of points."""
    weights, loc, scale, y = HARD[name]
    mix = line(np.float32(loc), np.float32(scale), np.float32(weights))
    y = np.float32(y)
    (got,) = score(mix, [y])
    # exp(log s) in float32 errs by up to |log s| / 2 units in the last place.
    np.testing.assert_allclose(got, float(exact_crps(mix, y)), rtol=5e-6)


def test_derivatives_are_those_of_high_precision(x64):
    """Central differences of the 60-digit formula, in every parameter and in y."""
    mix, y, h = make("full", k=3, seed=5, dim=1), 0.4, 1e-5
    at_mix, at_y = score_gradient(mix, y)

    for field in ("log_weights", "loc", "log_scale"):
        value, gradient = np.asarray(getattr(mix, field)), np.asarray(getattr(at_mix, field))
        for place in np.ndindex(value.shape):
            step = np.zeros(value.shape)
            step[place] = 1
            above, below = (
                exact_crps(dataclasses.replace(mix, **{field: value + t * step}), y)
                for t in (h, -h)
            )
            expected = float((above - below) / (2 * h))
            np.testing.assert_allclose(gradient[place], expected, atol=2e-9)
    expected = (exact_crps(mix, y + h) - exact_crps(mix, y - h)) / (2 * h)
    np.testing.assert_allclose(at_y, [float(expected)], atol=2e-9)


def raw_score(raw):
    head = mdn.GaussianHead(num_components=2, dim=1)
    return mdn.crps(head.mixture(raw), jnp.full(1, 0.5))


@jax.jit
@jax.vmap
def raw_derivatives(raw):
    """The gradient and, differentiated forward, the second derivatives."""

    def gradient(raw):
        first = jax.grad(raw_score)(raw)
        return first, first

    second, first = jax.jacfwd(gradient, has_aux=True)(raw)
    return first, second


RAW = np.random.default_rng(0).normal(size=6)


@pytest.mark.parametrize("raw", [RAW, np.zeros(6)])
def test_second_derivatives(raw, x64):
    """Differences of the gradient; at zero, where training may start, means and scales tie."""
    h = 1e-5
    first, second = raw_derivatives(np.stack([raw, *raw + h * np.eye(6), *raw - h * np.eye(6)]))
    np.testing.assert_allclose(second[0], (first[1:7] - first[7:]) / (2 * h), atol=1e-9)


def test_crps_is_finite_for_every_finite_input():
    rng, n = np.random.default_rng(0), 4000
    extremes = np.float32([0, 1, -1, 1e-38, 1e30, -1e30, 3.4e38, -3.4e38])
    logits, log_scale = rng.choice(extremes, (2, n, 3))
    logits[rng.random((n, 3)) < 0.3] = -np.inf
    log_scale[::2] = 50 * rng.normal(size=(n // 2, 3))
    loc, y = rng.choice(extremes, (n, 3, 1)), rng.choice(extremes, (n, 1))
    mix = mdn.GaussianMixture(*map(jnp.asarray, (logits, loc, log_scale)), None, "isotropic")
    value = np.asarray(crps(mix, y))
    assert np.isfinite(value).all()
    assert (value >= 0).all()
    for leaf in jax.tree.leaves(crps_gradient(mix, y)):
        assert np.isfinite(leaf).all()


def test_a_weight_of_zero_counts_for_nothing():
    one = line([0.5], [0.7])
    two = line([0.5, 1e30], [0.7, 1e30], [1.0, 0.0])
    np.testing.assert_allclose(score(two, [0.1]), score(one, [0.1]), rtol=1e-6)
    gradient, at_y = score_gradient(two, 0.1)
    expected, at_y_of_one = score_gradient(one, 0.1)
    np.testing.assert_allclose(gradient.loc[0], expected.loc[0], rtol=1e-5)
    np.testing.assert_array_equal(gradient.loc[1], 0)
    np.testing.assert_array_equal(gradient.log_weights[1], 0)
    np.testing.assert_allclose(at_y, at_y_of_one, rtol=1e-6)


@pytest.mark.parametrize("field", ["log_weights", "loc", "log_scale"])
def test_nan_stays_nan(field):
    mix = line([0.0, 1.0, 2.0], [1.0, 1.0, 1.0])
    ill = dataclasses.replace(mix, **{field: getattr(mix, field).at[1].set(jnp.nan)})
    assert np.isnan(score(ill, [0.0]))
    assert np.isnan(score(mix, [np.nan]))


def test_crps_is_proper_and_its_mean_is_least_for_the_truth(x64):
    """By quadrature over y: E crps(q, Y) - E crps(p, Y) = int (F_p - F_q)^2 > 0."""
    p, q = line([-1.0, 1.0], [0.3, 0.5], [0.4, 0.6]), line([-0.9, 1.0], [0.4, 0.5])
    x = np.linspace(-9, 9, 18_001)
    weights, loc, scale = numbers(p)
    density = scipy.stats.norm.pdf(x[:, None], loc, scale) @ weights
    gap = scipy.integrate.simpson(density * (crps(q, x[:, None]) - crps(p, x[:, None])), x=x)

    def cdf(mix):
        weights, loc, scale = numbers(mix)
        return scipy.special.ndtr((x[:, None] - loc) / scale) @ weights

    expected = scipy.integrate.simpson((cdf(p) - cdf(q)) ** 2, x=x)
    np.testing.assert_allclose(gap, expected, rtol=1e-8)


def test_crps_broadcasts_and_keeps_the_mixtures_dtype():
    mix, y = make("isotropic", (4,), dim=1), np.linspace(-1, 1, 3)
    out = jax.eval_shape(mdn.crps, mix[:, None], y[:, None])
    assert (out.shape, out.dtype) == ((4, 3), jnp.float32)
    by_vmap = jax.jit(jax.vmap(mdn.crps, in_axes=(0, None)))(mix, y[:, None])
    expected = [score(jax.tree.map(lambda x, i=i: x[i], mix), y) for i in range(4)]
    np.testing.assert_allclose(by_vmap, expected, rtol=1e-6)


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match=r"crps: mix must be of D = 1 \(energy_score"):
        mdn.crps(make("full", dim=2), np.zeros(1))
    with pytest.raises(ValueError, match="crps: the batch shapes of mix and y"):
        mdn.crps(make("full", (3,), dim=1), [[0.0], [0.0]])
    for wrong in (16, 100, 0):
        with pytest.raises(ValueError, match="energy_score: num_samples must be a multiple of 16"):
            mdn.energy_score(jax.random.key(0), make("full", dim=1), [0.0], num_samples=wrong)


def test_in_one_dimension_the_energy_score_estimates_crps(x64):
    """Many independent estimates: their mean is unbiased and their errors are what is said."""
    mix, y, n = make("isotropic", k=3, seed=1, dim=1), np.full((4000, 1), 0.4), 32
    exact = score(mix, [0.4])[0]
    estimate, error = energy_score(jax.random.key(0), mix, y, num_samples=n, with_error=True)
    deviation = np.std(estimate) / np.sqrt(len(estimate))
    assert abs(np.mean(estimate) - exact) < scipy.stats.norm.isf(1e-4 / 2) * deviation
    # The mean of the squared errors is the variance, within the noise of 4000 estimates.
    np.testing.assert_allclose(np.sqrt(np.mean(error**2)), np.std(estimate), rtol=0.06)


def test_reparameterized_its_derivatives_are_those_of_crps(x64):
    """In one dimension, in every parameter, the weights among them: 1000 independent estimates."""
    head, n = mdn.GaussianHead(num_components=2, dim=1), 1000

    def estimate(key, raw):
        mix, y = head.mixture(raw), jnp.full(1, 0.5)
        return mdn.energy_score(key, mix, y, num_samples=32, reparameterized=True)

    gradients = jax.jit(jax.vmap(jax.grad(estimate, argnums=1), in_axes=(0, None)))
    drawn = np.asarray(gradients(jax.random.split(jax.random.key(0), n), RAW))
    expected = np.asarray(raw_derivatives(np.resize(RAW, (13, 6)))[0])[0]
    bound = scipy.stats.norm.isf(1e-4 / 6 / 2) * drawn.std(0) / np.sqrt(n)
    assert (np.abs(drawn.mean(0) - expected) < bound).all()


def distance_to_a_sphere(m, s, dim):
    """E|N(m, s^2 I)| in `dim` dimensions: Rice's mean."""
    x = -(m**2) / (2 * s**2)
    half = scipy.special.gamma((dim + 1) / 2) / scipy.special.gamma(dim / 2)
    return np.sqrt(2) * s * half * scipy.special.hyp1f1(-0.5, dim / 2, x)


def test_the_energy_score_of_spheres_has_a_closed_form(x64):
    dim = 5
    mix = make("isotropic", k=3, dim=dim, seed=2)
    y = np.random.default_rng(0).normal(size=dim)
    weights, loc, scale = np.exp(mix.log_weights), np.asarray(mix.loc), np.exp(mix.log_scale)
    far = np.linalg.norm(loc[:, None] - loc[None], axis=-1)
    wide = np.sqrt(scale[:, None] ** 2 + scale[None] ** 2)
    exact = weights @ distance_to_a_sphere(np.linalg.norm(y - loc, axis=-1), scale, dim)
    exact -= 0.5 * weights @ distance_to_a_sphere(far, wide, dim) @ weights
    score, error = energy_score(jax.random.key(1), mix, y, num_samples=16_384, with_error=True)
    assert abs(score - exact) < scipy.stats.norm.isf(1e-4 / 2) * error
    assert error < 0.02 * exact


def test_the_energy_score_agrees_with_another_package(x64):
    """`scoringrules` takes all pairs of one large sample of its own."""
    rules = pytest.importorskip("scoringrules")
    mix, y = make("full", k=2, dim=3, seed=4), np.array([0.3, -1.0, 0.5])
    score, error = energy_score(jax.random.key(0), mix, y, num_samples=8192, with_error=True)
    rng, n = np.random.default_rng(0), 2000
    chosen = rng.choice(2, size=n, p=np.exp(mix.log_weights))
    # z = diag(exp(-s)) (I + R) (y - mu)
    shape = np.broadcast_to(np.eye(3), (2, 3, 3)).copy()
    shape[:, *np.triu_indices(3, 1)] = mix.upper
    factors = np.linalg.inv(shape) * np.exp(mix.log_scale)[:, None]
    draws = np.asarray(mix.loc)[chosen]
    draws = draws + np.einsum("nij,nj->ni", factors[chosen], rng.normal(size=(n, 3)))
    expected = rules.es_ensemble(y, draws, estimator="fair", backend="numpy")
    bound = scipy.stats.norm.isf(1e-4 / 2) * error * np.sqrt(1 + 8192 / n)
    assert abs(score - expected) < bound


def test_the_energy_score_has_derivatives_in_place_and_in_y(x64):
    """With the noise held, it is a function like any other; and Euclid's norm has none at 0."""
    mix, y, key = make("full", dim=2), jnp.array([0.1, 0.7]), jax.random.key(0)

    def score(mix, y):
        return mdn.energy_score(key, mix, y, num_samples=32)

    both = jax.jit(jax.value_and_grad(score, argnums=(0, 1)))
    _, (at_mix, at_y) = both(mix, y)
    h = 1e-6
    for i, step in enumerate(np.eye(2)):
        expected = (both(mix, y + h * step)[0] - both(mix, y - h * step)[0]) / (2 * h)
        np.testing.assert_allclose(at_y[i], expected, atol=1e-8)
    above, below = (both(dataclasses.replace(mix, loc=mix.loc + t), y)[0] for t in (h, -h))
    np.testing.assert_allclose(np.sum(at_mix.loc), (above - below) / (2 * h), atol=1e-8)
    points = dataclasses.replace(mix, log_scale=jnp.full_like(mix.log_scale, -700.0))
    _, gradient = both(points, points.loc[0])
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all()


def test_the_energy_score_of_extremes_is_finite_and_nan_stays():
    score = functools.partial(mdn.energy_score, num_samples=32)
    both, key = jax.jit(jax.value_and_grad(score, argnums=1)), jax.random.key(0)
    for loc, scale, y in [(1e38, 1e37, -3e38), (1e-38, 1e-38, 0.0), (1e30, 1e-30, 1e30)]:
        mix = mdn.GaussianMixture.isotropic([[loc, loc], [-loc, loc]], [scale, scale])
        value, gradient = both(key, mix, np.float32([y, y]))
        assert np.isfinite(value)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert np.isnan(both(key, mix, np.float32([0, np.nan]))[0])
    # 1e-30 squared is zero in float32; the distance is not.
    mix = mdn.GaussianMixture.isotropic([[1e-30, 0.0], [1e-30, 0.0]], [1e-36, 1e-36])
    value, _ = both(key, mix, np.float32([0, 0]))
    np.testing.assert_allclose(value, 1e-30, rtol=1e-3)
