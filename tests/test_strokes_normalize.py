"""The normaliser against plain float64 statistics."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mdnjax as mdn
from mdnjax import strokes as st
from mdnjax import training


def _corpus(seed=0, lengths=(5, 9, 2, 30)):
    rng = np.random.default_rng(seed)
    xy = rng.integers(-300, 300, (sum(lengths), 2)).cumsum(axis=0)
    return st.Corpus.from_positions(
        xy, rng.integers(0, 2, sum(lengths)), lengths, [f"a-{n}" for n in lengths], ["x"] * 4
    )


def test_fit_counts_every_offset_but_the_first_of_each_line():
    corpus = _corpus()
    steps = np.concatenate([np.diff(corpus.positions(i), axis=0) for i in range(len(corpus))])
    assert len(steps) == 5 + 9 + 2 + 30 - 4
    normalizer = st.Normalizer.fit(corpus)
    np.testing.assert_allclose(normalizer.mean, steps.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(normalizer.std, steps.astype(np.float64).std(0), rtol=1e-12)
    assert normalizer.unit == "device"
    assert normalizer.log_device_area == pytest.approx(np.log(np.prod(normalizer.std)))
    np.testing.assert_allclose(normalizer.device_unit, 1 / np.array(normalizer.std))


def test_apply_and_invert_undo_each_other_and_leave_padding_alone():
    normalizer = st.Normalizer(mean=(8.0, -1.0), std=(40.0, 3.0), unit="device")
    offsets = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    mask = np.array([[True, True, True], [True, False, False]])
    pen_up = np.array([[0, 1, 1], [1, 0, 0]], np.float32)
    lines = st.Strokes(offsets * mask[..., None], pen_up, mask)
    normal = normalizer.apply(lines)
    assert normal.offsets.dtype == np.float32
    np.testing.assert_allclose(normal.offsets[0, 2], [(4 - 8) / 40, (5 + 1) / 3], rtol=1e-6)
    np.testing.assert_array_equal(normal.offsets[1, 1:], 0)
    np.testing.assert_array_equal(normal.pen_up, pen_up)
    np.testing.assert_allclose(normalizer.invert(normal).offsets, lines.offsets, atol=1e-5)
    traced = jax.jit(normalizer.apply)(jax.tree.map(jnp.asarray, lines))
    np.testing.assert_allclose(traced.offsets, normal.offsets, rtol=1e-6)


def test_goes_through_json_and_is_a_constant_for_jit():
    normalizer = st.Normalizer.fit(_corpus())
    again = training.build(json.loads(json.dumps(training.describe(normalizer))))
    assert again == normalizer
    assert hash(again) == hash(normalizer)


def test_a_normaliser_can_be_undone():
    for std in ((0.0, 1.0), (1.0, -1.0), (float("nan"), 1.0), (1.0, float("inf"))):
        with pytest.raises(ValueError, match="Normalizer: std must be positive and finite"):
            st.Normalizer(mean=(0.0, 0.0), std=std, unit="device")


def test_a_corpus_that_does_not_move_is_refused():
    still = st.Corpus.from_positions(np.array([[0, 1], [5, 1]]), np.ones(2), [2], ["a"], [""])
    with pytest.raises(ValueError, match="moving in both coordinates"):
        st.Normalizer.fit(still)
    with pytest.raises(ValueError, match="no offsets"):
        st.Normalizer.fit(st.Corpus.from_positions(np.zeros((1, 2)), np.ones(1), [1], ["a"], [""]))


def test_real_training_set(data_dir):
    normalizer = st.Normalizer.fit(st.read(data_dir / "iam_ondb" / "train_t1.npz"))
    np.testing.assert_allclose(normalizer.mean, (8.460, 0.085), atol=1e-3)
    np.testing.assert_allclose(normalizer.std, (42.733, 36.502), atol=1e-3)


def test_a_mixture_in_device_units_is_the_same_density(x64):
    normalizer = st.Normalizer(mean=(8.0, -1.0), std=(40.0, 3.0), unit="device")
    rng = np.random.default_rng(3)
    head = st.stroke_head(4)["offset"]

    @jax.jit
    def before_and_after(raw, offsets, device_offsets):
        mix = head.mixture(raw)
        device = normalizer.invert_mixture(mix)
        return [
            (mdn.log_prob(m, y), m.component_covariances)
            for m, y in ((mix, offsets), (device, device_offsets))
        ]

    raw, offsets = rng.normal(size=(5, head.num_outputs)), rng.normal(size=(5, 2))
    before, after = before_and_after(raw, offsets, offsets * [40.0, 3.0] + [8.0, -1.0])
    np.testing.assert_allclose(after[0], before[0] - normalizer.log_device_area, rtol=1e-12)
    want = np.asarray(before[1]) * np.outer([40.0, 3.0], [40.0, 3.0])
    np.testing.assert_allclose(after[1], want, rtol=1e-10)


def test_only_stroke_mixtures_go_back_to_device_units():
    normalizer = st.Normalizer(mean=(0.0, 0.0), std=(1.0, 1.0), unit="device")
    mix = mdn.GaussianMixture.isotropic([[0.0, 0.0]], [1.0])
    with pytest.raises(ValueError, match=r"invert_mixture: mix .* got isotropic in 2 dimensions"):
        normalizer.invert_mixture(mix)


def test_a_device_unit_is_the_spacing_of_the_lattice():
    corpus = _corpus()
    rest = corpus.strokes.pen_up, corpus.lengths, corpus.ids, corpus.texts
    fine = st.Corpus.from_offsets(corpus.strokes.offsets / 4, *rest, unit="mm", resolution=0.25)
    coarse, normalizer = st.Normalizer.fit(corpus), st.Normalizer.fit(fine)
    assert (normalizer.unit, normalizer.resolution) == ("mm", 0.25)
    np.testing.assert_allclose(normalizer.std, np.array(coarse.std) / 4)
    np.testing.assert_allclose(normalizer.device_unit, coarse.device_unit)
    assert normalizer.log_device_area == pytest.approx(coarse.log_device_area)
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="Normalizer: resolution must be positive and finite"):
            st.Normalizer(mean=(0.0, 0.0), std=(1.0, 1.0), unit="mm", resolution=wrong)


def test_a_description_from_before_there_was_a_resolution_still_builds():
    normalizer = st.Normalizer.fit(_corpus())
    description = json.loads(json.dumps(training.describe(normalizer)))
    assert description["fields"].pop("resolution") == 1.0
    assert training.build(description) == normalizer
