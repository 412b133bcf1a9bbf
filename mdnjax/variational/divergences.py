"""Kullback-Leibler divergences of a posterior from a prior, and priors that are mixtures."""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Float

from mdnjax._checks import require
from mdnjax._saturation import bounded, clip, largest_float
from mdnjax._types import Array, ArrayLike, Key
from mdnjax.mixtures import GaussianMixture
from mdnjax.mixtures._pairs import divergences
from mdnjax.mixtures.gradients import log_softmax
from mdnjax.mixtures.information import Estimate
from mdnjax.variational._elementwise import half_square, saturated, together
from mdnjax.variational.normal import log_normal, reparameterize


def kl_standard_normal(
    loc: Float[ArrayLike, "*#batch D"], log_scale: Float[ArrayLike, "*#batch D"]
) -> Float[Array, "*batch D"]:
    r"""KL(N(mu, sigma^2) || N(0, 1)) of each coordinate.

        (mu^2 + sigma^2 - 1) / 2 - log sigma

    The divergence of the diagonal Gaussian is the sum over D; free bits need the terms.

    Args:
        loc: mu, `[..., D]`.
        log_scale: log sigma, `[..., D]`.

    Returns:
        `[..., D]`, nats.

    Raises:
        ValueError: The shapes do not broadcast.

    Example:
        >>> import jax.numpy as jnp
        >>> from mdnjax import variational
        >>> loc, scale = jnp.array([1.0, -2.0]), jnp.array([0.5, 2.0])
        >>> print(variational.kl_standard_normal(loc, jnp.log(scale)).sum())
        3.625

    References:
        D. P. Kingma and M. Welling. "Auto-Encoding Variational Bayes." 2014, eq. 10.
    """
    loc, log_scale = together("kl_standard_normal", loc=loc, log_scale=log_scale)
    zero = jnp.zeros_like(loc)
    return _divergence(loc, log_scale, zero, zero)


def kl_normal(
    loc: Float[ArrayLike, "*#batch D"],
    log_scale: Float[ArrayLike, "*#batch D"],
    prior_loc: Float[ArrayLike, "*#batch D"],
    prior_log_scale: Float[ArrayLike, "*#batch D"],
) -> Float[Array, "*batch D"]:
    r"""KL(N(mu, sigma^2) || N(m, s^2)) of each coordinate.

        ((mu - m)^2 + sigma^2 - s^2) / (2 s^2) - log(sigma / s)

    The divergence of the diagonal Gaussians is the sum over D.

    Args:
        loc: mu, `[..., D]`.
        log_scale: log sigma, `[..., D]`.
        prior_loc: m, `[..., D]`.
        prior_log_scale: log s, `[..., D]`.

    Returns:
        `[..., D]`, nats.

    Raises:
        ValueError: The shapes do not broadcast.

    Example:
        >>> import jax.numpy as jnp
        >>> from mdnjax import variational
        >>> zero = jnp.zeros(1)
        >>> print(variational.kl_normal(zero, zero, jnp.array([2.0]), zero))
        [2.]
    """
    parts = together(
        "kl_normal",
        loc=loc,
        log_scale=log_scale,
        prior_loc=prior_loc,
        prior_log_scale=prior_log_scale,
    )
    return _divergence(*parts)


def kl_gaussian(p: GaussianMixture, q: GaussianMixture) -> Float[Array, "*batch"]:
    r"""KL(p || q) of two Gaussians of any covariance kinds: mixtures of one component.

        (tr(S^-1 Sigma) + (mu - m)^T S^-1 (mu - m) - D + log(det S / det Sigma)) / 2,

    found from the factors of the precisions, without a covariance or an inverse.

    Args:
        p: N(mu, Sigma), of batch shape `...`, with K = 1.
        q: N(m, S), of the same batch shape and dimension, with K = 1.

    Returns:
        `[...]`, nats.

    Raises:
        ValueError: There is more than one component, or shapes differ.

    Example:
        >>> import mdnjax as mdn
        >>> from mdnjax import variational
        >>> p = mdn.GaussianMixture.full([[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]])
        >>> q = mdn.GaussianMixture.isotropic([[0.0, 0.0]], [1.0])
        >>> print(variational.kl_gaussian(p, q))  # -log(1 - 0.5 ** 2) / 2
        0.14384
    """
    for name, mix in (("p", p), ("q", q)):
        require(
            mix.num_components == 1, "kl_gaussian", name, f"K = {mix.num_components}", "of K = 1"
        )
    shapes = [(*mix.batch_shape, mix.dim) for mix in (p, q)]
    require(shapes[0] == shapes[1], "kl_gaussian", "q", f"{shapes[1]}", f"of p's shape {shapes[0]}")
    return divergences(p, q)[..., 0, 0]


