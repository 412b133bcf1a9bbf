"""Letters as a pen writes them: single-stroke glyphs, in a writing order, ready to be joined.

The Hershey glyphs are drafted, not written: a stem here, a bowl there, in any order. A *recipe*
turns the drafted strokes into pen movements. `"1+0"` for an `a` says: write stroke 1 (the bowl),
run on into stroke 0 (the stem) without lifting; `","` lifts the pen; `"r"` writes a stroke from
its end. Movements after the first are marks (the dot of an i, the bar of a t), which some writers
postpone to the end of the word.

Coordinates are in x-heights of the upright face: y down, 0 on the baseline, x from the glyph's
left margin.
"""

import dataclasses
import itertools
import string
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float

from mdnjax._checks import require_extra

FaceName: TypeAlias = Literal["upright", "script"]

_BASELINE = 9.0  # of every Hershey face of normal size
_JOIN_HEIGHT = 4.0  # script letters end, and most begin, at this height

_UPRIGHT_RECIPES = {
    "a": "1+0", "b": "0+1", "d": "1+0", "g": "1+0", "h": "0+1", "i": "1,0", "j": "1,0",
    "k": "0,1+2", "m": "0+1+2", "n": "0+1", "p": "0+1", "q": "1+0", "r": "0+1", "u": "0+1",
    "v": "0+1r", "w": "0+1r+2+3r", "z": "1+0+2",
    "A": "0r+1,2", "B": "0+1+2", "D": "0+1", "E": "1r+0+3,2", "F": "1r+0,2", "G": "0+1r",
    "K": "0,1+2", "L": "0+1", "M": "0r+1+2r+3", "N": "0r+1+2r", "P": "0+1", "R": "0+1+2",
    "V": "0+1r", "W": "0+1r+2+3r", "Z": "1+0+2", "7": "1+0",
}  # fmt: skip
_SCRIPT_RECIPES = {
    "d": "0+1", "g": "0+1", "h": "0+1", "i": "1,0", "j": "1,0", "k": "0+1+2", "m": "0+1+2",
    "n": "0+1", "p": "0+1+2", "q": "0+1", "s": "0+1", "t": "0+1,2", "u": "0+1", "v": "0+1",
    "w": "0+1+2", "y": "0+1",
    "B": "0+1", "K": "0,1+2", "M": "0+1+2", "N": "0+1", "U": "0+1", "W": "0+1r+2+3r", "Y": "0+1",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Glyph:
    """One character, as pen movements.

    Attributes:
        movements: Pen-down movements in writing order, each `[P, 2]` with P >= 2. The first is the
            body, the others are marks.
        advance: Width, margins included.
        joins: Whether a neighbour's stroke may run on into the body, and the body into the next.
        retrace: How many points of the body a joined pen passes *backwards* before it writes the
            body: an incoming stroke meets the bowl of an `a` at its left, runs over its top to
            where the letter begins, and comes back.
        low_entry: Whether the body begins on the baseline (`e`), so that the stroke before it
            drops its last rise.
    """

    movements: tuple[Float[np.ndarray, "_ 2"], ...]
    advance: float
    joins: bool = False
    retrace: int = 0
    low_entry: bool = False


def load_face(name: FaceName, *, plain_capitals: bool = False) -> dict[str, Glyph]:
    """Loads the printable ASCII glyphs of a face.

    The script face takes its figures and punctuation from the upright one, where they are single
    strokes.

    Args:
        name: `"upright"` (Hershey's Roman simplex) or `"script"` (Script simplex).
        plain_capitals: Whether a script face takes its capitals from the upright one too, as many
            people write.

    Returns:
        A mapping from character to glyph; space has no movements.

    Raises:
        ImportError: The package `hershey-fonts` is not installed.
    """
    upright = _load("rowmans", string.printable[:95], _UPRIGHT_RECIPES, unit=14.0)
    if name == "upright":
        return upright
    letters = string.ascii_lowercase if plain_capitals else string.ascii_letters
    return upright | _load("scripts", letters, _SCRIPT_RECIPES, unit=11.5)


def _load(
    font: str, characters: Iterable[str], recipes: Mapping[str, str], *, unit: float
) -> dict[str, Glyph]:
    hershey = require_extra("HersheyFonts", "pens").HersheyFonts()
    hershey.load_default_font(font)
    drafts = hershey.all_glyphs
    script = font == "scripts"
    return {c: _glyph(c, drafts[c], recipes.get(c), unit, script) for c in characters}


def _glyph(character: str, draft: Any, recipe: str | None, unit: float, script: bool) -> Glyph:
    """Turns a drafted glyph into pen movements."""
    strokes = [_open_dot(np.array(list(stroke), float)) for stroke in draft.strokes]
    if recipe is None:
        recipe = ",".join(str(index) for index in range(len(strokes)))
    left = draft.left_offset
    movements = []
    for movement in filter(None, recipe.split(",")):
        points = np.concatenate([_stroke(strokes, part) for part in movement.split("+")])
        moves = np.any(np.diff(points, axis=0) != 0, axis=1)
        points = points[np.concatenate([[True], moves])]
        movements.append(_subdivide((points - [left, _BASELINE]) / unit))
    joins = script and character in string.ascii_lowercase
    low_entry = character == "e"
    retrace = 0
    if joins and not low_entry:
        # Where the incoming stroke, at the left margin, meets the body.
        gap = np.hypot(*(movements[0] - [0.0, (_JOIN_HEIGHT - _BASELINE) / unit]).T)
        nearest = int(np.argmin(gap))
        retrace = nearest if gap[nearest] <= 1.0 / unit else 0
    return Glyph(tuple(movements), draft.char_width / unit, joins, retrace, joins and low_entry)


def _stroke(strokes: list[np.ndarray], part: str) -> np.ndarray:
    stroke = strokes[int(part.rstrip("r"))]
    return stroke[::-1] if part.endswith("r") else stroke


def _open_dot(stroke: np.ndarray) -> np.ndarray:
    """A drafted dot is a small diamond of five points; a pen makes a tick of it."""
    diamond = stroke[:5]
    closed = len(diamond) == 5 and bool(np.all(diamond[0] == diamond[4]))
    if not closed or np.any(np.ptp(diamond, axis=0) > 2):
        return stroke
    if len(stroke) > 5:  # a comma: the tail is enough
        return stroke[4:]
    centre = stroke[:4].mean(axis=0)
    return centre + np.array([[-0.7, -1.0], [0.0, 0.1], [0.4, 1.3]])


def _subdivide(movement: np.ndarray, longest: float = 0.6) -> np.ndarray:
    """Cuts long straight lines, so that a warp can bend them."""
    pieces = [movement[:1]]
    for start, end in itertools.pairwise(movement):
        parts = int(np.ceil(np.hypot(*(end - start)) / longest))
        pieces.append(start + (end - start) * np.arange(1, parts + 1)[:, None] / parts)
    return np.concatenate(pieces)
