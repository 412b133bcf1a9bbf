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
is time-major, `[T, ..., *]`.
"""

import functools
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from mdnjax._types import Array

State: TypeAlias = tuple[Array, Array]
"""(c, h), each `[..., H]`."""

Gates: TypeAlias = tuple[Array, Array, Array, Array]
"""(i, f, g, o), each `[..., H]`."""


class Weights(NamedTuple):
    """What a layer learns: kernel W `[F + H, 4H]`, bias b `[4H]`, peepholes p `[3, H]` or None."""

    kernel: Array
    bias: Array
    peephole: Array | None


def cell(weights: Weights, state: State, x: Array) -> tuple[State, Gates]:
    """One step of the recurrence: the next state, and the gates that made it."""
    c, h = state
    a = jnp.concatenate([x, h], axis=-1) @ weights.kernel
    a = a + jnp.broadcast_to(weights.bias, a.shape)
    a_i, a_f, a_g, a_o = jnp.split(a, 4, axis=-1)
    return activate((a_i, a_f, a_g, a_o), c, weights.peephole)


def activate(a: Gates, c: Array, peephole: Array | None) -> tuple[State, Gates]:
    """From the four pre-activations and c_{t-1}, each of one shape: (c_t, h_t), and the gates."""
    a_i, a_f, a_g, a_o = a
    p_i, p_f, p_o = _peepholes(peephole, c.shape)
    i = jax.nn.sigmoid(a_i if p_i is None else a_i + p_i * c)
    f = jax.nn.sigmoid(a_f if p_f is None else a_f + p_f * c)
    g = jnp.tanh(a_g)
    c = f * c + i * g
    o = jax.nn.sigmoid(a_o if p_o is None else a_o + p_o * c)
    return (c, o * jnp.tanh(c)), (i, f, g, o)


def _kept(state: State, keep: Array | None) -> State:
    """The state, forgotten where `keep` `[..., 1]` is 0."""
    return state if keep is None else (state[0] * keep, state[1] * keep)


def unroll(
    weights: Weights, state: State, xs: Array, keep: Array | None = None
) -> tuple[State, Array]:
    """The recurrence over xs `[T, ..., F]`: the last state, and every h_t `[T, ..., H]`.

    `keep` is `[T, ..., 1]`; None keeps everything.
    """

    def step(state: State, at: tuple[Array, Array | None]) -> tuple[State, Array]:
        x, keep = at
        state, _ = cell(weights, _kept(state, keep), x)
        return state, state[1]

    return jax.lax.scan(step, state, (xs, keep))


def unroll_fused(
    weights: Weights,
    state: State,
    xs: Array,
    keep: Array | None = None,
    clip: float | None = None,
) -> tuple[State, Array]:
    """`unroll`, with a backward pass that forms all weight gradients after its loop.

    Autodiff of `unroll` adds a matrix of the size of W to the gradient at each step. Here the loop
    backwards only carries (dc, dh) and keeps da_t; then dW = sum_t [x_t, h_{t-1}]^T da_t is one
    matrix product a gate. Reverse mode only, as every `custom_vjp`.

    With `clip`, each da_t is kept within +-clip, so that what flows back through time cannot grow
    without bound (Graves 2013, section 2.1).
    """
    return _fused(clip, weights, state, xs, keep)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(
    clip: float | None, weights: Weights, state: State, xs: Array, keep: Array | None
) -> tuple[State, Array]:
    del clip
    return unroll(weights, state, xs, keep)


Residuals: TypeAlias = tuple[Weights, State, Array, Array | None, Array, Array, Gates]


def _forward(
    clip: float | None, weights: Weights, state: State, xs: Array, keep: Array | None
) -> tuple[tuple[State, Array], Residuals]:
    del clip

    def step(
        state: State, at: tuple[Array, Array | None]
    ) -> tuple[State, tuple[Array, Array, Gates]]:
        x, keep = at
        state = _kept(state, keep)
        new, gates = cell(weights, state, x)
        return new, (new[1], state[0], gates)

    last, (hs, cs_before, gates) = jax.lax.scan(step, state, (xs, keep))
    return (last, hs), (weights, state, xs, keep, hs, cs_before, gates)


def _backward(
    clip: float | None, residuals: Residuals, cotangents: tuple[State, Array]
) -> tuple[Weights, State, Array, Array | None]:
    r"""With dh_t the sum of what arrives from the loss and from step t + 1, and c' = tanh(c_t).

    da_o = dh_t c' o(1-o)
    dc_t += dh_t o (1 - c'^2) + da_o p_o
    da_i = dc_t g i(1-i),  da_f = dc_t c_{t-1} f(1-f),  da_g = dc_t i (1-g^2)
    dc_{t-1} = dc_t f + da_i p_i + da_f p_f,  dh_{t-1} = da_t W_h^T   (times keep_t, both)
    """
    weights, first, xs, keep, hs, cs_before, gates = residuals
    (dc_last, dh_last), dhs = cotangents
    num_inputs = xs.shape[-1]
    kernels = jnp.split(weights.kernel, 4, axis=-1)
    to_hidden = [kernel[num_inputs:].T for kernel in kernels]
    p_i, p_f, p_o = _peepholes(weights.peephole, dc_last.shape)

    # The gates stay four arrays throughout: kept as one, which is cut and joined at every step,
    # they took this loop up to twice the time on CPU.
    def step(state: State, at: tuple[Array, Array, Gates, Array | None]) -> tuple[State, Gates]:
        dc, dh = state
        dh_loss, c_before, (i, f, g, o), keep = at
        dh = dh + dh_loss
        squashed = jnp.tanh(f * c_before + i * g)
        da_o = dh * squashed * o * (1 - o)
        dc = dc + dh * o * (1 - squashed * squashed)
        if p_o is not None:
            dc = dc + da_o * p_o
        da_i = dc * g * i * (1 - i)
        da_f = dc * c_before * f * (1 - f)
        da_g = dc * i * (1 - g * g)
        dc = dc * f
        if p_i is not None and p_f is not None:
            dc = dc + da_i * p_i + da_f * p_f
        da = (da_i, da_f, da_g, da_o)
        if clip is not None:
            da = jax.tree.map(functools.partial(jnp.clip, min=-clip, max=clip), da)
        return _kept((dc, _sum_of_products(da, to_hidden)), keep), da

    state, da = jax.lax.scan(step, (dc_last, dh_last), (dhs, cs_before, gates, keep), reverse=True)

    # A column of ones beside [x_t, h_{t-1}] makes the bias' gradient a row of the same product.
    hs_before = jnp.concatenate([first[1][None], hs[:-1]])
    hs_before = hs_before if keep is None else hs_before * keep
    ones = jnp.ones((*xs.shape[:-1], 1), hs.dtype)
    inputs = jnp.concatenate([xs, hs_before, ones], axis=-1)
    # Contracted over time and batch as they are: merged into one axis, a batch divided among
    # devices would have to be gathered.
    lead = tuple(range(inputs.ndim - 1))
    dw = jnp.concatenate([jnp.tensordot(inputs, d, (lead, lead)) for d in da], axis=-1)
    dpeephole = None
    if weights.peephole is not None:
        i, f, g, _ = gates
        cs = f * cs_before + i * g
        pairs = zip((da[0], da[1], da[3]), (cs_before, cs_before, cs), strict=True)
        dpeephole = jnp.stack([jnp.sum(d * c, lead) for d, c in pairs])
    dxs = _sum_of_products(da, [kernel[:num_inputs].T for kernel in kernels])
    return Weights(dw[:-1], dw[-1], dpeephole), state, dxs, jax.tree.map(jnp.zeros_like, keep)


_fused.defvjp(_forward, _backward)


def _peepholes(
    peephole: Array | None, shape: tuple[int, ...]
) -> tuple[Array, Array, Array] | tuple[None, None, None]:
    """(p_i, p_f, p_o), each broadcast to `shape`."""
    if peephole is None:
        return None, None, None
    p_i, p_f, p_o = (jnp.broadcast_to(row, shape) for row in peephole)
    return p_i, p_f, p_o


def _sum_of_products(da: Gates, kernels: list[Array]) -> Array:
    """da_i W_i^T + da_f W_f^T + da_g W_g^T + da_o W_o^T."""
    d_i, d_f, d_g, d_o = (d @ kernel for d, kernel in zip(da, kernels, strict=True))
    return (d_i + d_f) + (d_g + d_o)
