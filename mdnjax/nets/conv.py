"""Convolutional encoders and decoders of images."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Shaped

from mdnjax._checks import require
from mdnjax._types import Array, ArrayLike
from mdnjax.nets._convolution import doubled, doubled_fused, halved, halved_fused
from mdnjax.nets._layers import beside


class ConvEncoder(nnx.Module):
    """From an image to a vector: convolutions that halve it, then a hidden layer and the outputs.

    Args:
        shape: Of the images, (H, W), or (H, W, C) with channels.
        channels: Of each convolution, 4 x 4 with stride 2.
        hidden: Units of the dense layer on the last of them.
        output: Number of outputs: 2 D for a VAE.
        given_features: F of what a conditional encoder is given besides; it joins the dense layer.
        num_levels: L where pixels are levels 0 to L - 1: they are taken to -1 to 1; None takes them
            as they are.
        activation: Of all layers but the last.
        backward: "fused" or "plain", as of `ConvDecoder`.
        rngs: Source of the initial weights.

    Raises:
        ValueError: A size is less than 1, the shape is neither (H, W) nor (H, W, C), or `backward`
            is neither.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from mdnjax import nets
        >>> encoder = nets.ConvEncoder((28, 28), (32, 64), 256, 2 * 10, rngs=nnx.Rngs(0))
        >>> encoder(jnp.zeros((5, 28, 28))).shape
        (5, 20)
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: Sequence[int],
        hidden: int,
        output: int,
        *,
        given_features: int = 0,
        num_levels: int | None = None,
        activation: Callable[[Array], Array] = jax.nn.relu,
        backward: Literal["fused", "plain"] = "fused",
        rngs: nnx.Rngs,
    ) -> None:
        height, width, depth = _image("ConvEncoder", shape)
        sizes = (*channels, hidden, output)
        require(min(sizes) >= 1, "ConvEncoder", "channels, hidden, output", sizes, "all >= 1")
        _check_backward("ConvEncoder", backward)
        self.shape: tuple[int, ...] = tuple(shape)
        self.num_levels = num_levels
        self.activation = activation
        depths = (depth, *channels)
        self.convolutions: nnx.List[_Convolution] = nnx.List(
            _Convolution(below, above, transposed=False, backward=backward, rngs=rngs)
            for below, above in itertools.pairwise(depths)
        )
        small = _halved(height, len(channels)) * _halved(width, len(channels)) * depths[-1]
        self.in_features: int = small + given_features
        self.dense: nnx.Linear = nnx.Linear(self.in_features, hidden, rngs=rngs)
        self.output: nnx.Linear = nnx.Linear(hidden, output, rngs=rngs)

    def __call__(self, x: Shaped[ArrayLike, "..."], *given: Shaped[ArrayLike, "*batch _"]) -> Array:
        """The outputs.

        Args:
            x: `[..., *shape]`.
            *given: `[..., F]`.

        Returns:
            `[..., output]`.

        Raises:
            ValueError: The last axes of x are not `shape`.
        """
        x = jnp.asarray(x)
        rank = x.ndim - len(self.shape)
        fits = rank >= 0 and x.shape[rank:] == self.shape
        require(fits, "ConvEncoder", "x", f"shape {x.shape}", f"[..., {self.shape}]")
        h = x.astype(self.dense.kernel.dtype)
        if self.num_levels is not None:
            h = 2 / (self.num_levels - 1) * h - 1
        if len(self.shape) == 2:
            h = h[..., None]
        h = h.reshape(-1, *h.shape[rank:])
        for convolution in self.convolutions:
            h = self.activation(convolution(h))
        h = beside("ConvEncoder", self.in_features, (h.reshape(*x.shape[:rank], -1), *given))
        return self.output(self.activation(self.dense(h)))


