"""Implicit gradients of samples: Rosenblatt's map inverted in SciPy, exact expectations, scores.

Keys are fixed. Every family of statistical tests together has a false-alarm rate of 1e-4.
"""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from jax.flatten_util import ravel_pytree
from made_mixtures import make

import mdnjax as mdn
from mdnjax.mixtures.pathwise import reparameterize


def rosenblatt(mix, y):
    """For d from the last: weights, means and deviations of y_d given y_{>d}, by covariances."""
    dim = mix.dim
    s = np.asarray(mix.log_scale)
    s = np.broadcast_to(s[:, None], mix.loc.shape) if mix.covariance_kind == "isotropic" else s
    unit = np.broadcast_to(np.eye(dim), (len(s), dim, dim)).copy()
    if mix.upper is not None:
        unit[:, *np.triu_indices(dim, 1)] = np.asarray(mix.upper)
    inverse = np.linalg.inv(np.exp(-s)[..., None] * unit)
    sigma, loc = inverse @ inverse.swapaxes(-1, -2), np.asarray(mix.loc)
    logits = np.asarray(mix.log_weights)

    def given(d, later):
        """p(y_d | y_{>d} = later) as weights, means, standard deviations."""
        b = slice(d + 1, dim)
        joint, mean, var = logits.copy(), loc[:, d].copy(), sigma[:, d, d].copy()
        for k in range(len(s)) if d + 1 < dim else ():
            joint[k] += scipy.stats.multivariate_normal(loc[k, b], sigma[k, b, b]).logpdf(later)
            gain = np.linalg.solve(sigma[k, b, b], sigma[k, b, d])
            mean[k] += gain @ (later - loc[k, b])
            var[k] -= gain @ sigma[k, b, d]
        return np.exp(joint - np.logaddexp.reduce(joint)), mean, np.sqrt(var)

    def cdf(d, later, value):
        w, m, sd = given(d, later)
        return w @ scipy.stats.norm.cdf((value - m) / sd)

    return cdf


def moved(at, mix, y):
    """What y becomes when the mixture becomes `at`, its uniform numbers kept."""
    old, new, dim = rosenblatt(mix, y), rosenblatt(at, y), mix.dim
    result = np.array(y, np.float64)
    for d in reversed(range(dim)):
        u, later = old(d, y[d + 1 :], y[d]), result[d + 1 :].copy()
        result[d] = scipy.optimize.brentq(
            lambda v, d=d, u=u, later=later: new(d, later, v) - u, y[d] - 1, y[d] + 1, xtol=1e-15
        )
    return result


def along(mix, seed):
    """A path through a mixture, from t = 0, in a direction in all parameters at once."""
    rng = np.random.default_rng(seed)
    direction = jax.tree.map(lambda x: rng.normal(size=x.shape), mix)
    return lambda t: jax.tree.map(lambda x, step: x + t * step, mix, direction)


@pytest.mark.parametrize(("kind", "dim"), [("isotropic", 3), ("diagonal", 1), ("full", 3)])
def test_first_and_second_derivatives_against_the_inverted_map(kind, dim, x64):
    """Along one direction in all parameters at once, by central differences."""
    mix = jax.tree.map(np.asarray, make(kind, dim=dim, seed=dim))
    y = np.array([[0.2, -0.7, 1.1], [-1.3, 0.4, 0.1], [1.9, 2.0, -1.0]])[:, :dim]
    path = along(mix, dim)

    @jax.jit
    def both(t):
        def of(t):
            return reparameterize(path(t), jnp.asarray(y))

        slope, curvature = jax.jvp(jax.jacfwd(of), (t,), (1.0,))
        return of(t), slope, curvature

    same, slope, curvature = (np.asarray(x) for x in both(0.0))
    np.testing.assert_array_equal(same, y)
    for n in range(len(y)):
        h = 1e-4
        before, after = (moved(path(t), mix, y[n]) for t in (-h, h))
        np.testing.assert_allclose(slope[n], (after - before) / (2 * h), rtol=1e-5, atol=1e-6)
        second = (after - 2 * y[n] + before) / h**2
        np.testing.assert_allclose(curvature[n], second, rtol=1e-3, atol=1e-4)


