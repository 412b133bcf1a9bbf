"""The one value a training step maps to the next."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mdnjax._checks import require
from mdnjax._types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class TrainState:
    """Everything training carries from step to step, as a pytree.

    Attributes:
        params: What is learned; any pytree of floating-point arrays.
        state: What the network carries besides (batch statistics); `{}` where there is nothing.
        opt_state: The optimiser's state.
        step: `[]` int32, the number of steps done.
        budget: `[]` int32, the number of steps of the whole run. It is traced, so that a schedule
            follows a budget that is known late, without compiling anew.
        average: The bias-corrected exponential moving average of `params`, or None.
    """

    # Fields are `Any`: JAX also fills them with tracers, shapes and placeholders.
    params: Any
    state: Any
    opt_state: Any
    step: Any
    budget: Any
    average: Any = None

    @property
    def evaluated(self) -> Any:
        """The parameters to validate and to keep: the average where there is one."""
        return self.params if self.average is None else self.average


def copy_tree(tree: Any) -> Any:
    """Copies every leaf into a JAX array of its own, strongly typed.

    Args:
        tree: A pytree of arrays or numbers.

    Returns:
        The same tree; no leaf shares memory with the one it came from, so it can be donated.
    """

    def copy(leaf: Any) -> Array:
        # An explicit dtype drops weak types, with which the second step would compile anew.
        return jnp.array(leaf, dtype=jnp.result_type(leaf), copy=True)

    return jax.tree.map(copy, tree)


def init_state(
    params: Any,
    state: Any,
    optimizer: optax.GradientTransformation,
    *,
    budget: int,
    average: bool = False,
) -> TrainState:
    """Builds the state before the first step.

    Args:
        params: What is learned; copied, so that the step may donate its buffers.
        state: The network's other variables, `{}` where there are none; copied.
        optimizer: The Optax transformation the step will use.
        budget: Steps of the whole run, at least 1; schedules are functions of step and budget.
        average: Whether to keep a moving average of the parameters.

    Returns:
        The state at step 0; the average starts as a copy of the parameters.

    Raises:
        ValueError: `budget` is less than 1, or a parameter is not of a floating-point dtype.

    >>> import optax
    >>> init_state({"w": 1.0}, {}, optax.adam(1.0), budget=10).step
    Array(0, dtype=int32)
    """
    require(budget >= 1, "init_state", "budget", budget, "at least 1")
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        require(
            jnp.issubdtype(jnp.result_type(leaf), jnp.floating),
            "init_state",
            f"params{jax.tree_util.keystr(path)}",
            jnp.result_type(leaf),
            "of a floating-point dtype",
        )
    params = copy_tree(params)
    return TrainState(
        params=params,
        state=copy_tree(state),
        opt_state=copy_tree(optimizer.init(params)),
        step=jnp.zeros((), jnp.int32),
        budget=jnp.asarray(budget, jnp.int32),
        average=copy_tree(params) if average else None,
    )
