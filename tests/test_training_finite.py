"""What a step is told of its numbers, against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mdnjax import training
from mdnjax.training._finite import Before, BoundedTransformation, examine

RNG = np.random.default_rng(0)
GRADIENT = {"bias": RNG.normal(size=5), "kernel": RNG.normal(size=(4, 5)), "none": np.zeros((0, 3))}
STATE = {"count": np.int32(3), "mean": np.float32([1.0, 2.0]), "half": jnp.ones((2, 3), "bfloat16")}
LARGEST = float(np.finfo(np.float32).max)


@jax.jit
def examine_all(value, gradient, params, state):
    return examine(value, gradient, lambda: params, state)


@jax.jit
def examine_bounded(value, gradient, params, state, before, largest):
    return examine(value, gradient, lambda: params, state, before=Before(before, largest))


def float32(tree):
    return {name: np.float32(leaf) for name, leaf in tree.items()}


def examined(value=1.0, scale=1.0, gradient=None, params=None, state=None):
    gradient = float32({k: v * scale for k, v in (gradient or GRADIENT).items()})
    return gradient, examine_all(
        np.float32(value), gradient, float32(params or GRADIENT), state or STATE
    )


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e-30, 0.0, 1e15, 1e30, 1e37])
def test_the_norm_is_right_at_any_scale(scale):
    gradient, found = examined(scale=scale)
    squares = sum(np.sum(np.square(np.float64(leaf))) for leaf in gradient.values())
    np.testing.assert_allclose(found.grad_norm, np.sqrt(squares), rtol=1e-6)
    assert found.finite.all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_flags_name_exactly_what_is_not_finite(bad):
    def damaged(name, shape, place):
        leaf = np.ones(shape)
        leaf[place] = bad
        return {**GRADIENT, name: leaf}

    whole = np.ones(10, bool)  # value; bias, kernel, none; the same of params; count, half, mean
    cases = {
        0: {"value": bad},
        1: {"gradient": damaged("bias", 5, 4)},
        2: {"gradient": damaged("kernel", (4, 5), (3, 0))},
        4: {"params": damaged("bias", 5, 0)},
        5: {"params": damaged("kernel", (4, 5), (0, 4))},
        9: {"state": {**STATE, "mean": np.float32([1.0, bad])}},
    }
    for place, arguments in cases.items():
        _, found = examined(**arguments)
        expected = whole.copy()
        expected[place] = False
        np.testing.assert_array_equal(found.finite, expected, err_msg=str(place))


def test_opposite_infinities_do_not_cancel():
    _, found = examined(params={**GRADIENT, "bias": np.array([np.inf, -np.inf, 0, 0, 0])})
    np.testing.assert_array_equal(np.flatnonzero(~found.finite), [4])


def test_the_largest_numbers_are_finite():
    full = {name: np.full(np.shape(leaf), LARGEST) for name, leaf in GRADIENT.items()}
    _, found = examined(params=full)
    assert found.finite.all()
    _, found = examined(gradient={k: v / 8 for k, v in full.items()}, params=full)
    assert found.finite.all()
    np.testing.assert_allclose(found.grad_norm, LARGEST / 8 * 5, rtol=1e-6)


def test_a_bounded_update_is_looked_at_where_the_bound_says_nothing():
    broken = {**GRADIENT, "bias": np.full(5, np.inf)}  # an update that breaks its promise

    def flags(before, largest):
        found = examine_bounded(
            np.float32(1), float32(GRADIENT), float32(broken), STATE, float32(before), largest
        )
        return set(np.flatnonzero(~found.finite))

    on_cpu = jax.default_backend() == "cpu"
    assert flags(GRADIENT, np.float32(10)) == (set() if on_cpu else {4})
    for largest in [np.nan, np.inf, 1e31]:
        assert flags(GRADIENT, np.float32(largest)) == {4}, largest
    assert flags(broken, np.float32(10)) == {4}
    largest = {name: np.full(np.shape(leaf), LARGEST) for name, leaf in GRADIENT.items()}
    assert np.isfinite(np.float32(LARGEST) + np.float32(5e30))
    assert flags(largest, np.float32(10)) == (set() if on_cpu else {4})


def test_the_bound_is_beside_the_smallest_range_among_the_leaves():
    def bad(largest, dtypes, state=None):
        leaves = zip(GRADIENT.items(), dtypes, strict=True)
        before = {name: jnp.asarray(leaf, dtype) for (name, leaf), dtype in leaves}
        broken = {**before, "bias": jnp.full(5, jnp.inf, before["bias"].dtype)}
        found = examine_bounded(
            np.float32(1), float32(GRADIENT), broken, state or STATE, before, np.float32(largest)
        )
        return set(np.flatnonzero(~found.finite))

    single, half, brain = "float32", "float16", "bfloat16"
    on_cpu = jax.default_backend() == "cpu"
    assert bad(1e-3, (single, single, single)) == (set() if on_cpu else {4})
    for dtypes in [(half, half, half), (half, single, single), (single, single, half)]:
        assert bad(1e-3, dtypes) == {4}, dtypes
    for dtypes in [(brain, brain, brain), (brain, single, single)]:
        assert bad(1e-3, dtypes) == (set() if on_cpu else {4}), dtypes
        assert bad(5e30, dtypes) == {4}, dtypes
    assert 9 in bad(1e-3, (single,) * 3, {**STATE, "mean": np.float32([1.0, np.nan])})


@pytest.mark.parametrize(("b1", "b2"), [(0.9, 0.999), (0.0, 0.9), (0.9, 0.83), (0.99, 0.9999)])
def test_no_gradients_drive_adam_beyond_its_bound(b1, b2):
    optimizer = training.adam(clip=None, b1=b1, b2=b2)
    assert isinstance(optimizer, BoundedTransformation)
    # Those of Cauchy and Schwarz's equality, and ones from 1e-30 to 1e18.
    n = np.arange(300)
    worst = (b2 / b1) ** n if b1 > 0 else np.ones(300)
    rng = np.random.default_rng(0)
    wild = 10.0 ** rng.uniform(-30, 18, size=(300, 20)) * rng.choice([-1, 1], size=(300, 20))
    gradients = np.float32(np.column_stack([worst, wild]))

    @jax.jit
    def run(gradients):
        def step(state, gradient):
            update, state = optimizer.update(gradient, state)
            return state, jnp.max(jnp.abs(update))

        return jax.lax.scan(step, optimizer.init(gradients[0]), gradients)[1]

    sizes = np.asarray(run(gradients))
    assert sizes.max() <= optimizer.largest
    attained = (1 - b1) / np.sqrt((1 - b2) * (1 - b1**2 / b2))
    assert sizes.max() >= 0.5 * attained * np.sqrt(1 - b2**300)


def test_squares_that_vanish_do_not_drive_adam_beyond_its_bound():
    optimizer = training.adam(clip=None, eps=1e-12)
    state, size = optimizer.init(jnp.ones(())), 0.0
    for _ in range(300):
        update, state = optimizer.update(jnp.float32(3e-18), state)
        size = max(size, abs(float(update)))
    assert 0 < size <= optimizer.largest


def test_an_adam_without_a_bound_does_not_claim_one():
    without = [
        {"weight_decay": 0.1},
        {"b1": 0.9, "b2": 0.8},
        {"b1": -0.5},
        {"b2": 1 - 2e-8},
        {"eps": 0.0},
        {"eps": 1e-30},
        {"clip": float("inf")},
    ]
    for options in without:
        assert training.adam(**options).largest == np.inf, options
    assert training.adam()._replace(update=None).largest == np.inf


def test_adams_options_may_be_traced(without_jaxtyping):
    optimizer = optax.inject_hyperparams(training.adam, static_args=("clip", "weight_decay"))()
    update, _ = jax.jit(optimizer.update)(jnp.float32(3), optimizer.init(jnp.float32(0)))
    np.testing.assert_allclose(update, -1, rtol=1e-6)
