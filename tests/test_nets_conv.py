"""Convolutional networks against sums written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mdnjax import nets

RNG = np.random.default_rng(0)


def numbers(module):
    """Random weights and biases, so that none is zero."""
    for layer in (*module.convolutions, *np.ravel(module.dense)):
        layer.bias[...] = jnp.asarray(RNG.normal(size=layer.bias.shape), jnp.float32)


def convolve(x, kernel, bias):
    """4 x 4 with stride 2, TensorFlow's "SAME": an odd side has its odd row of zeros below."""
    height, width = (-(-n // 2) for n in x.shape[:2])
    pads = [max(2 * (out - 1) + 4 - n, 0) for out, n in zip((height, width), x.shape, strict=False)]
    x = np.pad(x, [(p // 2, p - p // 2) for p in pads] + [(0, 0)])
    out = np.zeros((height, width, kernel.shape[-1]))
    for i in range(height):
        for j in range(width):
            out[i, j] = np.tensordot(x[2 * i : 2 * i + 4, 2 * j : 2 * j + 4], kernel, 3) + bias
    return out


def spread(x, kernel, bias):
    """The transpose of that: every pixel adds its 4 x 4 patch, at twice its place less one."""
    height, width, _ = x.shape
    out = np.zeros((2 * height + 2, 2 * width + 2, kernel.shape[2]))
    for i in range(height):
        for j in range(width):
            out[2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += np.tensordot(kernel, x[i, j], 1)
    return out[1:-1, 1:-1] + bias


def call(module, *inputs):
    net = nets.functional(module)
    return jax.jit(lambda *inputs: net.apply(net.params, {}, *inputs)[0])(*inputs)


def values(layer):
    return np.float64(layer.kernel[...]), np.float64(layer.bias[...])


@pytest.mark.parametrize("shape", [(7, 6), (6, 5, 3)])
def test_an_encoder_against_sums(shape):
    encoder = nets.ConvEncoder(shape, (4, 3), 5, 2, given_features=2, rngs=nnx.Rngs(0))
    numbers(encoder)
    x = RNG.normal(size=(2, *shape)).astype(np.float32)
    y = RNG.normal(size=(2, 2)).astype(np.float32)
    expected = []
    for image, more in zip(np.float64(x), np.float64(y), strict=True):
        h = image[..., None] if len(shape) == 2 else image
        for convolution in encoder.convolutions:
            h = np.maximum(convolve(h, *values(convolution)), 0)
        kernel, bias = values(encoder.dense)
        h = np.maximum(np.concatenate([h.ravel(), more]) @ kernel + bias, 0)
        kernel, bias = values(encoder.output)
        expected.append(h @ kernel + bias)
    np.testing.assert_allclose(call(encoder, x, y), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(call(encoder, x[None], y[None])[0], expected, rtol=1e-4, atol=1e-5)


def test_a_decoder_against_sums():
    """Whose first transposed convolution is computed by blocks on CPU, the second by patches."""
    decoder = nets.ConvDecoder(3, 5, (4, 16), (7, 6, 2), rngs=nnx.Rngs(0))
    numbers(decoder)
    z = RNG.normal(size=(2, 3)).astype(np.float32)
    expected = []
    for code in np.float64(z):
        h = code
        for dense in decoder.dense:
            kernel, bias = values(dense)
            h = np.maximum(h @ kernel + bias, 0)
        h = h.reshape(2, 2, 4)
        h = np.maximum(spread(h, *values(decoder.convolutions[0])), 0)
        expected.append(spread(h, *values(decoder.convolutions[1]))[:7, :6])
    np.testing.assert_allclose(call(decoder, z), expected, rtol=1e-4, atol=1e-5)
    parts = call(decoder, z[None, :, :2], z[None, :, 2:])
    np.testing.assert_allclose(parts[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_the_fused_backward_pass_is_autodiffs(part):
    """In the input and all weights; an encoder has an even and an odd side to halve."""

    def slopes(backward):
        if part == "encoder":
            module = nets.ConvEncoder((6, 8, 2), (4, 3), 5, 2, backward=backward, rngs=nnx.Rngs(0))
        else:
            module = nets.ConvDecoder(3, 5, (4, 16), (7, 6, 2), backward=backward, rngs=nnx.Rngs(0))
        net = nets.functional(module)

        def total(params, inputs):
            return jnp.sum(weights * jnp.tanh(net.apply(params, {}, inputs)[0]))

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(net.params, inputs)

    shapes = ((2, 6, 8, 2), (2, 2)) if part == "encoder" else ((2, 3), (2, 7, 6, 2))
    inputs, weights = (RNG.normal(size=shape).astype(np.float32) for shape in shapes)
    for a, b in zip(*(jax.tree.leaves(slopes(kind)) for kind in ("fused", "plain")), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_levels_go_from_minus_one_to_one():
    options = {"shape": (4, 4), "channels": (2,), "hidden": 3, "output": 2}
    plain = nets.ConvEncoder(**options, rngs=nnx.Rngs(0))
    scaled = nets.ConvEncoder(**options, num_levels=256, rngs=nnx.Rngs(0))
    levels = RNG.integers(0, 256, size=(2, 4, 4)).astype(np.uint8)
    expected = call(plain, np.float32(levels / 127.5 - 1))
    np.testing.assert_allclose(call(scaled, levels), expected, rtol=1e-4, atol=1e-6)


def test_errors(without_jaxtyping):
    rngs = nnx.Rngs(0)
    with pytest.raises(ValueError, match=r"ConvEncoder: shape must be \(H, W\) or \(H, W, C\)"):
        nets.ConvEncoder((28,), (4,), 5, 2, rngs=rngs)
    with pytest.raises(ValueError, match=r"ConvEncoder: channels, hidden, output must be all >= 1"):
        nets.ConvEncoder((28, 28), (0,), 5, 2, rngs=rngs)
    with pytest.raises(ValueError, match=r"ConvEncoder: x must be \[\.\.\., \(4, 4\)\], got shape"):
        nets.ConvEncoder((4, 4), (2,), 5, 2, rngs=rngs)(jnp.zeros((2, 5, 4)))
    with pytest.raises(ValueError, match=r"ConvDecoder: shape must be \(H, W, P\), got \(28, 28\)"):
        nets.ConvDecoder(2, 5, (4,), (28, 28), rngs=rngs)
    with pytest.raises(ValueError, match=r"ConvDecoder: backward must be 'fused' or 'plain'"):
        nets.ConvDecoder(2, 5, (4,), (8, 8, 1), backward="scan", rngs=rngs)
    with pytest.raises(ValueError, match=r"ConvDecoder: channels must be at least one, got \(\)"):
        nets.ConvDecoder(2, 5, (), (28, 28, 1), rngs=rngs)


@pytest.mark.parametrize("told_apart", [False, True])
def test_a_layered_decoder_mixes_its_layers_by_the_gate(told_apart):
    rngs = nnx.Rngs(0)
    told = (2, 1) if told_apart else (3, 3)
    decoder = nets.LayeredDecoder(
        nets.MLP(2 + told[0], (), (3, 2, 4), rngs=rngs),
        nets.MLP(3 + told[1], (), (3, 2, 3), rngs=rngs),
        foreground_dim=2,
        foreground_given=2 if told_apart else None,
    )
    decoder.log_scale[...] = jnp.float32(-1.5)
    z, y = (RNG.normal(size=(4, n)).astype(np.float32) for n in (5, 3))

    def logits(part, codes, y):
        kernel, bias = values(part.output)
        return (np.concatenate([codes, y], axis=-1) @ kernel + bias).reshape(4, *part.output_shape)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    front = sigmoid(logits(decoder.foreground, z[:, :2], y[:, : told[0]]))
    behind = sigmoid(logits(decoder.background, z[:, 2:], y[:, -told[1] :]))
    expected = front[..., 3:] * front[..., :3] + (1 - front[..., 3:]) * behind
    raw = call(decoder, z, y)
    assert raw.shape == (4, 3, 2, 3, 2)
    np.testing.assert_allclose(raw[..., 0], expected, rtol=1e-5)
    np.testing.assert_array_equal(raw[..., 1], np.float32(-1.5))


def test_layers_that_do_not_fit(without_jaxtyping):
    rngs = nnx.Rngs(0)
    parts = [nets.MLP(2, (), (3, 2, 3), rngs=rngs) for _ in range(2)]
    with pytest.raises(ValueError, match=r"LayeredDecoder: foreground and background must be"):
        nets.LayeredDecoder(*parts, foreground_dim=2)(jnp.zeros((1, 4)))
    with pytest.raises(ValueError, match="LayeredDecoder: foreground_dim must be at least 1"):
        nets.LayeredDecoder(*parts, foreground_dim=0)
