"""Mean, variance, covariance: exact numbers, quadrature, Monte Carlo; the most probable centre."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from made_mixtures import make

import mdnjax as mdn

KINDS = ("isotropic", "diagonal", "full")
# Compiled: an eager call would compile each operation by itself.
moments = jax.jit(lambda mix: (mdn.mean(mix), mdn.variance(mix), mdn.covariance(mix)))
most_probable = jax.jit(mdn.most_probable)
BUILD = {kind: jax.jit(getattr(mdn.GaussianMixture, kind)) for kind in KINDS}


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def test_two_gaussians_on_a_line(x64):
    build, loc = BUILD["isotropic"], np.array([[-1.0], [1.0]])
    mean, variance, covariance = moments(
        build(loc, np.array([0.1, 0.5]), weights=np.array([0.3, 0.7]))
    )
    np.testing.assert_allclose(mean, [0.4], rtol=1e-14)
    np.testing.assert_allclose(variance, [1.018], rtol=1e-14)
    np.testing.assert_allclose(covariance, [[1.018]], rtol=1e-14)
    mix = build(np.array([[-10.0], [0.1]]), np.array([0.05, 2.33]), weights=np.ones(2))
    np.testing.assert_allclose(np.sqrt(moments(mix)[1]), [5.3120805], rtol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_tensorflow_probabilitys_example_in_the_plane(kind, x64):
    loc, scale = np.array([[-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]), np.array([0.3, 0.6, 0.7])
    wide = np.broadcast_to(scale[:, None], (3, 2))
    given = {"isotropic": scale, "diagonal": wide, "full": wide[..., None] ** 2 * np.eye(2)}[kind]
    mean, variance, covariance = moments(BUILD[kind](loc, given, weights=np.array([0.2, 0.4, 0.4])))
    np.testing.assert_allclose(mean, [0.6, 0.2], rtol=1e-13)
    expected = np.array([[0.998, -0.32], [-0.32, 1.318]])
    np.testing.assert_allclose(covariance, expected, rtol=1e-12)
    np.testing.assert_allclose(variance, np.diag(expected), rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_against_loops_of_numpy(kind, x64):
    mix = make(kind, (2, 4), dim=3)
    mean, variance, covariance = moments(mix)
    sigmas = np.asarray(jax.jit(lambda mix: mix.component_covariances)(mix))
    weights, loc = np.asarray(mix.weights), np.asarray(mix.loc)
    assert (mean.shape, variance.shape, covariance.shape) == ((2, 4, 3), (2, 4, 3), (2, 4, 3, 3))
    for b in np.ndindex(2, 4):
        pi, mu, sigma = weights[b], loc[b], sigmas[b]
        np.testing.assert_allclose(mean[b], pi @ mu, rtol=1e-12, atol=1e-14)
        second = np.einsum("k,kij->ij", pi, sigma) + np.einsum("k,ki,kj->ij", pi, mu, mu)
        expected = second - np.outer(pi @ mu, pi @ mu)
        np.testing.assert_allclose(covariance[b], expected, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(variance[b], np.diag(expected), rtol=1e-10)
        assert np.linalg.eigvalsh(covariance[b]).min() > 0


def test_the_total_variance_of_spheres_has_the_factor_of_the_dimension(x64):
    """E|t - E t|^2 = sum_k pi_k (D sigma_k^2 + |mu_k - mean|^2), which the lecture lacks."""
    mix = make("isotropic", dim=5)
    pi, sigma, loc = np.exp(mix.log_weights), np.exp(mix.log_scale), np.asarray(mix.loc)
    mean, variance, _ = map(np.asarray, moments(mix))
    spread = ((loc - mean) ** 2).sum(-1)
    np.testing.assert_allclose(variance.sum(), pi @ (5 * sigma**2 + spread), rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_moments_are_those_of_the_density(kind, x64):
    """By quadrature over the plane."""
    mix = make(kind, dim=2, seed=1)
    got_mean, got_variance, got_covariance = moments(mix)
    half = np.abs(mix.loc).max() + 12 * np.sqrt(np.max(got_variance))
    side = np.linspace(-half, half, 1200)
    grid = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1)
    mass = np.exp(jax.jit(mdn.log_prob)(mix, grid)) * (side[1] - side[0]) ** 2
    mean = np.einsum("xy,xyi->i", mass, grid)
    covariance = np.einsum("xy,xyi,xyj->ij", mass, grid - mean, grid - mean)
    np.testing.assert_allclose(got_mean, mean, atol=1e-8)
    np.testing.assert_allclose(got_covariance, covariance, atol=1e-7)
    np.testing.assert_allclose(got_variance, np.diag(covariance), atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_moments_are_those_of_samples_in_many_dimensions(kind):
    mix, n = make(kind, k=3, dim=5, seed=2), 100_000
    y = jax.jit(mdn.sample, static_argnums=2)(jax.random.key(0), mix, (n,))
    y = np.asarray(y, np.float64)
    mean, variance, covariance = moments(mix)
    # Five means, five variances, ten covariances: 20 two-sided tests at 1e-4 in all.
    bound = scipy.stats.norm.isf(1e-4 / 20 / 2)
    centred = y - y.mean(0)
    products = centred[:, :, None] * centred[:, None, :]
    assert np.all(np.abs(y.mean(0) - mean) <= bound * y.std(0) / np.sqrt(n))
    error = np.abs(products.mean(0) - covariance)
    assert np.all(error <= bound * products.std(0) / np.sqrt(n))
    error = np.abs((centred**2).mean(0) - variance)
    assert np.all(error <= bound * (centred**2).std(0) / np.sqrt(n))


def test_a_component_without_weight_has_no_moments():
    parts = np.float32([[1e18], [2.0]]), np.float32([1e18, 3.0])
    mean, variance, _ = moments(BUILD["isotropic"](*parts, weights=np.float32([0, 1])))
    np.testing.assert_allclose(mean, [2.0])
    np.testing.assert_allclose(variance, [9.0], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_most_probable_centre(kind):
    mix = make(kind, (2, 5), k=4, dim=3)
    centres = most_probable(mix)
    assert centres.shape == (2, 5, 3)
    weights, loc, centres = (np.asarray(x) for x in (mix.weights, mix.loc, centres))
    for b in np.ndindex(2, 5):
        np.testing.assert_array_equal(centres[b], loc[b][np.argmax(weights[b])])
    np.testing.assert_array_equal(jax.jit(jax.vmap(jax.vmap(mdn.most_probable)))(mix), centres)


def test_of_equal_weights_the_first_is_the_most_probable():
    with np.errstate(divide="ignore"):
        log_weights = np.log(np.float32([0, 0.5, 0.5]))
    loc = np.float32([[5], [6], [7]])
    tied = mdn.GaussianMixture(log_weights, loc, np.zeros(3, np.float32), None, "isotropic")
    np.testing.assert_array_equal(most_probable(tied), [6.0])


@pytest.mark.parametrize("kind", KINDS)
def test_moments_are_differentiable(kind, x64):
    """The mean moves with its centres by pi, and sum of the variances by its definition."""
    mix = make(kind, dim=3)

    @jax.jit
    @functools.partial(jax.jacrev, has_aux=True)
    def slopes(mix):
        mean = mdn.mean(mix)
        return jnp.stack([mean[1], mdn.variance(mix).sum()]), mean

    gradients, mean = slopes(mix)
    of_mean, of_trace = np.asarray(gradients.loc)
    weights, offset = np.exp(mix.log_weights), np.asarray(mix.loc) - np.asarray(mean)
    np.testing.assert_allclose(of_mean[:, 1], weights, rtol=1e-12)
    np.testing.assert_array_equal(of_mean[:, [0, 2]], 0)
    np.testing.assert_allclose(of_trace, 2 * weights[:, None] * offset, rtol=1e-10, atol=1e-12)
