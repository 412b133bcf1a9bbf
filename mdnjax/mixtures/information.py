"""Entropy and Kullback-Leibler divergence: estimates with error bars, bounds, an approximation."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import logsumexp
from jaxtyping import Float

from mdnjax._batching import broadcast_batch, common_batch
from mdnjax._checks import require
from mdnjax._saturation import bounded, largest_float
from mdnjax._types import Array, Key
from mdnjax.mixtures._pairs import Overlap, divergences, inverse_unit, overlap
from mdnjax.mixtures.gaussian import GaussianMixture
from mdnjax.mixtures.gradients import log_softmax
from mdnjax.mixtures.likelihood import log_prob, responsibilities
from mdnjax.mixtures.moments import mean
from mdnjax.mixtures.pathwise import reparameterize
from mdnjax.mixtures.priors import weight_entropy
from mdnjax.mixtures.sampling import sample_from_noise


class Estimate(NamedTuple):
    """A Monte Carlo estimate.

    Attributes:
        value: `[...]`, nats; unbiased.
        standard_error: `[...]`, nats, of `value`.
    """

    value: Array
    standard_error: Array


class Bounds(NamedTuple):
    """What a number lies between, for certain up to rounding.

    Attributes:
        lower: `[...]`, nats.
        upper: `[...]`, nats.
    """

    lower: Array
    upper: Array


def entropy(key: Key, mix: GaussianMixture, *, num_samples: int = 1000) -> Estimate:
    r"""H[y] = -E[log p(y)], estimated from samples with an error bar.

    With k the component that y comes from, H[y] = H[k] + H[y | k] - H[k | y], that is

        H[y] = sum_k pi_k (-log pi_k + H_k) - E[-sum_k gamma_k(y) log gamma_k(y)],

    of which only the last, a number from 0 to log K, needs samples: the estimate is exact where
    components are far apart and where K = 1, and its error does not grow with D. Samples come in
    antithetic pairs, stratified over the components; the standard error is that of collapsed
    strata, which is never too small on average, and of log K / num_samples, the most that one more
    sample could change. The derivatives of `value` are those of an unbiased estimate as well
    (implicit gradients).

    Args:
        key: A random key.
        mix: The mixtures, of batch shape `...`.
        num_samples: How many samples; rounded up to a multiple of four.

    Returns:
        The `Estimate`, `[...]`, nats.

    Raises:
        ValueError: `num_samples` is not a positive integer.

    Example:
        >>> import jax
        >>> import mdnjax as mdn
        >>> mix = mdn.GaussianMixture.isotropic([[-1.0], [1.0]], [0.1, 0.5], weights=[0.3, 0.7])
        >>> value, standard_error = jax.jit(mdn.entropy)(jax.random.key(0), mix)
        >>> print(value, standard_error < 1e-3)  # exactly 0.85196
        0.85 True

    References:
        W. G. Cochran. "Sampling Techniques." 1977, section 5A.12 (collapsed strata).
    """
    y = _stratified_pairs("entropy", key, mix, num_samples)
    gamma = responsibilities(mix[..., None, None], y)
    unknown, error = _mean_of_pairs(jnp.sum(_entropies(gamma), axis=-1))
    known = _average(mix, _gaussian_entropy(mix)) + weight_entropy(mix.log_weights)
    # What matters may be so rare that no sample shows it.
    one_more = math.log(mix.num_components) / (2 * gamma.shape[-2])
    return Estimate(known - unknown, jnp.hypot(error, one_more))


def entropy_bounds(mix: GaussianMixture) -> Bounds:
    r"""Bounds of H[y], in closed form: the best of two on either side.

    With H_i and D_ij the entropies and divergences of the components, the upper bound is the
    smaller of

        sum_i pi_i (H_i - log sum_j pi_j exp(-D_ij))         (variational; Hershey and Olsen 2007)

    and the entropy of the Gaussian with the mixture's mean and covariance, the largest that these
    allow. The first is never above sum_i pi_i (-log pi_i + H_i), the bound of Huber et al. (2008),
    which keeps of it the term j = i alone. The lower bound is the larger of

        -sum_i pi_i log sum_j pi_j N(mu_i; mu_j, Sigma_i + Sigma_j)             (Huber et al. 2008)
        sum_i pi_i (H_i - log sum_j pi_j integral sqrt(N_i N_j))       (Kolchinsky and Tracey 2017).

    Both sides are exact for K = 1, for equal components, and in the limit of components far apart.

    Args:
        mix: The mixtures, of batch shape `...`.

    Returns:
        The `Bounds`, `[...]`, nats.

    Example:
        >>> import jax
        >>> import mdnjax as mdn
        >>> mix = mdn.GaussianMixture.isotropic([[-1.0], [1.0]], [0.1, 0.5], weights=[0.3, 0.7])
        >>> lower, upper = jax.jit(mdn.entropy_bounds)(mix)  # of 0.852
        >>> print(lower, upper)
        0.84 0.85

    References:
        M. F. Huber, T. Bailey, H. Durrant-Whyte and U. D. Hanebeck. "On Entropy Approximation for
        Gaussian Mixture Random Vectors." 2008.
        J. R. Hershey and P. A. Olsen. "Approximating the Kullback Leibler Divergence Between
        Gaussian Mixture Models." 2007.
        A. Kolchinsky and B. D. Tracey. "Estimating Mixture Entropy with Pairwise Distances." 2017.
    """
    pairs, within = overlap(mix, mix), _gaussian_entropy(mix)
    variational = _average(mix, within - _log_mean(mix, -divergences(mix, mix)))
    upper = jnp.minimum(variational, _matched_entropy(mix, variational))
    jensen = _average(mix, -_log_mean(mix, pairs.log_integral))
    bhattacharyya = _average(mix, within - _log_mean(mix, _log_bhattacharyya(mix, pairs)))
    # Where both are exact, rounding must not cross them.
    return Bounds(jnp.minimum(jnp.maximum(jensen, bhattacharyya), upper), upper)


def kl_divergence(
    key: Key, p: GaussianMixture, q: GaussianMixture, *, num_samples: int = 1000
) -> Estimate:
    r"""KL(p || q) = E_p[log p(y) - log q(y)], estimated from samples of p with an error bar.

    Samples come in antithetic pairs, stratified over the components of p; the standard error is
    that of collapsed strata, which is never too small on average. Where p = q the estimate is 0
    without error. An estimate can be negative where the divergence is smaller than its error.

    Args:
        key: A random key.
        p: The mixtures sampled from, of batch shape `...`.
        q: The mixtures compared with; as many dimensions, but any number of components.
        num_samples: How many samples; rounded up to a multiple of four.

    Returns:
        The `Estimate`, over the broadcast batch shape, nats. The derivatives of `value`, in p too,
        are those of an unbiased estimate (implicit gradients).

    Raises:
        ValueError: `p` and `q` differ in dimension, their batches do not broadcast, or
            `num_samples` is not a positive integer.

    Example:
        >>> import jax
        >>> import mdnjax as mdn
        >>> p = mdn.GaussianMixture.isotropic([[0.0]], [1.0])
        >>> q = mdn.GaussianMixture.isotropic([[2.0]], [1.0])
        >>> value, standard_error = jax.jit(mdn.kl_divergence)(jax.random.key(0), p, q)
        >>> print(value)
        2.0

    References:
        W. G. Cochran. "Sampling Techniques." 1977, section 5A.12 (collapsed strata).
    """
    p, q = _together("kl_divergence", p, q)
    y = _stratified_pairs("kl_divergence", key, p, num_samples)
    return _mean_of_pairs(log_prob(p[..., None, None], y) - log_prob(q[..., None, None], y))


def kl_divergence_bounds(p: GaussianMixture, q: GaussianMixture) -> Bounds:
    r"""Bounds of KL(p || q), in closed form.

    With D_ij = KL(p_i || q_j) and t_ij = integral p_i q_j between components,

        E_p[log q] >= sum_i pi_i (-H_i + log sum_j omega_j exp(-D_ij))       (variational bound)
        E_p[log q] <= sum_i pi_i log sum_j omega_j t_ij                      (Jensen's inequality).

    With the `entropy_bounds` of p these bound the divergence (Durrieu et al. 2012). Both are
    at least 0. The upper one is the smaller of that and the variational upper bound of Hershey
    and Olsen (2007, section 8), which matches the components of p to those of q,

        sum_ij phi_ij (log(phi_ij / psi_ij) + D_ij),   sum_j phi_ij = pi_i, sum_i psi_ij = omega_j,

    phi and psi improved in turn from pi_i omega_j; it is a bound after any number of turns. It is
    exact where both are Gaussians, and 0 where p = q has components far apart. Lower bounds can be
    loose where p and q are far from each other.

    Args:
        p: The mixtures, of batch shape `...`.
        q: The mixtures compared with; as many dimensions, but any number of components.

    Returns:
        The `Bounds`, over the broadcast batch shape, nats.

    Raises:
        ValueError: `p` and `q` differ in dimension, or their batches do not broadcast.

    Example:
        >>> import jax
        >>> import mdnjax as mdn
        >>> p = mdn.GaussianMixture.isotropic([[0.0]], [1.0])
        >>> q = mdn.GaussianMixture.isotropic([[2.0]], [1.0])
        >>> lower, upper = jax.jit(mdn.kl_divergence_bounds)(p, q)  # of 2
        >>> print(lower, upper)
        0.8 2.0

    References:
        J. R. Hershey and P. A. Olsen. "Approximating the Kullback Leibler Divergence Between
        Gaussian Mixture Models." 2007.
        J.-L. Durrieu, J.-P. Thiran and F. Kelly. "Lower and Upper Bounds for Approximation of the
        Kullback-Leibler Divergence Between Gaussian Mixture Models." 2012.
    """
    p, q = _together("kl_divergence_bounds", p, q)
    divergence, entropy_of_p = divergences(p, q), entropy_bounds(p)
    least = _average(p, _log_mean(q, -divergence) - _gaussian_entropy(p))
    most = _average(p, _log_mean(q, overlap(p, q).log_integral))
    # Rounding must not cross the two, nor what they bound and 0.
    upper = jnp.minimum(-entropy_of_p.lower - least, _matched(p, q, divergence))
    upper = jnp.maximum(upper, 0)
    lower = jnp.maximum(-entropy_of_p.upper - most, 0)
    return Bounds(jnp.minimum(lower, upper), upper)


def kl_divergence_approximation(p: GaussianMixture, q: GaussianMixture) -> Float[Array, "*batch"]:
    r"""The variational approximation of KL(p || q): near it as a rule, but no bound.

        sum_i pi_i log (sum_i' pi_i' exp(-KL(p_i || p_i')) / sum_j omega_j exp(-KL(p_i || q_j)))

    is the difference of two lower bounds, of E_p[log p] and of E_p[log q]. Exact where both are
    Gaussians, 0 where p = q; differentiable, without samples.

    Args:
        p: The mixtures, of batch shape `...`.
        q: The mixtures compared with; as many dimensions, but any number of components.

    Returns:
        `[...]`, the broadcast batch shape, nats.

    Raises:
        ValueError: `p` and `q` differ in dimension, or their batches do not broadcast.

    Example:
        >>> import jax
        >>> import mdnjax as mdn
        >>> p = mdn.GaussianMixture.isotropic([[0.0]], [1.0])
        >>> q = mdn.GaussianMixture.isotropic([[2.0]], [1.0])
        >>> print(jax.jit(mdn.mixtures.kl_divergence_approximation)(p, q))
        2.0

    References:
        J. R. Hershey and P. A. Olsen. "Approximating the Kullback Leibler Divergence Between
        Gaussian Mixture Models." 2007, eq. 20.
    """
    p, q = _together("kl_divergence_approximation", p, q)
    return _average(p, _log_mean(p, -divergences(p, p)) - _log_mean(q, -divergences(p, q)))


def _stratified_pairs(function: str, key: Key, mix: GaussianMixture, num_samples: int) -> Array:
    """Samples `[..., 2, N, D]`: n = 1, ..., N in strata of the weights, and mirrored in pairs."""
    require(
        isinstance(num_samples, int) and num_samples > 0,
        function,
        "num_samples",
        repr(num_samples),
        "a positive integer",
    )
    n, dtype = 2 * math.ceil(num_samples / 4), mix.loc.dtype
    key_stratum, key_normal = jax.random.split(key)
    u = jax.random.uniform(key_stratum, (*mix.batch_shape, n), dtype)
    start = jnp.broadcast_to(jnp.arange(n, dtype=dtype), u.shape)
    u = jnp.minimum((start + u) / n, 1 - float(jnp.finfo(dtype).epsneg))  # never rounded to 1
    epsilon = jax.random.normal(key_normal, (*mix.batch_shape, n, mix.dim), dtype)
    u = jnp.concatenate([u, u], axis=-1)
    epsilon = jnp.concatenate([epsilon, -epsilon], axis=-2)
    y = reparameterize(mix, sample_from_noise(mix, u, epsilon))
    return y.reshape(*mix.batch_shape, 2, n, mix.dim)


def _mean_of_pairs(x: Array) -> Estimate:
    """The mean of `[..., 2, N]` and its error, from the differences of neighbouring strata.

    If x_n has variance v_n and mean m_n, the sum of (x_n - x_n+1)^2 over n = 1, 3, ... is on
    average that of all v_n, and of (m_n - m_n+1)^2, which is small.
    """
    x = jnp.mean(x, axis=-2)
    step = lax.stop_gradient(x[..., 0::2] - x[..., 1::2])
    largest = jnp.max(jnp.abs(step), axis=-1)
    unit = jnp.where(largest > 0, largest, 1)
    total = jnp.sum((step / unit[..., None]) ** 2, axis=-1)
    return Estimate(jnp.mean(x, axis=-1), unit * jnp.sqrt(total) / x.shape[-1])


def _entropies(probability: Array) -> Array:
    """-x log x, and 0 with slope 0 where x = 0."""
    positive = probability > 0
    return -probability * jnp.log(jnp.where(positive, probability, 1))


def _average(mix: GaussianMixture, x: Array) -> Array:
    """sum_k pi_k x_k."""
    return jnp.sum(mix.weights * x, axis=-1)


def _log_mean(mix: GaussianMixture, x: Array) -> Array:
    """Log sum_j pi_j exp(x_ij)."""
    return logsumexp(mix.log_weights[..., None, :] + x, axis=-1)


def _gaussian_entropy(mix: GaussianMixture) -> Array:
    """H_k = sum_d s_kd + D/2 (1 + log 2 pi)."""
    return jnp.sum(mix._log_scales(), axis=-1) + 0.5 * mix.dim * (1 + math.log(2 * math.pi))


def _log_bhattacharyya(mix: GaussianMixture, pairs: Overlap) -> Array:
    """Log integral sqrt(N_i N_j), `[..., K, K]`.

    It is -|z|^2 / 4 - log det((Sigma_i + Sigma_j) / 2) / 2 + log det(Sigma_i Sigma_j) / 4, with z
    and determinant of the sum as in the overlap.
    """
    half = 0.5 * jnp.sum(mix._log_scales(), axis=-1)
    log_det = pairs.log_scale - 0.5 * mix.dim * math.log(2)
    return -0.25 * pairs.square - (log_det - half[..., :, None] - half[..., None, :])


def _matched_entropy(mix: GaussianMixture, otherwise: Array) -> Array:
    """The entropy of the Gaussian with the mixture's mean and covariance.

    Or `otherwise`, where the covariance is singular to working precision.
    """
    between = (mix.loc - mean(mix)[..., None, :])[..., None]
    within = inverse_unit(mix._unit_upper()) * jnp.exp(bounded(mix._log_scales()))[..., None, :]
    used = (mix.weights > 0)[..., None, None]
    roots = jnp.where(used, jnp.concatenate([within, between], axis=-1), 0)
    # In units of its largest root a coordinate's variance is at most K (D + 1), and nothing
    # overflows; the result does not depend on them.
    unit = lax.stop_gradient(jnp.max(jnp.abs(roots), axis=(-3, -1)))
    unit = jnp.maximum(unit, float(jnp.finfo(unit.dtype).tiny))
    roots = roots / unit[..., None, :, None]
    products = jnp.matmul(roots, jnp.swapaxes(roots, -2, -1), precision=lax.Precision.HIGHEST)
    covariance = jnp.sum(mix.weights[..., None, None] * products, axis=-3)
    tolerance = 100 * mix.dim * float(jnp.finfo(unit.dtype).eps)
    is_regular = jnp.min(_pivots(lax.stop_gradient(covariance)), axis=-1) ** 2 > tolerance
    eye = jnp.broadcast_to(jnp.eye(mix.dim, dtype=unit.dtype), covariance.shape)
    pivots = _pivots(jnp.where(is_regular[..., None, None], covariance, eye))
    half_log_det = jnp.sum(jnp.log(pivots) + jnp.log(unit), axis=-1)
    entropy = half_log_det + 0.5 * mix.dim * (1 + math.log(2 * math.pi))
    return jnp.where(is_regular, entropy, otherwise)


def _pivots(matrix: Array) -> Array:
    return jnp.diagonal(jnp.linalg.cholesky(matrix), axis1=-2, axis2=-1)


_TURNS = 30
"""In which phi and psi are improved; more gain little."""


# Called outside of `jit`, a loop would be compiled anew each time.
@functools.partial(jax.jit, inline=True)
def _matched(p: GaussianMixture, q: GaussianMixture, divergence: Array) -> Array:
    """The variational upper bound of KL(p || q), from KL(p_i || q_j)."""
    # Of a weight of zero a number that is as good, so that 0 times it is 0.
    lowest = -largest_float(divergence.dtype, terms=16)
    log_pi = jnp.maximum(p.log_weights, lowest)[..., :, None]
    log_omega = jnp.maximum(q.log_weights, lowest)[..., None, :]

    def turn(log_psi, _):
        log_phi = log_pi + log_softmax(log_psi - divergence)
        shares = jnp.swapaxes(log_softmax(jnp.swapaxes(log_phi, -2, -1)), -2, -1)
        return log_omega + shares, None

    log_psi, _ = lax.scan(turn, log_pi + log_omega, length=_TURNS)
    # With the best phi for this psi, log(phi / psi) + D is the same for all j.
    per_component = logsumexp(log_psi - divergence, axis=-1)
    return -jnp.sum(_entropies(p.weights), axis=-1) - _average(p, per_component)


def _together(
    function: str, p: GaussianMixture, q: GaussianMixture
) -> tuple[GaussianMixture, GaussianMixture]:
    """Both with one batch shape."""
    require(p.dim == q.dim, function, "q", f"dimension {q.dim}", f"of p's dimension {p.dim}")
    batch = common_batch(function, ("p", "q"), p.batch_shape, q.batch_shape)
    return broadcast_batch(p, p.batch_shape, batch), broadcast_batch(q, q.batch_shape, batch)
