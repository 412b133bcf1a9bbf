"""Optimisers at learning rate 1: the rate itself comes from the `Schedule` of the step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from mdnjax._checks import require
from mdnjax.training.step import leaf_names


def adam(
    *,
    clip: float | None = 1.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """Adam behind a clip of the global gradient norm, at learning rate 1.

    The rate itself comes from the `Schedule` given to `make_step` or `fit`.

    Args:
        clip: The gradient is scaled down where its global norm exceeds this; None never clips.
        b1: Decay of the first moment.
        b2: Decay of the second moment.
        eps: Added to the root of the second moment.
        weight_decay: Decoupled weight decay, on matrices only (biases and scales are left alone).

    Returns:
        An Optax transformation.

    Raises:
        ValueError: `clip` is not positive.

    References:
        Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 1;
        Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019, algorithm 2.
    """
    require(clip is None or clip > 0, "adam", "clip", clip, "positive, or None")

    def matrices(params: Any) -> Any:
        return jax.tree.map(lambda p: jnp.ndim(p) > 1, params)

    return optax.chain(
        optax.identity() if clip is None else optax.clip_by_global_norm(clip),
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        optax.add_decayed_weights(weight_decay, matrices) if weight_decay else optax.identity(),
        optax.scale(-1.0),
    )


def muon(
    matrices: Callable[[str], bool],
    *,
    ratio: float = 2.0,
    clip: float | None = 1.0,
    momentum: float = 0.95,
    b1: float = 0.9,
    b2: float = 0.99,
) -> optax.GradientTransformation:
    r"""Muon on hidden matrices, Nadam on all else, behind a clip of the global gradient norm.

    A hidden matrix W `[m, n]` moves by an orthogonal matrix, the momentum's polar factor, so that
    all its directions learn at one rate:

    .. math::
        W \leftarrow W - 0.2\, \rho\, \eta\, \sqrt{\max(m, n)}\; U V^T,
        \qquad M = U S V^T,

    with U V^T from five Newton-Schulz iterations. The factor gives the update the root mean square
    that Adam's usually has, and rho is the ratio of the two learning rates. For recurrent networks
    on short budgets it is worth about twice the steps of Adam.

    Args:
        matrices: `matrices(name) -> bool`, by a parameter's path such as `"layers/0/kernel"`:
            whether a parameter of two dimensions is such a matrix. Input embeddings and output
            layers are better left to Nadam.
        ratio: rho.
        clip: The gradient is scaled down where its global norm exceeds this; None never clips.
        momentum: Decay of Muon's momentum (Nesterov's form).
        b1: Decay of Nadam's first moment.
        b2: Decay of Nadam's second moment.

    Returns:
        An Optax transformation.

    Raises:
        ValueError: `clip` or `ratio` is not positive; or, when initialised, there is no such
            matrix.

    Example:
        >>> optimizer = muon(lambda name: name.startswith("hidden/"))
        >>> params = {"hidden": {"kernel": jnp.ones((3, 3))}, "out": {"kernel": jnp.ones((3, 1))}}
        >>> state = optimizer.init(params)

    References:
        K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024;
        J. Liu et al., "Muon is scalable for LLM training", 2025, section 2.2.
    """
    require(clip is None or clip > 0, "muon", "clip", clip, "positive, or None")
    require(ratio > 0, "muon", "ratio", ratio, "positive")

    def dimensions(params: Any) -> Any:
        leaves, structure = jax.tree.flatten(params)
        names = leaf_names(params)
        chosen = [
            jnp.ndim(leaf) == 2 and matrices(name) for name, leaf in zip(names, leaves, strict=True)
        ]
        require(any(chosen), "muon", "matrices", f"none of {list(names)}", "true of some matrix")
        return structure.unflatten(
            contrib.MuonDimensionNumbers() if is_matrix else None for is_matrix in chosen
        )

    return optax.chain(
        optax.identity() if clip is None else optax.clip_by_global_norm(clip),
        contrib.muon(
            learning_rate=ratio,
            beta=momentum,
            consistent_rms=0.2,
            adam_learning_rate=1.0,
            adam_b1=b1,
            adam_b2=b2,
            muon_weight_dimension_numbers=dimensions,
        ),
    )
