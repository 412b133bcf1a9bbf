"""The baselines against float64 loops, SciPy, and a process whose law is known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import mdnjax as mdn
from mdnjax import strokes as st

KEY = jax.random.key(3)


def _corpus(lengths=(30, 45, 1, 12, 60), seed=0):
    rng = np.random.default_rng(seed)
    xy = rng.integers(-60, 60, (sum(lengths), 2)).cumsum(axis=0)
    ids = [f"a-{n}" for n in range(len(lengths))]
    pen_up = rng.random(sum(lengths)) < 0.3
    return st.Corpus.from_positions(xy, pen_up, list(lengths), ids, [""] * len(lengths))


def _points(corpus, normalizer, order):
    """(features, target, pen-up, after a pen-up) of every predicted point, by a slow loop."""
    rows = []
    mean, std = np.array(normalizer.mean), np.array(normalizer.std)
    for i in range(len(corpus)):
        line = corpus[i]
        x = (line.offsets.astype(np.float64) - mean) / std
        for t in range(1, len(x)):
            features = [1.0]
            for lag in range(1, order + 1):
                inside = t - lag >= 0
                features += [*x[t - lag], line.pen_up[t - lag]] if inside else [0.0, 0.0, 0.0]
            rows.append((features, x[t], line.pen_up[t], line.pen_up[t - 1]))
    features, target, pen_up, after = map(np.array, zip(*rows, strict=True))
    return features, target, pen_up, after.astype(int)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_fit_and_scores_agree_with_a_loop(order):
    train, test = _corpus(), _corpus((25, 40, 18), seed=1)
    normalizer = st.Normalizer.fit(train)
    if order == 0:
        baseline = st.fit_static(train, normalizer)
    else:
        baseline = st.fit_autoregression(train, normalizer, order=order)
    states = 1 if order == 0 else 2

    features, target, pen_up, after = _points(train, normalizer, order)
    coefficients = np.linalg.lstsq(features, target, rcond=None)[0]
    np.testing.assert_allclose(baseline.coefficients, coefficients, atol=1e-10)
    residual = target - features @ coefficients
    for s in range(states):
        inside = after == s if states == 2 else np.ones(len(after), bool)
        want = residual[inside].T @ residual[inside] / inside.sum()
        np.testing.assert_allclose(baseline.covariances[s], want, rtol=1e-10, atol=1e-12)
        lifts = (pen_up[inside].sum() + 0.5) / (inside.sum() + 1)
        np.testing.assert_allclose(baseline.pen_up[s], lifts, rtol=1e-12)

    scores = baseline.evaluate(test, normalizer, key=KEY)
    features, target, pen_up, after = _points(test, normalizer, order)
    noisy = _points(st.dequantize_corpus(KEY, test), normalizer, order)[1]
    std = np.array(normalizer.std)
    nats = np.zeros(3)
    for x, y, z, pen, s in zip(features, target, noisy, pen_up, after, strict=True):
        s = s if states == 2 else 0
        mean, cov = x @ coefficients, baseline.covariances[s]
        p = baseline.pen_up[s]
        nats -= np.log(p if pen else 1 - p)
        nats[0] -= scipy.stats.multivariate_normal(mean, cov).logpdf(z)
        nats[1] -= scipy.stats.multivariate_normal(mean, cov).logpdf(y)
        nats[2] -= scipy.stats.multivariate_normal(mean, cov + np.diag((0.4 / std) ** 2)).logpdf(y)
    n = len(target)
    assert (scores.num_points, scores.num_lines) == (n, 3)
    np.testing.assert_allclose(
        [scores.nats_per_point, scores.raw_nats_per_point, scores.smoothed_nats_per_point],
        nats / n,
        rtol=1e-10,
    )
    np.testing.assert_allclose(scores.nats_per_sequence, nats[0] / 3, rtol=1e-10)
    sse = np.sum((target - features @ coefficients) ** 2) / n
    np.testing.assert_allclose(scores.sse_per_point, sse, rtol=1e-10)
    smallest = min(
        np.linalg.eigvalsh(np.diag(std) @ c @ np.diag(std))[0] for c in baseline.covariances
    )
    np.testing.assert_allclose(scores.min_scale, np.sqrt(smallest), rtol=1e-10)


def test_autoregression_finds_the_law_of_a_known_process():
    rng = np.random.default_rng(0)
    n = 40_000
    pen_up = (rng.random(n) < np.where(np.arange(n) % 2, 0.1, 0.3)).astype(np.float32)
    offsets = np.zeros((n, 2))
    for t in range(1, n):
        scale = 3.0 if pen_up[t - 1] else 1.0
        drift = np.array([0.5, 0.0]) * pen_up[t - 1]
        offsets[t] = 0.7 * offsets[t - 1] + drift + scale * rng.normal(size=2)
    corpus = st.Corpus.from_offsets(offsets, pen_up, [n], ["a"], [""])
    normalizer = st.Normalizer(mean=(0.0, 0.0), std=(1.0, 1.0), unit="device")
    baseline = st.fit_autoregression(corpus, normalizer, order=1)
    np.testing.assert_allclose(baseline.coefficients[1:3], 0.7 * np.eye(2), atol=0.02)
    np.testing.assert_allclose(baseline.coefficients[3], [0.5, 0.0], atol=0.15)
    np.testing.assert_allclose(baseline.covariances, [np.eye(2), 9 * np.eye(2)], atol=0.3)


def test_a_baseline_is_scored_as_a_network_is():
    """The same Gaussian, handed to `evaluate` as a model's raw outputs."""
    corpus = _corpus()
    normalizer = st.Normalizer.fit(corpus)
    baseline = st.fit_static(corpus, normalizer)
    head = st.stroke_head(1)
    mix = mdn.GaussianMixture.full(
        jnp.asarray(baseline.coefficients, jnp.float32),
        jnp.asarray(baseline.covariances, jnp.float32),
    )
    p = baseline.pen_up[0]
    raw = jnp.append(head["offset"].raw(mix), np.log(p / (1 - p)))
    network = st.evaluate(
        lambda inputs: jnp.broadcast_to(raw[None, None], (*inputs.shape[:2], 7)),
        corpus,
        normalizer,
        head,
        key=KEY,
    )
    want = baseline.evaluate(corpus, normalizer, key=KEY)
    for name, value in dataclasses.asdict(want).items():
        np.testing.assert_allclose(
            dataclasses.asdict(network)[name], value, rtol=1e-5, err_msg=name
        )


