"""log p(y), the responsibilities, and the loss of any head."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Shaped

from mdnjax._batching import broadcast_with
from mdnjax._types import Array, ArrayLike, as_float
from mdnjax.mixtures.gaussian import GaussianMixture, parameters
from mdnjax.mixtures.gradients import log_likelihood, posterior
from mdnjax.mixtures.heads import Head


def log_prob(
    mix: GaussianMixture, y: Shaped[ArrayLike, "*#batch D"] | list[Any]
) -> Float[Array, "*batch"]:
    r"""Log p(y) = logsumexp_k (log pi_k + log N(y | mu_k, Sigma_k)), in nats.

    The derivatives, in every parameter and in y, are the closed forms of
    `mdnjax.mixtures.gradients`; finite for all finite inputs. The log-weights are read as logits,
    so a derivative with respect to them is gamma - pi: it stays on the simplex.

    Args:
        mix: The mixtures, of batch shape `...`.
        y: `[..., D]`, promoted to the mixture's dtype. With D = 1 the last axis is still there.

    Returns:
        `[...]`, the broadcast batch shape, nats.

    Raises:
        ValueError: The last axis of `y` is not D, or the batch shapes do not broadcast.

    Example:
        >>> import mdnjax as mdn
        >>> mix = mdn.GaussianMixture.isotropic([[-1.0], [1.0]], [0.1, 0.5], weights=[0.3, 0.7])
        >>> print(mdn.log_prob(mix, [0.0]))
        -2.58247

    References:
        C. M. Bishop. "Pattern Recognition and Machine Learning." 2006, eq. 5.148.
    """
    values, y = broadcast_with("log_prob", "mix", parameters(mix), mix.batch_shape, y, mix.dim)
    return log_likelihood(values, y)


def responsibilities(
    mix: GaussianMixture, y: Shaped[ArrayLike, "*#batch D"] | list[Any]
) -> Float[Array, "*batch K"]:
    r"""gamma_k = pi_k N_k(y) / p(y): how much of y each component explains.

    Args:
        mix: The mixtures, of batch shape `...`.
        y: `[..., D]`.

    Returns:
        `[..., K]`, non-negative, summing to 1.

    Raises:
        ValueError: The last axis of `y` is not D, or the batch shapes do not broadcast.

    Example:
        >>> import mdnjax as mdn
        >>> mix = mdn.GaussianMixture.isotropic([[-1.0], [1.0]], [1.0, 1.0])
        >>> print(mdn.responsibilities(mix, [0.0]))
        [0.5 0.5]

    References:
        C. M. Bishop. "Pattern Recognition and Machine Learning." 2006, eq. 5.154.
    """
    function = "responsibilities"
    values, y = broadcast_with(function, "mix", parameters(mix), mix.batch_shape, y, mix.dim)
    return posterior(values, y).responsibilities


def nll(head: Head, raw: Any, y: Any) -> Float[Array, "*batch"]:
    """-log p(y) of the density that `raw` describes: a training loss, per example, in nats.

    Args:
        head: Any head.
        raw: `[..., head.num_outputs]`, a network's raw outputs.
        y: The targets; `[..., D]` for a `GaussianHead`.

    Returns:
        `[...]`, the broadcast batch shape, nats.

    Raises:
        ValueError: The shapes do not fit the head.

    Example:
        >>> import jax.numpy as jnp
        >>> import mdnjax as mdn
        >>> head = mdn.GaussianHead(num_components=2, dim=1)
        >>> print(mdn.nll(head, jnp.zeros((4, 6)), jnp.zeros((4, 1))))  # log(2 pi) / 2
        [0.9189 0.9189 0.9189 0.9189]
    """
    return head.nll(raw, y)


def nll_gradient(head: Head, raw: Any, y: Any) -> Float[Array, "*batch P"]:
    """D nll / d raw for every example: pi - gamma, gamma (1 - z^2), ..., the equations themselves.

    Args:
        head: Any head. For a `GaussianHead` the result is the closed form, evaluated and not
            differentiated: see `mdnjax.mixtures.gradients`.
        raw: `[..., head.num_outputs]`.
        y: The targets.

    Returns:
        `[..., head.num_outputs]` over the broadcast batch shape, nats per unit of raw output.

    Raises:
        ValueError: The shapes do not fit the head.

    Example:
        >>> import jax.numpy as jnp
        >>> import mdnjax as mdn
        >>> head = mdn.GaussianHead(num_components=1, dim=1)
        >>> print(mdn.nll_gradient(head, jnp.zeros(3), jnp.array([2.0])))  # 0, 1 - z^2, -z
        [-0. -3. -2.]

    References:
        C. M. Bishop. "Pattern Recognition and Machine Learning." 2006, eq. 5.155 to 5.157.
    """
    raw = as_float(raw)
    batch = jax.eval_shape(head.nll, raw, y).shape
    raw = jnp.broadcast_to(raw, (*batch, raw.shape[-1]))
    losses, pull_back = jax.vjp(lambda outputs: head.nll(outputs, y), raw)
    return pull_back(jnp.ones_like(losses))[0]
