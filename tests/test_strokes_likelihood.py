"""Scores of whole lines against float64 loops over single points."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import mdnjax as mdn
from mdnjax import strokes as st

KEY = jax.random.key(7)
HEAD = st.stroke_head(3)


def _corpus(lengths=(4, 9, 9, 17, 30, 31, 1), seed=0):
    rng = np.random.default_rng(seed)
    xy = rng.integers(-40, 40, (sum(lengths), 2)).cumsum(axis=0)
    ids = [f"a-{n}" for n in range(len(lengths))]
    pen_up = rng.random(sum(lengths)) < 0.2
    return st.Corpus.from_positions(xy, pen_up, list(lengths), ids, [""] * len(lengths))


def _weights(seed=1):
    rng = np.random.default_rng(seed)
    return {
        "w": jnp.asarray(rng.normal(size=(3, HEAD.num_outputs)) * 0.3, jnp.float32),
        "b": jnp.asarray(rng.normal(size=HEAD.num_outputs) * 0.3, jnp.float32),
    }


def _linear(weights, inputs):
    """A causal model with a memory: a running sum of the inputs, squashed."""
    return jnp.tanh(jnp.cumsum(inputs, axis=1) / 5) @ weights["w"] + weights["b"][None, None]


def _raws(weights, inputs):
    """The same model in float64 NumPy, for one line."""
    w, b = (np.asarray(weights[name], np.float64) for name in "wb")
    return np.tanh(np.cumsum(inputs, axis=0) / 5) @ w + b


@jax.jit
def _parts(raw):
    mix = HEAD["offset"].mixture(raw)
    return mix.weights, mix.loc, mix.component_covariances


def _mixtures(raws):
    """(weights, loc, covariances) and the pen-up's probability of every row."""
    parts = _parts(np.float32(raws[:, :-1]))
    parts = zip(*(np.asarray(part, np.float64) for part in parts), strict=True)
    return zip(parts, 1 / (1 + np.exp(-raws[:, -1])), strict=True)


def _log_density(parts, y):
    weights, loc, cov = parts
    return np.log(
        sum(
            w * scipy.stats.multivariate_normal(m, c).pdf(y)
            for w, m, c in zip(weights, loc, cov, strict=True)
        )
    )


def test_scores_agree_with_a_loop_over_points():
    corpus, weights = _corpus(), _weights()
    normalizer = st.Normalizer.fit(corpus)
    model = jax.tree_util.Partial(_linear, weights)
    scores = st.evaluate(model, corpus, normalizer, HEAD, key=KEY, batch_size=2, num_buckets=2)
    mean, std = np.array(normalizer.mean), np.array(normalizer.std)
    noisy = st.dequantize_corpus(KEY, corpus)
    raws, targets = [], []
    for i in range(len(corpus)):
        line = corpus[i]
        offsets = (line.offsets.astype(np.float64) - mean) / std
        noise = (noisy[i].offsets.astype(np.float64) - line.offsets) / std
        raws.append(_raws(weights, np.concatenate([offsets, line.pen_up[:, None]], 1))[:-1])
        targets += list(zip(offsets[1:], noise[1:], line.pen_up[1:], strict=True))
    nats = raw_nats = smoothed = sse = 0.0
    smallest = smallest_weighty = np.inf
    points = len(targets)
    density = zip(targets, _mixtures(np.concatenate(raws)), strict=True)
    for (y, noise, pen_up), (parts, lift) in density:
        pen = -np.log(lift if pen_up else 1 - lift)
        nats += pen - _log_density(parts, y + noise)
        raw_nats += pen - _log_density(parts, y)
        wide = (parts[0], parts[1], parts[2] + np.diag((0.4 / std) ** 2))
        smoothed += pen - _log_density(wide, y)
        sse += np.sum((y - parts[0] @ parts[1]) ** 2)
        scales = np.sqrt(np.linalg.eigvalsh(parts[2] * np.outer(std, std))[:, 0])
        smallest = min(smallest, scales.min())
        smallest_weighty = min(smallest_weighty, scales[parts[0] > 1e-3].min())
    assert (scores.num_points, scores.num_lines) == (points, 7)
    got = dataclasses.asdict(scores)
    want = {
        "nats_per_point": nats / points,
        "nats_per_sequence": nats / 7,
        "raw_nats_per_point": raw_nats / points,
        "raw_nats_per_sequence": raw_nats / 7,
        "smoothed_nats_per_point": smoothed / points,
        "smoothed_nats_per_sequence": smoothed / 7,
        "sse_per_point": sse / points,
        "min_scale": smallest,
        "min_scale_weighty": smallest_weighty,
    }
    assert set(got) == {*want, "num_points", "num_lines"}
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=2e-5, err_msg=name)
    assert scores.raw_counts == (smallest >= 0.4)


def test_scores_do_not_depend_on_the_batching_and_compile_once_a_bucket():
    corpus = _corpus((5, 9, 12, 20, 21, 33, 40, 41, 50, 8, 7))
    normalizer = st.Normalizer.fit(corpus)
    traces = []

    def counted(weights, inputs):
        traces.append(inputs.shape)
        return _linear(weights, inputs)

    def scored(weights):
        model = jax.tree_util.Partial(counted, weights)
        return st.evaluate(model, corpus, normalizer, HEAD, key=KEY, batch_size=2, num_buckets=2)

    first = scored(_weights())
    assert len(traces) == 2
    other = scored(_weights(2))
    assert len(traces) == 2
    assert other != first
    whole = st.evaluate(
        lambda inputs: _linear(_weights(), inputs),
        corpus,
        normalizer,
        HEAD,
        key=KEY,
        batch_size=64,
        num_buckets=1,
    )
    for name, value in dataclasses.asdict(whole).items():
        np.testing.assert_allclose(dataclasses.asdict(first)[name], value, rtol=1e-5)


