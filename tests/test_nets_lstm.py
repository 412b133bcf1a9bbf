"""The LSTM stack against a loop in NumPy, against Flax's cell, and against itself."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

import mdnjax as mdn
from mdnjax import nets


def random_stack(*, seed=0, dtype=jnp.float32, **options):
    """A stack of two layers as a function, every parameter random (none starts at zero)."""
    stack = nets.LSTMStack(3, (5, 4), 2, peepholes=True, rngs=nnx.Rngs(0), **options)
    net = nets.functional(stack)
    rng = np.random.default_rng(seed)
    return (
        stack,
        net,
        jax.tree.map(
            lambda leaf: jnp.asarray(rng.normal(scale=0.7, size=leaf.shape), dtype), net.params
        ),
    )


def normal(*shape, seed=0):
    """Standard normal numbers in float32."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def numpy_stack(params, x):
    """Graves (2013), eq. 1 to 11, written out; x `[B, T, F]`, float64."""
    params = jax.tree.map(np.asarray, params)
    layers = [params["layers"][name] for name in sorted(params["layers"])]
    state = [[np.zeros((len(x), layer["peephole"].shape[1])) for _ in range(2)] for layer in layers]
    outputs = []
    for t in range(x.shape[1]):
        hidden = []
        for n, layer in enumerate(layers):
            c, h = state[n]
            inputs = [x[:, t]] + ([hidden[-1]] if hidden else []) + [h]
            a = np.concatenate(inputs, axis=1) @ layer["kernel"] + layer["bias"]
            width = c.shape[1]
            a_i, a_f, a_g, a_o = (a[:, k * width : (k + 1) * width] for k in range(4))
            p_i, p_f, p_o = layer["peephole"]
            i, f = sigmoid(a_i + p_i * c), sigmoid(a_f + p_f * c)
            c = f * c + i * np.tanh(a_g)
            h = sigmoid(a_o + p_o * c) * np.tanh(c)
            state[n] = [c, h]
            hidden.append(h)
        out = np.concatenate(hidden, axis=1) @ params["output"]["kernel"]
        outputs.append(out + params["output"]["bias"])
    return state, np.stack(outputs, axis=1)


@pytest.mark.parametrize("backward", ["fused", "scan"])
def test_is_graves_equations(x64, backward):
    stack, net, params = random_stack(dtype=jnp.float64, backward=backward)
    x = np.random.default_rng(0).normal(size=(3, 7, 3))
    carry, expected = numpy_stack(params, x)
    np.testing.assert_allclose(net.apply(params, {}, x)[0], expected, rtol=1e-12, atol=1e-13)
    unroll = nets.functional(stack, method="unroll")
    (got, raw), _ = unroll.apply(params, {}, x)
    np.testing.assert_allclose(raw, expected, rtol=1e-12, atol=1e-13)
    chex.assert_trees_all_close(jax.tree.leaves(got), jax.tree.leaves(carry), rtol=1e-12)


def test_is_flaxs_cell():
    cell = nnx.LSTMCell(3, 6, rngs=nnx.Rngs(0))
    stack = nets.LSTMStack(3, (6,), 6, rngs=nnx.Rngs(1))
    gates = [("ii", "hi"), ("if_", "hf"), ("ig", "hg"), ("io", "ho")]
    params = {
        "layers": {
            "0": {
                "kernel": jnp.concatenate(
                    [
                        jnp.concatenate([getattr(cell, w).kernel[...] for w in pair])
                        for pair in gates
                    ],
                    axis=1,
                ),
                "bias": jnp.concatenate([getattr(cell, h).bias[...] for _, h in gates]) + 0.3,
            }
        },
        "output": {"kernel": jnp.eye(6), "bias": jnp.zeros(6)},
    }
    for _, name in gates:
        getattr(cell, name).bias[...] = getattr(cell, name).bias[...] + 0.3
    x = normal(2, 9, 3)
    got, _ = nets.functional(stack).apply(params, {}, x)
    np.testing.assert_allclose(got, nnx.RNN(cell)(x), rtol=1e-5, atol=1e-6)


