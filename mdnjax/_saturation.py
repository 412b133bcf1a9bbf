"""Where numbers are stopped before they overflow, and operations that stop them there."""

import math

import jax.numpy as jnp

from mdnjax._types import Array


def largest_float(dtype: jnp.dtype, *, terms: int = 1) -> float:
    """The largest number, or one of which so many can be added."""
    return float(jnp.finfo(dtype).max) / terms


def log_limit(dtype: jnp.dtype) -> float:
    """Up to here exp(x) and exp(-x) are normal numbers: 87 in float32."""
    return float(math.floor(-math.log(float(jnp.finfo(dtype).tiny))))


def clip(x: Array, limit: float) -> Array:
    """`x` between -limit and limit."""
    return jnp.clip(x, -limit, limit)


def bounded(x: Array) -> Array:
    """An exponent of which the exponential neither overflows nor underflows."""
    return clip(x, log_limit(x.dtype))


def product(a: Array, b: Array, *, terms: int) -> Array:
    """The product a b, or a number of which four times so many can be added."""
    return clip(a * b, largest_float(a.dtype, terms=4 * terms))
