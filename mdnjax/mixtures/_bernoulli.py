r"""The Bernoulli likelihood from log-odds l, with its closed-form derivative.

    -log p(y) = (1 - y) softplus(l) + y softplus(-l)
              = log(1 + e^-|l|) + (1 - y) max(l, 0) + y max(-l, 0),
    d/dl      = (1 - y) sigmoid(l) - y sigmoid(-l)                      (sigmoid(l) - y),
    d/dy      = -l,

so arranged that nothing overflows and nothing cancels. One exponential and one logarithm are all of
it, and its derivative costs no more of either; autodiff of two softplus takes twice as many.
"""

import jax
import jax.numpy as jnp

from mdnjax._types import Array


@jax.custom_jvp
def bernoulli_nll(log_odds: Array, y: Array) -> Array:
    """-log p(y) `[...]` in nats, of log-odds and y of one shape and dtype."""
    softplus_of_minus = jnp.log1p(jnp.exp(-jnp.abs(log_odds)))
    likely, unlikely = jnp.maximum(log_odds, 0), jnp.maximum(-log_odds, 0)
    return softplus_of_minus + (1 - y) * likely + y * unlikely


@bernoulli_nll.defjvp
def _bernoulli_nll_jvp(primals, tangents):
    (log_odds, y), (log_odds_dot, y_dot) = primals, tangents
    yes, no = _sigmoids(log_odds)
    return bernoulli_nll(log_odds, y), ((1 - y) * yes - y * no) * log_odds_dot - log_odds * y_dot


@jax.custom_jvp
def _sigmoids(log_odds: Array) -> tuple[Array, Array]:
    """Sigmoid(l) and sigmoid(-l), of the exponential that the likelihood has already."""
    smaller = jnp.exp(-jnp.abs(log_odds))
    larger = 1 / (1 + smaller)
    smaller = smaller * larger
    is_likely = log_odds >= 0
    return jnp.where(is_likely, larger, smaller), jnp.where(is_likely, smaller, larger)


@_sigmoids.defjvp
def _sigmoids_jvp(primals, tangents):
    yes, no = _sigmoids(*primals)
    slope = yes * no * tangents[0]
    return (yes, no), (slope, -slope)
