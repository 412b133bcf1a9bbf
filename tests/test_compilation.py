"""Functions with a loop inside, called again outside of `jit`, as in a notebook.

A loop over a function that is made on every call is compiled anew, a fifth of a second each time.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdnjax as mdn
from mdnjax import strokes

KEY = jax.random.key(0)
LINE = mdn.GaussianMixture.isotropic([[-1.0], [1.0]], [0.1, 0.5])
PLANE = mdn.GaussianMixture.isotropic([[-1.0, 0.0], [1.0, 0.0]], [0.1, 0.5])
HEAD = mdn.GaussianHead(num_components=2, dim=2)
TOLERANCES = iter([1.0, 2.0])
PEN = strokes.Strokes(np.ones((3, 2), np.float32), np.zeros(3, np.float32), np.ones(3, bool))


def linear_nll(weight):
    hidden, bias = jnp.ones((4, 1)), jnp.zeros(HEAD.num_outputs)
    kernel = jnp.full((1, HEAD.num_outputs), weight)
    return mdn.linear_nll(HEAD, hidden, kernel, bias, jnp.zeros((4, 2)), block_size=2).sum()


def moved(shift):
    return dataclasses.replace(PLANE, loc=PLANE.loc + shift)


@pytest.mark.parametrize(
    "function",
    [
        lambda: mdn.crps(LINE, [0.3]),
        lambda: mdn.quantile(LINE, 0.3),
        lambda: mdn.energy_score(KEY, PLANE, [0.0, 0.0], num_samples=32),
        lambda: mdn.kl_divergence_bounds(PLANE, PLANE),
        lambda: linear_nll(1.0),
        lambda: jax.grad(linear_nll)(1.0),
        lambda: strokes.simplify(PEN, next(TOLERANCES)),
        lambda: mdn.modes(PLANE),
        lambda: jax.grad(lambda shift: mdn.mode(moved(shift)).sum())(1.0),
    ],
    ids=["crps", "quantile", "energy", "bounds", "linear", "gradient", "pen", "modes", "mode"],
)
def test_a_second_call_compiles_nothing(function, caplog):
    function()
    caplog.clear()
    with jax.log_compiles():
        function()
    messages = [record.getMessage() for record in caplog.records]
    assert not [message for message in messages if "XLA compilation" in message]
