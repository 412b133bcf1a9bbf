"""Readers of stroke files: one module a format, each with `recognises(path)` and its reader.

`recognise` looks at what is there and says what it is, `read` calls the right reader; their error
says what was seen. To add a format, write its module and add it to `FORMATS`.
"""

import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

from mdnjax._checks import require
from mdnjax.strokes.corpus import Corpus
from mdnjax.strokes.formats import _shared, iam, npz, quickdraw, stroke3, svg, unipen
from mdnjax.strokes.formats.errors import StrokeFormatError
from mdnjax.strokes.formats.iam import read_iam
from mdnjax.strokes.formats.npz import read_npz, write_npz
from mdnjax.strokes.formats.quickdraw import read_quickdraw
from mdnjax.strokes.formats.stroke3 import read_stroke3
from mdnjax.strokes.formats.svg import read_svg
from mdnjax.strokes.formats.unipen import read_unipen

__all__ = [
    "FORMATS",
    "Format",
    "StrokeFormatError",
    "read",
    "read_iam",
    "read_npz",
    "read_quickdraw",
    "read_stroke3",
    "read_svg",
    "read_unipen",
    "recognise",
    "write_npz",
]


class Format(NamedTuple):
    """One format that `read` understands.

    Attributes:
        name: What `read(..., format=name)` calls it.
        description: What it is, in a few words, for the error that lists all formats.
        recognises: Whether a path looks like it: by content, never by name, and cheaply. No two
            formats recognise the same file; two may recognise the same folder.
        read: Reads it: the path, and whether to raise at the first broken file of a folder.
    """

    name: str
    description: str
    recognises: Callable[[pathlib.Path], bool]
    read: Callable[[pathlib.Path, bool], Corpus]


# A single file is whole or broken: there `strict` has nothing to decide.
FORMATS: tuple[Format, ...] = (
    Format(
        "iam",
        "a folder of IAM-OnDB (lineStrokes/ and ascii/)",
        iam.recognises,
        lambda path, strict: read_iam(path, strict=strict),
    ),
    Format(
        "npz",
        "a NumPy archive (.npz), flat or from write_npz",
        npz.recognises,
        lambda path, _: read_npz(path),
    ),
    Format(
        "stroke-3",
        "sketch-rnn's drawings (.npz with train, valid, test, or .npy)",
        stroke3.recognises,
        lambda path, _: read_stroke3(path),
    ),
    Format(
        "quickdraw",
        "drawings of Quick, Draw! (.ndjson, raw or simplified), or a folder of them",
        quickdraw.recognises,
        lambda path, strict: read_quickdraw(path, strict=strict),
    ),
    Format(
        "unipen",
        "UNIPEN text (UJI pen characters, pen digits), or a folder of it",
        unipen.recognises,
        lambda path, strict: read_unipen(path, strict=strict),
    ),
    Format(
        "svg",
        "an SVG picture of pen strokes, or a folder of them",
        svg.recognises,
        lambda path, strict: read_svg(path, strict=strict),
    ),
)
"""Every format that `read` understands."""


def recognise(path: str | os.PathLike[str]) -> str:
    """Says which format a file or folder is in, from its content and not from its name.

    Args:
        path: A file or a folder.

    Returns:
        The name of one of `FORMATS`.

    Raises:
        StrokeFormatError: It is in none of them, or a folder holds several.
        OSError: There is no such file, or it cannot be opened.
    """
    path = pathlib.Path(path)
    found = [known.name for known in FORMATS if known.recognises(path)]
    if len(found) == 1:
        return found[0]
    if found:
        reason = "several formats in one folder; read one of them with format=..., or move one out"
        raise StrokeFormatError(path, " and ".join(found), reason)
    understood = "; ".join(f"{known.description} ({known.name})" for known in FORMATS)
    looked = f", by {len(_shared.sample(path))} of its files" if path.is_dir() else ""
    reason = f"not understood{looked}. Understood are: {understood}"
    raise StrokeFormatError(path, _seen(path), reason)


def read(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002 (the word of the command line's --format)
    strict: bool = False,
) -> Corpus:
    """Reads strokes in any format understood here.

    Args:
        path: A file or a folder.
        format: The name of one of `FORMATS`; by default the one that `recognise` says.
        strict: Raise at the first broken file of a folder; otherwise broken files are skipped
            with one warning that counts and lists them.

    Returns:
        The corpus.

    Raises:
        ValueError: There is no format of that name.
        StrokeFormatError: The format is not understood, or the data is broken.
        OSError: There is no such file, or it cannot be opened.
    """
    path = pathlib.Path(path)
    readers = {known.name: known.read for known in FORMATS}
    known = format is None or format in readers
    require(known, "strokes.read", "format", repr(format), f"one of {', '.join(readers)}")
    return readers[format or recognise(path)](path, strict)


def _seen(path: pathlib.Path) -> str:
    """What an unknown path looks like, for the error."""
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir())
        return f"a folder with {_shared.listed(names) or 'nothing'}"
    path.stat()  # where there is nothing, the system's own error says it best
    if not path.is_file():  # a pipe would keep us waiting
        return "neither a file nor a folder"
    with path.open("rb") as file:
        return f"a file that begins with {file.read(16)!r}"
