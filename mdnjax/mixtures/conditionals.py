"""The mixture of some coordinates: alone, or given the others."""

import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
from jaxtyping import Shaped

from mdnjax._batching import broadcast_with
from mdnjax._checks import require
from mdnjax._saturation import clip, largest_float, product
from mdnjax._types import Array, ArrayLike
from mdnjax.mixtures import _triangular as triangular
from mdnjax.mixtures._reordering import reorder
from mdnjax.mixtures.gaussian import GaussianMixture
from mdnjax.mixtures.gradients import log_softmax
from mdnjax.mixtures.likelihood import log_prob


def marginal(
    mix: GaussianMixture, dims: SupportsIndex | Sequence[SupportsIndex]
) -> GaussianMixture:
    r"""The mixture of some coordinates, whatever the others: p(y_a) = integral p(y_a, y_b) dy_b.

    The weights stay, and each component keeps mu_a and Sigma_aa; the covariance kind stays too. Of
    a *full* component the other coordinates are first brought before those asked for, by reversing
    arcs (see `mdnjax.mixtures._reordering`), and then left out.

    Args:
        mix: The mixtures, of batch shape `...` and dimension D.
        dims: The coordinates to keep, in the order in which the result has them; static. Negative
            ones count from the end.

    Returns:
        The mixtures of dimension `len(dims)`.

    Raises:
        ValueError: `dims` is empty, out of range, or names a coordinate twice.

    Example:
        >>> import mdnjax as mdn
        >>> mix = mdn.GaussianMixture.diagonal([[0.0, 5.0], [1.0, 6.0]], [[1.0, 2.0], [3.0, 4.0]])
        >>> last = mdn.marginal(mix, -1)
        >>> print(last.loc[:, 0], last.scale[:, 0])
        [5. 6.] [2. 4.]

    References:
        C. M. Bishop. "Pattern Recognition and Machine Learning." 2006, eq. 2.98.
    """
    keep = _coordinates("marginal", dims, mix.dim)
    if mix.covariance_kind != "full":
        return _coordinates_of(mix, keep)
    unit, log_scale = reorder(mix._unit_upper(), mix.log_scale, (*_others(keep, mix.dim), *keep))
    m = len(keep)
    return GaussianMixture(
        mix.log_weights,
        _take(mix.loc, keep),
        log_scale[..., -m:],
        triangular.pack(unit[..., -m:, -m:]),
        "full",
    )


def condition(
    mix: GaussianMixture,
    dims: SupportsIndex | Sequence[SupportsIndex],
    values: Shaped[ArrayLike, "*#batch M"] | list[Any],
) -> GaussianMixture:
    r"""The mixture of the other coordinates once some are known: p(y_a | y_b = v).

    Again a mixture, with

        log pi'_k = log pi_k + log N(v | mu_kb, Sigma_kbb) - const,    (log_softmax)
        mu'_k     = mu_ka - U_aa^{-1} U_ab (v - mu_kb),

    and U_aa as the factor of its precision, where U is the component's factor with the observed
    coordinates b brought last (see `mdnjax.mixtures._reordering`). No covariance is formed. Far
    from every component the weights are those of the nearest in standard deviations: they stay
    exact where all densities underflow.

    Args:
        mix: The mixtures, of batch shape `...` and dimension D.
        dims: The observed coordinates; static. Negative ones count from the end.
        values: `[..., len(dims)]`, what was observed, in the order of `dims`. With one coordinate
            the last axis is still there.

    Returns:
        The mixtures of the other coordinates, in ascending order, over the broadcast batch shape.

    Raises:
        ValueError: `dims` is empty, out of range, names a coordinate twice or leaves none; or
            `values` does not fit.

    Example:
        >>> import mdnjax as mdn
        >>> mix = mdn.GaussianMixture.full([[0.0, 0.0]], [[[1.0, 0.8], [0.8, 1.0]]])
        >>> given = mdn.condition(mix, 1, [2.0])
        >>> print(given.loc[0], given.scale[0])  # 0.8 * 2, sqrt(1 - 0.8 ** 2)
        [1.6] [0.6]

    References:
        C. M. Bishop. "Pattern Recognition and Machine Learning." 2006, eq. 2.96 and 2.97.
    """
    observed = _coordinates("condition", dims, mix.dim)
    free = _others(observed, mix.dim)
    require(bool(free), "condition", "dims", observed, f"fewer than all {mix.dim} coordinates")
    m = len(observed)
    mix, values = broadcast_with(
        "condition", "mix", mix, mix.batch_shape, values, m, argument="values"
    )
    loc_a, loc_b = _take(mix.loc, free), _take(mix.loc, observed)
    if mix.covariance_kind != "full":
        known, unknown = _coordinates_of(mix, observed), _coordinates_of(mix, free)
        loc, log_scale, upper = loc_a, unknown.log_scale, None
    else:
        unit, log_scale = reorder(mix._unit_upper(), mix.log_scale, (*free, *observed))
        known_upper = triangular.pack(unit[..., -m:, -m:])
        known = GaussianMixture(mix.log_weights, loc_b, log_scale[..., -m:], known_upper, "full")
        upper = triangular.pack(unit[..., :-m, :-m])
        loc = loc_a + _regression(unit[..., :-m, :], values[..., None, :] - loc_b)
        loc = clip(loc, largest_float(loc.dtype))
        log_scale = log_scale[..., :-m]
    log_joint = mix.log_weights + _component_log_probs(known, values)
    return GaussianMixture(log_softmax(log_joint), loc, log_scale, upper, mix.covariance_kind)


