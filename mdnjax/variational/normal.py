"""Diagonal Gaussians as an encoder gives them: a centre and a log-scale for each coordinate."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from mdnjax._checks import require
from mdnjax._saturation import bounded
from mdnjax._types import Array, ArrayLike, Key, Shape, as_float
from mdnjax.variational._elementwise import half_square, raised, saturated, together


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
