"""Augmentation: each line a little larger, slanted, turned, and with fewer points."""

import dataclasses
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from mdnjax._checks import require
from mdnjax._types import Array, Key
from mdnjax.strokes import _padded, _ragged
from mdnjax.strokes.corpus import Corpus
from mdnjax.strokes.structure import Strokes


@overload
def augment(
    key: Key,
    strokes: Corpus,
    *,
    scale: float = 0.0,
    stretch: float = 0.0,
    shear: float = 0.0,
    rotation: float = 0.0,
    drop: float = 0.0,
) -> Corpus: ...


@overload
def augment(
    key: Key,
    strokes: Strokes,
    *,
    starts: Bool[Array | np.ndarray, "*batch T"] | None = None,
    scale: float = 0.0,
    stretch: float = 0.0,
    shear: float = 0.0,
    rotation: float = 0.0,
    drop: float = 0.0,
) -> Strokes: ...


def augment(
    key: Key,
    strokes: Corpus | Strokes,
    *,
    starts: Bool[Array | np.ndarray, "*batch T"] | None = None,
    scale: float = 0.0,
    stretch: float = 0.0,
    shear: float = 0.0,
    rotation: float = 0.0,
    drop: float = 0.0,
) -> Corpus | Strokes:
    r"""Draws one random affine map for each line, applies it, and drops points at random.

    A position p, seen from the line's first point, goes to A p, and so does every offset:

    $$A = \begin{pmatrix} \cos\theta & -\sin\theta \\ \sin\theta & \cos\theta \end{pmatrix}
          \begin{pmatrix} 1 & k \\ 0 & 1 \end{pmatrix}
          \begin{pmatrix} s\,s_x & 0 \\ 0 & s\,s_y \end{pmatrix}$$

    with s uniform in [1 - `scale`, 1 + `scale`], $s_x$ and $s_y$ each uniform in
    [1 - `stretch`, 1 + `stretch`] (sketch-rnn's `random_scale_factor`), the slant k uniform in
    [-`shear`, `shear`], and the angle $\theta$ in [-`rotation`, `rotation`]. Rotate and shear in a
    unit in which x and y are alike: before a `Normalizer` with two deviations, not after it.

    Then every point inside a stroke, neither its first nor its last, is dropped with probability
    `drop`, each by itself; its offset is added to the next point's, so the points that stay are
    where they were. (sketch-rnn's `augment_strokes` also spares the second point of a stroke, and
    the one before its last.)

    A `Corpus` is augmented on the host, in NumPy; `Strokes` by JAX, under `jit` and `vmap`, with
    static shapes: what stays moves to the front and `mask` becomes shorter. The ranges and `drop`
    are Python numbers, static under `jit`.

    Args:
        key: Of all draws. A corpus and a batch draw different numbers from one key.
        strokes: A corpus, or lines `[..., T]`, the points of a line before its padding.
        starts: `[..., T]`, True where a line starts on a tape that holds several
            (`StreamBatch.starts`): each gets a map of its own, and so does what stands before the
            first. A tape drops no points, for its last one is where the next batch goes on.
        scale: Of both axes together, in [0, 1).
        stretch: Of each axis by itself, in [0, 1).
        shear: The largest slant k, dx / dy, at least 0.
        rotation: The largest angle, in radians, at least 0.
        drop: The probability, in [0, 1].

    Returns:
        What came, augmented: a corpus (with the times of the points that stay), or JAX arrays
        of the same shape. Padding is zero.

    Raises:
        ValueError: A range is out of its own; `starts` come with a `drop`, with a corpus, or in
            another shape than the strokes; or T is 0.

    Example:
        >>> from mdnjax.strokes.transforms import to_offsets
        >>> line = to_offsets(np.array([[0.0, 0], [3, 0], [3, 5], [9, 9]]), np.array([0, 0, 0, 1]))
        >>> straight = augment(jax.random.key(0), line, drop=1.0)
        >>> straight.offsets.tolist(), straight.mask.tolist()
        ([[0.0, 0.0], [9.0, 9.0], [0.0, 0.0], [0.0, 0.0]], [True, True, False, False])

    References:
        D. Ha and D. Eck. "A Neural Representation of Sketch Drawings." 2018, section 4.1.
    """
    ranges = _Ranges(scale, stretch, shear, rotation)
    require(0 <= drop <= 1, "augment", "drop", drop, "in [0, 1]")
    affine_key, drop_key = jax.random.split(key)
    if isinstance(strokes, Corpus):
        require(starts is None, "augment", "starts", "an array", "None for a corpus")
        if ranges.any:
            strokes = _move_corpus(_generator(affine_key), strokes, ranges)
        return _drop_corpus(_generator(drop_key), strokes, drop) if drop else strokes
    _padded.check_points(strokes, "augment")
    if starts is not None:
        require(drop == 0, "augment", "drop", drop, "0 where starts are given")
        expected = f"of shape {strokes.mask.shape}, as the mask is"
        require(starts.shape == strokes.mask.shape, "augment", "starts", starts.shape, expected)
    lines: Strokes = jax.tree.map(jnp.asarray, strokes)
    if ranges.any:
        lines = _move(affine_key, lines, starts, ranges)
    return _drop(drop_key, lines, drop) if drop else lines


