"""The Bernoulli likelihood and its derivatives against high precision, at any log-odds."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import mdnjax as mdn

LOG_ODDS = [0.0, 1e-6, -0.3, 2.0, -15.0, 17.0, 40.0, -90.0, 104.0, -1e4, 3e37]
HEAD = mdn.BernoulliHead()


def reference(log_odds, y):
    """-log p, its derivatives in the log-odds (first and second), and that in y."""
    with mpmath.workdps(60):
        el, y = mpmath.mpf(log_odds), mpmath.mpf(y)
        softplus = [mpmath.log1p(mpmath.exp(sign * el)) for sign in (1, -1)]
        p, q = (1 / (1 + mpmath.exp(-sign * el)) for sign in (1, -1))
        nats = (1 - y) * softplus[0] + y * softplus[1]
        return [float(value) for value in (nats, (1 - y) * p - y * q, p * q, -el)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_value_and_derivatives_against_high_precision(dtype, x64):
    cases = [(el, y) for el in LOG_ODDS for y in (0.0, 0.25, 1.0)]
    log_odds, y = (jnp.asarray(column, dtype) for column in zip(*cases, strict=True))

    def nats(log_odds, y):
        return HEAD.nll(log_odds[None], y)

    slope = jax.grad(nats)
    functions = (nats, slope, jax.grad(slope), jax.grad(nats, argnums=1))
    found = jax.jit(lambda *a: [jax.vmap(f)(*a) for f in functions])(log_odds, y)
    expected = np.array([reference(float(a), float(b)) for a, b in zip(log_odds, y, strict=True)])
    eps, tiny = (float(getattr(jnp.finfo(dtype), name)) for name in ("eps", "tiny"))
    for value, exact in zip(found, expected.T, strict=True):
        assert value.dtype == dtype
        np.testing.assert_allclose(np.float64(value), exact, rtol=8 * eps, atol=tiny)


def test_mixed_derivatives_agree_in_every_order(x64):
    def nats(log_odds, y):
        return HEAD.nll(log_odds[None], y)

    orders = [
        jax.grad(jax.grad(nats, 0), 1),
        jax.grad(jax.grad(nats, 1), 0),
        jax.jacfwd(jax.grad(nats, 0), 1),
        jax.jacfwd(jax.jacfwd(nats, 1), 0),
    ]
    point = jnp.array([0.0, 1.5, -3.0]), jnp.array([0.0, 0.4, 1.0])
    for mixed in jax.jit(lambda *a: [jax.vmap(f)(*a) for f in orders])(*point):
        np.testing.assert_allclose(mixed, -1.0, rtol=1e-15)


def test_samples_are_on_as_often_as_the_odds_say():
    log_odds = jnp.array([-104.0, -2.0, 0.0, 1.0, 104.0])
    n = 40_000
    on = HEAD.sample(jax.random.key(0), jnp.broadcast_to(log_odds[:, None], (n, 5, 1)))
    assert on.dtype == jnp.float32
    p = 1 / (1 + np.exp(-np.float64(log_odds)))
    assert np.all(np.abs(on.mean(0) - p) <= 4.5 * np.sqrt(p * (1 - p) / n) + 1e-7)
