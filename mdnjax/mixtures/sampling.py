"""Samples: first a component, then one Gaussian."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Float

from mdnjax._checks import require
from mdnjax._types import Array, Key, Shape
from mdnjax.mixtures import _triangular as triangular
from mdnjax.mixtures.gaussian import GaussianMixture
from mdnjax.mixtures.pathwise import reparameterize


def sample(
    key: Key, mix: GaussianMixture, shape: Shape = (), *, reparameterized: bool = False
) -> Float[Array, "..."]:
    r"""Draws k ~ pi, then y = mu_k + U_k^{-1} epsilon with epsilon ~ N(0, I).

    Only the chosen component is drawn from, so memory does not grow with K. Samples are
    differentiable in loc and scale given the choice, and have no derivative in the weights: a
    gradient through them is not that of an expectation. Reparameterized they are the same numbers
    with implicit gradients, in every parameter, and then the gradient of a mean of f(y) estimates
    the gradient of E[f(y)] without bias; see `mdnjax.mixtures.pathwise`.

    Args:
        key: A random key.
        mix: The mixtures, of batch shape `...`.
        shape: The shape of the sample drawn from each mixture.
        reparameterized: Whether derivatives are implicit gradients. They cost a pass over all
            components, and nothing where no derivative is taken.

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
        >>> @jax.jit
        ... @jax.grad
        ... def slope_of_mean(mix):
        ...     return mdn.sample(jax.random.key(0), mix, (1000,), reparameterized=True).mean()
        >>> print(slope_of_mean(mix).loc[:, 0].sum())  # the samples move with the centres
        1.0

    References:
        M. Figurnov, S. Mohamed and A. Mnih. "Implicit Reparameterization Gradients." 2018.
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
    epsilon = jax.random.normal(key_normal, (*batch, num_samples, mix.dim), dtype)
    y = sample_from_noise(mix, u, epsilon)
    if reparameterized:
        y = reparameterize(mix, y)
    y = jnp.moveaxis(y, -2, 0)
    return y.reshape(*shape, *batch, mix.dim)


def sample_from_noise(
    mix: GaussianMixture, u: Float[Array, "*batch N"], epsilon: Float[Array, "*batch N D"]
) -> Float[Array, "*batch N D"]:
    r"""The samples that given noise makes: y = mu_k + U_k^{-1} epsilon, k where u falls.

    k is the first component at which pi_1 + ... + pi_k passes u. For noise drawn ahead of a loop,
    shared among mixtures that are to be compared, or spread more evenly than at random.

    Args:
        mix: The mixtures, of batch shape `...`.
        u: `[..., N]`, uniform in [0, 1).
        epsilon: `[..., N, D]`, standard normal.

    Returns:
        `[..., N, D]`, in the units of y.

    Raises:
        ValueError: The noise does not have the shape of the mixtures' batch.

    Example:
        >>> import jax.numpy as jnp
        >>> import mdnjax as mdn
        >>> mix = mdn.GaussianMixture.isotropic([[-1.0], [1.0]], [0.1, 0.5])
        >>> u, epsilon = jnp.array([0.2, 0.8]), jnp.array([[1.0], [1.0]])
        >>> print(mdn.mixtures.sample_from_noise(mix, u, epsilon)[:, 0])
        [-0.9  1.5]
    """
    got = f"shapes {u.shape} and {epsilon.shape}"
    expected = (*mix.batch_shape, *u.shape[-1:])
    require(
        u.shape == expected and epsilon.shape == (*expected, mix.dim),
        "sample_from_noise",
        "u, epsilon",
        got,
        f"[..., N] and [..., N, {mix.dim}] for batch shape {mix.batch_shape}",
    )
    component = _component_at(mix.weights, u)

    def chosen(of_component: Array) -> Array:
        """`[..., K, M]` -> `[..., N, M]`."""
        return jnp.take_along_axis(of_component, component[..., None], axis=-2)

    isotropic = mix.covariance_kind == "isotropic"
    scale = jnp.exp(chosen(mix.log_scale[..., None] if isotropic else mix.log_scale))
    # No comparison with NaN chooses anything: without this, NaN weights would give plain samples.
    lost = jnp.isnan(jnp.sum(mix.weights, axis=-1))[..., None, None]
    step = jnp.where(lost, jnp.nan, scale * epsilon)
    if mix.upper is not None:
        step = triangular.solve_unit_upper(chosen(mix.upper), step)
    return chosen(mix.loc) + step


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