def exact(mix, frequency):
    """E[cos(a y)] = sum_k pi_k cos(a mu_k) exp(-a Sigma_k a / 2), of logits."""
    spread = jnp.einsum("i,kij,j->k", frequency, mix.component_covariances, frequency)
    phase = mix.loc @ frequency
    return jnp.sum(jax.nn.softmax(mix.log_weights) * jnp.cos(phase) * jnp.exp(-0.5 * spread))


def within(mean, sem, expected, tests, degrees):
    bound = scipy.stats.t.isf(1e-4 / tests / 2, degrees)
    return np.all(np.abs(mean - expected) <= bound * sem + 1e-12)


@pytest.mark.parametrize(("kind", "dim"), [("isotropic", 1), ("full", 2)])
def test_gradients_of_expectations_are_exact_and_those_by_scores(kind, dim, x64):
    mix, frequency = make(kind, dim=dim), np.array([1.3, -0.6])[:dim]
    flat, unravel = ravel_pytree(mix)
    groups, n = 40, 500

    def pathwise(flat, key):
        y = mdn.sample(key, unravel(flat), (n,), reparameterized=True)
        return jnp.mean(jnp.cos(y @ frequency))

    def score(flat, key):
        mix = unravel(flat)
        y = jax.lax.stop_gradient(mdn.sample(key, mix, (n,)))
        value = jnp.cos(y @ frequency)
        return jnp.mean(value * mdn.log_prob(mix, y))

    @jax.jit
    def gradients(flat, keys):
        estimates = [
            jax.vmap(jax.grad(estimator), in_axes=(None, 0))(flat, keys)
            for estimator in (pathwise, score)
        ]
        return jax.grad(lambda flat: exact(unravel(flat), frequency))(flat), estimates

    expected, estimates = gradients(flat, jax.random.split(jax.random.key(dim), groups))
    for estimate in map(np.asarray, estimates):
        mean, sem = estimate.mean(0), estimate.std(0, ddof=1) / np.sqrt(groups)
        assert within(mean, sem, expected, 2 * 2 * len(flat), groups - 1)


def test_second_derivatives_of_expectations(x64):
    mix, frequency = make("full", k=2, dim=2), np.array([1.3, -0.6])
    flat, unravel = ravel_pytree(mix)
    direction = np.random.default_rng(0).normal(size=flat.shape) / 2

    def pathwise(t, key):
        mix = unravel(flat + t * direction)
        return jnp.mean(jnp.cos(mdn.sample(key, mix, (500,), reparameterized=True) @ frequency))

    def expectation(t):
        return exact(unravel(flat + t * direction), frequency)

    @jax.jit
    def both(t, keys):
        estimates = jax.vmap(jax.jacfwd(jax.grad(pathwise)), in_axes=(None, 0))(t, keys)
        return estimates, jax.jacfwd(jax.jacfwd(expectation))(t)

    second, expected = map(np.asarray, both(0.0, jax.random.split(jax.random.key(3), 40)))
    assert within(second.mean(), second.std(ddof=1) / np.sqrt(40), expected, 1, 39)


def test_the_samples_themselves_do_not_change():
    mix, key = make("full", (2, 5)), jax.random.key(0)
    draw = jax.jit(
        lambda mix: [mdn.sample(key, mix, (3, 4), reparameterized=x) for x in (True, False)]
    )
    with_slopes, without = draw(mix)
    np.testing.assert_array_equal(with_slopes, without)
    assert with_slopes.shape == (3, 4, 2, 5, 2)


def test_batches_are_mixtures_one_by_one():
    mix, y = make("full", (4,)), np.random.default_rng(0).normal(size=(4, 6, 2))

    def slope(mix, y):
        return jax.grad(lambda mix: jnp.sum(jnp.sin(reparameterize(mix, y))))(mix)

    y = y.astype(np.float32)
    whole, mapped = jax.jit(lambda *args: (slope(*args), jax.vmap(slope)(*args)))(mix, y)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), whole, mapped)


@jax.jit
def slope_of(mix, y):
    """The derivative of every sample's first coordinate in the log-weights, `[N, K]`.

    Called with two components and seven samples, so that it is compiled once for each dtype.
    """
    with_weights = jax.jacrev(
        lambda log_weights: reparameterize(
            mdn.GaussianMixture(log_weights, mix.loc, mix.log_scale, mix.upper, "isotropic"), y
        )[..., 0]
    )
    return with_weights(mix.log_weights)


