"""The root of an increasing function in a bracket, for a whole batch at once."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from mdnjax._types import Array


class _Search(NamedTuple):
    lower: Array  # the function is negative here
    upper: Array  # and positive here
    x: Array
    step: Array  # the length of the last one
    stalled: Array  # how many of the last ones rounding decided
    done: Array
    steps: Array


def find_root(
    function: Callable[[Array], tuple[Array, Array]],
    lower: Array,
    upper: Array,
    start: Array,
    *,
    tolerance: float,
    active: Array | None = None,
) -> Array:
    """Newton's method, safeguarded: x in [lower, upper] with function(x) = 0.

    A Newton step is taken if it stays inside the bracket and is at most half as long as the one
    before; otherwise the bracket is halved, two times in three on the line and once among the
    floating-point numbers, of which a bracket holds at most 2^32 (or 2^64): so no scale hides a
    root for long. Steps so short that rounding decides their sign are doubled instead until the
    bracket closes. The loop runs until every element is done.

    Args:
        function: Maps x `[...]` to its value and derivative; increasing, at least in sign.
        lower: `[...]`, where the function is negative, or the smallest root allowed.
        upper: `[...]`, where it is positive, or the largest.
        start: `[...]`, the first x.
        tolerance: A value that counts as zero. A bracket without a number inside ends it too.
        active: `[...]`, the elements to work on. The others keep `start`, at no cost.

    Returns:
        `[...]`; NaN in a function's value leaves x where it arose.
    """

    def unfinished(search: _Search) -> Array:
        return ~jnp.all(search.done) & (search.steps < 4 * jnp.finfo(start.dtype).bits)

    def advance(search: _Search) -> _Search:
        x, steps = search.x, search.steps
        value, slope = function(x)
        lower = jnp.where(value < 0, x, search.lower)
        upper = jnp.where(value > 0, x, search.upper)
        newton = x - value / slope
        length = jnp.abs(newton - x)
        is_quick = (length > 0) & (2 * length <= search.step)
        # So near, a value may be no more than rounding, and Newton's steps lead nowhere. Halving
        # would begin with the whole bracket: twice as far each time, and one is beyond the root.
        ulp = jnp.nextafter(x, jnp.where(value < 0, jnp.inf, -jnp.inf).astype(x.dtype)) - x
        is_stalled = ~is_quick & (length <= _NEAR * jnp.abs(ulp))
        leap = jnp.ldexp(jnp.where(length > 0, newton - x, ulp), search.stalled + 1)
        newton = jnp.where(is_stalled, x + leap, newton)
        is_safe = (lower < newton) & (newton < upper)
        line = midpoint(lower, upper)
        middle = jnp.where(steps % 3 == 2, _middle_number(lower, upper), line)
        following = jnp.where(is_safe & (is_quick | is_stalled), newton, middle)
        is_open = (lower < line) & (line < upper)
        is_root = ~(jnp.abs(value) > tolerance)  # or NaN
        done = search.done | is_root | ~is_open
        # Of a bracket without a number inside always the same end, so that roots keep their order.
        last = jnp.where(search.done | is_root, x, upper)
        return _Search(
            jnp.where(search.done, search.lower, lower),
            jnp.where(search.done, search.upper, upper),
            jnp.where(done, last, following),
            jnp.abs(following - x),
            jnp.where(is_stalled, search.stalled + 1, 0),
            done,
            steps + 1,
        )

    done = jnp.zeros(start.shape, bool) if active is None else ~active
    none = jnp.zeros((), jnp.int32)
    stalled = jnp.zeros(start.shape, jnp.int32)
    initial = _Search(lower, upper, start, upper - lower, stalled, done, none)
    return lax.while_loop(unfinished, advance, initial).x


_NEAR = 64
"""In units in the last place of x: what the rounding of a value is often worth there."""


def midpoint(a: Array, b: Array) -> Array:
    """(a + b) / 2 where a + b may overflow; XLA takes a / 2 + b / 2 for (a + b) / 2."""
    return jnp.where((a < 0) == (b < 0), a + 0.5 * (b - a), 0.5 * (a + b))


def _middle_number(a: Array, b: Array) -> Array:
    """The floating-point number with as many between it and `a` as between it and `b`."""
    integer = jnp.int32 if a.dtype == jnp.float32 else jnp.int64
    lowest = jnp.iinfo(integer).min

    def flipped(i: Array) -> Array:
        """Sign and magnitude, as floats have it, to two's complement, or back."""
        return jnp.where(i < 0, lowest - i, i)

    i, j = (flipped(lax.bitcast_convert_type(x, integer)) for x in (a, b))
    middle = (i >> 1) + (j >> 1) + (i & j & 1)
    return lax.bitcast_convert_type(flipped(middle), a.dtype)
