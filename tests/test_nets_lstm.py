"""The LSTM stack against a loop in NumPy, against Flax's cell, and against itself."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

import mdnjax as mdn
from mdnjax import nets


def made(make):
    """A module without values, from a function of its random streams: none are computed."""
    return nnx.eval_shape(lambda: make(nnx.Rngs(0)))


def random_like(params, *, seed=0, dtype=np.float32, scale=0.7):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(scale=scale, size=leaf.shape).astype(dtype), params)


def random_stack(*, hidden=(5, 4), peepholes=True, dtype=np.float32, **options):
    """A stack of two layers, and parameters that are all random (none starts at zero)."""
    options |= {"peepholes": peepholes}
    stack = made(lambda rngs: nets.LSTMStack(3, hidden, 2, **options, rngs=rngs))
    return stack, random_like(nets.functional(stack).params, dtype=dtype)


def compiled(stack, method="__call__"):
    """A method as a function of parameters and inputs."""
    apply = nets.functional(stack, method=method).apply
    return jax.jit(lambda params, *inputs: apply(params, {}, *inputs)[0])


def normal(*shape, seed=0, dtype=np.float32):
    """Standard normal numbers."""
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def numpy_stack(params, x, state=None, starts=None):
    """Graves (2013), eq. 1 to 11, written out; x `[B, T, F]`, float64.

    From a state (zeros), forgotten by each line where `starts` `[B, T]` says so.
    """
    layers = [params["layers"][name] for name in sorted(params["layers"])]
    if state is None:
        state = [np.zeros((2, len(x), layer["peephole"].shape[1])) for layer in layers]
    state = [list(pair) for pair in state]
    outputs = []
    for t in range(x.shape[1]):
        hidden = []
        for n, layer in enumerate(layers):
            c, h = state[n]
            if starts is not None:
                c, h = (np.where(starts[:, t, None], 0, a) for a in (c, h))
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
    stack, params = random_stack(dtype=np.float64, backward=backward)
    x = normal(3, 7, 3, dtype=np.float64)
    carry, expected = numpy_stack(params, x)
    np.testing.assert_allclose(compiled(stack)(params, x), expected, rtol=1e-12, atol=1e-13)
    got, raw = compiled(stack, "unroll")(params, x)
    np.testing.assert_allclose(raw, expected, rtol=1e-12, atol=1e-13)
    chex.assert_trees_all_close(jax.tree.leaves(got), jax.tree.leaves(carry), rtol=1e-12)


def test_is_flaxs_cell():
    rnn = nets.functional(made(lambda rngs: nnx.RNN(nnx.LSTMCell(3, 6, rngs=rngs))))
    theirs = random_like(rnn.params)
    cell = theirs["cell"]
    gates = [("ii", "hi"), ("if_", "hf"), ("ig", "hg"), ("io", "ho")]
    kernels = [np.concatenate([cell[name]["kernel"] for name in pair]) for pair in gates]
    layer = {
        "kernel": np.concatenate(kernels, axis=1),
        "bias": np.concatenate([cell[name]["bias"] for _, name in gates]),
    }
    output = {"kernel": np.eye(6, dtype=np.float32), "bias": np.zeros(6, np.float32)}
    stack = made(lambda rngs: nets.LSTMStack(3, (6,), 6, rngs=rngs))
    x = normal(2, 9, 3)
    got = compiled(stack)({"layers": {"0": layer}, "output": output}, x)
    expected, _ = jax.jit(rnn.apply)(theirs, rnn.state, x)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


# The backward pass works by chunks of 32 steps: one, several, and several with some left over.
@pytest.mark.parametrize(
    ("hidden", "peepholes", "restarts", "length"),
    [((5, 4), False, True, 7), ((4,), True, False, 64), ((5, 4), True, True, 70)],
)
def test_fused_gradient_is_autodiffs(x64, hidden, peepholes, restarts, length):
    rng = np.random.default_rng(0)
    options = {"hidden": hidden, "peepholes": peepholes, "dtype": np.float64}
    (fused, params), (plain, _) = (
        random_stack(backward=backward, **options) for backward in ("fused", "scan")
    )
    x = rng.normal(size=(3, length, 3))
    carry = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), plain.initial_carry((3,)))

    # None at the first point: the carry's gradient would be zero, and equal to anything's.
    starts = rng.random((3, length)) < 0.3
    starts[:, 0] = False

    # The last carry and every output count, each with its own weight.
    weights = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape), (carry, np.zeros((3, length, 2)))
    )

    @functools.partial(jax.jit, static_argnums=0)
    def loss_and_gradient(unroll, *arguments):
        def value(params, x, carry):
            out, _ = unroll(params, {}, x, carry, jnp.asarray(starts) if restarts else None)
            return sum(
                jnp.sum(w * jnp.sin(o))
                for w, o in zip(jax.tree.leaves(weights), jax.tree.leaves(out), strict=True)
            )

        return jax.value_and_grad(value, argnums=(0, 1, 2))(*arguments)

    found, expected = (
        loss_and_gradient(nets.functional(stack, method="unroll").apply, params, x, carry)
        for stack in (fused, plain)
    )
    chex.assert_trees_all_close(found, expected, rtol=1e-10, atol=1e-12)
    assert all(np.abs(leaf).min() > 0 for leaf in jax.tree.leaves(expected))


def test_fused_gradient_is_finite_differences(x64):
    stack, params = random_stack(dtype=np.float64)
    check_grads(
        compiled(stack), (params, normal(2, 4, 3, dtype=np.float64)), order=1, modes=["rev"]
    )


@pytest.mark.parametrize("backward", ["fused", "scan"])
def test_of_no_steps_the_carry_remains(backward):
    stack, params = random_stack(backward=backward)
    unroll = nets.functional(stack, method="unroll")
    before = jax.tree.map(lambda leaf: normal(*leaf.shape), stack.initial_carry((2,)))

    def loss(params, carry):
        (after, raw), _ = unroll.apply(params, {}, jnp.zeros((2, 0, 3)), carry)
        assert raw.shape == (2, 0, 2)
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(after)) + jnp.sum(raw)

    of_params, of_carry = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, before)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(of_params))
    chex.assert_trees_all_close(of_carry, jax.tree.map(lambda leaf: 2 * leaf, before))


def test_plain_path_has_forward_and_second_derivatives(x64):
    stack, params = random_stack(dtype=np.float64, backward="scan")
    x, u, v = normal(3, 1, 3, 3, dtype=np.float64)
    apply = compiled(stack)

    def loss(x):
        return jnp.sum(jnp.sin(apply(params, x)))

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def derivatives(x, direction):
        grad, curve = jax.jvp(jax.grad(loss), (x,), (direction,))
        return grad, jax.jvp(loss, (x,), (direction,))[1], curve

    both = np.stack([u, v])
    (grad, _), (slope, _), (curve_u, curve_v) = derivatives(x, both)
    np.testing.assert_allclose(slope, np.vdot(grad, u), rtol=1e-10)
    np.testing.assert_allclose(np.vdot(v, curve_u), np.vdot(u, curve_v), rtol=1e-8)
    step = 1e-5
    ahead, behind = derivatives(x + step * u, both)[0][0], derivatives(x - step * u, both)[0][0]
    np.testing.assert_allclose((ahead - behind) / (2 * step), curve_u, rtol=1e-6, atol=1e-8)


def test_fused_gradient_vmaps():
    stack, params = random_stack(hidden=(4,))
    apply = nets.functional(stack).apply
    x = normal(3, 2, 33, 3)  # a chunk, and one left over
    grad = jax.jit(jax.grad(lambda p, x: jnp.sum(jnp.sin(apply(p, {}, x)[0]))))
    batched = jax.jit(jax.vmap(grad, in_axes=(None, 0)))(params, x)
    looped = [grad(params, one) for one in x]
    chex.assert_trees_all_close(
        batched, jax.tree.map(lambda *g: np.stack(g), *looped), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_steps_and_windows_are_the_sequence(batch):
    stack, params = random_stack()
    step = nets.functional(stack, method="step")
    x = normal(*batch, 8, 3)
    whole = compiled(stack)(params, x)
    assert whole.shape == (*batch, 8, 2)
    zeros = stack.initial_carry(batch)

    unroll = compiled(stack, "unroll")
    carry, first = unroll(params, x[..., :4, :], zeros)
    last, second = unroll(params, x[..., 4:, :], carry)
    joined = np.concatenate([first, second], axis=-2)
    np.testing.assert_allclose(joined, whole, rtol=1e-4, atol=1e-5)

    @jax.jit
    def walk(params, carry, x):
        return jax.lax.scan(lambda carry, x_t: step.apply(params, {}, carry, x_t)[0], carry, x)

    carry, raws = walk(params, zeros, np.moveaxis(x, -2, 0))
    np.testing.assert_allclose(np.moveaxis(raws, 0, -2), whole, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(carry, last, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backward", ["fused", "scan"])
def test_a_start_forgets_what_came_before(x64, backward):
    stack, params = random_stack(dtype=np.float64, backward=backward)
    x = normal(2, 8, 3, dtype=np.float64)
    starts = np.zeros((2, 8), bool)
    starts[[0, 1, 1], [3, 0, 6]] = True
    old = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5), stack.initial_carry((2,)))
    carry, raw = compiled(stack, "unroll")(params, x, old, starts)
    last, expected = numpy_stack(params, x, old, starts)
    np.testing.assert_allclose(raw, expected, rtol=1e-12, atol=1e-13)
    chex.assert_trees_all_close(jax.tree.leaves(carry), jax.tree.leaves(last), rtol=1e-12)


def test_what_comes_later_changes_no_output():
    stack, params = random_stack()
    apply = compiled(stack)
    first, second = (
        apply(params, np.concatenate([normal(2, 6, 3), later], axis=1))
        for later in (normal(2, 5, 3, seed=1), np.full((2, 5, 3), 9.0, np.float32))
    )
    np.testing.assert_array_equal(first[:, :6], second[:, :6])
    assert (np.abs(first - second)[:, 6:] > 1e-3).any()


def test_start():
    stack = nets.LSTMStack(50, (100, 100), 2, peepholes=True, rngs=nnx.Rngs(0))
    params = nets.functional(stack).params
    for name, fan_in in (("0", 50), ("1", 150)):
        layer = jax.tree.map(np.asarray, params["layers"][name])
        assert layer["kernel"].shape == (fan_in + 100, 400)
        np.testing.assert_array_equal(layer["bias"], np.repeat([0, 1, 0, 0], 100))
        np.testing.assert_array_equal(layer["peephole"], np.zeros((3, 100)))
        # At least 20,000 weights: their standard deviation is within 3 per cent (six sigma).
        assert abs(layer["kernel"][:fan_in].std() * np.sqrt(fan_in) - 1) < 0.03
        gates = np.split(layer["kernel"][fan_in:], 4, axis=1)
        for gate in gates:
            np.testing.assert_allclose(gate.T @ gate, np.eye(100), atol=1e-5)
        assert not np.allclose(gates[0], gates[1])


def test_traced_once():
    stack, params = random_stack()
    apply = nets.functional(stack).apply
    x = np.zeros((2, 6, 3), np.float32)
    grad = jax.jit(jax.grad(chex.assert_max_traces(lambda p, x: jnp.sum(apply(p, {}, x)[0]), n=1)))
    for factor in np.float32([1.0, 0.5, 0.0]):
        grad(jax.tree.map(lambda leaf, factor=factor: factor * leaf, params), x + factor)
    chex.clear_trace_counter()


def test_takes_a_mixture_as_output():
    head = mdn.ProductHead(
        offset=mdn.GaussianHead(num_components=4, dim=2, covariance="full"),
        pen_up=mdn.BernoulliHead(),
    )
    stack = made(
        lambda rngs: nets.LSTMStack(3, (5, 4), nets.MixtureDense(9, head, rngs=rngs), rngs=rngs)
    )
    net = nets.functional(stack)

    @jax.jit
    def outputs(params, x):
        raw, _ = net.apply(params, {}, x)
        return raw, head.nll(raw, {"offset": x[..., :2], "pen_up": x[..., 2]})

    raw, nll = outputs(random_like(net.params), np.zeros((2, 6, 3), np.float32))
    assert raw.shape == (2, 6, head.num_outputs)
    assert nll.shape == (2, 6)


def test_bfloat16_inputs_are_computed_in_the_parameters_dtype():
    stack, params = random_stack()
    x = normal(2, 6, 3).astype(jnp.bfloat16)
    apply = compiled(stack)
    out = apply(params, x)
    assert out.dtype == jnp.float32
    np.testing.assert_array_equal(out, apply(params, x.astype(np.float32)))


def test_errors():
    rngs = nnx.Rngs(0)
    with pytest.raises(ValueError, match="LSTMStack: hidden must be at least one width"):
        nets.LSTMStack(3, (), 1, rngs=rngs)
    with pytest.raises(ValueError, match="LSTMStack: in_features, hidden must be widths >= 1"):
        nets.LSTMStack(3, (4, 0), 1, rngs=rngs)
    stack = made(lambda rngs: nets.LSTMStack(3, (4,), 2, rngs=rngs))
    with pytest.raises(ValueError, match=r"LSTMStack: inputs must be \[..., 3\], got shape"):
        stack(jnp.zeros((2, 5, 4)))
    with pytest.raises(ValueError, match=r"LSTMStack: carry must be \[\[\(2, 4\), \(2, 4\)\]\]"):
        stack.step(stack.initial_carry((3,)), jnp.zeros((2, 3)))


def test_clipped_derivatives_of_one_step_are_those_of_the_gates(x64):
    inputs = normal(1, 1, 3, dtype=np.float64)

    def gradient(clip_gradient):
        stack, params = random_stack(
            hidden=(5,), peepholes=False, dtype=np.float64, clip_gradient=clip_gradient
        )
        apply = nets.functional(stack).apply
        return jax.jit(jax.grad(lambda p: jnp.sum(apply(p, {}, inputs)[0] ** 2)))(params)

    free, clipped = gradient(None), gradient(0.01)
    # One sequence of one point: the bias' gradient is the derivative of the pre-activations.
    of_gates = np.asarray(free["layers"]["0"]["bias"])
    assert (np.abs(of_gates) > 0.01).any()
    assert (np.abs(of_gates) < 0.01).any()
    kept = np.clip(of_gates, -0.01, 0.01)
    np.testing.assert_allclose(clipped["layers"]["0"]["bias"], kept, rtol=1e-6)
    kernel = np.concatenate([inputs[0, 0], np.zeros(5)])[:, None] * kept
    np.testing.assert_allclose(clipped["layers"]["0"]["kernel"], kernel, rtol=1e-6)
    np.testing.assert_array_equal(clipped["output"]["kernel"], free["output"]["kernel"])
    jax.tree.map(np.testing.assert_array_equal, gradient(1e9), free)


def test_what_flows_back_through_time_cannot_explode_when_clipped():
    inputs = normal(4, 32, 1, seed=1)

    def norm(clip_gradient):
        stack = made(
            lambda rngs: nets.LSTMStack(1, (8,), 1, clip_gradient=clip_gradient, rngs=rngs)
        )
        net = nets.functional(stack)
        wild = random_like(net.params, scale=3.0)

        def loss(params):
            return jnp.mean(net.apply(params, {}, inputs)[0] ** 2)

        return float(np.abs(jax.jit(jax.grad(loss))(wild)["layers"]["0"]["bias"]).max())

    assert norm(None) > 1.0
    assert norm(1e-3) <= 1e-3 * 4 * 32


def test_a_clip_that_makes_no_sense_is_named():
    for options in ({"clip_gradient": 0.0}, {"clip_gradient": 1.0, "backward": "scan"}):
        with pytest.raises(ValueError, match=r"LSTMStack: clip_gradient must be None, or positive"):
            nets.LSTMStack(3, (4,), 2, rngs=nnx.Rngs(0), **options)


@pytest.mark.parametrize("output", ["linear", "mixture"])
def test_stepper_is_graves_equations(x64, output):
    stack, params = random_stack(dtype=np.float64)
    if output == "mixture":

        def make(rngs):
            layer = nets.MixtureDense(9, mdn.GaussianHead(num_components=2, dim=1), rngs=rngs)
            return nets.LSTMStack(3, (5, 4), layer, peepholes=True, rngs=rngs)

        stack = made(make)
        params = random_like(nets.functional(stack).params, seed=1, dtype=np.float64)
    x = normal(3, 7, 3, dtype=np.float64)
    _, expected = numpy_stack(params, x)
    before, first = compiled(stack, "unroll")(params, x[:, :2])
    step, carry = compiled(stack, "stepper")(params, before)
    step = jax.jit(step)
    outputs = [first[:, 0], first[:, 1]]
    for t in range(2, 7):
        carry, raw = step(carry, x[:, t])
        outputs.append(raw)
    np.testing.assert_allclose(np.stack(outputs, 1), expected, rtol=1e-12, atol=1e-13)


def test_stepper_compiles_once_for_all_parameters():
    stack, params = random_stack()
    stepper = compiled(stack, "stepper")
    traces = []

    @jax.jit
    def walk(step, carry):
        traces.append(1)
        return step(carry, jnp.ones((2, 3)))[1]

    for scale in np.float32([1.0, 0.5]):
        scaled = jax.tree.map(lambda leaf, scale=scale: scale * leaf, params)
        step, carry = stepper(scaled, stack.initial_carry((2,)))
        walk(step, carry)
    assert len(traces) == 1


def test_stepper_refuses_what_it_cannot_lay_out():
    stack, params = random_stack()
    stepper = compiled(stack, "stepper")
    with pytest.raises(ValueError, match=r"LSTMStack\.stepper: carry must be"):
        stepper(params, stack.initial_carry())
    with pytest.raises(ValueError, match="carry must be"):
        stepper(params, stack.initial_carry((2,))[:1])
    # The second is an `nnx.Linear`, which adds a product of two narrow matrices.
    for make in (
        lambda rngs: nets.MLP(4, (4,), 2, rngs=rngs),
        lambda rngs: nnx.LoRALinear(4, 2, lora_rank=1, rngs=rngs),
    ):
        deep = made(lambda rngs, make=make: nets.LSTMStack(3, (4,), make(rngs), rngs=rngs))
        with pytest.raises(ValueError, match=r"LSTMStack\.stepper: output must be nnx\.Linear"):
            deep.stepper(deep.initial_carry((2,)))
