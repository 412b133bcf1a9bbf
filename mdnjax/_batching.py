"""How a batch of mixtures meets a batch of targets."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from mdnjax._checks import require
from mdnjax._types import Array, Shape

Tree = TypeVar("Tree")


def broadcast_with(
    function: str,
    name: str,
    tree: Tree,
    batch_shape: Shape,
    y: Any,
    dim: int,
    *,
    argument: str = "y",
) -> tuple[Tree, Array]:
    """`tree` and `y` with one batch shape, `y` in the dtype of `tree`.

    Args:
        function: The public function's name, for errors.
        name: What `tree` is called there.
        tree: A pytree of arrays of shape `[*batch_shape, ...]`.
        batch_shape: See `tree`.
        y: `[..., dim]`.
        dim: The expected last axis of `y`.
        argument: What `y` is called there.

    Returns:
        Both, broadcast.

    Raises:
        ValueError: The last axis of `y` is not `dim`, or the batches do not broadcast.
    """
    y = jnp.asarray(y)
    require(
        y.ndim >= 1 and y.shape[-1] == dim,
        function,
        argument,
        f"shape {y.shape}",
        f"[..., {dim}], the last axis being the event's",
    )
    batch = common_batch(function, (name, argument), batch_shape, y.shape[:-1])
    y = jnp.broadcast_to(y.astype(jax.tree.leaves(tree)[0].dtype), (*batch, dim))
    return broadcast_batch(tree, batch_shape, batch), y


def columns_with(function: str, raw: Array, y: Any, dim: int) -> tuple[Array, Array, Shape]:
    """Raw outputs and targets with their batch axes behind, flattened into one.

    Args:
        function: The public function's name, for errors.
        raw: `[P, ...]`.
        y: `[dim, ...]`.
        dim: The expected first axis of `y`.

    Returns:
        Both as columns, `[P, B]` and `[dim, B]` in the dtype of `raw`, and the batch shape.

    Raises:
        ValueError: The first axis of `y` is not `dim`, or the batches do not broadcast.
    """
    y = jnp.asarray(y)
    require(
        y.ndim >= 1 and y.shape[0] == dim,
        function,
        "y",
        f"shape {y.shape}",
        f"[{dim}, ...], the first axis being the event's",
    )
    batch = common_batch(function, ("raw", "y"), raw.shape[1:], y.shape[1:])

    def columns(x: Array) -> Array:
        return jnp.broadcast_to(
            x.reshape(len(x), *(1,) * (len(batch) - x.ndim + 1), *x.shape[1:]), (len(x), *batch)
        ).reshape(len(x), -1)

    return columns(raw), columns(y.astype(raw.dtype)), batch


def common_batch(function: str, names: tuple[str, str], one: Shape, other: Shape) -> Shape:
    """The batch shape that two broadcast to.

    Args:
        function: The public function's name, for errors.
        names: What has these shapes there.
        one: A batch shape.
        other: Another.

    Returns:
        Their common one.

    Raises:
        ValueError: There is none.
    """
    try:
        return jnp.broadcast_shapes(one, other)
    except ValueError:
        raise ValueError(
            f"{function}: the batch shapes of {' and '.join(names)} must broadcast, got {one} and "
            f"{other}."
        ) from None


def broadcast_batch(tree: Tree, batch_shape: Shape, batch: Shape) -> Tree:
    """A pytree of arrays `[*batch_shape, ...]` as one of `[*batch, ...]`."""
    rank = len(batch_shape)
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (*batch, *x.shape[rank:])), tree)
