"""The seam gives what the nnx object itself gives, as a pure function of plain pytrees."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mdnjax import nets


class NormNet(nnx.Module):
    """Layers in a list, batch normalisation between them."""

    def __init__(self, rngs, depth=2):
        self.layers = nnx.List(nnx.Linear(3, 3, rngs=rngs) for _ in range(depth))
        self.norm = nnx.BatchNorm(3, momentum=0.8, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = x + layer(x)
        return self.norm(x)


class DropNet(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Dropout(0.5, rngs=rngs)
        self.second = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.first(x), self.second(x)


class DropCell(nnx.LSTMCell):
    """Recurrent dropout: a new mask on the input at every step."""

    def __init__(self, in_features, hidden_features, rngs):
        super().__init__(in_features, hidden_features, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, carry, inputs):
        carry, _ = super().__call__(carry, inputs)
        return carry, self.drop(inputs)


class Noise(nnx.Module):
    """Draws whether or not it is training."""

    def __init__(self, rngs):
        self.rngs = rngs.fork()

    def __call__(self, x):
        return x + jax.random.normal(self.rngs.noise(), x.shape)


class Tied(nnx.Module):
    def __init__(self, rngs):
        self.encode = nnx.Linear(3, 3, rngs=rngs)
        self.decode = self.encode

    def __call__(self, x):
        return self.decode(self.encode(x))


class Sowing(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(3, rngs=rngs)

    def __call__(self, x):
        self.extra = nnx.Intermediate(x)
        return self.norm(x)


MODULES = {
    "linear": lambda: nnx.Linear(3, 4, rngs=nnx.Rngs(0)),
    "mlp": lambda: nets.MLP(3, (4, 4), 4, dropout=0.3, rngs=nnx.Rngs(0)),
    "norm": lambda: NormNet(nnx.Rngs(0), depth=11),  # their names are not in order
    "dropout": lambda: DropNet(nnx.Rngs(0)),
    "rnn": lambda: nnx.RNN(nnx.LSTMCell(3, 4, rngs=nnx.Rngs(0))),
    "recurrent dropout": lambda: nnx.RNN(DropCell(3, 4, rngs=nnx.Rngs(0))),
    "lstm": lambda: nets.LSTMStack(3, (4,), 2, peepholes=True, rngs=nnx.Rngs(0)),
    "tied": lambda: Tied(nnx.Rngs(0)),
}


called = nnx.jit(lambda module, x: module(x))


@pytest.fixture
def x():
    return np.random.default_rng(1).normal(size=(6, 5, 3)).astype(np.float32)


@pytest.mark.parametrize("name", ["mlp", "norm", "dropout", "recurrent dropout"])
def test_evaluates_as_the_object_does(name, x):
    module = MODULES[name]()
    net = nets.functional(module)
    out, state = jax.jit(net.apply)(net.params, net.state, x)
    module.eval()
    chex.assert_trees_all_close(out, called(module, x), rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(state, net.state)


@pytest.mark.parametrize("name", ["linear", "norm", "rnn", "lstm", "tied"])
def test_output_and_gradient_in_training_are_the_objects(name, x):
    module = MODULES[name]()
    net = nets.functional(module)

    def loss(params):
        out, _ = net.apply(params, net.state, x, train=True)
        return jnp.sum(jnp.sin(out)), out

    def loss_of_object(module, x):
        out = module(x)
        return jnp.sum(jnp.sin(out)), out

    (_, out), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(net.params)
    module.train()
    of_object = nnx.jit(nnx.value_and_grad(loss_of_object, has_aux=True))
    (_, expected), expected_grads = of_object(module, x)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(grads, by_strings(expected_grads), rtol=1e-4, atol=1e-4)


def by_strings(tree):
    """An nnx state as nested dictionaries with string keys."""
    if hasattr(tree, "items"):
        return {str(key): by_strings(value) for key, value in tree.items()}
    return tree[...]


def test_batch_statistics_move_as_the_objects_do(x):
    module = NormNet(nnx.Rngs(0))
    net = nets.functional(module)
    chex.assert_trees_all_equal(net.state, {"norm": {"mean": jnp.zeros(3), "var": jnp.ones(3)}})
    apply = jax.jit(net.apply, static_argnames="train")
    out, state = apply(net.params, net.state, x, train=True)
    # Purity: neither the module nor the state that went in has moved.
    np.testing.assert_array_equal(module.norm.mean[...], np.zeros(3))
    np.testing.assert_array_equal(net.state["norm"]["mean"], np.zeros(3))
    module.train()
    np.testing.assert_allclose(out, called(module, x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(state["norm"]["mean"], module.norm.mean[...], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(state["norm"]["var"], module.norm.var[...], rtol=1e-5)
    assert np.abs(state["norm"]["mean"]).min() > 1e-4
    module.eval()
    evaluated, unmoved = apply(net.params, state, x)
    np.testing.assert_allclose(evaluated, called(module, x), rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_equal(unmoved, state)


def test_later_changes_of_the_module_are_not_seen(x):
    module = NormNet(nnx.Rngs(0))
    net = nets.functional(module)

    def evaluated():
        return jax.jit(lambda x: net.apply(net.params, net.state, x)[0])(x)  # traced anew

    before = evaluated()
    module.train()
    called(module, x)
    module.layers[0].kernel[...] = jnp.zeros((3, 3))
    np.testing.assert_array_equal(evaluated(), before)


def test_state_scans(x):
    net = nets.functional(NormNet(nnx.Rngs(0)))

    def step(state, batch):
        _, state = net.apply(net.params, state, batch, train=True)
        return state, state["norm"]["mean"]

    scanned, _ = jax.lax.scan(step, net.state, x)
    looped = net.state
    once = jax.jit(step)
    for batch in x:
        looped, _ = once(looped, batch)
    chex.assert_trees_all_close(scanned, looped, rtol=1e-5)


def test_an_ensemble_is_a_vmap_over_parameters(x):
    members = [nets.functional(nets.MLP(3, (4,), 4, rngs=nnx.Rngs(seed))) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *[m.params for m in members])
    out, _ = jax.jit(jax.vmap(members[0].apply, in_axes=(0, None, None)))(stacked, {}, x)
    one = jax.jit(members[0].apply)
    expected = [one(m.params, {}, x)[0] for m in members]
    np.testing.assert_allclose(out, np.stack(expected), rtol=1e-5, atol=1e-6)


def test_no_randomness_is_kept():
    for name in MODULES:
        net = nets.functional(MODULES[name]())
        for leaf in jax.tree.leaves((net.params, net.state)):
            assert jnp.issubdtype(leaf.dtype, jnp.floating), name
    assert nets.functional(MODULES["dropout"]()).state == {}
    assert nets.functional(MODULES["rnn"]()).state == {}


def test_dropout_follows_the_key_alone():
    """Under `vmap` too, whether typed or raw, and not what the module's own streams hold."""
    net, other = (nets.functional(DropNet(nnx.Rngs(seed))) for seed in (0, 7))
    x = jnp.ones(4000)

    def dropped(key):
        out, state = net.apply({}, {}, x, key=key, train=True)
        assert state == {}
        raw, _ = net.apply({}, {}, x, key=jax.random.key_data(key), train=True)
        return out, raw, other.apply({}, {}, x, key=key, train=True)[0]

    keys = jax.random.split(jax.random.key(1), 3)
    out, raw, of_other = jax.jit(jax.vmap(dropped))(keys)
    chex.assert_trees_all_equal(raw, out)
    chex.assert_trees_all_equal(of_other, out)
    alone = jax.jit(dropped)
    for row, key in enumerate(keys):
        chex.assert_trees_all_equal(jax.tree.map(lambda a, row=row: a[row], out), alone(key)[0])
    first, second = np.asarray(out)
    assert set(np.unique(first)) == {0.0, 2.0}
    # Binomial(4000, 1/2), five standard deviations: 158.
    for one, two in ((first[0], second[0]), (first[0], first[1]), (second[0], second[2])):
        assert abs(int((one > 0).sum()) - 2000) < 158
        assert abs(int((one == two).sum()) - 2000) < 158