def _regression(unit: Array, delta: Array) -> Array:
    """-U_aa^{-1} U_ab delta `[..., A]` from rows of I + R `[..., A, D]` and `[..., B]`."""
    # Saturating, so that no sum of D terms overflows: infinity less infinity would be NaN.
    terms = 2 * unit.shape[-1]
    known = clip(delta, largest_float(delta.dtype, terms=4 * terms))
    for i in reversed(range(unit.shape[-2])):
        parts = product(unit[..., i, i + 1 :], known, terms=terms)
        known = jnp.concatenate([-jnp.sum(parts, axis=-1, keepdims=True), known], axis=-1)
    return known[..., : unit.shape[-2]]


def _component_log_probs(mix: GaussianMixture, y: Array) -> Array:
    """Log N(y | mu_k, Sigma_k), `[..., K]`: each component read as a mixture by itself."""
    alone = jax.tree.map(lambda x: jnp.expand_dims(x, len(mix.batch_shape) + 1), mix)
    alone = GaussianMixture(
        jnp.zeros_like(alone.log_weights),
        alone.loc,
        alone.log_scale,
        alone.upper,
        alone.covariance_kind,
    )
    return log_prob(alone, y[..., None, :])


def _coordinates(
    function: str, dims: SupportsIndex | Sequence[SupportsIndex], dim: int
) -> tuple[int, ...]:
    """`dims` as distinct numbers from 0 to D - 1, in their order."""
    several = dims if isinstance(dims, Sequence) else (dims,)
    given = tuple(operator.index(i) for i in several)
    in_range = all(-dim <= i < dim for i in given)
    coordinates = tuple(i % dim for i in given)
    require(
        in_range and 0 < len(given) == len(set(coordinates)),
        function,
        "dims",
        given,
        f"one or more different coordinates from {-dim} to {dim - 1}",
    )
    return coordinates


def _others(coordinates: tuple[int, ...], dim: int) -> tuple[int, ...]:
    return tuple(i for i in range(dim) if i not in coordinates)


def _take(x: Array, coordinates: tuple[int, ...]) -> Array:
    return x[..., coordinates]


def _coordinates_of(mix: GaussianMixture, coordinates: tuple[int, ...]) -> GaussianMixture:
    """The marginal of independent coordinates."""
    isotropic = mix.covariance_kind == "isotropic"
    log_scale = mix.log_scale if isotropic else _take(mix.log_scale, coordinates)
    loc = _take(mix.loc, coordinates)
    return GaussianMixture(mix.log_weights, loc, log_scale, None, mix.covariance_kind)
