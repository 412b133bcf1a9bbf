"""What no loss can beat on this machine: reading and writing once, and the exponentials.

**Copy.** One elementwise pass over the raw outputs (their negative: a plain copy XLA might skip, or
do on one core) reads P numbers a row and writes P, as value and gradient must.

**Exponentials.** A softmax over the K logits, one over the K joint log-probabilities, one
exponential for each log-scale, and two logarithms to end with. The floor is the time in which XLA
takes as many exponentials of one large array, on all cores, adding them by sixteens: they are read,
since raw outputs have to be, but hardly anything is written, since the copy says what that costs.
Taken from one array into another of the same size ("written") they wait for memory as well; the
floor is the faster of the two.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from mdn_formulas import Shape

COPY, SUMMED, WRITTEN = "copy", "exponentials, summed", "exponentials, written"
NAMES = (COPY, SUMMED, WRITTEN)
_GROUP = 16


def limits(shape: Shape) -> dict[str, Callable[[], Any]]:
    """By name, functions that do the unavoidable for one batch, compiled."""
    rng = np.random.default_rng(0)
    raw = jnp.asarray(rng.standard_normal((shape.batch, shape.outputs), dtype=np.float32))
    # The same number, up to the last group.
    columns = -(-shape.batch * shape.exponentials // _GROUP)
    x = jnp.asarray(rng.standard_normal((_GROUP, columns), dtype=np.float32))
    contestants = {COPY: (jnp.negative, raw), SUMMED: (_summed, x), WRITTEN: (jnp.exp, x)}
    return {name: _compiled(function, array) for name, (function, array) in contestants.items()}


def traffic(shape: Shape) -> int:
    """Bytes that value and gradient must move: 4 (2P + D) a row, in float32."""
    return 4 * (2 * shape.outputs + shape.dim) * shape.batch


def copy_traffic(shape: Shape) -> int:
    """Bytes that the copy moves."""
    return 8 * shape.outputs * shape.batch


def _summed(x: jax.Array) -> jax.Array:
    total = jnp.exp(x[0])
    for row in x[1:]:
        total = total + jnp.exp(row)
    return total


def _compiled(function: Callable[[Any], Any], array: jax.Array) -> Callable[[], Any]:
    run = jax.jit(function).lower(array).compile()
    return lambda: jax.block_until_ready(run(array))
