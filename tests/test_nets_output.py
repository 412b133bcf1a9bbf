"""Where a mixture density network starts: centres apart, weights even, scales wide."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial
import scipy.stats
import scipy.stats.qmc
from flax import nnx

import mdnjax as mdn
from mdnjax import nets

bias_from_targets = jax.jit(nets.bias_from_targets, static_argnums=1)


@functools.partial(jax.jit, static_argnums=0)
def meaning(head, raw):
    """Weights, centres and covariances of what the raw outputs mean."""
    mix = head.mixture(raw)
    return mix.weights, mix.loc, mix.component_covariances


@functools.partial(jax.jit, static_argnums=0)
def mean_nll(head, bias, y):
    return head.nll(bias[None], y).mean()


KINDS = ("isotropic", "diagonal", "full")
STROKE = mdn.ProductHead(
    offset=mdn.GaussianHead(num_components=20, dim=2, covariance="full"),
    pen_up=mdn.BernoulliHead(),
)


def test_is_a_linear_layer():
    layer = nets.MixtureDense(6, STROKE, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(3, 4, 6)).astype(np.float32)
    expected = x @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-6)
    assert expected.shape == (3, 4, STROKE.num_outputs)


@pytest.mark.parametrize(
    ("covariance", "k", "dim"),
    [("isotropic", 1, 1), ("isotropic", 5, 1), ("diagonal", 20, 2), ("full", 8, 16)],
)
def test_starts_spread_and_even(covariance, k, dim):
    head = mdn.GaussianHead(num_components=k, dim=dim, covariance=covariance)
    layer = nets.MixtureDense(64, head, rngs=nnx.Rngs(0))
    # Zeros, and inputs of a network's size.
    x = np.random.default_rng(0).uniform(-1, 1, (101, 64)).astype(np.float32)
    x[0] = 0
    weights, _, covariances = (np.asarray(part) for part in meaning(head, layer(x)))
    np.testing.assert_allclose(weights[0], np.full(k, 1 / k), rtol=1e-5)
    unit = np.broadcast_to(np.eye(dim), (k, dim, dim))
    np.testing.assert_allclose(covariances[0], unit, atol=1e-5)
    # They move the start little: no weight doubles, no scale leaves 2.
    variances = np.diagonal(covariances[1:], axis1=-2, axis2=-1)
    assert weights[1:].max() < 2 / k
    assert variances.min() > 1 / 4
    assert variances.max() < 4


def test_centres_in_one_dimension_are_the_normals_quantiles():
    head = mdn.GaussianHead(num_components=7, dim=1)
    loc = head.mixture(nets.spread_bias(head)).loc[:, 0]
    np.testing.assert_allclose(loc, scipy.stats.norm.ppf((np.arange(7) + 0.5) / 7), atol=1e-6)


def test_an_input_may_come_in_parts():
    layer = nets.MixtureDense(6, STROKE, rngs=nnx.Rngs(0))
    layer.kernel[...] = jax.random.normal(jax.random.key(0), layer.kernel.shape)
    inputs = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    kernel, bias = np.asarray(layer.kernel[...], float), np.asarray(layer.bias[...])
    expected = inputs.astype(float) @ kernel + bias
    for parts in ([inputs], np.split(inputs, 3, -1), np.split(inputs, [1, 5], -1)):
        np.testing.assert_allclose(layer(*parts), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"MixtureDense: inputs must be 6 wide, got widths \[4\]"):
        layer(inputs[:, :4])


def test_centres_in_two_dimensions_fill_the_normals_range():
    head = mdn.GaussianHead(num_components=50, dim=2)
    loc = np.asarray(head.mixture(nets.spread_bias(head)).loc)
    uniform = scipy.stats.norm.cdf(loc)
    # Random points have ((5/4)^2 - (13/12)^2) / 50 = 0.0078 on average.
    assert scipy.stats.qmc.discrepancy(uniform) < 0.0025
    assert scipy.spatial.distance.pdist(loc).min() > 0.1


def test_product_heads_have_each_part_in_its_place():
    parts = STROKE.split(nets.spread_bias(STROKE))
    np.testing.assert_array_equal(parts["offset"], nets.spread_bias(STROKE["offset"]))
    np.testing.assert_array_equal(parts["pen_up"], [0.0])


@pytest.mark.parametrize("covariance", KINDS)
def test_targets_in_clusters_are_found(covariance):
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [100.0, 1.0], [0.0, 5.0], [-200.0, -3.0]])
    share = np.array([0.4, 0.3, 0.2, 0.1])
    label = rng.choice(4, size=4000, p=share)
    noise = rng.normal(size=(4000, 2)) * [8.0, 0.2]
    targets = (centres[label] + noise).reshape(40, 100, 2).astype(np.float32)
    head = mdn.GaussianHead(num_components=4, dim=2, covariance=covariance)
    found = meaning(head, bias_from_targets(jax.random.key(0), head, targets))
    weights, loc, covariances = (np.asarray(part) for part in found)
    order = [int(np.argmin(np.abs((loc - c) / [8, 0.2]).sum(-1))) for c in centres]
    assert sorted(order) == [0, 1, 2, 3]
    for index, found in enumerate(order):
        mine = (centres[label] + noise)[label == index]
        # 0.03 standard deviations: a handful of points on the wrong side of a border.
        assert np.all(np.abs(loc[found] - mine.mean(0)) < 0.03 * mine.std(0) + 1e-3)
        assert abs(weights[found] - (label == index).mean()) < 0.002
        if covariance != "isotropic":
            added = 0.01 * targets.reshape(-1, 2).var(0)
            expected = mine.var(0) + added
            got = np.diagonal(covariances[found])
            np.testing.assert_allclose(got, expected, rtol=0.02)


@pytest.mark.parametrize("covariance", KINDS)
def test_targets_make_a_better_start_whatever_their_units(covariance):
    rng = np.random.default_rng(1)
    head = mdn.GaussianHead(num_components=6, dim=3, covariance=covariance)
    mixing = rng.normal(size=(3, 3)).astype(np.float32)
    unit = rng.standard_t(3, size=(3000, 3)).astype(np.float32) @ mixing

    nll = {}
    for scale in (1.0, 1e-3, 1e4):
        bias = bias_from_targets(jax.random.key(0), head, unit * np.float32(scale))
        nll[scale] = float(mean_nll(head, bias, unit * np.float32(scale))) - 3 * np.log(scale)
    # The best of a single Gaussian, D/2 (1 + log 2 pi) + log det / 2 of its covariance.
    covariances = np.cov(unit.T, bias=True)
    variances = np.diagonal(covariances)
    log_det = {
        "isotropic": 3 * np.log(variances.mean()),
        "diagonal": np.log(variances).sum(),
        "full": np.linalg.slogdet(covariances)[1],
    }
    assert nll[1.0] < 1.5 * (1 + np.log(2 * np.pi)) + 0.5 * log_det[covariance] - 0.1
    assert nll[1.0] < float(mean_nll(head, nets.spread_bias(head), unit))
    np.testing.assert_allclose([nll[1e-3], nll[1e4]], nll[1.0], rtol=1e-3)


def test_targets_on_few_points_leave_no_needle():
    head = mdn.GaussianHead(num_components=8, dim=2, covariance="full")
    targets = np.repeat(np.eye(2, dtype=np.float32), 50, axis=0)
    bias = bias_from_targets(jax.random.key(0), head, targets)
    _, loc, covariances = meaning(head, bias)
    eigenvalues = np.linalg.eigvalsh(covariances)
    assert eigenvalues.min() > 0.009 * targets.var(0).min()
    assert np.all(np.isfinite(loc))
    constant = bias_from_targets(jax.random.key(0), head, np.ones_like(targets))
    assert np.all(np.isfinite(constant))


def test_pen_up_starts_at_its_rate():
    rng = np.random.default_rng(0)
    targets = {
        "offset": rng.normal(size=(30, 10, 2)).astype(np.float32),
        "pen_up": (np.arange(300) < 12).reshape(30, 10),
    }
    bias = bias_from_targets(jax.random.key(0), STROKE, targets)
    parts = STROKE.split(bias)
    np.testing.assert_allclose(STROKE["pen_up"].probability(parts["pen_up"]), 12.5 / 301, rtol=1e-5)
    layer = nets.MixtureDense(4, STROKE, bias=bias, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(layer(jnp.zeros(4)), bias)
    never = bias_from_targets(jax.random.key(0), mdn.BernoulliHead(), np.zeros(10))
    np.testing.assert_allclose(never, np.log(0.5 / 10.5), rtol=1e-5)


def test_errors():
    head = mdn.GaussianHead(num_components=3, dim=2)
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="bias_from_targets: targets must be at least 3, got 2"):
        nets.bias_from_targets(key, head, jnp.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"bias_from_targets: targets must be \[..., 2\]"):
        nets.bias_from_targets(key, head, jnp.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"targets must be a mapping with the keys \['offset'"):
        nets.bias_from_targets(key, STROKE, {"offset": jnp.zeros((30, 2))})
    with pytest.raises(ValueError, match=r"MixtureDense: bias must be of shape \(12,\)"):
        nets.MixtureDense(3, head, bias=jnp.zeros(5), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="MixtureDense: in_features must be >= 1, got 0"):
        nets.MixtureDense(0, head, rngs=nnx.Rngs(0))
