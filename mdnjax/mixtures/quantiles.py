r"""Distribution functions, quantiles and central intervals of one-dimensional mixtures.

With z_k = (y - mu_k) / sigma_k and h = phi / Phi, the hazard of the lower tail,

    F(y)     = sum_k pi_k Phi(z_k),
    log F(y) = logsumexp_k (log pi_k + log Phi(z_k)),    r_k = pi_k Phi(z_k) / F

and d log F is made of

    d / d logit_k = r_k - pi_k
    d / d mu_k    = -r_k h(z_k) / sigma_k
    d / d s_k     = -r_k h(z_k) z_k,                     s = log sigma
    d / d y       = -sum_k d / d mu_k = p(y) / F(y).

Nothing here underflows or is 0/0, however far y is from all components. The quantile y of q solves
F(y) = q, so dy = (dq - dF at fixed y) / p(y), which is, with gamma_k = pi_k N_k / p,

    dy/dq   = 1 / p(y)           dy/dlogit_k = -(r_k - pi_k) q / p(y)
    dy/dmu_k = gamma_k           dy/ds_k     = gamma_k (y - mu_k).

An upper tail is the lower one of the mixture reflected at zero, and q above 1/2 is 1 - q of the
upper tail, so that only the lower tail up to 1/2 is ever solved for.

As in `log_prob`, the log-weights are read as logits, and derivatives saturate at a fraction of the
largest number.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Bool, Float, Real, Shaped

from mdnjax._batching import broadcast_with
from mdnjax._checks import require
from mdnjax._saturation import bounded, clip, largest_float
from mdnjax._types import Array, ArrayLike
from mdnjax.mixtures._normal import StandardNormal, standard_normal
from mdnjax.mixtures._root import find_root, midpoint
from mdnjax.mixtures.gaussian import GaussianMixture, parameters
from mdnjax.mixtures.gradients import Parameters, log_softmax, posterior


class Interval(NamedTuple):
    """An interval for each mixture of a batch."""

    low: Float[Array, "*batch 1"]
    high: Float[Array, "*batch 1"]


def cdf(
    mix: GaussianMixture,
    y: Shaped[ArrayLike, "*#batch 1"] | list[Any],
    *,
    upper_tail: bool = False,
) -> Float[Array, "*batch"]:
    r"""F(y) = sum_k pi_k Phi((y - mu_k) / sigma_k), or 1 - F(y), of a mixture with D = 1.

    Either tail is a sum of the components' own: small probabilities are as accurate as large ones.

    Args:
        mix: The mixtures, of batch shape `...`, D = 1.
        y: `[..., 1]`, promoted to the mixture's dtype.
        upper_tail: Whether 1 - F(y) is wanted.

    Returns:
        `[...]`, the broadcast batch shape: probabilities.

    Raises:
        ValueError: D is not 1, the last axis of `y` is not 1, or the batches do not broadcast.

    Example:
        >>> import mdnjax as mdn
        >>> mix = mdn.GaussianMixture.isotropic([[-1.0], [1.0]], [0.1, 0.5], weights=[0.3, 0.7])
        >>> print(mdn.cdf(mix, [0.0]), mdn.cdf(mix, [5.0], upper_tail=True))
        0.315925 4.3546e-16
    """
    return _cdf(*_on_one_side("cdf", mix, y, upper_tail=upper_tail))


def log_cdf(
    mix: GaussianMixture,
    y: Shaped[ArrayLike, "*#batch 1"] | list[Any],
    *,
    upper_tail: bool = False,
) -> Float[Array, "*batch"]:
    r"""Log F(y) = logsumexp_k (log pi_k + log Phi(z_k)), or log(1 - F(y)), in nats.

    Accurate to rounding in both tails and also where F is nearly 1; value and derivatives are
    finite for every finite y.

    Args:
        mix: The mixtures, of batch shape `...`, D = 1.
        y: `[..., 1]`, promoted to the mixture's dtype.
        upper_tail: Whether log(1 - F(y)) is wanted.

    Returns:
        `[...]`, the broadcast batch shape, nats.

    Raises:
        ValueError: D is not 1, the last axis of `y` is not 1, or the batches do not broadcast.

    Example:
        >>> import mdnjax as mdn
        >>> mix = mdn.GaussianMixture.isotropic([[-1.0], [1.0]], [0.1, 0.5], weights=[0.3, 0.7])
        >>> print(mdn.log_cdf(mix, [-40.0]), mdn.log_cdf(mix, [40.0], upper_tail=True))
        -3367.683 -3047.632
    """
    return _log_cdf(*_on_one_side("log_cdf", mix, y, upper_tail=upper_tail))


@overload
def quantile(
    mix: GaussianMixture,
    q: Real[ArrayLike, "*#batch"] | list[Any],
    *,
    upper_tail: bool = ...,
    with_flat: Literal[False] = ...,
) -> Float[Array, "*batch 1"]: ...
@overload
def quantile(
    mix: GaussianMixture,
    q: Real[ArrayLike, "*#batch"] | list[Any],
    *,
    upper_tail: bool = ...,
    with_flat: Literal[True],
) -> tuple[Float[Array, "*batch 1"], Bool[Array, "*batch"]]: ...
def quantile(
    mix: GaussianMixture,
    q: Real[ArrayLike, "*#batch"] | list[Any],
    *,
    upper_tail: bool = False,
    with_flat: bool = False,
) -> Any:
    r"""The y with F(y) = q, or with 1 - F(y) = q, of a mixture with D = 1.

    Found by a safeguarded Newton iteration in a bracket that the components' own quantiles span.
    |F(y) - q| is at most 8 eps min(q, 1 - q) (F as computed, eps that of the dtype), or no floating
    point number lies between y and one on the other side. Where F is flat, between components far
    apart, q leaves y open: the answer is then the midpoint of all y of that backward error.

    Differentiable in q and in every parameter, in every order, by the implicit function theorem
    (the formulas stand above, in the module). 1 / p(y) saturates where p underflows.

    Args:
        mix: The mixtures, of batch shape `...`, D = 1.
        q: `[...]` or a number, probabilities. 0 and 1 give -inf and inf (swapped in the upper
            tail), with finite derivatives; so does, on hardware that takes subnormal numbers for
            zero, a q below the smallest normal number. Outside [0, 1] the result is NaN.
        upper_tail: Whether q is the probability above y, which may then be tiny.
        with_flat: Whether to say where F is flat.

    Returns:
        `[..., 1]`, the broadcast batch shape, in the units of y. With `with_flat` also a bool
        `[...]`: whether sum_k pi_k phi(z_k) <= 64 eps min(q, 1 - q), that is, whether y is open by
        about a quarter of a standard deviation of the components beside it, or more.

    Raises:
        ValueError: D is not 1, or the batches do not broadcast.

    Example:
        >>> import mdnjax as mdn
        >>> mix = mdn.GaussianMixture.isotropic([[-1.0], [1.0]], [0.1, 0.5], weights=[0.3, 0.7])
        >>> print(mdn.quantile(mix, 0.5), mdn.quantile(mix, 1e-30, upper_tail=True))
        [0.71703] [6.7166]
        >>> far = mdn.GaussianMixture.isotropic([[-1e3], [1e3]], [1.0, 1.0])
        >>> y, flat = mdn.quantile(far, 0.5, with_flat=True)
        >>> print(abs(y) < 1, flat)
        [ True] True
    """
    values, q = with_levels("quantile", "q", mix, q)
    # 1 - q is exact for q >= 1/2.
    is_upper = (q > 0.5) != upper_tail
    tail = jnp.where(q > 0.5, 1 - q, q)
    sign = jnp.where(is_upper, -1, 1).astype(q.dtype)
    y, is_flat = _lower_quantile(_reflected(values, sign[..., None, None]), tail)
    y = (sign * y)[..., None]
    return (y, is_flat) if with_flat else y


def interval(mix: GaussianMixture, level: Real[ArrayLike, "*#batch"] | list[Any]) -> Interval:
    """The central interval: as much probability below it as above it, (1 - level) / 2.

    Each end is found in its own tail. It need not be the shortest, nor hold the modes: see
    `highest_density_region`.

    Args:
        mix: The mixtures, of batch shape `...`, D = 1.
        level: `[...]` or a number in [0, 1], the probability inside.

    Returns:
        `Interval(low, high)`, each `[..., 1]`, in the units of y; differentiable as `quantile` is.

    Raises:
        ValueError: D is not 1, or the batches do not broadcast.

    Example:
        >>> import mdnjax as mdn
        >>> mix = mdn.GaussianMixture.isotropic([[-1.0], [1.0]], [0.1, 0.5], weights=[0.3, 0.7])
        >>> low, high = mdn.interval(mix, 0.9)
        >>> print(low, high)
        [-1.09675] [1.73262]
    """
    _, level = with_levels("interval", "level", mix, level)
    tail = 0.5 * (1 - level)
    return Interval(quantile(mix, tail), quantile(mix, tail, upper_tail=True))


class _LowerTail(NamedTuple):
    """F and log F at y, and what their derivatives are made of, `[..., K]`."""

    cdf: Array  # [...]
    log_cdf: Array  # [...]
    share: Array  # r
    excess: Array  # r - pi
    normal: StandardNormal
    z: Array
    inverse_scale: Array


def lower_tail(values: Parameters, y: Array) -> _LowerTail:
    """F, log F and their ingredients, for mixtures with D = 1 and y `[...]`."""
    log_weights = log_softmax(values.logits)
    weights = jnp.exp(log_weights)
    z, inverse_scale = standardized(values, y)
    normal = standard_normal(z)

    joint = log_weights + normal.log_lower
    peak = jax.lax.stop_gradient(jnp.max(joint, axis=-1, keepdims=True))
    scaled = jnp.exp(joint - peak)
    total = jnp.sum(scaled, axis=-1, keepdims=True)
    share = scaled / total

    lower = jnp.sum(weights * normal.lower, axis=-1)
    upper = jnp.sum(weights * normal.upper, axis=-1)
    is_most = lower > 0.5
    few = jnp.where(is_most, upper, 0)
    log_small = (peak + jnp.log(total))[..., 0]
    # r_k - pi_k = pi_k (Phi_k - F) / F, where F is nearly 1 by the difference of the other tails.
    excess = jnp.where(
        is_most[..., None],
        weights * (few[..., None] - normal.upper) / (1 - few[..., None]),
        share - weights,
    )
    return _LowerTail(
        jnp.where(is_most, 1 - few, lower),
        jnp.where(is_most, jnp.log1p(-few), log_small),
        share,
        excess,
        normal,
        z,
        inverse_scale,
    )


@jax.custom_jvp
def _log_cdf(values: Parameters, y: Array) -> Array:
    """Log F(y), `[...]`, with the closed forms for its derivative."""
    return lower_tail(values, y).log_cdf


@_log_cdf.defjvp
def _log_cdf_jvp(primals, tangents):
    at = lower_tail(*primals)
    dots, y_dot = tangents
    limit = _limit(at.share)
    by_z = at.share * at.normal.hazard
    by_y = jnp.minimum(by_z * at.inverse_scale, limit)
    by_log_scale = -clip(by_z * at.z, limit)
    terms = (
        at.excess * dots.logits
        + by_log_scale * dots.log_scale[0][..., 0, :]
        + by_y * (y_dot[..., None] - dots.loc[0][..., 0, :])
    )
    return at.log_cdf, jnp.sum(terms, axis=-1)


@jax.custom_jvp
def _cdf(values: Parameters, y: Array) -> Array:
    """F(y), `[...]`; dF = F d log F."""
    return lower_tail(values, y).cdf


@_cdf.defjvp
def _cdf_jvp(primals, tangents):
    _, log_dot = jax.jvp(_log_cdf, primals, tangents)
    value = _cdf(*primals)
    return value, value * log_dot


@jax.custom_jvp
@jax.jit  # called outside of `jit`, a loop would be compiled anew each time
def _lower_quantile(values: Parameters, tail: Array) -> tuple[Array, Array]:
    """The y `[...]` with F(y) = tail <= 1/2, and whether F is flat there."""
    dtype, eps = tail.dtype, float(jnp.finfo(tail.dtype).eps)
    largest = largest_float(dtype)
    weights = jnp.exp(log_softmax(values.logits))
    loc, log_scale = values.loc[0][..., 0, :], values.log_scale[0][..., 0, :]
    is_inside = (tail > 0) & (tail <= 0.5)
    goal = jnp.where(is_inside, tail, 0.5)

    # The components' own quantiles, a little apart, so that rounding cannot leave the root outside.
    own = ndtri(goal)[..., None]
    scale, slack = jnp.exp(log_scale), 1e-3 * (1 - own)
    below = clip(loc + scale * (own - slack) - 4 * eps * jnp.abs(loc), largest)
    above = clip(loc + scale * (own + slack) + 4 * eps * jnp.abs(loc), largest)
    lower = jnp.min(jnp.where(weights > 0, below, largest), axis=-1)
    upper = jnp.max(jnp.where(weights > 0, above, -largest), axis=-1)
    start = jnp.sum(weights * midpoint(below, above), axis=-1)

    def search(state: tuple[Array, Array], side: Array) -> tuple[tuple[Array, Array], Array]:
        """The root; then, where F is flat, the two ends of all y of that backward error."""
        y, active = state
        found = find_root(
            _equation(values, (1 + 8 * eps * side) * goal),
            jnp.where(side > 0, y, lower),
            jnp.where(side < 0, y, upper),
            y,
            tolerance=4 * eps,
            active=active,
        )
        steps = jnp.sum(weights * standard_normal(standardized(values, found)[0]).density, axis=-1)
        is_flat = is_inside & (steps <= 64 * eps * goal)
        return (jnp.where(side == 0, found, y), jnp.where(side == 0, is_flat, active)), found

    # One after the other, so that the loop in `find_root` is compiled once.
    everywhere = jnp.ones(goal.shape, bool)
    (y, is_flat), ends = jax.lax.scan(search, (start, everywhere), jnp.array([0, -1, 1], dtype))
    _, left, right = ends
    y = jnp.where(is_flat, midpoint(left, right), y)
    y = jnp.where(is_inside, y, jnp.where(tail == 0, -jnp.inf, jnp.nan))
    # NaN leaves no trace in comparisons.
    lost = jnp.any(jnp.isnan(loc + log_scale + weights), axis=-1)
    return jnp.where(lost, jnp.nan, y), is_flat & ~lost


def _equation(values: Parameters, goal: Array) -> Callable[[Array], tuple[Array, Array]]:
    """log(F / goal), which is more nearly linear in a tail than F is, and its slope p / F."""
    weights = jnp.exp(log_softmax(values.logits))

    def function(y: Array) -> tuple[Array, Array]:
        z, inverse_scale = standardized(values, y)
        normal = standard_normal(z)
        total = jnp.sum(weights * normal.lower, axis=-1)
        density = jnp.sum(weights * normal.density * inverse_scale, axis=-1)
        return jnp.log1p((total - goal) / goal), density / total

    return function


@_lower_quantile.defjvp
def _lower_quantile_jvp(primals, tangents) -> Any:
    values, tail = primals
    dots, tail_dot = tangents
    y, is_flat = _lower_quantile(values, tail)
    limit = _limit(values.logits)
    # At a tail of zero, the derivatives far out.
    where = jnp.where(y == -jnp.inf, -limit, y)
    at = posterior(values, where[..., None])
    gamma, delta = at.responsibilities, clip(at.delta[0][..., 0, :], limit)
    log_tail = jnp.log(jnp.where(tail > 0, tail, 1))
    per_density = jnp.exp(jnp.minimum(-at.log_prob, math.log(limit)))
    per_hazard = jnp.exp(jnp.minimum(log_tail - at.log_prob, math.log(limit)))
    terms = (
        gamma * (dots.loc[0][..., 0, :] + delta * dots.log_scale[0][..., 0, :])
        - lower_tail(values, where).excess * per_hazard[..., None] * dots.logits
    )
    y_dot = jnp.sum(terms, axis=-1) + per_density * tail_dot
    return (y, is_flat), (y_dot, np.zeros(is_flat.shape, jax.dtypes.float0))


def standardized(values: Parameters, y: Array) -> tuple[Array, Array]:
    """Returns z and 1 / sigma, `[..., K]`, saturated as in the likelihood."""
    inverse_scale = jnp.exp(-bounded(values.log_scale[0][..., 0, :]))
    z = (y[..., None] - values.loc[0][..., 0, :]) * inverse_scale
    return clip(z, math.sqrt(largest_float(z.dtype, terms=256))), inverse_scale


def _limit(x: Array) -> float:
    """Small enough for a sum over the components, `[..., K]`."""
    return largest_float(x.dtype, terms=8 * x.shape[-1])


def _reflected(values: Parameters, sign: Array | float) -> Parameters:
    return dataclasses.replace(values, loc=(sign * values.loc[0],))


def _on_one_side(
    function: str, mix: GaussianMixture, y: Any, *, upper_tail: bool
) -> tuple[Parameters, Array]:
    """The parameters and y `[...]`; for an upper tail, those of the mixture reflected."""
    require_one_dimension(function, mix)
    values, y = broadcast_with(function, "mix", parameters(mix), mix.batch_shape, y, 1)
    y = y[..., 0]
    return (_reflected(values, -1.0), -y) if upper_tail else (values, y)


def with_levels(
    function: str, name: str, mix: GaussianMixture, level: Any
) -> tuple[Parameters, Array]:
    """The parameters and the probabilities `[...]`, of one batch shape."""
    require_one_dimension(function, mix)
    batch = parameters(mix), mix.batch_shape, jnp.asarray(level)[..., None]
    values, level = broadcast_with(function, "mix", *batch, 1, argument=name)
    return values, level[..., 0]


def require_one_dimension(function: str, mix: GaussianMixture) -> None:
    """Raises `ValueError` unless D = 1."""
    require(mix.dim == 1, function, "mix", f"D = {mix.dim}", "of dimension D = 1")
