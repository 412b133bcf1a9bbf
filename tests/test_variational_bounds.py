"""Bounds, against a model whose every number is known: the linear-Gaussian VAE.

p(z) = N(0, I), p(x | z) = N(W z + b, s^2 I), so p(x) = N(b, W W^T + s^2 I), and the posterior is
Gaussian; with orthogonal columns of W it is diagonal.
"""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from mdnjax import variational
from mdnjax.variational import (
    dreg_bound,
    elbo,
    free_bits,
    iwae_bound,
    kl_standard_normal,
    log_normal,
    log_standard_normal,
    reparameterize,
    warm_up,
)

W = np.array([[0.8, -0.3], [0.6, 0.4], [0.0, 1.2]])  # orthogonal columns
B, S = np.array([0.1, -0.2, 0.3]), 0.5
X = np.array([[1.0, -2.0, 0.5], [0.0, 0.3, -1.0], [3.0, 2.0, -2.0], [0.1, -0.2, 0.3]])
EXACT = scipy.stats.multivariate_normal(B, W @ W.T + S**2 * np.eye(3)).logpdf(X)
PRECISION = np.eye(2) + W.T @ W / S**2


class Posterior(NamedTuple):
    loc: jax.Array
    log_scale: jax.Array


def exact_posterior():
    loc = (X - B) @ W / S**2 / np.diag(PRECISION)
    return Posterior(
        jnp.asarray(loc), jnp.broadcast_to(-0.5 * np.log(np.diag(PRECISION)), loc.shape)
    )


def wrong_posterior():
    q = exact_posterior()
    return Posterior(0.7 * q.loc + 0.2, q.log_scale + 0.3)


def log_likelihood(z):
    mean = jnp.einsum("...d,xd->...x", z, W)
    error = (np.broadcast_to(X - B, mean.shape) - mean) / S
    return log_standard_normal(error) - 3 * np.log(S)


def log_weights(z, q, *, path_only=False):
    return variational.log_weights(z, *q, log_likelihood, path_only=path_only)


def test_the_columns_make_the_posterior_diagonal():
    np.testing.assert_allclose(PRECISION, np.diag(np.diag(PRECISION)), atol=1e-12)


def test_with_the_exact_posterior_every_bound_is_log_p_without_variance(x64):
    k = 7

    @jax.jit
    def all_bounds(key, q):
        z = reparameterize(key, *q, (k,))
        weights = log_weights(z, q)
        doubly = dreg_bound(lambda z: log_weights(z, q, path_only=True), z)
        return weights, (iwae_bound(weights), iwae_bound(weights[:1]), doubly)

    weights, bounds = all_bounds(jax.random.key(k), exact_posterior())
    np.testing.assert_allclose(weights, np.broadcast_to(EXACT, (k, 4)), rtol=1e-12)
    for bound in bounds:
        np.testing.assert_allclose(bound, EXACT, rtol=1e-12)


def test_the_elbo_with_the_analytic_divergence_is_log_p_minus_the_gap(x64):
    """E_q[log p(x | z)] - KL = log p(x) - KL(q || p(z | x)), all in closed form."""
    q, p = wrong_posterior(), exact_posterior()
    loc, variance = np.asarray(q.loc), np.exp(2 * np.asarray(q.log_scale))
    expected = -0.5 * (((X - B - loc @ W.T) ** 2).sum(-1) + (variance @ (W**2).sum(0))) / S**2
    expected = expected - 3 * np.log(S) - 1.5 * np.log(2 * np.pi)
    gap = variational.kl_normal(*q, *p).sum(-1)
    bound = elbo(expected, kl_standard_normal(*q).sum(-1))
    np.testing.assert_allclose(bound, EXACT - gap, rtol=1e-12)


def test_expected_bounds_of_a_wrong_posterior_rise_with_k_to_log_p(x64):
    """Each from 100,000 samples; the differences are many standard errors."""
    q = wrong_posterior()

    @jax.jit
    def by_k(key):
        weights = log_weights(reparameterize(key, *q, (100_000,)), q)
        return [jax.vmap(iwae_bound)(weights.reshape(-1, k, 4)) for k in (1, 2, 10, 100)]

    bounds = []
    for each in map(np.asarray, by_k(jax.random.key(0))):
        bounds.append((each.mean(0), each.std(0) / len(each) ** 0.5))
    for (low, low_error), (high, high_error) in itertools.pairwise(bounds):
        assert np.all(high - low > 4 * np.hypot(low_error, high_error))
    last, error = bounds[-1]
    assert np.all(np.abs(last - EXACT) < 0.03 + 4 * error)
    gap = variational.kl_normal(*q, *exact_posterior()).sum(-1)
    np.testing.assert_allclose(bounds[0][0], EXACT - gap, atol=4 * float(bounds[0][1].max()))


def test_weights_are_joint_over_posterior_for_any_prior(x64):
    q = wrong_posterior()
    z = np.random.default_rng(0).normal(size=(5, 4, 2))
    prior = scipy.stats.norm([1.0, -1.0], [0.5, 2.0])
    expected = scipy.stats.norm(z @ W.T + B, S).logpdf(X).sum(-1) + prior.logpdf(z).sum(-1)
    expected -= scipy.stats.norm(q.loc, np.exp(q.log_scale)).logpdf(z).sum(-1)
    got = variational.log_weights(
        jnp.asarray(z), *q, log_likelihood, log_prior=lambda z: prior.logpdf(z).sum(-1)
    )
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_iwae_is_the_log_of_the_mean_weight(x64):
    weights = np.random.default_rng(0).normal(size=(5, 3)) * 300
    expected = scipy.special.logsumexp(weights, axis=0) - np.log(5)
    np.testing.assert_allclose(iwae_bound(weights), expected, rtol=1e-14)
    assert np.isfinite(iwae_bound(np.array([-np.inf, -1e4])))


