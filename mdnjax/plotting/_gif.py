"""Animated GIF, frame by frame: only what changes is stored, and only one frame is in memory.

Pillow, which writes whole animations too, keeps every frame until the last, and its choices of
palettes change from version to version. Here it compresses single frames; the file around them is
a dozen fixed bytes each (CompuServe, GIF89a).
"""

import io
import struct
from collections.abc import Iterable

import numpy as np
from jaxtyping import UInt8

_EXTENSION, _DESCRIPTOR, _TRAILER = 0x21, 0x2C, 0x3B
_KEEP = 1  # a frame stays where the next one leaves it alone


def encode_gif(
    frames: Iterable[tuple[UInt8[np.ndarray, "h w"], int]],
    palette: UInt8[np.ndarray, "n 3"],
    *,
    loop: bool,
) -> bytes:
    """Encodes an animation.

    Args:
        frames: At least one; each the colour, as an index into the palette, of every pixel, and
            for how many hundredths of a second it is seen. The array may be reused.
        palette: At most 255 colours.
        loop: Whether it plays for ever, or once.

    Returns:
        The file.
    """
    # One colour more, for pixels that stay as they are.
    bits = max(2, len(palette).bit_length())
    unchanged = len(palette)
    colors = np.zeros((2**bits, 3), np.uint8)
    colors[: len(palette)] = palette
    result = io.BytesIO()
    before: np.ndarray | None = None
    pending: tuple[bytes, int] | None = None
    for frame, centiseconds in frames:
        if before is None:
            height, width = frame.shape
            result.write(b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF0 | bits - 1, 0, 0))
            result.write(colors.tobytes())
            if loop:
                result.write(b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")
            before = frame.copy()
            pending = _image(frame, (0, 0), colors), centiseconds
            continue
        assert pending is not None
        changed = frame != before
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        if not len(rows):  # the frame before is seen for longer
            pending = pending[0], pending[1] + centiseconds
            continue
        _write(result, *pending, unchanged)
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        part = np.where(changed[box], frame[box], np.uint8(unchanged))
        pending = _image(part, (int(columns[0]), int(rows[0])), colors), centiseconds
        np.copyto(before, frame)
    assert pending is not None
    _write(result, *pending, unchanged)
    result.write(bytes([_TRAILER]))
    return result.getvalue()


def _write(file: io.BytesIO, image: bytes, centiseconds: int, unchanged: int) -> None:
    """Writes how a frame is shown, and the frame."""
    shown = min(centiseconds, 0xFFFF)
    file.write(struct.pack("<BBBBHBB", _EXTENSION, 0xF9, 4, _KEEP << 2 | 1, shown, unchanged, 0))
    file.write(image)


def _image(indices: np.ndarray, place: tuple[int, int], colors: np.ndarray) -> bytes:
    """A part of a frame: where it stands, and its compressed pixels."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(indices), mode="P")
    picture.putpalette(colors.tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, format="GIF", optimize=False, interlace=0)
    single = buffer.getvalue()
    # Header, its colour table, and extensions come before the image; its own place is (0, 0).
    at = 13 + (3 << (single[10] & 7) + 1 if single[10] & 0x80 else 0)
    while single[at] == _EXTENSION:
        at += 2
        while single[at]:
            at += single[at] + 1
        at += 1
    width, height, flags = struct.unpack_from("<HHB", single, at + 5)
    pixels = at + 10 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    head = struct.pack("<BHHHHB", _DESCRIPTOR, *place, width, height, 0)
    return head + single[pixels:-1]
