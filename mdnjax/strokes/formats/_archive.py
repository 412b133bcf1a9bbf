"""NumPy's archives and arrays (`.npz`, `.npy`), read without trusting what they claim to hold.

NumPy's own reader sets aside what a header claims before it looks whether that is there, and
evaluates the header as Python. Here the sizes come first: a member may be so much larger than what
it was compressed to and no more, an array exactly as large as the bytes it has, and a header is
matched by a pattern.
"""

import math
import pathlib
import re
import sys
import zipfile
from collections.abc import Collection
from typing import Literal, NamedTuple

import numpy as np

from mdnjax.strokes.formats import _shared
from mdnjax.strokes.formats.errors import StrokeFormatError

ZIP_MAGIC = b"PK\x03\x04"
NPY_MAGIC = b"\x93NUMPY"

# Pen-ups and padded strings compress well, by at most 1032 (deflate); an archive that grows more
# than a hundredfold must stay small.
_MOST_GROWTH = 100

_LONGEST_HEADER = 10_000  # NumPy's own limit; plain arrays have one of 118 bytes
_HEADER = re.compile(
    r"\{'descr': '([<>|=]?)([a-zA-Z])([0-9]{0,9})', 'fortran_order': (False|True), "
    r"'shape': \(((?:[0-9]{1,18}L?(?:, ?[0-9]{1,18}L?){0,31},?)?)\),? ?\}[ \n]*"
)


class Header(NamedTuple):
    """What the header of a `.npy` says.

    Attributes:
        dtype: In NumPy's letters, such as "<f4"; "|O" where the data is a pickle.
        shape: The array's shape.
        order: "C" or "F".
        end: Where the data begins.
    """

    dtype: str
    shape: tuple[int, ...]
    order: Literal["C", "F"]
    end: int

    @property
    def kind(self) -> str:
        """The first letter of the dtype, without its byte order."""
        return self.dtype.lstrip("<>|=")[0]


def is_archive(path: pathlib.Path) -> bool:
    """Whether the file begins as a zip archive does."""
    return _shared.beginning(path, len(ZIP_MAGIC)) == ZIP_MAGIC


def beginnings(path: pathlib.Path, wanted: Collection[str], size: int = 512) -> dict[str, bytes]:
    """The first bytes of the wanted members of an archive; of any other file, its own under "".

    Nothing where there is no file, no such member, or the archive is damaged.
    """
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        if (begin := file.read(size))[: len(ZIP_MAGIC)] != ZIP_MAGIC:
            return {"": begin}
        try:
            with zipfile.ZipFile(file) as archive:
                found = {name.removesuffix(".npy"): name for name in archive.namelist()}
                return {
                    name: archive.open(found[name]).read(size) for name in wanted if name in found
                }
        except Exception:  # zipfile raises many kinds; whoever reads the whole will name them
            return {}


def read_members(
    path: pathlib.Path, wanted: Collection[str] | None = None, *, allowance: int = 1 << 30
) -> dict[str, bytes]:
    """The members of an archive by their names without ".npy", each checked against its CRC.

    Args:
        path: The archive.
        wanted: The names to read; by default all.
        allowance: How many bytes may come out, however few they were packed into.

    Returns:
        Names and bytes, in the order of the archive.

    Raises:
        StrokeFormatError: The archive is damaged, claims too much, or has a name twice.
        OSError: The file cannot be opened.
    """
    size = path.stat().st_size
    members: dict[str, bytes] = {}
    place = "archive"
    _require(path, place, path.is_file(), "not a file")  # a pipe or a device has no end
    file = path.open("rb")
    try:
        with file, zipfile.ZipFile(file) as archive:
            # A damaged length in the directory swallows the entries after it, unseen by zipfile.
            file.seek(size - 22 - len(archive.comment))
            said, found = int.from_bytes(file.read(12)[10:], "little"), len(archive.infolist())
            _require(path, place, found == said, f"says it has {said} members, but has {found}")
            chosen = {}
            for info in archive.infolist():
                place = info.filename.removesuffix(".npy")
                _require(path, place, place not in chosen, "stands twice in the archive")
                if wanted is None or place in wanted:
                    chosen[place] = info
                else:
                    # A name that damage has made unwanted differs from the one at the member.
                    archive.open(info).close()
            place = "archive"
            claimed = sum(info.file_size for info in chosen.values())
            allowed = allowance + _MOST_GROWTH * size
            reason = f"claims {claimed:,} bytes, of which {size:,} are here: refused"
            _require(path, place, claimed <= allowed, reason)
            for place, info in chosen.items():
                plain = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
                _require(path, place, plain, "compressed in a way NumPy does not use")
                # What unpacks to more than was claimed is cut there, and fails its checksum.
                members[place] = archive.read(info)
    except StrokeFormatError:
        raise
    # On damaged bytes zipfile and its decompressors raise some ten unrelated kinds.
    except Exception as error:
        reason = f"not an archive of plain arrays, or damaged ({type(error).__name__}: {error})"
        raise StrokeFormatError(path, place, reason) from error
    return members


