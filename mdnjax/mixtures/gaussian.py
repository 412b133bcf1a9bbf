"""The Gaussian mixture as a pytree, its constructors, and how to sharpen one."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import solve_triangular
from jaxtyping import Real

from mdnjax._checks import require
from mdnjax._types import Array, ArrayLike, Shape, as_float
from mdnjax.mixtures import _triangular as triangular
from mdnjax.mixtures.gradients import Parameters, block_heights, log_softmax

CovarianceKind: TypeAlias = Literal["isotropic", "diagonal", "full"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class GaussianMixture:
    r"""A batch of Gaussian mixtures, p(y) = sum_k pi_k N(y | mu_k, Sigma_k).

    Each component's precision is U^T U with U = diag(exp(-log_scale)) (I + R), R strictly upper;
    what is kept is what is stable: log-weights, log-scales and R. *Diagonal* has R = 0; *isotropic*
    has one log-scale for all dimensions.

    For D = 2 the map to Graves' (2013) parameters is: sigma_2 = exp(s_2),
    sigma_1^2 = exp(2 s_1) + R_12^2 sigma_2^2, rho = -R_12 sigma_2 / sigma_1. exp(s_1) is the
    standard deviation of the first coordinate once the second is known.

    Build one with `isotropic`, `diagonal` or `full`, or from a network's raw outputs with
    `GaussianHead.mixture`. The fields are not checked here, so that a mixture passes untouched
    through `jit`, `vmap`, `grad`, `scan`, `eval_shape` and `shard_map`.

    Attributes:
        log_weights: `[..., K]`, normalised: logsumexp is 0. -inf is a weight of zero.
        loc: `[..., K, D]`, the component means.
        log_scale: `[..., K]` (isotropic) or `[..., K, D]`.
        upper: `[..., K, D(D-1)/2]`, the entries of R row by row (full), or None.
        covariance_kind: "isotropic", "diagonal" or "full"; static.

    Example:
        >>> import mdnjax as mdn
        >>> mix = mdn.GaussianMixture.isotropic(loc=[[-1.0], [1.0]], scale=[0.1, 0.5])
        >>> mix.batch_shape, mix.num_components, mix.dim
        ((), 2, 1)
    """

    log_weights: Array
    loc: Array
    log_scale: Array
    upper: Array | None
    covariance_kind: CovarianceKind = dataclasses.field(metadata={"static": True})

    # JAX rebuilds pytrees around shapes, axes and placeholders; checkers at run time must let it.
    __no_type_check__ = True

    @classmethod
    def isotropic(
        cls,
        loc: Real[ArrayLike, "*#batch K D"] | list[Any],
        scale: Real[ArrayLike, "*#batch K"] | list[Any],
        *,
        weights: Real[ArrayLike, "*#batch K"] | list[Any] | None = None,
        logits: Real[ArrayLike, "*#batch K"] | list[Any] | None = None,
    ) -> "GaussianMixture":
        """A mixture whose components are spheres.

        Args:
            loc: `[..., K, D]`, component means.
            scale: `[..., K]`, standard deviations, positive.
            weights: `[..., K]`, non-negative; normalised here. Equal by default.
            logits: `[..., K]`, unnormalised log-weights, instead of `weights`.

        Returns:
            The mixture; batch shapes are broadcast.

        Raises:
            ValueError: The shapes do not fit, or both `weights` and `logits` are given.
        """
        where = "GaussianMixture.isotropic"
        loc, scale, log_weights = _arrays(where, loc, scale, 1, weights, logits)
        return cls(log_weights, loc, jnp.log(scale), None, "isotropic")

    @classmethod
    def diagonal(
        cls,
        loc: Real[ArrayLike, "*#batch K D"] | list[Any],
        scale: Real[ArrayLike, "*#batch K D"] | list[Any],
        *,
        weights: Real[ArrayLike, "*#batch K"] | list[Any] | None = None,
        logits: Real[ArrayLike, "*#batch K"] | list[Any] | None = None,
    ) -> "GaussianMixture":
        """A mixture whose components are axis-aligned ellipsoids.

        Args:
            loc: `[..., K, D]`, component means.
            scale: `[..., K, D]`, standard deviations, positive.
            weights: As in `isotropic`.
            logits: As in `isotropic`.

        Returns:
            The mixture; batch shapes are broadcast.

        Raises:
            ValueError: The shapes do not fit, or both `weights` and `logits` are given.
        """
        where = "GaussianMixture.diagonal"
        loc, scale, log_weights = _arrays(where, loc, scale, 2, weights, logits)
        return cls(log_weights, loc, jnp.log(scale), None, "diagonal")

    @classmethod
    def full(
        cls,
        loc: Real[ArrayLike, "*#batch K D"] | list[Any],
        covariance: Real[ArrayLike, "*#batch K D D"] | list[Any],
        *,
        weights: Real[ArrayLike, "*#batch K"] | list[Any] | None = None,
        logits: Real[ArrayLike, "*#batch K"] | list[Any] | None = None,
    ) -> "GaussianMixture":
        """A mixture whose components have any covariance.

        Args:
            loc: `[..., K, D]`, component means.
            covariance: `[..., K, D, D]`, symmetric positive definite; where it is not, the result
                is NaN, as from any Cholesky factorisation in JAX.
            weights: As in `isotropic`.
            logits: As in `isotropic`.

        Returns:
            The mixture; batch shapes are broadcast.

        Raises:
            ValueError: The shapes do not fit, or both `weights` and `logits` are given.
        """
        where = "GaussianMixture.full"
        loc, covariance, log_weights = _arrays(where, loc, covariance, 3, weights, logits)
        # Sigma = A A^T with A = U^-1 upper: the Cholesky factor of the reversed matrix, reversed.
        a = jnp.flip(jnp.linalg.cholesky(jnp.flip(covariance, (-2, -1))), (-2, -1))
        scale = jnp.diagonal(a, axis1=-2, axis2=-1)
        # U = diag(1/scale) (I + R), so A diag(1/scale) is the inverse of I + R.
        eye = jnp.broadcast_to(jnp.eye(a.shape[-1], dtype=a.dtype), a.shape)
        unit_upper = solve_triangular(a / scale[..., None, :], eye, unit_diagonal=True)
        return cls(log_weights, loc, jnp.log(scale), triangular.pack(unit_upper), "full")

    @property
    def batch_shape(self) -> Shape:
        """The shape of the batch, `...`."""
        return self.loc.shape[:-2]

    @property
    def num_components(self) -> int:
        """K."""
        return self.loc.shape[-2]

    @property
    def dim(self) -> int:
        """D."""
        return self.loc.shape[-1]

    @property
    def weights(self) -> Array:
        """The mixing coefficients pi, `[..., K]`."""
        return jnp.exp(self.log_weights)

    @property
    def scale(self) -> Array:
        """Standard deviations, exp(log_scale): `[..., K]` (isotropic) or `[..., K, D]`.

        Of a *full* component, each coordinate's once those after it are known.
        """
        return jnp.exp(self.log_scale)

    @property
    def precision_factors(self) -> Array:
        """U, `[..., K, D, D]`: the upper Cholesky factors of the components' precisions."""
        return self._unit_upper() * jnp.exp(-self._log_scales())[..., :, None]

    @property
    def component_covariances(self) -> Array:
        """Sigma_k = U^-1 U^-T, `[..., K, D, D]`."""
        diag = jnp.exp(self._log_scales())[..., :, None] * _eye_like(self.loc)
        if self.upper is None:
            return diag * diag
        a = solve_triangular(self._unit_upper(), diag, unit_diagonal=True)
        # Accelerators round the factors of a float32 product by default.
        return jnp.matmul(a, jnp.swapaxes(a, -2, -1), precision=lax.Precision.HIGHEST)

    def __getitem__(self, index: Any) -> "GaussianMixture":
        """The mixtures at `index` of the batch; components and dimensions stay whole."""
        index = index if isinstance(index, tuple) else (index,)
        if not any(i is Ellipsis for i in index):
            index = (*index, Ellipsis)
        taken = sum(i is not None and i is not Ellipsis for i in index)
        require(
            taken <= len(self.batch_shape),
            "GaussianMixture[...]",
            "index",
            f"{taken} indices",
            f"at most {len(self.batch_shape)} for batch shape {self.batch_shape}",
        )
        batch_rank = len(self.batch_shape)

        def take(leaf: Array) -> Array:
            return leaf[(*index, *(slice(None),) * (leaf.ndim - batch_rank))]

        return jax.tree.map(take, self)

    def __iter__(self) -> Iterator["GaussianMixture"]:
        """Along the first axis of the batch, as an array does.

        Without this Python would count through `mix[0]`, `mix[1]`, ... without end, because
        indices out of range are clamped.
        """
        if not self.batch_shape:
            raise TypeError("GaussianMixture: iteration needs a batch axis, got batch shape ().")
        return (self[i] for i in range(self.batch_shape[0]))

    def _log_scales(self) -> Array:
        """The log-scales of every dimension, `[..., K, D]`, whatever the kind."""
        if self.covariance_kind == "isotropic":
            return jnp.broadcast_to(self.log_scale[..., None], self.loc.shape)
        return self.log_scale

    def _unit_upper(self) -> Array:
        """I + R, `[..., K, D, D]`, whatever the kind."""
        if self.upper is None:
            return jnp.broadcast_to(_eye_like(self.loc), (*self.loc.shape, self.dim))
        return triangular.unit_upper(self.upper)


