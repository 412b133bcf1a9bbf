"""The multilayer perceptron."""

import itertools
import math
from collections.abc import Callable, Sequence

import jax
from flax import nnx
from jaxtyping import Float, Shaped

from mdnjax._checks import require
from mdnjax._types import Array, ArrayLike
from mdnjax.nets._layers import beside, output_layer


class MLP(nnx.Module):
    """A multilayer perceptron: h_l = activation(W_l h_{l-1} + b_l), and an output layer.

    Weights start LeCun-normal (variance 1/fan-in), biases at zero.

    Args:
        in_features: F, of the input.
        hidden: Widths of the hidden layers; none makes a linear map.
        output: The number of outputs P of a linear output layer; or their shape, such as pixels
            by a head's `num_outputs`; or a module to take its place, such as `MixtureDense`, on
            the last hidden layer (or the input, where there is none).
        activation: Applied to every hidden layer; tanh is the classic.
        dropout: Probability with which a hidden unit is left out in training.
        rngs: Source of the initial weights (and of dropout's stream).

    Raises:
        ValueError: A width is less than 1, or `dropout` is not in [0, 1).

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> import mdnjax as mdn
        >>> from mdnjax import nets
        >>> head = mdn.GaussianHead(num_components=3, dim=1)
        >>> output = nets.MixtureDense(32, head, rngs=nnx.Rngs(1))
        >>> nets.MLP(1, (32, 32), output, rngs=nnx.Rngs(0))(jnp.zeros((5, 1))).shape
        (5, 9)
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        output: int | Sequence[int] | nnx.Module,
        *,
        activation: Callable[[Array], Array] = jax.nn.tanh,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ) -> None:
        widths = (in_features, *hidden)
        require(min(widths) >= 1, "MLP", "in_features, hidden", widths, "widths >= 1")
        require(0.0 <= dropout < 1.0, "MLP", "dropout", dropout, "in [0, 1)")
        self.in_features = in_features
        self.layers: nnx.List[nnx.Linear] = nnx.List(
            nnx.Linear(fan_in, fan_out, rngs=rngs) for fan_in, fan_out in itertools.pairwise(widths)
        )
        self.output_shape: tuple[int, ...] | None = None
        if isinstance(output, Sequence):
            self.output_shape = tuple(output)
            output = math.prod(output)
        self.output: nnx.Module = output_layer("MLP", widths[-1], output, rngs)
        self.dropout: nnx.Dropout | None = (
            nnx.Dropout(dropout, rngs=rngs) if dropout > 0.0 else None
        )
        self.activation = activation

    def __call__(self, *inputs: Shaped[ArrayLike, "*batch _"]) -> Float[Array, "..."]:
        """The network's output.

        Args:
            *inputs: `[..., in_features]`; or parts of it `[..., F_n]`, as if side by side.

        Returns:
            `[..., P]`, or `[..., *output]` where the output is a shape.

        Raises:
            ValueError: The widths do not add up to `in_features`.
        """
        h = beside("MLP", self.in_features, inputs)
        for layer in self.layers:
            h = self.activation(layer(h))
            if self.dropout is not None:
                h = self.dropout(h)
        h = self.output(h)
        return h if self.output_shape is None else h.reshape(*h.shape[:-1], *self.output_shape)
