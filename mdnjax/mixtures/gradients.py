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

and, writing delta = y - mu_k and w_k = gamma_k exp(-s_k) z_k, the derivatives of E = -log p are

    dE/d logit_k = pi_k - gamma_k                                            (PRML 5.155)
    dE/d s_kd    = gamma_k (1 - z_kd^2)          isotropic: gamma_k (D - |z_k|^2)
    dE/d mu_k    = -(I + R_k)^T w_k              isotropic: gamma_k (mu_k - y) / sigma_k^2  (5.156)
    dE/d R_kij   = w_ki delta_kj                 i < j
    dE/d y       = -sum_k dE/d mu_k.

PRML (5.157) is the derivative with respect to the *activation* of the width, a = log sigma. The
lecture prints -gamma (|t - mu|^2 / sigma^3 - 1 / sigma) for it, which is the derivative with
respect to sigma, and for one dimension: multiplied by sigma = d sigma / d a, and with one 1/sigma
for each of the D dimensions, it is the gamma (D - |z|^2) above.

**Domain.** Value and derivatives are exact to rounding while |s| <= 87 (float32; 708 in float64),
|z| <= 1e18 (8e152; a little less where D > 64), and y - mu, the products R_ij delta_j,
gamma exp(-s), w and the terms of a derivative are zero or normal numbers of at most 1/(8 D K) of
the largest. Outside they are finite and straight-through: exp(-s), z, those products and terms
saturate, and the derivatives are the formulas above at the saturated values. The log-determinant
uses s itself.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mdnjax._saturation import bounded, clip, largest_float
from mdnjax._types import Array
from mdnjax.mixtures import _triangular as triangular


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Parameters:
    """A mixture as the core reads it: components on the last axis, dimension by dimension.

    So laid out, sums over the event are sums of whole vectors of components. Rows come in blocks,
    as many in each as `block_heights` says.

    On *columns* the one batch axis stands last, behind the components: whole vectors of examples.

    Attributes:
        logits: `[..., K]`; on columns `[K, B]`.
        log_scale: Blocks `[..., *, K]`, or `[*, K, B]`, of one row (isotropic) or D rows.
        loc: Blocks of D rows.
        upper: Blocks of D(D-1)/2 rows, the entries of R (full), or none.
        columns: Whether the batch axis stands last; static.
    """

    logits: Array
    log_scale: tuple[Array, ...]
    loc: tuple[Array, ...]
    upper: tuple[Array, ...]
    columns: bool = dataclasses.field(default=False, metadata={"static": True})

    # JAX rebuilds pytrees around axes and placeholders; checkers at run time must let it.
    __no_type_check__ = True

    @property
    def axis(self) -> int:
        """That of the components; of blocks, the one before it is that of the rows."""
        return -2 if self.columns else -1

    @property
    def num_components(self) -> int:
        """K."""
        return self.logits.shape[self.axis]

    @property
    def dim(self) -> int:
        """D."""
        return sum(block.shape[self.axis - 1] for block in self.loc)

    @property
    def is_isotropic(self) -> bool:
        """Whether all dimensions share one log-scale."""
        return sum(block.shape[self.axis - 1] for block in self.log_scale) < self.dim


def block_heights(
    covariance: str, dim: int, *, columns: bool = False
) -> tuple[tuple[int, ...], ...]:
    """How many rows each block has: of log-scales, of centres, and of entries of R.

    One each where that is fastest, but all together where there are so many that XLA:CPU no longer
    writes a gradient in one pass, or, as of isotropic centres in rows, one scale is for all.
    """
    num_scales = 1 if covariance == "isotropic" else dim
    num_entries = triangular.num_entries(dim) if covariance == "full" else 0
    if columns:
        is_one_each = 1 + num_scales + dim + num_entries <= _MOST_JOINED
    elif covariance == "isotropic":
        is_one_each = False
    else:
        is_one_each = dim <= (_FEW_ROWS if num_entries else triangular.LARGEST_UNROLLED)
    if is_one_each:
        return (1,) * num_scales, (1,) * dim, (1,) * num_entries
    return (num_scales,), (dim,), (num_entries,) if num_entries else ()


