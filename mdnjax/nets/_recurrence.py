r"""The LSTM recurrence over time, with its derivative by autodiff or by hand.

With a_t = [x_t, h_{t-1}] W + b, cut into the pre-activations of four gates of width H,

    i = sigmoid(a_i + p_i c_{t-1})        input gate
    f = sigmoid(a_f + p_f c_{t-1})        forget gate
    g = tanh(a_g)                         candidate
    c_t = f c_{t-1} + i g                 cell
    o = sigmoid(a_o + p_o c_t)            output gate
    h_t = o tanh(c_t)                     hidden state

(Graves 2013, eq. 7 to 11; without peepholes p = 0). Where a new sequence starts at t, c_{t-1} and
h_{t-1} are forgotten first: both are multiplied by keep_t, 0 there and 1 elsewhere. Everything here
is time-major, `[T, ..., *]`; x_t may come in parts, which stand side by side.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from mdnjax._types import Array

State: TypeAlias = tuple[Array, Array]
"""(c, h), each `[..., H]`."""

Gates: TypeAlias = tuple[Array, Array, Array, Array]
"""(i, f, g, o), each `[..., H]`."""

Parts: TypeAlias = tuple[Array, ...]
"""An input in parts, each `[..., F_n]`; their widths add up to F."""

_CHUNK = 32
"""Steps of the backward pass whose gate gradients are kept at a time: about what a cache holds."""


class Weights(NamedTuple):
    """What a layer learns: kernel W `[F + H, 4H]`, bias b `[4H]`, peepholes p `[3, H]` or None."""

    kernel: Array
    bias: Array
    peephole: Array | None


def cell(weights: Weights, state: State, x: Sequence[Array]) -> tuple[State, Gates]:
    """One step of the recurrence: the next state, and the gates that made it."""
    c, h = state
    a = jnp.concatenate([*x, h], axis=-1) @ weights.kernel
    return activate(a + jnp.broadcast_to(weights.bias, a.shape), c, weights.peephole)


def activate(a: Array, c: Array, peephole: Array | None, *, axis: int = -1) -> tuple[State, Gates]:
    """The step from its pre-activations: the next state, and the gates.

    Args:
        a: Four times as wide as c along `axis`, the gates in the order i, f, g, o.
        c: The cell before.
        peephole: p_i, p_f, p_o, each broadcast to c; or None.
        axis: Where the gates stand one after another.
    """
    if peephole is None:
        i, f, g, o = _gates(a, axis)
        c = f * c + i * g
    else:
        a_i, a_f, a_g, a_o = jnp.split(a, 4, axis)
        p_i, p_f, p_o = _rows(peephole, c.shape)
        i = jax.nn.sigmoid(a_i + p_i * c)
        f = jax.nn.sigmoid(a_f + p_f * c)
        g = jnp.tanh(a_g)
        c = f * c + i * g
        o = jax.nn.sigmoid(a_o + p_o * c)
    return (c, o * jnp.tanh(c)), (i, f, g, o)


def _gates(a: Array, axis: int) -> Gates:
    """sigmoid, sigmoid, tanh, sigmoid of the quarters of a, by sigmoid(x) = (1 + tanh(x/2)) / 2.

    XLA divides one tanh of all four gates among the cores of a CPU; of four small functions each
    runs on one, while the others fall asleep: a third of the forward pass at 256 cells.
    """
    slopes = np.repeat([0.5, 0.5, 1.0, 0.5], a.shape[axis] // 4).astype(a.dtype)
    half = jnp.moveaxis(jnp.broadcast_to(slopes, jnp.moveaxis(a, axis, -1).shape), -1, axis)
    gates = half * jnp.tanh(half * a) + (1 - half)
    i, f, g, o = jnp.split(gates, 4, axis)
    return i, f, g, o


def _kept(state: State, keep: Array | None) -> State:
    """The state, forgotten where `keep` `[..., 1]` is 0."""
    return state if keep is None else (state[0] * keep, state[1] * keep)


def unroll(
    weights: Weights, state: State, xs: Parts, keep: Array | None = None
) -> tuple[State, Array]:
    """The recurrence over xs `[T, ..., F]`: the last state, and every h_t `[T, ..., H]`.

    `keep` is `[T, ..., 1]`; None keeps everything.
    """

    def step(state: State, at: tuple[Parts, Array | None]) -> tuple[State, Array]:
        x, keep = at
        state, _ = cell(weights, _kept(state, keep), x)
        return state, state[1]

    return jax.lax.scan(step, state, (xs, keep))


def unroll_fused(
    weights: Weights,
    state: State,
    xs: Parts,
    keep: Array | None = None,
    clip: float | None = None,
) -> tuple[State, Array]:
    """`unroll`, with a backward pass that forms weight gradients of many steps in one product.

    Autodiff of `unroll` adds a matrix of the size of W to the gradient at each step. Here the loop
    backwards only carries (dc, dh) and keeps da_t; then dW = sum_t [x_t, h_{t-1}]^T da_t is a
    product a chunk of steps. Reverse mode only, as every `custom_vjp`.

    With `clip`, each da_t is kept within +-clip, so that what flows back through time cannot grow
    without bound (Graves 2013, section 2.1).
    """
    if not len(xs[0]):  # the backward pass begins with a last step
        return unroll(weights, state, xs, keep)
    return _fused(clip, weights, state, xs, keep)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(
    clip: float | None, weights: Weights, state: State, xs: Parts, keep: Array | None
) -> tuple[State, Array]:
    del clip
    return unroll(weights, state, xs, keep)


class Residuals(NamedTuple):
    """What the backward pass reads: weights, the first h, and the rest by step, `[T, ..., *]`."""

    weights: Weights
    first_h: Array
    xs: Parts
    keep: Array | None
    hs: Array
    cs_before: Array
    gates: Gates


def _forward(
    clip: float | None, weights: Weights, state: State, xs: Parts, keep: Array | None
) -> tuple[tuple[State, Array], Residuals]:
    del clip
    first = state

    def step(
        state: State, at: tuple[Parts, Array | None]
    ) -> tuple[State, tuple[Array, Array, Gates]]:
        x, keep = at
        state = _kept(state, keep)
        new, gates = cell(weights, state, x)
        return new, (new[1], state[0], gates)

    last, (hs, cs_before, gates) = jax.lax.scan(step, state, (xs, keep))
    return (last, hs), Residuals(weights, first[1], xs, keep, hs, cs_before, gates)


def _backward(
    clip: float | None, residuals: Residuals, cotangents: tuple[State, Array]
) -> tuple[Weights, State, Parts, Array | None]:
    r"""With dh_t the sum of what arrives from the loss and from step t + 1, and c' = tanh(c_t).

    da_o = dh_t c' o(1-o)
    dc_t += dh_t o (1 - c'^2) + da_o p_o
    da_i = dc_t g i(1-i),  da_f = dc_t c_{t-1} f(1-f),  da_g = dc_t i (1-g^2)
    dc_{t-1} = dc_t f + da_i p_i + da_f p_f,  dh_{t-1} = da_t W_h^T   (times keep_t, both)

    and then, over a chunk of steps at once,

    dW += sum_t [x_t, h_{t-1}]^T da_t,  db += sum_t da_t,  dx_t = da_t W_x^T.

    The da of a chunk are read while they are still in the cache, and all chunks use the same
    memory: for all steps at once it would be fresh at every call, and its page faults alone cost a
    fifth of a training step on CPU.
    """
    weights, first_h, xs, keep, hs, cs_before, gates = residuals
    last, dhs = cotangents
    num_steps, ends = len(hs), list(itertools.accumulate(x.shape[-1] for x in xs))
    # Turned once, not at every step: XLA would fold the transpose into each product.
    *to_xs, to_h = jax.lax.optimization_barrier(tuple(jnp.split(weights.kernel.T, ends, axis=-1)))
    peepholes = None if weights.peephole is None else _rows(weights.peephole, first_h.shape)

    def step(state: State, t: Array) -> tuple[State, Array]:
        dc, dh = state
        dh_loss, c_before, (i, f, g, o) = _at((dhs, cs_before, gates), t)
        dh = dh + dh_loss
        squashed = jnp.tanh(f * c_before + i * g)
        da_o = dh * squashed * o * (1 - o)
        dc = dc + dh * o * (1 - squashed * squashed)
        if peepholes is not None:
            dc = dc + da_o * peepholes[2]
        da_i = dc * g * i * (1 - i)
        da_f = dc * c_before * f * (1 - f)
        da_g = dc * i * (1 - g * g)
        dc = dc * f
        if peepholes is not None:
            dc = dc + da_i * peepholes[0] + da_f * peepholes[1]
        da = jnp.concatenate([da_i, da_f, da_g, da_o], axis=-1)
        if clip is not None:
            da = jnp.clip(da, -clip, clip)
        return _kept((dc, da @ to_h), _at(keep, t)), da

    def chunk(
        carry: tuple[State, Weights], begin: Array | int, length: int
    ) -> tuple[tuple[State, Weights], Parts]:
        state, total = carry
        state, da = jax.lax.scan(step, state, begin + jnp.arange(length), reverse=True)
        x, h, k, c_before, (i, f, g, _) = jax.tree.map(
            lambda a: jax.lax.dynamic_slice_in_dim(a, begin, length),
            (xs, hs, keep, cs_before, gates),
        )
        h_before = jnp.where(begin > 0, _at(hs, jnp.maximum(begin - 1, 0)), first_h)
        h_before = jnp.concatenate([h_before[None], h[:-1]])
        h_before = h_before if k is None else h_before * k
        # A column of ones makes the bias' gradient a row of the same product. It contracts time
        # and batch as they are: merged, a batch divided among devices would have to be gathered.
        inputs = jnp.concatenate([*x, h_before, jnp.ones_like(da[..., :1])], axis=-1)
        lead = tuple(range(inputs.ndim - 1))
        dw = jnp.tensordot(inputs, da, (lead, lead))
        dpeephole = None
        if weights.peephole is not None:
            da_i, da_f, _, da_o = jnp.split(da, 4, axis=-1)
            pairs = ((da_i, c_before), (da_f, c_before), (da_o, f * c_before + i * g))
            dpeephole = jnp.stack([jnp.sum(d * c, lead) for d, c in pairs])
        total = jax.tree.map(jnp.add, total, Weights(dw[:-1], dw[-1], dpeephole))
        return (state, total), tuple(da @ to_x for to_x in to_xs)

    carry = last, jax.tree.map(jnp.zeros_like, weights)
    if num_steps <= _CHUNK or _is_divided(dhs):
        (state, total), dxs = chunk(carry, 0, num_steps)
    else:
        whole, rest = divmod(num_steps, _CHUNK)
        carry, dxs_rest = chunk(carry, whole * _CHUNK, rest) if rest else (carry, ())
        (state, total), dxs = jax.lax.scan(
            lambda carry, n: chunk(carry, n * _CHUNK, _CHUNK),
            carry,
            jnp.arange(whole),
            reverse=True,
        )
        dxs = tuple(dx.reshape(-1, *dx.shape[2:]) for dx in dxs)
        if rest:
            dxs = jax.tree.map(lambda *parts: jnp.concatenate(parts), dxs, dxs_rest)
    return total, state, dxs, jax.tree.map(jnp.zeros_like, keep)


_fused.defvjp(_forward, _backward)


def _at(tree: Any, t: Array | int) -> Any:
    """Every array of a tree at time t."""
    return jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, t, keepdims=False), tree)


def _is_divided(array: Array) -> bool:
    """Whether an array may lie in pieces on several devices, where the compiler decides.

    A sum over the batch inside a loop would then be a sum over devices at every turn.
    """
    mesh = jax.typeof(array).sharding.mesh
    kinds = zip(mesh.axis_sizes, mesh.axis_types, strict=True)
    return any(size > 1 and kind != jax.sharding.AxisType.Manual for size, kind in kinds)


def _rows(peephole: Array, shape: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """(p_i, p_f, p_o), each broadcast to `shape`."""
    p_i, p_f, p_o = (jnp.broadcast_to(row, shape) for row in peephole)
    return p_i, p_f, p_o
