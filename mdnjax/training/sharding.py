"""One step on many devices: the batch divided among them, everything else on each.

The step itself knows nothing of it. `jax.jit` follows where its arguments lie: with the batch
divided and the parameters replicated, each device works on its rows, and the gradients are summed
over all of them. A batch that cannot be divided evenly is filled up first, with rows that count for
nothing, so that the mean over the batch is still that of its own rows.

Several devices simulated on one CPU (`jax_num_cpu_devices`) are for tests: where each also wants
all threads for its products, XLA's sums over devices have been seen to wait for each other for
ever.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mdnjax._checks import require


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class PaddedBatch:
    """A batch filled up with copies of its last row, which count for nothing.

    Copies, because whatever a loss makes of the last row it also makes of them: where the row's
    nats and gradients are finite, so are theirs.

    Attributes:
        batch: The batch as a loss takes it; every array `[B', ...]`.
        real: `[B']` bool, False where a row is such a copy.
    """

    # Fields are `Any`: JAX also fills them with tracers, shapes and placeholders.
    batch: Any
    real: Any


def pad_batch(batch: Any, multiple: int) -> Any:
    """Fills a batch up to a multiple of rows.

    Args:
        batch: A pytree of arrays `[B, ...]`.
        multiple: What the number of rows is to be a multiple of.

    Returns:
        The batch itself where B is such a multiple; otherwise a `PaddedBatch` of host arrays.

    Raises:
        ValueError: There is no row, or the arrays differ in their number of rows.

    Example:
        >>> pad_batch(np.arange(3), 3)
        array([0, 1, 2])
        >>> pad_batch(np.arange(3), 4)
        PaddedBatch(batch=array([0, 1, 2, 2]), real=array([ True,  True,  True, False]))
    """
    rows = _rows(batch, "pad_batch")
    short = -rows % multiple
    if not short:
        return batch
    real = np.arange(rows + short) < rows
    if isinstance(batch, PaddedBatch):
        filled = _filled(batch, rows + short)
        return PaddedBatch(filled.batch, filled.real & real)
    return PaddedBatch(_filled(batch, rows + short), real)


def split_batch(batch: Any, mesh: Mesh) -> Any:
    """Divides the leading axis of every array among the devices of a mesh.

    Args:
        batch: A pytree of arrays `[B, ...]`; or a `PaddedBatch`.
        mesh: A mesh of one axis, whatever its name.

    Returns:
        The batch, on the devices; where B is no multiple of their number, as a `PaddedBatch`.
        `make_step`, `make_validation` and `fit` hand its rows to the loss and see to it that those
        that are filled in have no weight. Of the `state` given to `fit`, what has a row for each
        row of the batch (the carry of a recurrent network) is to be divided likewise.

    Raises:
        ValueError: The mesh has more than one axis, there is no row, or the arrays differ in their
            number of rows.

    Example:
        >>> import jax
        >>> mesh = jax.make_mesh((1,), ("batch",))
        >>> split_batch({"x": np.zeros((4, 3))}, mesh)["x"].is_fully_addressable
        True
    """
    require(len(mesh.axis_names) == 1, "split_batch", "mesh", mesh.axis_names, "of one axis")
    _rows(batch, "split_batch")
    by_row = NamedSharding(_auto(mesh), PartitionSpec(mesh.axis_names[0]))
    return jax.device_put(pad_batch(batch, mesh.size), by_row)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Copies every array to all devices of a mesh, but for those that lie on the mesh already.

    Args:
        tree: A pytree of arrays.
        mesh: The mesh.

    Returns:
        The tree. What `split_batch` divided (the carry of a recurrent network, which has a row for
        each row of the batch) stays divided.
    """
    mesh = _auto(mesh)
    everywhere = NamedSharding(mesh, PartitionSpec())

    def place(leaf: Any) -> Any:
        on_mesh = isinstance(leaf, jax.Array) and getattr(leaf.sharding, "mesh", None) == mesh
        return leaf if on_mesh else jax.device_put(leaf, everywhere)

    return jax.tree.map(place, tree)


@dataclasses.dataclass(frozen=True)
class StatePadding:
    """Which leaves of a network's state were filled up, and how many of their rows are real.

    The loss and the step see the filled leaves. Whoever looks from outside (the caller's
    validation, a result, a checkpoint, which is to be read on any number of devices) gets the real
    rows only.

    Attributes:
        rows: For each leaf its number of real rows, 0 where none were filled in.
    """

    rows: tuple[int, ...]

    @classmethod
    def of(cls, state: Any) -> tuple[Any, "StatePadding"]:
        """Returns a state with plain leaves, and which of them a `PaddedBatch` held."""

        def is_padded(node: Any) -> bool:
            return isinstance(node, PaddedBatch)

        nodes, structure = jax.tree.flatten(state, is_leaf=is_padded)
        rows: list[int] = []
        for node in nodes:
            real = int(np.sum(np.asarray(node.real))) if is_padded(node) else 0
            rows += [real] * len(jax.tree.leaves(node.batch if is_padded(node) else node))
        plain = structure.unflatten(node.batch if is_padded(node) else node for node in nodes)
        return plain, cls(tuple(rows))

    def trim(self, state: Any) -> Any:
        """The real rows of every leaf; those of a leaf that was filled up on one device."""
        if not any(self.rows):
            return state
        leaves, structure = jax.tree.flatten(state)
        return structure.unflatten(
            jnp.asarray(np.asarray(leaf)[:rows]) if rows else leaf
            for leaf, rows in zip(leaves, self.rows, strict=True)
        )

    def outside(self, validate: Callable[[Any, Any], float]) -> Callable[[Any, Any], float]:
        """A validation that is handed the real rows only."""
        return lambda params, state: validate(params, self.trim(state))

    def fill(self, state: Any, mesh: Mesh | None) -> Any:
        """The inverse of `trim`, divided among the devices."""
        if mesh is None or not any(self.rows):
            return state
        leaves, structure = jax.tree.flatten(state)
        return structure.unflatten(
            split_batch(leaf, mesh).batch if rows else leaf
            for leaf, rows in zip(leaves, self.rows, strict=True)
        )


def _rows(batch: Any, function: str) -> int:
    """The number of rows all arrays of a batch have."""
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(batch)]
    rows = {shape[0] if shape else 0 for shape in shapes}
    require(
        len(rows) <= 1 and 0 not in rows,
        function,
        "batch",
        f"arrays of shapes {sorted(set(shapes))}",
        "of arrays [B, ...] with one number B > 0 of rows",
    )
    return rows.pop() if rows else 0


def _filled(tree: Any, rows: int) -> Any:
    """Every array with its last row repeated until there are so many."""

    def fill(leaf: Any) -> np.ndarray:
        leaf = np.asarray(leaf)
        return leaf[np.minimum(np.arange(rows), len(leaf) - 1)]

    return jax.tree.map(fill, tree)


def _auto(mesh: Mesh) -> Mesh:
    """The mesh with the compiler in charge of how arrays inside a step are divided."""
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)
