"""A stack of LSTM layers with the skip connections of Graves' handwriting network."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Bool, Float

from mdnjax._checks import require
from mdnjax._types import Array, ArrayLike
from mdnjax.nets import _recurrence as recurrence
from mdnjax.nets import _stepper as stepper
from mdnjax.nets._layers import linear_weights, output_layer
from mdnjax.nets.output import MixtureDense

LSTMCarry: TypeAlias = tuple[tuple[Array, Array], ...]
"""For every layer its (c, h), cell and hidden state, each `[..., H]`."""


class _Layer(nnx.Module):
    """One layer's weights, gates in the order input, forget, candidate, output."""

    def __init__(self, in_features: int, width: int, *, peepholes: bool, rngs: nnx.Rngs) -> None:
        key = rngs.params()
        scaled = jax.nn.initializers.lecun_normal()(key, (in_features, 4 * width))
        orthogonal = [
            jax.nn.initializers.orthogonal()(rngs.params(), (width, width)) for _ in range(4)
        ]
        self.kernel = nnx.Param(jnp.concatenate([scaled, jnp.concatenate(orthogonal, 1)]))
        # A forget gate that starts open lets gradients through from the first step.
        self.bias = nnx.Param(jnp.zeros(4 * width).at[width : 2 * width].set(1.0))
        self.peephole = nnx.Param(jnp.zeros((3, width))) if peepholes else None

    def weights(self, dtype: jnp.dtype) -> recurrence.Weights:
        peephole = None if self.peephole is None else self.peephole[...].astype(dtype)
        return recurrence.Weights(
            self.kernel[...].astype(dtype), self.bias[...].astype(dtype), peephole
        )


