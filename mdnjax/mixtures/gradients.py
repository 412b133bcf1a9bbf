r"""The one likelihood of the house, its closed-form derivatives, and the rule that joins them.

Every covariance kind is one factorisation of the precision, U^T U with U upper triangular and an
exponential diagonal,

    U_k = diag(exp(-s_k)) (I + R_k),      z_k = U_k (y - mu_k),

with log-scales s and a strictly upper R: *full* has both, *diagonal* has R = 0, *isotropic* has
one s for all dimensions. Log-scales and shape are then separate: scaling a covariance moves s and
leaves R alone. With weights pi = softmax(logits),

    log N_k = -D/2 log 2 pi - sum_d s_kd - |z_k|^2 / 2,
    log p   = logsumexp_k (log pi_k + log N_k),
    gamma_k = pi_k N_k / p                                       (PRML 5.154, the responsibilities)

and, writing delta = y - mu_k and v_k = exp(-s_k) z_k, the derivatives of the loss E = -log p are

    dE/d logit_k = pi_k - gamma_k                                            (PRML 5.155)
    dE/d s_kd    = gamma_k (1 - z_kd^2)          isotropic: gamma_k (D - |z_k|^2)
    dE/d mu_k    = -gamma_k (I + R_k)^T v_k      isotropic: gamma_k (mu_k - y) / sigma_k^2  (5.156)
    dE/d R_kij   = gamma_k v_ki delta_kj         i < j
    dE/d y       = -sum_k dE/d mu_k.

PRML (5.157) is the derivative with respect to the *activation* of the width, a = log sigma. The
lecture prints -gamma (|t - mu|^2 / sigma^3 - 1 / sigma) for it, which is the derivative with
respect to sigma, and for one dimension: multiplied by sigma = d sigma / d a, and with one 1/sigma
for each of the D dimensions, it is the gamma (D - |z|^2) above.

**Domain.** Value and derivatives are exact to rounding while |s| <= 87 (float32; 708 in float64),
|z| <= 1e18 (8e152; a little less where D > 64), and y - mu, the products R_ij delta_j, v and the
terms of a derivative are zero or normal numbers of at most 1/(8 D) of the largest. Outside they
are finite and straight-through: exp(-s), z, those products and terms saturate, and the derivatives
are the formulas above at the saturated values. The log-determinant uses s itself.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mdnjax._types import Array
from mdnjax.mixtures import _triangular as triangular


class Parameters(NamedTuple):
    """A mixture as the core reads it: components on the last axis, dimension by dimension.

    So laid out, sums over the event are sums of whole vectors of components.

    Attributes:
        logits: `[..., K]`.
        log_scale: `[..., 1, K]` (isotropic) or `[..., D, K]`.
        loc: `[..., D, K]`.
        upper: `[..., D(D-1)/2, K]`, the entries of R (full), or None.
    """

    logits: Array
    log_scale: Array
    loc: Array
    upper: Array | None


class Posterior(NamedTuple):
    """What one pass over the components leaves behind."""

    log_prob: Array  # [...]
    weights: Array  # [..., K], pi
    responsibilities: Array  # [..., K], gamma
    delta: Array  # [..., D, K], y - mu
    inverse_scale: Array  # [..., 1 or D, K], exp(-s)
    z: Array  # [..., D, K]


def shifted_logits(logits: Array) -> Array:
    """Logits minus their maximum, so that exp cannot overflow and at least one of them is 0.

    A logit of -inf is a weight of zero. Where all are -inf nothing tells the components apart,
    and they get equal weights.
    """
    largest = lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    return jnp.where(largest == -jnp.inf, jnp.zeros_like(logits), logits - largest)


def log_softmax(logits: Array) -> Array:
    """Normalised log-weights, with finite derivatives at -inf."""
    shifted = shifted_logits(logits)
    return shifted - jnp.log(jnp.sum(jnp.exp(shifted), axis=-1, keepdims=True))


def _clip(x: Array, limit: float) -> Array:
    return jnp.clip(x, -limit, limit)


def _largest(dtype: jnp.dtype) -> float:
    return float(jnp.finfo(dtype).max)


def posterior(parameters: Parameters, y: Array) -> Posterior:
    """Evaluates log p(y) and everything its derivatives are made of.

    Args:
        parameters: The mixtures; batch shapes equal to that of `y`.
        y: `[..., D]`.

    Returns:
        The `Posterior`.
    """
    logits, log_scale, loc, upper = parameters
    dim = loc.shape[-2]
    largest = _largest(loc.dtype)
    # |z| <= sqrt(largest / (4 D)) keeps |z|^2 summed over D dimensions a quarter of the largest.
    z_limit = math.sqrt(largest / (4 * max(dim, 64)))
    # exp(-s) is a normal number, and so is its inverse, up to here: 87 in float32.
    s_limit = float(math.floor(-math.log(float(jnp.finfo(loc.dtype).tiny))))

    inverse_scale = jnp.exp(-_clip(log_scale, s_limit))
    delta = y[..., :, None] - loc
    if upper is None:
        z = _clip(delta * inverse_scale, z_limit)
    else:
        delta = _clip(delta, largest)
        z = _clip(triangular.multiply(upper, delta) * inverse_scale, z_limit)

    repeats = dim // log_scale.shape[-2]
    log_det = repeats * jnp.sum(_clip(log_scale, largest / (4 * dim)), axis=-2)
    log_normal = -0.5 * jnp.sum(z * z, axis=-2) - (log_det + 0.5 * dim * math.log(2 * math.pi))

    # exp of the logits serves both pi and its normaliser: each exponential is taken once.
    shifted = shifted_logits(logits)
    unnormalised = jnp.exp(shifted)
    normaliser = jnp.sum(unnormalised, axis=-1, keepdims=True)
    log_joint = shifted + log_normal
    peak = lax.stop_gradient(jnp.max(log_joint, axis=-1, keepdims=True))
    share = jnp.exp(log_joint - peak)
    total = jnp.sum(share, axis=-1, keepdims=True)
    log_prob = (peak + (jnp.log(total) - jnp.log(normaliser)))[..., 0]
    return Posterior(log_prob, unnormalised / normaliser, share / total, delta, inverse_scale, z)


def log_prob_gradient(
    parameters: Parameters, at: Posterior, *, with_y: bool
) -> tuple[Parameters, Array | None]:
    """The closed forms: d log p / d parameters and d log p / d y.

    These are -1 times the equations of the module's docstring, which are those of the loss.

    Args:
        parameters: The mixtures.
        at: Their `posterior` at y.
        with_y: Whether the derivative with respect to y is wanted.

    Returns:
        The derivatives, shaped as the parameters, and `[..., D]` (or None).
    """
    _, log_scale, loc, upper = parameters
    gamma = at.responsibilities[..., None, :]
    dim = loc.shape[-2]
    limit = _largest(loc.dtype) / (8 * dim)

    v = _clip(at.z * at.inverse_scale, limit)
    squares = at.z * at.z
    if log_scale.shape[-2] < dim:
        d_log_scale = gamma * (jnp.sum(squares, axis=-2, keepdims=True) - dim)
    else:
        d_log_scale = gamma * (squares - 1)
    if upper is None:
        d_loc, d_upper = gamma * v, None
    else:
        d_loc = gamma * triangular.multiply_transposed(upper, v)
        d_upper = -gamma * triangular.outer(v, at.delta)
    d_parameters = Parameters(at.responsibilities - at.weights, d_log_scale, d_loc, d_upper)
    return d_parameters, -jnp.sum(d_loc, axis=-1) if with_y else None


@jax.custom_jvp
def log_likelihood(parameters: Parameters, y: Array) -> Array:
    """Log p(y) in nats, `[...]`, with the closed forms for its derivative.

    Args:
        parameters: The mixtures; batch shapes equal to that of `y`.
        y: `[..., D]`.
    """
    return posterior(parameters, y).log_prob


def _log_likelihood_jvp(primals, tangents):
    # The gradient is formed here, in the forward pass, and is all that reverse mode keeps: the
    # transpose of sum(gradient * tangent) is a product with the cotangent.
    parameters, y = primals
    at = posterior(parameters, y)
    gradients = log_prob_gradient(parameters, at, with_y=not _is_zero(tangents[1]))
    log_prob_dot = jnp.zeros_like(at.log_prob)
    # Without the derivative in y there is one leaf less on the left, and it is the last.
    leaves = zip(jax.tree.leaves(gradients), jax.tree.leaves(tangents), strict=False)
    for gradient, tangent in leaves:
        if not _is_zero(tangent):
            event = tuple(range(at.log_prob.ndim, gradient.ndim))
            log_prob_dot = log_prob_dot + jnp.sum(gradient * tangent, axis=event)
    return at.log_prob, log_prob_dot


def _is_zero(tangent) -> bool:
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


log_likelihood.defjvp(_log_likelihood_jvp, symbolic_zeros=True)
