"""Diagonal Gaussians as an encoder gives them: a centre and a log-scale for each coordinate."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from mdnjax._checks import require
from mdnjax._saturation import bounded, clip, largest_float, product
from mdnjax._types import Array, ArrayLike, Key, Shape, as_float


def reparameterize(
    key: Key,
    loc: Float[ArrayLike, "*#batch D"],
    log_scale: Float[ArrayLike, "*#batch D"],
    shape: Shape = (),
) -> Float[Array, "*shape_and_batch D"]:
    r"""Samples z = mu + sigma epsilon, epsilon ~ N(0, I).

    The randomness does not depend on the parameters, so the gradient of an expectation over z is
    the expectation of the gradient at z: this is what trains an encoder. Of samples without it
    (`lax.stop_gradient(z)`), the encoder learns nothing.

    Args:
        key: A random key.
        loc: mu, `[..., D]`.
        log_scale: log sigma, `[..., D]`.
        shape: Of the samples of each example.

    Returns:
        `[*shape, ..., D]`.

    Raises:
        ValueError: The shapes do not broadcast.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from mdnjax import variational
        >>> loc, log_scale = jnp.zeros((10, 2)), jnp.zeros((10, 2))
        >>> variational.reparameterize(jax.random.key(0), loc, log_scale, (50,)).shape
        (50, 10, 2)

    References:
        D. P. Kingma and M. Welling. "Auto-Encoding Variational Bayes." 2014, section 2.4.
    """
    loc, log_scale = together("reparameterize", loc=loc, log_scale=log_scale)
    epsilon = jax.random.normal(key, (*shape, *loc.shape), loc.dtype)
    loc, scale = raised(len(shape), loc, jnp.exp(bounded(log_scale)))
    return loc + scale * epsilon


def log_normal(
    z: Float[ArrayLike, "*samples D"],
    loc: Float[ArrayLike, "*#batch D"],
    log_scale: Float[ArrayLike, "*#batch D"],
    *,
    path_only: bool = False,
) -> Float[Array, "*samples"]:
    r"""Log N(z | mu, diag(sigma^2)).

        -sum_d (z_d - mu_d)^2 / (2 sigma_d^2) - sum_d log sigma_d - D/2 log 2 pi

    If z is reparameterised, a bound's derivative in mu and sigma reaches this term in two ways:
    through z, and directly. The direct part is zero on average, and noise; with `path_only` it is
    left out (sticking the landing), and where q is the exact posterior no noise is left.

    Args:
        z: `[*shape, ..., D]`.
        loc: mu, `[..., D]`.
        log_scale: log sigma, `[..., D]`.
        path_only: Whether derivatives are taken through z alone.

    Returns:
        `[*shape, ...]`, nats.

    Raises:
        ValueError: The shapes do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from mdnjax import variational
        >>> print(variational.log_normal(jnp.ones(2), jnp.zeros(2), jnp.zeros(2)))  # -1 - log 2 pi
        -2.837877

    References:
        G. Roeder, Y. Wu and D. Duvenaud. "Sticking the Landing: Simple, Lower-Variance Gradient
        Estimators for Variational Inference." 2017.
    """
    loc, log_scale = together("log_normal", loc=loc, log_scale=log_scale)
    z = jnp.asarray(z).astype(loc.dtype)
    extra = z.ndim - loc.ndim
    require(
        extra >= 0 and z.shape[extra:] == loc.shape,
        "log_normal",
        "z",
        f"shape {z.shape}",
        f"[*shape, {', '.join(map(str, loc.shape))}]",
    )
    if path_only:
        loc, log_scale = lax.stop_gradient((loc, log_scale))
    loc, log_scale = raised(extra, loc, log_scale)
    dim = z.shape[-1]
    terms = half_square(z - loc, log_scale, dim) + saturated(log_scale, dim)
    return -jnp.sum(terms, axis=-1) - 0.5 * dim * math.log(2 * math.pi)


def log_standard_normal(z: Float[ArrayLike, "*samples D"]) -> Float[Array, "*samples"]:
    """Log N(z | 0, I) = -|z|^2 / 2 - D/2 log 2 pi.

    Args:
        z: `[..., D]`.

    Returns:
        `[...]`, nats.

    Example:
        >>> import jax.numpy as jnp
        >>> from mdnjax import variational
        >>> print(variational.log_standard_normal(jnp.ones(2)))  # -1 - log 2 pi
        -2.837877
    """
    z = as_float(z)
    dim = z.shape[-1]
    terms = half_square(z, jnp.zeros_like(z), dim)
    return -jnp.sum(terms, axis=-1) - 0.5 * dim * math.log(2 * math.pi)


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
