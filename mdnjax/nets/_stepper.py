r"""One step of the network in time, with its weights cut and turned for thousands of steps.

With every vector a column, one for each line, and the weights of layer n cut by what they meet,

    a^n_t = W_x^n x_t + W_below^n h^{n-1}_t + W_h^n h^n_{t-1} + b^n
    raw_t = sum_n W_o^n h^n_t + b_o

(Graves 2013, eq. 2 to 5); from a on it is the LSTM of `_recurrence`. Kept in one matrix, as for
training, the products with h_{t-1} would wait for the layer below, though nothing else does; XLA
runs separate ones side by side. As columns, gates and layers are cut and joined without a copy.
On two cores, 3 layers of 400, a step took a quarter less so for one line, an eighth for 64.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from mdnjax._types import Array, ArrayLike
from mdnjax.nets import _recurrence as recurrence

Columns: TypeAlias = tuple[recurrence.State, ...]
"""For every layer its (c, h), each `[H, B]`."""


class LayerColumns(NamedTuple):
    """A layer's W_x `[4H, F]`, W_below `[4H, H']` (lowest: None), W_h `[4H, H]`, b `[4H, 1]`, p."""

    inputs: Array
    below: Array | None
    hidden: Array
    bias: Array
    peephole: Array | None
    """`[3, H, 1]` or None."""


class StackColumns(NamedTuple):
    """The layers, W_o `[P, H]` of each, and b_o `[P, 1]`."""

    layers: tuple[LayerColumns, ...]
    outputs: tuple[Array, ...]
    bias: Array


def layer_columns(weights: recurrence.Weights, in_features: int) -> LayerColumns:
    """Cuts a layer's kernel `[F + H' + H, 4H]` by rows and turns the pieces."""
    rows, width = weights.kernel.shape[0], weights.kernel.shape[1] // 4
    sizes = (in_features, rows - in_features - width, width)
    by_input, below, hidden = jax.lax.split(weights.kernel.T, sizes, axis=1)
    return LayerColumns(
        by_input,
        below if below.shape[1] else None,
        hidden,
        weights.bias[:, None],
        None if weights.peephole is None else weights.peephole[..., None],
    )


def stack_columns(layers: Sequence[LayerColumns], kernel: Array, bias: Array) -> StackColumns:
    """Cuts the output layer's kernel `[sum(H), P]` by layers."""
    widths = [layer.hidden.shape[1] for layer in layers]
    return StackColumns(
        tuple(layers), tuple(jax.lax.split(kernel.T, widths, axis=1)), bias[:, None]
    )


def step(weights: StackColumns, carry: Columns, inputs: ArrayLike) -> tuple[Columns, Array]:
    """One step for inputs `[B, F]`: the next carry, and outputs `[B, P]`."""
    x = jnp.asarray(inputs, weights.bias.dtype).T
    after: list[recurrence.State] = []
    for layer, (c, h) in zip(weights.layers, carry, strict=True):
        a = layer.hidden @ h + layer.inputs @ x
        if layer.below is not None:
            a = a + layer.below @ after[-1][1]
        a = a + jnp.broadcast_to(layer.bias, a.shape)
        state, _ = recurrence.activate(a, c, layer.peephole, axis=0)
        after.append(state)
    first, *others = (w @ h for w, (_, h) in zip(weights.outputs, after, strict=True))
    raw = sum(others, first)
    return tuple(after), (raw + jnp.broadcast_to(weights.bias, raw.shape)).T
