"""What several readers share: what to do about broken files, and files read within bounds."""

import contextlib
import os
import pathlib
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mdnjax.strokes.formats.errors import StrokeFormatError

# Steps between smaller coordinates are below 2^24, where float32 still holds every integer. No
# device's own coordinates come near it.
COORDINATE_LIMIT = 2.0**23

# Up to here every whole number of milliseconds is exact.
TIME_LIMIT = 2.0**53

# NumPy keeps every string of an array in the room of the longest.
TEXT_LIMIT = 200

_LISTED = 5
_LOOKED_AT = 20  # so many suffixes of a folder, and files of each


class Broken:
    """Gathers what is broken for one warning; if strict, raises it at once instead."""

    def __init__(self, function: str, strict: bool, *, drawings: str = "lines"):
        self.function, self.strict, self.drawings = function, strict, drawings
        self.errors: list[StrokeFormatError] = []
        self.count = 0
        self.skipped = 0

    def add(self, error: StrokeFormatError, *, skipped: int) -> None:
        """Takes one more error, for which so many drawings are skipped."""
        if self.strict:
            raise error
        self.count += 1
        self.skipped += skipped
        if self.count <= _LISTED:
            self.errors.append(error)

    def warn(self, path: pathlib.Path, read: int) -> None:
        """Warns once of all that was broken, if anything was."""
        if not self.count:
            return
        listed = "".join(f"\n  {error}" for error in self.errors)
        rest = self.count - len(self.errors)
        more = f"\n  and {rest} more" if rest > 0 else ""
        things, verb = ("1 thing", "is") if self.count == 1 else (f"{self.count} things", "are")
        warnings.warn(
            f"{self.function}: {things} in {path} {verb} broken or missing "
            f"({self.drawings} skipped: {self.skipped}, read: {read}):{listed}{more}",
            stacklevel=3,
        )

    def nothing(self, path: pathlib.Path) -> StrokeFormatError:
        """The error where nothing at all could be read."""
        reason = f"no {self.drawings.removesuffix('s')} could be read"
        first = f"; first: {self.errors[0]}" if self.errors else ""
        return StrokeFormatError(path, self.drawings, reason + first)


def files_of(
    path: pathlib.Path, recognises: Callable[[pathlib.Path], bool], broken: Broken
) -> list[pathlib.Path]:
    """The files to read: `path` itself, or of a folder those in it that are of the format.

    A file of a folder that is not of the format, or closed to us, but bears the suffix of one that
    is of it, is broken; other files there, hidden ones and subfolders are none of its business.
    """
    path.stat()  # where there is nothing, the system's own error says it best
    if not path.is_dir():
        return [path]
    files = {file: _is_open(file) and recognises(file) for file in _visible_files(path)}
    suffixes = {file.suffix for file, chosen in files.items() if chosen}
    for file, chosen in files.items():
        if file.suffix in suffixes and not chosen:
            wrong = "not of the format of its neighbours" if _is_open(file) else "may not be read"
            broken.add(StrokeFormatError(file, "file", wrong), skipped=0)
    return [file for file, chosen in files.items() if chosen]


def recognises_any(path: pathlib.Path, recognises_file: Callable[[pathlib.Path], bool]) -> bool:
    """Whether the file, or one of a sample of the folder's files, is of the format."""
    if path.is_dir():
        return any(_is_open(file) and recognises_file(file) for file in sample(path))
    return recognises_file(path)


def sample(folder: pathlib.Path) -> list[pathlib.Path]:
    """Of the visible files of a folder some of each suffix, from its first to its last.

    What is there besides the data, however much, has other suffixes. Of very many suffixes the
    commonest are chosen.
    """
    kinds: defaultdict[str, list[pathlib.Path]] = defaultdict(list)
    for file in _visible_files(folder):
        kinds[file.suffix].append(file)
    commonest = sorted(kinds.values(), key=len, reverse=True)[:_LOOKED_AT]
    return [file for files in commonest for file in files[:: -(-len(files) // _LOOKED_AT)]]


@contextlib.contextmanager
def opening(file: pathlib.Path, asked: pathlib.Path) -> Iterator[None]:
    """A file that cannot be read is the system's error where it is what was asked for.

    In a folder that was asked for it is a broken file, as are others there.
    """
    try:
        yield
    except OSError as error:
        if file == asked:
            raise
        raise closed(file, "file", error) from error


def closed(path: pathlib.Path, kind: str, error: OSError) -> StrokeFormatError:
    """The error for a file or a folder that the system does not let us read."""
    return StrokeFormatError(path, kind, f"cannot be read ({error.strerror})")


def beginning(path: pathlib.Path, size: int = 1 << 16) -> bytes:
    """The first bytes of a file; none of what is not a file (a pipe would never end)."""
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(size)


def content(path: pathlib.Path, limit: int) -> bytes:
    """All bytes of a file that is not larger than `limit`."""
    size = path.stat().st_size
    regular = path.is_file()  # a pipe would never end
    if regular and size <= limit:
        return path.read_bytes()
    reason = f"larger than {limit >> 20} MiB, which no such file is" if regular else "not a file"
    raise StrokeFormatError(path, "file", reason)


def read_text(path: pathlib.Path, limit: int) -> str:
    """The text of a file that is not larger than `limit`, see `decoded`."""
    return decoded(path, content(path, limit))


def decoded(path: pathlib.Path, data: bytes) -> str:
    """A text in UTF-8, or else in ISO-8859-1, with its line ends made one kind."""
    if (at := data.find(b"\0")) >= 0:
        raise StrokeFormatError(path, f"byte {at}", "a zero byte: this is not text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def check_text(name: str, text: str) -> str:
    """The text, if it can be printed and is not too long; otherwise a ValueError says so."""
    if len(text) > TEXT_LIMIT:
        raise ValueError(f"the {name} is {len(text)} letters long, expected {TEXT_LIMIT} at most")
    if not text.isprintable():
        raise ValueError(f"the {name} is {text!r}, which cannot be printed")
    return text


def pen_up(sizes: Sequence[int] | np.ndarray) -> np.ndarray:
    """Flags of the last points of strokes of so many points, none of them without any."""
    ends = np.cumsum(sizes)
    flags = np.zeros(ends[-1], bool)
    flags[ends - 1] = True
    return flags


def listed(names: Sequence[str]) -> str:
    """The first few of some names."""
    return ", ".join(names[:_LISTED]) + ", ..." * (len(names) > _LISTED)


def seconds(milliseconds: np.ndarray) -> np.ndarray:
    """Times from the first, in seconds; where the clock ran backwards they stand still."""
    return np.maximum.accumulate(milliseconds - milliseconds[0]) / 1000


def _is_open(file: pathlib.Path) -> bool:
    return os.access(file, os.R_OK)


def _visible_files(folder: pathlib.Path) -> list[pathlib.Path]:
    entries = sorted(folder.iterdir())
    return [entry for entry in entries if entry.is_file() and not entry.name.startswith(".")]