def gradients(bounds, num, *, k):
    """Of each bound the gradient in q, for every one of `num` keys: `[num, 2, 4, 2]`."""

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def slopes(q, key):
        return [jnp.stack(jax.grad(lambda q, f=f: f(q, key, k).sum())(q)) for f in bounds]

    keys = jax.random.split(jax.random.key(3), num)
    return [np.asarray(x) for x in slopes(wrong_posterior(), keys)]


def plain(q, key, k):
    return iwae_bound(log_weights(reparameterize(key, *q, (k,)), q))


def doubly(q, key, k):
    z = reparameterize(key, *q, (k,))
    return dreg_bound(lambda z: log_weights(z, q, path_only=True), z)


def landed(q, key, k):
    del k
    z = reparameterize(key, *q, (1,))
    return iwae_bound(log_weights(z, q, path_only=True))


def signal_to_noise(samples):
    return np.abs(samples.mean(0)) / samples.std(0)


def same_mean(one, other):
    error = np.hypot(one.std(0), other.std(0)) / len(one) ** 0.5
    return np.abs(one.mean(0) - other.mean(0)) <= 4.5 * error + 1e-12


def test_doubly_reparameterised_gradients_have_the_same_mean_and_a_better_signal(x64):
    few, few_doubly = gradients((plain, doubly), 4000, k=4)
    many, many_doubly = gradients((plain, doubly), 4000, k=64)
    assert np.all(same_mean(few, few_doubly))
    assert np.all(same_mean(many, many_doubly))
    # What is known of both (Rainforth et al. 2018, Tucker et al. 2019).
    assert np.median(signal_to_noise(many)) < 0.6 * np.median(signal_to_noise(few))
    assert np.median(signal_to_noise(many_doubly)) > 2 * np.median(signal_to_noise(few_doubly))


def test_sticking_the_landing_has_the_same_mean_and_no_variance_at_the_posterior(x64):
    assert np.all(same_mean(*gradients((plain, landed), 4000, k=1)))
    q = exact_posterior()

    @jax.jit
    @functools.partial(jax.jacrev, argnums=0)
    def slopes(q, key):
        return jnp.stack([bound(q, key, 1).sum() for bound in (landed, plain)])

    for landing, noisy in map(np.asarray, slopes(q, jax.random.key(0))):
        np.testing.assert_allclose(landing, 0, atol=1e-12)
        assert np.abs(noisy).max() > 0.1


def test_a_decoder_learns_the_same_from_either_bound(x64):
    q, key = wrong_posterior(), jax.random.key(5)
    z = reparameterize(key, *q, (6,))

    def weights(z, scale):
        return (
            scale * log_likelihood(z) + log_standard_normal(z) - log_normal(z, *q, path_only=True)
        )

    one = jax.jit(jax.grad(lambda scale: iwae_bound(weights(z, scale)).sum()))(0.9)
    other = jax.jit(jax.grad(lambda s: dreg_bound(lambda z: weights(z, s), z).sum()))(0.9)
    np.testing.assert_allclose(one, other, rtol=1e-12)


def test_without_reparameterisation_the_encoder_learns_nothing_from_the_reconstruction(x64):
    """The lecture's point."""
    q = wrong_posterior()

    def reconstruction(q, *, reparameterized):
        z = reparameterize(jax.random.key(1), *q, (1000,))
        z = z if reparameterized else jax.lax.stop_gradient(z)
        return log_likelihood(z).mean(0).sum()

    for slope in jax.jit(jax.grad(functools.partial(reconstruction, reparameterized=False)))(q):
        np.testing.assert_array_equal(slope, 0)
    slope = jax.jit(jax.grad(functools.partial(reconstruction, reparameterized=True)))(q).loc
    expected = (X - B - np.asarray(q.loc) @ W.T) @ W / S**2
    np.testing.assert_allclose(slope, expected, atol=0.3)


def test_beta_warm_up_and_free_bits():
    kl = jnp.array([[0.1, 2.0, 0.0], [0.5, 0.7, 0.2]])
    np.testing.assert_allclose(elbo(jnp.array([-3.0]), jnp.array([2.0]), beta=4.0), [-11.0])
    np.testing.assert_allclose(free_bits(kl, 0.25), [0.25 + 2 + 0.25, 0.5 + 0.7 + 0.25])
    np.testing.assert_allclose(free_bits(kl, 0.25, over_batch=True), [0.3 + 1.35 + 0.25] * 2)
    np.testing.assert_allclose(free_bits(kl, 0.0), kl.sum(-1), rtol=1e-6)
    slope = jax.grad(lambda kl: free_bits(kl, 0.25).sum())(kl)
    np.testing.assert_array_equal(slope, [[0, 1, 0], [1, 1, 0]])
    steps = np.array([0, 4, 9, 10, 10**6])
    np.testing.assert_allclose(jax.vmap(lambda t: warm_up(t, 10))(steps), [0.1, 0.5, 1, 1, 1])


def test_what_does_not_fit_is_named(without_jaxtyping):
    with pytest.raises(ValueError, match=r"elbo: kl must be of log_likelihood's shape \(2,\), got"):
        elbo(jnp.zeros(2), jnp.zeros((2, 5)))
    with pytest.raises(ValueError, match="free_bits: minimum must be at least 0, got -1"):
        free_bits(jnp.zeros(2), -1.0)
    with pytest.raises(ValueError, match="warm_up: num_steps must be at least 1, got 0"):
        warm_up(0, 0)
    with pytest.raises(ValueError, match=r"iwae_bound: log_weights must be \[k, ...\] with k >= 1"):
        iwae_bound(jnp.zeros((0, 3)))