_FEW_ROWS, _MOST_JOINED = 3, 8
"""Dimensions (full, in rows) and arrays (on columns) that XLA:CPU joins as it computes them.

More than that it computes, and then copies.
"""


class Posterior(NamedTuple):
    """What one pass over the components leaves behind; blocks are those of the parameters."""

    log_prob: Array  # [...]
    weights: Array  # [..., K], or on columns [K, B]: pi
    responsibilities: Array  # alike: gamma
    delta: list[Array]  # blocks of y - mu
    inverse_scale: list[Array]  # blocks of exp(-s)
    z: list[Array]  # blocks, or rows of them
    square: Array  # |z|^2, as the weights


def log_softmax(logits: Array) -> Array:
    """Normalised log-weights, with finite derivatives at -inf.

    Where all logits are -inf nothing tells the components apart, and they get equal weights.
    """
    largest = lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    shifted = jnp.where(largest == -jnp.inf, jnp.zeros_like(logits), logits - largest)
    return shifted - jnp.log(jnp.sum(jnp.exp(shifted), axis=-1, keepdims=True))


_FEW_COMPONENTS, _SHORT_ROW, _MANY_COMPONENTS = 8, 32, 128
"""What XLA:CPU makes of a loop over so few, fewer than so many, or so many components.

Its compiler unrolls loops over few, and those of little work over a short row; what is left to take
in vectors then are the examples, whose numbers it has to gather from as many rows. So the largest
and the sum of few are found one by one, and the exponentials of short rows side by side.
"""

_FEW_DIMENSIONS, _FEW_NUMBERS = 8, 256
"""Summed one by one: on CPU a reduction over so few dimensions, or numbers in all, costs more."""


def _sum(x: Array, axis: int) -> Array:
    """Of the components, `[..., 1]`; one by one, since a reduction works its terms out anew."""
    if x.shape[axis] > _MANY_COMPONENTS:
        return jnp.sum(x, axis=axis, keepdims=True)
    return _add(jnp.split(x, x.shape[axis], axis=axis))


def _peak(x: Array, axis: int) -> Array:
    """The largest of the components, `[..., 1]`, for subtracting what cancels: constant."""
    if x.shape[axis] > _FEW_COMPONENTS:
        largest = jnp.max(x, axis=axis, keepdims=True)
    else:
        largest = functools.reduce(jnp.maximum, jnp.split(x, x.shape[axis], axis=axis))
    return lax.stop_gradient(largest)


def _shifted(logits: Array, peak: Array) -> Array:
    """Logits minus the largest of them, so that exp cannot overflow and at least one of them is 0.

    A logit of -inf is a weight of zero. As the lowest number it still is, beside any other, and
    where there is no other all are equal, as in `log_softmax`.
    """
    return _finite(logits) - peak


def _finite(logits: Array) -> Array:
    # A clamp, since XLA:CPU would take a maximum into a library kernel, whose maximum drops NaN.
    lowest, highest = (
        jnp.asarray(x, logits.dtype) for x in (-largest_float(logits.dtype), jnp.inf)
    )
    return lax.clamp(lowest, logits, highest)


