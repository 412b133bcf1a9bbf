"""Lower bounds of log p(x), and what is done to them in training."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import logsumexp
from jaxtyping import Float

from mdnjax._checks import require
from mdnjax._types import Array, ArrayLike, as_float
from mdnjax.mixtures.gradients import log_softmax
from mdnjax.variational.normal import log_normal, log_standard_normal


def elbo(
    log_likelihood: Float[ArrayLike, "*batch"],
    kl: Float[ArrayLike, "*batch"],
    *,
    beta: Float[ArrayLike, ""] | float = 1.0,
) -> Float[Array, "*batch"]:
    r"""The evidence lower bound: log p(x | z) - beta KL(q(z | x) || p(z)) <= log p(x).

    Either term may be exact or a sample: log q(z | x) - log p(z) is the sampled divergence. It is a
    bound of log p(x) for beta = 1 only; beta > 1 asks for a simpler code, and beta from 0 to 1
    (`warm_up`) keeps a decoder from ignoring it.

    Args:
        log_likelihood: `[...]`, nats, with all its constants: summed over pixels.
        kl: `[...]`, nats: summed over the latent coordinates.
        beta: The weight of the divergence.

    Returns:
        `[...]`, nats.

    Raises:
        ValueError: The shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> from mdnjax import variational
        >>> print(variational.elbo(jnp.array([-80.0, -95.0]), jnp.array([22.0, 25.0])))
        [-102. -120.]

    References:
        D. P. Kingma and M. Welling. "Auto-Encoding Variational Bayes." 2014, eq. 3.
        I. Higgins et al. "beta-VAE." 2017, eq. 4.
    """
    log_likelihood, kl = as_float(log_likelihood), as_float(kl)
    # A sum over pixels or coordinates that was forgotten would go unnoticed otherwise.
    require(
        log_likelihood.shape == kl.shape,
        "elbo",
        "kl",
        f"shape {kl.shape}",
        f"of log_likelihood's shape {log_likelihood.shape}",
    )
    return log_likelihood - beta * kl


def free_bits(
    kl: Float[ArrayLike, "*batch D"], minimum: float, *, over_batch: bool = False
) -> Float[Array, "*batch"]:
    r"""sum_d max(KL_d, lambda): no coordinate gains by carrying less than lambda nats.

    Args:
        kl: Of each coordinate, `[..., D]`, nats, as `kl_standard_normal` gives it.
        minimum: lambda, nats.
        over_batch: Whether a coordinate is measured by its average over the batch (all axes but
            the last), as in the paper, or in every example for itself.

    Returns:
        `[...]`, nats; with `over_batch` the same for all examples.

    Raises:
        ValueError: `minimum` is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> from mdnjax import variational
        >>> print(variational.free_bits(jnp.array([[0.0, 3.0], [0.4, 1.0]]), 0.5))
        [3.5 1.5]

    References:
        D. P. Kingma et al. "Improved Variational Inference with Inverse Autoregressive Flow." 2016,
        appendix C.8.
    """
    require(minimum >= 0, "free_bits", "minimum", minimum, "at least 0")
    kl = as_float(kl)
    if over_batch:
        average = jnp.mean(kl, axis=range(kl.ndim - 1), keepdims=True)
        kl = jnp.broadcast_to(average, kl.shape)
    return jnp.sum(jnp.maximum(kl, minimum), axis=-1)


def warm_up(step: ArrayLike, num_steps: int) -> Float[Array, ""]:
    """Beta = (step + 1) / num_steps, up to 1: the divergence counts for more and more.

    Args:
        step: 0, 1, ...
        num_steps: After which beta is 1.

    Returns:
        beta, a number in (0, 1].

    Raises:
        ValueError: `num_steps` is below 1.

    Example:
        >>> from mdnjax import variational
        >>> print(variational.warm_up(49, 100), variational.warm_up(1000, 100))
        0.5 1.0

    References:
        S. R. Bowman et al. "Generating Sentences from a Continuous Space." 2016, section 3.1.
    """
    require(num_steps >= 1, "warm_up", "num_steps", num_steps, "at least 1")
    return jnp.minimum((as_float(step) + 1) / num_steps, 1)


def log_weights(
    z: Float[Array, "*samples D"],
    loc: Float[ArrayLike, "*#batch D"],
    log_scale: Float[ArrayLike, "*#batch D"],
    log_likelihood: Callable[[Array], Array],
    *,
    log_prior: Callable[[Array], Array] = log_standard_normal,
    path_only: bool = False,
) -> Float[Array, "*samples"]:
    r"""Log w = log p(x | z) + log p(z) - log q(z | x): what every bound here is made of.

    The average of w over z ~ q is p(x), of log w the ELBO. `iwae_bound` and `log_marginal` take
    them as they are, `dreg_bound` as a function of z with `path_only`.

    Args:
        z: Samples of q, `[*shape, ..., D]`.
        loc: Of the posterior q(z | x), `[..., D]`.
        log_scale: Of q, `[..., D]`.
        log_likelihood: Takes z, returns log p(x | z) `[*shape, ...]`, summed over pixels.
        log_prior: Takes z, returns log p(z) `[*shape, ...]`; N(0, I) by default. A mixture's is
            `lambda z: mdn.log_prob(mix, z)`.
        path_only: Whether derivatives in q are taken through z alone, as in `log_normal`.

    Returns:
        `[*shape, ...]`, nats.

    Raises:
        ValueError: The shapes do not fit.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from mdnjax import variational
        >>> def log_likelihood(z):  # p(x | z) = N(z, 1), x = 2
        ...     return variational.log_standard_normal(z - 2)
        >>> q = jnp.ones(1), jnp.log(jnp.sqrt(jnp.array([0.5])))  # the exact posterior
        >>> z = variational.reparameterize(jax.random.key(0), *q, (3,))
        >>> print(variational.log_weights(z, *q, log_likelihood).round(3))  # log p(x)
        [-2.266 -2.266 -2.266]

    References:
        Y. Burda, R. Grosse and R. Salakhutdinov. "Importance Weighted Autoencoders." 2016, eq. 8.
    """
    log_q = log_normal(z, loc, log_scale, path_only=path_only)
    return log_likelihood(z) + log_prior(z) - log_q


def iwae_bound(log_weights: Float[ArrayLike, "k *batch"]) -> Float[Array, "*batch"]:
    r"""The importance-weighted bound: log (1/k) sum_i w_i <= log p(x).

        w_i = p(x, z_i) / q(z_i | x),      z_i ~ q(z | x)

    With k = 1 it is the sampled ELBO; on average it rises with k, to log p(x).

    Args:
        log_weights: log p(x | z_i) + log p(z_i) - log q(z_i | x), `[k, ...]`, nats.

    Returns:
        `[...]`, nats.

    Raises:
        ValueError: There is no weight.

    Example:
        >>> import jax.numpy as jnp
        >>> from mdnjax import variational
        >>> print(variational.iwae_bound(jnp.log(jnp.array([1.0, 2.0, 3.0]))))  # log 2
        0.6931472

    References:
        Y. Burda, R. Grosse and R. Salakhutdinov. "Importance Weighted Autoencoders." 2016, eq. 8.
    """
    log_weights = _some("iwae_bound", "log_weights", log_weights)
    return logsumexp(log_weights, axis=0) - math.log(log_weights.shape[0])


def dreg_bound(
    weights: Callable[[Array], Array], z: Float[Array, "k *batch D"]
) -> Float[Array, "*batch"]:
    r"""`iwae_bound`, with the doubly reparameterised gradient in the posterior.

    The plain gradient of the bound in the parameters of q gets noisier the larger k is: its signal
    falls faster than its noise. This one has the same average and gets better with k,

        sum_i v_i^2 (d log w_i / d z_i) (d z_i / d phi),      v_i = w_i / sum_j w_j,

    while all else that the weights depend on, the decoder, learns sum_i v_i d log w_i as before.

    Args:
        weights: Takes z `[k, ..., D]`, returns log w `[k, ...]`, each of its own z alone: that of
            `log_weights(..., path_only=True)`. It is called twice, with equal values: compiled, the
            two are one.
        z: Samples of `reparameterize`, through which the gradient reaches q.

    Returns:
        `[...]`, nats: the value is that of `iwae_bound`.

    Raises:
        ValueError: There is no weight.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from mdnjax import variational
        >>> def log_likelihood(z):  # p(x | z) = N(z, 1), x = 2
        ...     return variational.log_standard_normal(z - 2)
        >>> def bound(loc, key):
        ...     q = loc, jnp.zeros(1)
        ...     def weights(z):
        ...         return variational.log_weights(z, *q, log_likelihood, path_only=True)
        ...     return variational.dreg_bound(weights, variational.reparameterize(key, *q, (100,)))
        >>> value, slope = jax.value_and_grad(bound)(jnp.ones(1), jax.random.key(0))
        >>> print(value.round(1))  # log p(x) = -1 - log(4 pi) / 2 = -2.27
        -2.3

    References:
        G. Tucker, D. Lawson, S. Gu and C. J. Maddison. "Doubly Reparameterized Gradient Estimators
        for Monte Carlo Objectives." 2019, eq. 8.
    """
    stopped = _some("dreg_bound", "weights", weights(lax.stop_gradient(z)))
    share = jnp.exp(log_softmax(jnp.moveaxis(lax.stop_gradient(stopped), 0, -1)))
    # Every log-weight is linear in the tangent of its own z, which so gets a second v_i.
    return iwae_bound(weights(_slowed(z, jnp.moveaxis(share, -1, 0)[..., None])))


@jax.custom_jvp
def _slowed(z: Array, factor: Array) -> Array:
    """Z, of which derivatives see `factor` times the change."""
    del factor
    return z


@_slowed.defjvp
def _slowed_jvp(primals, tangents):
    z, factor = primals
    return _slowed(z, factor), factor * tangents[0]


def _some(function: str, argument: str, log_weights: ArrayLike) -> Array:
    log_weights = as_float(log_weights)
    require(
        log_weights.ndim >= 1 and log_weights.shape[0] >= 1,
        function,
        argument,
        f"shape {log_weights.shape}",
        "[k, ...] with k >= 1",
    )
    return log_weights