# The backward pass works by chunks of 32 steps: one, several, and several with some left over.
@pytest.mark.parametrize(
    ("peepholes", "restarts", "length"),
    [(False, False, 7), (True, False, 7), (True, True, 7), (False, True, 64), (True, True, 70)],
)
def test_fused_gradient_is_autodiffs(x64, peepholes, restarts, length):
    rng = np.random.default_rng(0)
    stacks = {
        backward: nets.LSTMStack(
            3, (5, 4), 2, peepholes=peepholes, backward=backward, rngs=nnx.Rngs(0)
        )
        for backward in ("fused", "scan")
    }
    nets_ = {name: nets.functional(stack, method="unroll") for name, stack in stacks.items()}
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(scale=0.7, size=leaf.shape)), nets_["scan"].params
    )
    x = jnp.asarray(rng.normal(size=(3, length, 3)))
    carry = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), stacks["scan"].initial_carry((3,))
    )

    # None at the first point: the carry's gradient would be zero, and equal to anything's.
    starts = jnp.asarray(rng.random((3, length)) < 0.3).at[:, 0].set(False) if restarts else None

    # The last carry and every output count, each with its own weight.
    weights = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)),
        (carry, np.zeros((3, length, 2))),
    )

    def loss(net):
        def value(params, x, carry):
            out, _ = net.apply(params, {}, x, carry, starts)
            return sum(
                jnp.sum(w * jnp.sin(o))
                for w, o in zip(jax.tree.leaves(weights), jax.tree.leaves(out), strict=True)
            )

        return jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2)))

    fused = loss(nets_["fused"])(params, x, carry)
    plain = loss(nets_["scan"])(params, x, carry)
    chex.assert_trees_all_close(fused, plain, rtol=1e-10, atol=1e-12)
    assert all(float(jnp.abs(leaf).min()) > 0 for leaf in jax.tree.leaves(plain))


def test_fused_gradient_is_finite_differences(x64):
    _, net, params = random_stack(dtype=jnp.float64)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 3)))
    apply = jax.jit(lambda params, x: net.apply(params, {}, x)[0])
    check_grads(apply, (params, x), order=1, modes=["rev"])


@pytest.mark.parametrize("backward", ["fused", "scan"])
def test_of_no_steps_the_carry_remains(backward):
    stack, _, params = random_stack(backward=backward)
    unroll = nets.functional(stack, method="unroll")
    before = jax.tree.map(lambda leaf: leaf + 0.5, stack.initial_carry((2,)))

    def loss(params, carry):
        (after, raw), _ = unroll.apply(params, {}, jnp.zeros((2, 0, 3)), carry)
        assert raw.shape == (2, 0, 2)
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(after)) + jnp.sum(raw)

    of_params, of_carry = jax.grad(loss, argnums=(0, 1))(params, before)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(of_params))
    chex.assert_trees_all_close(of_carry, jax.tree.map(lambda leaf: 2 * leaf, before))


