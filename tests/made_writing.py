"""Made-up writing for tests of pictures."""

import numpy as np

from mdnjax.strokes.structure import Strokes


def wave(length: int = 60, seed: int = 0, strokes: int = 4) -> Strokes:
    """A made-up line of writing: loops that travel right, the pen lifted now and then."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0, length / 2.4, length)
    points = np.stack([20 * t + 15 * np.sin(t), 30 * np.cos(t)], axis=-1)
    points = points + rng.normal(size=points.shape)
    pen_up = np.zeros(length)
    pen_up[np.linspace(0, length - 1, strokes + 1).astype(int)[1:]] = 1
    return Strokes(np.diff(points, axis=0, prepend=points[:1]), pen_up, np.ones(length, bool))