def kl_monte_carlo(
    key: Key,
    loc: Float[ArrayLike, "*#batch D"],
    log_scale: Float[ArrayLike, "*#batch D"],
    log_prior: Callable[[Array], Array],
    *,
    num_samples: int = 1,
) -> Estimate:
    r"""KL(q || p) for any prior with a log-density: the average of log q(z) - log p(z) over z ~ q.

    Reparameterised, so its gradient is that of the divergence on average. It has no noise where q
    and p are the same.

    Args:
        key: A random key.
        loc: Of the diagonal Gaussian q, `[..., D]`.
        log_scale: Of q, `[..., D]`.
        log_prior: Takes z `[N, ..., D]`, returns log p(z) `[N, ...]`; it need not be normalised,
            and then neither is the result.
        num_samples: N.

    Returns:
        The `Estimate`, `[...]`, nats; with one sample the standard error is NaN.

    Raises:
        ValueError: `num_samples` is below 1, or the shapes do not broadcast.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import mdnjax as mdn
        >>> from mdnjax import variational
        >>> prior = mdn.GaussianMixture.isotropic([[-2.0], [2.0]], [1.0, 1.0])
        >>> def log_prior(z):
        ...     return mdn.log_prob(prior, z)
        >>> q, key = (jnp.array([2.0]), jnp.zeros(1)), jax.random.key(0)
        >>> divergence = variational.kl_monte_carlo(key, *q, log_prior, num_samples=1000)
        >>> print(divergence.value.round(1))  # almost all of log 2
        0.7
    """
    require(num_samples >= 1, "kl_monte_carlo", "num_samples", num_samples, "at least 1")
    loc, log_scale = together("kl_monte_carlo", loc=loc, log_scale=log_scale)
    z = reparameterize(key, loc, log_scale, (num_samples,))
    terms = log_normal(z, loc, log_scale) - log_prior(z)
    error = jnp.std(terms, axis=0, ddof=1) if num_samples > 1 else jnp.full_like(terms[0], jnp.nan)
    return Estimate(jnp.mean(terms, axis=0), error / num_samples**0.5)


def aggregated_posterior(
    loc: Float[ArrayLike, "*#batch M D"],
    log_scale: Float[ArrayLike, "*#batch M D"],
    *,
    logits: Float[ArrayLike, "*#batch M"] | None = None,
) -> GaussianMixture:
    r"""The mixture sum_m pi_m q(z | u_m) of the posteriors of M inputs u_m, as a prior.

    Of all priors the posterior averaged over the data makes the bound largest. A VampPrior stands
    in for the average with that of M pseudo-inputs, which are learnt with the network: give the
    encoder's outputs for them. Every function of mixtures then holds for the prior.

    Args:
        loc: `[..., M, D]`.
        log_scale: `[..., M, D]`.
        logits: Of the weights, `[..., M]`; equal weights by default.

    Returns:
        Diagonal mixtures of M components, of batch shape `...`.

    Raises:
        ValueError: The shapes do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> import mdnjax as mdn
        >>> from mdnjax import variational
        >>> prior = variational.aggregated_posterior(jnp.zeros((500, 2)), jnp.zeros((500, 2)))
        >>> print(mdn.log_prob(prior, jnp.ones(2)))  # all the same here: -1 - log 2 pi
        -2.837877

    References:
        J. M. Tomczak and M. Welling. "VAE with a VampPrior." 2018, eq. 9.
    """
    loc, log_scale = together("aggregated_posterior", loc=loc, log_scale=log_scale)
    shape = loc.shape[:-1]
    require(len(shape) >= 1, "aggregated_posterior", "loc", f"shape {loc.shape}", "[..., M, D]")
    if logits is None:
        return GaussianMixture(
            jnp.full(shape, -math.log(shape[-1]), loc.dtype), loc, log_scale, None, "diagonal"
        )
    logits = jnp.asarray(logits, loc.dtype)
    require(
        logits.shape == shape, "aggregated_posterior", "logits", f"shape {logits.shape}", f"{shape}"
    )
    return GaussianMixture(log_softmax(logits), loc, log_scale, None, "diagonal")


def _divergence(loc: Array, log_scale: Array, prior_loc: Array, prior_log_scale: Array) -> Array:
    """(z^2 + r^2 - 1) / 2 - log r, z in the prior's scale, r the ratio of scales."""
    dim = loc.shape[-1]
    s, prior_s = saturated(log_scale, 8 * dim), saturated(prior_log_scale, 8 * dim)
    # (r^2 - 1) / 2: nothing cancels near r = 1.
    excess = 0.5 * jnp.expm1(bounded(2 * (s - prior_s)))
    excess = clip(excess, largest_float(excess.dtype, terms=8 * dim))
    return half_square(loc - prior_loc, prior_log_scale, dim) + excess - (s - prior_s)
