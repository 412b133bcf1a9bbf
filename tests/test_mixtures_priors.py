"""The Dirichlet prior and the entropy of the weights: exact values, SciPy, derivatives at zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import mdnjax as mdn

prior = jax.jit(mdn.dirichlet_log_prior, static_argnames="normalized")
entropy = jax.jit(mdn.weight_entropy)


def test_li_and_lees_own_numbers(x64):
    """lambda = 2, M = 5 at equal weights, where their loss is least."""
    log_weights = np.full(5, -np.log(5))
    unnormalised = prior(log_weights, 2.0, normalized=False)
    np.testing.assert_allclose(unnormalised, -8.047189562171, atol=1e-12)
    normaliser = prior(log_weights, 2.0) - unnormalised
    np.testing.assert_allclose(normaliser - np.log(24), 12.801827480081 - np.log(24), atol=1e-12)


@pytest.mark.parametrize("concentration", [0.3, 1.0, 7.5, [0.5, 1.0, 2.0, 9.0]])
def test_against_scipy(concentration, x64):
    weights = np.random.default_rng(0).dirichlet(np.ones(4), size=(2, 3))
    got = prior(np.log(weights), np.asarray(concentration))
    alpha = np.broadcast_to(concentration, 4)
    for place in np.ndindex(2, 3):
        expected = scipy.stats.dirichlet.logpdf(weights[place] / weights[place].sum(), alpha)
        np.testing.assert_allclose(got[place], expected, rtol=1e-11)


def test_a_concentration_of_its_own_for_every_example(x64):
    rng = np.random.default_rng(1)
    alpha, weights = rng.uniform(0.5, 3, (3, 4)), rng.dirichlet(np.ones(4))
    expected = [scipy.stats.dirichlet.logpdf(weights, a) for a in alpha]
    np.testing.assert_allclose(prior(np.log(weights), alpha), expected, rtol=1e-11)
    assert prior(np.log(weights)[None], rng.uniform(1, 2, (3, 1))).shape == (3,)


def test_zero_times_infinity_is_zero_and_has_a_derivative(x64):
    log_weights = jnp.log(jnp.array([0.0, 0.25, 0.75]))
    value, gradient = jax.value_and_grad(mdn.dirichlet_log_prior)(log_weights, 1.0)
    np.testing.assert_allclose(value, np.log(2))  # uniform on a triangle
    np.testing.assert_array_equal(gradient, 0)
    alpha = jnp.array([1.0, 2.0, 3.0])
    gradient = jax.grad(mdn.dirichlet_log_prior)(log_weights, alpha)
    np.testing.assert_allclose(gradient, [0, 1, 2])
    assert mdn.dirichlet_log_prior(log_weights, 2.0) == -np.inf
    assert mdn.dirichlet_log_prior(log_weights, 0.5) == np.inf
    assert np.isnan(mdn.dirichlet_log_prior(log_weights.at[0].set(jnp.nan), 1.0))


def test_through_a_head_a_weight_of_zero_has_a_finite_gradient(x64):
    head = mdn.GaussianHead(num_components=3, dim=1)
    raw = jnp.zeros(9).at[0].set(-jnp.inf)

    def loss(raw):
        log_weights = head.mixture(raw).log_weights
        return mdn.weight_entropy(log_weights) - mdn.dirichlet_log_prior(log_weights, 1.0)

    value, gradient = jax.value_and_grad(loss)(raw)
    np.testing.assert_allclose(value, np.log(2) - np.log(2), atol=1e-12)
    np.testing.assert_allclose(gradient, 0, atol=1e-12)


def test_its_mode_is_where_it_pushes(x64):
    """The gradient in the logits vanishes where pi_k is proportional to lambda_k - 1."""
    alpha = jnp.array([1.5, 2.0, 4.0])
    slope = jax.grad(lambda a: mdn.dirichlet_log_prior(jax.nn.log_softmax(a), alpha))
    np.testing.assert_allclose(slope(jnp.log(alpha - 1)), 0, atol=1e-14)


def test_entropy_against_scipy(x64):
    weights = np.random.default_rng(0).dirichlet(np.ones(4), size=(2, 3))
    weights[0, 0] = [0.0, 1.0, 0.0, 0.0]
    weights[1, 1] = [0.0, 0.5, 0.5, 0.0]
    with np.errstate(divide="ignore"):
        got = entropy(np.log(weights))
    np.testing.assert_allclose(got, scipy.stats.entropy(weights, axis=-1), atol=1e-14)


def test_entropy_has_a_derivative_everywhere(x64):
    log_weights = jnp.log(jnp.array([0.0, 0.25, 0.75]))
    gradient = jax.grad(mdn.weight_entropy)(log_weights)
    expected = -np.array([0.25, 0.75]) * (1 + np.log([0.25, 0.75]))
    np.testing.assert_allclose(gradient, [0, *expected], rtol=1e-12)
    assert np.isfinite(mdn.weight_entropy(jnp.array([-1e30, 0.0])))
    assert np.isnan(mdn.weight_entropy(jnp.array([jnp.nan, 0.0])))


def test_what_is_wrong_is_named():
    name = "dirichlet_log_prior: concentration must be"
    with pytest.raises(ValueError, match=f"{name} positive, got 0"):
        mdn.dirichlet_log_prior(np.zeros(2), 0)
    with pytest.raises(ValueError, match=rf"{name} a number or \[..., 2\], got shape \(3,\)"):
        mdn.dirichlet_log_prior([0.0, 0.0], [2.0, 2.0, 2.0])
    with pytest.raises(ValueError, match="the batch shapes of log_weights and concentration"):
        mdn.dirichlet_log_prior([[0.0]] * 2, [[1.0]] * 3)
