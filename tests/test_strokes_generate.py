"""Generated lines: the right law, fed back to the model, biased, in linear time."""

import math
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx

import mdnjax as mdn
from mdnjax import nets
from mdnjax import strokes as st

HEAD = st.stroke_head(2)
NORMALIZER = st.Normalizer(mean=(8.0, -1.0), std=(40.0, 30.0), unit="device")


def _raw(loc, covariance, weights, log_odds):
    mix = mdn.GaussianMixture.full(
        jnp.asarray(loc), jnp.asarray(covariance), weights=jnp.asarray(weights)
    )
    return jnp.append(HEAD["offset"].raw(mix), log_odds)


COVARIANCES = [[[0.04, 0.03], [0.03, 0.09]], [[0.25, 0.0], [0.0, 0.01]]]
RAW = _raw([[1.0, 2.0], [-3.0, 0.5]], COVARIANCES, [0.25, 0.75], -1.0)


def _constant(carry, inputs):
    return carry, jnp.broadcast_to(RAW[None], (inputs.shape[0], HEAD.num_outputs))


def _generate(step=_constant, init=(), *, seed=0, **options):
    """Lines as NumPy's arrays; of the usual size, of which all that is compiled is so but once."""
    settings = {"num_lines": 64, "max_points": 101, "normalizer": NORMALIZER} | options
    lines = st.generate(step, init, HEAD, jax.random.key(seed), **settings)
    return jax.tree.map(np.asarray, lines)


def _normalised(lines):
    """Offsets `[B, T - 1, 2]` and pens `[B, T - 1]` without the first point, by hand."""
    offsets = (np.float64(lines.offsets) - NORMALIZER.mean) / NORMALIZER.std
    return offsets[:, 1:], lines.pen_up[:, 1:] > 0


@pytest.fixture(scope="module")
def stack():
    """A recurrent network, 32 units wide; drawn by NumPy, for which nothing is compiled."""
    rng = np.random.default_rng(0)
    shapes = nnx.eval_shape(lambda: nets.LSTMStack(3, (32, 32), HEAD.num_outputs, rngs=nnx.Rngs(0)))
    structure, weights = nnx.split(shapes)
    drawn = jax.tree.map(lambda w: np.float32(0.2 * rng.normal(size=w.shape)), weights)
    return nnx.merge(structure, jax.device_put(drawn))


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_points_follow_the_biased_mixture_and_the_unbiased_bernoulli(bias):
    lines = _generate(bias=bias)
    assert lines.offsets.shape == (64, 101, 2)
    assert lines.mask.all()
    assert not lines.offsets[:, 0].any()
    assert not lines.pen_up[:, 0].any()
    y, pen_up = _normalised(lines)
    y = y.reshape(-1, 2)
    weight = 0.25 ** (1 + bias) / (0.25 ** (1 + bias) + 0.75 ** (1 + bias))
    first = y[:, 0] > -1  # the components are ten deviations apart
    n = len(y)
    assert scipy.stats.binomtest(int(first.sum()), n, weight).pvalue > 1e-4 / 8
    assert scipy.stats.binomtest(int(pen_up.sum()), n, 1 / (1 + np.e)).pvalue > 1e-4 / 8
    for inside, loc, cov in (
        (first, [1.0, 2.0], COVARIANCES[0]),
        (~first, [-3.0, 0.5], COVARIANCES[1]),
    ):
        cov = np.array(cov) * np.exp(-2 * bias)
        z = np.linalg.solve(np.linalg.cholesky(cov), (y[inside] - np.array(loc)).T)
        for row in z:
            assert scipy.stats.kstest(row, scipy.stats.norm.cdf).pvalue > 1e-4 / 8


def test_the_model_reads_what_was_drawn():
    """A model that asks for exactly twice the last offset plus the steps taken so far."""

    def doubling(carry, inputs):
        carry = carry + 1
        loc = 0.5 * inputs[:, :2] + carry[:, None] + inputs[:, 2:]
        mix = mdn.GaussianMixture.full(
            jnp.stack([loc, loc], axis=1), jnp.broadcast_to(1e-8 * jnp.eye(2), (4, 2, 2, 2))
        )
        odds = jnp.where(carry % 2 == 1, 40.0, -40.0)[:, None]
        return carry, jnp.concatenate([HEAD["offset"].raw(mix), odds], axis=1)

    lines = _generate(doubling, jnp.arange(4.0) * 10, num_lines=4, max_points=6)
    for b in range(4):
        offset, pen, carry = -np.array([8 / 40, -1 / 30]), 0.0, 10.0 * b
        for t in range(1, 6):
            carry += 1
            offset = 0.5 * offset + carry + pen
            pen = carry % 2
            want = offset * np.array(NORMALIZER.std) + np.array(NORMALIZER.mean)
            np.testing.assert_allclose(lines.offsets[b, t], want, rtol=1e-3, atol=0.02)
            assert lines.pen_up[b, t] == pen


def test_lines_differ_keys_differ_and_longer_runs_begin_with_shorter_ones():
    short, long = _generate(max_points=20), _generate()
    np.testing.assert_array_equal(short.offsets, long.offsets[:, :20])
    np.testing.assert_array_equal(short.pen_up, long.pen_up[:, :20])
    assert (long.offsets[0] != long.offsets[1])[1:].any(axis=1).all()
    assert (_generate(seed=1).offsets != long.offsets)[:, 1:].any(axis=2).mean() > 0.999