@dataclasses.dataclass(frozen=True)
class _Ranges:
    """The ranges of `augment`'s affine map, checked."""

    scale: float
    stretch: float
    shear: float
    rotation: float

    def __post_init__(self) -> None:
        for name, most in (("scale", 1), ("stretch", 1), ("shear", np.inf), ("rotation", np.inf)):
            value = getattr(self, name)
            expected = "in [0, 1)" if most == 1 else "finite and at least 0"
            require(0 <= value < most, "augment", name, value, expected)

    @property
    def any(self) -> bool:
        return any(dataclasses.astuple(self))

    def matrix(self, draws: Any) -> tuple[Any, Any, Any, Any]:
        """A from `[..., 5]` numbers uniform in [-1, 1], row by row; NumPy's or JAX's."""
        xp = draws.__array_namespace__()
        common, a, b, k, theta = (draws[..., i] for i in range(5))
        common = 1 + self.scale * common
        s_x, s_y = common * (1 + self.stretch * a), common * (1 + self.stretch * b)
        k = self.shear * k
        cos, sin = xp.cos(self.rotation * theta), xp.sin(self.rotation * theta)
        return cos * s_x, (cos * k - sin) * s_y, sin * s_x, (sin * k + cos) * s_y


def _move(
    key: Key, strokes: Strokes, starts: Bool[Array | np.ndarray, "*batch T"] | None, ranges: _Ranges
) -> Strokes:
    """One affine map a line."""
    x, y = strokes.offsets[..., 0], strokes.offsets[..., 1]
    shape = (*x.shape[:-1], 1 if starts is None else x.shape[-1], 5)
    draws = jax.random.uniform(key, shape, x.dtype, -1, 1)
    if starts is not None:  # a line has the draws of the point that starts it
        axis = x.ndim - 1
        index = jax.lax.broadcasted_iota(jnp.int32, x.shape, axis)
        start = jax.lax.cummax(jnp.where(starts, index, 0), axis=axis)
        draws = jnp.take_along_axis(draws, start[..., None], axis=axis)
    xx, xy, yx, yy = ranges.matrix(draws)
    offsets = jnp.stack([xx * x + xy * y, yx * x + yy * y], axis=-1)
    offsets = jnp.where(strokes.mask[..., None], offsets, 0)
    return Strokes(offsets, strokes.pen_up, strokes.mask)


def _drop(key: Key, strokes: Strokes, probability: float) -> Strokes:
    """Drops points inside strokes."""
    first, last = _padded.stroke_ends(strokes.pen_up, strokes.mask)
    dropped = jax.random.bernoulli(key, probability, strokes.mask.shape)
    return _padded.keep_points(strokes, first | last | ~dropped)


def _generator(key: Key) -> np.random.Generator:
    """NumPy's generator for a key of JAX's."""
    return np.random.default_rng(np.asarray(jax.random.bits(key, (4,))))


def _move_corpus(rng: np.random.Generator, corpus: Corpus, ranges: _Ranges) -> Corpus:
    """One affine map a line, on the host."""
    offsets = np.asarray(corpus.strokes.offsets)
    x, y = offsets[:, 0], offsets[:, 1]
    draws = rng.uniform(-1, 1, (len(corpus), 5)).astype(offsets.dtype)
    xx, xy, yx, yy = (np.repeat(a, corpus.lengths) for a in ranges.matrix(draws))
    moved = np.empty_like(offsets)
    with np.errstate(over="ignore"):  # an overflow is found below
        moved[:, 0] = xx * x + xy * y
        moved[:, 1] = yx * x + yy * y
    pen_up = np.asarray(corpus.strokes.pen_up)
    return _ragged.replace_points(
        corpus, moved, pen_up, corpus.lengths, corpus.times, function="augment"
    )


def _drop_corpus(rng: np.random.Generator, corpus: Corpus, probability: float) -> Corpus:
    """Drops points inside strokes, on the host."""
    keep = rng.random(len(corpus.strokes.pen_up), np.float32) >= probability
    for ends in _ragged.stroke_ends(corpus):
        keep[ends] = True
    return _ragged.keep_points(corpus, keep, function="augment")
