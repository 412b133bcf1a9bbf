"""The IDX format of MNIST and its kin: a header of sizes, then numbers, big-endian."""

import gzip
import math
import os
import pathlib
import zlib
from typing import Any

import numpy as np

_DTYPES = {
    0x08: np.dtype("u1"),
    0x09: np.dtype("i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads an IDX file, compressed by gzip or not.

    Args:
        path: The file.

    Returns:
        Its array, in this machine's byte order.

    Raises:
        ValueError: The file is corrupt, truncated, longer than its header says, or no IDX file;
            names the file, what it has and what was expected.
        OSError: It cannot be read.
    """
    path = pathlib.Path(path)
    return parse_idx(read_content(path), path)


def read_content(path: pathlib.Path) -> bytes:
    """The bytes of a file, decompressed where gzip's two magic bytes stand in front."""
    content = path.read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: truncated or corrupt, gzip says: {error}.") from error


def parse_idx(content: bytes, source: Any) -> np.ndarray:
    """The array in the bytes of an IDX file; `source` is named in errors."""
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _DTYPES:
        raise ValueError(
            f"{source}: not an IDX file: it begins with {content[:4].hex(' ') or 'nothing'}, "
            f"expected 00 00, a type (08, 09, 0b to 0e) and a number of axes."
        )
    dtype, rank = _DTYPES[content[2]], content[3]
    start = 4 + 4 * rank
    if len(content) < start:
        raise ValueError(f"{source}: truncated in its header, after {len(content)} bytes.")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", rank, offset=4))
    expected = math.prod(shape) * dtype.itemsize
    if len(content) - start != expected:
        raise ValueError(
            f"{source}: truncated or corrupt: {len(content) - start:,} bytes of data, expected "
            f"{expected:,} for the shape {shape} in its header."
        )
    array = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return array.astype(dtype.newbyteorder("="))
