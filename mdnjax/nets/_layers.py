"""What the architectures share."""

from flax import nnx

from mdnjax._checks import require


def output_layer(
    function: str, in_features: int, output: int | nnx.Module, rngs: nnx.Rngs
) -> nnx.Module:
    """The module given, or a linear layer of the width given."""
    if isinstance(output, nnx.Module):
        return output
    require(output >= 1, function, "output", output, "a module, or a number of outputs >= 1")
    return nnx.Linear(in_features, output, rngs=rngs)
