r"""The last linear layer and the loss together, by blocks of rows.

With raw = h W + b, E_i = -log p(y_i | raw_i) and G_i = dE_i / d raw_i, the gradients of
sum_i c_i w_i E_i, where w are the weights and c the cotangents, are

    dW = sum_i c_i w_i h_i^T G_i,    db = sum_i c_i w_i G_i,
    dh_i = c_i w_i G_i W^T,          dy_i = c_i w_i dE_i / dy_i.

A block's G is at hand just after its raw outputs, so all four are formed in the forward pass, for
c = 1, and the block is forgotten: three matrix products, as in the plain composition. What belongs
to a row is then multiplied by its c_i, whatever c is. The sums over rows can be rescaled only if
all c_i are one number, which they are in a sum or a mean of what comes out; where they are not, the
sums are formed anew with the true c, at the price of two more products. A row of weight zero adds
nothing to a sum, and its c_i may be anything finite.

**Second derivatives.** Whichever way the gradients come about, they are the function
(h, W, b, y, w, c) -> (dh, dW, db, dy) above, and that is what is differentiated: the rules below
give them the derivative of the loop that forms them with the true c.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Shaped

from mdnjax._checks import require
from mdnjax._types import Array, ArrayLike, Shape
from mdnjax.mixtures.heads import Head

_BLOCK_BYTES = 2**24
"""Raw outputs of a block: the loss touches them several times, and a cache may hold them."""

_FEWEST_ROWS = 256
"""Fewer rows a block would starve the matrix products."""


def linear_nll(
    head: Head,
    hidden: Float[ArrayLike, "*hidden_batch H"],
    kernel: Float[ArrayLike, "H P"],
    bias: Float[ArrayLike, " P"],
    y: Any,
    *,
    weight: Shaped[ArrayLike, "*weight_batch"] | None = None,
    block_size: int | None = None,
) -> Float[Array, "*batch"]:
    """-log p(y) of the density with raw outputs hidden @ kernel + bias, times weight, in nats.

    The same as `weight * nll(head, hidden @ kernel + bias, y)`, by blocks of rows, so that neither
    the raw outputs nor their gradient exist whole: for wide heads, where they are the memory. What
    a gradient takes instead is its own size, and a few blocks.

    The gradient is formed in the forward pass, and costs no more than that of the composition where
    the result is summed or averaged: where every row of weight other than zero has the same
    cotangent. A masked mean is therefore

        linear_nll(head, hidden, kernel, bias, y, weight=mask).sum() / mask.sum()

    Weights that multiply the result afterwards are correct as well, but cost two more products.

    A batch of no more than `block_size` rows is computed as the plain composition, differentiable
    in every way. By blocks it is reverse mode that is defined (`jax.grad`, `jax.vjp`), and over it
    both modes, so Hessian-vector products by `jax.jvp` of `jax.grad`; for forward mode (`jax.jvp`,
    `jax.jacfwd`) write `nll(head, hidden @ kernel + bias, y)`, or a `block_size` that holds the
    batch. Under `jax.jit` with the rows divided among devices each goes through its own rows, and
    the gradients are summed once, if the flattened batch divides evenly; so too in `jax.shard_map`.

    Args:
        head: Any head; `nll(raw, y)` must broadcast batch axes, as the heads here do.
        hidden: `[..., H]`.
        kernel: `[H, P]`, P = `head.num_outputs`.
        bias: `[P]`.
        y: The targets, an array or a pytree as the head takes them; batch shapes broadcast.
        weight: By which each example's nats are multiplied: broadcasts to the batch shape. A weight
            of zero leaves exactly nothing of a finite row. By default 1.
        block_size: The largest number of rows whose raw outputs exist at a time, on each device
            among which they are divided. By default as many as make 16 MB of raw outputs, and at
            least 256.

    Returns:
        `[...]`, the broadcast batch shape, nats; at least float32. bfloat16 factors are multiplied
        as they are, their products summed in float32; the gradients, summed in float32, have the
        dtypes of the arguments.

    Raises:
        ValueError: The shapes do not fit the head or one another, or `block_size` is less than 1.

    Example:
        >>> import jax.numpy as jnp
        >>> import mdnjax as mdn
        >>> head = mdn.GaussianHead(num_components=2, dim=1)
        >>> hidden, kernel, bias = jnp.ones((4, 3)), jnp.zeros((3, 6)), jnp.zeros(6)
        >>> y = jnp.zeros((4, 1))
        >>> print(mdn.linear_nll(head, hidden, kernel, bias, y, block_size=2))  # log(2 pi) / 2
        [0.9189 0.9189 0.9189 0.9189]
    """
    hidden, kernel, bias = _checked(head, hidden, kernel, bias, block_size)
    y = jax.tree.map(jnp.asarray, y)
    raw = jax.ShapeDtypeStruct((*hidden.shape[:-1], head.num_outputs), bias.dtype)
    nats = jax.eval_shape(head.nll, raw, y)
    batch = nats.shape
    if weight is not None:
        weight = jnp.asarray(weight).astype(nats.dtype)
        fits = _broadcasts_to(weight.shape, batch)
        require(fits, "linear_nll", "weight", f"shape {weight.shape}", f"to broadcast to {batch}")
        weight = jnp.broadcast_to(weight, batch)

    if block_size is None:
        row_bytes = head.num_outputs * bias.dtype.itemsize
        block_size = max(_FEWEST_ROWS, _BLOCK_BYTES // row_bytes)
    groups = math.gcd(_num_devices(hidden), math.prod(batch))
    if math.prod(batch) <= block_size * groups:
        nats = head.nll(_product(hidden, kernel) + jnp.broadcast_to(bias, raw.shape), y)
        return nats if weight is None else weight * nats

    def rows(x: Array, batch_rank: int) -> Array:
        event = x.shape[batch_rank:]
        return jnp.broadcast_to(x, (*batch, *event)).reshape(groups, -1, *event)

    leaves, structure = jax.tree.flatten(y)
    inputs = _Inputs(
        rows(hidden, hidden.ndim - 1),
        kernel,
        bias,
        tuple(map(rows, leaves, _batch_ranks(head, y))),
        None if weight is None else rows(weight, len(batch)),
    )
    plan = _Plan(head, structure, block_size)
    return _nll_by_blocks(plan, _varying_alike(inputs)).reshape(batch)


def _checked(
    head: Head, hidden: Any, kernel: Any, bias: Any, block_size: Any
) -> tuple[Array, Array, Array]:
    """Hidden and kernel in the dtype of their product, the bias in that of its sums."""
    where, num_outputs = "linear_nll", head.num_outputs
    hidden, kernel, bias = jnp.asarray(hidden), jnp.asarray(kernel), jnp.asarray(bias)
    require(hidden.ndim >= 1, where, "hidden", f"shape {hidden.shape}", "[..., H]")
    shape, width = (hidden.shape[-1], num_outputs), hidden.shape[-1]
    expected = f"of shape {shape}, for hidden [..., {width}] and {head}"
    require(kernel.shape == shape, where, "kernel", f"shape {kernel.shape}", expected)
    expected = f"of shape {(num_outputs,)} for {head}"
    require(bias.shape == (num_outputs,), where, "bias", f"shape {bias.shape}", expected)
    is_count = isinstance(block_size, int) and not isinstance(block_size, bool) and block_size >= 1
    expected = "None or an int >= 1"
    require(block_size is None or is_count, where, "block_size", repr(block_size), expected)
    dtype = jnp.result_type(hidden, kernel)
    if dtype != jnp.bfloat16:
        # The range of float16 is too small for gradients that are not yet divided by a count.
        dtype = jnp.result_type(dtype, jnp.float32)
    wide = jnp.result_type(dtype, bias, jnp.float32)
    return hidden.astype(dtype), kernel.astype(dtype), bias.astype(wide)


def _broadcasts_to(shape: Shape, target: Shape) -> bool:
    try:
        return jnp.broadcast_shapes(shape, target) == target
    except ValueError:
        return False


def _batch_ranks(head: Head, y: Any) -> list[int]:
    """How many leading axes of each leaf of y belong to the batch, which only the head knows.

    An axis of 2 put in front of a leaf, farther out than any other axis, comes out in the batch
    where the leaf's own axes begin.
    """
    leaves, structure = jax.tree.flatten(y)
    far = max(leaf.ndim for leaf in leaves)
    raw = jax.ShapeDtypeStruct((*(1,) * (2 * far + 1), head.num_outputs), jnp.float32)
    ranks = []
    for n, leaf in enumerate(leaves):
        marked = jax.ShapeDtypeStruct((2, *(1,) * far, *leaf.shape), leaf.dtype)
        others = [*leaves[:n], marked, *leaves[n + 1 :]]
        shape = jax.eval_shape(head.nll, raw, jax.tree.unflatten(structure, others)).shape
        ranks.append(far - shape.index(2))
    return ranks


class _Inputs(NamedTuple):
    """What the loop reads, G groups of R rows; or for each whether its gradient is wanted; or that.

    Each device has its own groups: a block is some rows of every group, so that no row travels.
    """

    hidden: Any  # [G, R, H]
    kernel: Any  # [H, P]
    bias: Any  # [P]
    y: tuple[Any, ...]  # the leaves, [G, R, ...]
    weight: Any  # [G, R] or None


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What is known before any number is: the head, the structure of y, rows a block at most."""

    head: Head
    structure: Any
    block_size: int

    def nll(self, raw: Array, y: tuple[Array, ...]) -> Array:
        return self.head.nll(raw, jax.tree.unflatten(self.structure, y))