def test_plain_path_has_forward_and_second_derivatives(x64):
    _, net, params = random_stack(dtype=jnp.float64, backward="scan")
    x, u, v = jnp.asarray(np.random.default_rng(0).normal(size=(3, 1, 3, 3)))

    def loss(x):
        return jnp.sum(jnp.sin(net.apply(params, {}, x)[0]))

    @jax.jit
    def derivatives(x, u, v):
        slope = jax.jvp(loss, (x,), (u,))[1]
        curve_u = jax.jvp(jax.grad(loss), (x,), (u,))[1]
        curve_v = jax.jvp(jax.grad(loss), (x,), (v,))[1]
        return jax.grad(loss)(x), slope, curve_u, curve_v

    grad, slope, curve_u, curve_v = derivatives(x, u, v)
    np.testing.assert_allclose(slope, jnp.vdot(grad, u), rtol=1e-10)
    np.testing.assert_allclose(jnp.vdot(v, curve_u), jnp.vdot(u, curve_v), rtol=1e-8)
    step = 1e-5
    ahead, behind = derivatives(x + step * u, u, v)[0], derivatives(x - step * u, u, v)[0]
    np.testing.assert_allclose((ahead - behind) / (2 * step), curve_u, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("length", [4, 33])
def test_fused_gradient_vmaps(length):
    _, net, params = random_stack()
    x = normal(3, 2, length, 3)
    grad = jax.jit(jax.grad(lambda p, x: jnp.sum(jnp.sin(net.apply(p, {}, x)[0]))))
    batched = jax.vmap(grad, in_axes=(None, 0))(params, x)
    looped = [grad(params, one) for one in x]
    chex.assert_trees_all_close(
        batched, jax.tree.map(lambda *g: jnp.stack(g), *looped), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_steps_and_windows_are_the_sequence(batch):
    stack, net, params = random_stack()
    step = nets.functional(stack, method="step")
    unroll = nets.functional(stack, method="unroll")
    x = normal(*batch, 8, 3)
    run = jax.jit(unroll.apply)
    (last, whole), _ = run(params, {}, x)
    assert whole.shape == (*batch, 8, 2)
    np.testing.assert_allclose(jax.jit(net.apply)(params, {}, x)[0], whole, rtol=1e-5, atol=1e-6)

    def one(carry, x_t):
        out, _ = step.apply(params, {}, carry, x_t)
        return out

    carry, raws = jax.lax.scan(one, stack.initial_carry(batch), jnp.moveaxis(x, -2, 0))
    np.testing.assert_allclose(jnp.moveaxis(raws, 0, -2), whole, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(carry, last, rtol=1e-4, atol=1e-5)

    (carry, first), _ = run(params, {}, x[..., :4, :])
    (_, second), _ = run(params, {}, x[..., 4:, :], carry)
    joined = jnp.concatenate([first, second], axis=-2)
    np.testing.assert_allclose(joined, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backward", ["fused", "scan"])
def test_a_start_forgets_what_came_before(backward):
    stack, _, params = random_stack(backward=backward)
    unroll = nets.functional(stack, method="unroll")
    x = normal(2, 8, 3)
    starts = jnp.zeros((2, 8), bool).at[0, 3].set(True).at[1, 0].set(True).at[1, 6].set(True)
    old = jax.tree.map(lambda leaf: leaf + 0.5, stack.initial_carry((2,)))
    (last, raw), _ = unroll.apply(params, {}, x, old, starts)
    alone, _ = unroll.apply(params, {}, x[:1, :3], jax.tree.map(lambda leaf: leaf[:1], old))
    pieces = [
        alone,
        *(unroll.apply(params, {}, piece)[0] for piece in (x[:1, 3:], x[1:, :6], x[1:, 6:])),
    ]
    raws = [piece[1][0] for piece in pieces]
    expected = jnp.stack([jnp.concatenate(raws[:2]), jnp.concatenate(raws[2:])])
    np.testing.assert_allclose(raw, expected, rtol=1e-4, atol=1e-5)
    ends = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), pieces[1][0], pieces[3][0])
    chex.assert_trees_all_close(last, ends, rtol=1e-4, atol=1e-5)


def test_what_comes_later_changes_no_output():
    _, net, params = random_stack()
    x = normal(2, 6, 3)
    padded = jnp.concatenate([x, jnp.full((2, 5, 3), 9.0)], axis=1)
    out, _ = net.apply(params, {}, padded)
    np.testing.assert_allclose(out[:, :6], net.apply(params, {}, x)[0], rtol=1e-5, atol=1e-6)


def test_start():
    stack = nets.LSTMStack(3, (8, 8), 2, peepholes=True, rngs=nnx.Rngs(0))
    params = nets.functional(stack).params
    for name, fan_in in (("0", 3), ("1", 11)):
        layer = params["layers"][name]
        assert layer["kernel"].shape == (fan_in + 8, 32)
        np.testing.assert_array_equal(layer["bias"], np.repeat([0, 1, 0, 0], 8))
        np.testing.assert_array_equal(layer["peephole"], np.zeros((3, 8)))
        for gate in np.split(np.asarray(layer["kernel"])[fan_in:], 4, axis=1):
            np.testing.assert_allclose(gate.T @ gate, np.eye(8), atol=1e-5)
    wide = nets.functional(nets.LSTMStack(50, (100,), 1, rngs=nnx.Rngs(0)))
    on_inputs = wide.params["layers"]["0"]["kernel"][:50]
    # 20,000 weights: the sample's standard deviation is within 3 per cent (six sigma).
    assert abs(float(on_inputs.std()) * np.sqrt(50) - 1) < 0.03
    gates = np.split(np.asarray(wide.params["layers"]["0"]["kernel"])[50:], 4, axis=1)
    assert not np.allclose(gates[0], gates[1])


def test_traced_once():
    _, net, params = random_stack()
    x = jnp.zeros((2, 6, 3))
    grad = jax.jit(
        jax.grad(chex.assert_max_traces(lambda p, x: jnp.sum(net.apply(p, {}, x)[0]), n=1))
    )
    for factor in (1.0, 0.5, 0.0):
        grad(jax.tree.map(lambda leaf, factor=factor: factor * leaf, params), x + factor)
    chex.clear_trace_counter()


def test_takes_a_mixture_as_output():
    head = mdn.ProductHead(
        offset=mdn.GaussianHead(num_components=4, dim=2, covariance="full"),
        pen_up=mdn.BernoulliHead(),
    )
    output = nets.MixtureDense(9, head, rngs=nnx.Rngs(1))
    stack = nets.LSTMStack(3, (5, 4), output, rngs=nnx.Rngs(0))
    raw = jax.jit(lambda x: stack(x))(jnp.zeros((2, 6, 3)))
    assert raw.shape == (2, 6, head.num_outputs)
    y = {"offset": jnp.zeros((2, 6, 2)), "pen_up": jnp.zeros((2, 6))}
    nll = jax.jit(head.nll)(raw, y)
    assert nll.shape == (2, 6)


def test_bfloat16_inputs_are_computed_in_the_parameters_dtype():
    _, net, params = random_stack()
    x = normal(2, 6, 3).astype(jnp.bfloat16)
    out, _ = net.apply(params, {}, x)
    assert out.dtype == jnp.float32
    expected, _ = net.apply(params, {}, x.astype(jnp.float32))
    np.testing.assert_array_equal(out, expected)


def test_errors():
    rngs = nnx.Rngs(0)
    with pytest.raises(ValueError, match="LSTMStack: hidden must be at least one width"):
        nets.LSTMStack(3, (), 1, rngs=rngs)
    with pytest.raises(ValueError, match="LSTMStack: in_features, hidden must be widths >= 1"):
        nets.LSTMStack(3, (4, 0), 1, rngs=rngs)
    stack = nets.LSTMStack(3, (4,), 2, rngs=rngs)
    with pytest.raises(ValueError, match=r"LSTMStack: inputs must be \[..., 3\], got shape"):
        stack(jnp.zeros((2, 5, 4)))
    with pytest.raises(ValueError, match=r"LSTMStack: carry must be \[\[\(2, 4\), \(2, 4\)\]\]"):
        stack.step(stack.initial_carry((3,)), jnp.zeros((2, 3)))


def test_clipped_derivatives_of_one_step_are_those_of_the_gates(x64):
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(1, 1, 3)))

    def gradient(clip_gradient):
        stack = nets.LSTMStack(3, (5,), 2, clip_gradient=clip_gradient, rngs=nnx.Rngs(0))
        net = nets.functional(stack)
        return jax.grad(lambda p: jnp.sum(net.apply(p, {}, inputs)[0] ** 2))(net.params)

    free, clipped = gradient(None), gradient(0.01)
    # One sequence of one point: the bias' gradient is the derivative of the pre-activations.
    of_gates = np.asarray(free["layers"]["0"]["bias"])
    assert (np.abs(of_gates) > 0.01).any()
    assert (np.abs(of_gates) < 0.01).any()
    kept = np.clip(of_gates, -0.01, 0.01)
    np.testing.assert_allclose(clipped["layers"]["0"]["bias"], kept, rtol=1e-6)
    kernel = np.concatenate([np.asarray(inputs[0, 0]), np.zeros(5)])[:, None] * kept
    np.testing.assert_allclose(clipped["layers"]["0"]["kernel"], kernel, rtol=1e-6)
    np.testing.assert_array_equal(clipped["output"]["kernel"], free["output"]["kernel"])
    jax.tree.map(np.testing.assert_array_equal, gradient(1e9), free)


