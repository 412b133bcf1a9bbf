"""A 4 x 4 convolution of stride 2 and its transpose, each of which is the other's derivative.

With C(y, k) the convolution, linear in both, its transpose T in the image is

    <T(x, k), y> = <x, C(y, k)>      for all y.

    of T(x, k), with dy what arrives:      dx = C(dy, k),      dk = D(dy, x)
    of C(y, k), with dx what arrives:      dy = T(dx, k),      dk = D(y, dx)

where D(y, x) is the derivative of <x, C(y, k)> in k. JAX derives that of T from the zeros that it
puts between the pixels of x, which on CPU takes some twenty times as long as D.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from mdnjax._types import Array

_AXES = ("NHWC", "HWIO", "NHWC")


def halved(image: Array, kernel: Array) -> Array:
    """C: `[B, 2h, 2w, O]` and `[4, 4, O, I]` to `[B, h, w, I]`; an odd side is rounded up."""
    return lax.conv_general_dilated(image, kernel, (2, 2), "SAME", dimension_numbers=_AXES)


def doubled(x: Array, kernel: Array) -> Array:
    """T: `[B, h, w, I]` and `[4, 4, O, I]` to `[B, 2h, 2w, O]`."""
    return lax.conv_transpose(
        x, kernel, (2, 2), "SAME", dimension_numbers=_AXES, transpose_kernel=True
    )


@jax.custom_vjp
def halved_fused(image: Array, kernel: Array) -> Array:
    """`halved` of even sides, reverse mode only."""
    return halved(image, kernel)


@jax.custom_vjp
def doubled_fused(x: Array, kernel: Array) -> Array:
    """`doubled`, reverse mode only."""
    return _doubled(x, kernel)


def _kept(function: Callable[[Array, Array], Array]) -> Callable[..., tuple[Array, tuple]]:
    return lambda a, kernel: (function(a, kernel), (a, kernel))


def _to_kernel(image: Array, small: Array, kernel: Array) -> Array:
    """D."""
    return jax.vjp(lambda kernel: halved(image, kernel), kernel)[1](small)[0]


def _halved_backward(residuals: tuple[Array, Array], dx: Array) -> tuple[Array, Array]:
    image, kernel = residuals
    return _doubled(dx, kernel), _to_kernel(image, dx, kernel)


def _doubled_backward(residuals: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    return halved(dy, kernel), _to_kernel(dy, x, kernel)


def _doubled(x: Array, kernel: Array) -> Array:
    return lax.platform_dependent(x, kernel, cpu=_by_product, default=doubled)


def _by_product(x: Array, kernel: Array) -> Array:
    """T as one product, of whose 4 x 4 patches four meet in every place: a third faster on CPU."""
    batch, height, width, inputs = x.shape
    outputs = kernel.shape[2]
    # The patch in 2 x 2 blocks (m, n) of 2 x 2 pixels (a, b), O channels each.
    blocks = kernel.reshape(2, 2, 2, 2, outputs, inputs).transpose(0, 2, 1, 3, 4, 5)
    parts = (x @ blocks.reshape(-1, inputs).T).reshape(batch, height, width, 2, 2, 4 * outputs)
    first, *others = (
        jnp.pad(parts[:, :, :, m, n], ((0, 0), (m, 1 - m), (n, 1 - n), (0, 0)))
        for m in (0, 1)
        for n in (0, 1)
    )
    sheet = sum(others, start=first)
    pixels = sheet.reshape(batch, height + 1, width + 1, 2, 2, outputs).transpose(0, 1, 3, 2, 4, 5)
    image = pixels.reshape(batch, 2 * height + 2, 2 * width + 2, outputs)
    return image[:, 1:-1, 1:-1]


halved_fused.defvjp(_kept(halved), _halved_backward)
doubled_fused.defvjp(_kept(_doubled), _doubled_backward)
