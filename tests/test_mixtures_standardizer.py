"""Standardised and original units: exact change of variables, SciPy, full precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from made_mixtures import make

import mdnjax as mdn

KINDS = ("isotropic", "diagonal", "full")
# Compiled: an eager call would compile each operation by itself.
log_prob, crps = jax.jit(mdn.log_prob), jax.jit(mdn.crps)
invert_mixture = jax.jit(mdn.Standardizer.invert_mixture)


def targets(n=50, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 3)) * [1e-3, 2.0, 50.0] + [5.0, -1.0, 1e4]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_log_densities_differ_by_the_log_determinant(kind, shared, x64):
    standardizer = mdn.Standardizer.fit(targets(), shared_scale=shared)
    of_z, y = make(kind, (4,), dim=3), targets(4, seed=1)
    of_y = invert_mixture(standardizer, of_z)
    expected = log_prob(of_z, standardizer.apply(y)) - standardizer.log_det
    np.testing.assert_allclose(log_prob(of_y, y), expected, rtol=1e-11)
    stays = kind if kind != "isotropic" or shared else "diagonal"
    assert of_y.covariance_kind == stays
    assert of_y.batch_shape == (4,)


@pytest.mark.parametrize("kind", KINDS)
def test_the_mixture_is_the_affine_images_own(kind, x64):
    """Means and covariances by the textbook: S mu + m and S Sigma S; density by SciPy."""
    standardizer, of_z = mdn.Standardizer.fit(targets()), make(kind, dim=3)
    of_y = invert_mixture(standardizer, of_z)
    loc, scale = standardizer.loc, np.diag(standardizer.scale)
    means = np.asarray(of_z.loc) @ scale + loc
    covariances = scale @ np.asarray(of_z.component_covariances) @ scale
    np.testing.assert_allclose(of_y.loc, means, rtol=1e-14)
    # Entries off the diagonal may be zero by cancellation: relative to the scales they are of.
    np.testing.assert_allclose(
        np.linalg.inv(scale) @ np.asarray(of_y.component_covariances) @ np.linalg.inv(scale),
        of_z.component_covariances,
        rtol=1e-10,
        atol=1e-12,
    )
    y = targets(1)[0]
    density = sum(
        w * scipy.stats.multivariate_normal.pdf(y, m, c)
        for w, m, c in zip(np.asarray(of_z.weights), means, covariances, strict=True)
    )
    np.testing.assert_allclose(log_prob(of_y, y), np.log(density), rtol=1e-9)


def test_samples_and_moments_come_back_in_original_units(x64):
    standardizer, of_z, key = (
        mdn.Standardizer.fit(targets()),
        make("full", dim=3),
        jax.random.key(0),
    )

    @jax.jit
    def samples_and_mean(mix):
        return mdn.sample(key, mix, (20,)), mdn.mean(mix)

    in_z, in_y = map(samples_and_mean, (of_z, invert_mixture(standardizer, of_z)))
    for z, y in zip(in_z, in_y, strict=True):
        np.testing.assert_allclose(y, standardizer.invert(z), rtol=1e-12)


def test_scores_speak_original_units(x64):
    """CRPS scales with the units; a z-score leaves no trace in the PIT's sister, the cdf."""
    standardizer = mdn.Standardizer.fit(np.array([[100.0], [700.0]]))
    of_z = make("diagonal", dim=1)
    of_y, z = invert_mixture(standardizer, of_z), np.array([0.3])
    np.testing.assert_allclose(crps(of_y, standardizer.invert(z)), 300 * crps(of_z, z))


def test_fit_against_numpy(x64):
    y = targets().reshape(5, 10, 3)
    standardizer = mdn.Standardizer.fit(y)
    np.testing.assert_allclose(standardizer.loc, y.mean((0, 1)), rtol=1e-14)
    np.testing.assert_allclose(standardizer.scale, y.std((0, 1)), rtol=1e-12)
    z = standardizer.apply(y)
    np.testing.assert_allclose(z.mean((0, 1)), 0, atol=1e-10)
    np.testing.assert_allclose(z.std((0, 1)), 1, rtol=1e-10)
    np.testing.assert_allclose(standardizer.invert(z), y, rtol=1e-13)
    np.testing.assert_allclose(standardizer.log_det, np.log(y.std((0, 1))).sum(), rtol=1e-12)
    shared = mdn.Standardizer.fit(y, shared_scale=True)
    assert shared.scale.shape == (1,)
    np.testing.assert_allclose(shared.scale**2, y.var((0, 1)).mean(), rtol=1e-12)
    np.testing.assert_allclose(shared.log_det, 3 * np.log(shared.scale[0]))


