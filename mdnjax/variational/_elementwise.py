"""What the terms share: one shape for all, and squares finite with their derivatives."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from mdnjax._saturation import bounded, clip, largest_float, product
from mdnjax._types import Array, ArrayLike, as_float


def together(function: str, **arrays: ArrayLike) -> list[Array]:
    """Named arrays with one shape and one dtype."""
    floats = [as_float(x) for x in arrays.values()]
    dtype = jnp.result_type(*floats)
    try:
        shape = jnp.broadcast_shapes(*(x.shape for x in floats))
    except ValueError:
        shapes = " and ".join(str(x.shape) for x in floats)
        names = " and ".join(arrays)
        raise ValueError(f"{function}: {names} must broadcast, got {shapes}.") from None
    return [jnp.broadcast_to(x, shape).astype(dtype) for x in floats]


def raised(rank: int, *arrays: Array) -> list[Array]:
    """The arrays with so many axes of one in front."""
    return [lax.expand_dims(x, range(rank)) for x in arrays]


def saturated(log_scale: Array, terms: int = 1) -> Array:
    """Log sigma, of which so many can be added to each other and to as many squares."""
    return clip(log_scale, largest_float(log_scale.dtype, terms=4 * terms))


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def half_square(delta: Array, log_scale: Array, terms: int = 1) -> Array:
    """z^2 / 2, z = delta / sigma, of which so many can be added."""
    z, _ = _standardized(delta, log_scale, terms)
    return 0.5 * z * z


@half_square.defjvp
def _half_square_jvp(terms: int, primals: Any, tangents: Any) -> Any:
    # d (z^2 / 2) = z / sigma d delta - z^2 d log sigma
    (delta, log_scale), (delta_dot, log_scale_dot) = primals, tangents
    z, inverse_scale = _standardized(delta, log_scale, terms)
    by_delta = product(z, inverse_scale, terms=2)
    return 0.5 * z * z, by_delta * delta_dot - z * z * log_scale_dot


def _standardized(delta: Array, log_scale: Array, terms: int) -> tuple[Array, Array]:
    inverse_scale = jnp.exp(-bounded(log_scale))
    limit = largest_float(delta.dtype, terms=4 * max(terms, 64)) ** 0.5
    return clip(clip(delta, largest_float(delta.dtype)) * inverse_scale, limit), inverse_scale
