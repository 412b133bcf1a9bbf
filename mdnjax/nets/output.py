"""The output layer of a mixture density network, and where its bias starts.

The commonest complaint about mixture density networks is a collapsed start: components that begin
alike receive alike gradients and stay alike. So the bias puts the centres apart, over the range of
standardised targets or at the targets' own clusters, and the kernel is small: at first the network
predicts much the same, spread-out mixture for every input.
"""

import dataclasses
import itertools
import statistics
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from mdnjax._checks import require
from mdnjax._types import Array, ArrayLike, Key, as_float
from mdnjax.mixtures import BernoulliHead, GaussianHead, GaussianMixture, Head, ProductHead


class MixtureDense(nnx.Module):
    """A linear layer that emits the raw outputs of a head.

    Args:
        in_features: F, of the input.
        head: What the outputs are for; its `num_outputs` are emitted.
        bias: Where the bias starts, `[num_outputs]`, such as `bias_from_targets`; by default
            `spread_bias(head)`.
        kernel_scale: The kernel starts normal with standard deviation kernel_scale / sqrt(F).
        rngs: Source of the initial kernel.

    Raises:
        ValueError: `in_features` is less than 1, or `bias` has another shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> import mdnjax as mdn
        >>> from mdnjax import nets
        >>> head = mdn.GaussianHead(num_components=3, dim=1)
        >>> layer = nets.MixtureDense(8, head, rngs=nnx.Rngs(0))
        >>> head.mixture(layer(jnp.zeros((4, 8)))).weights.shape
        (4, 3)
    """

    def __init__(
        self,
        in_features: int,
        head: Head,
        *,
        bias: Float[ArrayLike, " P"] | None = None,
        kernel_scale: float = 0.1,
        rngs: nnx.Rngs,
    ) -> None:
        require(in_features >= 1, "MixtureDense", "in_features", in_features, ">= 1")
        bias = spread_bias(head) if bias is None else as_float(bias)
        shape = (head.num_outputs,)
        require(
            bias.shape == shape, "MixtureDense", "bias", f"shape {bias.shape}", f"of shape {shape}"
        )
        kernel = jax.random.normal(rngs.params(), (in_features, head.num_outputs))
        self.kernel: nnx.Param[Array] = nnx.Param(kernel_scale / np.sqrt(in_features) * kernel)
        self.bias: nnx.Param[Array] = nnx.Param(bias)

    def __call__(self, *inputs: Float[ArrayLike, "*batch _"]) -> Float[Array, "*batch P"]:
        """The raw outputs.

        Args:
            *inputs: `[..., in_features]`; or parts of it `[..., F_n]`, as if side by side. To join
                wide parts would cost a copy of them, and another of their gradient.

        Returns:
            `[..., num_outputs]`.

        Raises:
            ValueError: The widths do not add up to `in_features`.
        """
        parts = [jnp.asarray(part) for part in inputs]
        widths = [part.shape[-1] for part in parts]
        total = self.kernel.shape[0]
        require(sum(widths) == total, "MixtureDense", "inputs", f"widths {widths}", f"{total} wide")
        kernels = jnp.split(self.kernel[...], list(itertools.accumulate(widths[:-1])))
        first, *others = (part @ kernel for part, kernel in zip(parts, kernels, strict=True))
        raw = sum(others, start=first)
        return raw + jnp.broadcast_to(self.bias[...], raw.shape)


def spread_bias(head: Head) -> Float[Array, " P"]:
    """Raw outputs of a mixture spread over the range of standardised targets.

    For a `GaussianHead`: equal weights, unit scales, and centres at the K quantiles (k + 1/2)/K of
    the standard normal, or, for D > 1, at its image of the first K points of a low-discrepancy
    sequence. A `ProductHead`'s parts stand in their order. Any other head (`BernoulliHead`: even
    odds) starts at zero.

    Args:
        head: The head.

    Returns:
        `[num_outputs]`.

    Example:
        >>> import mdnjax as mdn
        >>> from mdnjax import nets
        >>> head = mdn.GaussianHead(num_components=3, dim=1)
        >>> [f"{centre:.2f}" for centre in nets.spread_bias(head)[-3:]]
        ['-0.97', '0.00', '0.97']
    """
    if isinstance(head, ProductHead):
        return jnp.concatenate([spread_bias(part) for _, part in head.parts])
    if isinstance(head, GaussianHead):
        standard = head.mixture(jnp.zeros(head.num_outputs))
        centres = jnp.asarray(_normal_points(head.num_components, head.dim), float)
        return head.raw(dataclasses.replace(standard, loc=centres))
    return jnp.zeros(head.num_outputs)


