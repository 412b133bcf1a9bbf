r"""Every component of one mixture against every component of another, in closed form.

All is done on the factors U = diag(exp(-s)) (I + R) of the precisions. The divergence of two
Gaussians, with z = U_j (mu_i - mu_j) and M = U_j U_i^{-1}, is

    KL(N_i || N_j) = sum_d (s_jd - s_id) + (|M|^2 - D + |z|^2) / 2.

The precision of a sum of two, with covariance Sigma_i + Sigma_j, is found without a covariance:
x ~ N_i and t = x + noise of N_j are jointly Gaussian, and the factor for (t, x) is

    [ U_j   -U_j ]
    [  0     U_i ],    whose coordinates are brought into the order (x, t).
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from mdnjax._saturation import bounded, clip, largest_float, product
from mdnjax._types import Array
from mdnjax.mixtures._normal import log_hypotenuse
from mdnjax.mixtures._reordering import reorder
from mdnjax.mixtures.gaussian import GaussianMixture


class Overlap(NamedTuple):
    """What N(mu_i; mu_j, Sigma_i + Sigma_j) = integral N_i N_j is made of, each `[..., I, J]`."""

    log_integral: Array
    square: Array
    """(mu_i - mu_j)^T (Sigma_i + Sigma_j)^{-1} (mu_i - mu_j)."""
    log_scale: Array
    """log det(Sigma_i + Sigma_j) / 2."""


def overlap(p: GaussianMixture, q: GaussianMixture) -> Overlap:
    """The overlaps of p's components with q's; batch shapes equal."""
    s_i, s_j = _pairwise(_log_scales(p), _log_scales(q))
    delta = _differences(p, q)
    if p.upper is None and q.upper is None:
        log_scale = log_hypotenuse(s_i, s_j)
        z = _scaled(delta, log_scale)
    else:
        dim = p.dim
        unit_i, unit_j = _pairwise(p._unit_upper(), q._unit_upper(), event=2)
        upper_half = jnp.concatenate([unit_j, -unit_j], axis=-1)
        lower_half = jnp.concatenate([jnp.zeros_like(unit_i), unit_i], axis=-1)
        joint = jnp.concatenate([upper_half, lower_half], axis=-2)
        order = (*range(dim, 2 * dim), *range(dim))
        unit, log_scale = reorder(joint, jnp.concatenate([s_j, s_i], axis=-1), order)
        unit, log_scale = unit[..., dim:, dim:], log_scale[..., dim:]
        z = _scaled(_times(unit, delta), log_scale)
    square, half_log_det = jnp.sum(z * z, axis=-1), jnp.sum(log_scale, axis=-1)
    log_integral = -0.5 * square - half_log_det - 0.5 * p.dim * math.log(2 * math.pi)
    return Overlap(log_integral, square, half_log_det)


def divergences(p: GaussianMixture, q: GaussianMixture) -> Array:
    """KL(p_i || q_j), `[..., I, J]`; batch shapes equal. Saturates where it would overflow."""
    s_i, s_j = _pairwise(_log_scales(p), _log_scales(q))
    ratio, delta = s_i - s_j, _differences(p, q)
    # M_dd^2 - 1 - log M_dd^2: nothing cancels where the scales are nearly equal.
    total = jnp.sum(jnp.expm1(bounded(2 * ratio)) / 2 - ratio, axis=-1)
    if p.upper is not None or q.upper is not None:
        unit_i, unit_j = inverse_unit(p._unit_upper()), q._unit_upper()
        unit_i, unit_j = _pairwise(unit_i, unit_j, event=2)
        m = jnp.stack([_times_row(unit_j[..., d, :], unit_i) for d in range(p.dim)], axis=-2)
        row, column = np.triu_indices(p.dim, 1)
        scale = jnp.exp(bounded(s_i[..., column] - s_j[..., row]))
        m = clip(m[..., row, column] * scale, _square_root_limit(m))
        total = total + 0.5 * jnp.sum(m * m, axis=-1)
        delta = _times(unit_j, delta)
    z = _scaled(delta, s_j)
    return total + 0.5 * jnp.sum(z * z, axis=-1)


def inverse_unit(unit: Array) -> Array:
    """(I + R)^{-1}, `[..., D, D]`, row by row from the last, saturating."""
    dim = unit.shape[-1]
    eye = lax.expand_dims(jnp.eye(dim, dtype=unit.dtype), range(unit.ndim - 2))
    rows = jnp.broadcast_to(eye[..., dim - 1 :, :], (*unit.shape[:-2], 1, dim))
    for i in range(dim - 2, -1, -1):
        row = eye[..., i, :] - _times_row(unit[..., i, i + 1 :], rows)
        rows = jnp.concatenate([row[..., None, :], rows], axis=-2)
    return rows


def _times(unit: Array, x: Array) -> Array:
    return jnp.sum(product(unit, x[..., None, :], terms=x.shape[-1]), axis=-1)


def _times_row(row: Array, matrix: Array) -> Array:
    return jnp.sum(product(row[..., :, None], matrix, terms=row.shape[-1]), axis=-2)


def _scaled(x: Array, log_scale: Array) -> Array:
    """exp(-s) x, small enough to be squared and summed."""
    return clip(x * jnp.exp(-bounded(log_scale)), _square_root_limit(x))


def _square_root_limit(x: Array) -> float:
    return math.sqrt(largest_float(x.dtype, terms=64 * x.shape[-1]))


def _log_scales(mix: GaussianMixture) -> Array:
    """Small enough to be subtracted from each other and summed."""
    s = mix._log_scales()
    return clip(s, largest_float(s.dtype, terms=16 * mix.dim))


def _differences(p: GaussianMixture, q: GaussianMixture) -> Array:
    """mu_i - mu_j, `[..., I, J, D]`."""
    mu_i, mu_j = _pairwise(p.loc, q.loc)
    return clip(mu_i - mu_j, largest_float(p.loc.dtype))


def _pairwise(of_p: Array, of_q: Array, *, event: int = 1) -> tuple[Array, Array]:
    """`[..., I, *]` and `[..., J, *]` as `[..., I, J, *]`, `event` axes following."""
    batch, rank = of_p.shape[: of_p.ndim - event - 1], of_p.ndim - event
    shape = (*batch, of_p.shape[rank - 1], of_q.shape[rank - 1], *of_p.shape[rank:])
    of_p, of_q = jnp.expand_dims(of_p, rank), jnp.expand_dims(of_q, rank - 1)
    return jnp.broadcast_to(of_p, shape), jnp.broadcast_to(of_q, shape)
