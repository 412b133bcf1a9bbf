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

import functools
import math
from collections.abc import Callable
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
    """What one pass over the components leaves behind.

    Vectors over the dimensions are blocks `[..., 1 or D, K]`, see `_blocks`.
    """

    log_prob: Array  # [...]
    weights: Array  # [..., K], pi
    responsibilities: Array  # [..., K], gamma
    delta: list[Array]  # y - mu
    inverse_scale: list[Array]  # exp(-s); isotropic: one of [..., 1, K]
    z: list[Array]
    square: Array  # [..., K], |z|^2


def shifted_logits(logits: Array) -> Array:
    """Logits minus their maximum, so that exp cannot overflow and at least one of them is 0.

    A logit of -inf is a weight of zero. Where all are -inf nothing tells the components apart,
    and they get equal weights.
    """
    # As the lowest number -inf is still nothing beside any other logit, and less itself is 0.
    logits = jnp.maximum(logits, -_largest(logits.dtype))
    return logits - lax.stop_gradient(_fold(jnp.maximum, logits))


def log_softmax(logits: Array) -> Array:
    """Normalised log-weights, with finite derivatives at -inf."""
    shifted = shifted_logits(logits)
    log_weights = shifted - jnp.log(_fold(jnp.add, jnp.exp(shifted)))
    return jnp.where(logits == -jnp.inf, logits, log_weights)


_FEW = 8
"""Numbers that are summed one by one: on CPU a reduction over so few costs more than they do."""


def _fold(combine: Callable[[Array, Array], Array], x: Array) -> Array:
    """The sum (`jnp.add`) or the largest (`jnp.maximum`) of the components: `[..., 1]`."""
    if x.shape[-1] > _FEW:
        reduce = jnp.sum if combine is jnp.add else jnp.max
        return reduce(x, axis=-1, keepdims=True)
    return functools.reduce(combine, jnp.split(x, x.shape[-1], axis=-1))


def _clip(x: Array, limit: float) -> Array:
    return jnp.minimum(jnp.maximum(x, -limit), limit)


def _largest(dtype: jnp.dtype) -> float:
    return float(jnp.finfo(dtype).max)


def _blocks(x: Array) -> list[Array]:
    """`[..., D, K]` dimension by dimension, `[..., 1, K]` each; whole where D is large."""
    dim = x.shape[-2]
    return jnp.split(x, dim, axis=-2) if 1 < dim <= triangular.LARGEST_UNROLLED else [x]


def _sum_of_squares(x: Array) -> Array:
    """Over the dimensions: `[..., D, K]` -> `[..., K]`."""
    dim = x.shape[-2]
    if dim > _FEW:
        return jnp.sum(x * x, axis=-2)
    rows = [x[..., i, :] for i in range(dim)]
    return functools.reduce(jnp.add, [row * row for row in rows])


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
    isotropic = log_scale.shape[-2] < dim
    largest = _largest(loc.dtype)
    # |z| <= sqrt(largest / (4 D)) keeps |z|^2 summed over D dimensions a quarter of the largest.
    z_limit = math.sqrt(largest / (4 * max(dim, 64)))
    # exp(-s) is a normal number, and so is its inverse, up to here: 87 in float32.
    s_limit = float(math.floor(-math.log(float(jnp.finfo(loc.dtype).tiny))))

    log_scales = _blocks(log_scale)
    inverse_scale = [jnp.exp(-_clip(s, s_limit)) for s in log_scales]
    delta = y[..., :, None] - loc
    # One scale for all dimensions is best taken to all of them at once.
    deltas = [delta] if isotropic else _blocks(delta)
    if upper is None:
        scaled = deltas
    else:
        deltas = [_clip(d, largest) for d in deltas]
        scaled = triangular.multiply(upper, deltas)
    z = [_clip(u * r, z_limit) for u, r in zip(scaled, inverse_scale, strict=True)]

    square = functools.reduce(jnp.add, [_sum_of_squares(block) for block in z])
    repeats = dim // log_scale.shape[-2]
    log_det = repeats * functools.reduce(
        jnp.add, [jnp.sum(_clip(s, largest / (4 * dim)), axis=-2) for s in log_scales]
    )
    log_normal = -0.5 * square - (log_det + 0.5 * dim * math.log(2 * math.pi))

    # exp of the logits serves both pi and its normaliser: each exponential is taken once.
    shifted = shifted_logits(logits)
    unnormalised = jnp.exp(shifted)
    normaliser = _fold(jnp.add, unnormalised)
    log_joint = shifted + log_normal
    peak = lax.stop_gradient(_fold(jnp.maximum, log_joint))
    share = jnp.exp(log_joint - peak)
    total = _fold(jnp.add, share)
    log_prob = (peak + (jnp.log(total) - jnp.log(normaliser)))[..., 0]
    weights, gamma = unnormalised * (1 / normaliser), share * (1 / total)
    return Posterior(log_prob, weights, gamma, deltas, inverse_scale, z, square)


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
    # Small enough for a sum over the components, and over a row of R.
    limit = _largest(loc.dtype) / (8 * dim * loc.shape[-1])

    v = [_clip(gamma * r * z, limit) for z, r in zip(at.z, at.inverse_scale, strict=True)]
    if log_scale.shape[-2] < dim:
        d_log_scale = gamma * (at.square[..., None, :] - dim)
    else:
        d_log_scale = _join([gamma * (z * z - 1) for z in at.z])
    if upper is None:
        d_loc, d_upper = _join(v), None
    else:
        d_loc = _join(triangular.multiply_transposed(upper, v))
        d_upper = _join([-block for block in triangular.outer(v, at.delta)])
    d_parameters = Parameters(at.responsibilities - at.weights, d_log_scale, d_loc, d_upper)
    return d_parameters, -jnp.sum(d_loc, axis=-1) if with_y else None


def _join(blocks: list[Array]) -> Array:
    return blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks, axis=-2)


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