def test_what_flows_back_through_time_cannot_explode_when_clipped():
    stack = nets.LSTMStack(1, (8,), 1, clip_gradient=1e-3, rngs=nnx.Rngs(0))
    net, free = nets.functional(stack), nets.LSTMStack(1, (8,), 1, rngs=nnx.Rngs(0))
    wild = jax.tree.map(lambda p: 6 * p, net.params)
    inputs = jnp.asarray(np.random.default_rng(1).normal(size=(4, 60, 1)), jnp.float32)

    def norm(apply):
        gradient = jax.grad(lambda p: jnp.mean(apply(p, {}, inputs)[0] ** 2))(wild)
        return float(jnp.max(jnp.abs(gradient["layers"]["0"]["bias"])))

    assert norm(nets.functional(free).apply) > 1.0
    assert norm(net.apply) <= 1e-3 * 4 * 60


def test_a_clip_that_makes_no_sense_is_named():
    for options in ({"clip_gradient": 0.0}, {"clip_gradient": 1.0, "backward": "scan"}):
        with pytest.raises(ValueError, match=r"LSTMStack: clip_gradient must be None, or positive"):
            nets.LSTMStack(3, (4,), 2, rngs=nnx.Rngs(0), **options)


@pytest.mark.parametrize("output", ["linear", "mixture"])
def test_stepper_is_graves_equations(x64, output):
    stack, _, params = random_stack(dtype=jnp.float64)
    if output == "mixture":
        head = mdn.GaussianHead(num_components=2, dim=1)
        layer = nets.MixtureDense(9, head, rngs=nnx.Rngs(0))
        stack = nets.LSTMStack(3, (5, 4), layer, peepholes=True, rngs=nnx.Rngs(0))
        shapes = nets.functional(stack).params
        rng = np.random.default_rng(1)
        params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), shapes)
    x = np.random.default_rng(0).normal(size=(3, 7, 3))
    _, expected = numpy_stack(params, x)
    unroll = nets.functional(stack, method="unroll")
    (before, first), _ = unroll.apply(params, {}, x[:, :2])
    (step, carry), _ = nets.functional(stack, method="stepper").apply(params, {}, before)
    outputs = [first[:, 0], first[:, 1]]
    for t in range(2, 7):
        carry, raw = step(carry, x[:, t])
        outputs.append(raw)
    np.testing.assert_allclose(np.stack(outputs, 1), expected, rtol=1e-12, atol=1e-13)


