"""Proper scores: how good a predictive density was, in the units of what it predicted.

A score is *proper* if nobody can expect to do better than by saying the density he believes in.
`nll` is one; the two here also know that a near miss is better than a far one, and stay finite and
readable where a density is a spike: both are E|Y - y| - E|Y - Y'| / 2, with Y and Y' drawn
from the mixture, and come to |Y - y| where it is a single point.
"""

import functools
import math
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import erf, erfc
from jaxtyping import Float, Shaped

from mdnjax._batching import broadcast_with
from mdnjax._checks import require
from mdnjax._saturation import bounded, clip, largest_float
from mdnjax._types import Array, ArrayLike, Key
from mdnjax.mixtures._normal import log_hypotenuse
from mdnjax.mixtures.gaussian import GaussianMixture
from mdnjax.mixtures.gradients import log_softmax
from mdnjax.mixtures.sampling import sample


def crps(
    mix: GaussianMixture, y: Shaped[ArrayLike, "*#batch 1"] | list[Any]
) -> Float[Array, "*batch"]:
    r"""The continuous ranked probability score, int (F(x) - [x >= y])^2 dx, in closed form.

    With A(m, s) = E|N(m, s^2)| = 2 s phi(m/s) + m (2 Phi(m/s) - 1) it is (Grimit et al., eq. 5)

        crps = sum_k pi_k A(y - mu_k, s_k) - 1/2 sum_kl pi_k pi_l A(mu_k - mu_l, s_kl),

    s_kl^2 = s_k^2 + s_l^2: a difference of large numbers where means lie far apart. Because the
    weights sum to 1 it is also a sum of positive ones, and is computed so:

        crps = sum_kl pi_k pi_l C_kl,
        C_kl = (A_k + A_l - A_kl) / 2 = int_{-inf}^y Phi_k Phi_l + int_y^inf (1-Phi_k) (1-Phi_l).

    Its derivatives are closed forms too (the log-weights are read as logits, as in `log_prob`), so
    that it can be trained on: nothing of size K^2 is kept. Finite for all finite inputs.

    Args:
        mix: The mixtures, of batch shape `...`, with D = 1.
        y: `[..., 1]`, promoted to the mixture's dtype.

    Returns:
        `[...]`, the broadcast batch shape, non-negative, in the units of y; smaller is better.

    Raises:
        ValueError: D is not 1, or the shapes do not fit.

    Example:
        >>> import mdnjax as mdn
        >>> mix = mdn.GaussianMixture.isotropic([[0.0], [-2.9], [0.9]], [0.5, 1.4, 0.7])
        >>> print(mdn.crps(mix, [0.3]))
        0.451045

    References:
        E. P. Grimit, T. Gneiting, V. J. Berrocal and N. A. Johnson. "The continuous ranked
        probability score for circular variables and its application to mesoscale forecast
        ensemble verification." 2006, eq. 5.
        T. Gneiting and A. E. Raftery. "Strictly Proper Scoring Rules, Prediction, and
        Estimation." 2007, eq. 20.
    """
    require(mix.dim == 1, "crps", "mix", f"D = {mix.dim}", "of D = 1 (energy_score has any D)")
    log_scale = mix.log_scale if mix.covariance_kind == "isotropic" else mix.log_scale[..., 0]
    values = (jnp.exp(log_softmax(mix.log_weights)), mix.loc[..., 0], log_scale)
    values, y = broadcast_with("crps", "mix", values, mix.batch_shape, y, 1)
    return _crps(*values, y)


@jax.custom_jvp
def _crps(weights: Array, loc: Array, log_scale: Array, y: Array) -> Array:
    """`[..., K]` three times and `[..., 1]` -> `[...]`."""
    return _crps_and_gradient(weights, loc, log_scale, y)[0]


@_crps.defjvp
def _crps_jvp(primals, tangents):
    value, gradient = _crps_and_gradient(*primals)
    parts = [jnp.sum(g * t, axis=-1) for g, t in zip(gradient, tangents, strict=True)]
    return value, functools.reduce(jnp.add, parts)


