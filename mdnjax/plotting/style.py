"""The house style of the pictures, and how they are saved.

Figures are made with Matplotlib's object-oriented interface and its settings are changed only
while one of our figures is made or saved: a program that imports us keeps its own.
"""

import io
import os
import pathlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mdnjax._checks import require, require_extra
from mdnjax._files import write_whole

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.colors
    import matplotlib.figure

INK = "#1b2a49"
PAPER = "#fdfcf8"
TEXT = "#2e3440"
FAINT = "#8b919c"
GRID = "#e6e7ea"
# Okabe and Ito's colours, told apart by every common kind of colour vision; dark enough on white.
BLUE, ORANGE = "#0072b2", "#d55e00"
COLORS = (BLUE, "#009e73", "#cc79a7", "#56b4e9", "#e69f00", ORANGE)
DASHES = ("-", "--", ":", "-.")  # when the colours have been used up

_SETTINGS: dict[Any, Any] = {
    "figure.facecolor": "white",
    "savefig.facecolor": "auto",
    "savefig.bbox": None,
    "font.family": "DejaVu Sans",  # comes with Matplotlib: the same letters on every machine
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.titlecolor": TEXT,
    "axes.labelsize": 9.0,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": TEXT,
    "ytick.labelcolor": TEXT,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "lines.solid_capstyle": "round",
    "text.color": TEXT,
    "svg.hashsalt": "mdnjax",  # else the names inside an SVG change from run to run
    "path.simplify": True,
}


_UNSEEN = 8  # of 255 levels, at the edge of a letter


@contextmanager
def house_style() -> Iterator[None]:
    """Matplotlib's settings in the house style, inside the `with` block only.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    matplotlib = require_extra("matplotlib", "plot")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's own matplotlibrc does not leak into our figures
        matplotlib.rcParams.update(_SETTINGS)
        yield


def heat_colors() -> "matplotlib.colors.Colormap":
    """The colours of heat maps, dark to light, evenly to the eye and to the colour-blind.

    Their number leaves room, in a palette of 256, for the letters around the map.
    """
    import matplotlib

    return matplotlib.colormaps["magma"].resampled(128)


def density_colors(number: int) -> "matplotlib.colors.ListedColormap":
    """So many colours of densities on white paper, light to dark, even to the eye."""
    from matplotlib.colors import LinearSegmentedColormap, ListedColormap

    # Grey, so that every one of COLORS is seen on it.
    ramp = LinearSegmentedColormap.from_list("", ["#eff1f5", "#b9c2d1", "#76859f", "#3c4a68"])
    return ListedColormap(ramp([n / max(1, number - 1) for n in range(number)]))


def axes_or_new(ax: "matplotlib.axes.Axes | None") -> "matplotlib.axes.Axes":
    """The axes given, or those of a new figure, in which all labels have room."""
    if ax is not None:
        return ax
    figure = new_figure(4.8, 3.6)
    figure.set_layout_engine("constrained")
    return figure.add_subplot()


def new_figure(width: float, height: float) -> "matplotlib.figure.Figure":
    """An empty figure that no global list knows of.

    Args:
        width: In inches.
        height: In inches.

    Returns:
        The figure.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    with house_style():
        import matplotlib.figure

        return matplotlib.figure.Figure(figsize=(width, height))


def save(
    figure: "matplotlib.figure.Figure", path: str | os.PathLike[str], *, dpi: float = 200.0
) -> None:
    """Writes a figure, whole or not at all, and the same bytes for the same figure.

    Args:
        figure: The figure.
        path: The file; its folder must exist, its ending names the format (`.png`, `.svg`,
            `.pdf`).
        dpi: Pixels an inch, where the format has pixels.

    Raises:
        ImportError: Matplotlib is not installed.
        ValueError: An ending that is none of these.
        OSError: The file cannot be written; one already there is left as it was.
    """
    target = pathlib.Path(path)
    kind = target.suffix.lower().removeprefix(".")
    # Dates and version numbers would make every run's file differ.
    unstable = {"png": ["Software"], "svg": ["Date"], "pdf": ["CreationDate", "Producer"]}
    require(kind in unstable, "save", "path", target.name, "a .png, .svg or .pdf file")
    buffer = io.BytesIO()
    with house_style():
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=dict.fromkeys(unstable[kind]))
    content = buffer.getvalue()
    if kind == "png":
        content = _pack(buffer)
    elif kind == "svg":
        content = _shortened(content)
    write_whole(target, content)


def _shortened(svg: bytes) -> bytes:
    """An SVG of half the size: a hundredth of a point is enough, and a style said once."""

    def round_numbers(found: re.Match[bytes]) -> bytes:
        return re.sub(rb"-?\d+\.\d{3,}", lambda n: b"%g" % round(float(n[0]), 2), found[0])

    def join_commands(path: re.Match[bytes]) -> bytes:
        return b' d="' + re.sub(rb"\s*([A-Za-z])\s*", rb"\1", path[1]) + b'"'

    def style_group(group: re.Match[bytes]) -> bytes:
        look = group[2]
        return group[1] + look + b">" + group[3].replace(look + b"/>", b"/>")

    svg = re.sub(rb' (?:d|x|y)="[^"]*"|translate\([^)]*\)', round_numbers, svg)
    svg = re.sub(rb' d="([^"]*)"', join_commands, svg)
    svg = re.sub(rb"\n +<", b"\n<", svg)
    # Dots of one look side by side: their group has it.
    dot = rb'\s*<use xlink:href="#\w+" x="[^"]*" y="[^"]*"'
    return re.sub(
        rb"(<g clip-path=\"[^\"]*\")>(?=%s( style=\"[^\"]*\")/>)((?:%s\2/>)+\s*</g>)" % (dot, dot),
        style_group,
        svg,
    )


def _pack(buffer: io.BytesIO) -> bytes:
    """A PNG with 256 colours where the eye cannot tell (ink on paper), else with all of them."""
    import numpy as np
    from PIL import Image  # Matplotlib's own dependency

    image = Image.open(buffer)
    image.info.clear()  # the resolution would stay, but so would whatever else is in there
    pixels = np.asarray(image.convert("RGBA"))
    if (pixels[..., 3] == 255).all():
        image = image.convert("RGB")
        packed = image.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        error = np.abs(np.asarray(packed.convert("RGB"), np.int16) - pixels[..., :3])
        image = packed if error.max() <= _UNSEEN else image
    result = io.BytesIO()
    image.save(result, format="PNG", optimize=True)
    return result.getvalue()
