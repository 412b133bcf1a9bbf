"""Checkpoints that are whole or not there, and carry all it takes to rebuild the model.

A checkpoint is a folder, complete from the moment it has its name:

    config.json      format and package versions, seed, progress, architecture, head, normaliser,
                     and the name, dtype and shape of every array
    model/           Orbax: params, and the average where there is one
    state/           Orbax: the network's state, where it has any
    training/        Orbax: the optimiser's state, step and budget

A run keeps `last/<step>` and `best/<step>`. `load_model` reads `model/` and `state/` only.
"""

import contextlib
import dataclasses
import errno
import importlib.metadata
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mdnjax._checks import require_extra
from mdnjax.training._folder import list_checkpoints
from mdnjax.training.errors import CheckpointError, SaveError
from mdnjax.training.model import Model, leaf_types, rebuild_model, what_differs
from mdnjax.training.state import TrainState
from mdnjax.training.step import leaf_names

FORMAT_VERSION = 1
_PACKAGES = ("mdnjax", "jax", "jaxlib", "numpy", "flax", "optax", "orbax-checkpoint")


def save_checkpoint(
    path: str | os.PathLike[str],
    state: TrainState,
    config: Mapping[str, Any],
) -> pathlib.Path:
    """Writes a checkpoint folder, atomically.

    All is written beside `path` under a hidden name and flushed to disk, then renamed: a process
    killed at any moment leaves a whole checkpoint or none.

    Args:
        path: The folder to make; it must not exist yet.
        state: The whole training state.
        config: JSON values kept in `config.json`; the format and package versions are added.

    Returns:
        The folder.

    Raises:
        CheckpointError: `path` exists already.
        SaveError: It cannot be written (a full disk, a folder that is read-only); nothing of it is
            left.
        ImportError: Orbax is not installed.
    """
    path = pathlib.Path(path).absolute()
    if path.exists():
        raise CheckpointError(f"save_checkpoint: {path} exists already; checkpoints never change.")
    require_extra("orbax.checkpoint", "train")
    items = _items(state)
    document = {"format_version": FORMAT_VERSION, "versions": package_versions(), **config}
    document["arrays"] = array_types(state)
    text = json.dumps(document, indent=2, allow_nan=False)
    unfinished = path.with_name(f".{path.name}.unfinished-{os.getpid()}")
    is_first = not path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_space(path.parent, sum(leaf.nbytes for leaf in jax.tree.leaves(items)))
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        for item, tree in items.items():
            _write_arrays(unfinished / item, tree)
        with (unfinished / "config.json").open("w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
        _sync_folder(path.parent)
    # A full disk reaches here as any of a dozen kinds, of Orbax, of TensorStore or of the system.
    except Exception as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        if is_first:
            # An empty last/ would look like a run.
            with contextlib.suppress(OSError):
                path.parent.rmdir()
        raise SaveError(path, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return path


def restore_checkpoint(
    path: str | os.PathLike[str], like: TrainState
) -> tuple[TrainState, dict[str, Any]]:
    """Reads a whole training state back.

    Args:
        path: A checkpoint, or a run's folder: then its newest `last` checkpoint.
        like: A state of the same structure, shapes, dtypes and sharding (that of a fresh run).

    Returns:
        The state, in new buffers, and the configuration.

    Raises:
        CheckpointError: There is none, its format is unknown, it is broken, or it is of another
            network or optimiser.
        ImportError: Orbax is not installed.
    """
    folder = find_checkpoint(path, prefer="last")
    config = read_config(folder)
    items = _items(like)
    if config.get("arrays", {}).keys() != items.keys():
        got = ", ".join(config.get("arrays", {})) or "no arrays"
        raise CheckpointError(f"{folder}: got {got}, expected {', '.join(items)}.")
    read = {item: _read_arrays(folder, item, tree, config) for item, tree in items.items()}
    fields = {name: tree for item in read.values() for name, tree in item.items()}
    return dataclasses.replace(like, **fields), config


def find_checkpoint(path: str | os.PathLike[str], *, prefer: str = "best") -> pathlib.Path:
    """Finds the checkpoint a path means.

    Args:
        path: A checkpoint; a folder of checkpoints, whose newest is taken; or a run's folder, of
            which `best` or `last` is taken.
        prefer: `"best"` or `"last"`; the other is taken where a run has not got it.

    Returns:
        The checkpoint's folder.

    Raises:
        CheckpointError: There is no complete checkpoint.
    """
    path = pathlib.Path(path).absolute()
    if (path / "config.json").is_file():
        return path
    kinds = ("best", "last") if prefer == "best" else ("last", "best")
    for folder in (path, *(path / kind for kind in kinds)):
        if found := list_checkpoints(folder):
            return found[-1]
    raise CheckpointError(
        f"{path}: expected a checkpoint (a folder with config.json), or a run with best/ or last/; "
        f"got {'a folder without' if path.is_dir() else 'nothing there'}."
    )


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a checkpoint's `config.json`.

    Raises:
        CheckpointError: It is missing, is not JSON, or has a format version other than this
            library's.
    """
    file = pathlib.Path(path) / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{file}: expected a checkpoint's config.json; it is not there."
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: expected JSON; got: {error}.") from error
    got = config.get("format_version") if isinstance(config, dict) else None
    if got != FORMAT_VERSION:
        written = config.get("versions", {}).get("mdnjax") if isinstance(config, dict) else None
        raise CheckpointError(
            f"{file}: got format version {got!r} (written by mdnjax {written}), "
            f"expected {FORMAT_VERSION}, the one this mdnjax reads."
        )
    return config


def load_model(path: str | os.PathLike[str], *, method: str = "__call__") -> Model:
    """Rebuilds a trained model from its checkpoint, with nothing but the path.

    The configuration must hold `"architecture"`, made with `describe(Class, **options)`; the
    class is called with `rngs=` for initial values, which the checkpoint's then replace.
    `"head"` and `"normalizer"` are built where they are there.

    Args:
        path: A checkpoint, or a run's folder: then its best checkpoint, or its last where there
            is no best.
        method: The method of the network that `apply` calls.

    Returns:
        The model, ready to apply.

    Raises:
        CheckpointError: There is no checkpoint, its format is unknown, it is broken, it has no
            architecture, or arrays and architecture do not fit.
        ImportError: Orbax is not installed.
    """
    folder = find_checkpoint(path)
    config = read_config(folder)
    model = rebuild_model(config, folder / "config.json", method=method)
    expected = {"params": model.params}
    if config.get("average") is not None:
        expected["average"] = model.params
    arrays = _read_arrays(folder, "model", expected, config)
    # A network without state of its own may have been trained with one of the loss's, such as
    # the carry of a recurrent network from batch to batch, which is no part of the model.
    state = model.state
    if jax.tree.leaves(state):
        state = _read_arrays(folder, "state", {"state": state}, config)["state"]
    params = arrays.get("average", arrays["params"])
    return dataclasses.replace(model, params=params, state=state)


def package_versions() -> dict[str, str]:
    """Returns the versions of this package and those it computes with, where installed."""
    versions = {}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def array_types(state: TrainState) -> dict[str, dict[str, str]]:
    """Dtype and shape of every array of a state, by item and name, as `config.json` keeps them."""
    return {item: leaf_types(tree) for item, tree in _items(state).items()}


def _items(state: TrainState) -> dict[str, dict[str, Any]]:
    model = {"params": state.params}
    if state.average is not None:
        model["average"] = state.average
    training = {"opt_state": state.opt_state, "step": state.step, "budget": state.budget}
    items = {"model": model, "state": {"state": state.state}, "training": training}
    return {name: item for name, item in items.items() if jax.tree.leaves(item)}


def _write_arrays(folder: pathlib.Path, tree: Any) -> None:
    """Writes the leaves of a tree, named by path: no structure but names is relied on."""
    ocp = require_extra("orbax.checkpoint", "train")
    leaves = dict(zip(leaf_names(tree), jax.tree.leaves(tree), strict=True))
    # Orbax has no arrays of size zero; their shape is known to whoever reads.
    leaves = {name: leaf for name, leaf in leaves.items() if leaf.size}
    with _quiet(), ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save(folder, args=ocp.args.StandardSave(leaves))


def _read_arrays(folder: pathlib.Path, item: str, like: Any, config: Mapping[str, Any]) -> Any:
    """Reads the leaves of a tree back, onto the devices of `like`."""
    ocp = require_extra("orbax.checkpoint", "train")
    got, expected = config.get("arrays", {}).get(item, {}), leaf_types(like)
    # Orbax would cast a dtype silently and report a shape from a thread.
    if differ := what_differs(got, expected):
        raise CheckpointError(f"{folder}: {differ}, as the network here has it.")
    leaves, structure = jax.tree.flatten(like)
    abstract = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=jnp.asarray(leaf).sharding)
        for name, leaf in zip(expected, leaves, strict=True)
        if leaf.size
    }
    try:
        with _quiet(), ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
            read = checkpointer.restore(folder / item, args=ocp.args.StandardRestore(abstract))
    # Orbax and TensorStore raise a dozen kinds for broken files; each means the same here.
    except Exception as error:
        raise CheckpointError(
            f"{folder / item}: expected {len(abstract)} readable arrays; "
            f"got {type(error).__name__}: {error}"
        ) from error
    filled = [
        read[name] if name in read else jnp.zeros(leaf.shape, leaf.dtype)
        for name, leaf in zip(expected, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, filled)


def _check_space(folder: pathlib.Path, size: int) -> None:
    """Refuses to begin what the disk has no room for.

    Were it found out midway, TensorStore's threads would still print what they think of it.
    """
    total, _, free = shutil.disk_usage(folder)
    # Weights compress by less than a tenth. Some network drives know of no size at all.
    if total > 0 and free < 0.9 * size:
        needed = f"{size / 1e6:.3g} MB are needed, {free / 1e6:.3g} MB are free"
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}, {needed}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Orbax from logging, with the traces of all its threads, what it raises anyway."""
    logger = logging.getLogger("absl")

    def drop(record: logging.LogRecord) -> bool:
        del record
        return False

    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)


def _sync_folder(folder: pathlib.Path) -> None:
    """Flushes a folder's entries, so that a rename survives a power cut; POSIX only."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
