"""Whether the numbers of a step are finite, and how large its gradient is."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mdnjax._sums import sum_last
from mdnjax._types import Array


class Examined(NamedTuple):
    """What `examine` finds.

    Attributes:
        finite: `[F]` bool, of every leaf that was examined, in the order of the arguments.
        grad_norm: `[]`, the global norm of the gradient.
    """

    finite: Array
    grad_norm: Array


def examine(value: Array, gradient: Any, params: Any, state: Any) -> Examined:
    """Examines a loss, its gradient, the updated parameters and the network's new state.

    On CPU one sum over each leaf says for all its numbers at once that they are finite, and only
    where a sum does not is each looked at: a comparison for each number took half as long as the
    gradient itself in a small network. Accelerators reduce fast, and would wait for the branch.
    """
    arguments = (value, gradient, params, state)
    return lax.platform_dependent(*arguments, cpu=_by_sums, default=_one_by_one)


def _one_by_one(value: Array, gradient: Any, params: Any, state: Any) -> Examined:
    leaves = jax.tree.leaves((value, gradient, params, state))
    finite = jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves])
    # Scaled first: squares of a huge gradient would overflow, of a tiny one vanish.
    slopes = [leaf for leaf in jax.tree.leaves(gradient) if leaf.size]
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in slopes]))
    scale = jnp.where(largest > 0, largest, 1)
    norm = scale * jnp.sqrt(sum(jnp.sum(jnp.square(leaf / scale)) for leaf in slopes))
    return Examined(finite, norm)


def _by_sums(value: Array, gradient: Any, params: Any, state: Any) -> Examined:
    of_squares = sum(_total(jnp.square(_widened(leaf))) for leaf in jax.tree.leaves(gradient))
    # In a unit so small that the sum of a billion of the largest numbers is still finite.
    others = jax.tree.leaves((params, state))
    of_others = sum(_total(_widened(leaf), unit=2.0**-30) for leaf in others)
    # Above the least, squares that vanished are none of its digits.
    is_plain = jnp.isfinite(value + of_squares + of_others) & (of_squares > 1e-20)
    num_leaves = len(jax.tree.leaves((value, gradient, params, state)))
    return lax.cond(
        is_plain,
        lambda: Examined(jnp.ones(num_leaves, bool), jnp.sqrt(of_squares)),
        functools.partial(_one_by_one, value, gradient, params, state),
    )


def _widened(leaf: Array) -> Array:
    return jnp.asarray(leaf).astype(jnp.result_type(leaf, jnp.float32))


def _total(leaf: Array, *, unit: float = 1.0) -> Array:
    """The sum of all numbers of a leaf of any shape, times a unit."""
    return jnp.sum(unit * leaf if leaf.ndim < 2 else sum_last(leaf, unit=unit))