def parameters(mix: GaussianMixture) -> Parameters:
    """The mixture as the likelihood's core reads it: components last, dimension by dimension."""
    isotropic = mix.covariance_kind == "isotropic"
    log_scale = mix.log_scale[..., None] if isotropic else mix.log_scale
    scales, centres, entries = block_heights(mix.covariance_kind, mix.dim)
    return Parameters(
        mix.log_weights,
        _blocks(log_scale, scales),
        _blocks(mix.loc, centres),
        () if mix.upper is None else _blocks(mix.upper, entries),
    )


def _blocks(x: Array, heights: tuple[int, ...]) -> tuple[Array, ...]:
    """`[..., K, *]` as blocks `[..., *, K]`."""
    return tuple(lax.split(jnp.swapaxes(x, -2, -1), heights, axis=x.ndim - 2)) if heights else ()


def affine(mix: GaussianMixture, loc: Array, scale: Array) -> GaussianMixture:
    """The mixtures of loc + scale y, for y of the mixtures `mix`: exact.

    With S = diag(scale), a component's precision factor diag(exp(-s)) (I + R) becomes itself times
    S^-1: s_d moves by log scale_d, and R_ij by scale_i / scale_j.

    Args:
        mix: The mixtures, of batch shape `...`.
        loc: `[..., D]`.
        scale: `[..., D]`, positive; or `[..., 1]`, with which *isotropic* mixtures stay so.
    """
    kind, log_scale, upper = mix.covariance_kind, mix.log_scale, mix.upper
    if kind == "isotropic" and scale.shape[-1] > 1:
        kind, log_scale = "diagonal", mix._log_scales()
    # Of isotropic mixtures the log-scale has no axis of coordinates, and `scale` has one of 1.
    own = jnp.log(scale) if kind == "isotropic" else jnp.log(scale)[..., None, :]
    if upper is not None:
        row, column = np.triu_indices(mix.dim, 1)
        wide = jnp.broadcast_to(scale, (*scale.shape[:-1], mix.dim))
        upper = upper * (wide[..., row] / wide[..., column])[..., None, :]
    return dataclasses.replace(
        mix,
        loc=loc[..., None, :] + scale[..., None, :] * mix.loc,
        log_scale=log_scale + own,
        upper=upper,
        covariance_kind=kind,
    )


