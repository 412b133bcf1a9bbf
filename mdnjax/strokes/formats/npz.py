"""Reads and writes strokes in NumPy archives (`.npz`): the flat layout, and our own format.

Both keep all points of all lines one after another. The *flat* layout, in which IAM-OnDB is often
passed around, has the keys

- `xy` `[N, 2]`: positions, y down;
- `pen_up` `[N]`: 1 where the point ends a stroke, else 0;
- `lengths` `[L]`: points of each line;
- `ids`, `texts` `[L]`: the name and the words of each line.

*Our own* format stores a `Corpus` as it is, so it comes back bit for bit: `offsets` `[N, 2]` in
the place of `xy`, the `unit` and the `resolution`, the `writers`, `parts` and `times` where
`has_writers`, `has_parts` and `has_times` say so, and a `format` name and `version` by which a
later release knows what it has before it. Version 1 had no `resolution`, `parts` and `times`, and
is still read. Nothing is ever pickled, and every array is read whole, so that the archive's
checksums are always verified.
"""

import io
import os
import pathlib
from typing import Any, TypeAlias

import numpy as np

from mdnjax._files import write_whole
from mdnjax.strokes.corpus import Corpus
from mdnjax.strokes.formats import _archive, stroke3
from mdnjax.strokes.formats.errors import StrokeFormatError

_FORMAT = "mdnjax-strokes"
_VERSION = 2
_Layout: TypeAlias = dict[str, tuple[tuple[str, str], tuple[str | int, ...]]]

# What a key must hold: its kinds of dtype, in NumPy's letters and in words, and its shape, in
# which N and L stand for any number, the same wherever they occur.
_NUMBERS = ("iuf", "numbers")
_FLAGS = ("biuf", "zeros and ones")
_INTEGERS = ("iu", "integers")
_REALS = ("f", "floating-point numbers")
_STRINGS = ("U", "strings")

_SHARED = {
    "pen_up": (_FLAGS, ("N",)),
    "lengths": (_INTEGERS, ("L",)),
    "ids": (_STRINGS, ("L",)),
    "texts": (_STRINGS, ("L",)),
}
_FLAT = {"xy": (_NUMBERS, ("N", 2)), **_SHARED}
_HEADER = {"format": (_STRINGS, ()), "version": (_INTEGERS, ())}
_OWN = {"offsets": (_REALS, ("N", 2)), **_SHARED, "unit": (_STRINGS, ())}
# What version 1 had, and what each version since has brought.
_ALWAYS = {1: {}, 2: {"resolution": (_REALS, ())}}
_OPTIONAL = {
    1: {"writers": (_STRINGS, ("L",))},
    2: {"parts": (_STRINGS, ("L",)), "times": (_REALS, ("N",))},
}
_BOOLEAN = ("b", "a boolean")


def recognises(path: pathlib.Path) -> bool:
    """Whether it is a zip archive, and not one of drawings in stroke-3."""
    return _archive.is_archive(path) and not stroke3.recognises(path)


def read_npz(path: str | os.PathLike[str]) -> Corpus:
    """Reads an archive in the flat layout or in our own format; its keys say which.

    Args:
        path: The archive.

    Returns:
        The corpus: of the flat layout with device units and no writers, of our own format exactly
        as it was written.

    Raises:
        StrokeFormatError: The file is damaged or no such archive, lacks a key, or holds under one
            something else than it should; the error names the key.
        OSError: The file cannot be opened.
    """
    path = pathlib.Path(path)
    members = _archive.read_members(path)
    if "format" in members:
        header = _checked(path, members, _HEADER)
        got, version = header["format"].item(), header["version"].item()
        if got != _FORMAT:
            raise StrokeFormatError(path, "format", f"got {got!r}, expected {_FORMAT!r}")
        if not 1 <= version <= _VERSION:
            reason = f"got {version}, this release of mdnjax reads versions 1 to {_VERSION}"
            raise StrokeFormatError(path, "version", reason)
        data: dict[str, Any] = _checked(path, members, _own_layout(path, members, version))
        data |= {key: data[key].item() for key in ("unit", "resolution") if key in data}
        build, points = Corpus.from_offsets, data.pop("offsets")
    else:
        data = _checked(path, members, _FLAT)
        build, points = Corpus.from_positions, data.pop("xy")
    try:
        return build(points, **data)
    except ValueError as error:
        raise StrokeFormatError(path, "values", str(error)) from error


def write_npz(path: str | os.PathLike[str], corpus: Corpus) -> None:
    """Writes a corpus in our own format, compressed, so that `read_npz` gives it back exactly.

    The file appears whole or not at all: it is written under another name beside its place and
    then moved there. The same corpus gives the same bytes.

    Args:
        path: The file to write, taken as it is (no suffix is added); an older one is replaced.
        corpus: What to write.

    Raises:
        OSError: The file cannot be written.
    """
    arrays = {
        "format": np.array(_FORMAT),
        "version": np.array(_VERSION),
        "unit": np.array(corpus.unit),
        "resolution": np.array(corpus.resolution),
        "offsets": np.asarray(corpus.strokes.offsets),
        "pen_up": np.asarray(corpus.strokes.pen_up).astype(np.uint8),
        "lengths": corpus.lengths,
        "ids": corpus.ids,
        "texts": corpus.texts,
    }
    for key in (key for layout in _OPTIONAL.values() for key in layout):
        array = getattr(corpus, key)
        # Said, not left to whether there is one: a damaged directory can lose an entry.
        arrays[f"has_{key}"] = np.array(array is not None)
        if array is not None:
            arrays[key] = array
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    write_whole(pathlib.Path(path), content.getvalue())


def _own_layout(path: pathlib.Path, members: dict[str, bytes], version: int) -> _Layout:
    """What an archive of our own must hold: the optional arrays are those it says it has."""
    layout = dict(_OWN)
    for number in range(1, version + 1):
        layout |= _ALWAYS[number]
        said = _checked(path, members, {f"has_{key}": (_BOOLEAN, ()) for key in _OPTIONAL[number]})
        layout |= {key: rule for key, rule in _OPTIONAL[number].items() if said[f"has_{key}"]}
    return layout


def _checked(
    path: pathlib.Path,
    members: dict[str, bytes],
    layout: _Layout,
) -> dict[str, np.ndarray]:
    """The keys of a layout, in the machine's own byte order; anything else is left out."""
    sizes: dict[str | int, int] = {}
    data = {}
    for key, ((kinds, words), shape) in layout.items():
        if key not in members:
            reason = f"no such key; got {sorted(members)}, expected {list(layout)}"
            raise StrokeFormatError(path, key, reason)
        array = _archive.read_array(path, key, members[key])
        fits = array.dtype.kind in kinds and array.ndim == len(shape)
        for axis, size in zip(shape, array.shape, strict=False):
            fits = fits and size == (
                axis if isinstance(axis, int) else sizes.setdefault(axis, size)
            )
        if not fits:
            known = ", ".join(f"{axis} = {size}" for axis, size in sizes.items())
            expected = f"{words} of shape ({', '.join(map(str, shape))})" + (
                f" with {known}" if known else ""
            )
            reason = f"got {array.dtype} of shape {array.shape}, expected {expected}"
            raise StrokeFormatError(path, key, reason)
        data[key] = array.astype(array.dtype.newbyteorder("="), copy=False)
    return data