def bias_from_targets(key: Key, head: Head, targets: Any) -> Float[Array, " P"]:
    """Raw outputs of a mixture fitted coarsely to targets.

    For a `GaussianHead`: centres by k-means (k-means++ seeds, ten rounds, coordinates divided by
    their standard deviations); each component has its cluster's share and covariance, to which a
    hundredth of the targets' variances is added so that none is a needle. For a `BernoulliHead`:
    the log-odds of the mean. A `ProductHead`'s parts stand in their order. Any other head has
    nothing to fit here: it starts at zero.

    Args:
        key: For the k-means++ seeds.
        head: The head.
        targets: What `head.nll` takes as `y`, any batch shape; without padding. Some thousands
            are enough.

    Returns:
        `[num_outputs]`.

    Raises:
        ValueError: There are fewer targets than components, or they do not fit the head.

    References:
        D. Arthur and S. Vassilvitskii. "k-means++: the advantages of careful seeding." 2007.
    """
    where = "bias_from_targets"
    if isinstance(head, ProductHead):
        names = [name for name, _ in head.parts]
        require(
            isinstance(targets, Mapping) and set(targets) == set(names),
            where,
            "targets",
            f"keys {sorted(targets)}" if isinstance(targets, Mapping) else type(targets).__name__,
            f"a mapping with the keys {sorted(names)}",
        )
        keys = jax.random.split(key, len(names))
        biases = [
            bias_from_targets(part_key, part, targets[name])
            for part_key, (name, part) in zip(keys, head.parts, strict=True)
        ]
        return jnp.concatenate(biases)
    if isinstance(head, GaussianHead):
        targets = as_float(targets)
        shape = targets.shape
        require(shape[-1:] == (head.dim,), where, "targets", f"shape {shape}", f"[..., {head.dim}]")
        targets = targets.reshape(-1, head.dim)
        k = head.num_components
        require(len(targets) >= k, where, "targets", f"{len(targets)} of them", f"at least {k}")
        return head.raw(_mixture(head, *_clusters(key, targets, k)))
    if isinstance(head, BernoulliHead):
        y = as_float(targets)
        # Half a yes and half a no more than came, so that the odds are finite.
        return jnp.log((y.sum() + 0.5) / ((1 - y).sum() + 0.5))[None]
    return jnp.zeros(head.num_outputs)


def _mixture(head: GaussianHead, loc: Array, covariance: Array, weights: Array) -> GaussianMixture:
    """The mixture of the head's kind with these moments, K of each."""
    if head.covariance == "full":
        return GaussianMixture.full(loc, covariance, weights=weights)
    variance = jnp.diagonal(covariance, axis1=-2, axis2=-1)
    if head.covariance == "diagonal":
        return GaussianMixture.diagonal(loc, jnp.sqrt(variance), weights=weights)
    return GaussianMixture.isotropic(loc, jnp.sqrt(variance.mean(-1)), weights=weights)


def _normal_points(k: int, dim: int) -> np.ndarray:
    """`[K, D]`: K points that spread as the standard normal does."""
    if dim == 1:
        uniform = (np.arange(k)[:, None] + 0.5) / k
    else:
        # Additive recurrence by the powers of 1/g, where g^(D+1) = g + 1 is the D-dimensional
        # golden ratio: every prefix of the sequence fills the cube evenly.
        g = 2.0
        for _ in range(64):
            g = (1 + g) ** (1 / (dim + 1))
        uniform = (0.5 + np.arange(1, k + 1)[:, None] * g ** -np.arange(1.0, dim + 1)[None, :]) % 1
    return np.vectorize(statistics.NormalDist().inv_cdf)(uniform)


def _clusters(key: Key, targets: Array, k: int) -> tuple[Array, Array, Array]:
    """Centres `[K, D]`, covariances `[K, D, D]` and shares `[K]` of k-means' clusters."""
    n, dim = targets.shape
    mean, std = targets.mean(0, keepdims=True), targets.std(0, keepdims=True)
    std = jnp.where(std > 0, std, 1)
    y = (targets - mean) / std

    def squared_distances(centres: Array) -> Array:
        square = jnp.sum(y * y, -1)[:, None] + jnp.sum(centres * centres, -1)[None, :]
        return jnp.maximum(square - 2 * y @ centres.T, 0)

    def seed(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        centres, nearest = carry
        log_nearest = jnp.log(nearest + jnp.finfo(y.dtype).tiny)
        centre = y[jax.random.categorical(jax.random.fold_in(key, j), log_nearest)]
        nearest = jnp.minimum(nearest, squared_distances(centre[None])[:, 0])
        return centres.at[j].set(centre), nearest

    def members(centres: Array) -> Array:
        return jax.nn.one_hot(jnp.argmin(squared_distances(centres), -1), k, dtype=y.dtype)

    def improve(_: Array, centres: Array) -> Array:
        member = members(centres)
        counts = member.sum(0)[:, None]
        return jnp.where(counts > 0, member.T @ y / jnp.maximum(counts, 1), centres)

    start = (jnp.zeros((k, dim), y.dtype), jnp.ones(n, y.dtype))
    centres, _ = jax.lax.fori_loop(0, k, seed, start)
    centres = jax.lax.fori_loop(0, 10, improve, centres)

    member = members(centres)
    counts = member.sum(0)
    residual = y - member @ centres
    scatter = jnp.einsum("nk,ni,nj->kij", member, residual, residual)
    covariance = scatter / jnp.maximum(counts, 1)[:, None, None] + 0.01 * jnp.eye(dim)[None]
    # One more member each: a cluster left empty keeps a small share.
    shares = (counts + 1) / (n + k)
    return mean + std * centres, covariance * (std.T * std)[None], shares