class ConvDecoder(nnx.Module):
    """From a vector to an image's raw outputs: two dense layers, then convolutions that double it.

    Args:
        in_features: F: D for a VAE, and what a conditional one is given besides.
        hidden: Units of the first dense layer.
        channels: Of the small image that the second makes, and of the convolutions that follow,
            4 x 4 transposed with stride 2, but for the last, which makes the outputs.
        shape: Of the outputs, (H, W, P) for a head with `num_outputs` P.
        activation: Of all layers but the last.
        backward: "fused": the derivatives of the transposed convolutions are plain convolutions,
            on CPU many times as fast; reverse mode only. "plain": autodiff, any mode. Values and
            gradients are the same.
        rngs: Source of the initial weights.

    Raises:
        ValueError: A size is less than 1, the shape is not (H, W, P), or `backward` is neither.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from mdnjax import nets
        >>> decoder = nets.ConvDecoder(10, 256, (64, 32), (28, 28, 1), rngs=nnx.Rngs(0))
        >>> decoder(jnp.zeros((5, 10))).shape
        (5, 28, 28, 1)
    """

    def __init__(
        self,
        in_features: int,
        hidden: int,
        channels: Sequence[int],
        shape: Sequence[int],
        *,
        activation: Callable[[Array], Array] = jax.nn.relu,
        backward: Literal["fused", "plain"] = "fused",
        rngs: nnx.Rngs,
    ) -> None:
        require(len(shape) == 3, "ConvDecoder", "shape", tuple(shape), "(H, W, P)")
        height, width, depth = shape
        sizes = (in_features, hidden, *channels, *shape)
        require(min(sizes) >= 1, "ConvDecoder", "its sizes", sizes, "all >= 1")
        require(len(channels) >= 1, "ConvDecoder", "channels", tuple(channels), "at least one")
        _check_backward("ConvDecoder", backward)
        self.in_features = in_features
        self.shape: tuple[int, ...] = tuple(shape)
        self.activation = activation
        times = len(channels)
        self.small: tuple[int, int, int] = (
            _halved(height, times),
            _halved(width, times),
            channels[0],
        )
        self.dense: nnx.List[nnx.Linear] = nnx.List(
            [
                nnx.Linear(in_features, hidden, rngs=rngs),
                nnx.Linear(hidden, math.prod(self.small), rngs=rngs),
            ]
        )
        depths = (*channels, depth)
        self.convolutions: nnx.List[_Convolution] = nnx.List(
            _Convolution(below, above, transposed=True, backward=backward, rngs=rngs)
            for below, above in itertools.pairwise(depths)
        )

    def __call__(self, *inputs: Shaped[ArrayLike, "*batch _"]) -> Float[Array, "*batch H W P"]:
        """The raw outputs.

        Args:
            *inputs: `[..., in_features]`; or parts of it, as if side by side.

        Returns:
            `[..., H, W, P]`.

        Raises:
            ValueError: The widths do not add up to `in_features`.
        """
        h = beside("ConvDecoder", self.in_features, inputs)
        batch = h.shape[:-1]
        for layer in self.dense:
            h = self.activation(layer(h))
        h = h.reshape(-1, *self.small)
        *inner, last = self.convolutions
        for convolution in inner:
            h = self.activation(convolution(h))
        h = last(h)[:, : self.shape[0], : self.shape[1]]  # a side that is odd was rounded up
        return h.reshape(*batch, *self.shape)


class _Convolution(nnx.Module):
    """A 4 x 4 convolution of stride 2 or its transpose, with a bias."""

    def __init__(
        self, below: int, above: int, *, transposed: bool, backward: str, rngs: nnx.Rngs
    ) -> None:
        # Of the transpose's patches four meet in one place. Variance 1 / fan-in keeps the scale.
        channels, fan_in = (
            ((above, below), 4 * below) if transposed else ((below, above), 16 * below)
        )
        kernel = jax.random.normal(rngs.params(), (4, 4, *channels))
        self.kernel: nnx.Param[Array] = nnx.Param(kernel / math.sqrt(fan_in))
        self.bias: nnx.Param[Array] = nnx.Param(jnp.zeros(above))
        self.transposed = transposed
        self.fused = backward == "fused"

    def __call__(self, x: Array) -> Array:
        """From `[B, H, W, I]` to half or twice the sides, and `O` channels."""
        if self.transposed:
            function = doubled_fused if self.fused else doubled
        else:
            is_even = x.shape[1] % 2 == 0 and x.shape[2] % 2 == 0
            function = halved_fused if self.fused and is_even else halved
        image = function(x, self.kernel[...])
        return image + jnp.broadcast_to(self.bias[...], image.shape)


def _check_backward(function: str, backward: str) -> None:
    known = backward in ("fused", "plain")
    require(known, function, "backward", repr(backward), "'fused' or 'plain'")


def _image(function: str, shape: Sequence[int]) -> tuple[int, int, int]:
    """(H, W, C)."""
    valid = len(shape) in (2, 3) and min(shape) >= 1
    require(valid, function, "shape", tuple(shape), "(H, W) or (H, W, C)")
    height, width, *depth = shape
    return height, width, depth[0] if depth else 1


def _halved(size: int, times: int) -> int:
    """A side after so many convolutions of stride 2."""
    return -(-size // 2**times)