def test_lines_start_at_zero_to_the_last_bit():
    rng = np.random.default_rng(0)
    for _ in range(8):
        mean, std = rng.normal(scale=10, size=2), rng.uniform(10, 50, size=2)
        normalizer = st.Normalizer(mean=tuple(mean.tolist()), std=tuple(std.tolist()), unit="x")
        assert not _generate(normalizer=normalizer).offsets[:, 0].any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_points_have_the_precision_of_the_model(x64, dtype):
    def step(weights, carry, point):
        carry = jnp.tanh(carry + point @ weights)
        return carry, carry

    weights = np.linspace(-1, 1, 3 * HEAD.num_outputs, dtype=dtype).reshape(3, HEAD.num_outputs)
    step = jax.tree_util.Partial(step, weights)
    init = np.zeros((2, HEAD.num_outputs), dtype)
    lines = _generate(step, init, num_lines=2, max_points=5)
    assert lines.offsets.dtype == dtype
    assert np.isfinite(lines.offsets).all()


def test_given_first_points_are_kept():
    first = jnp.array([[0.5, -0.5, 1.0], [0.0, 0.0, 0.0]])
    lines = _generate(num_lines=2, max_points=3, first=first)
    np.testing.assert_allclose(lines.offsets[:, 0], [[28, -16], [8, -1]], rtol=1e-6)
    assert lines.pen_up[:, 0].tolist() == [1, 0]


def test_compiles_once_for_all_parameters():
    traces = []

    def step(raw, carry, inputs):
        traces.append(1)
        return carry, jnp.broadcast_to(raw[None], (inputs.shape[0], HEAD.num_outputs))

    first = _generate(jax.tree_util.Partial(step, RAW))
    before = len(traces)
    second = _generate(jax.tree_util.Partial(step, RAW + 1), bias=0.5, seed=1)
    assert len(traces) == before
    assert (first.offsets[:, 1:] != second.offsets[:, 1:]).any()


def test_points_lines_components_and_pens_are_drawn_independently():
    lines = _generate(seed=3)
    y, pen = _normalised(lines)
    first, z = y[..., 0] > -1, y[..., 1]
    z = np.where(first, (z - 2) / 0.3, (z - 0.5) / 0.1)
    pairs = [(first, pen), (first[:, 1:], first[:, :-1]), (first[1:], first[:-1])]
    for a, b in pairs:
        table = [[np.sum((a == i) & (b == j)) for i in (0, 1)] for j in (0, 1)]
        assert scipy.stats.chi2_contingency(table).pvalue > 1e-4 / 6
    for a, b in [(z, first), (z[:, 1:], z[:, :-1]), (z[1:], z[:-1])]:
        assert scipy.stats.spearmanr(a.ravel(), b.ravel()).pvalue > 1e-4 / 6


def test_a_stepper_writes_what_step_writes(stack):
    init = stack.initial_carry((4,))
    plain = _generate(stack.step, init, num_lines=4, max_points=30)
    fast = _generate(*stack.stepper(init), num_lines=4, max_points=30)
    np.testing.assert_allclose(fast.offsets, plain.offsets, rtol=1e-3, atol=1e-2)
    np.testing.assert_array_equal(fast.pen_up, plain.pen_up)


def test_no_weights_are_copied_or_turned_inside_the_loop(stack):
    """Each step reads every weight once: nothing the loop computes is as large as a matrix."""
    width = 32
    step, init = stack.stepper(stack.initial_carry((1,)))

    def run(step, init, key):
        return st.generate(
            step, init, HEAD, key, num_lines=1, max_points=5, normalizer=NORMALIZER
        ).offsets

    text = jax.jit(run).lower(step, init, jax.random.key(0)).compile().as_text()
    inside = text[: text.index("\nENTRY")]
    made = re.findall(r"= f32\[([\d,]+)\]\S* ([\w-]+)\(", inside)
    free = {"parameter", "get-tuple-element", "bitcast"}
    sizes = [math.prod(map(int, shape.split(","))) for shape, name in made if name not in free]
    assert len(sizes) > 20
    assert 4 * width in sizes
    assert max(sizes) < 4 * width * width


def test_time_is_linear_in_the_length():
    """jax#40101: some releases copy the whole output at every step, so four times as long."""

    def writer(points):
        def write(key):
            options = {"num_lines": 1, "max_points": points, "normalizer": NORMALIZER}
            return st.generate(_constant, (), HEAD, key, **options)

        return jax.jit(write)

    writers = {points: writer(points) for points in (8_000, 16_000)}

    def seconds(points):
        start = time.perf_counter()
        jax.block_until_ready(writers[points](jax.random.key(0)))
        return time.perf_counter() - start

    # 16k against 8k points of 12 B: copying would cost 200 kB a step, some ten times the rest. A
    # busy machine may disturb some of the pairs; copying would show in every one of them.
    seconds(8_000), seconds(16_000)
    assert any(seconds(16_000) < 3 * seconds(8_000) for _ in range(10))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_lines": 0}, "num_lines"),
        ({"max_points": 1}, "max_points"),
        ({"bias": -1.0}, "bias"),
        ({"first": jnp.zeros((3, 3))}, "first"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=f"generate: {message}"):
        _generate(**options)