class LSTMStack(nnx.Module):
    r"""Graves' network: the input feeds every layer, every layer feeds the output.

    With x_t the input and h^n_t the hidden state of layer n,

        h^1_t = LSTM(x_t, h^1_{t-1})
        h^n_t = LSTM([x_t, h^{n-1}_t], h^n_{t-1})
        raw_t = output([h^1_t, ..., h^N_t])

    Sequences need no mask: padding stands at their end, and what comes later cannot change an
    output. (Only the carry returned by `unroll` is then that of the padding.)

    Weights on inputs start LeCun-normal, recurrent ones orthogonal for each gate, the forget gates'
    biases at 1, peepholes and all other biases at 0.

    Args:
        in_features: F, of the input at one time.
        hidden: Width H of each layer, lowest first.
        output: The number of outputs P of a linear output layer, or a module to take its place,
            such as `MixtureDense`, on the sum(hidden) concatenated hidden states.
        peepholes: Whether the gates see the cell, as in Graves' network.
        backward: "fused": the backward pass keeps the gates' gradients and forms those of the
            weights from many steps in one product; reverse mode only. "scan": plain autodiff, any
            mode. Values and gradients are the same.
        clip_gradient: The derivative with respect to each gate's pre-activation is kept within
            plus or minus this, at every time, "fused" only; None clips nothing. It keeps a
            gradient that explodes in one sequence from drowning all others. Graves clips at 10 for
            a loss summed over points, which is 10 / N for a mean over N of them.
        rngs: Source of the initial weights.

    Raises:
        ValueError: There is no layer, a width is less than 1, `backward` is neither, or
            `clip_gradient` is not positive or goes with "scan".

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from mdnjax import nets
        >>> stack = nets.LSTMStack(3, (16, 16), 7, rngs=nnx.Rngs(0))
        >>> stack(jnp.zeros((2, 10, 3))).shape
        (2, 10, 7)
        >>> carry, raw = stack.step(stack.initial_carry((2,)), jnp.zeros((2, 3)))
        >>> raw.shape
        (2, 7)

    References:
        A. Graves. "Generating Sequences With Recurrent Neural Networks." 2013, sections 2 and 2.1.
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        output: int | nnx.Module,
        *,
        peepholes: bool = False,
        backward: Literal["fused", "scan"] = "fused",
        clip_gradient: float | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        hidden = tuple(hidden)
        require(len(hidden) > 0, "LSTMStack", "hidden", hidden, "at least one width")
        widths = (in_features, *hidden)
        require(min(widths) >= 1, "LSTMStack", "in_features, hidden", widths, "widths >= 1")
        require(
            backward in ("fused", "scan"), "LSTMStack", "backward", backward, "'fused' or 'scan'"
        )
        require(
            clip_gradient is None or (clip_gradient > 0 and backward == "fused"),
            "LSTMStack",
            "clip_gradient",
            f"{clip_gradient} with backward={backward!r}",
            "None, or positive with backward='fused'",
        )
        below = (0, *hidden[:-1])
        self.layers: nnx.List[_Layer] = nnx.List(
            _Layer(in_features + extra, width, peepholes=peepholes, rngs=rngs)
            for extra, width in zip(below, hidden, strict=True)
        )
        self.output: nnx.Module = output_layer("LSTMStack", sum(hidden), output, rngs)
        self.in_features = in_features
        self.hidden = hidden
        self.backward = backward
        self.clip_gradient = clip_gradient

    def initial_carry(self, batch_shape: Sequence[int] = ()) -> LSTMCarry:
        """The carry before the first input: zeros.

        Args:
            batch_shape: The shape `...` of the batch.

        Returns:
            (c, h) of every layer, each `[..., H]`.
        """
        dtype = self.layers[0].kernel.dtype
        return tuple(
            (jnp.zeros((*batch_shape, width), dtype), jnp.zeros((*batch_shape, width), dtype))
            for width in self.hidden
        )

    def __call__(
        self, inputs: Float[ArrayLike, "*batch T F"], carry: LSTMCarry | None = None
    ) -> Float[Array, "*batch T P"]:
        """The outputs for whole sequences.

        Args:
            inputs: `[..., T, F]`.
            carry: Where the sequences continue; zeros if None.

        Returns:
            `[..., T, P]`; what stands at t depends on the inputs up to and including t.

        Raises:
            ValueError: The inputs or the carry do not fit the stack.
        """
        return self.unroll(inputs, carry)[1]

    def unroll(
        self,
        inputs: Float[ArrayLike, "*batch T F"],
        carry: LSTMCarry | None = None,
        starts: Bool[Array, "*batch T"] | None = None,
    ) -> tuple[LSTMCarry, Float[Array, "*batch T P"]]:
        """`__call__`, and the carry with which the sequences continue.

        Args:
            inputs: `[..., T, F]`.
            carry: Where the sequences continue; zeros if None.
            starts: `[..., T]`, True where a new sequence starts: what came before is forgotten
                there. None where none does.

        Returns:
            (carry after T, outputs `[..., T, P]`).

        Raises:
            ValueError: The inputs or the carry do not fit the stack.
        """
        inputs = jnp.asarray(inputs)
        require(inputs.ndim >= 2, "LSTMStack", "inputs", f"shape {inputs.shape}", "[..., T, F]")
        dtype, carry = self._prepare(inputs, inputs.shape[:-2], carry)
        xs = jnp.moveaxis(inputs.astype(dtype), -2, 0)
        keep = None
        if starts is not None:
            shape = inputs.shape[:-1]
            got = f"shape {starts.shape}"
            require(starts.shape == shape, "LSTMStack", "starts", got, f"of shape {shape}")
            keep = jnp.moveaxis(1 - starts.astype(dtype), -1, 0)[..., None]
        after, hidden = [], []
        for layer, state in zip(self.layers, carry, strict=True):
            below = (xs, *hidden[-1:])
            weights = layer.weights(dtype)
            if self.backward == "fused":
                state, hs = recurrence.unroll_fused(weights, state, below, keep, self.clip_gradient)
            else:
                state, hs = recurrence.unroll(weights, state, below, keep)
            after.append(state)
            hidden.append(hs)
        # The outputs are turned back to batch-major, not the hidden states: they are narrower.
        return tuple(after), jnp.moveaxis(self._raw(hidden), 0, -2)

    def step(
        self, carry: LSTMCarry, inputs: Float[ArrayLike, "*batch F"]
    ) -> tuple[LSTMCarry, Float[Array, "*batch P"]]:
        """One step in time, by the same weights: for sampling, where an output is the next input.

        Args:
            carry: From `initial_carry`, `unroll` or the step before.
            inputs: `[..., F]`.

        Returns:
            (carry, outputs `[..., P]`).

        Raises:
            ValueError: The inputs or the carry do not fit the stack.
        """
        inputs = jnp.asarray(inputs)
        dtype, carry = self._prepare(inputs, inputs.shape[:-1], carry)
        x = inputs.astype(dtype)
        after, hidden = [], []
        for layer, state in zip(self.layers, carry, strict=True):
            state, _ = recurrence.cell(layer.weights(dtype), state, (x, *hidden[-1:]))
            after.append(state)
            hidden.append(state[1])
        return tuple(after), self._raw(hidden)

    def _raw(self, hidden: Sequence[Array]) -> Array:
        """The output layer on the hidden states of all layers."""
        if isinstance(self.output, MixtureDense):
            return self.output(*hidden)
        return self.output(jnp.concatenate(hidden, axis=-1))

    def stepper(
        self, carry: LSTMCarry
    ) -> tuple[jax.tree_util.Partial, tuple[tuple[Array, Array], ...]]:
        """`step` for thousands of steps: the weights are cut and turned once, for speed on CPU.

        Gives (step, carry) for `strokes.generate`: `step(carry, inputs [B, F])` returns
        (carry, outputs `[B, P]`) as the method does, to rounding, but its carry is laid out
        otherwise and starts from the one given here. It pays in layers of some hundreds of cells;
        in narrow ones, and on accelerators, where its more but smaller products may not, measure.

        Args:
            carry: `[B, H]` of every layer, from `initial_carry`, `unroll` or `step`.

        Returns:
            A `jax.tree_util.Partial`, whose weights are arguments of whatever is compiled with it,
            and the carry it starts from.

        Raises:
            ValueError: The carry is no batch or does not fit the stack, or the output layer is a
                module other than `nnx.Linear` and `MixtureDense`.

        Example:
            >>> import jax.numpy as jnp
            >>> from flax import nnx
            >>> from mdnjax import nets
            >>> stack = nets.LSTMStack(3, (16, 16), 7, rngs=nnx.Rngs(0))
            >>> step, carry = stack.stepper(stack.initial_carry((2,)))
            >>> carry, raw = step(carry, jnp.zeros((2, 3)))
            >>> raw.shape
            (2, 7)
        """
        kernel, bias = linear_weights("LSTMStack.stepper", self.output)
        batch_shape = carry[0][0].shape[:-1]
        require(
            len(batch_shape) == 1, "LSTMStack.stepper", "carry", f"batch {batch_shape}", "[B, H]"
        )
        inputs = jnp.zeros((*batch_shape, self.in_features), self.layers[0].kernel.dtype)
        dtype, carry = self._prepare(inputs, batch_shape, carry)
        layers = [
            stepper.layer_columns(layer.weights(dtype), self.in_features) for layer in self.layers
        ]
        weights = stepper.stack_columns(layers, kernel.astype(dtype), bias.astype(dtype))
        return jax.tree_util.Partial(stepper.step, weights), tuple((c.T, h.T) for c, h in carry)

    def _prepare(
        self, inputs: Array, batch_shape: tuple[int, ...], carry: LSTMCarry | None
    ) -> tuple[jnp.dtype, LSTMCarry]:
        """The dtype to compute in, and the carry in it; checks both arguments."""
        require(
            inputs.shape[-1] == self.in_features,
            "LSTMStack",
            "inputs",
            f"shape {inputs.shape}",
            f"[..., {self.in_features}]",
        )
        dtype = jnp.result_type(inputs.dtype, self.layers[0].kernel.dtype)
        if carry is None:
            carry = self.initial_carry(batch_shape)
        got = [[part.shape for part in state] for state in carry]
        expected = [[(*batch_shape, width)] * 2 for width in self.hidden]
        require(got == expected, "LSTMStack", "carry", f"shapes {got}", f"{expected}")
        return dtype, tuple((c.astype(dtype), h.astype(dtype)) for c, h in carry)
