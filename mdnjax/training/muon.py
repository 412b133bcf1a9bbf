"""Muon: steepest descent for hidden matrices, in which all directions learn at one rate.

The momentum M = U S V^T of a matrix is replaced by its polar factor U V^T, by Newton and Schulz's
iteration on X, which starts at M / ||M||_F:

    A = X X^T,    X <- (a I + b A + c A^2) X.

Here the iteration runs on A alone. With P = a I + b A + c A^2, the next A is P A P, for P and A
commute, and what X would be multiplied by is the product of all P. The long side of M is touched
twice, not twice an iteration: for an LSTM's kernel, where it is four times the short side, and on a
CPU, where this is no small part of a step, that is three times faster.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from mdnjax._checks import require
from mdnjax._types import Array
from mdnjax.training.step import leaf_names

# Jordan's coefficients: they take singular values from 0.03 to 1 to within about 0.3 of 1 in five
# iterations. Coefficients that converge to 1 itself would need twice as many.
_A, _B, _C = 3.4445, -4.7750, 2.0315


class MuonState(NamedTuple):
    """The momentum, a pytree like the parameters."""

    momentum: Any


def orthogonalize(matrix: Float[Array, "m n"], *, iterations: int = 5) -> Float[Array, "m n"]:
    r"""Approximates the polar factor U V^T of M = U S V^T.

    Args:
        matrix: M.
        iterations: Of Newton and Schulz.

    Returns:
        U S' V^T with the singular values S' near 1, where those of M are not much smaller than its
        largest; zero for a zero matrix.

    Example:
        >>> turned = orthogonalize(jnp.array([[0.0, -2.0], [1.0, 0.0]]))
        >>> bool(jnp.all(jnp.abs(jnp.abs(turned) - jnp.array([[0.0, 1.0], [1.0, 0.0]])) < 0.35))
        True

    References:
        K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    norm = jnp.linalg.norm(x)
    x = x / jnp.where(norm > 0, norm, 1)
    gram = x @ x.T
    identity = jnp.eye(x.shape[0], dtype=x.dtype)
    product = identity
    for _ in range(iterations):
        factor = _A * identity + _B * gram + _C * (gram @ gram)
        product = factor @ product
        gram = factor @ gram @ factor
    x = product @ x
    return x if wide else x.T


def scale_by_muon(
    *, momentum: float = 0.95, iterations: int = 5, rms: float = 0.2
) -> optax.GradientTransformation:
    r"""The polar factor of Nesterov's momentum, times rms sqrt(max(m, n)).

    With that factor an update has the root mean square `rms`, about what Adam's has, whatever the
    shape.

    Args:
        momentum: Decay of the momentum.
        iterations: See `orthogonalize`.
        rms: The root mean square of a matrix' update.

    Returns:
        An Optax transformation for trees of matrices.
    """

    def init(params: Any) -> MuonState:
        return MuonState(jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, MuonState]:
        del params

        def average(old: Array, new: Array) -> Array:
            return momentum * old + (1 - momentum) * new

        kept = jax.tree.map(average, state.momentum, updates)
        ahead = jax.tree.map(average, kept, updates)

        def direction(matrix: Array) -> Array:
            turned = orthogonalize(matrix, iterations=iterations)
            return rms * max(matrix.shape) ** 0.5 * turned

        return jax.tree.map(direction, ahead), MuonState(kept)

    return optax.GradientTransformation(init, update)


def muon(
    matrices: Callable[[str], bool],
    *,
    ratio: float = 2.0,
    clip: float | None = 1.0,
    momentum: float = 0.95,
    iterations: int = 3,
    b1: float = 0.9,
    b2: float = 0.99,
) -> optax.GradientTransformation:
    """Muon on hidden matrices, Adam on all else, behind a clip of the global gradient norm.

    At learning rate 1: the rate itself comes from the `Schedule` given to `make_step` or `fit`.

    Args:
        matrices: `matrices(name) -> bool`, by a parameter's path such as `"layers/0/kernel"`:
            whether a parameter of two dimensions is a hidden matrix. Output layers and embeddings
            are better left to Adam.
        ratio: Muon's learning rate in multiples of Adam's.
        clip: The gradient is scaled down where its global norm exceeds this; None never clips.
        momentum: Decay of Muon's momentum.
        iterations: See `orthogonalize`; in handwriting three learn as well as five.
        b1: Decay of Adam's first moment.
        b2: Decay of Adam's second moment.

    Returns:
        An Optax transformation.

    Raises:
        ValueError: `clip` or `ratio` is not positive; or, when initialised, no parameter is such
            a matrix.

    Example:
        >>> optimizer = muon(lambda name: name.startswith("hidden/"))
        >>> params = {"hidden": {"kernel": jnp.ones((3, 3))}, "out": {"kernel": jnp.ones((3, 1))}}
        >>> state = optimizer.init(params)

    References:
        J. Liu et al., "Muon is scalable for LLM training", 2025, section 2.2.
    """
    require(clip is None or clip > 0, "muon", "clip", clip, "positive, or None")
    require(ratio > 0, "muon", "ratio", ratio, "positive")

    def labels(params: Any) -> Any:
        leaves, structure = jax.tree.flatten(params)
        names = leaf_names(params)
        chosen = [
            jnp.ndim(leaf) == 2 and matrices(name) for name, leaf in zip(names, leaves, strict=True)
        ]
        require(any(chosen), "muon", "matrices", f"none of {list(names)}", "true of some matrix")
        return structure.unflatten("muon" if is_matrix else "adam" for is_matrix in chosen)

    return optax.chain(
        optax.identity() if clip is None else optax.clip_by_global_norm(clip),
        optax.multi_transform(
            {
                "muon": optax.chain(
                    scale_by_muon(momentum=momentum, iterations=iterations), optax.scale(ratio)
                ),
                "adam": optax.scale_by_adam(b1=b1, b2=b2),
            },
            labels,
        ),
        optax.scale(-1.0),
    )
