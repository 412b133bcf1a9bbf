"""Rendered images of one shape before a background, with everything known that made them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mdnjax._checks import require

SHAPES = ("disc", "square", "triangle", "cross")
_SYMMETRIES = np.array([0, 4, 3, 4])
COLORS = ("red", "green", "blue", "yellow")
BACKGROUNDS = ("dark", "light", "slope", "stripes")
_RGB = np.array([[0.85, 0.2, 0.2], [0.2, 0.7, 0.3], [0.25, 0.4, 0.9], [0.95, 0.8, 0.2]])
_SIZES, _REACH = (0.35, 0.65), 0.3
_ANY, _ROWS = range(2)  # families of random streams


class ShapeAttributes(NamedTuple):
    """What a picture shows.

    Attributes:
        shape: `[N]`, of `SHAPES`.
        color: `[N]`, of `COLORS`.
        background: `[N]`, of `BACKGROUNDS`.
        size: `[N]`, radius, 0.35 to 0.65 in units of half the picture's side.
        place: `[N, 2]`, of the centre, right and down, -0.3 to 0.3 in the same units.
        angle: `[N]`, clockwise, radians from 0 to 2 pi. It is seen modulo the shape's symmetry.
    """

    shape: Int[np.ndarray, " N"]
    color: Int[np.ndarray, " N"]
    background: Int[np.ndarray, " N"]
    size: Float[np.ndarray, " N"]
    place: Float[np.ndarray, "N 2"]
    angle: Float[np.ndarray, " N"]

    def symmetry(self) -> Int[np.ndarray, " N"]:
        """Of each shape the n whose turns by 2 pi / n are not seen; 0 where none is, of a disc."""
        return _SYMMETRIES[self.shape]

    def seen_angle(self) -> Float[np.ndarray, "N 2"]:
        """What can be seen of the angle: sine and cosine of n times it, n the symmetry."""
        seen = self.symmetry() * self.angle
        return np.stack([np.sin(seen), np.cos(seen)], axis=-1)

    def vector(self) -> Float[np.ndarray, "N 17"]:
        """What a network is given: of the shape 13 numbers, of the background 4.

        Classes one-hot, size and place scaled to -1 to 1, and what can be seen of the angle.
        """

        def one_hot(of: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
            return np.eye(len(names), dtype=np.float32)[of]

        least, most = _SIZES
        columns = [
            one_hot(self.shape, SHAPES),
            one_hot(self.color, COLORS),
            (2 * self.size[:, None] - least - most) / (most - least),
            self.place / _REACH,
            self.seen_angle(),
            one_hot(self.background, BACKGROUNDS),
        ]
        return np.concatenate(columns, axis=-1).astype(np.float32)


class ShapeImages(NamedTuple):
    """Pictures and what they show.

    Attributes:
        images: `[N, H, W, 3]` float32, red, green and blue from 0 to 1.
        attributes: Of each.
    """

    images: Float[np.ndarray, "N H W 3"]
    attributes: ShapeAttributes


def random_attributes(num: int, *, seed: int = 0) -> ShapeAttributes:
    """Attributes drawn independently and evenly.

    Args:
        num: How many, N.
        seed: Of everything.

    Returns:
        The attributes.

    Raises:
        ValueError: `num` is negative.
    """
    require(num >= 0, "random_attributes", "num", num, "at least 0")
    rng = np.random.default_rng([seed, _ANY])
    return ShapeAttributes(
        shape=rng.integers(0, len(SHAPES), num),
        color=rng.integers(0, len(COLORS), num),
        background=rng.integers(0, len(BACKGROUNDS), num),
        size=rng.uniform(*_SIZES, num).astype(np.float32),
        place=rng.uniform(-_REACH, _REACH, (num, 2)).astype(np.float32),
        angle=rng.uniform(0, 2 * np.pi, num).astype(np.float32),
    )


def render_shapes(
    attributes: ShapeAttributes, *, side: int = 24, noise: float = 0.02, seed: int = 0
) -> ShapeImages:
    """Draws pictures, with smooth edges.

    What no attribute says is drawn at random: shades of the colours, the direction of a slope, the
    width of stripes, and a little noise on every pixel.

    Args:
        attributes: What to draw, N pictures.
        side: H = W, pixels.
        noise: Standard deviation of the noise on a pixel.
        seed: Of all that no attribute says.

    Returns:
        The pictures.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> from mdnjax import datasets
        >>> datasets.render_shapes(datasets.random_attributes(5)).images.shape
        (5, 24, 24, 3)
    """
    require(side >= 1, "render_shapes", "side", side, "at least 1")
    require(noise >= 0, "render_shapes", "noise", noise, "at least 0")
    num = len(attributes.shape)
    rng = np.random.default_rng([seed, _ROWS])
    shade, tone, turn, width = rng.random((4, num, 1, 1))
    grid = (np.arange(side) + 0.5) * (2 / side) - 1
    x, y = (
        np.broadcast_to(grid, (num, side, side)),
        np.broadcast_to(grid[:, None], (num, side, side)),
    )

    # The background, from black to white.
    along = np.cos(2 * np.pi * turn) * x + np.sin(2 * np.pi * turn) * y
    stripes = 0.5 + 0.5 * np.sin((6 + 6 * width) * along + 2 * np.pi * tone)
    kinds = np.stack(
        [
            np.broadcast_to(0.05 + 0.2 * tone, x.shape),
            np.broadcast_to(0.75 + 0.2 * tone, x.shape),
            0.5 + 0.35 * along,
            0.3 + 0.4 * stripes,
        ]
    )
    behind = np.take_along_axis(kinds, attributes.background[None, :, None, None], axis=0)[0]

    # The shape, in its own units: turned, moved, its radius one.
    right, down = (attributes.place[:, i, None, None] for i in (0, 1))
    radius, angle = (v[:, None, None] for v in (attributes.size, attributes.angle))
    dx, dy = (x - right) / radius, (y - down) / radius
    u, v = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
    inside = -_distances(u, v, attributes.shape) * radius * side / 2  # pixels to the edge
    cover = np.clip(inside + 0.5, 0, 1)[..., None]

    color = _RGB[attributes.color][:, None, None] * (0.75 + 0.25 * shade[..., None])
    images = cover * color + (1 - cover) * behind[..., None]
    images = images + noise * rng.normal(size=images.shape)
    return ShapeImages(np.clip(images, 0, 1).astype(np.float32), attributes)


def _distances(
    u: Float[np.ndarray, "N H W"], v: Float[np.ndarray, "N H W"], shape: Int[np.ndarray, " N"]
) -> Float[np.ndarray, "N H W"]:
    """How far outside each shape a point is, inside negative; shapes of about the same area."""
    disc = np.hypot(u, v) - 0.95
    square = np.maximum(np.abs(u), np.abs(v)) - 0.8
    sides = [u * np.cos(a) + v * np.sin(a) for a in (np.pi / 2, 7 * np.pi / 6, 11 * np.pi / 6)]
    triangle = np.maximum(np.maximum(*sides[:2]), sides[2]) - 0.6
    bars = np.stack([np.maximum(np.abs(a), 3 * np.abs(b)) for a, b in ((u, v), (v, u))])
    cross = (bars.min(axis=0) - 1.0) * np.where(np.minimum(np.abs(u), np.abs(v)) > 1 / 3, 1 / 3, 1)
    return np.take_along_axis(
        np.stack([disc, square, triangle, cross]), shape[None, :, None, None], axis=0
    )[0]
