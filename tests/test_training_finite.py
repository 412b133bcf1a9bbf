"""What a step is told of its numbers, against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdnjax.training._finite import examine

RNG = np.random.default_rng(0)
GRADIENT = {"bias": RNG.normal(size=5), "kernel": RNG.normal(size=(4, 5)), "none": np.zeros((0, 3))}
STATE = {"count": np.int32(3), "mean": np.float32([1.0, 2.0]), "half": jnp.ones((2, 3), "bfloat16")}
LARGEST = float(np.finfo(np.float32).max)
EXAMINE = jax.jit(examine)


def examined(value=1.0, scale=1.0, gradient=None, params=None, state=None):
    def float32(tree):
        return {name: np.float32(leaf) for name, leaf in tree.items()}

    gradient = float32({k: v * scale for k, v in (gradient or GRADIENT).items()})
    return gradient, EXAMINE(
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
