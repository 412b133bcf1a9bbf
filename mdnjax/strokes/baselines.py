"""Two baselines without a network: what a stroke model must beat to have learned anything.

Both are Gaussian in the offset and Bernoulli in the pen-up, fitted in closed form in float64 and
scored as `evaluate` scores a network: same points, same units, same dequantisation noise.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from mdnjax._checks import require
from mdnjax._types import Key
from mdnjax.strokes.corpus import Corpus
from mdnjax.strokes.likelihood import (
    MIN_SCALE,
    StrokeScores,
    dequantize_corpus,
    require_resolution,
)
from mdnjax.strokes.normalize import Normalizer


@dataclasses.dataclass(frozen=True, eq=False)
class LinearBaseline:
    """p(offset) = N(A^T x, Sigma_s), p(pen_up) = p_s, with x the last inputs and s a state.

    x holds a 1 and the last `order` inputs (dx, dy, pen_up), the latest first, normalised, zero
    before the line begins. With two states s is 1 after a pen-up and 0 within a stroke.

    Attributes:
        order: How many inputs are read.
        coefficients: A, `[1 + 3 order, 2]`.
        covariances: Sigma_s of the residuals, `[S, 2, 2]`, normalised units.
        pen_up: p_s, `[S]`.
    """

    order: int
    coefficients: Float[np.ndarray, "F 2"]
    covariances: Float[np.ndarray, "S 2 2"]
    pen_up: Float[np.ndarray, " S"]

    def evaluate(self, corpus: Corpus, normalizer: Normalizer, *, key: Key) -> StrokeScores:
        """The scores on a corpus; see `mdnjax.strokes.evaluate`.

        Args:
            corpus: Lines in the unit and resolution of the training corpus.
            normalizer: The one it was fitted with.
            key: The key that the networks to be compared are evaluated with.

        Returns:
            The scores, in the units of `StrokeScores`.

        Raises:
            ValueError: No line has a second point, or the corpus has another resolution than the
                normaliser.
        """
        require_resolution("LinearBaseline.evaluate", corpus, normalizer)
        std = np.asarray(normalizer.std)
        unit = np.asarray(normalizer.device_unit)
        noisy = np.asarray(dequantize_corpus(key, corpus).strokes.offsets)
        wide = self.covariances + np.diag((MIN_SCALE * unit) ** 2)
        nats = raw_nats = smoothed_nats = sse = 0.0
        num_points = 0
        for part in _predictions(corpus, normalizer, self.order):
            state = part.after_pen_up if len(self.pen_up) == 2 else np.zeros_like(part.after_pen_up)
            mean = part.features @ self.coefficients
            residual = part.offsets - mean
            noise = (noisy[part.points] - corpus.strokes.offsets[part.points]) / std
            pen = np.where(part.pen_up, self.pen_up[state], 1 - self.pen_up[state])
            pen_nats = -float(np.sum(np.log(pen)))
            nats += pen_nats + _gaussian_nats(residual + noise, self.covariances, state)
            raw_nats += pen_nats + _gaussian_nats(residual, self.covariances, state)
            smoothed_nats += pen_nats + _gaussian_nats(residual, wide, state)
            sse += float(np.sum(residual**2))
            num_points += len(residual)
        in_units = self.covariances / np.outer(unit, unit)
        min_scale = float(np.sqrt(np.linalg.eigvalsh(in_units).min()))
        return StrokeScores.from_sums(
            nats=nats,
            raw_nats=raw_nats,
            smoothed_nats=smoothed_nats,
            sse=sse,
            min_scale=min_scale,
            min_scale_weighty=min_scale,
            num_points=num_points,
            num_lines=len(corpus),
        )


def fit_static(corpus: Corpus, normalizer: Normalizer) -> LinearBaseline:
    """One Gaussian and one Bernoulli for every point, whatever came before.

    Args:
        corpus: The training corpus.
        normalizer: Its normaliser.

    Returns:
        The maximum-likelihood baseline of order 0.

    Raises:
        ValueError: Fewer than three points are predicted.
    """
    return _fit("fit_static", corpus, normalizer, order=0, num_states=1)


def fit_autoregression(corpus: Corpus, normalizer: Normalizer, *, order: int = 3) -> LinearBaseline:
    """A linear autoregression of the next offset on the last `order` inputs and a constant.

    Least squares; the residuals' covariance is taken separately after a pen-up, where the pen
    jumps to the next stroke, and within a stroke, and so is the probability of a pen-up.

    Args:
        corpus: The training corpus.
        normalizer: Its normaliser.
        order: How many inputs are read.

    Returns:
        The baseline.

    Raises:
        ValueError: `order` is less than 1, or fewer than three points are predicted within strokes
            or after a pen-up.
    """
    require(order >= 1, "fit_autoregression", "order", order, "at least 1")
    return _fit("fit_autoregression", corpus, normalizer, order=order, num_states=2)


def _fit(
    function: str, corpus: Corpus, normalizer: Normalizer, *, order: int, num_states: int
) -> LinearBaseline:
    """Least squares in one pass, from the moments of features and targets in each state."""
    num_features = 1 + 3 * order
    # Moments of z = (features, offset): z^T z holds X^T X, X^T Y and Y^T Y.
    moments = np.zeros((num_states, num_features + 2, num_features + 2))
    counts, lifted = np.zeros(num_states), np.zeros(num_states)
    for part in _predictions(corpus, normalizer, order):
        z = np.concatenate([part.features, part.offsets], axis=1)
        for s in range(num_states):
            inside = part.after_pen_up == s if num_states == 2 else slice(None)
            moments[s] += z[inside].T @ z[inside]
            counts[s] += len(z[inside])
            lifted[s] += np.count_nonzero(part.pen_up[inside])
    require(
        bool(np.all(counts > 2)),
        function,
        "corpus",
        f"{counts.astype(int).tolist()} points in each state",
        "large enough for at least 3 predicted points in each state (within, after a pen-up)",
    )
    total = moments.sum(axis=0)
    xx, xy = total[:num_features, :num_features], total[:num_features, num_features:]
    # lstsq, not solve: a corpus may leave a feature constant.
    coefficients = np.linalg.lstsq(xx, xy, rcond=None)[0]
    # Y - X A = z [-A; I], so its moments are those of z, seen through that matrix.
    through = np.concatenate([-coefficients, np.eye(2)])
    covariances = through.T @ moments @ through / counts[:, None, None]
    return LinearBaseline(
        order=order,
        coefficients=coefficients,
        covariances=(covariances + covariances.swapaxes(1, 2)) / 2,
        # Half a count more of each outcome keeps an outcome never seen possible.
        pen_up=(lifted + 0.5) / (counts + 1),
    )


class _Predictions(NamedTuple):
    """The M predicted points of some lines.

    Attributes:
        points: `[M]`, where they stand in the corpus.
        features: `[M, 1 + 3 order]`.
        offsets: `[M, 2]`, the targets, normalised.
        pen_up: `[M]`, the targets.
        after_pen_up: `[M]`, 1 where the input's pen was lifted, else 0.
    """

    points: Int[np.ndarray, " M"]
    features: Float[np.ndarray, "M F"]
    offsets: Float[np.ndarray, "M 2"]
    pen_up: Bool[np.ndarray, " M"]
    after_pen_up: Int[np.ndarray, " M"]


def _predictions(
    corpus: Corpus, normalizer: Normalizer, order: int, chunk: int = 2**17
) -> Iterator[_Predictions]:
    """All predicted points, about `chunk` at a time, so that memory stays small."""
    ends = corpus.starts + corpus.lengths
    mean, std = np.asarray(normalizer.mean), np.asarray(normalizer.std)
    first = 0
    while first < len(corpus):
        begin = int(corpus.starts[first])
        last = max(int(np.searchsorted(ends, begin + chunk, side="right")), first + 1)
        end = int(ends[last - 1])
        pen_up = np.asarray(corpus.strokes.pen_up[begin:end], dtype=np.float64)
        offsets = np.asarray(corpus.strokes.offsets[begin:end], dtype=np.float64)
        offsets = (offsets - mean) / std
        inputs = np.concatenate([offsets, pen_up[:, None]], axis=1)
        lengths = corpus.lengths[first:last]
        index = np.arange(end - begin)
        place = index - np.repeat(np.cumsum(lengths) - lengths, lengths)
        target = index[place > 0]
        lags = [
            np.where((place[target] >= lag)[:, None], inputs[target - lag], 0.0)
            for lag in range(1, order + 1)
        ]
        yield _Predictions(
            points=begin + target,
            features=np.concatenate([np.ones((len(target), 1)), *lags], axis=1),
            offsets=offsets[target],
            pen_up=pen_up[target] > 0.5,
            after_pen_up=(pen_up[target - 1] > 0.5).astype(np.int64),
        )
        first = last


def _gaussian_nats(
    residual: Float[np.ndarray, "M 2"],
    covariances: Float[np.ndarray, "S 2 2"],
    state: Int[np.ndarray, " M"],
) -> float:
    """-sum_m log N(residual_m | 0, Sigma_{state_m})."""
    precisions = np.linalg.inv(covariances)
    log_normalizers = np.log(2 * np.pi) + 0.5 * np.linalg.slogdet(covariances)[1]
    quadratic = np.einsum("mi,mij,mj->m", residual, precisions[state], residual)
    return float(np.sum(0.5 * quadratic + log_normalizers[state]))