def test_recurrent_dropout_draws_anew_at_every_step():
    net = nets.functional(MODULES["recurrent dropout"]())
    x = jnp.ones((40, 40, 3))
    apply = jax.jit(net.apply, static_argnames="train")
    out, _ = apply(net.params, net.state, x, key=jax.random.key(0), train=True)
    steps = np.asarray(out).transpose(1, 0, 2).reshape(40, -1) > 0
    assert len(np.unique(steps, axis=0)) == 40
    with pytest.raises(ValueError, match=r"functional: key must be given.*'default'"):
        apply(net.params, net.state, x, train=True)
    out, _ = apply(net.params, net.state, x)
    np.testing.assert_array_equal(out, x)


@pytest.mark.parametrize("jit", [False, True])
def test_a_draw_without_a_key_raises(jit):
    net = nets.functional(DropNet(nnx.Rngs(0)))
    apply = jax.jit(net.apply, static_argnames="train") if jit else net.apply
    with pytest.raises(ValueError, match="functional: key must be given"):
        apply({}, {}, jnp.ones(3), train=True)
    chex.assert_trees_all_equal(apply({}, {}, jnp.ones(3))[0], (jnp.ones(3), jnp.ones(3)))


def test_a_draw_in_evaluation_needs_a_key_too():
    net = nets.functional(Noise(nnx.Rngs(0)))
    with pytest.raises(ValueError, match="functional: key must be given"):
        net.apply({}, {}, jnp.ones(3))
    one, _ = net.apply({}, {}, jnp.ones(3), key=jax.random.key(0))
    two, _ = net.apply({}, {}, jnp.ones(3), key=jax.random.key(1))
    assert np.abs(one - two).min() > 0


