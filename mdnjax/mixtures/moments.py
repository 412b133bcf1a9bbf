"""Mean, variance and covariance of a mixture, and its most probable component."""

import jax.numpy as jnp
from jaxtyping import Float

from mdnjax._types import Array
from mdnjax.mixtures.gaussian import GaussianMixture


def mean(mix: GaussianMixture) -> Float[Array, "*batch D"]:
    r"""E[y] = sum_k pi_k mu_k.

    Args:
        mix: The mixtures, of batch shape `...`.

    Returns:
        `[..., D]`, in the units of y.

    Example:
        >>> import mdnjax as mdn
        >>> mix = mdn.GaussianMixture.isotropic([[-1.0], [1.0]], [0.1, 0.5], weights=[0.3, 0.7])
        >>> print(mdn.mean(mix))
        [0.4]

    References:
        C. M. Bishop. "Pattern Recognition and Machine Learning." 2006, eq. 5.158.
    """
    return jnp.sum(mix.weights[..., None] * mix.loc, axis=-2)


def variance(mix: GaussianMixture) -> Float[Array, "*batch D"]:
    r"""var[y_d] = sum_k pi_k (Sigma_k,dd + (mu_kd - E[y_d])^2), the law of total variance.

    Summed over d, for isotropic components, it is sum_k pi_k (D sigma_k^2 + |mu_k - E[y]|^2). The
    lecture prints that without the D (as does PRML 5.160, where the target is one number).

    Args:
        mix: The mixtures, of batch shape `...`.

    Returns:
        `[..., D]`, one variance a coordinate, in squared units of y.

    Example:
        >>> import mdnjax as mdn
        >>> mix = mdn.GaussianMixture.isotropic([[-1.0], [1.0]], [0.1, 0.5], weights=[0.3, 0.7])
        >>> print(mdn.variance(mix))
        [1.018]

    References:
        C. M. Bishop. "Pattern Recognition and Machine Learning." 2006, eq. 5.160.
    """
    within = jnp.diagonal(mix.component_covariances, axis1=-2, axis2=-1)
    between = mix.loc - mean(mix)[..., None, :]
    return jnp.sum(mix.weights[..., None] * (within + between**2), axis=-2)


def covariance(mix: GaussianMixture) -> Float[Array, "*batch D D"]:
    r"""cov[y] = sum_k pi_k (Sigma_k + (mu_k - E[y]) (mu_k - E[y])^T).

    Args:
        mix: The mixtures, of batch shape `...`.

    Returns:
        `[..., D, D]`, in squared units of y.

    Example:
        >>> import mdnjax as mdn
        >>> mix = mdn.GaussianMixture.isotropic([[-1.0, 0.0], [1.0, 0.0]], [1.0, 1.0])
        >>> print(mdn.covariance(mix))
        [[2. 0.]
         [0. 1.]]
    """
    between = mix.loc - mean(mix)[..., None, :]
    outer = between[..., :, None] * between[..., None, :]
    return jnp.sum(mix.weights[..., None, None] * (mix.component_covariances + outer), axis=-3)


def most_probable(mix: GaussianMixture) -> Float[Array, "*batch D"]:
    """The mean of the component of largest weight (the first of them, where weights tie).

    Bishop's quick answer to "which y?"; it is a mode only where components do not overlap.

    Args:
        mix: The mixtures, of batch shape `...`.

    Returns:
        `[..., D]`, in the units of y.

    Example:
        >>> import mdnjax as mdn
        >>> mix = mdn.GaussianMixture.isotropic([[-1.0], [1.0]], [0.1, 0.5], weights=[0.3, 0.7])
        >>> print(mdn.most_probable(mix))
        [1.]
    """
    best = jnp.argmax(mix.log_weights, axis=-1)
    loc = jnp.take_along_axis(mix.loc, best[..., None, None], axis=-2)[..., 0, :]
    # NaN passes for the largest of all, but its component's mean may well be a number.
    lost = jnp.isnan(jnp.max(mix.log_weights, axis=-1, keepdims=True))
    return jnp.where(lost, jnp.nan, loc)
