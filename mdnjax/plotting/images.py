"""Pictures of many small images: sheets of them, and where an encoder puts them."""

import math
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int, Shaped

from mdnjax._checks import require
from mdnjax._types import Array
from mdnjax.plotting import style

if TYPE_CHECKING:
    import matplotlib.axes


def plot_images(
    images: Shaped[np.ndarray | Array, "..."],
    *,
    ax: "matplotlib.axes.Axes | None" = None,
    gap: int = 1,
    inked: bool = True,
) -> "matplotlib.axes.Axes":
    """Draws a sheet of images, all of one size.

    Args:
        images: `[R, C, H, W]` grey, or `[R, C, H, W, 3]` red, green and blue; 0 to 1.
        ax: Axes to draw into, without ticks then; by default those of a new figure.
        gap: Pixels of paper between two images.
        inked: Whether 0 is paper and 1 ink, as of handwriting; else 0 is black.

    Returns:
        The axes, whose unit is a pixel; the top left image begins at 0, 0.

    Raises:
        ImportError: Matplotlib is not installed.
        ValueError: Another number of axes, or no image.

    Example:
        >>> import numpy as np
        >>> from mdnjax import plotting
        >>> ax = plotting.plot_images(np.zeros((2, 5, 8, 8)))
        >>> [float(edge) for edge in ax.get_xlim() + ax.get_ylim()]
        [0.0, 44.0, 17.0, 0.0]
    """
    shape = np.shape(images)
    fits = len(shape) == 4 or (len(shape) == 5 and shape[-1] == 3)
    require(
        fits and min(shape) >= 1,
        "plot_images",
        "images",
        f"shape {shape}",
        "[R, C, H, W] or [R, C, H, W, 3] with an image at least",
    )
    rows, columns, height, width = shape[:4]
    values = np.clip(np.asarray(images, np.float32), 0, 1)
    if len(shape) == 4:
        values = np.broadcast_to(values[..., None], (*shape, 3))
        if inked:
            paper, ink = (_components(color) for color in (style.PAPER, style.INK))
            values = paper + values * (ink - paper)
    sheet = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), np.float32)
    for row in range(rows):
        for column in range(columns):
            top, left = row * (height + gap), column * (width + gap)
            sheet[top : top + height, left : left + width] = values[row, column]
    ax = style.axes_or_new(ax)
    with style.house_style():
        extent = (0, sheet.shape[1], sheet.shape[0], 0)
        ax.imshow(sheet, interpolation="nearest", extent=extent)
        ax.set(xticks=(), yticks=())
        ax.spines[:].set_visible(False)
    return ax


def plot_codes(
    codes: Float[np.ndarray | Array, "N 2"],
    labels: Int[np.ndarray | Array, " N"],
    *,
    ax: "matplotlib.axes.Axes | None" = None,
) -> "matplotlib.axes.Axes":
    """Draws points of a plane as the digits that they stand for: where an encoder puts each class.

    Colours alone would not tell ten classes apart for everyone; the numerals do.

    Args:
        codes: `[N, 2]`, such as the centres of q(z | x).
        labels: `[N]`, the classes, 0 to 9.
        ax: Axes to draw into; by default those of a new figure.

    Returns:
        The axes.

    Raises:
        ImportError: Matplotlib is not installed.
        ValueError: The two do not fit, or a class is not from 0 to 9.
    """
    codes, labels = np.asarray(codes), np.asarray(labels)
    fits = codes.ndim == 2 and codes.shape[1] == 2 and labels.shape == codes.shape[:1]
    got = f"shapes {codes.shape} and {labels.shape}"
    require(fits, "plot_codes", "codes and labels", got, "[N, 2] and [N]")
    is_digit = bool(np.all((labels >= 0) & (labels <= 9)))
    require(is_digit, "plot_codes", "labels", np.unique(labels), "from 0 to 9")
    ax = style.axes_or_new(ax)
    size = max(9.0, 34.0 / math.sqrt(max(1, len(codes) / 300)))
    with style.house_style():
        for label in range(10):
            of_it = codes[labels == label]
            ax.scatter(
                *of_it.T, s=size, marker=f"${label}$", color=_class_color(label), linewidths=0.2
            )
        ax.set(xlabel="z1", ylabel="z2")
    return ax


def _components(color: str) -> np.ndarray:
    from matplotlib.colors import to_rgb

    return np.asarray(to_rgb(color), np.float32)


def _class_color(label: int) -> str:
    """Ten colours: those of the house, and darker ones."""
    return (*style.COLORS, style.INK, style.FAINT, "#8c564b", "#6a3d9a")[label]