def _exponentials(parameters: Parameters, peak: Array) -> tuple[Array, list[Array]]:
    """exp(logits - peak), `[..., K]`, and exp(-s) in blocks, s saturated."""
    logits, log_scale = parameters.logits, parameters.log_scale
    num_components = parameters.num_components
    if parameters.columns:
        return jnp.exp(_shifted(logits, peak)), [jnp.exp(-bounded(s)) for s in log_scale]
    if not _FEW_COMPONENTS < num_components < _SHORT_ROW:
        inverse_scale = [jnp.exp(-bounded(_flat(s))).reshape(s.shape) for s in log_scale]
        return jnp.exp(_shifted(logits, peak)), inverse_scale
    # In a head's raw outputs they are neighbours, and this joins nothing that was apart.
    rows = jnp.concatenate([logits[..., None, :], *log_scale], axis=-2)
    wide = _flat(rows)
    is_logit = lax.broadcasted_iota(jnp.int32, wide.shape, wide.ndim - 1) < num_components
    exponents = jnp.where(is_logit, _shifted(wide, peak), -bounded(wide))
    heights = [1, *(block.shape[-2] for block in log_scale)]
    weights, *inverse_scale = lax.split(
        jnp.exp(exponents).reshape(rows.shape), heights, axis=rows.ndim - 2
    )
    return weights[..., 0, :], inverse_scale


def _flat(rows: Array) -> Array:
    return rows.reshape(*rows.shape[:-2], rows.shape[-2] * rows.shape[-1])


def _add(terms: Iterable[Array]) -> Array:
    return functools.reduce(jnp.add, terms)


def _sum_rows(x: Array, axis: int, *, few: int = _FEW_NUMBERS) -> Array:
    """Over the dimensions: `[..., D, K]` -> `[..., K]`; one by one of so few numbers."""
    dim, num_components = x.shape[axis], x.shape[axis + 1]
    if dim > _FEW_DIMENSIONS and dim * num_components > few:
        return jnp.sum(x, axis=axis)
    return _add(jnp.squeeze(row, axis) for row in jnp.split(x, dim, axis=axis))


