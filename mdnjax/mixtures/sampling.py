"""Samples: first a component, then one Gaussian."""

import math

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Float

from mdnjax._checks import require
from mdnjax._types import Array, Key, Shape
from mdnjax.mixtures import _triangular as triangular
from mdnjax.mixtures.gaussian import GaussianMixture


def sample(key: Key, mix: GaussianMixture, shape: Shape = ()) -> Float[Array, "..."]:
    r"""Draws k ~ pi, then y = mu_k + U_k^{-1} epsilon with epsilon ~ N(0, I).

    Only the chosen component is drawn from, so memory does not grow with K. Samples are
    differentiable in loc and scale given the choice, and have no derivative in the weights.

    Args:
        key: A random key.
        mix: The mixtures, of batch shape `...`.
        shape: The shape of the sample drawn from each mixture.

    Returns:
        `[*shape, ..., D]`, in the units of y.

    Raises:
        ValueError: `shape` is not a tuple of integers that are at least 0.

    Example:
        >>> import jax
        >>> import mdnjax as mdn
        >>> mix = mdn.GaussianMixture.isotropic([[-1.0], [1.0]], [0.1, 0.5])
        >>> mdn.sample(jax.random.key(0), mix, (1000,)).shape
        (1000, 1)
    """
    require(
        isinstance(shape, tuple) and all(isinstance(n, int) and n >= 0 for n in shape),
        "sample",
        "shape",
        repr(shape),
        "a tuple of integers >= 0",
    )
    key_component, key_normal = jax.random.split(key)
    batch, dtype = mix.batch_shape, mix.loc.dtype
    num_samples = math.prod(shape)

    # Inversion takes one uniform number a sample, where Gumbel noise would take K.
    u = jax.random.uniform(key_component, (*batch, num_samples), dtype)
    component = _component_at(mix.weights, u)

    def chosen(of_component: Array) -> Array:
        """`[..., K, N]` -> `[..., num_samples, N]`."""
        return jnp.take_along_axis(of_component, component[..., None], axis=-2)

    epsilon = jax.random.normal(key_normal, (*batch, num_samples, mix.dim), dtype)
    isotropic = mix.covariance_kind == "isotropic"
    scale = jnp.exp(chosen(mix.log_scale[..., None] if isotropic else mix.log_scale))
    # No comparison with NaN chooses anything: without this, NaN weights would give plain samples.
    lost = jnp.isnan(jnp.sum(mix.weights, axis=-1))[..., None, None]
    step = jnp.where(lost, jnp.nan, scale * epsilon)
    if mix.upper is not None:
        unit_upper = triangular.unit_upper(chosen(mix.upper))
        step = solve_triangular(unit_upper, step[..., None], unit_diagonal=True)[..., 0]
    y = jnp.moveaxis(chosen(mix.loc) + step, -2, 0)
    return y.reshape(*shape, *batch, mix.dim)


def _component_at(weights: Array, u: Array) -> Array:
    """The first component at which the sum of the weights passes u of their total.

    Args:
        weights: `[..., K]`.
        u: `[..., N]`, in [0, 1).

    Returns:
        `[..., N]`, never a component of weight zero.
    """
    # Sums formed in parallel may differ by a rounding where a zero was added, so that the step of
    # a weight of zero need not be empty: it is taken out by name.
    cumulative = jnp.where(weights > 0, jnp.cumsum(weights, axis=-1), -1)
    u = u * jnp.max(cumulative, axis=-1, keepdims=True)
    return jnp.argmax(cumulative[..., None, :] > u[..., None], axis=-1)
