"""A decoder of pictures in two layers: something, and what is behind it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Shaped

from mdnjax._checks import require
from mdnjax._types import Array, ArrayLike, as_float


class Layers(NamedTuple):
    """What a picture is made of.

    Attributes:
        foreground: `[..., H, W, C]`, 0 to 1.
        gate: `[..., H, W, 1]`, how much of it is seen, 0 to 1.
        background: `[..., H, W, C]`, 0 to 1.
    """

    foreground: Array
    gate: Array
    background: Array


class LayeredDecoder(nnx.Module):
    r"""Pixels gate * foreground + (1 - gate) * background, each layer from codes of its own.

    For a `NormalHead` without scale: the mean of every pixel, and one log-scale that is learnt,
    the same for all pixels and images.

    Args:
        foreground: From the first `foreground_dim` coordinates of z (and what is given) to
            `[..., H, W, C + 1]`: colours, and the gate; logits.
        background: From the others (and what is given) to `[..., H, W, C]`; logits.
        foreground_dim: Of z, how many.
        foreground_given: Of what is given, how many features the foreground is told; the
            background is told the others. None tells both everything.

    Raises:
        ValueError: `foreground_dim` is less than 1; when called: the layers do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from mdnjax import nets
        >>> rngs = nnx.Rngs(0)
        >>> decoder = nets.LayeredDecoder(
        ...     nets.MLP(2, (8,), (6, 5, 4), rngs=rngs),
        ...     nets.MLP(3, (8,), (6, 5, 3), rngs=rngs),
        ...     foreground_dim=2,
        ... )
        >>> decoder(jnp.zeros((7, 5))).shape
        (7, 6, 5, 3, 2)

    References:
        X. Yan, J. Yang, K. Sohn and H. Lee. "Attribute2Image: Conditional Image Generation from
        Visual Attributes." 2016, section 3.3.
    """

    def __init__(
        self,
        foreground: nnx.Module,
        background: nnx.Module,
        *,
        foreground_dim: int,
        foreground_given: int | None = None,
    ) -> None:
        valid = foreground_dim >= 1
        require(valid, "LayeredDecoder", "foreground_dim", foreground_dim, "at least 1")
        self.foreground: nnx.Module = foreground
        self.background: nnx.Module = background
        self.foreground_dim = foreground_dim
        self.foreground_given = foreground_given
        self.log_scale: nnx.Param[Array] = nnx.Param(jnp.full((), -2.0))

    def layers(self, z: Float[ArrayLike, "*batch D"], *given: Shaped[ArrayLike, "..."]) -> Layers:
        """What the picture of a code is made of.

        Args:
            z: `[..., D]`.
            *given: `[..., F]`.

        Returns:
            The layers.
        """
        z = as_float(z)
        to_front = to_back = [as_float(y) for y in given]
        if self.foreground_given is not None:
            to_front, to_back = (
                [y[..., part] for y in to_front]
                for part in (slice(self.foreground_given), slice(self.foreground_given, None))
            )
        front = self.foreground(z[..., : self.foreground_dim], *to_front)
        behind = self.background(z[..., self.foreground_dim :], *to_back)
        require(
            front.shape[:-1] == behind.shape[:-1] and front.shape[-1] == behind.shape[-1] + 1,
            "LayeredDecoder",
            "foreground and background",
            f"of shapes {front.shape} and {behind.shape}",
            "[..., H, W, C + 1] and [..., H, W, C]",
        )
        front, behind = jax.nn.sigmoid(front), jax.nn.sigmoid(behind)
        return Layers(front[..., :-1], front[..., -1:], behind)

    def __call__(
        self, z: Float[ArrayLike, "*batch D"], *given: Shaped[ArrayLike, "..."]
    ) -> Float[Array, "*batch H W C 2"]:
        """The raw outputs of a `NormalHead` for every pixel and channel.

        Args:
            z: `[..., D]`.
            *given: `[..., F]`.

        Returns:
            `[..., H, W, C, 2]`: means, and the log-scale.

        Raises:
            ValueError: The layers do not fit.
        """
        layers = self.layers(z, *given)
        mean = layers.gate * layers.foreground + (1 - layers.gate) * layers.background
        return jnp.stack([mean, jnp.broadcast_to(self.log_scale[...], mean.shape)], axis=-1)
