"""A transposed convolution whose derivatives are plain convolutions.

With C(y, k) the 4 x 4 convolution of stride 2, linear in both, its transpose T in the image is

    <T(x, k), y> = <x, C(y, k)>      for all y,

and therefore, with dy what arrives from above,

    dx = C(dy, k),      dk = the derivative of <x, C(dy, k)> in k,

as an encoder's layer has it. JAX derives dk from the zeros that T puts between the pixels of x,
which on CPU takes some twenty times as long.
"""

import jax
from jax import lax

from mdnjax._types import Array

_AXES = ("NHWC", "HWIO", "NHWC")


def halved(image: Array, kernel: Array) -> Array:
    """C: `[B, 2h, 2w, O]` and `[4, 4, O, I]` to `[B, h, w, I]`."""
    return lax.conv_general_dilated(image, kernel, (2, 2), "SAME", dimension_numbers=_AXES)


def doubled(x: Array, kernel: Array) -> Array:
    """T, by JAX's own rules: `[B, h, w, I]` and `[4, 4, O, I]` to `[B, 2h, 2w, O]`."""
    return lax.conv_transpose(
        x, kernel, (2, 2), "SAME", dimension_numbers=_AXES, transpose_kernel=True
    )


@jax.custom_vjp
def doubled_fused(x: Array, kernel: Array) -> Array:
    """`doubled`, reverse mode only."""
    return doubled(x, kernel)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return doubled(x, kernel), (x, kernel)


def _backward(residuals: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    dx, to_kernel = jax.vjp(lambda kernel: halved(dy, kernel), kernel)
    return dx, to_kernel(x)[0]


doubled_fused.defvjp(_forward, _backward)
