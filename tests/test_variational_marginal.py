"""log p(x) by sampling, where it is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from mdnjax.variational import (
    log_marginal,
    log_normal,
    log_standard_normal,
    reparameterize,
)

X = np.array([[0.0], [1.5], [-4.0]], np.float32)
EXACT = (
    scipy.stats.norm(0, np.sqrt(2)).logpdf(X)[:, 0].astype(np.float32)
)  # p(z) = N(0, 1), p(x | z) = N(z, 1)
POSTERIOR = 0.5 * X, np.full_like(X, 0.5 * np.log(0.5))
WIDER = 0.4 * X, np.full_like(X, 0.0)


def importance(q):
    def log_weights(key, n):
        z = reparameterize(key, *q, (n,))
        return log_standard_normal(z) + log_standard_normal(X[None] - z) - log_normal(z, *q)

    return log_weights


def naive(key, n):
    return log_standard_normal(X[None] - jax.random.normal(key, (n, 3, 1)))


def test_the_exact_posterior_needs_no_sample():
    estimate = log_marginal(jax.random.key(0), importance(POSTERIOR), num_samples=200)
    value, error, effective = estimate
    np.testing.assert_allclose(value, EXACT, rtol=2e-6)
    np.testing.assert_allclose(error, 0, atol=1e-4)
    np.testing.assert_allclose(effective, 200, rtol=1e-5)


@pytest.mark.parametrize("log_weights", [importance(WIDER), naive])
def test_errors_are_as_large_as_they_say(log_weights):
    keys = jax.random.split(jax.random.key(1), 400)
    estimate = jax.jit(
        jax.vmap(lambda key: log_marginal(key, log_weights, num_samples=1000, block_size=250))
    )
    value, error, effective = estimate(keys)
    z = (np.asarray(value) - EXACT) / np.asarray(error)
    # A bias of -var / 2 is allowed for; 400 numbers have a standard deviation known to 3.5 %.
    np.testing.assert_allclose(z.std(0), 1, atol=0.16)
    np.testing.assert_allclose(z.mean(0), 0, atol=0.25)
    assert np.all((effective >= 1) & (effective <= 1000))


def test_blocks_are_one_estimate():
    """However the samples are divided: the block's weights are made to depend on their number."""

    def numbered(key, n):
        return jax.random.normal(key, (n, 2)) * 50 - 1e4

    keys = jax.random.split(jax.random.key(4), 5)
    all_weights = np.concatenate([np.asarray(numbered(key, 20), float) for key in keys])
    peak = all_weights.max(0)
    w = np.exp(all_weights - peak)
    value, error, effective = log_marginal(
        jax.random.key(4), numbered, num_samples=100, block_size=20
    )
    np.testing.assert_allclose(value, peak + np.log(w.mean(0)), rtol=1e-6)
    np.testing.assert_allclose(effective, w.sum(0) ** 2 / (w**2).sum(0), rtol=1e-4)
    np.testing.assert_allclose(error, w.std(0, ddof=1) / 10 / w.mean(0), rtol=1e-4)


def test_it_is_the_importance_weighted_bound_in_constant_memory():
    def memory(num_samples):
        estimate = jax.jit(
            lambda key: log_marginal(key, importance(WIDER), num_samples=num_samples, block_size=10)
        )
        return estimate.lower(jax.random.key(0)).compile().memory_analysis().temp_size_in_bytes

    assert memory(10_000) <= memory(100) + 16 * 1000  # a key for every block


def test_weights_of_zero_are_counted():
    def half(key, n):
        del key
        weights = jnp.where(jnp.arange(n) % 2 == 0, 0.0, -jnp.inf)
        return jnp.stack([weights, jnp.full(n, -jnp.inf)], axis=-1)

    value, _, effective = log_marginal(jax.random.key(0), half, num_samples=40, block_size=20)
    np.testing.assert_allclose(value, [np.log(0.5), -np.inf], rtol=1e-6)
    np.testing.assert_allclose(effective[0], 20)


def test_what_does_not_fit_is_named(without_jaxtyping):
    for arguments, message in (
        ({"num_samples": 1}, "num_samples must be at least 2, got 1"),
        ({"num_samples": 100, "block_size": 30}, "num_samples must be a multiple of block_size 30"),
        ({"block_size": 0}, "block_size must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=f"log_marginal: {message}"):
            log_marginal(jax.random.key(0), naive, **arguments)
    with pytest.raises(ValueError, match=r"log_weights must be one that returns \[100, ...\], got"):
        log_marginal(jax.random.key(0), lambda key, n: jax.random.normal(key, (3, n)))
