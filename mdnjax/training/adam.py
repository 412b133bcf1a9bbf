"""Adam at learning rate 1: the rate itself comes from the `Schedule` of the step."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mdnjax._checks import require
from mdnjax.training._finite import bounded


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

    optimizer = optax.chain(
        optax.identity() if clip is None else optax.clip_by_global_norm(clip),
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        optax.add_decayed_weights(weight_decay, matrices) if weight_decay else optax.identity(),
        optax.scale(-1.0),
    )
    sizes = (b1, b2, eps, weight_decay, clip or 1.0)
    are_numbers = all(isinstance(size, float | int) for size in sizes)  # else traced
    return bounded(optimizer, _largest(*sizes)) if are_numbers else optimizer


def _largest(b1: float, b2: float, eps: float, weight_decay: float, clip: float) -> float:
    """What no number of an update exceeds, or infinity.

    By Cauchy and Schwarz, the mean m of gradients with weights b1^k and the mean v of their squares
    with weights b2^k, each divided by its correction, have

        |m| / sqrt(v) <= 1 / sqrt((1 - b2) (1 - b1^2 / b2)).

    Squares that vanish in float32 leave an m of less than 2e-15, which eps takes to less than 1.
    """
    is_usual = b1 >= 0 and b1**2 <= 0.99 * b2 and b2 <= 1 - 1e-6 and eps >= 1e-12
    if not is_usual or weight_decay != 0 or clip > 1e38:
        return math.inf
    return 1 / math.sqrt((1 - b2) * (1 - b1**2 / b2)) + 1
