"""Readers of stroke files: one module a format, each with `recognises(path)` and its reader.

`read` looks at what is there and calls the right reader; its error says what was seen. To add a
format, write its module, name it in `_UNDERSTOOD` and in `read`.
"""

import os
import pathlib

from mdnjax.strokes.corpus import Corpus
from mdnjax.strokes.formats import iam, npz
from mdnjax.strokes.formats.errors import StrokeFormatError
from mdnjax.strokes.formats.iam import read_iam
from mdnjax.strokes.formats.npz import read_npz, write_npz

__all__ = ["StrokeFormatError", "read", "read_iam", "read_npz", "write_npz"]

_UNDERSTOOD = (
    "a folder of IAM-OnDB (lineStrokes/ and ascii/)",
    "a NumPy archive (.npz), flat or from write_npz",
)


def read(path: str | os.PathLike[str], *, strict: bool = False) -> Corpus:
    """Reads strokes in any format understood here, recognised by content and not by name.

    Args:
        path: A file or a folder.
        strict: Raise at the first broken file of a folder; otherwise broken files are skipped
            with one warning that counts and lists them.

    Returns:
        The corpus.

    Raises:
        StrokeFormatError: The format is not understood, or the data is broken.
        OSError: There is no such file, or it cannot be opened.
    """
    path = pathlib.Path(path)
    if iam.recognises(path):
        return read_iam(path, strict=strict)
    if npz.recognises(path):
        return read_npz(path)  # whole or broken: strict has nothing to decide
    reason = f"not understood. Understood are: {'; '.join(_UNDERSTOOD)}"
    raise StrokeFormatError(path, _seen(path), reason)


def _seen(path: pathlib.Path) -> str:
    """What an unknown path looks like, for the error."""
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir())
        return f"a folder with {', '.join(names[:5]) or 'nothing'}{', ...' * (len(names) > 5)}"
    with path.open("rb") as file:
        return f"a file that begins with {file.read(16)!r}"