def test_the_noise_is_fixed_by_the_key_and_within_half_a_unit():
    corpus = _corpus()
    noisy = st.dequantize_corpus(KEY, corpus)
    noise = noisy.strokes.offsets - corpus.strokes.offsets
    assert 0.4 < np.abs(noise).max() <= 0.5 + 1e-5
    assert abs(noise.std() - 12**-0.5) < 0.05
    again = st.dequantize_corpus(KEY, corpus)
    np.testing.assert_array_equal(again.strokes.offsets, noisy.strokes.offsets)


def test_needles_buy_raw_nats_but_neither_of_the_others():
    """A needle on the lattice: the reason for three likelihoods."""
    corpus = st.Corpus.from_positions(
        np.array([[0, 0], [1, 2], [2, 4]]), np.zeros(3), [3], ["a"], [""]
    )
    normalizer = st.Normalizer(mean=(0.0, 0.0), std=(1.0, 1.0), unit="device")
    head = st.stroke_head(1)

    def needle(scale):
        mix = mdn.GaussianMixture.full(jnp.array([[1.0, 2.0]]), (jnp.eye(2) * scale**2)[None])
        raw = jnp.append(head["offset"].raw(mix), -2.0)
        return lambda inputs: jnp.broadcast_to(raw[None, None], (*inputs.shape[:2], 7))

    sharp = st.evaluate(needle(0.01), corpus, normalizer, head, key=KEY)
    wide = st.evaluate(needle(0.5), corpus, normalizer, head, key=KEY)
    np.testing.assert_allclose([sharp.min_scale, wide.min_scale], [0.01, 0.5], rtol=1e-4)
    assert not sharp.raw_counts
    assert wide.raw_counts
    assert sharp.raw_nats_per_point < wide.raw_nats_per_point - 5
    assert sharp.nats_per_point > wide.nats_per_point + 5
    pen = np.log1p(np.exp(-2.0))
    want = np.log(2 * np.pi * (0.01**2 + 0.4**2)) + pen
    np.testing.assert_allclose(sharp.smoothed_nats_per_point, want, rtol=1e-5)


def test_convolution_adds_covariances():
    scales = [(0.01, 0.02), (0.5, 0.003), (3.0, 2.0)]

    @jax.jit
    def convolved(loc, covariance):
        mix = mdn.GaussianMixture.full(loc, covariance)
        wide = [st.convolve(mix, scale) for scale in scales]
        covariances = [w.component_covariances for w in wide]
        return mix.component_covariances, covariances, [w.log_scale for w in wide]

    rng = np.random.default_rng(0)
    a = rng.normal(size=(5, 4, 2, 2)) * np.array([1.0, 0.01])[:, None]
    covariance = a @ a.swapaxes(-1, -2) + 1e-6 * np.eye(2)
    before, *wide = convolved(np.float32(rng.normal(size=(5, 4, 2))), np.float32(covariance))
    for scale, got, log_scale in zip(scales, *wide, strict=True):
        want = np.float64(before) + np.diag(np.square(scale))
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=1e-9)
        volume = np.exp(2 * np.asarray(log_scale).sum(-1))
        np.testing.assert_allclose(volume, np.linalg.det(want), rtol=1e-3)


def test_another_head_is_refused():
    corpus = _corpus()
    head = mdn.ProductHead(
        offset=mdn.GaussianHead(num_components=2, dim=2), pen_up=mdn.BernoulliHead()
    )
    with pytest.raises(ValueError, match="evaluate: head must be a stroke_head"):
        st.evaluate(lambda x: x, corpus, st.Normalizer.fit(corpus), head, key=KEY)


def test_nothing_to_predict_is_refused():
    corpus = _corpus((1, 1))
    normalizer = st.Normalizer(mean=(0.0, 0.0), std=(1.0, 1.0), unit="device")
    with pytest.raises(ValueError, match="num_points must be positive"):
        st.evaluate(lambda x: x, corpus, normalizer, HEAD, key=KEY)


def _quarter(corpus):
    """The same lines in a unit four times as long: the lattice is four times as fine."""
    offsets = corpus.strokes.offsets / 4
    rest = corpus.strokes.pen_up, corpus.lengths, corpus.ids, corpus.texts
    return st.Corpus.from_offsets(offsets, *rest, unit="quads", resolution=0.25)


def test_scores_do_not_depend_on_the_unit_but_on_the_lattice():
    corpus = _corpus()
    fine = _quarter(corpus)
    model = jax.tree_util.Partial(_linear, _weights())
    scores = [
        dataclasses.asdict(
            st.evaluate(model, lines, st.Normalizer.fit(lines), HEAD, key=KEY, num_buckets=1)
        )
        for lines in (corpus, fine)
    ]
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)
    with pytest.raises(ValueError, match=r"evaluate: corpus must be of 0\.25, got a resolution of"):
        st.evaluate(model, corpus, st.Normalizer.fit(fine), HEAD, key=KEY)


def test_noise_fills_one_cell_of_the_lattice():
    corpus = _corpus()
    noisy = st.dequantize_corpus(KEY, _quarter(corpus)).strokes.offsets
    noise = (np.asarray(noisy) - corpus.strokes.offsets / 4) / 0.25
    assert 0.45 < np.abs(noise).max() <= 0.5
