"""The safeguarded Newton's method behind quantiles and regions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdnjax.mixtures._root import find_root

INCREASING = {
    "log": (np.log, jnp.log, lambda x: 1 / x),
    "root": (np.sqrt, jnp.sqrt, lambda x: 0.5 / jnp.sqrt(x)),
    "decay": (
        lambda x: -np.exp(-x / 3e3),
        lambda x: -jnp.exp(-x / 3e3),
        lambda x: jnp.exp(-x / 3e3) / 3e3,
    ),
}


@pytest.mark.parametrize("name", INCREASING)
@pytest.mark.parametrize("tolerance", [0.0, 2e-7])
def test_rounding_costs_few_steps(name, tolerance):
    """Where it decides the sign of a value, halving the bracket would take some fifteen more."""
    exact, function, slope = INCREASING[name]
    roots = np.random.default_rng(0).uniform(1, 1e4, 1000)
    level = jnp.asarray(exact(roots), jnp.float32)
    evaluations = []

    def equation(x):
        jax.debug.callback(lambda: evaluations.append(1))
        return function(x) - level, slope(x)

    low, high = jnp.full(1000, 1.0), jnp.full(1000, 1e4)
    found = find_root(equation, low, high, 0.5 * (low + high), tolerance=tolerance)
    jax.effects_barrier()
    # What counts as zero, and the rounding of values and of roots.
    eps = 4 * np.finfo(np.float32).eps
    error = (tolerance + eps * np.abs(level)) / slope(roots) + eps * roots
    assert np.all(np.abs(found - roots) <= error)
    assert len(evaluations) <= 16
