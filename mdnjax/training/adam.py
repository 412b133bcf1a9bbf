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
    # By Cauchy and Schwarz the mean of the gradients, with weights b1^k, is at most so many times
    # the root of the mean of their squares, with weights b2^k. Squares that vanish leave gradients
    # of less than 1e-17 over eps.
    if weight_decay == 0 and 0 <= b1**2 < b2 < 1 and eps > 1e-20:
        return bounded(optimizer, 1 / math.sqrt((1 - b2) * (1 - b1**2 / b2)) + 1e-17 / eps)
    return optimizer
