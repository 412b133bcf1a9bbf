"""Animated GIF, frame by frame: only what changes is stored, and only one frame is in memory.

Pillow writes the parts. Its `save_all` would write the whole, but keeps every frame until the last
has come: of eight lines of writing, 800 pixels wide, 430 MB instead of 20, for a file twice as
large.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import UInt8

_KEEP = 1  # a frame stays where the next one leaves it alone
_LONGEST = 0xFFFF  # hundredths of a second that the format can say


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
    from PIL import Image
    from PIL.GifImagePlugin import getdata, getheader

    unchanged = len(palette)  # one colour more, for pixels that stay as they are
    colors = palette.tobytes() + bytes(3)

    def picture(indices: np.ndarray) -> Image.Image:
        image = Image.fromarray(indices)
        image.putpalette(colors)
        return image

    def written(image: Image.Image, place: tuple[int, int], centiseconds: int) -> list[bytes]:
        duration = 10 * min(centiseconds, _LONGEST)
        return getdata(image, place, duration=duration, transparency=unchanged, disposal=_KEEP)

    remaining = iter(frames)
    frame, pending = next(remaining)
    before, place = frame.copy(), (0, 0)
    image = picture(before)
    info = {"transparency": unchanged, **({"loop": 0} if loop else {})}
    parts, _ = getheader(image, info=info)
    for frame, centiseconds in remaining:
        changed = frame != before
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        if not len(rows):  # the frame before is seen for longer
            pending += centiseconds
            continue
        parts += written(image, place, pending)
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        image = picture(np.where(changed[box], frame[box], np.uint8(unchanged)))
        place, pending = (int(columns[0]), int(rows[0])), centiseconds
        np.copyto(before, frame)
    return b"".join([*parts, *written(image, place, pending), b";"])
