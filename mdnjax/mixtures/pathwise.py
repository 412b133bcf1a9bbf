r"""How samples move with the parameters of the mixture they come from: implicit gradients.

A sample is made of uniform numbers by the inverse of Rosenblatt's map, from the last coordinate to
the first,

    F_d(y) = sum_k w_kd Phi(z_kd),             w_kd ~ pi_k prod_{j>d} N(z_kj) / sigma_kj,

with z_k = U_k (y - mu_k), as the mixture stores it: since U is upper triangular, z_kd depends on
y_d and the coordinates after it, and is standard normal, given them, under component k. How the
sample was in truth drawn does not matter: the derivative that keeps F(y; theta) constant,

    dy = -(dF/dy)^{-1} (dF/dtheta) dtheta,

makes d E[f(y)] = E[f'(y) dy] for any smooth f (Figurnov et al. 2018, eq. 5; Graves 2016 for
mixtures). It needs no solver: with u_k = (I + R_k) delta_k, delta_k = y - mu_k, sigma = exp(s),
p_d = sum_k w_kd N(z_kd) / sigma_kd and gamma_kd = w_kd N(z_kd) / sigma_kd / p_d, one coordinate
after the other, from the last,

    dy_d = -sum_k gamma_kd (du_kd - u_kd ds_kd) - sum_k c_kd dl_kd,      du_kd with y_d held fixed,
    c_kd = w_kd (Phi(z_kd) - F_d) / p_d,
    dl_kd = dlog pi_k + sum_{j>d} ((z_kj^2 - 1) ds_kj - z_kj du_kj / sigma_kj).

Weight that moves between components moves samples through the gap between them, by 1 / p_d: of
components far apart the derivatives in the weights, and those of a coordinate in the parameters of
the ones after it, have heavy tails. They have no bias, but there the score, f(y) dlog p(y), varies
less.

References:
    M. Figurnov, S. Mohamed and A. Mnih. "Implicit Reparameterization Gradients." 2018.
    A. Graves. "Stochastic Backpropagation through Mixture Density Distributions." 2016.
    M. Rosenblatt. "Remarks on a Multivariate Transformation." 1952.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import logsumexp

from mdnjax._saturation import bounded, clip, largest_float, log_limit, product
from mdnjax._types import Array
from mdnjax.mixtures._normal import standard_normal
from mdnjax.mixtures.gaussian import GaussianMixture
from mdnjax.mixtures.gradients import log_softmax


class _Mixture(NamedTuple):
    """A mixture with its coordinates first, an axis for the samples, and its components last."""

    log_weights: Array  # [..., 1, K]
    loc: Array  # [..., D, 1, K]
    log_scale: Array  # [..., D, 1, K]
    unit: Array | None  # [..., D, D, 1, K]: I + R, if R is not zero


def reparameterize(mix: GaussianMixture, y: Array) -> Array:
    r"""The samples as they are, now with a derivative in the parameters of their mixture.

    It is that of the module's docstring: in loc, scales, R and the log-weights, which are read as
    logits. The derivatives of the derivative are right too, since the rule moves the samples at
    which it stands.

    Where a sample lies in a gap of p_d, less dense than its tails by e^44 (float32; e^354 in
    float64), the derivative in the weights saturates: there, moving weight moves samples very far.

    Args:
        mix: The mixtures, of batch shape `...`.
        y: `[..., N, D]`, samples of these.

    Returns:
        `[..., N, D]`.
    """
    parts = _Mixture(
        mix.log_weights[..., None, :],
        jnp.swapaxes(mix.loc, -2, -1)[..., None, :],
        jnp.swapaxes(mix._log_scales(), -2, -1)[..., None, :],
        None if mix.upper is None else jnp.moveaxis(mix._unit_upper(), -3, -1)[..., None, :],
    )
    return _moving(parts, lax.stop_gradient(y))


@jax.custom_jvp
def _moving(mix: _Mixture, y: Array) -> Array:
    del mix
    return y


@_moving.defjvp
def _moving_jvp(primals, tangents):
    mix, y = primals
    d_mix, _ = tangents
    y = _moving(mix, y)  # so that the derivatives of what follows see it move
    largest = largest_float(y.dtype)
    at = jnp.swapaxes(y, -2, -1)[..., None]

    delta = clip(at - mix.loc, largest)
    u = _times(mix.unit, delta)
    log_scale = clip(mix.log_scale, largest / 16)
    inverse_scale = jnp.exp(-bounded(log_scale))
    # No component that makes a sample is so far from it; of these powers, c z^2 and c z / sigma
    # are numbers.
    z = clip(u * inverse_scale, largest**0.2)

    log_normal = -0.5 * z * z - log_scale - 0.5 * math.log(2 * math.pi)
    log_joint = mix.log_weights[..., None, :, :] + _sums_of_later(log_normal)
    log_w = log_softmax(log_joint)
    log_p = logsumexp(log_w + log_normal, axis=-1, keepdims=True)
    gamma = jnp.exp(log_w + log_normal - log_p)
    # Phi - F from the smaller tail, in which nothing cancels; 1 - Phi is the other tail.
    most = 0.5 * log_limit(y.dtype)
    below, above = (
        jnp.exp(jnp.minimum(log_w + standard_normal(x).log_lower - log_p, most)) for x in (z, -z)
    )
    all_below, all_above = (jnp.sum(x, axis=-1, keepdims=True) for x in (below, above))
    is_lower, w = all_below < all_above, jnp.exp(log_w)
    c = jnp.where(is_lower, below - w * all_below, w * all_above - above)

    # What has no part in any coordinate is left out by name: it may be so far that 0 times its
    # derivative overflows.
    takes_part = jnp.any((gamma != 0) | (c != 0), axis=-3, keepdims=True)
    delta, u, by_log_scale, by_u = (
        jnp.where(takes_part, x, 0)
        for x in (delta, u, z * z - 1, clip(z * inverse_scale, largest**0.45))
    )
    du = -d_mix.loc if mix.unit is None else -jnp.sum(mix.unit * d_mix.loc[..., None, :, :, :], -3)
    if mix.unit is not None:
        du = du + jnp.sum(d_mix.unit * delta[..., None, :, :, :], axis=-3)
    d_log_joint, dy = d_mix.log_weights, []
    for d in reversed(range(y.shape[-1])):
        du_d, ds_d = du[..., d, :, :], d_mix.log_scale[..., d, :, :]
        if mix.unit is not None:
            for j, dy_j in enumerate(dy, start=d + 1):
                du_d = du_d + mix.unit[..., d, j, :, :] * dy_j
        within = gamma[..., d, :, :] * (du_d - u[..., d, :, :] * ds_d)
        between = c[..., d, :, :] * d_log_joint
        dy_d = -jnp.sum(within + between, axis=-1, keepdims=True)
        d_log_joint = d_log_joint + by_log_scale[..., d, :, :] * ds_d
        d_log_joint = d_log_joint - by_u[..., d, :, :] * (du_d + dy_d)
        dy.insert(0, dy_d)
    return y, jnp.concatenate(dy, axis=-1)


def _times(unit: Array | None, x: Array) -> Array:
    """(I + R) x, saturating."""
    if unit is None:
        return x
    return jnp.sum(product(unit, x[..., None, :, :, :], terms=x.shape[-3]), axis=-3)


def _sums_of_later(x: Array) -> Array:
    """Of each coordinate, the sum over those after it: `[..., D, N, K]`."""
    later = jnp.flip(jnp.cumsum(jnp.flip(x, -3), axis=-3), -3)
    return jnp.concatenate([later[..., 1:, :, :], jnp.zeros_like(x[..., :1, :, :])], axis=-3)
