"""The step against NumPy: the objective, the average, donation, and what a bad batch leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mdnjax import training

PARAMS = {"layer": {"bias": np.zeros(()), "weight": np.array([0.5, -1.0, 2.0])}}


def linear_loss(params, state, batch, key):
    layer = params["layer"]
    residual = batch["x"] @ layer["weight"] + layer["bias"] - batch["y"]
    return residual**2, batch["weight"], {"count": state["count"] + 1.0}


def make_batch(seed=0, size=8):
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=(size, 3)).astype(np.float32),
        "y": rng.normal(size=size).astype(np.float32),
        "weight": rng.uniform(0.5, 2.0, size=size).astype(np.float32),
    }


def start(optimizer, **options):
    return training.init_state(PARAMS, {"count": 0.0}, optimizer, budget=10, **options)


def numpy_sgd(params, batch, rate):
    """One step of gradient descent on the weighted mean of squared residuals, by hand."""
    w, b = params
    x, y, weight = (batch[name].astype(np.float64) for name in ("x", "y", "weight"))
    residual = x @ w + b - y
    pull = 2 * weight * residual / weight.sum()
    return (w - rate * pull @ x, b - rate * pull.sum()), (weight * residual**2).sum() / weight.sum()


def test_a_step_descends_the_weighted_mean():
    optimizer = optax.sgd(0.1)
    step = training.make_step(linear_loss, optimizer)
    batch = make_batch()
    (weight, bias), nats = numpy_sgd((PARAMS["layer"]["weight"], 0.0), batch, 0.1)
    state, metrics = step(start(optimizer), batch, jax.random.key(0))
    np.testing.assert_allclose(state.params["layer"]["weight"], weight, rtol=1e-5)
    np.testing.assert_allclose(state.params["layer"]["bias"], bias, rtol=1e-5)
    np.testing.assert_allclose(metrics.nats, nats, rtol=1e-5)
    np.testing.assert_allclose(metrics.weight, batch["weight"].sum(), rtol=1e-6)
    change = np.r_[weight - PARAMS["layer"]["weight"], bias] / 0.1
    np.testing.assert_allclose(metrics.grad_norm, np.linalg.norm(change), rtol=1e-5)
    assert bool(metrics.applied)
    assert int(state.step) == 1
    assert float(state.state["count"]) == 1.0


def test_examples_of_weight_zero_change_nothing():
    optimizer = optax.sgd(0.1)
    step = training.make_step(linear_loss, optimizer)
    batch, padding = make_batch(0), make_batch(1)
    padding["weight"] = np.zeros_like(padding["weight"])
    padded = {name: np.concatenate([batch[name], padding[name]]) for name in batch}
    alone, _ = step(start(optimizer), batch, jax.random.key(0))
    among, metrics = step(start(optimizer), padded, jax.random.key(0))
    for a, b in zip(jax.tree.leaves(alone.params), jax.tree.leaves(among.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    np.testing.assert_allclose(metrics.weight, batch["weight"].sum(), rtol=1e-6)


def test_doubling_all_weights_changes_nothing():
    optimizer = optax.sgd(0.1)
    step = training.make_step(linear_loss, optimizer)
    batch = make_batch()
    double = {**batch, "weight": 2 * batch["weight"]}
    one, _ = step(start(optimizer), batch, jax.random.key(0))
    two, _ = step(start(optimizer), double, jax.random.key(0))
    np.testing.assert_allclose(
        one.params["layer"]["weight"], two.params["layer"]["weight"], rtol=1e-6
    )


def test_the_state_is_donated_and_the_callers_arrays_are_not():
    params = {"layer": {"bias": jnp.zeros(()), "weight": jnp.ones(3)}}
    optimizer = optax.adam(0.1)
    before = training.init_state(params, {"count": jnp.zeros(())}, optimizer, budget=1)
    training.make_step(linear_loss, optimizer)(before, make_batch(), jax.random.key(0))
    assert before.params["layer"]["weight"].is_deleted()
    np.testing.assert_array_equal(params["layer"]["weight"], np.ones(3))


def test_one_trace_for_a_run_and_its_budget():
    traces = []

    def loss(params, state, batch, key):
        traces.append(1)
        return linear_loss(params, state, batch, key)

    optimizer = training.adam()
    schedule = training.Schedule(peak=0.1, warmup=2)
    step = training.make_step(loss, optimizer, schedule=schedule, average=0.9)
    for budget in (3, 1000):
        state = training.init_state(PARAMS, {"count": 0.0}, optimizer, budget=budget, average=True)
        for n in range(3):
            state, _ = step(state, make_batch(n), jax.random.key(0), np.int32(n))
    assert len(traces) == 1


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_average_against_a_loop(decay):
    optimizer = optax.sgd(0.05)
    step = training.make_step(linear_loss, optimizer, average=decay)
    state = start(optimizer, average=True)
    params, raw = (PARAMS["layer"]["weight"], 0.0), np.zeros(3)
    for n in range(1, 8):
        state, _ = step(state, make_batch(n), jax.random.key(0))
        params, _ = numpy_sgd(params, make_batch(n), 0.05)
        raw = decay * raw + (1 - decay) * params[0]
        expected = raw / (1 - decay**n)
        np.testing.assert_allclose(state.average["layer"]["weight"], expected, rtol=1e-5)
    assert state.evaluated is state.average


def test_the_schedule_multiplies_the_update():
    schedule = training.Schedule(peak=0.2, warmup=4, decay="linear")
    optimizer = optax.sgd(1.0)
    step = training.make_step(linear_loss, optimizer, schedule=schedule)
    state = start(optimizer)
    params = (PARAMS["layer"]["weight"], 0.0)
    for n in range(10):
        rate = 0.2 * min(1, (n + 1) / 4) * (1 - max(n - 4, 0) / 6)
        params, _ = numpy_sgd(params, make_batch(n), rate)
        state, metrics = step(state, make_batch(n), jax.random.key(0))
        np.testing.assert_allclose(metrics.learning_rate, rate, rtol=1e-6)
        np.testing.assert_allclose(state.params["layer"]["weight"], params[0], rtol=1e-4)


def test_the_key_is_a_function_of_the_step():
    def loss(params, state, batch, key):
        return params["w"] + jax.random.uniform(key, (1,)), jnp.ones(1), {}

    optimizer = optax.sgd(0.0)
    step = training.make_step(loss, optimizer)
    state = training.init_state({"w": jnp.zeros(1)}, {}, optimizer, budget=3)
    key = jax.random.key(3)
    for n in range(3):
        state, metrics = step(state, None, key)
        expected = jax.random.uniform(jax.random.fold_in(key, n), (1,))
        np.testing.assert_array_equal(metrics.nats, expected[0])


def poisoned_loss(params, state, batch, key):
    """Finite as a value; batch["root"] = 0 makes the gradient of `bias` alone infinite."""
    nats, weight, _ = linear_loss(params, state, batch, key)
    bias = params["layer"]["bias"]
    slope = jnp.sqrt(batch["root"] + (bias - jax.lax.stop_gradient(bias)))
    return nats + slope, weight, {"count": state["count"] / batch["divide"]}


def flags_of(batch):
    optimizer = optax.adam(0.1)
    step = training.make_step(poisoned_loss, optimizer)
    before = start(optimizer)
    kept = jax.tree.map(np.array, before)
    after, metrics = step(before, batch, jax.random.key(0), np.int32(0))
    names = training.checked_names(after)
    bad = {name for name, ok in zip(names, np.asarray(metrics.finite), strict=True) if not ok}
    same = all(
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(after), strict=True)
    )
    return bad, same, bool(metrics.applied)


def test_flags_name_what_is_not_finite_and_the_state_is_kept():
    batch = {**make_batch(), "root": np.float32(1), "divide": np.float32(1)}
    bad, same, applied = flags_of(batch)
    assert (bad, same, applied) == (set(), False, True)
    bad, same, applied = flags_of({**batch, "root": np.float32(0)})
    bias = {"gradient of params/layer/bias", "update of params/layer/bias"}
    assert (bad, same, applied) == (bias, True, False)
    bad, same, applied = flags_of({**batch, "divide": np.float32(np.nan)})
    assert (bad, same, applied) == ({"state/count"}, True, False)
    bad, same, applied = flags_of({**batch, "y": np.full(8, np.inf, np.float32)})
    assert "loss" in bad
    assert same
    assert not applied


def test_an_update_that_overflows_is_caught():
    optimizer = optax.chain(optax.scale(-1e38), optax.scale(1e38))
    step = training.make_step(linear_loss, optimizer)
    state, metrics = step(start(optimizer), make_batch(), jax.random.key(0))
    assert not bool(metrics.applied)
    np.testing.assert_allclose(state.params["layer"]["weight"], PARAMS["layer"]["weight"])


@pytest.mark.parametrize("rate", [np.nan, np.inf, -np.inf, 3e38])
def test_a_rate_that_overflows_is_caught_behind_a_bounded_update(rate):
    optimizer = training.adam(clip=None)
    step = training.make_step(linear_loss, optimizer, schedule=lambda step, budget: rate)
    state, metrics = step(start(optimizer), make_batch(), jax.random.key(0))
    # Adam's first update is 1 in size, so that 3e38 times that is still finite.
    assert bool(metrics.applied) == (rate == 3e38)
    if not metrics.applied:
        np.testing.assert_allclose(state.params["layer"]["weight"], PARAMS["layer"]["weight"])


def test_a_parameter_that_is_not_finite_is_caught_though_no_loss_uses_it():
    optimizer = training.adam()
    step = training.make_step(linear_loss, optimizer)
    params = {**PARAMS, "unused": jnp.array([1.0, np.nan])}
    state = training.init_state(params, {"count": 0.0}, optimizer, budget=1)
    state, metrics = step(state, make_batch(), jax.random.key(0))
    names = np.array(training.checked_names(state))
    assert names[~np.asarray(metrics.finite)].tolist() == ["update of params/unused"]


def test_parameters_of_half_precision_are_trained():
    optimizer = training.adam()
    step = training.make_step(linear_loss, optimizer)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, "bfloat16"), PARAMS)
    state = training.init_state(params, {"count": 0.0}, optimizer, budget=1)
    _, metrics = step(state, make_batch(), jax.random.key(0))
    assert bool(metrics.applied)
    assert metrics.grad_norm.dtype == np.float32


def test_a_step_of_another_number_does_nothing():
    optimizer = optax.sgd(0.1)
    step = training.make_step(linear_loss, optimizer)
    state, metrics = step(start(optimizer), make_batch(), jax.random.key(0), np.int32(1))
    assert not bool(metrics.applied)
    assert bool(metrics.finite.all())
    assert int(state.step) == 0
    np.testing.assert_allclose(state.params["layer"]["weight"], PARAMS["layer"]["weight"])


def test_all_weights_zero_is_a_loss_that_is_not_finite():
    optimizer = optax.sgd(0.1)
    step = training.make_step(linear_loss, optimizer)
    batch = {**make_batch(), "weight": np.zeros(8, np.float32)}
    _, metrics = step(start(optimizer), batch, jax.random.key(0))
    assert not bool(metrics.finite[0])


def test_errors():
    optimizer = optax.sgd(0.1)
    with pytest.raises(ValueError, match="make_step: average must be"):
        training.make_step(linear_loss, optimizer, average=1.0)
    with pytest.raises(ValueError, match="init_state: budget must be at least 1, got 0"):
        training.init_state(PARAMS, {}, optimizer, budget=0)
    with pytest.raises(ValueError, match=r"init_state: params\['n'\] must be of a floating"):
        training.init_state({"n": np.arange(3)}, {}, optimizer, budget=1)
    step = training.make_step(linear_loss, optimizer, average=0.9)
    with pytest.raises(ValueError, match="make_step: average"):
        step(start(optimizer), make_batch(), jax.random.key(0))

    def lopsided(params, state, batch, key):
        return jnp.ones(3) * params["layer"]["bias"], jnp.ones(()), state

    with pytest.raises(ValueError, match=r"nats \(3,\) and weight \(\)"):
        training.make_step(lopsided, optimizer)(start(optimizer), None, jax.random.key(0))
