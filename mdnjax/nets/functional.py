"""The seam: a Flax NNX module becomes a pure function of plain pytrees.

Nothing else in the library sees an `nnx` object, so a training step is an ordinary `jax.jit`
function over dictionaries of arrays, and costs what one costs. Users of Linen, Haiku or Equinox
need nothing from here: a head takes any array.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from mdnjax._checks import require
from mdnjax._types import Key

Tree = dict[str, Any]


class Apply(Protocol):
    """A network as a pure function; see `functional`."""

    def __call__(
        self, params: Any, state: Any, *inputs: Any, key: Key | None = None, train: bool = False
    ) -> tuple[Any, Tree]:
        """Returns (output, new state)."""
        ...


class Functional(NamedTuple):
    """A network as a function and the two pytrees it starts from.

    Attributes:
        apply: `apply(params, state, *inputs, key=None, train=False) -> (output, state)`.
        params: What is learnt: the `nnx.Param` leaves as nested dictionaries with string keys.
        state: What is neither learnt nor random (batch statistics), likewise; `{}` where there
            is none.
    """

    apply: Apply
    params: Tree
    state: Tree


class _KeylessStream(nnx.RngStream):
    """A random stream that was given no key: it cannot be drawn from."""

    def __call__(self) -> jax.Array:
        raise ValueError(
            f"functional: key must be given, since the module draws from its random stream "
            f"{self.tag!r}, got None."
        )


def functional(module: nnx.Module, method: str = "__call__") -> Functional:
    """Splits a module into a pure function and its parameters.

    `train=True` is `module.train()` (dropout on, batch normalisation by the batch's own statistics,
    which it also averages into the returned state), `train=False` is `module.eval()`. Both are
    static. The function works under `jax.jit`, `grad`, `vmap` and `scan`.

    The module's random streams are part of neither `params` nor `state`: every call refills them
    from `key`, one independent key a stream, so equal keys give equal outputs. Without a key a
    draw is an error, never a repeated number. (The stream "carry" is exempt: `nnx.RNN` draws from
    it even to make a carry of zeros.) Variables that a call adds (`sow`) are dropped.

    Args:
        module: Any NNX module; it is not changed, and later changes to it are not seen. Its arrays
            are shared, not copied.
        method: The method to call. The parameters of two methods of one module are the same
            pytree, so a network trained through one is used through the other.

    Returns:
        `Functional(apply, params, state)`.

    Raises:
        ValueError: The module lacks the method; when applied: a draw without a
            key, or `params` or `state` of another structure.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> from mdnjax import nets
        >>> net = nets.functional(nets.MLP(1, (16,), 9, rngs=nnx.Rngs(0)))
        >>> raw, state = jax.jit(net.apply)(net.params, net.state, jnp.zeros((4, 1)))
        >>> raw.shape, state
        ((4, 9), {})
    """
    require(
        callable(getattr(module, method, None)),
        "functional",
        "method",
        repr(method),
        f"a method of {type(module).__name__}",
    )
    graphdef, *states = nnx.split(module, nnx.Param, nnx.RngKey, nnx.RngCount, ...)
    own_params, keys, counts, own_state = (_flatten(nnx.to_pure_dict(part)) for part in states)
    key_shapes = {path: value.shape for path, value in keys.items()}
    count_shapes = {path: value.shape for path, value in counts.items()}

    def apply(
        params: Any, state: Any, *inputs: Any, key: Key | None = None, train: bool = False
    ) -> tuple[Any, Tree]:
        variables = {
            **_renamed("params", params, own_params),
            **_renamed("state", state, own_state),
            **_fresh_keys(key, key_shapes),
            **{path: jnp.zeros(shape, jnp.uint32) for path, shape in count_shapes.items()},
        }
        copy = nnx.merge(graphdef, traverse_util.unflatten_dict(variables))
        copy.train() if train else copy.eval()
        if key is None:
            _lock_streams(copy)
        output = getattr(copy, method)(*inputs)
        after = _flatten(nnx.to_pure_dict(nnx.split(copy, nnx.Param, nnx.RngState, ...)[-1]))
        return output, _nested({path: after[path] for path in own_state})

    return Functional(apply, _nested(own_params), _nested(own_state))


def _flatten(tree: Any) -> dict[tuple[Any, ...], Any]:
    return traverse_util.flatten_dict(tree)


def _nested(leaves: dict[tuple[Any, ...], Any]) -> Tree:
    """Nested dictionaries with string keys: the indices of lists would not survive a checkpoint."""
    return traverse_util.unflatten_dict(
        {tuple(map(str, path)): value for path, value in leaves.items()}
    )


def _renamed(name: str, tree: Any, paths: Iterable[tuple[Any, ...]]) -> dict[tuple[Any, ...], Any]:
    """The leaves of a string-keyed tree under the module's own paths."""
    leaves = _flatten(tree)
    by_name = {tuple(map(str, path)): path for path in paths}
    if leaves.keys() != by_name.keys():
        wrong = sorted("/".join(map(str, path)) for path in leaves.keys() ^ by_name.keys())
        require(False, "apply", name, f"a tree that differs in {wrong}", "the module's own tree")
    return {by_name[path]: leaf for path, leaf in leaves.items()}


def _fresh_keys(
    key: Key | None, shapes: dict[tuple[Any, ...], tuple[int, ...]]
) -> dict[tuple[Any, ...], jax.Array]:
    """An independent key for every random stream, in the order of their paths."""
    # Without a key these are only ever met by a carry of zeros: see `_lock_streams`.
    base = jax.random.key(0) if key is None else key
    if not jnp.issubdtype(base.dtype, jax.dtypes.prng_key):
        base = jax.random.wrap_key_data(base)
    fresh = {}
    for index, path in enumerate(sorted(shapes, key=lambda path: tuple(map(str, path)))):
        stream = jax.random.fold_in(base, index)
        fresh[path] = jax.random.split(stream, shapes[path]) if shapes[path] else stream
    return fresh


def _lock_streams(module: nnx.Module) -> None:
    """Makes every draw from the module's random streams an error, `nnx.RNN`'s "carry" apart.

    Changing the class, not the values, keeps the streams arrays, so that a module which scans
    over them but does not draw (recurrent dropout, evaluated) works.
    """
    for _, node in nnx.iter_graph(module):
        if isinstance(node, nnx.RngStream) and node.tag != "carry":
            object.__setattr__(node, "__class__", _KeylessStream)