def temper(mix: GaussianMixture, tau: Real[ArrayLike, "*batch"]) -> GaussianMixture:
    """The mixture at temperature tau: log_weights / tau (normalised), sigma sqrt(tau).

    Below 1 samples are more careful, above 1 more daring (Ha and Eck 2017, eq. 8).

    Args:
        mix: The mixtures.
        tau: `[...]` or a number, positive.

    Returns:
        The tempered mixtures.

    Raises:
        ValueError: `tau` is a Python number that is not positive, or its shape does not fit.

    Example:
        >>> import mdnjax as mdn
        >>> mix = mdn.GaussianMixture.isotropic([[0.0], [1.0]], [1.0, 1.0], weights=[0.25, 0.75])
        >>> print(mdn.temper(mix, 0.5).weights[1])
        0.9

    References:
        D. Ha and D. Eck. "A Neural Representation of Sketch Drawings." 2017, eq. 8.
    """
    if isinstance(tau, (int, float)):
        require(tau > 0, "temper", "tau", tau, "positive")
    tau = _per_mixture("temper", "tau", tau, mix)
    return _sharpened(mix, 1 / tau, 0.5 * jnp.log(tau))


def bias(mix: GaussianMixture, b: Real[ArrayLike, "*batch"]) -> GaussianMixture:
    """The mixture biased towards its modes: (1 + b) log_weights (normalised), sigma exp(-b).

    Args:
        mix: The mixtures.
        b: `[...]` or a number; 0 changes nothing, larger is neater.

    Returns:
        The biased mixtures.

    Raises:
        ValueError: The shape of `b` does not fit.

    Example:
        >>> import mdnjax as mdn
        >>> mix = mdn.GaussianMixture.isotropic([[0.0], [1.0]], [1.0, 1.0], weights=[0.25, 0.75])
        >>> print(mdn.bias(mix, 1.0).weights[1])
        0.9

    References:
        A. Graves. "Generating Sequences With Recurrent Neural Networks." 2013, eq. 61 and 62.
    """
    b = _per_mixture("bias", "b", b, mix)
    return _sharpened(mix, 1 + b, -b)