def test_padding_does_not_count():
    y = targets(12).reshape(3, 4, 3)
    mask = np.arange(12).reshape(3, 4) % 3 > 0
    padded = np.where(mask[..., None], y, np.nan)
    fitted, expected = mdn.Standardizer.fit(padded, mask=mask), mdn.Standardizer.fit(y[mask])
    np.testing.assert_array_equal(fitted.loc, expected.loc)
    np.testing.assert_array_equal(fitted.scale, expected.scale)


def test_a_constant_coordinate_has_scale_one():
    """The mean of seven 0.1 is not 0.1, and their standard deviation not 0."""
    y = np.stack([np.full(7, 0.1), np.arange(7.0)], axis=-1)
    standardizer = mdn.Standardizer.fit(y)
    assert np.mean(y[:, 0]) != 0.1
    np.testing.assert_array_equal(standardizer.loc, [0.1, 3.0])
    np.testing.assert_array_equal(standardizer.scale, [1.0, 2.0])
    np.testing.assert_array_equal(standardizer.apply(y)[:, 0], 0)
    assert mdn.Standardizer.fit(y[:, :1], shared_scale=True).scale == [1.0]


def test_numpys_targets_keep_their_digits_without_x64():
    """Seconds since 1970 and a spread of milliseconds: gone if rounded to float32 first."""
    y = 1.6e9 + 1e-3 * np.arange(5.0)[:, None]
    standardizer = mdn.Standardizer.fit(y)
    z = standardizer.apply(y)
    assert z.dtype == np.float64
    np.testing.assert_allclose(z[:, 0], (np.arange(5) - 2) / np.sqrt(2), rtol=1e-3)
    assert standardizer.apply(jnp.ones((2, 1))).dtype == jnp.float32
    assert standardizer.apply(np.ones((2, 1), np.float32)).dtype == np.float32
    np.testing.assert_array_equal(mdn.Standardizer.fit([[1], [3]]).apply([[2]]), [[0.0]])


def test_it_is_a_pytree_and_has_derivatives():
    standardizer = mdn.Standardizer(jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0]))
    moved = jax.jit(lambda s: jax.tree.map(lambda x: 2 * x, s))(standardizer)
    np.testing.assert_array_equal(moved.scale, [6.0, 8.0])
    z, log_det = jax.jit(lambda s, y: (s.apply(y), s.log_det))(standardizer, jnp.ones((5, 2)))
    assert z.shape == (5, 2)
    np.testing.assert_allclose(log_det, np.log(12), rtol=1e-6)
    slope = jax.grad(lambda s: s.log_det)(standardizer)
    np.testing.assert_allclose(slope.scale, [1 / 3, 1 / 4], rtol=1e-6)
    assert jax.vmap(standardizer.invert)(z).shape == (5, 2)


def test_what_is_wrong_is_named():
    fit = mdn.Standardizer.fit
    with pytest.raises(ValueError, match=r"Standardizer.fit: targets must be finite, got 1 of 2"):
        fit(np.array([[1.0, 2.0], [np.inf, 0.0]]))
    with pytest.raises(ValueError, match=r"fit: targets must be \[..., D\], got shape \(3,\)"):
        fit([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"fit: targets must be one or more, got none"):
        fit(np.zeros((0, 2)))
    with pytest.raises(ValueError, match=r"fit: mask must be of shape \(3,\), got shape \(2,\)"):
        fit([[1.0], [2.0], [3.0]], mask=np.ones(2, bool))
    standardizer = fit([[1.0], [2.0]])
    with pytest.raises(ValueError, match=r"Standardizer.apply: y must be \[..., 1\]"):
        standardizer.apply(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="invert_mixture: mix must be D = 1, got D = 3"):
        standardizer.invert_mixture(make("full", dim=3))