def _like(pattern: Sequence[Array], blocks: Sequence[Array], axis: int) -> Sequence[Array]:
    """Blocks as rows, or rows as one block, whichever `pattern` is; one row for all of them too."""
    if len(pattern) == len(blocks):
        return blocks
    if len(pattern) > 1:
        rows = triangular.rows(blocks, axis)
        return rows * (len(pattern) // len(rows))
    return [jnp.concatenate(blocks, axis=axis)]


def posterior(parameters: Parameters, y: Array, *, with_gradient: bool = False) -> Posterior:
    """Evaluates log p(y) and everything its derivatives are made of.

    Args:
        parameters: The mixtures; batch shapes equal to that of `y`.
        y: `[..., D]`, or `[D, B]`.
        with_gradient: Whether they follow. It changes no number, but what is fast.

    Returns:
        The `Posterior`.
    """
    dim, dtype = parameters.dim, parameters.logits.dtype
    components, rows = parameters.axis, parameters.axis - 1
    largest = largest_float(dtype)
    # |z| <= sqrt(largest / (4 D)) keeps |z|^2 summed over D dimensions a quarter of the largest.
    z_limit = math.sqrt(largest / (4 * max(dim, 64)))
    # exp of the logits serves both pi and its normaliser: each exponential is taken once.
    largest_logit = _peak(_finite(parameters.logits), components)
    unnormalised, inverse_scale = _exponentials(parameters, largest_logit)

    heights = [block.shape[rows] for block in parameters.loc]
    targets = lax.split(jnp.expand_dims(y, components), heights, axis=y.ndim + 1 + rows)
    delta = [t - mu for t, mu in zip(targets, parameters.loc, strict=True)]
    scaled = delta
    if parameters.upper:
        delta = [clip(block, largest) for block in delta]
        scaled = triangular.multiply(parameters.upper, delta, rows)
    by = _like(scaled, inverse_scale, rows)
    z = [clip(u * r, z_limit) for u, r in zip(scaled, by, strict=True)]

    # A sum one by one has z of many dimensions kept, which the isotropic gradient does better
    # without: of one exp(-s), z is cheap to form again.
    few = 0 if with_gradient and parameters.is_isotropic else _FEW_NUMBERS
    square = _add(_sum_rows(block * block, rows, few=few) for block in z)
    log_det = _add(_sum_rows(clip(s, largest / (4 * dim)), rows) for s in parameters.log_scale)
    repeats = dim if parameters.is_isotropic else 1
    log_normal = -0.5 * square - (repeats * log_det + 0.5 * dim * math.log(2 * math.pi))

    log_joint = _shifted(parameters.logits, largest_logit) + log_normal
    peak = _peak(log_joint, components)
    share = jnp.exp(log_joint - peak)
    # XLA keeps a quotient for all who need it, but would work out a sum anew for each of them.
    per_weight, per_share = 1 / _sum(unnormalised, components), 1 / _sum(share, components)
    # It cannot saturate here. But a clamp ends what XLA:CPU takes into a library kernel when the
    # caller sums over examples, and all of the above is no work for that kernel.
    log_prob = peak + (jnp.log(per_weight) - jnp.log(per_share))
    log_prob = clip(jnp.squeeze(log_prob, components), largest)
    weights, gamma = unnormalised * per_weight, share * per_share
    return Posterior(log_prob, weights, gamma, delta, inverse_scale, z, square)


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
        The derivatives, shaped as the parameters, and as y (or None).
    """
    dim, num_components = parameters.dim, parameters.num_components
    components, rows = parameters.axis, parameters.axis - 1
    gamma = jnp.expand_dims(at.responsibilities, rows)
    # Small enough for a sum over the components, and over a row of R.
    limit = largest_float(gamma.dtype, terms=8 * dim * num_components)

    z = _like(parameters.loc, at.z, rows)
    by = _like(z, at.inverse_scale, rows)
    w = [clip(gamma * r * x, limit) for x, r in zip(z, by, strict=True)]
    if parameters.is_isotropic:
        d_log_scale = [gamma * (jnp.expand_dims(at.square, rows) - dim)]
    else:
        d_log_scale = [gamma * (x * x - 1) for x in z]
    d_loc, d_upper = w, []
    if parameters.upper:
        d_loc = _like(w, triangular.multiply(parameters.upper, w, rows, transposed=True), rows)
        d_upper = [-block for block in triangular.outer(w, at.delta, rows)]
    d_logits = at.responsibilities - at.weights
    blocks = tuple(d_log_scale), tuple(d_loc), tuple(d_upper)
    d_parameters = Parameters(d_logits, *blocks, parameters.columns)
    if not with_y:
        return d_parameters, None
    d_y = [jnp.sum(block, axis=components) for block in d_loc]
    return d_parameters, -jnp.concatenate(d_y, axis=components)


@jax.custom_jvp
def log_likelihood(parameters: Parameters, y: Array) -> Array:
    """Log p(y) in nats, `[...]`, with the closed forms for its derivative.

    Args:
        parameters: The mixtures; batch shapes equal to that of `y`.
        y: `[..., D]`, or on columns `[D, B]`.
    """
    return posterior(parameters, y).log_prob


def _log_likelihood_jvp(primals, tangents):
    # The gradient is formed here, in the forward pass, and is all that reverse mode keeps: the
    # transpose of sum(gradient * tangent) is a product with the cotangent.
    parameters, y = primals
    at = posterior(parameters, y, with_gradient=True)
    gradients = log_prob_gradient(parameters, at, with_y=not _is_zero(tangents[1]))
    log_prob_dot = jnp.zeros_like(at.log_prob)
    # Without the derivative in y there is one leaf less on the left, and it is the last.
    leaves = zip(jax.tree.leaves(gradients), jax.tree.leaves(tangents), strict=False)
    for gradient, tangent in leaves:
        if not _is_zero(tangent):
            # All axes but those of the batch, which on columns is the last.
            rank, batch_rank = gradient.ndim, at.log_prob.ndim
            event = tuple(range(rank - 1) if parameters.columns else range(batch_rank, rank))
            log_prob_dot = log_prob_dot + jnp.sum(gradient * tangent, axis=event)
    return at.log_prob, log_prob_dot


def _is_zero(tangent) -> bool:
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


log_likelihood.defjvp(_log_likelihood_jvp, symbolic_zeros=True)
