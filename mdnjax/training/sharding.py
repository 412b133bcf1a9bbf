"""One step on many devices: the batch divided among them, everything else on each.

The step itself knows nothing of it. `jax.jit` follows where its arguments lie: with the batch
divided and the parameters replicated, each device works on its rows, and the gradients are summed
over all of them.

Several devices simulated on one CPU (`jax_num_cpu_devices`) are for tests: where each also wants
all threads for its products, XLA's sums over devices have been seen to wait for each other for
ever.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mdnjax._checks import require


def split_batch(batch: Any, mesh: Mesh) -> Any:
    """Divides the leading axis of every array among the devices of a mesh.

    Args:
        batch: A pytree of arrays `[B, ...]`, B a multiple of the number of devices.
        mesh: A mesh of one axis, whatever its name.

    Returns:
        The batch, on the devices.

    Raises:
        ValueError: The mesh has more than one axis, or B is no multiple of its devices.

    Example:
        >>> import jax
        >>> mesh = jax.make_mesh((1,), ("batch",))
        >>> split_batch({"x": np.zeros((4, 3))}, mesh)["x"].is_fully_addressable
        True
    """
    require(len(mesh.axis_names) == 1, "split_batch", "mesh", mesh.axis_names, "of one axis")
    for leaf in jax.tree.leaves(batch):
        shape = np.shape(leaf)
        require(
            len(shape) > 0 and shape[0] % mesh.size == 0,
            "split_batch",
            "batch",
            f"an array of shape {shape}",
            f"[B, ...] with B a multiple of the {mesh.size} devices",
        )
    return jax.device_put(batch, NamedSharding(_auto(mesh), PartitionSpec(mesh.axis_names[0])))


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


def _auto(mesh: Mesh) -> Mesh:
    """The mesh with the compiler in charge of how arrays inside a step are divided."""
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)
