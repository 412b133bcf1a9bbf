"""Reads `stroke-3`, the format of sketch-rnn: drawings as arrays of rows (dx, dy, pen lifted).

    drawings.npz    members train, valid and test: each an array of drawings
    drawings.npy    an array of drawings, or one drawing

A drawing is a numeric array `[T, 3]`: the step to each point, y down, and 1 where the pen is lifted
after it. The first row steps from an origin to the first point; a corpus forgets where a drawing
stood, so that step is dropped to zero. Drawings of many lengths are published as a NumPy array of
objects, and that is a *pickle*: `_pickle` reads it and runs nothing.

References:
    D. Ha and D. Eck, "A Neural Representation of Sketch Drawings", 2017.
"""

import os
import pathlib

import numpy as np

from mdnjax._checks import require
from mdnjax.strokes.corpus import Corpus
from mdnjax.strokes.formats import _archive, _shared
from mdnjax.strokes.formats._pickle import PickleError, load_arrays
from mdnjax.strokes.formats.errors import StrokeFormatError

_PARTS = ("train", "valid", "test")
_UNPACKED = 1 << 26  # bytes in any archive, however small
_SIZE_LIMIT = 1 << 32
_STEP_LIMIT = 2**24  # up to here float32 holds every integer


def recognises(path: pathlib.Path) -> bool:
    """Whether it is an array of drawings, or an archive with one named train, valid or test."""
    beginnings = _archive.beginnings(path, _PARTS).values()
    return any(_holds_drawings(path, beginning) for beginning in beginnings)


def read_stroke3(path: str | os.PathLike[str], *, resolution: float | None = None) -> Corpus:
    """Reads the drawings of a `stroke-3` file: those of train, then of valid, then of test.

    Args:
        path: An archive (`.npz`) or an array (`.npy`).
        resolution: The spacing of the lattice on which the points lie. It is 1 where all steps are
            whole numbers, as sketch-rnn publishes them, and must be given where they are not.

    Returns:
        The corpus. Ids count the drawings of each part, as in "train/00012"; there are no texts,
        and no parts where the file is an array.

    Raises:
        ValueError: `resolution` is not positive and finite.
        StrokeFormatError: The file is damaged or holds something else. A pickle that is not one of
            numeric arrays is refused, and none is ever run.
        OSError: The file cannot be opened.
    """
    given = resolution is None or 0 < resolution < np.inf
    require(given, "read_stroke3", "resolution", resolution, "positive and finite")
    path = pathlib.Path(path)
    path.stat()  # where there is nothing, the system's own error says it best
    if _archive.is_archive(path):
        members = _archive.read_members(path, _PARTS, allowance=_UNPACKED)
        if not members:
            raise StrokeFormatError(path, "archive", "no member train, valid or test")
    else:
        members = {"": _shared.content(path, _SIZE_LIMIT)}
    drawings: list[np.ndarray] = []
    ids: list[str] = []
    for part in (part for part in (*_PARTS, "") if part in members):
        read = _read_drawings(path, part or "array", members.pop(part))
        drawings += read
        ids += [f"{part}/{number:05d}".removeprefix("/") for number in range(len(read))]
    if not drawings:
        raise StrokeFormatError(path, "file", "no drawings")
    lengths = np.array([len(drawing) for drawing in drawings])
    rows = np.concatenate(drawings)
    if rows.dtype.kind == "f":
        rows = rows.astype(np.float64)  # float16 does not hold the limits below
    starts = np.cumsum(lengths) - lengths
    rows[starts, :2] = 0
    _check_rows(path, ids, starts, rows, whole=resolution is None)
    parts = [name.partition("/")[0] for name in ids]
    return Corpus.from_offsets(
        rows[:, :2].astype(np.float32),
        rows[:, 2],
        lengths,
        ids,
        [""] * len(ids),
        parts=parts if "/" in ids[0] else None,
        resolution=1.0 if resolution is None else resolution,
    )


def _holds_drawings(path: pathlib.Path, beginning: bytes) -> bool:
    """Whether a `.npy` says that it is an array of drawings, or one drawing."""
    try:
        header = _archive.read_header(path, "header", beginning)
    except StrokeFormatError:
        return False
    if header.kind == "O":
        return len(header.shape) == 1
    return header.kind in "iuf" and len(header.shape) in (2, 3) and header.shape[-1] == 3


def _read_drawings(path: pathlib.Path, part: str, data: bytes) -> list[np.ndarray]:
    """The drawings in the bytes of a `.npy`, each a numeric array `[T, 3]` of one row or more."""
    header = _archive.read_header(path, part, data)
    if header.kind == "O":
        try:
            drawings = load_arrays(data, header.end)
        except PickleError as error:
            raise StrokeFormatError(path, part, f"{error}; it was not run") from error
        if header.shape != (len(drawings),):
            reason = f"claims objects of shape {header.shape}, but has {len(drawings)}"
            raise StrokeFormatError(path, part, reason)
    else:
        array = _archive.read_array(path, part, data)
        if array.dtype.kind not in "iuf" or array.ndim not in (2, 3):
            reason = f"got {array.dtype} of shape {array.shape}, expected numbers in rows of 3"
            raise StrokeFormatError(path, part, reason)
        drawings = [array] if array.ndim == 2 else list(array)
    for number, drawing in enumerate(drawings):
        if drawing.ndim != 2 or drawing.shape[1] != 3 or not len(drawing):
            reason = f"got shape {drawing.shape}, expected rows of (dx, dy, pen lifted)"
            raise StrokeFormatError(path, f"{part}[{number}]", reason)
    return drawings


def _check_rows(
    path: pathlib.Path, ids: list[str], starts: np.ndarray, rows: np.ndarray, *, whole: bool
) -> None:
    """Names the first row that cannot be: its drawing, its number, and why."""
    steps, pen = rows[:, :2], rows[:, 2]
    checks = [
        ((pen != 0) & (pen != 1), "expected 0 or 1 in its third column"),
        # Not a number compares false.
        (~((steps > -_STEP_LIMIT) & (steps < _STEP_LIMIT)).all(1), "expected steps below 2^24"),
    ]
    if whole and rows.dtype.kind == "f":
        reason = "its steps are no whole numbers; read_stroke3(..., resolution=...) says of what"
        checks.append(((np.rint(steps) != steps).any(1), reason))
    for wrong, reason in checks:
        if wrong.any():
            row = int(np.argmax(wrong))
            drawing = int(np.searchsorted(starts, row, side="right")) - 1
            place = f"{ids[drawing]}, row {row - int(starts[drawing])}"
            raise StrokeFormatError(path, place, f"got {rows[row].tolist()}, {reason}")
