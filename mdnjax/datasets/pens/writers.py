"""Writers: seeded people, each with a hand of their own."""

import dataclasses

import numpy as np
from jaxtyping import Float

from mdnjax.datasets.pens.glyphs import FaceName, Glyph


@dataclasses.dataclass(frozen=True, eq=False)
class Warp:
    """A smooth displacement of the plane: a few long waves, p -> p + sum_w a_w sin(k_w.p + f_w).

    Attributes:
        amplitude: `[W, 2]`, in x-heights.
        frequency: `[W, 2]`, in radians per x-height.
        phase: `[W]`.
    """

    amplitude: Float[np.ndarray, "W 2"]
    frequency: Float[np.ndarray, "W 2"]
    phase: Float[np.ndarray, " W"]

    @classmethod
    def draw(cls, rng: np.random.Generator, scale: float, *, num_waves: int = 4) -> "Warp":
        """Draws waves 2.5 to 6 x-heights long that displace by `scale` x-heights, RMS."""
        angle = rng.uniform(0, 2 * np.pi, num_waves)
        length = rng.uniform(2.5, 6.0, num_waves)
        frequency = (2 * np.pi / length)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
        amplitude = rng.normal(0, scale * np.sqrt(2 / num_waves), (num_waves, 2))
        return cls(amplitude, frequency, rng.uniform(0, 2 * np.pi, num_waves))

    def __call__(self, points: Float[np.ndarray, "P 2"]) -> Float[np.ndarray, "P 2"]:
        """Displaces points `[P, 2]`."""
        return points + np.sin(points @ self.frequency.T + self.phase) @ self.amplitude


@dataclasses.dataclass(frozen=True)
class Writer:
    """What makes a hand: lengths in x-heights, slopes as tangents, noise in device units.

    Attributes:
        face: The face the writer was taught.
        plain_capitals: Script writers: prints capitals.
        late_marks: Script writers: dots and crosses when the word is done.
        lifts: Script writers: chance of a lift between two letters that could be joined.
        size: x-height, relative to the corpus' own.
        width: Horizontal stretch of the letters.
        slant: Shear to the right, on top of the face's own.
        letter_space: Added after each letter.
        word_space: Width of a space.
        slope: Mean slope of the lines, positive downhill.
        wander: How far the baseline wanders off a straight line, RMS.
        roundness: How far successive strokes overlap in time, which rounds corners.
        jitter: How much two instances of one letter differ, RMS displacement.
        own_shapes: How far the writer's letter shapes are from the face's, RMS displacement.
        speed: Of the pen, relative to the corpus' own.
        tremor: RMS displacement by tremor, device units at the default x-height.
    """

    face: FaceName
    plain_capitals: bool
    late_marks: bool
    lifts: float
    size: float
    width: float
    slant: float
    letter_space: float
    word_space: float
    slope: float
    wander: float
    roundness: float
    jitter: float
    own_shapes: float
    speed: float
    tremor: float

    @classmethod
    def draw(cls, rng: np.random.Generator, face: FaceName) -> "Writer":
        """Draws a writer of a face."""
        script = face == "script"
        return cls(
            face=face,
            plain_capitals=script and bool(rng.random() < 0.6),
            late_marks=script and bool(rng.random() < 0.25),
            lifts=float(rng.uniform(0.0, 0.25)) if script else 1.0,
            size=float(np.exp(rng.normal(0, 0.13))),
            width=float((0.9 if script else 0.76) * np.exp(rng.normal(0, 0.09))),
            slant=float(rng.normal(-0.05 if script else 0.10, 0.13)),
            letter_space=float(rng.normal(0.02 if script else -0.06, 0.03)),
            word_space=float(rng.uniform(0.65, 1.05)),
            slope=float(rng.normal(0, 0.012)),
            wander=float(rng.uniform(0.03, 0.10)),
            roundness=float(rng.uniform(0.3, 0.75)),
            jitter=float(rng.uniform(0.015, 0.035)),
            own_shapes=float(rng.uniform(0.045, 0.085)),
            speed=float(np.exp(rng.normal(0, 0.10))),
            tremor=float(rng.uniform(1.0, 2.5)),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Hand:
    """A writer with letter shapes of their own."""

    writer: Writer
    glyphs: dict[str, Glyph]

    @classmethod
    def draw(cls, rng: np.random.Generator, writer: Writer, face: dict[str, Glyph]) -> "Hand":
        """Warps every glyph of a face: by one warp common to the hand, and by one of its own."""
        common = Warp.draw(rng, 0.6 * writer.own_shapes)
        glyphs = {}
        for character, glyph in face.items():
            own = Warp.draw(rng, 0.8 * writer.own_shapes)
            movements = tuple(
                own(common(movement)) * [writer.width, 1.0] for movement in glyph.movements
            )
            advance = glyph.advance * writer.width
            glyphs[character] = dataclasses.replace(glyph, movements=movements, advance=advance)
        return cls(writer, glyphs)
