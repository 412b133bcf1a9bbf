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
    try:
        batch = jnp.broadcast_shapes(batch_shape, y.shape[:-1])
    except ValueError:
        raise ValueError(
            f"{function}: the batch shapes of {name} and {argument} must broadcast, got "
            f"{batch_shape} and {y.shape[:-1]}."
        ) from None
    leaves = jax.tree.leaves(tree)
    y = jnp.broadcast_to(y.astype(leaves[0].dtype), (*batch, dim))
    rank = len(batch_shape)
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (*batch, *x.shape[rank:])), tree), y
