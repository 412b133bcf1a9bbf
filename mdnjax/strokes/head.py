"""What a network predicts of a line: the next offset and whether the pen is lifted after it."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from mdnjax._checks import require
from mdnjax._types import Array, Key
from mdnjax.mixtures import BernoulliHead, GaussianHead, ProductHead
from mdnjax.strokes.structure import Strokes


def stroke_head(num_components: int = 20) -> ProductHead:
    """The density of the next point: p(offset) p(pen_up).

    A mixture of K bivariate Gaussians with full covariances over the offset, times a Bernoulli for
    the end of the stroke: 6K + 1 raw outputs, the offset's first.

    Args:
        num_components: K; Graves uses 20, so 121 outputs.

    Returns:
        The head; its targets are `{"offset": [..., 2], "pen_up": [...]}`.

    Example:
        >>> stroke_head().num_outputs
        121

    References:
        A. Graves. "Generating Sequences With Recurrent Neural Networks." 2013, eq. 18 to 26.
    """
    return ProductHead(
        offset=GaussianHead(num_components=num_components, dim=2, covariance="full"),
        pen_up=BernoulliHead(),
    )


def next_step_pairs(
    strokes: Strokes,
) -> tuple[
    Float[Array | np.ndarray, "*batch S 3"],
    dict[str, Array | np.ndarray],
    Bool[Array | np.ndarray, "*batch S"],
]:
    """Inputs and targets of next-step prediction.

    The input at t is (dx_t, dy_t, pen_up_t), the target offset and pen_up of t + 1. Of a line of T
    points T - 1 are predicted: the first is given.

    Args:
        strokes: `[..., T]`, normalised if the network is to see normalised offsets.

    Returns:
        With S = T - 1: inputs `[..., S, 3]`, targets `{"offset": [..., S, 2], "pen_up": [..., S]}`,
        and the mask `[..., S]` that is True where there is a target. NumPy for NumPy, JAX for JAX.

    Raises:
        ValueError: T is less than 2.
    """
    offsets, pen_up, mask = strokes.offsets, strokes.pen_up, strokes.mask
    require(mask.shape[-1] >= 2, "next_step_pairs", "strokes", f"T = {mask.shape[-1]}", "T >= 2")
    xp = offsets.__array_namespace__()
    inputs = xp.concatenate([offsets, pen_up[..., None]], axis=-1)[..., :-1, :]
    targets = {"offset": offsets[..., 1:, :], "pen_up": pen_up[..., 1:]}
    return inputs, targets, mask[..., :-1] & mask[..., 1:]


def dequantize(
    key: Key, targets: Mapping[str, Array | np.ndarray], scale: tuple[float, float]
) -> dict[str, Array | np.ndarray]:
    """Targets with uniform noise of one device unit on their offsets.

    Device coordinates lie on a lattice, one device unit apart, so a density could buy any
    likelihood with needles there. Noise u ~ U(-1/2, 1/2)^2 device units takes that away: in device
    units, E_u[-log p(y + u)] is never less than -log of the probability that p gives to the whole
    cell of y, by Jensen's inequality (Theis et al. 2016), and a probability cannot exceed 1. Only
    targets are dequantised; the network's inputs stay as they are.

    Args:
        key: A random key, fresh each time in training.
        targets: `{"offset": [..., 2], "pen_up": [...]}` in normalised units.
        scale: One device unit in normalised units, `Normalizer.device_unit`.

    Returns:
        The targets, with noisy offsets.

    References:
        L. Theis, A. van den Oord and M. Bethge. "A note on the evaluation of generative models."
        2016, section 3.1.
    """
    offset = jnp.asarray(targets["offset"])
    unit = jnp.asarray(scale, offset.dtype).reshape((1,) * (offset.ndim - 1) + (2,))
    noise = jax.random.uniform(key, offset.shape, offset.dtype, minval=-0.5, maxval=0.5)
    return {**targets, "offset": offset + unit * noise}
