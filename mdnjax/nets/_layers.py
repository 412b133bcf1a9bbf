"""What the architectures share."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx

from mdnjax._checks import require
from mdnjax._types import Array
from mdnjax.nets.output import MixtureDense


def output_layer(
    function: str, in_features: int, output: int | nnx.Module, rngs: nnx.Rngs
) -> nnx.Module:
    """The module given, or a linear layer of the width given."""
    if isinstance(output, nnx.Module):
        return output
    require(output >= 1, function, "output", output, "a module, or a number of outputs >= 1")
    return nnx.Linear(in_features, output, rngs=rngs)


def linear_weights(function: str, output: nnx.Module) -> tuple[Array, Array]:
    """(kernel `[H, P]`, bias `[P]`) of an output layer that is linear."""
    # Of these very classes: one derived from them may compute more, as Flax's LoRALinear does.
    if (type(output) is nnx.Linear or type(output) is MixtureDense) and output.bias is not None:
        return output.kernel[...], output.bias[...]
    raise ValueError(
        f"{function}: output must be nnx.Linear with a bias or MixtureDense, "
        f"got {type(output).__name__}."
    )


def beside(function: str, in_features: int, inputs: Sequence[Any]) -> Array:
    """Inputs `[..., F_n]` as one `[..., in_features]`."""
    parts = [jnp.asarray(part) for part in inputs]
    widths = [part.shape[-1] for part in parts]
    require(
        sum(widths) == in_features, function, "inputs", f"widths {widths}", f"{in_features} wide"
    )
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)
