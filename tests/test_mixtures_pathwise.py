"""Implicit gradients of samples: Rosenblatt's map inverted in SciPy, and exact expectations.

Keys are fixed. The statistical tests together have a false-alarm rate of 1e-4.
"""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
from made_mixtures import covariances, make

import mdnjax as mdn
from mdnjax.mixtures.pathwise import reparameterize


def rosenblatt(mix, y):
    """For d from the last: weights, means and deviations of y_d given y_{>d}, by covariances."""
    dim, sigma, loc = mix.dim, covariances(mix), np.asarray(mix.loc)
    logits = np.asarray(mix.log_weights)

    def given(d, later):
        """p(y_d | y_{>d} = later) as weights, means, standard deviations."""
        b = slice(d + 1, dim)
        joint, mean, var = logits.copy(), loc[:, d].copy(), sigma[:, d, d].copy()
        for k in range(len(loc)) if d + 1 < dim else ():
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


@pytest.mark.parametrize(
    ("kind", "dim", "derivative"), [("isotropic", 2, jax.jacfwd), ("full", 3, jax.jacrev)]
)
def test_first_and_second_derivatives_against_the_inverted_map(kind, dim, derivative, x64):
    """Along one direction in all parameters at once, by central differences."""
    mix = jax.tree.map(np.asarray, make(kind, dim=dim, seed=dim))
    y = np.array([[0.2, -0.7, 1.1], [-1.3, 0.4, 0.1], [1.9, 2.0, -1.0]])
    y = np.concatenate([y, np.random.default_rng(1).normal(size=(3, 3))])[:, :dim]
    path = along(mix, dim)

    def of(t):
        return reparameterize(path(t), jnp.asarray(y))

    @jax.jit
    def derivatives(t):
        return of(t), *jax.jvp(derivative(of), (t,), (1.0,))

    same, first, second = map(np.asarray, derivatives(0.0))
    np.testing.assert_array_equal(same, y)
    for n in range(len(y)):
        h = 1e-4
        before, after = (moved(path(t), mix, y[n]) for t in (-h, h))
        np.testing.assert_allclose(first[n], (after - before) / (2 * h), rtol=1e-5, atol=1e-6)
        difference = (after - 2 * y[n] + before) / h**2
        np.testing.assert_allclose(second[n], difference, rtol=1e-3, atol=1e-4)


def expectation(mix, frequency):
    """E[cos(a y)] = sum_k pi_k cos(a mu_k) exp(-a Sigma_k a / 2), of logits."""
    spread = np.einsum("i,kij,j->k", frequency, covariances(mix), frequency)
    return np.sum(
        scipy.special.softmax(mix.log_weights) * np.cos(mix.loc @ frequency) * np.exp(-spread / 2)
    )


def by_differences(f, mix, h=1e-5):
    """The derivative of f in every number of a mixture, from both sides."""
    gradient = jax.tree.map(np.zeros_like, mix)
    for leaf, slope in zip(jax.tree.leaves(mix), jax.tree.leaves(gradient), strict=True):
        for index in np.ndindex(leaf.shape):
            here = leaf[index]
            for step in (h, -h):
                leaf[index] = here + step
                slope[index] += f(mix) / (2 * step)
            leaf[index] = here
    return gradient


def test_gradients_of_expectations_are_exact_and_the_samples_do_not_change():
    mix, frequency = jax.tree.map(np.asarray, make("full")), np.array([1.3, -0.6], np.float32)
    groups, shape = 40, (20, 25)

    @jax.jit
    def draw(key, mix):
        """Samples of each group, with and without slopes, and the slope of its mean."""

        def means(mix):
            y = mdn.sample(key, mix, shape, reparameterized=True)
            return jnp.sum(jnp.mean(jnp.cos(y @ frequency), axis=(0, 1))), y

        gradient, y = jax.grad(means, has_aux=True)(mix)
        return y, mdn.sample(key, mix, shape), gradient

    mixes = jax.tree.map(lambda x: np.broadcast_to(x, (groups, *x.shape)), mix)
    with_slopes, without, gradients = draw(jax.random.key(2), mixes)
    np.testing.assert_array_equal(with_slopes, without)
    assert with_slopes.shape == (*shape, groups, 2)

    mix = jax.tree.map(np.float64, mix)
    expected = by_differences(lambda mix: expectation(mix, frequency), mix)
    numbers = sum(x.size for x in jax.tree.leaves(mix))
    bound = scipy.stats.t.isf(1e-4 / numbers / 2, groups - 1)
    for name in ("log_weights", "loc", "log_scale", "upper"):
        each = np.asarray(getattr(gradients, name))
        mean, sem = each.mean(0), each.std(0, ddof=1) / np.sqrt(groups)
        off = np.abs(mean - getattr(expected, name))
        assert np.all(off <= bound * sem + 1e-12), name


def test_batches_are_mixtures_one_by_one():
    mix, y = make("full", (4,)), np.random.default_rng(0).normal(size=(4, 6, 2))
    rng = np.random.default_rng(1)
    direction = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), mix)

    def slope(mix, y, direction):
        return jax.jvp(lambda mix: reparameterize(mix, y), (mix,), (direction,))[1]

    both = jax.jit(lambda *args: (slope(*args), jax.vmap(slope)(*args)))
    np.testing.assert_allclose(*both(mix, y.astype(np.float32), direction), rtol=1e-4, atol=1e-5)


