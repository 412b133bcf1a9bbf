"""The multilayer perceptron against the formula in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import mdnjax as mdn
from mdnjax import nets


def test_is_the_formula():
    net = nets.functional(nets.MLP(3, (5, 4), 2, activation=jax.nn.gelu, rngs=nnx.Rngs(0)))
    x = np.random.default_rng(0).normal(size=(7, 6, 3)).astype(np.float32)
    h = x
    for layer in ("0", "1"):
        weights = net.params["layers"][layer]
        a = h @ np.asarray(weights["kernel"]) + np.asarray(weights["bias"])
        h = np.asarray(jax.nn.gelu(a))
    expected = h @ np.asarray(net.params["output"]["kernel"])
    np.testing.assert_allclose(net.apply(net.params, {}, x)[0], expected, rtol=1e-5, atol=1e-6)


def test_is_tanh_by_default_and_linear_without_hidden_layers():
    mlp = nets.MLP(1, (1,), 1, rngs=nnx.Rngs(0))
    w, v = mlp.layers[0].kernel[0, 0], mlp.output.kernel[0, 0]
    np.testing.assert_allclose(mlp(jnp.full((1,), 0.7))[0], v * np.tanh(0.7 * w), rtol=1e-6)
    linear = nets.MLP(2, (), 3, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(linear(jnp.eye(2)), linear.output.kernel[...], rtol=1e-6)


def test_activations_start_at_unit_scale():
    mlp = nets.MLP(400, (400, 400), 400, activation=lambda a: a, rngs=nnx.Rngs(0))
    out = mlp(jax.random.normal(jax.random.key(0), (200, 400)))
    assert 0.9 < float(out.std()) < 1.1


def test_inputs_in_parts_and_outputs_in_a_shape_are_the_same_numbers():
    whole, shaped = (nets.MLP(5, (4,), out, rngs=nnx.Rngs(0)) for out in (6, (3, 2)))
    x = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    expected = np.asarray(whole(x)).reshape(7, 3, 2)
    np.testing.assert_array_equal(shaped(x[:, :2], x[:, 2:]), expected)


def test_takes_a_module_as_output():
    head = mdn.GaussianHead(num_components=2, dim=1)
    output = nets.MixtureDense(4, head, rngs=nnx.Rngs(1))
    mlp = nets.MLP(1, (4,), output, rngs=nnx.Rngs(0))
    raw = mlp(jnp.zeros((5, 1)))
    np.testing.assert_allclose(raw[0], nets.spread_bias(head), rtol=1e-6)


def test_dropout_keeps_the_expectation():
    net = nets.functional(nets.MLP(2, (64,), 1, dropout=0.25, rngs=nnx.Rngs(0)))
    x = jnp.ones((20000, 2))
    out, _ = net.apply(net.params, {}, x, key=jax.random.key(0), train=True)
    expected, _ = net.apply(net.params, {}, x[:1])
    assert float(out.std()) > 0.05
    assert abs(float(out.mean() - expected[0, 0])) < 5 * float(out.std()) / np.sqrt(20000)


def test_errors():
    for bad in [(0, (1,), 1), (1, (0,), 1)]:
        with pytest.raises(ValueError, match="MLP: in_features, hidden must be widths >= 1"):
            nets.MLP(*bad, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="MLP: output must be a module, or a number of outputs"):
        nets.MLP(1, (1,), 0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"MLP: dropout must be in \[0, 1\), got 1.0"):
        nets.MLP(1, (1,), 1, dropout=1.0, rngs=nnx.Rngs(0))