def _sharpened(mix: GaussianMixture, power: Array, shift: Array) -> GaussianMixture:
    """Weights to the given power, log-scales shifted; the shapes R stay."""
    empty = mix.log_weights == -jnp.inf
    powered = power[..., None] * jnp.where(empty, 0, mix.log_weights)
    shift = lax.expand_dims(shift, range(shift.ndim, mix.log_scale.ndim))
    return dataclasses.replace(
        mix,
        log_weights=log_softmax(jnp.where(empty, -jnp.inf, powered)),
        log_scale=mix.log_scale + shift,
    )


def _per_mixture(function: str, argument: str, value, mix: GaussianMixture) -> Array:
    value = jnp.asarray(value, mix.loc.dtype)
    trailing = mix.batch_shape[len(mix.batch_shape) - value.ndim :]
    require(
        value.ndim <= len(mix.batch_shape)
        and all(n in (1, size) for n, size in zip(value.shape, trailing, strict=True)),
        function,
        argument,
        f"shape {value.shape}",
        f"a number or of the batch shape {mix.batch_shape}",
    )
    return jnp.broadcast_to(value, mix.batch_shape)


def _eye_like(loc: Array) -> Array:
    """The identity, with as many axes as a batch of component covariances."""
    eye = jnp.eye(loc.shape[-1], dtype=loc.dtype)
    return lax.expand_dims(eye, range(loc.ndim - 1))


def _arrays(where: str, loc, scale, scale_rank: int, weights, logits):
    """The constructors' arguments as arrays with one batch shape, and the log-weights."""
    dtype = jnp.result_type(as_float(loc), as_float(scale))
    loc, scale = jnp.asarray(loc, dtype), jnp.asarray(scale, dtype)
    require(loc.ndim >= 2, where, "loc", f"shape {loc.shape}", "[..., K, D]")
    k, dim = loc.shape[-2:]
    event = (k, dim, dim)[:scale_rank]
    require(
        scale.shape[max(scale.ndim - scale_rank, 0) :] == event,
        where,
        "covariance" if scale_rank == 3 else "scale",
        f"shape {scale.shape}",
        f"[..., {', '.join(map(str, event))}] for loc of shape {loc.shape}",
    )
    require(
        weights is None or logits is None,
        where,
        "weights",
        "both weights and logits",
        "one of them",
    )
    if weights is not None:
        values = jnp.asarray(weights, dtype)
        zero = values == 0
        values = jnp.where(zero, -jnp.inf, jnp.log(jnp.where(zero, 1, values)))
    else:
        values = jnp.zeros(k, dtype) if logits is None else jnp.asarray(logits, dtype)
    require(
        values.ndim >= 1 and values.shape[-1] == k,
        where,
        "logits" if weights is None else "weights",
        f"shape {values.shape}",
        f"[..., {k}] for loc of shape {loc.shape}",
    )
    try:
        batch = jnp.broadcast_shapes(loc.shape[:-2], scale.shape[:-scale_rank], values.shape[:-1])
    except ValueError:
        shapes = f"{loc.shape[:-2]}, {scale.shape[:-scale_rank]} and {values.shape[:-1]}"
        raise ValueError(
            f"{where}: the batch shapes of loc, scale and weights must broadcast, got {shapes}."
        ) from None
    return (
        jnp.broadcast_to(loc, (*batch, k, dim)),
        jnp.broadcast_to(scale, (*batch, *event)),
        jnp.broadcast_to(log_softmax(values), (*batch, k)),
    )
