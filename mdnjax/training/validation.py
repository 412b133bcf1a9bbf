"""Nats per point over batches that were held out."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mdnjax._checks import require
from mdnjax._types import Array, Key
from mdnjax.training.sharding import split_batch
from mdnjax.training.step import Loss, real_loss


def make_validation(
    key: Key, loss: Loss, batches: Sequence[Any], *, mesh: Mesh | None = None
) -> Callable[[Any, Any], float]:
    """Compiles the mean of a loss over held-out batches.

    Batch i always gets the key `fold_in(key, i)`: what is random in the loss (dequantisation) is
    the same at every validation, so that successive values compare.

    Args:
        key: The validation's random key.
        loss: As for `make_step`, in its evaluation form (no dropout); its new state is dropped.
        batches: The batches, pytrees of arrays; few shapes, for each is compiled once.
        mesh: Devices to divide each batch among, as for `fit`; what does not divide is filled up.

    Returns:
        `validate(params, state) -> float`, sum(weight * nats) / sum(weight) over all batches.

    Raises:
        ValueError: There are no batches; or, at validation, no batch has any weight.

    >>> def loss(params, state, batch, key):
    ...     return (batch - params) ** 2, jnp.ones_like(batch), state
    >>> validate = make_validation(jax.random.key(0), loss, [np.ones(3), np.zeros(1)])
    >>> validate(jnp.array(0.0), {})
    0.75
    """
    require(len(batches) > 0, "make_validation", "batches", "none", "at least one")
    if mesh is not None:
        batches = [split_batch(batch, mesh) for batch in batches]

    @jax.jit
    def sums(params: Any, state: Any, batch: Any, index: Array) -> tuple[Array, Array]:
        nats, weight, _ = real_loss(loss, params, state, batch, jax.random.fold_in(key, index))
        return jnp.sum(weight * nats), jnp.sum(weight)

    def validate(params: Any, state: Any) -> float:
        parts = [sums(params, state, batch, np.int32(i)) for i, batch in enumerate(batches)]
        # Read at the end, so that the device never waits; summed in float64.
        total, weight = np.sum(np.asarray(jax.device_get(parts), np.float64), axis=0)
        require(
            bool(weight > 0), "make_validation", "weight", "0 in all batches", "positive somewhere"
        )
        return float(total / weight)

    return validate