def test_far_tails_on_either_side(x64):
    """dy/dlog pi_k = -pi_k (Phi_k - F) / p: beyond 37 standard deviations F is 0, or 1 - F is."""
    mix = mdn.GaussianMixture.isotropic([[0.0], [0.5]], [1.0, 1.5], weights=[0.4, 0.6])
    y = np.array([-90.0, -20.0, -3.0, 0.3, 4.0, 25.0, 90.0])
    slope = np.asarray(slope_of(mix, y[:, None]))
    with mpmath.workdps(1600):
        for n, value in enumerate(y):
            parts = [(mpmath.mpf(2) / 5, mpmath.mpf(0), mpmath.mpf(1))]
            parts += [(mpmath.mpf(3) / 5, mpmath.mpf(1) / 2, mpmath.mpf(3) / 2)]
            cdfs = [mpmath.ncdf((value - m) / s) for _, m, s in parts]
            density = mpmath.fsum(w * mpmath.npdf(value, m, s) for w, m, s in parts)
            total = mpmath.fsum(w * f for (w, _, _), f in zip(parts, cdfs, strict=True))
            expected = [
                float(-w * (f - total) / density) for (w, _, _), f in zip(parts, cdfs, strict=True)
            ]
            np.testing.assert_allclose(slope[n], expected, rtol=1e-9)


def test_single_precision_keeps_up_with_double():
    y = np.array([-9.0, -4.0, -2.0, 0.1, 3.0, 7.0, 12.0])[:, None]

    def slopes():
        mix = mdn.GaussianMixture.isotropic([[0.0], [0.5]], [1.0, 1.5], weights=[0.4, 0.6])
        return np.asarray(slope_of(mix, y.astype(mix.loc.dtype)))

    single = slopes()
    with jax.enable_x64(True):
        double = slopes()
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, double, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_hard_cases_have_finite_derivatives(kind):
    """Weights of zero, gaps nobody draws from, scales from e^-40 to e^40, components far away."""
    if kind == "diagonal":
        scale = np.array([[1.0, 1e-17], [1e-17, 1], [1, 1], [1e17, 1e10], [1e-3, 1e3]])
        roots = scale[..., None] * np.eye(2)
    else:
        scale = np.array([1.0, 1e-4, 1.0, 1e4, 1e-3])[:, None, None] * [[1.0, 0.9], [0.9, 1.0]]
        roots = np.linalg.cholesky(scale)
    loc = np.array([[0.0, 0.0], [1.0, 1.0], [1e3, -1e3], [1e5, 0.0], [1e30, -1e30]])
    weights = np.array([0.3, 0.3, 0.2, 0.2, 0.0])
    mix = jax.jit(getattr(mdn.GaussianMixture, kind))(loc, scale, weights=weights)
    gaps = np.array([[500.0, -500.0], [1.0, 1.0], [0.0, -1e3], [1e30, 1.0], [0.0, 0.0]])
    rng = np.random.default_rng(0)
    component = rng.choice(5, size=200, p=weights)
    drawn = loc[component] + np.einsum("nij,nj->ni", roots[component], rng.normal(size=(200, 2)))
    y = np.concatenate([gaps, drawn]).astype(np.float32)

    @jax.jit
    def both(mix, y):
        y, push = jax.jvp(
            lambda mix: reparameterize(mix, y), (mix,), (jax.tree.map(jnp.ones_like, mix),)
        )
        return push, jax.grad(lambda mix: jnp.sum(reparameterize(mix, y)))(mix)

    push, gradient = both(mix, y)
    for leaf in jax.tree.leaves((push, gradient)):
        assert np.isfinite(leaf).all()
    np.testing.assert_array_equal(gradient.loc[-1], 0)
    assert gradient.log_weights[-1] == 0


def test_nan_is_not_hidden():
    mix = mdn.GaussianMixture.isotropic([[0.0], [np.nan]], [1.0, 1.0])
    assert np.isnan(slope_of(mix, np.zeros((7, 1), np.float32))).any()
