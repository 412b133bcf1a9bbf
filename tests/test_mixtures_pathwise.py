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

KINDS = ("isotropic", "diagonal", "full")
GRID = [("isotropic", 1), ("isotropic", 3), ("diagonal", 2), ("full", 2), ("full", 3)]
SOME = [("isotropic", 1), ("diagonal", 2), ("full", 3)]


def rosenblatt(mix, y):
    """For d from the last: weights, means and deviations of y_d given y_{>d}, by covariances."""
    dim = mix.dim
    s = np.asarray(mix._log_scales())
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


@pytest.mark.parametrize(("kind", "dim"), GRID)
def test_first_and_second_derivatives_against_the_inverted_map(kind, dim, x64):
    """Along one direction in all parameters at once, by central differences."""
    mix = make(kind, dim=dim, seed=dim)
    y = np.array([[0.2, -0.7, 1.1], [-1.3, 0.4, 0.1], [1.9, 2.0, -1.0]])[:, :dim]
    flat, unravel = ravel_pytree(mix)
    direction = np.random.default_rng(dim).normal(size=flat.shape)

    def path(t):
        return reparameterize(unravel(flat + t * direction), jnp.asarray(y))

    def both(t):
        slope, curvature = jax.jvp(jax.jacfwd(path), (t,), (1.0,))
        return path(t), slope, curvature

    same, slope, curvature = jax.jit(both)(0.0)
    np.testing.assert_array_equal(same, y)
    for n in range(len(y)):
        h = 1e-4
        before, after = (moved(unravel(flat + t * direction), mix, y[n]) for t in (-h, h))
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


@pytest.mark.parametrize(("kind", "dim"), SOME)
def test_gradients_of_expectations_are_exact_and_those_by_scores(kind, dim, x64):
    mix, frequency = make(kind, dim=dim), jnp.array([1.3, -0.6, 0.9])[:dim]
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

    expected = jax.jit(jax.grad(lambda flat: exact(unravel(flat), frequency)))(flat)
    keys = jax.random.split(jax.random.key(dim), groups)
    for estimator in (pathwise, score):
        gradients = jax.jit(jax.vmap(jax.grad(estimator), in_axes=(None, 0)))(flat, keys)
        mean, sem = gradients.mean(0), gradients.std(0, ddof=1) / np.sqrt(groups)
        assert within(mean, sem, expected, len(SOME) * 2 * len(flat), groups - 1)


def test_second_derivatives_of_expectations(x64):
    mix, frequency = make("full", k=2, dim=2), jnp.array([1.3, -0.6])
    flat, unravel = ravel_pytree(mix)
    direction = np.random.default_rng(0).normal(size=flat.shape) / 2

    def pathwise(t, key):
        mix = unravel(flat + t * direction)
        return jnp.mean(jnp.cos(mdn.sample(key, mix, (500,), reparameterized=True) @ frequency))

    keys = jax.random.split(jax.random.key(3), 40)
    second = jax.jit(jax.vmap(jax.grad(jax.grad(pathwise)), in_axes=(None, 0)))(0.0, keys)
    expected = jax.grad(jax.grad(lambda t: exact(unravel(flat + t * direction), frequency)))(0.0)
    assert within(second.mean(), second.std(ddof=1) / np.sqrt(40), expected, 1, 39)


@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_the_samples_themselves_do_not_change(kind):
    mix, key = make(kind, (2, 5)), jax.random.key(0)

    def draw(reparameterized):
        return mdn.sample(key, mix, (3, 4), reparameterized=reparameterized)

    np.testing.assert_array_equal(draw(True), draw(False))
    assert draw(True).shape == (3, 4, 2, 5, 2)


@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_batches_are_mixtures_one_by_one(kind):
    mix = make(kind, (4,))
    y = mdn.sample(jax.random.key(0), mix, (6,)).swapaxes(0, 1)

    def slope(mix, y):
        return jax.grad(lambda mix: jnp.sum(jnp.sin(reparameterize(mix, y))))(mix)

    whole = jax.jit(slope)(mix, y)
    mapped = jax.jit(jax.vmap(slope))(mix, y)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), whole, mapped)


def slope_of(mix, y):
    """The derivative of every sample's first coordinate in the log-weights, `[N, K]`."""
    with_weights = jax.jacrev(
        lambda log_weights: reparameterize(
            mdn.GaussianMixture(log_weights, mix.loc, mix.log_scale, mix.upper, "isotropic"), y
        )[..., 0]
    )
    return jax.jit(with_weights)(mix.log_weights)


def test_far_tails_on_either_side(x64):
    """dy/dlog pi_k = -pi_k (Phi_k - F) / p: beyond 37 standard deviations F is 0, or 1 - F is."""
    mix = mdn.GaussianMixture.isotropic([[0.0], [0.5]], [1.0, 1.5], weights=[0.4, 0.6])
    y = np.array([-90.0, -20.0, -3.0, 0.3, 4.0, 25.0, 90.0])
    slope = slope_of(mix, jnp.asarray(y[:, None]))
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
    y = np.array([-9.0, -2.0, 0.1, 3.0, 12.0])[:, None]

    def slopes():
        mix = mdn.GaussianMixture.isotropic([[0.0], [0.5]], [1.0, 1.5], weights=[0.4, 0.6])
        return np.asarray(slope_of(mix, jnp.asarray(y, mix.loc.dtype)))

    single = slopes()
    with jax.enable_x64(True):
        double = slopes()
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, double, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_hard_cases_have_finite_derivatives(kind):
    """Weights of zero, gaps nobody draws from, scales from e^-40 to e^40, components far away."""
    scale = {
        "isotropic": np.array([1.0, 1e-17, 1.0, 1e17, 1e-3]),
        "diagonal": np.array([[1.0, 1e-17], [1e-17, 1], [1, 1], [1e17, 1e10], [1e-3, 1e3]]),
        "full": np.array([1.0, 1e-4, 1.0, 1e4, 1e-3])[:, None, None]
        * np.array([[1.0, 0.9], [0.9, 1.0]]),
    }[kind]
    loc = np.array([[0.0, 0.0], [1.0, 1.0], [1e3, -1e3], [1e5, 0.0], [1e30, -1e30]])
    mix = getattr(mdn.GaussianMixture, kind)(loc, scale, weights=[0.3, 0.3, 0.2, 0.2, 0.0])
    gaps = np.array([[500.0, -500.0], [1.0, 1.0], [0.0, -1e3], [1e30, 1.0], [0.0, 0.0]])
    drawn = mdn.sample(jax.random.key(0), mix, (200,))
    y = jnp.concatenate([jnp.asarray(gaps, jnp.float32), drawn])

    @jax.jit
    def both(mix, y):
        y, push = jax.jvp(
            lambda mix: reparameterize(mix, y), (mix,), (jax.tree.map(jnp.ones_like, mix),)
        )
        return push, jax.grad(lambda mix: jnp.sum(reparameterize(mix, y)))(mix)

    for leaf in jax.tree.leaves(both(mix, y)):
        assert np.isfinite(leaf).all()
    gradient = both(mix, y)[1]
    np.testing.assert_array_equal(gradient.loc[-1], 0)
    assert gradient.log_weights[-1] == 0


def test_nan_is_not_hidden():
    mix = mdn.GaussianMixture.isotropic([[0.0], [np.nan]], [1.0, 1.0])
    assert np.isnan(slope_of(mix, jnp.zeros((1, 1)))).any()
