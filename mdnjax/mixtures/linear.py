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
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Shaped

from mdnjax._checks import require
from mdnjax._types import Array, ArrayLike, Shape
from mdnjax.mixtures.heads import Head

_BLOCK_BYTES = 2**23
"""Raw outputs of a block: the loss touches them several times, and a cache may hold them."""

_WHOLE_BYTES = 2**25
"""Raw outputs of a batch that is not worth a loop."""

_FEWEST_ROWS = 256
"""Fewer rows a block would starve the matrix products."""


def linear_nll(
    head: Head,
    hidden: Float[ArrayLike, "*hidden_batch _"],
    kernel: Float[ArrayLike, "H P"],
    bias: Float[ArrayLike, " _"],
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
            among which they are divided. By default as many as make 8 MB of raw outputs, and at
            least 256; but all of them up to 32 MB, and where P < H, since there blocks save neither
            memory nor time.

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

    References:
        P.-L. Hsu et al. "Liger Kernel: Efficient Triton Kernels for LLM Training." 2024,
        arXiv:2410.10989: for classification, the last layer and cross-entropy by blocks of rows,
        with the gradient in the forward pass.
        E. Wijmans et al. "Cut Your Losses in Large-Vocabulary Language Models." 2024,
        arXiv:2411.09009: the same two in one kernel that never writes the logits out.
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

    groups = math.gcd(_num_devices(hidden), math.prod(batch))
    group_size = math.prod(batch) // groups
    if block_size is None:
        row_bytes = head.num_outputs * bias.dtype.itemsize
        is_small = group_size * row_bytes <= _WHOLE_BYTES
        is_narrow = head.num_outputs < hidden.shape[-1]
        fitting = max(_FEWEST_ROWS, _BLOCK_BYTES // row_bytes)
        block_size = group_size if is_small or is_narrow else fitting
    if group_size <= block_size:
        products = _product("...h,hp->...p", hidden, kernel)
        return _times(weight, head.nll(products + jnp.broadcast_to(bias, raw.shape), y))

    def rows(x: Array, batch_rank: int) -> Array:
        event = x.shape[batch_rank:]
        return jnp.broadcast_to(x, (*batch, *event)).reshape(groups, -1, *event)

    leaves, structure = jax.tree.flatten(y)
    inputs = _Inputs(
        rows(hidden, hidden.ndim - 1),
        kernel,
        bias,
        tuple(rows(x, rank) for x, rank in zip(leaves, _batch_ranks(head, y), strict=True)),
        None if weight is None else rows(weight, len(batch)),
    )
    plan = _Plan(head, structure, nats.dtype, block_size)
    by_rows: Any = _nll_by_blocks(plan, _varying_alike(inputs))
    return by_rows.reshape(batch)


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
    """What the loop reads, G groups of R rows; or the gradient of each, or whether it is wanted.

    Each device has its own groups: a block is some rows of every group, so that no row travels.
    """

    hidden: Any  # [G, R, H]
    kernel: Any  # [H, P]
    bias: Any  # [P]
    y: tuple[Any, ...]  # the leaves, [G, R, ...]
    weight: Any  # [G, R] or None


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What is known before any number is."""

    head: Head
    structure: Any  # of y
    dtype: Any  # of the nats
    block_size: int  # rows of a group, at most

    def nll(self, raw: Array, y: Sequence[Array]) -> Array:
        return self.head.nll(raw, jax.tree.unflatten(self.structure, y))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _nll_by_blocks(plan: _Plan, inputs: _Inputs) -> Array:
    """Nats times weight, `[G, R]`."""
    return _times(inputs.weight, _loop(plan, None, inputs, None)[0])


def _forward(plan: _Plan, primals: _Inputs) -> tuple[Array, tuple[_Inputs, Array, _Inputs]]:
    inputs = jax.tree.map(lambda x: x.value, primals)
    wanted = jax.tree.map(lambda x: x.perturbed, primals)
    nats, kept = _value_and_gradients(plan, wanted, inputs)
    return _times(inputs.weight, nats), (inputs, nats, kept)


def _backward(
    plan: _Plan, residuals: tuple[_Inputs, Array, _Inputs], cotangent: Any
) -> tuple[_Inputs]:
    if isinstance(cotangent, jax.custom_derivatives.SymbolicZero):
        cotangent = jnp.zeros_like(residuals[1])
    return (_pull_back(plan, *residuals, cotangent),)


_nll_by_blocks.defvjp(_forward, _backward, symbolic_zeros=True)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _value_and_gradients(plan: _Plan, wanted: _Inputs, inputs: _Inputs) -> tuple[Array, _Inputs]:
    """The nats, and of the wanted gradients what `_pull_back` needs."""
    return _loop(plan, wanted, inputs, inputs.weight)


def _value_and_gradients_jvp(plan, wanted, primals, tangents):
    nats, kept = _value_and_gradients(plan, wanted, *primals)
    _, nats_dot = jax.jvp(lambda inputs: _loop(plan, None, inputs, None)[0], primals, tangents)
    # How the gradients vary with the inputs is in the derivative of _pull_back.
    return (nats, kept), (nats_dot, jax.tree.map(jnp.zeros_like, kept))


_value_and_gradients.defjvp(_value_and_gradients_jvp)


# As with the loop, outside of `jit` the condition would be compiled anew each time.
@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
@functools.partial(jax.jit, static_argnums=0, inline=True)
def _pull_back(
    plan: _Plan, inputs: _Inputs, nats: Array, kept: _Inputs, cotangent: Array
) -> _Inputs:
    """The gradients of sum(cotangent * weight * nats), from those of sum(weight * nats)."""
    kernel, bias, times = kept.kernel, kept.bias, 1.0
    if kernel is not None or bias is not None:
        counts = jnp.ones(nats.shape, bool) if inputs.weight is None else inputs.weight != 0
        largest = jnp.max(cotangent, where=counts, initial=-jnp.inf)
        smallest = jnp.min(cotangent, where=counts, initial=jnp.inf)
        is_shared = (largest == smallest) & jnp.all(jnp.isfinite(cotangent))
        times = jnp.where(is_shared, largest, 1)
        sums = kept._replace(hidden=None, y=(None,) * len(kept.y))

        def anew() -> tuple[Array | None, Array | None]:
            factor = _times(inputs.weight, cotangent)
            _, grads = _loop(plan, _is_there(sums), inputs, factor)
            return grads.kernel, grads.bias

        kernel, bias = lax.cond(is_shared, lambda: (kept.kernel, kept.bias), anew)

    def by_row(x: Array) -> Array:
        return (x * cotangent.reshape(*nats.shape, *(1,) * (x.ndim - nats.ndim))).astype(x.dtype)

    hidden, y = jax.tree.map(by_row, (kept.hidden, kept.y))
    grads = _Inputs(hidden, kernel, bias, y, None)
    return _whole(inputs, nats, grads, cotangent, times)


def _pull_back_jvp(plan, primals, tangents):
    inputs, _, kept, cotangent = primals

    def exact(inputs: _Inputs, cotangent: Array) -> _Inputs:
        factor = _times(inputs.weight, cotangent)
        nats, grads = _loop(plan, _is_there(kept), inputs, factor)
        return _whole(inputs, nats, grads, cotangent, 1.0)

    return jax.jvp(exact, (inputs, cotangent), (tangents[0], tangents[3]))


_pull_back.defjvp(_pull_back_jvp)


def _whole(
    inputs: _Inputs, nats: Array, grads: _Inputs, cotangent: Array, times: Array | float
) -> _Inputs:
    """Gradients with that of the weight, and the sums scaled and in their dtypes."""
    times = times * _scale(inputs)
    kernel = None if grads.kernel is None else (grads.kernel * times).astype(inputs.kernel.dtype)
    bias = None if grads.bias is None else (grads.bias * times).astype(inputs.bias.dtype)
    weight = None if inputs.weight is None else nats * cotangent
    return grads._replace(kernel=kernel, bias=bias, weight=weight)


# Called outside of `jit`, a loop would be compiled anew each time.
@functools.partial(jax.jit, static_argnums=(0, 1), inline=True)
def _loop(
    plan: _Plan, wanted: _Inputs | None, inputs: _Inputs, factor: Array | None
) -> tuple[Array, _Inputs]:
    """The nats `[G, R]`, and the wanted gradients of sum(factor * nats); the weight is not read.

    Those that are sums over rows come divided by `_scale`.
    """
    rows = inputs.hidden.shape[1]
    num_blocks = -(-rows // plan.block_size)
    size = -(-rows // num_blocks)
    wanted = wanted or _is_there(jax.tree.map(lambda _: None, inputs))
    wanted_y = [n for n, is_wanted in enumerate(wanted.y) if is_wanted]

    def block(carry: tuple[Array, _Inputs], n: Array) -> tuple[tuple[Array, _Inputs], None]:
        nats, grads = carry
        # The last block begins early enough to be whole; what it repeats enters no sum twice.
        begin = jnp.minimum(n * size, rows - size)
        is_new = (begin + jnp.arange(size) >= n * size)[None, :, None]

        def read(x: Array) -> Array:
            return lax.dynamic_slice_in_dim(x, begin, size, axis=1)

        def write(x: Array, update: Array) -> Array:
            return lax.dynamic_update_slice_in_dim(x, update.astype(x.dtype), begin, axis=1)

        hidden, y = read(inputs.hidden), tuple(map(read, inputs.y))
        raw = _product("grh,hp->grp", hidden, inputs.kernel)
        raw = raw + jnp.broadcast_to(inputs.bias, raw.shape)

        def loss(raw: Array, some_y: list[Array]) -> Array:
            return plan.nll(raw, _replaced(y, wanted_y, some_y))

        block_nats, pull_back = jax.vjp(loss, raw, [y[n] for n in wanted_y])
        nats = write(nats, block_nats)
        if not (wanted.hidden or wanted.kernel or wanted.bias or wanted_y):
            return (nats, grads), None
        d_raw, d_y = pull_back(jnp.ones_like(block_nats) if factor is None else read(factor))
        d_y = [write(grads.y[n], leaf) for n, leaf in zip(wanted_y, d_y, strict=True)]
        grads = grads._replace(y=_replaced(grads.y, wanted_y, d_y))
        if wanted.bias:
            new = jnp.where(is_new, d_raw / _scale(inputs), 0)
            grads = grads._replace(bias=grads.bias + jnp.sum(new, axis=1))
        d_raw = d_raw.astype(inputs.kernel.dtype)
        if wanted.hidden:
            d_hidden = _product("grp,hp->grh", d_raw, inputs.kernel)
            grads = grads._replace(hidden=write(grads.hidden, d_hidden))
        if wanted.kernel:
            new = jnp.where(is_new, hidden / _scale(inputs), 0)
            d_kernel = _product("grh,grp->ghp", new, d_raw)
            grads = grads._replace(kernel=grads.kernel + d_kernel)
        return (nats, grads), None

    # Sums begin as those over no rows: so they are divided among devices as the others will be,
    # one for each group, to be added up after the loop and not at every turn.
    hidden = inputs.hidden[:, :0]
    raw = _product("grh,hp->grp", hidden, inputs.kernel)
    raw = raw + jnp.broadcast_to(inputs.bias, raw.shape)
    empty = _Inputs(
        jnp.zeros_like(inputs.hidden) if wanted.hidden else None,
        _product("grh,grp->ghp", hidden, raw) if wanted.kernel else None,
        jnp.sum(raw, axis=1) if wanted.bias else None,
        _replaced(
            (None,) * len(inputs.y), wanted_y, [jnp.zeros_like(inputs.y[n]) for n in wanted_y]
        ),
        None,
    )
    carry = (jnp.sum(inputs.hidden[..., :0], axis=-1).astype(plan.dtype), empty)
    # Differentiated in reverse, the loop keeps what enters a block and not what is inside.
    block = jax.checkpoint(block, prevent_cse=False)
    (nats, grads), _ = lax.scan(block, carry, jnp.arange(num_blocks))
    kernel, bias = jax.tree.map(lambda x: jnp.sum(x, axis=0), (grads.kernel, grads.bias))
    return nats, grads._replace(kernel=kernel, bias=bias)


def _scale(inputs: _Inputs) -> float:
    """At least the number of rows, and a power of 2.

    Sums over rows are kept divided by it: a sum over many may be larger than the largest number,
    where the mean that is asked for is not.
    """
    groups, rows, _ = inputs.hidden.shape
    return float(2 ** math.ceil(math.log2(groups * rows)))


def _product(axes: str, a: Array, b: Array) -> Array:
    """A product of matrices, summed in at least float32."""
    return jnp.einsum(axes, a, b, preferred_element_type=jnp.result_type(a, b, jnp.float32))


def _times(weight: Array | None, x: Array) -> Array:
    return x if weight is None else weight * x


def _is_there(tree: _Inputs) -> _Inputs:
    """Which leaves are not None."""
    return jax.tree.map(lambda x: x is not None, tree, is_leaf=lambda x: x is None)


def _replaced(values: tuple[Any, ...], indices: list[int], by: list[Any]) -> tuple[Any, ...]:
    new = dict(zip(indices, by, strict=True))
    return tuple(new.get(n, value) for n, value in enumerate(values))


def _num_devices(array: Array) -> int:
    """Over how many devices the compiler may divide an array."""
    mesh = jax.typeof(array).sharding.mesh
    kinds = zip(mesh.axis_sizes, mesh.axis_types, strict=True)
    return math.prod(size for size, kind in kinds if kind != jax.sharding.AxisType.Manual)


def _varying_alike(inputs: _Inputs) -> _Inputs:
    """The inputs, each varying over all axes of `shard_map` over which one of them does.

    So a gradient has the type of its primal, and is summed over devices where that is replicated.
    """
    kinds = jax.typeof(inputs.hidden).sharding.mesh.axis_types
    if jax.sharding.AxisType.Manual not in kinds:
        return inputs
    # The sum of no numbers is 0, and varies as they would.
    sums = [jnp.sum(lax.stop_gradient(x).ravel()[:0]) for x in jax.tree.leaves(inputs)]
    zero = functools.reduce(jnp.add, sums)
    return jax.tree.map(lambda x: x + zero.astype(x.dtype), inputs)