def test_too_few_points_are_refused():
    corpus = st.Corpus.from_positions(
        np.array([[0, 0], [1, 2], [3, 1], [4, 4]]), np.zeros(4), [4], ["a"], [""]
    )
    with pytest.raises(ValueError, match=r"fit_autoregression: corpus .* points in each state"):
        st.fit_autoregression(corpus, st.Normalizer.fit(corpus))


def test_real_lines_have_the_known_likelihoods(data_dir):
    train = st.read(data_dir / "iam_ondb" / "train_t1.npz").subset(range(0, 5364, 5))
    test = st.read(data_dir / "iam_ondb" / "test_t1.npz").subset(range(0, 3859, 20))
    normalizer = st.Normalizer.fit(train)
    static = st.fit_static(train, normalizer).evaluate(test, normalizer, key=KEY)
    linear = st.fit_autoregression(train, normalizer).evaluate(test, normalizer, key=KEY)
    # On other lines of the same database: 2.98 and 1.18.
    assert abs(static.nats_per_point - 2.98) < 0.15
    assert abs(linear.nats_per_point - 1.18) < 0.2


def test_baselines_do_not_depend_on_the_unit_but_on_the_lattice():
    corpus = _corpus()
    rest = corpus.strokes.pen_up, corpus.lengths, corpus.ids, corpus.texts
    fine = st.Corpus.from_offsets(corpus.strokes.offsets / 4, *rest, resolution=0.25)
    scores = []
    for lines in (corpus, fine):
        normalizer = st.Normalizer.fit(lines)
        baseline = st.fit_autoregression(lines, normalizer)
        scores.append(dataclasses.asdict(baseline.evaluate(lines, normalizer, key=KEY)))
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)
    with pytest.raises(ValueError, match=r"LinearBaseline\.evaluate: corpus must be of 0\.25"):
        baseline.evaluate(corpus, normalizer, key=KEY)
