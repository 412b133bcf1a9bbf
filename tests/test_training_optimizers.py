"""Muon against its definition, a singular value decomposition in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mdnjax import training


def _params():
    rng = np.random.default_rng(0)
    return {
        "hidden": {"kernel": jnp.asarray(rng.normal(size=(6, 10))), "bias": jnp.zeros(10)},
        "output": {"kernel": jnp.asarray(rng.normal(size=(10, 2)))},
    }


def _is_hidden(name):
    return name.startswith("hidden/")


def test_a_hidden_matrix_moves_by_an_orthogonal_one():
    params = _params()
    optimizer = training.muon(_is_hidden, ratio=3.0, clip=None, iterations=5)
    gradient = jax.tree.map(lambda p: p + 0.1, params)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    u, _, vt = np.linalg.svd(np.asarray(gradient["hidden"]["kernel"]), full_matrices=False)
    update = np.asarray(updates["hidden"]["kernel"]) / (-0.2 * 3.0 * np.sqrt(10))
    # Newton-Schulz in five steps takes the singular values to within about a third of 1.
    assert np.all(np.abs(np.linalg.svd(update, compute_uv=False) - 1) < 0.35)
    cosine = np.sum(update * (u @ vt)) / np.linalg.norm(update) / np.linalg.norm(u @ vt)
    assert cosine > 0.97


def test_all_else_moves_as_with_adam():
    params = _params()
    gradient = jax.tree.map(lambda p: 0.3 * p + 0.1, params)
    ours = training.muon(_is_hidden, clip=None, b1=0.9, b2=0.99)
    adam = optax.adam(1.0, b1=0.9, b2=0.99)
    updates, _ = ours.update(gradient, ours.init(params), params)
    expected, _ = adam.update(gradient, adam.init(params), params)
    for path in (("hidden", "bias"), ("output", "kernel")):
        got, want = updates[path[0]][path[1]], expected[path[0]][path[1]]
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_the_clip_comes_first():
    params = _params()
    gradient = jax.tree.map(lambda p: 1e6 * (p + 0.1), params)
    clipped = training.muon(_is_hidden, clip=1.0)
    small = jax.tree.map(lambda g: g / optax.tree.norm(gradient), gradient)
    free = training.muon(_is_hidden, clip=None)
    got, _ = clipped.update(gradient, clipped.init(params), params)
    want, _ = free.update(small, free.init(params), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, want)


def test_muon_names_what_is_wrong():
    with pytest.raises(ValueError, match=r"muon: matrices must be true of some matrix, got none"):
        training.muon(lambda name: False).init(_params())
    with pytest.raises(ValueError, match=r"muon: ratio must be positive, got 0.0"):
        training.muon(_is_hidden, ratio=0.0)
    with pytest.raises(ValueError, match=r"muon: clip must be positive, or None, got -1.0"):
        training.muon(_is_hidden, clip=-1.0)


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (7, 7), (1, 5)])
def test_the_gram_form_is_newton_and_schulz(x64, shape):
    matrix = np.random.default_rng(1).normal(size=shape)
    x = (matrix if shape[0] <= shape[1] else matrix.T) / np.linalg.norm(matrix)
    for _ in range(5):
        gram = x @ x.T
        x = (3.4445 * np.eye(len(x)) - 4.775 * gram + 2.0315 * gram @ gram) @ x
    want = x if shape[0] <= shape[1] else x.T
    np.testing.assert_allclose(training.orthogonalize(jnp.asarray(matrix)), want, rtol=1e-9)


def test_nothing_comes_of_nothing():
    assert not np.any(np.asarray(training.orthogonalize(jnp.zeros((3, 4)))))


def test_the_momentum_is_nesterovs(x64):
    rng = np.random.default_rng(2)
    gradients = rng.normal(size=(3, 4, 4))
    transform = training.scale_by_muon(momentum=0.9, rms=0.5)
    state = transform.init(jnp.zeros((4, 4)))
    momentum = np.zeros((4, 4))
    for gradient in gradients:
        update, state = transform.update(jnp.asarray(gradient), state)
        momentum = 0.9 * momentum + 0.1 * gradient
        ahead = 0.9 * momentum + 0.1 * gradient
        want = 0.5 * 2.0 * np.asarray(training.orthogonalize(jnp.asarray(ahead)))
        np.testing.assert_allclose(update, want, rtol=1e-9)