@jax.jit
def slope_of(mix, y):
    """The derivative of every sample's first coordinate in the log-weights, `[N, K]`.

    Called with two components and seven samples, so that it is compiled once for each dtype.
    """
    with_weights = jax.jacfwd(
        lambda log_weights: reparameterize(
            mdn.GaussianMixture(log_weights, mix.loc, mix.log_scale, mix.upper, "isotropic"), y
        )[..., 0]
    )
    return with_weights(mix.log_weights)


def two_components(dtype):
    """At 0 and 1/2, with deviations of 1 and 3/2 and weights of 2/5 and 3/5."""
    loc, scale = np.array([[0.0], [0.5]], dtype), np.array([1, 1.5], dtype)
    weights = np.array([0.4, 0.6], dtype)
    return mdn.GaussianMixture(np.log(weights), loc, np.log(scale), None, "isotropic")


def test_far_tails_on_either_side(x64):
    """dy/dlog pi_k = -pi_k (Phi_k - F) / p: beyond 37 standard deviations F is 0, or 1 - F is."""
    y = np.array([-90.0, -20.0, -3.0, 0.3, 4.0, 25.0, 90.0])
    slope = np.asarray(slope_of(two_components(np.float64), y[:, None]))
    with mpmath.workdps(50):
        parts = [(mpmath.mpf(2) / 5, mpmath.mpf(0), mpmath.mpf(1))]
        parts += [(mpmath.mpf(3) / 5, mpmath.mpf(1) / 2, mpmath.mpf(3) / 2)]
        for n, value in enumerate(y):
            # Phi, or Phi - 1, of which the difference to that of the mixture is the same.
            side = -1 if value > 0 else 1
            cdfs = [side * mpmath.ncdf(side * (value - m) / s) for _, m, s in parts]
            density = mpmath.fsum(w * mpmath.npdf(value, m, s) for w, m, s in parts)
            total = mpmath.fsum(w * f for (w, _, _), f in zip(parts, cdfs, strict=True))
            expected = [
                float(-w * (f - total) / density) for (w, _, _), f in zip(parts, cdfs, strict=True)
            ]
            np.testing.assert_allclose(slope[n], expected, rtol=1e-9)


def test_single_precision_keeps_up_with_double():
    y = np.array([-9.0, -4.0, -2.0, 0.1, 3.0, 7.0, 12.0])[:, None]
    single = slope_of(two_components(np.float32), y.astype(np.float32))
    with jax.enable_x64(True):
        double = slope_of(two_components(np.float64), y)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, double, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_hard_cases_have_finite_derivatives(kind):
    """Weights of zero, gaps nobody draws from, scales from e^-40 to e^40, components far away.

    One is so far that its derivative overflows, and is of no sample.
    """
    if kind == "diagonal":
        scale, upper = np.array([[1, 1e-17], [1e-17, 1], [1, 1], [1e17, 1e10], [1e-3, 1e3]]), None
        roots = scale[..., None] * np.eye(2)
    else:  # of correlation 0.9
        scale = np.array([1, 1e-2, 1, 1e2, 1e-3**0.5])[:, None] * [np.sqrt(0.19), 1]
        upper = np.full((5, 1), -0.9)
        roots = scale[..., None] * [[1, 0.9 / np.sqrt(0.19)], [0, 1]]
    loc = np.array([[0.0, 0.0], [1.0, 1.0], [1e3, -1e3], [1e5, 0.0], [3e38, -3e38]])
    weights = np.array([0.3, 0.3, 0.2, 0.2, 0.0])
    log_weights = np.append(np.log(weights[:-1]), -np.inf)
    mix = mdn.GaussianMixture(log_weights, loc, np.log(scale), upper, kind)
    mix = jax.tree.map(np.float32, mix)
    gaps = np.array([[500.0, -500.0], [1.0, 1.0], [0.0, -1e3], [1e30, 1.0], [0.0, 0.0]])
    rng = np.random.default_rng(0)
    component = rng.choice(5, size=200, p=weights)
    drawn = loc[component] + np.einsum("nij,nj->ni", roots[component], rng.normal(size=(200, 2)))
    y = np.concatenate([gaps, drawn]).astype(np.float32)

    @jax.jit
    def both(mix, y):
        _, forward = jax.linearize(lambda mix: reparameterize(mix, y), mix)
        push = forward(jax.tree.map(lambda x: jnp.full_like(x, 4), mix))
        return push, jax.linear_transpose(forward, mix)(jnp.ones_like(y))[0]

    push, gradient = both(mix, y)
    for leaf in jax.tree.leaves((push, gradient)):
        assert np.isfinite(leaf).all()
    np.testing.assert_array_equal(gradient.loc[-1], 0)
    assert gradient.log_weights[-1] == 0


def test_nan_is_not_hidden():
    mix = two_components(np.float32)
    mix.loc[1] = np.nan
    assert np.isnan(slope_of(mix, np.zeros((7, 1), np.float32))).any()
