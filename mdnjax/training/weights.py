"""A trained model as one `.safetensors` file, for whoever has no JAX."""

import dataclasses
import json
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mdnjax._checks import require_extra
from mdnjax._files import write_whole
from mdnjax.training.errors import CheckpointError, SaveError
from mdnjax.training.model import Model, leaf_types, rebuild_model, what_differs
from mdnjax.training.step import leaf_names

FORMAT_VERSION = 1
_KEY = "mdnjax"  # of the metadata: all JSON under one, for the library shuffles several
# What a run's configuration says of the run, not of the model.
_OF_THE_RUN = frozenset({"arrays", "progress", "format_version"})
_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
}


def write_safetensors(path: str | os.PathLike[str], model: Model) -> pathlib.Path:
    """Writes a model's weights, and all it takes to rebuild it, to one file.

    The arrays are named by their paths: `params/layers/0/kernel`, and `state/...` where the network
    has a state. The file's metadata hold the configuration, as JSON under `mdnjax`: `architecture`,
    `head`, `normalizer`, `versions` and what else was given to `fit` as `config`. Equal models make
    equal bytes.

    Args:
        path: The file; its folder must exist. It is whole or not there; an older one is replaced.
        model: From `load_model`.

    Returns:
        The file.

    Raises:
        SaveError: The file cannot be written; an older one is left as it was.
        ImportError: The package safetensors is not installed.
    """
    numpy = require_extra("safetensors.numpy", "train")
    path = pathlib.Path(path)
    trees = {"params/": model.params, "state/": model.state}
    arrays = {
        name: np.asarray(leaf, order="C")
        for prefix, tree in trees.items()
        for name, leaf in zip(leaf_names(tree, prefix), jax.tree.leaves(tree), strict=True)
    }
    document = {name: value for name, value in model.config.items() if name not in _OF_THE_RUN}
    document["format_version"] = FORMAT_VERSION
    # Sorted by name, but not within: the parts of a head, say, stand in an order that counts.
    text = json.dumps(dict(sorted(document.items())))
    content = numpy.save(arrays, {_KEY: text})
    try:
        write_whole(path, content)
    except OSError as error:
        raise SaveError(path, error) from error
    return path


def read_safetensors(path: str | os.PathLike[str], *, method: str = "__call__") -> Model:
    """Rebuilds a model from a file of `write_safetensors`, with nothing but the path.

    Args:
        path: The file.
        method: The method of the network that `apply` calls.

    Returns:
        The model, ready to apply: of the same outputs, bit for bit, as the one that was written.

    Raises:
        CheckpointError: It is not there or broken, was not written by `write_safetensors`, or its
            arrays and its architecture do not fit.
        ImportError: The package safetensors is not installed.
    """
    safetensors = require_extra("safetensors", "train")
    path = pathlib.Path(path)
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
        found = {name: _array(spec) for name, spec in safetensors.deserialize(path.read_bytes())}
        config = json.loads(metadata.get(_KEY, "{}"))
    # The library's own error is of a compiled class, whose place has moved.
    except Exception as error:
        raise CheckpointError(
            f"{path}: expected a file of write_safetensors; got {type(error).__name__}: {error}."
        ) from error
    got = config.get("format_version") if isinstance(config, dict) else None
    if got != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: got format version {got!r}, expected {FORMAT_VERSION}, the one that this "
            "mdnjax writes with write_safetensors."
        )
    model = rebuild_model(config, path, method=method)
    trees = {"params/": model.params, "state/": model.state}
    expected = {}
    for prefix, tree in trees.items():
        expected |= leaf_types(tree, prefix)
    got = {name: f"{array.dtype}{list(array.shape)}" for name, array in found.items()}
    if differ := what_differs(got, expected):
        raise CheckpointError(f"{path}: {differ}, as its architecture has it.")

    def filled(prefix: str) -> Any:
        tree = trees[prefix]
        leaves = [jnp.asarray(found[name]) for name in leaf_names(tree, prefix)]
        return jax.tree.unflatten(jax.tree.structure(tree), leaves)

    return dataclasses.replace(model, params=filled("params/"), state=filled("state/"))


def _array(spec: dict[str, Any]) -> np.ndarray:
    dtype = jnp.dtype(_DTYPES[spec["dtype"]])
    return np.frombuffer(spec["data"], dtype).reshape(spec["shape"])
