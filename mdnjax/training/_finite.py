"""Whether the numbers of a step are finite, and how large its gradient is."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
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


class BoundedTransformation(optax.GradientTransformation):
    """An optimiser no number of whose updates exceeds `largest`.

    That must hold, with numbers of the range of float32, after every sequence of gradients whose
    squares can be summed. Then finite parameters stay finite, at any rate that leaves the update
    small beside the largest number, and nobody has to look at the update to know it.
    """

    largest: float = math.inf


def bounded(optimizer: optax.GradientTransformation, largest: float) -> BoundedTransformation:
    """Says of an optimiser how large its updates become at most."""
    named = BoundedTransformation(*optimizer)
    named.largest = largest
    return named


class Before(NamedTuple):
    """What an update of bounded size begins with.

    Attributes:
        params: The parameters.
        largest: `[]`, what no number of the update exceeds, the learning rate included.
    """

    params: Any
    largest: Array


def examine(
    value: Array,
    gradient: Any,
    updated: Callable[[], Any],
    state: Any,
    *,
    before: Before | None = None,
) -> Examined:
    """Examines a loss, its gradient, the updated parameters and the network's new state.

    On CPU one sum over each leaf says for all its numbers at once that they are finite, and only
    where a sum does not is each looked at: a comparison for each number took half as long as the
    gradient itself in a small network. Accelerators reduce fast, and would wait for the branch.

    Args:
        value: `[]`, the loss.
        gradient: Its gradient.
        updated: Computes the updated parameters.
        state: The network's new state.
        before: Given where the update is bounded: saves CPUs from computing it only to look at it.
    """

    def one_by_one() -> Examined:
        return _one_by_one(value, gradient, updated(), state)

    def by_sums() -> Examined:
        of_squares = sum(_total(jnp.square(_widened(leaf))) for leaf in jax.tree.leaves(gradient))
        # Above the least, squares that vanished are none of its digits.
        is_plain = jnp.isfinite(of_squares) & (of_squares > 1e-20)
        if before is None:
            others = (updated(), state)
        else:
            others = (before.params, state)
            is_plain &= before.largest < _absorbed(before.params)
        # In a unit so small that the sum of a billion of the largest numbers is still finite.
        of_others = (_total(_widened(leaf), unit=2.0**-30) for leaf in jax.tree.leaves(others))
        is_plain &= jnp.isfinite(value + sum(of_others))
        num_leaves = 1 + 2 * len(jax.tree.leaves(gradient)) + len(jax.tree.leaves(state))
        plain = Examined(jnp.ones(num_leaves, bool), jnp.sqrt(of_squares))
        return lax.cond(is_plain, lambda: plain, one_by_one)

    return lax.platform_dependent(cpu=by_sums, default=one_by_one)


def _absorbed(params: Any) -> float:
    """What the largest number of any leaf absorbs when it is added, and so stays finite."""
    limits = [jnp.finfo(leaf.dtype) for leaf in jax.tree.leaves(params)]
    # With less range than float32's an update is not known to be bounded.
    if any(limit.smallest_normal > 1e-37 for limit in limits):
        return 0.0
    # Half a unit in its last place is a quarter of max * eps; float32 holds 1e30.
    return min(1e30, *(float(limit.max) * float(limit.eps) / 8 for limit in limits))


def _one_by_one(value: Array, gradient: Any, params: Any, state: Any) -> Examined:
    leaves = jax.tree.leaves((value, gradient, params, state))
    finite = jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves])
    # Scaled first: squares of a huge gradient would overflow, of a tiny one vanish.
    slopes = [_widened(leaf) for leaf in jax.tree.leaves(gradient) if leaf.size]
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in slopes]))
    scale = jnp.where(largest > 0, largest, 1)
    norm = scale * jnp.sqrt(sum(jnp.sum(jnp.square(leaf / scale)) for leaf in slopes))
    return Examined(finite, norm)


def _widened(leaf: Array) -> Array:
    return jnp.asarray(leaf).astype(jnp.result_type(leaf, jnp.float32))


def _total(leaf: Array, *, unit: float = 1.0) -> Array:
    """The sum of all numbers of a leaf of any shape, times a unit."""
    return jnp.sum(unit * leaf if leaf.ndim < 2 else sum_last(leaf, unit=unit))