# Called outside of `jit`, a loop would be compiled anew each time.
@functools.partial(jax.jit, inline=True)
def _crps_and_gradient(
    weights: Array, loc: Array, log_scale: Array, y: Array
) -> tuple[Array, tuple[Array, Array, Array, Array]]:
    r"""The score and its derivatives, from dA/dm = 2 Phi(m/s) - 1 and dA/ds = 2 phi(m/s).

    d/d pi_k    = 2 sum_l pi_l C_kl
    d/d mu_k    = -pi_k (e_k + sum_l pi_l e_kl)             e = 2 Phi(m/s) - 1
    d/d log s_k = 2 pi_k s_k (phi_k - sum_l pi_l phi_kl s_k / s_kl)
    d/d y       = sum_k pi_k e_k = 2 F(y) - 1
    """
    # A scale and its inverse are normal numbers, and sums of distances finite.
    farthest = largest_float(loc.dtype, terms=8)
    # Components first, and one l after the other: whole vectors of examples, and no K^2 in memory.
    weights, loc, log_s, y = (jnp.moveaxis(x, -1, 0) for x in (weights, loc, log_scale, y))
    log_s = bounded(log_s)
    delta = clip(y - loc, farthest)
    above, below = jnp.maximum(delta, 0), jnp.maximum(-delta, 0)
    mean, excess, e, phi = _distance(delta, log_s)

    def add(sums, component):
        cost, sum_e, sum_phi = sums
        weight_l, loc_l, log_s_l, above_l, below_l, mean_l, excess_l = component
        apart = clip(loc - loc_l, farthest)
        log_s_kl = log_hypotenuse(log_s, log_s_l)
        mean_kl, excess_kl, e_kl, phi_kl = _distance(apart, log_s_kl)
        # C_kl from A = |m| + excess: what is of |m| comes without rounding in this form. It has
        # kinks that cancel, so what is differentiated again is the other one, which has none.
        both_sides = jnp.minimum(above, above_l) + jnp.minimum(below, below_l)
        c_kl = jnp.maximum(both_sides + 0.5 * ((excess + excess_l) - excess_kl), 0)
        smooth = 0.5 * ((mean + mean_l) - mean_kl)
        c_kl = lax.stop_gradient(c_kl) + (smooth - lax.stop_gradient(smooth))
        return (
            cost + weight_l * c_kl,
            sum_e + weight_l * e_kl,
            sum_phi + weight_l * phi_kl * jnp.exp(log_s - log_s_kl),
        ), None

    components = (weights, loc, log_s, above, below, mean, excess)
    none = jnp.zeros_like(delta)
    (cost, sum_e, sum_phi), _ = lax.scan(
        add, (none, none, none), tuple(x[:, None] for x in components)
    )
    gradient = (
        2 * cost,
        -weights * (e + sum_e),
        2 * weights * jnp.exp(log_s) * (phi - sum_phi),
        jnp.sum(weights * e, axis=0, keepdims=True),
    )
    d_weights, d_loc, d_log_scale, d_y = (jnp.moveaxis(x, 0, -1) for x in gradient)
    return jnp.sum(weights * cost, axis=0), (d_weights, d_loc, d_log_scale, d_y)


_SQRT_HALF = math.sqrt(0.5)
_FAR = 50.0
"""Standard deviations beyond which phi is 0 and Phi is 0 or 1, in float64 too."""


def _distance(m: Array, log_s: Array) -> tuple[Array, Array, Array, Array]:
    """A(m, s), and with t = m / s also A - |m| = 2 s (phi - |t| Phi(-|t|)), 2 Phi(t) - 1, phi."""
    s, t = jnp.exp(log_s), clip(m * jnp.exp(-log_s), _FAR)
    phi = jnp.exp(-0.5 * t * t) / math.sqrt(2 * math.pi)
    e, tail = erf(t * _SQRT_HALF), 0.5 * erfc(jnp.abs(t) * _SQRT_HALF)
    return m * e + 2 * s * phi, 2 * s * (phi - jnp.abs(t) * tail), e, phi


