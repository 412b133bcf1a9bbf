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
    # Patches are the faster, but hold 16 O numbers for I of x; and a step whose scratch memory
    # exceeds 32 MB gets it from Linux page by page every time.
    patches_are_small = 8 * kernel.shape[2] <= kernel.shape[3]
    on_cpu = _by_patches if patches_are_small else _by_blocks
    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=doubled)


def _by_patches(x: Array, kernel: Array) -> Array:
    """T as one product, of whose 4 x 4 patches four meet in every place."""
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
    return _unblocked(sum(others, start=first), outputs)


def _by_blocks(x: Array, kernel: Array) -> Array:
    """T as a 2 x 2 convolution, whose every place is a block of 2 x 2 pixels."""
    outputs, inputs = kernel.shape[2:]
    # A block at i sees x at i - 1 through the patch's last two rows, x at i through the first.
    blocks = kernel.reshape(2, 2, 2, 2, outputs, inputs)[::-1, :, ::-1].transpose(0, 2, 5, 1, 3, 4)
    sheet = lax.conv_general_dilated(
        x,
        blocks.reshape(2, 2, inputs, 4 * outputs),
        (1, 1),
        ((1, 1), (1, 1)),
        dimension_numbers=_AXES,
    )
    return _unblocked(sheet, outputs)


def _unblocked(sheet: Array, outputs: int) -> Array:
    """Blocks `[B, h + 1, w + 1, 4 O]` of 2 x 2 pixels to the image, less a pixel on every side."""
    batch, height, width, _ = sheet.shape
    pixels = sheet.reshape(batch, height, width, 2, 2, outputs).transpose(0, 1, 3, 2, 4, 5)
    return pixels.reshape(batch, 2 * height, 2 * width, outputs)[:, 1:-1, 1:-1]


halved_fused.defvjp(_kept(halved), _halved_backward)
doubled_fused.defvjp(_kept(_doubled), _doubled_backward)
