"""A trained model, rebuilt from its description."""

import dataclasses
import functools
import importlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax

from mdnjax.training.config import ConfigError, build
from mdnjax.training.errors import CheckpointError
from mdnjax.training.step import leaf_names

# The seam that turns a module of `nets` into functions. It is found by its public path when a
# model is loaded, so that this room stands without the other.
_SEAM = ("mdnjax.nets", "functional")


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A trained model, rebuilt from its checkpoint.

    Attributes:
        apply: `apply(params, state, *inputs, key=None, train=False) -> (output, state)`.
        params: The parameters, the run's average where it kept one.
        state: The network's other variables.
        head: The head described in the configuration, or None.
        normalizer: The normaliser described in the configuration, or None.
        config: All of `config.json`.
        module: The rebuilt module, for `nets.functional(module, method=...)`.
    """

    apply: Callable[..., tuple[Any, Any]]
    params: Any
    state: Any
    head: Any
    normalizer: Any
    config: Mapping[str, Any]
    module: Any

    @functools.cached_property
    def network(self) -> jax.tree_util.Partial:
        """`apply` with its parameters and state in it: `network(*inputs) -> output`.

        Its arrays are arguments, not constants, of the programs it is passed to: for
        `strokes.evaluate`, or with `load_model(path, method="step")` for `strokes.generate`.
        """

        def network(params: Any, state: Any, *inputs: Any) -> Any:
            return self.apply(params, state, *inputs)[0]

        return jax.tree_util.Partial(network, self.params, self.state)


def rebuild_model(config: Mapping[str, Any], file: pathlib.Path, *, method: str) -> Model:
    """Builds what a configuration describes; parameters and state are still initial ones.

    Args:
        config: The configuration, with `"architecture"` and maybe `"head"` and `"normalizer"`.
        file: Where it comes from, for the errors.
        method: The method of the network that `apply` calls.

    Returns:
        The model.

    Raises:
        CheckpointError: There is no architecture, or it is none of this package.
    """
    # Flax is needed only to rebuild a network.
    from flax import nnx

    if not isinstance(config.get("architecture"), dict):
        raise CheckpointError(
            f"{file}: expected an architecture, described with training.describe(Class, "
            f"**options) and given to fit as config; got {config.get('architecture')!r}."
        )
    try:
        module = build(config["architecture"], rngs=nnx.Rngs(0))
        head = build(config.get("head"))
        normalizer = build(config.get("normalizer"))
    except ConfigError as error:
        raise CheckpointError(f"{file}: {error}") from error
    room, seam = _SEAM
    functional = getattr(importlib.import_module(room), seam)(module, method=method)
    return Model(
        apply=functional.apply,
        params=functional.params,
        state=functional.state,
        head=head,
        normalizer=normalizer,
        config=config,
        module=module,
    )


def leaf_types(tree: Any, prefix: str = "") -> dict[str, str]:
    """Dtype and shape of every leaf by name, as `config.json` keeps them.

    >>> import numpy as np
    >>> leaf_types({"bias": np.zeros(3, np.float32)}, "params/")
    {'params/bias': 'float32[3]'}
    """
    described = (f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(tree))
    return dict(zip(leaf_names(tree, prefix), described, strict=True))


def what_differs(got: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """Says of which leaves two such indices differ; empty where they do not."""
    differ = sorted(n for n in {**got, **expected} if got.get(n) != expected.get(n))
    shown = (f"{n}: got {got.get(n)}, expected {expected.get(n)}" for n in differ[:5])
    return "; ".join(shown) + (f"; and {len(differ) - 5} more" if len(differ) > 5 else "")
