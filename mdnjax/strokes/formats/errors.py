"""The one error of all readers: which file, where in it, and what is wrong there."""

import os

_LONGEST = 1000


class StrokeFormatError(ValueError):
    """A file of strokes that cannot be read as what it claims to be.

    Attributes:
        path: The file (or folder).
        place: Where in it: line and column, stroke and point, or the key of an archive.
        reason: What was found there, and what was expected.
    """

    path: str
    place: str
    reason: str

    def __init__(self, path: str | os.PathLike[str], place: str, reason: str):
        self.path, self.place, self.reason = os.fspath(path), place, reason
        super().__init__(self.path, place, reason)

    def __str__(self) -> str:
        return f"{self.path}: {_shown(self.place)}: {_shown(self.reason)}"


def _shown(text: str) -> str:
    """What a damaged file made us say, no longer than one reads, and nothing unprintable in it."""
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
