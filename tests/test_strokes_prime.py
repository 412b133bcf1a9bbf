"""Priming: the model has read exactly what was given, and the lines go on from there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mdnjax import nets
from mdnjax import strokes as st

HEAD = st.stroke_head(3)
NORMALIZER = st.Normalizer(mean=(8.0, -1.0), std=(40.0, 30.0), unit="device")
STACK = nets.LSTMStack(3, (12, 8), HEAD.num_outputs, rngs=nnx.Rngs(0))
STEP = nets.functional(STACK, method="step")
UNROLL = nets.functional(STACK, method="unroll")


@jax.tree_util.Partial
def step(carry, inputs):
    return STEP.apply(STEP.params, {}, carry, inputs)[0]


def lines(lengths=(9, 4, 12, 1), seed=0) -> st.Strokes:
    """Whole offsets, garbage in the padding."""
    rng = np.random.default_rng(seed)
    shape = (len(lengths), max(lengths))
    offsets = rng.integers(-60, 60, size=(*shape, 2)).astype(np.float32)
    offsets[:, 0] = 0
    pen_up = (rng.random(shape) < 0.3).astype(np.float32)
    mask = np.arange(shape[1])[None, :] < np.array(lengths)[:, None]
    offsets[~mask] = np.nan
    pen_up[~mask] = 7
    return st.Strokes(offsets, pen_up, mask)


def row(batch: st.Strokes, b: int) -> st.Strokes:
    """One line without its padding."""
    there = np.asarray(batch.mask[b])
    return st.Strokes(*(np.asarray(a[b])[there] for a in vars(batch).values()))


def continued(given, *, num_points=20, seed=3, **options):
    size = options.get("num_lines", len(given.mask) if given.mask.ndim == 2 else 1)
    return st.continue_lines(
        step,
        STACK.initial_carry((size,)),
        HEAD,
        jax.random.key(seed),
        given,
        num_points=num_points,
        normalizer=NORMALIZER,
        **options,
    )


def test_the_primed_model_predicts_as_if_it_had_unrolled_the_line():
    batch = lines()
    carry, first = st.prime(step, STACK.initial_carry((4,)), batch, normalizer=NORMALIZER)
    _, raw = jax.jit(step)(carry, first)
    offsets = (np.asarray(batch.offsets, np.float64) - [8.0, -1.0]) / [40.0, 30.0]
    inputs = np.concatenate([offsets, np.asarray(batch.pen_up)[..., None]], axis=-1)
    inputs = np.where(np.asarray(batch.mask)[..., None], inputs, 0.0).astype(np.float32)
    (_, expected), _ = jax.jit(UNROLL.apply)(UNROLL.params, {}, inputs)
    for b, length in enumerate((9, 4, 12, 1)):
        np.testing.assert_allclose(raw[b], expected[b, length - 1], rtol=2e-5, atol=2e-6)
        np.testing.assert_allclose(first[b], inputs[b, length - 1], rtol=1e-6)


def test_the_carry_depends_on_every_given_point():
    line = row(lines(), 2)
    carry = STACK.initial_carry((1,))
    plain = st.prime(step, carry, line, normalizer=NORMALIZER)[0]
    for t in range(len(line.pen_up) - 1):
        offsets, pen_up = line.offsets.copy(), line.pen_up.copy()
        offsets[t, 0] += 30
        pen_up[t] = 1 - pen_up[t]
        other = st.Strokes(offsets, pen_up, line.mask)
        changed = st.prime(step, carry, other, normalizer=NORMALIZER)[0]
        assert all((a != b).any() for a, b in zip(plain[0], changed[0], strict=True)), t


def test_generation_after_priming_by_hand_is_the_function():
    line = row(lines(), 0)
    got = continued(line, bias=0.5)
    carry = STACK.initial_carry((1,))
    inputs = NORMALIZER.apply(line)
    points = np.concatenate([inputs.offsets, np.asarray(inputs.pen_up)[:, None]], axis=1)
    read = jax.jit(step)
    for point in points[:-1]:
        carry, _ = read(carry, point[None])
    new = st.generate(
        step,
        carry,
        HEAD,
        jax.random.key(3),
        num_lines=1,
        max_points=21,
        normalizer=NORMALIZER,
        bias=0.5,
        first=jnp.asarray(points[-1:]),
    )
    got, new = jax.tree.map(np.asarray, (got, new))
    assert got.lines.offsets.shape == (1, 29, 2)
    assert got.given.tolist() == [9]
    np.testing.assert_array_equal(got.lines.offsets[0, :9], line.offsets)
    np.testing.assert_array_equal(got.lines.pen_up[0, :9], line.pen_up)
    np.testing.assert_allclose(got.lines.offsets[0, 9:], new.offsets[0, 1:], rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(got.lines.pen_up[0, 9:], new.pen_up[0, 1:])


def test_a_batch_of_unequal_lines_is_each_line_followed_by_its_continuation():
    batch = lines()
    got = continued(batch)
    assert got.given.tolist() == [9, 4, 12, 1]
    assert got.lines.offsets.shape == (4, 32, 2)
    carry, first = st.prime(step, STACK.initial_carry((4,)), batch, normalizer=NORMALIZER)
    new = st.generate(
        step,
        carry,
        HEAD,
        jax.random.key(3),
        num_lines=4,
        max_points=21,
        normalizer=NORMALIZER,
        first=first,
    )
    got, new = jax.tree.map(np.asarray, (got, new))
    for b, given in enumerate(got.given):
        line = row(got.lines, b)
        assert len(line.pen_up) == given + 20
        np.testing.assert_array_equal(line.offsets[:given], row(batch, b).offsets)
        np.testing.assert_array_equal(line.offsets[given:], new.offsets[b, 1:])
        np.testing.assert_array_equal(line.pen_up[given:], new.pen_up[b, 1:])
        padding = ~np.asarray(got.lines.mask[b])
        assert not np.asarray(got.lines.offsets[b])[padding].any()
        assert not np.asarray(got.lines.pen_up[b])[padding].any()


def test_one_line_is_continued_many_times_and_each_time_differently():
    line = row(lines(), 0)
    got = jax.tree.map(np.asarray, continued(line, num_lines=5))
    assert got.given.tolist() == [9] * 5
    assert got.lines.mask.all()
    np.testing.assert_array_equal(got.lines.offsets[:, :9], np.stack([line.offsets] * 5))
    rest = np.asarray(got.lines.offsets[:, 9:])
    assert all((rest[a] != rest[b]).any() for a in range(5) for b in range(a))
    repeated = st.Strokes(*(np.stack([a] * 5) for a in vars(line).values()))
    np.testing.assert_array_equal(continued(repeated).lines.offsets, got.lines.offsets)


def test_a_longer_continuation_begins_with_the_shorter_one():
    line = row(lines(), 0)
    short, long = continued(line, num_points=5).lines, continued(line).lines
    np.testing.assert_array_equal(np.asarray(long.offsets)[:, :14], short.offsets)


def test_jax_arrays_prime_as_numpy_arrays_do():
    line = row(lines(), 0)
    as_jax = st.Strokes(*(jnp.asarray(a) for a in vars(line).values()))
    np.testing.assert_array_equal(continued(as_jax).lines.offsets, continued(line).lines.offsets)


def test_double_precision_lines_prime_a_single_precision_model(x64):
    line = row(lines(), 0)
    wide = st.Strokes(line.offsets.astype(float), line.pen_up.astype(float), line.mask)
    carry = STACK.initial_carry((1,))
    after, first = st.prime(step, carry, wide, normalizer=NORMALIZER)
    assert {leaf.dtype for leaf in (*jax.tree.leaves(after), first)} == {np.dtype(np.float32)}


def test_priming_compiles_once_for_all_parameters():
    count = 0

    def counted(params, carry, inputs):
        nonlocal count
        count += 1
        return STEP.apply(params, {}, carry, inputs)[0]

    doubled = jax.tree.map(lambda leaf: 2 * leaf, STEP.params)
    for seed, params in enumerate((STEP.params, doubled)):
        st.prime(
            jax.tree_util.Partial(counted, params),
            STACK.initial_carry((4,)),
            lines(seed=seed),
            normalizer=NORMALIZER,
        )
    assert count == 1


def test_what_cannot_prime_is_named():
    good = lines((5, 3))
    carry = STACK.initial_carry((2,))

    def broken(**parts):
        return st.Strokes(**(vars(good) | parts))

    holes = good.mask.copy()
    holes[0, 1] = False
    cases = [
        (broken(mask=np.zeros_like(good.mask)), carry, "prime: given must be lines with points"),
        (broken(mask=holes), carry, "prime: given must be lines with points"),
        (broken(offsets=np.full((2, 5, 2), np.nan)), carry, "prime: given must be finite"),
        (good, STACK.initial_carry((3,)), "prime: init must be arrays of 2 lines"),
        (st.Strokes(*(a[None] for a in vars(good).values())), carry, "of shape"),
    ]
    for given, init, message in cases:
        with pytest.raises(ValueError, match=message):
            st.prime(step, init, given, normalizer=NORMALIZER)
    with pytest.raises(ValueError, match="continue_lines: num_points must be at least 1"):
        continued(good, num_points=0)
    with pytest.raises(ValueError, match="continue_lines: num_lines must be None or 2"):
        continued(good, num_lines=3)
    with pytest.raises(ValueError, match="continue_lines: num_lines must be at least 1"):
        continued(row(good, 0), num_lines=0)


@pytest.mark.parametrize("unit", [1e-3, 1.0, 25.4])
def test_match_scale_undoes_a_change_of_unit(unit):
    rng = np.random.default_rng(1)
    # Correlated steps of the training corpus' means and variances.
    steps = rng.normal(size=(4000, 2)) @ np.array([[1.0, 0.3], [0.0, 1.0]])
    steps = (steps - steps.mean(axis=0)) / steps.std(axis=0) * [40.0, 30.0] + [8.0, -1.0]
    offsets = np.concatenate([[[0.0, 0.0]], steps])[None] * unit
    offsets = np.concatenate([offsets, np.full((1, 7, 2), np.inf)], axis=1)
    mask = np.arange(4008)[None, :] < 4001
    got, factor = st.match_scale(st.Strokes(offsets, np.zeros((1, 4008)), mask), NORMALIZER)
    assert factor == pytest.approx(1 / unit, rel=1e-9)
    np.testing.assert_allclose(got.offsets[0, 1:4001], steps, rtol=1e-9)


def test_match_scale_leaves_lines_of_the_training_corpus_about_as_they_are():
    from mdnjax.datasets import built_in_pens

    corpus = built_in_pens(60, seed=2)
    normalizer = st.Normalizer.fit(corpus)
    factors = np.array([st.match_scale(corpus[i], normalizer)[1] for i in range(60)])
    assert 0.8 < np.exp(np.log(factors).mean()) < 1.25
    assert ((factors > 0.5) & (factors < 2)).mean() > 0.95


@pytest.mark.parametrize("bend", [0.0, 1e-3])
def test_match_scale_of_a_straight_line_at_an_even_speed(bend):
    offsets = np.tile([0.3, 0.4], (41, 1)) + bend * np.random.default_rng(0).normal(size=(41, 2))
    offsets[0] = 0
    line = st.Strokes(offsets, np.eye(41)[40], np.ones(41, bool))
    _, factor = st.match_scale(line, NORMALIZER)
    assert factor == pytest.approx(np.sqrt(8**2 + 1 + 40**2 + 30**2) / 0.5, rel=3 * bend + 1e-12)
    level = st.Strokes(offsets * [1.0, 0.0], line.pen_up, line.mask)
    assert st.match_scale(level, NORMALIZER)[1] == pytest.approx(factor * 0.5 / 0.3, rel=0.01)


def test_match_scale_names_what_it_cannot_scale():
    still = st.Strokes(np.zeros((4, 2)), np.zeros(4), np.ones(4, bool))
    expected = "match_scale: given must be lines that move, and are finite, got {}"
    with pytest.raises(ValueError, match=expected.format("3 offsets of root mean square 0")):
        st.match_scale(still, NORMALIZER)
    touch = st.Strokes(np.zeros((1, 2)), np.ones(1), np.ones(1, bool))
    with pytest.raises(ValueError, match=expected.format("0 offsets of root mean square 0")):
        st.match_scale(touch, NORMALIZER)
    broken = st.Strokes(np.full((4, 2), np.nan), np.zeros(4), np.ones(4, bool))
    with pytest.raises(ValueError, match=expected.format("3 offsets of root mean square nan")):
        st.match_scale(broken, NORMALIZER)