def _loop(
    plan: _Plan, wanted: _Inputs | None, inputs: _Inputs, factor: Array | None
) -> tuple[Array, _Inputs]:
    """The nats `[G, R]`, and the wanted gradients of sum(factor * nats); the weight is not read.

    The sums over rows are divided by `_scale`: before they are divided by a count, sums over many
    rows may be larger than the largest number, where the mean is not.
    """
    groups, rows, _ = inputs.hidden.shape
    num_blocks = -(-rows // plan.block_size)
    size = -(-rows // num_blocks)
    wide = inputs.bias.dtype
    zero = _zero(inputs)
    wanted = wanted or jax.tree.map(lambda _: False, inputs)
    wants_raw = wanted.hidden or wanted.kernel or wanted.bias
    wanted_y = [n for n, want in enumerate(wanted.y) if want]

    def start(want: bool, x: Array, *, summed: bool = False) -> Array | None:
        if not want:
            return None
        # A sum for each group: added up over devices after the loop, not at every turn.
        return jnp.full((groups, *x.shape), zero.astype(wide)) if summed else jnp.full(x.shape, zero.astype(x.dtype))

    def block(carry: tuple[Array, _Inputs], n: Array) -> tuple[tuple[Array, _Inputs], None]:
        nats, grads = carry
        # The last block begins early enough to be whole; what it repeats is summed only once.
        begin = jnp.minimum(n * size, rows - size)
        fresh = (begin + jnp.arange(size) >= n * size).astype(wide) / _scale(inputs)

        def read(x: Array) -> Array:
            return lax.dynamic_slice_in_dim(x, begin, size, axis=1)

        def write(x: Array | None, update: Array) -> Array:
            return lax.dynamic_update_slice_in_dim(x, update.astype(x.dtype), begin, axis=1)

        hidden, y = read(inputs.hidden), tuple(map(read, inputs.y))

        def loss(raw: Array, some: list[Array]) -> Array:
            all_y = list(y)
            for n, leaf in zip(wanted_y, some, strict=True):
                all_y[n] = leaf
            return plan.nll(raw, tuple(all_y))

        raw = _product(hidden, inputs.kernel)
        raw = raw + jnp.broadcast_to(inputs.bias, raw.shape)
        if not (wants_raw or wanted_y):
            return (write(nats, plan.nll(raw, y)), grads), None
        block_nats, pull_back = jax.vjp(loss, raw, [y[n] for n in wanted_y])
        d_raw, d_y = pull_back(jnp.ones_like(block_nats) if factor is None else read(factor))
        all_y = list(grads.y)
        for n, update in zip(wanted_y, d_y, strict=True):
            all_y[n] = write(all_y[n], update)
        grads = grads._replace(y=tuple(all_y))
        narrow = d_raw.astype(inputs.kernel.dtype)
        if wanted.hidden:
            update = _einsum("grp,hp->grh", narrow, inputs.kernel)
            grads = grads._replace(hidden=write(grads.hidden, update))
        if wanted.kernel:
            masked = hidden * fresh.astype(hidden.dtype)[None, :, None]
            grads = grads._replace(kernel=grads.kernel + _einsum("grh,grp->ghp", masked, narrow))
        if wanted.bias:
            grads = grads._replace(bias=grads.bias + _einsum("r,grp->gp", fresh, d_raw))
        return (write(nats, block_nats), grads), None

    empty = _Inputs(
        start(wanted.hidden, inputs.hidden),
        start(wanted.kernel, inputs.kernel, summed=True),
        start(wanted.bias, inputs.bias, summed=True),
        tuple(map(start, wanted.y, inputs.y)),
        None,
    )
    dtype = jax.eval_shape(
        plan.nll,
        jax.ShapeDtypeStruct((1, 1, plan.head.num_outputs), wide),
        tuple(jax.ShapeDtypeStruct((1, 1, *x.shape[2:]), x.dtype) for x in inputs.y),
    ).dtype
    carry = (jnp.full((groups, rows), zero.astype(dtype)), empty)
    # A derivative of the loop in reverse keeps what enters a block, and not what is inside.
    block = jax.checkpoint(block, prevent_cse=False)
    (nats, grads), _ = lax.scan(block, carry, jnp.arange(num_blocks))
    kernel, bias = (None if x is None else jnp.sum(x, axis=0) for x in (grads.kernel, grads.bias))
    return nats, grads._replace(kernel=kernel, bias=bias)