def test_stepper_compiles_once_for_all_parameters():
    stack, _, params = random_stack()
    stepper = nets.functional(stack, method="stepper")
    traces = []

    @jax.jit
    def walk(step, carry):
        traces.append(1)
        return step(carry, jnp.ones((2, 3)))[1]

    for scale in (1.0, 0.5):
        scaled = jax.tree.map(lambda leaf, scale=scale: scale * leaf, params)
        (step, carry), _ = stepper.apply(scaled, {}, stack.initial_carry((2,)))
        walk(step, carry)
    assert len(traces) == 1


def test_stepper_refuses_what_it_cannot_lay_out():
    stack, _, _ = random_stack()
    with pytest.raises(ValueError, match=r"LSTMStack\.stepper: carry must be"):
        stack.stepper(stack.initial_carry())
    with pytest.raises(ValueError, match="carry must be"):
        stack.stepper(stack.initial_carry((2,))[:1])
    # The second is an `nnx.Linear`, which adds a product of two narrow matrices.
    rngs = nnx.Rngs(0)
    for output in (nets.MLP(4, (4,), 2, rngs=rngs), nnx.LoRALinear(4, 2, lora_rank=1, rngs=rngs)):
        deep = nets.LSTMStack(3, (4,), output, rngs=nnx.Rngs(0))
        with pytest.raises(ValueError, match=r"LSTMStack\.stepper: output must be nnx\.Linear"):
            deep.stepper(deep.initial_carry((2,)))
