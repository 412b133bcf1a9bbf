"""Plain JSON descriptions of heads, networks and normalisers, and the way back.

Nothing is pickled. A description names a class of this package and holds the values it was made
from, so a checkpoint can be read by eye, and reading one runs no code but the package's own
constructors.
"""

import dataclasses
import importlib
import inspect
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_RESERVED = frozenset({"class", "function", "array"})
# Activations may be named in a description. Not all of jax.numpy: it also reads and writes files.
_ACTIVATIONS = {
    **{f"jax.nn.{name}": f for name, f in vars(jax.nn).items() if callable(f)},
    **{f"jax.numpy.{f.__name__}": f for f in (jnp.arctan, jnp.cos, jnp.exp, jnp.sin, jnp.square)},
}
_CLASS_PATH = re.compile(r"mdnjax(\.[A-Za-z]\w*)+")


class ConfigError(ValueError):
    """A value that has no description, or a description that names nothing of this package."""


def describe(value: Any, /, **options: Any) -> Any:
    """Describes a value in JSON.

    Args:
        value: One of
            a class of this package, with the `options` to call it with (a network), among which
            may be descriptions of further classes (its parts);
            a frozen dataclass of this package (a head, a schedule, a normaliser), nested at will;
            a function of `jax.nn` (or sin, cos, arctan, exp, square), or of this package;
            an array; a mapping with string keys; a tuple or list; a number, string, bool or None.
        **options: The arguments of the class; only with a class.

    Returns:
        Dicts, lists, numbers and strings that `build` turns back into an equal value. Tuples and
        lists both come back as tuples, which static descriptions need to be hashable.

    Raises:
        ConfigError: The value is none of these.

    >>> from mdnjax import training
    >>> describe(training.Schedule(peak=0.01, warmup=5))["fields"]
    {'peak': 0.01, 'warmup': 5, 'decay': 'cosine', 'final': 0.0}
    >>> describe(training.Schedule, peak=0.01)
    {'class': 'mdnjax.training.Schedule', 'options': {'peak': 0.01}}
    """
    if inspect.isclass(value):
        return {
            "class": _public_path(value),
            "options": {name: describe(option) for name, option in options.items()},
        }
    if options:
        raise ConfigError(f"describe: options go with a class, got {value!r}.")
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        # JSON has no infinities; repr keeps every bit of what it has.
        if not np.isfinite(value):
            raise ConfigError(f"describe: a number must be finite, got {value}.")
        return value
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        array = np.asarray(value)
        return {"array": array.tolist(), "dtype": array.dtype.name}
    if dataclasses.is_dataclass(value):
        fields = {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": _public_path(type(value)), "fields": fields}
    if isinstance(value, dict):
        if value.keys() == {"class", "options"}:
            return value  # a description already: of a part, among the options of a whole
        if not all(isinstance(name, str) for name in value) or _RESERVED & value.keys():
            reserved = ", ".join(sorted(_RESERVED))
            raise ConfigError(
                f"describe: a mapping must have string keys other than {reserved}, "
                f"got {list(value)}."
            )
        return {name: describe(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [describe(item) for item in value]
    if callable(value):
        return {"function": _function_path(value)}
    raise ConfigError(f"describe: {value!r} of type {type(value).__name__} has no description.")


def build(description: Any, /, **more: Any) -> Any:
    """Builds what `describe` described.

    Args:
        description: JSON from `describe`.
        **more: Further arguments, those a description cannot hold (a random key): passed to every
            described class, nested ones first, that has options and a parameter of that name.

    Returns:
        The value.

    Raises:
        ConfigError: A name is not a public one of `mdnjax` (nor an activation of JAX), its class
            does not accept what stands in the description, or no class takes one of `more`.

    >>> from mdnjax import training
    >>> schedule = training.Schedule(peak=0.01, warmup=5)
    >>> build(describe(schedule)) == schedule
    True
    """
    taken: set[str] = set()
    built = _build(description, more, taken)
    if more.keys() - taken:
        unused = ", ".join(sorted(more.keys() - taken))
        raise ConfigError(f"build: nothing in the description takes {unused}.")
    return built


def _build(description: Any, more: dict[str, Any], taken: set[str]) -> Any:
    if isinstance(description, list):
        return tuple(_build(item, more, taken) for item in description)
    if not isinstance(description, dict):
        return description
    if "function" in description:
        return _function(str(description["function"]))
    if "array" in description:
        try:
            return np.asarray(description["array"], dtype=jnp.dtype(description["dtype"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"build: {description} is not an array: {error}") from error
    if "class" not in description:
        return {name: _build(item, more, taken) for name, item in description.items()}
    path = str(description["class"])
    cls = _class(path)
    kind = "fields" if "fields" in description else "options"
    if not isinstance(description.get(kind), dict):
        raise ConfigError(f"build: {path} has neither fields nor options.")
    if kind == "fields" and not dataclasses.is_dataclass(cls):
        raise ConfigError(f"build: {path} must be a dataclass to have fields.")
    values = {name: _build(item, more, taken) for name, item in description[kind].items()}
    try:
        if kind == "fields" and not cls.__dataclass_params__.init:  # type: ignore[attr-defined]
            return _from_fields(cls, values)
        own = {}
        if kind == "options" and more:
            # Of __init__, not of the class: a metaclass may hide it, as that of nnx modules does.
            accepted = inspect.signature(cls.__init__).parameters
            own = {name: value for name, value in more.items() if name in accepted}
        taken.update(own)
        return cls(**values, **own)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"build: {path} does not accept {values}: {error}") from error


def _class(path: str) -> type:
    found = _lookup(path)
    if not inspect.isclass(found):
        raise ConfigError(f"build: class must be a class of mdnjax, got {path!r}.")
    return found


def _lookup(path: str) -> Any:
    """Finds a public object that `mdnjax` itself defines."""
    if not _CLASS_PATH.fullmatch(path):
        raise ConfigError(f"build: a name must be a public one of mdnjax, got {path!r}.")
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"build: mdnjax has no {path!r} (is it a later version's?).") from error
    # Modules of mdnjax also hold what they import; only what is defined here may be called.
    if not getattr(found, "__module__", "").startswith("mdnjax."):
        raise ConfigError(f"build: a name must be a public one of mdnjax, got {path!r}.")
    return found


def _public_path(found: Any) -> str:
    """The shortest public path of a class or function of `mdnjax`: the room's, where it has one.

    Rooms may move classes between their files; the rooms' own names are what stays.
    """
    module, name = found.__module__, found.__qualname__
    parts = module.split(".")
    for depth in range(2, len(parts) + 1):
        prefix = ".".join(parts[:depth])
        candidate = getattr(importlib.import_module(prefix), name, None)
        path = f"{prefix}.{name}"
        if candidate is found and parts[0] == "mdnjax" and _CLASS_PATH.fullmatch(path):
            return path
    raise ConfigError(f"describe: {module}.{name} must be a public class or function of mdnjax.")


def _function_path(function: Any) -> str:
    for path, activation in _ACTIVATIONS.items():
        if activation is function:
            return path
    if not hasattr(function, "__qualname__"):
        raise ConfigError(f"describe: {function!r} must be a function of jax.nn.")
    return _public_path(function)


def _function(path: str) -> Any:
    return _ACTIVATIONS[path] if path in _ACTIVATIONS else _lookup(path)


def _from_fields(cls: type, values: dict[str, Any]) -> Any:
    """Fills the fields of a dataclass whose constructor takes something other than its fields."""
    names = {field.name for field in dataclasses.fields(cls)}
    if names != values.keys():
        raise TypeError(f"expected the fields {sorted(names)}")
    made = object.__new__(cls)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made
