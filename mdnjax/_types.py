"""Array aliases shared by every room of the house, and the one rule of promotion."""

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike as ArrayLike
from jaxtyping import PRNGKeyArray

Array: TypeAlias = jax.Array
Key: TypeAlias = PRNGKeyArray
Shape: TypeAlias = tuple[int, ...]


def as_float(x: Any) -> Array:
    """`x` as a floating array of at least float32: bfloat16 and float16 are widened.

    The mixtures' arithmetic needs float32's range and precision; float64 stays.
    """
    x = jnp.asarray(x)
    return x.astype(jnp.result_type(x.dtype, jnp.float32))