def read_header(path: pathlib.Path, place: str, data: bytes) -> Header:
    """What stands before the data of a `.npy`.

    Raises:
        StrokeFormatError: It is none, damaged, or that of a structured array.
    """
    whole = data[: len(NPY_MAGIC)] == NPY_MAGIC and len(data) >= 12
    _require(path, place, whole, f"begins with {data[:6]!r}, expected a NumPy array")
    width = {(1, 0): 2, (2, 0): 4}.get((data[6], data[7]), 0)
    _require(path, place, width > 0, f"in version {data[6]}.{data[7]}, expected 1.0 or 2.0")
    length = int.from_bytes(data[8 : 8 + width], "little")
    end = 8 + width + length
    here = min(len(data) - 8 - width, _LONGEST_HEADER)
    _require(path, place, length <= here, f"a header of {length} bytes, expected at most {here}")
    text = data[8 + width : end].decode("latin-1")
    match = _HEADER.fullmatch(text)
    if match is None:
        reason = f"not the header of a plain array: {text.strip()[:80]!r}"
        raise StrokeFormatError(path, place, reason)
    order, kind, size, fortran, shape = match.groups()
    sizes = tuple(int(size) for size in re.findall("[0-9]+", shape))
    return Header(f"{order}{kind}{size}", sizes, "F" if fortran == "True" else "C", end)


def read_array(path: pathlib.Path, place: str, data: bytes) -> np.ndarray:
    """The array of numbers, booleans or strings in the bytes of a `.npy`: a view of them.

    Raises:
        StrokeFormatError: They are damaged, or hold something else.
    """
    header = read_header(path, place, data)
    reason = f"an array of {header.dtype}, expected numbers or text (no pickle is read)"
    _require(path, place, header.kind in "biufcSU", reason)
    try:
        dtype = np.dtype(header.dtype)
    except (TypeError, ValueError) as error:
        raise StrokeFormatError(path, place, f"no dtype of NumPy's: {header.dtype!r}") from error
    _require(path, place, dtype.itemsize > 0, f"an array of {header.dtype}, which has no size")
    claimed, here = math.prod(header.shape) * dtype.itemsize, len(data) - header.end
    reason = f"{header.dtype} of shape {header.shape} is {claimed:,} bytes, but {here:,} are here"
    _require(path, place, claimed == here, reason)
    try:
        array = np.ndarray(header.shape, dtype, buffer=data, offset=header.end, order=header.order)
    except (OverflowError, ValueError) as error:  # nothing, but of a shape beyond all bounds
        raise StrokeFormatError(path, place, "an array of an impossible shape") from error
    if dtype.kind == "b":
        _require(path, place, not (array.view(np.uint8) > 1).any(), "bytes that are no booleans")
    if dtype.kind == "U":
        letters = np.ndarray(here // 4, dtype.byteorder + "u4", buffer=data, offset=header.end)
        most = int(letters.max(initial=0))
        _require(path, place, most <= sys.maxunicode, f"character {most}, beyond Unicode")
    return array


def _require(path: pathlib.Path, place: str, condition: bool, reason: str) -> None:
    if not condition:
        raise StrokeFormatError(path, place, reason)