def test_traced_once_a_mode(x):
    net = nets.functional(nets.MLP(3, (4,), 4, dropout=0.5, rngs=nnx.Rngs(0)))
    apply = jax.jit(chex.assert_max_traces(net.apply, n=2), static_argnames="train")
    for seed in range(3):
        params = jax.tree.map(lambda leaf, seed=seed: leaf + seed, net.params)
        apply(params, net.state, x, key=jax.random.key(seed), train=True)
        apply(params, net.state, x)
    chex.clear_trace_counter()


def test_methods_share_their_parameters():
    stack = MODULES["lstm"]()
    whole, step = nets.functional(stack), nets.functional(stack, method="step")
    chex.assert_trees_all_equal(whole.params, step.params)
    x = np.random.default_rng(0).normal(size=(2, 6, 3)).astype(np.float32)
    params = jax.tree.map(lambda leaf: np.float32(0.9) * np.asarray(leaf), whole.params)
    expected = np.asarray(jax.jit(whole.apply)(params, {}, x)[0])
    carry, once = stack.initial_carry((2,)), jax.jit(step.apply)
    for t in range(6):
        (carry, raw), state = once(params, {}, carry, x[:, t])
        assert state == {}
        np.testing.assert_allclose(raw, expected[:, t], rtol=1e-5, atol=1e-6)


def test_params_are_plain_dictionaries_with_string_keys():
    def check(tree):
        assert type(tree) is dict
        for key, value in tree.items():
            assert type(key) is str
            if not isinstance(value, jax.Array):
                check(value)

    net = nets.functional(NormNet(nnx.Rngs(0), depth=11))
    check(net.params)
    check(net.state)
    assert sorted(net.params["layers"], key=int) == [str(i) for i in range(11)]
    assert len(nets.functional(Tied(nnx.Rngs(0))).params) == 1


def test_what_a_call_adds_is_not_state(x):
    net = nets.functional(Sowing(nnx.Rngs(0)))
    _, state = jax.jit(functools.partial(net.apply, train=True))(net.params, net.state, x)
    chex.assert_trees_all_equal_structs(state, net.state)


def test_errors(x):
    with pytest.raises(ValueError, match="functional: method must be a method of Linear"):
        nets.functional(nnx.Linear(3, 3, rngs=nnx.Rngs(0)), method="nonesuch")
    net = nets.functional(NormNet(nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"apply: state must be the module's own tree.*norm/mean"):
        net.apply(net.params, {}, x)
    with pytest.raises(ValueError, match=r"apply: params must be the module's own tree.*extra"):
        net.apply({**net.params, "extra": jnp.ones(1)}, net.state, x)
