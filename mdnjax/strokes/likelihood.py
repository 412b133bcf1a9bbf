"""How likely lines are under a model: nats per point and per sequence, and squared errors.

Device coordinates lie on a lattice, and some offsets, (0, 0) first of all, are very common: a
density can buy any likelihood with needles there. So three likelihoods stand side by side. A
device unit is one spacing of that lattice: `resolution` of the corpus' units.

- **Dequantised**, the headline: uniform noise of one device unit on every target offset, drawn
  once from a fixed key; the inputs stay as they are.
- **Raw**: at the lattice points themselves. It compares with Graves (2013), and counts only where
  every component's smallest standard deviation is at least `MIN_SCALE` = 0.4 device unit.
- **Smoothed**: raw, after every component is convolved with a Gaussian of that 0.4 device unit.
  Its components are wide enough by construction, so it always counts.

All are densities of normalised offsets times probabilities of pen-ups, in nats; add
`Normalizer.log_device_area` for densities per device unit squared.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mdnjax._checks import require
from mdnjax._types import Array, Key
from mdnjax.mixtures import (
    BernoulliHead,
    GaussianHead,
    GaussianMixture,
    ProductHead,
    log_prob,
    mean,
)
from mdnjax.strokes.batches import gather_lines, line_batches
from mdnjax.strokes.corpus import Corpus
from mdnjax.strokes.head import dequantize, next_step_pairs
from mdnjax.strokes.normalize import Normalizer
from mdnjax.strokes.structure import Strokes

MIN_SCALE = 0.4
"""The smallest standard deviation, in device units, with which a raw likelihood counts."""

MIN_WEIGHT = 1e-3
"""The weight above which a component counts in `StrokeScores.min_scale_weighty`."""


@dataclasses.dataclass(frozen=True)
class StrokeScores:
    """How well a model predicts a corpus, point by point.

    Of a line of T points T - 1 are predicted and count; sequences are whole lines.

    Attributes:
        nats_per_point: -log p, dequantised: the headline.
        nats_per_sequence: The same, summed over each line, averaged over lines.
        raw_nats_per_point: -log p at the lattice points; counts only where `raw_counts`.
        raw_nats_per_sequence: The same per line.
        smoothed_nats_per_point: -log p at the lattice points, every component convolved with a
            Gaussian of `MIN_SCALE` device units.
        smoothed_nats_per_sequence: The same per line.
        sse_per_point: ||y - E y||^2 in normalised units, both coordinates added, y not
            dequantised. E y is the mixture's mean, which minimises it; Graves does not say from
            which point his SSE is measured.
        min_scale: The smallest standard deviation, in any direction, of any component at any
            predicted point, device units.
        min_scale_weighty: The same over components that weigh more than `MIN_WEIGHT`.
        num_points: How many points were predicted.
        num_lines: How many lines they came from.
    """

    nats_per_point: float
    nats_per_sequence: float
    raw_nats_per_point: float
    raw_nats_per_sequence: float
    smoothed_nats_per_point: float
    smoothed_nats_per_sequence: float
    sse_per_point: float
    min_scale: float
    min_scale_weighty: float
    num_points: int
    num_lines: int

    @property
    def raw_counts(self) -> bool:
        """Whether no component was narrow enough to make the raw likelihood meaningless."""
        return self.min_scale >= MIN_SCALE

    @classmethod
    def from_sums(
        cls,
        *,
        nats: float,
        raw_nats: float,
        smoothed_nats: float,
        sse: float,
        min_scale: float,
        min_scale_weighty: float,
        num_points: int,
        num_lines: int,
    ) -> "StrokeScores":
        """The scores, from sums over all predicted points.

        Raises:
            ValueError: Nothing was predicted.
        """
        require(num_points > 0, "StrokeScores.from_sums", "num_points", num_points, "positive")
        return cls(
            nats_per_point=nats / num_points,
            nats_per_sequence=nats / num_lines,
            raw_nats_per_point=raw_nats / num_points,
            raw_nats_per_sequence=raw_nats / num_lines,
            smoothed_nats_per_point=smoothed_nats / num_points,
            smoothed_nats_per_sequence=smoothed_nats / num_lines,
            sse_per_point=sse / num_points,
            min_scale=min_scale,
            min_scale_weighty=min_scale_weighty,
            num_points=num_points,
            num_lines=num_lines,
        )


def dequantize_corpus(key: Key, corpus: Corpus) -> Corpus:
    """The corpus with uniform noise of a device unit on every offset, zero first ones included.

    Each offset gets its own noise, as in `dequantize`; drawn for the corpus as a whole, it does
    not depend on how lines are later batched.

    Args:
        key: A random key; the same key always gives the same noise.
        corpus: Lines in any unit; a device unit is its `resolution`.

    Returns:
        The corpus; use it for targets only.
    """
    offsets = np.asarray(corpus.strokes.offsets)
    scale = corpus.resolution, corpus.resolution
    noisy = dequantize(key, {"offset": offsets}, scale)["offset"]
    strokes = dataclasses.replace(corpus.strokes, offsets=np.asarray(noisy))
    return dataclasses.replace(corpus, strokes=strokes)


def evaluate(
    predict: Callable[[Float[Array, "B T 3"]], Float[Array, "B T P"]],
    corpus: Corpus,
    normalizer: Normalizer,
    head: ProductHead,
    *,
    key: Key,
    batch_size: int = 64,
    num_buckets: int = 4,
) -> StrokeScores:
    """Scores a model on whole lines.

    Lines are padded to at most `num_buckets` lengths and scored in batches, compiled once a
    bucket; points are scored in float32 and added up in float64.

    Args:
        predict: Maps normalised inputs (dx, dy, pen_up) `[B, T, 3]` to raw outputs of the head for
            the points that follow, `[B, T, P]`, causally. To score the same model again and again
            without compiling again, pass `jax.tree_util.Partial(function, params)` with one and
            the same `function`: the parameters are then arguments of the compiled program and not
            constants in it.
        corpus: Lines in the unit and resolution of the training corpus.
        normalizer: Of the training corpus.
        head: `stroke_head(...)`.
        key: Fixes the dequantisation noise; use one key for all models that are to be compared.
        batch_size: B.
        num_buckets: The most padded lengths.

    Returns:
        The scores.

    Raises:
        ValueError: The head is no stroke head, no line has a second point, or the corpus has
            another resolution than the normaliser.
    """
    stroke_parts(head, function="evaluate")
    require_resolution("evaluate", corpus, normalizer)
    noisy = dequantize_corpus(key, corpus)
    predict = as_partial(predict)
    sums: dict[str, float] = dict.fromkeys(("nats", "raw_nats", "smoothed_nats", "sse"), 0.0)
    mins = dict.fromkeys(("min_scale", "min_scale_weighty"), np.inf)
    num_points = 0
    for lines, strokes in line_batches(corpus, batch_size=batch_size, num_buckets=num_buckets):
        rows, length = strokes.mask.shape
        if length < 2:
            continue
        targets = gather_lines(noisy, lines, length, rows=rows)
        mask = strokes.mask[:, 1:]
        scores = _scores(predict, strokes, targets, normalizer=normalizer, head=head)
        scores = {name: np.asarray(score)[mask] for name, score in scores.items()}
        for name in sums:
            sums[name] += float(np.sum(scores[name], dtype=np.float64))
        for name in mins:
            mins[name] = min(mins[name], float(np.min(scores[name])))
        num_points += int(mask.sum())
    return StrokeScores.from_sums(**sums, **mins, num_points=num_points, num_lines=len(corpus))


@functools.partial(jax.jit, static_argnames=("normalizer", "head"))
def _scores(
    predict: Callable,
    strokes: Strokes,
    noisy: Strokes,
    *,
    normalizer: Normalizer,
    head: ProductHead,
) -> dict[str, Array]:
    """The scores of every point `[B, T-1]`; those of padding mean nothing."""
    offset_head, pen_head = stroke_parts(head)
    inputs, targets, _ = next_step_pairs(normalizer.apply(strokes))
    noisy_offset = next_step_pairs(normalizer.apply(noisy))[1]["offset"]
    raw = head.split(predict(inputs))
    mix = offset_head.mixture(raw["offset"])
    pen_nats = pen_head.nll(raw["pen_up"], targets["pen_up"])
    unit_x, unit_y = normalizer.device_unit
    blur = MIN_SCALE * unit_x, MIN_SCALE * unit_y
    min_scale = _smallest_scale(mix, normalizer)
    weighty = mix.log_weights > np.log(MIN_WEIGHT)
    return {
        "nats": pen_nats - log_prob(mix, noisy_offset),
        "raw_nats": pen_nats - log_prob(mix, targets["offset"]),
        "smoothed_nats": pen_nats - log_prob(convolve(mix, blur), targets["offset"]),
        "sse": jnp.sum((targets["offset"] - mean(mix)) ** 2, axis=-1),
        "min_scale": jnp.min(min_scale, axis=-1),
        "min_scale_weighty": jnp.min(jnp.where(weighty, min_scale, jnp.inf), axis=-1),
    }


def require_resolution(function: str, corpus: Corpus, normalizer: Normalizer) -> None:
    """Raises `ValueError` where a corpus' device unit is not the normaliser's."""
    got, expected = corpus.resolution, normalizer.resolution
    require(got == expected, function, "corpus", f"a resolution of {got}", f"of {expected}")


def as_partial(function: Callable) -> jax.tree_util.Partial:
    """The function as a pytree that may be an argument of `jit`.

    A `Partial` stays as it is: `Partial(Partial(f, params))` would hide `params` in its treedef.
    """
    if isinstance(function, jax.tree_util.Partial):
        return function
    return jax.tree_util.Partial(function)


def stroke_parts(
    head: ProductHead, *, function: str = "stroke_parts"
) -> tuple[GaussianHead, BernoulliHead]:
    """The two parts of a stroke head, offset and pen-up.

    Args:
        head: `stroke_head(...)`.
        function: The name that errors speak in.

    Returns:
        The mixture over offsets and the Bernoulli of the pen-up.

    Raises:
        ValueError: `head` is no stroke head.
    """
    parts = dict(head.parts) if isinstance(head, ProductHead) else {}
    offset, pen_up = parts.get("offset"), parts.get("pen_up")
    if not (
        len(parts) == 2
        and isinstance(offset, GaussianHead)
        and (offset.dim, offset.covariance) == (2, "full")
        and isinstance(pen_up, BernoulliHead)
    ):
        raise ValueError(f"{function}: head must be a stroke_head(...), got {head}.")
    return offset, pen_up


def convolve(mix: GaussianMixture, scale: tuple[float, float]) -> GaussianMixture:
    r"""Every component convolved with N(0, diag(scale^2)): Sigma_k + diag(f_1^2, f_2^2).

    With s, R the component's log-scales and upper entry, v = exp(2 s_2) and w = v + f_2^2, the
    covariance's entries Sigma_22 = v, Sigma_12 = -R v, Sigma_11 = exp(2 s_1) + R^2 v become

        exp(2 s_2') = w,   R' = R v / w,   exp(2 s_1') = exp(2 s_1) + f_1^2 + R^2 v f_2^2 / w,

    sums of positive terms, which lose no digits however narrow or oblique the component.

    Args:
        mix: Mixtures of two dimensions and full covariances.
        scale: (f_1, f_2), standard deviations, in the units of y.

    Returns:
        The wider mixtures.
    """
    v1, v2, slope = _bivariate("convolve", mix)
    f1, f2 = scale[0] ** 2, scale[1] ** 2
    wide = v2 + f2
    log_scale = 0.5 * jnp.log(jnp.stack([v1 + f1 + slope**2 * v2 * (f2 / wide), wide], axis=-1))
    return dataclasses.replace(mix, log_scale=log_scale, upper=(slope * (v2 / wide))[..., None])


def _bivariate(function: str, mix: GaussianMixture) -> tuple[Array, Array, Array]:
    """exp(2 s_1), exp(2 s_2) and R_12 of each component, `[..., K]`."""
    if mix.upper is None or mix.dim != 2:
        got = f"{mix.covariance_kind} covariances in {mix.dim} dimensions"
        raise ValueError(f"{function}: mix must have full covariances in 2 dimensions, got {got}.")
    v1, v2 = jnp.exp(2 * mix.log_scale[..., 0]), jnp.exp(2 * mix.log_scale[..., 1])
    return v1, v2, mix.upper[..., 0]


def _smallest_scale(mix: GaussianMixture, normalizer: Normalizer) -> Float[Array, "*batch K"]:
    """The smallest standard deviation of each component in any direction, device units.

    lambda_min = det / lambda_max, the determinant from the log-scales: the difference
    (a + c)/2 - lambda would lose all digits of a needle.
    """
    unit_x, unit_y = normalizer.device_unit
    std_x, std_y = 1 / unit_x, 1 / unit_y
    v1, v2, slope = _bivariate("evaluate", mix)
    a, b, c = (v1 + slope**2 * v2) * std_x**2, -slope * v2 * std_x * std_y, v2 * std_y**2
    largest = (a + c) / 2 + jnp.hypot((a - c) / 2, b)
    log_det = 2 * (jnp.sum(mix.log_scale, axis=-1) + normalizer.log_device_area)
    return jnp.exp((log_det - jnp.log(largest)) / 2)
