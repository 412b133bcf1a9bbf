"""Priors on the mixing coefficients, against components that die."""

from typing import Any

import jax.numpy as jnp
from jax.scipy.special import gammaln
from jaxtyping import Float, Real

from mdnjax._batching import common_batch
from mdnjax._checks import require
from mdnjax._types import Array, ArrayLike, as_float


def dirichlet_log_prior(
    log_weights: Real[ArrayLike, "*#batch K"] | list[Any],
    concentration: Real[ArrayLike, "..."] | list[Any],
    *,
    normalized: bool = True,
) -> Float[Array, "*batch"]:
    r"""Log Dirichlet(pi | lambda), a density on the simplex.

        log p(pi) = sum_k (lambda_k - 1) log pi_k
                    + log Gamma(sum_k lambda_k) - sum_k log Gamma(lambda_k).

    Added to the log-likelihood it makes training MAP: lambda > 1 pushes all weights away from zero
    (Li and Lee take 2), 1 does nothing, lambda < 1 makes mixtures sparse and the posterior
    unbounded. It is a density of pi, not of the logits, so its mode is where lambda = 2 puts it:
    pi_k proportional to lambda_k - 1.

    0 times -inf is 0: a weight of zero has no say where its lambda is 1.

    Args:
        log_weights: `[..., K]`, normalised, as a mixture has them.
        concentration: lambda, positive: a number, or `[..., K]`.
        normalized: Whether to add the second line, which no gradient in the weights sees.

    Returns:
        `[...]`, nats; -inf (or +inf) where a weight of zero has lambda above (or below) 1.

    Raises:
        ValueError: `concentration` is a number that is not positive, or shapes do not fit.

    Example:
        A loss for training, per example: `mdn.nll` and the prior's share.

        >>> import jax.numpy as jnp
        >>> import mdnjax as mdn
        >>> head = mdn.GaussianHead(num_components=2, dim=1)
        >>> def loss(raw, y):
        ...     prior = mdn.dirichlet_log_prior(head.mixture(raw).log_weights, 2.0)
        ...     return mdn.nll(head, raw, y) - prior
        >>> print(loss(jnp.zeros(6), jnp.zeros(1)))  # log(2 pi) / 2 - log(6 / 4)
        0.513473

    References:
        C. Li and G. H. Lee. "Generating Multiple Hypotheses for 3D Human Pose Estimation with
        Mixture Density Network." 2019, eq. 9 to 11.
    """
    name = "dirichlet_log_prior"
    if isinstance(concentration, (int, float)):
        require(concentration > 0, name, "concentration", concentration, "positive")
    log_weights = as_float(log_weights)
    require(log_weights.ndim >= 1, name, "log_weights", "a number", "[..., K]")
    num_components = log_weights.shape[-1]
    given = jnp.asarray(concentration, log_weights.dtype)
    given = given if given.ndim else given[None]
    require(
        given.shape[-1] in (1, num_components),
        name,
        "concentration",
        f"shape {given.shape}",
        f"a number or [..., {num_components}]",
    )
    given = jnp.broadcast_to(given, (*given.shape[:-1], num_components))
    batch = common_batch(
        name, ("log_weights", "concentration"), log_weights.shape[:-1], given.shape[:-1]
    )
    shape = (*batch, num_components)
    log_weights, power = jnp.broadcast_to(log_weights, shape), jnp.broadcast_to(given, shape) - 1

    counts = (power != 0) | jnp.isnan(log_weights)
    log_density = jnp.sum(power * jnp.where(counts, log_weights, 0), axis=-1)
    if not normalized:
        return log_density
    total = gammaln(jnp.sum(power + 1, axis=-1))
    return log_density + (total - jnp.sum(gammaln(power + 1), axis=-1))


def weight_entropy(
    log_weights: Real[ArrayLike, "*batch K"] | list[Any],
) -> Float[Array, "*batch"]:
    r"""-sum_k pi_k log pi_k: 0 if one component has all the weight, log K if all are equal.

    Added to a loss with a small factor it is a softer cure than the Dirichlet prior; by itself its
    exponential counts the components in use. 0 log 0 is 0.

    Args:
        log_weights: `[..., K]`, normalised, as a mixture has them.

    Returns:
        `[...]`, nats.

    Example:
        >>> import jax.numpy as jnp
        >>> import mdnjax as mdn
        >>> mix = mdn.GaussianMixture.isotropic([[0.0]] * 3, [1.0] * 3, weights=[0.5, 0.5, 0.0])
        >>> print(jnp.exp(mdn.weight_entropy(mix.log_weights)))
        2.0
    """
    log_weights = as_float(log_weights)
    known = jnp.where(log_weights == -jnp.inf, 0, log_weights)
    return -jnp.sum(jnp.exp(log_weights) * known, axis=-1)