@overload
def energy_score(
    key: Key,
    mix: GaussianMixture,
    y: Shaped[ArrayLike, "*#batch D"] | list[Any],
    *,
    num_samples: int = ...,
    reparameterized: bool = ...,
    with_error: Literal[False] = ...,
) -> Float[Array, "*batch"]: ...
@overload
def energy_score(
    key: Key,
    mix: GaussianMixture,
    y: Shaped[ArrayLike, "*#batch D"] | list[Any],
    *,
    num_samples: int = ...,
    reparameterized: bool = ...,
    with_error: Literal[True],
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]: ...
def energy_score(
    key: Key,
    mix: GaussianMixture,
    y: Shaped[ArrayLike, "*#batch D"] | list[Any],
    *,
    num_samples: int = 512,
    reparameterized: bool = False,
    with_error: bool = False,
) -> Any:
    r"""The energy score E|Y - y| - E|Y - Y'| / 2 for any D, estimated without bias from samples.

    |.| is Euclidean: coordinates of unlike units want standardising first. For D = 1 it estimates
    `crps`. The N samples come in independent groups of n = 16; in each, the mean of |Y_i - y| less
    half the mean of |Y_i - Y_j| over all pairs is an unbiased estimate, and so is their mean,

        N var = var[|Y - y| - g(Y)] + var[h] / (2 (n - 1)),

    g(x) = E|x - Y'| and h = |Y - Y'| - g(Y) - g(Y') + E g(Y). All pairs of N would save the second,
    small term, at N/n times the cost. The spread of the groups tells the standard error.

    Args:
        key: A random key.
        mix: The mixtures, of batch shape `...`.
        y: `[..., D]`, promoted to the mixture's dtype.
        num_samples: N, drawn for each example: a multiple of 16, at least 32.
        reparameterized: As in `sample`: with it the derivatives are unbiased, in the weights too,
            and the score can be trained on.
        with_error: Whether to return the standard error too.

    Returns:
        `[...]`, the broadcast batch shape, in the units of y; smaller is better. The score is
        positive, its estimate may fall below zero by a few standard errors. `with_error`: the
        pair (score, standard error).

    Raises:
        ValueError: `num_samples` is no such number, or the shapes do not fit.

    Example:
        >>> import jax
        >>> import mdnjax as mdn
        >>> mix = mdn.GaussianMixture.isotropic([[0.0, 0.0], [3.0, 4.0]], [0.1, 0.1])
        >>> score, error = mdn.energy_score(jax.random.key(0), mix, [0.0, 0.0], with_error=True)
        >>> bool(abs(score - 1.2688) < 4 * error)  # 5/4 were these points
        True

    References:
        T. Gneiting and A. E. Raftery. "Strictly Proper Scoring Rules, Prediction, and
        Estimation." 2007, eq. 22 with beta = 1.
    """
    require(
        num_samples >= 2 * _GROUP and num_samples % _GROUP == 0,
        "energy_score",
        "num_samples",
        num_samples,
        f"a multiple of {_GROUP}, at least {2 * _GROUP}",
    )
    mix, y = broadcast_with("energy_score", "mix", mix, mix.batch_shape, y, mix.dim)
    groups = num_samples // _GROUP
    samples = sample(key, mix, (groups, _GROUP), reparameterized=reparameterized)
    # So that sums of distances are finite.
    terms = 8 * mix.dim * max(num_samples, _GROUP**2)
    samples, y = (clip(x, largest_float(y.dtype, terms=terms)) for x in (samples, y))

    to_y = jnp.sum(_norm(samples - lax.expand_dims(y, (0, 1))), axis=1)
    pairs = _sum_over_pairs(samples)
    scores = to_y / _GROUP - pairs / (_GROUP * (_GROUP - 1))
    score = jnp.mean(scores, axis=0)
    if not with_error:
        return score
    return score, jnp.std(scores, axis=0, ddof=1) / math.sqrt(groups)


_GROUP = 16


# Called outside of `jit`, a loop would be compiled anew each time.
@functools.partial(jax.jit, inline=True)
def _sum_over_pairs(samples: Array) -> Array:
    """Of groups `[G, 16, ..., D]`, the sum of |Y_i - Y_j| over the pairs i < j, `[G, ...]`."""
    # Round the circle of a group, every pair is met at one lag up to n / 2: there, from both sides.
    circle = jnp.concatenate([samples, samples], axis=1)

    def add(pairs, lag):
        others = lax.dynamic_slice_in_dim(circle, lag, _GROUP, axis=1)
        times = jnp.where(lag < _GROUP // 2, 1, 0.5).astype(samples.dtype)
        return pairs + times * jnp.sum(_norm(samples - others), axis=1), None

    none = jnp.zeros_like(samples[:, 0, ..., 0])
    return lax.scan(add, none, jnp.arange(1, _GROUP // 2 + 1))[0]


@jax.custom_jvp
def _norm(x: Array) -> Array:
    """|x| over the last axis; scaled first, so that no square over- or underflows."""
    largest = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
    by = jnp.where(largest > 0, largest, 1)
    return (by * jnp.sqrt(jnp.sum((x / by) ** 2, axis=-1, keepdims=True)))[..., 0]


@_norm.defjvp
def _norm_jvp(primals, tangents):
    """d|x| = x . dx / |x|, and 0 where x is 0: the mean over all directions."""
    (x,), (x_dot,) = primals, tangents
    norm = _norm(x)
    return norm, jnp.sum(x / jnp.where(norm > 0, norm, 1)[..., None] * x_dot, axis=-1)
