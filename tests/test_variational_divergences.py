"""Divergences against quadrature, determinants, samples; and the diagonal Gaussian itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

import mdnjax as mdn
from mdnjax.variational import (
    aggregated_posterior,
    kl_gaussian,
    kl_monte_carlo,
    kl_normal,
    kl_standard_normal,
    log_normal,
    log_standard_normal,
    reparameterize,
)

LOC, SCALE = np.array([1.0, -2.0]), np.array([0.5, 2.0])


def by_quadrature(mu, sigma, m, s):
    q, p = scipy.stats.norm(mu, sigma), scipy.stats.norm(m, s)
    value, _ = scipy.integrate.quad(
        lambda x: q.pdf(x) * (q.logpdf(x) - p.logpdf(x)), mu - 12 * sigma, mu + 12 * sigma
    )
    return value


def test_closed_forms_are_the_integrals(x64):
    cases = np.random.default_rng(0).normal(size=(6, 4))
    mu, log_sigma, m, log_s = cases.T
    expected = [by_quadrature(a, np.exp(b), c, np.exp(d)) for a, b, c, d in cases]
    np.testing.assert_allclose(kl_normal(mu, log_sigma, m, log_s), expected, rtol=1e-9)
    expected = [by_quadrature(a, np.exp(b), 0, 1) for a, b, _, _ in cases]
    np.testing.assert_allclose(kl_standard_normal(mu, log_sigma), expected, rtol=1e-9)


def test_the_known_value(x64):
    np.testing.assert_allclose(kl_standard_normal(LOC, np.log(SCALE)).sum(), 3.625, rtol=1e-14)


def test_nothing_cancels_where_the_two_are_almost_equal():
    """KL(N(0, e^2d) || N(0, 1)) = d^2 - ..., far below one unit in the last place of its terms."""
    d = np.float32(1e-4)
    np.testing.assert_allclose(kl_standard_normal(np.float32([0]), d[None]), [1e-8], rtol=1e-3)


def test_every_finite_encoding_has_a_finite_divergence_and_gradient():
    extreme = np.array([3e38, -3e38, 100, -100, 0, 1e-30], np.float32)
    grid = np.stack(np.meshgrid(*[extreme] * 4), axis=-1).reshape(-1, 4)
    both = jax.value_and_grad(lambda x: kl_normal(*x[:, None])[0])
    value, slope = jax.jit(jax.vmap(both))(grid)
    assert np.isfinite(value).all()
    assert np.isfinite(slope).all()


@pytest.mark.parametrize("kinds", [("full", "full"), ("full", "diagonal"), ("isotropic", "full")])
def test_full_covariances_by_their_determinants(x64, kinds):
    rng = np.random.default_rng(1)

    def gaussian(kind):
        loc, root = rng.normal(size=(3, 1, 2)), rng.normal(size=(3, 1, 2, 2))
        if kind == "full":
            covariance = root @ np.swapaxes(root, -2, -1) + np.eye(2)
            return covariance[:, 0], mdn.GaussianMixture.full, (loc, covariance)
        scale = np.exp(root[..., 0])
        if kind == "diagonal":
            return scale[:, 0, None] ** 2 * np.eye(2), mdn.GaussianMixture.diagonal, (loc, scale)
        scale = scale[..., 0]
        return scale[..., None] ** 2 * np.eye(2), mdn.GaussianMixture.isotropic, (loc, scale)

    (c, of_p, p), (d, of_q, q) = map(gaussian, kinds)
    m, n = p[0][:, 0], q[0][:, 0]
    inverse, delta = np.linalg.inv(d), n - m
    expected = 0.5 * (
        np.trace(inverse @ c, axis1=-2, axis2=-1)
        + np.einsum("bi,bij,bj->b", delta, inverse, delta)
        - 2
        + np.log(np.linalg.det(d) / np.linalg.det(c))
    )
    got = jax.jit(lambda p, q: kl_gaussian(of_p(*p), of_q(*q)))(p, q)
    np.testing.assert_allclose(got, expected, rtol=1e-10)


def test_samples_agree_with_the_closed_form_and_say_how_well():
    loc, log_scale = jnp.asarray(LOC, jnp.float32), jnp.log(jnp.asarray(SCALE, jnp.float32))
    keys = jax.random.split(jax.random.key(0), 300)

    @jax.jit
    def all_of(keys):
        def of_the_prior(key):
            return kl_monte_carlo(key, loc, log_scale, log_standard_normal, num_samples=200)

        of_itself = kl_monte_carlo(
            keys[0], loc, log_scale, lambda z: log_normal(z, loc, log_scale), num_samples=9
        )
        by_default = kl_monte_carlo(keys[0], loc, log_scale, log_standard_normal)
        return jax.vmap(of_the_prior)(keys), of_itself, by_default

    (value, error), same, of_one = all_of(keys)
    z = (value - 3.625) / error
    np.testing.assert_allclose(z.std(), 1, atol=0.17)
    assert abs(z.mean()) < 4 / 300**0.5
    assert same.value == 0
    assert same.standard_error == 0
    assert np.isnan(of_one.standard_error)


def test_a_sampled_divergence_has_the_gradient_of_the_exact_one():
    loc, log_scale = jnp.asarray(LOC, jnp.float32), jnp.log(jnp.asarray(SCALE, jnp.float32))

    def sampled(loc, log_scale):
        terms = kl_monte_carlo(
            jax.random.key(2), loc, log_scale, log_standard_normal, num_samples=100_000
        )
        return terms.value

    slopes = jax.jit(jax.grad(sampled, (0, 1)))(loc, log_scale)
    np.testing.assert_allclose(slopes[0], LOC, atol=0.03)
    np.testing.assert_allclose(slopes[1], SCALE**2 - 1, atol=0.06)


def test_a_mixture_is_a_prior_and_the_aggregated_posterior_one_of_them(x64):
    rng = np.random.default_rng(3)
    loc, log_scale, logits = (rng.normal(size=s) for s in ((4, 2), (4, 2), (4,)))
    z = rng.normal(size=(5, 2))
    parts = scipy.stats.norm(loc[:, None], np.exp(log_scale)[:, None]).logpdf(z).sum(-1)
    for given, weights in ((None, np.full(4, 0.25)), (logits, scipy.special.softmax(logits))):

        @jax.jit
        def log_prob(z, given=given):
            return mdn.log_prob(aggregated_posterior(loc, log_scale, logits=given), z)

        expected = scipy.special.logsumexp(parts, axis=0, b=weights[:, None])
        np.testing.assert_allclose(log_prob(z), expected, rtol=1e-12)


def test_samples_are_of_the_density_and_move_with_it(x64):

    @jax.jit
    def drawn(key):
        z = reparameterize(key, LOC, np.log(SCALE), (100_000,))
        return z, log_normal(z, LOC, np.log(SCALE)), log_standard_normal(z)

    z, of_z, standard = map(np.asarray, drawn(jax.random.key(0)))
    for d in range(2):
        exact = scipy.stats.norm(LOC[d], SCALE[d])
        assert scipy.stats.kstest(z[:, d], exact.cdf).pvalue > 1e-4
    expected = scipy.stats.norm(LOC, SCALE).logpdf(z).sum(-1)
    np.testing.assert_allclose(of_z, expected, rtol=1e-12)
    np.testing.assert_allclose(standard, scipy.stats.norm.logpdf(z).sum(-1), rtol=1e-12)

    def at(loc):
        return reparameterize(jax.random.key(0), loc, np.log(SCALE))

    moved = jax.jit(jax.jacobian(at))(LOC)
    np.testing.assert_array_equal(moved, np.eye(2))


def test_what_does_not_fit_is_named(without_jaxtyping):
    with pytest.raises(ValueError, match=r"kl_standard_normal: loc and log_scale must broadcast"):
        kl_standard_normal(jnp.zeros(2), jnp.zeros(3))
    with pytest.raises(ValueError, match=r"log_normal: z must be \[\*shape, 3, 2\], got shape"):
        log_normal(jnp.zeros((4, 2)), jnp.zeros((3, 2)), jnp.zeros((3, 2)))
    with pytest.raises(ValueError, match="kl_monte_carlo: num_samples must be at least 1, got 0"):
        kl_monte_carlo(jax.random.key(0), LOC, np.log(SCALE), log_standard_normal, num_samples=0)
    two = mdn.GaussianMixture.isotropic([[0.0], [1.0]], [1.0, 1.0])
    with pytest.raises(ValueError, match="kl_gaussian: p must be of K = 1, got K = 2"):
        kl_gaussian(two, two)
    with pytest.raises(ValueError, match=r"aggregated_posterior: logits must be \(3,\), got shape"):
        aggregated_posterior(jnp.zeros((3, 2)), jnp.zeros((3, 2)), logits=jnp.zeros(4))
