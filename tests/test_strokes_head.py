"""Next-step pairs, the stroke head and the dequantisation noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import mdnjax as mdn
from mdnjax import strokes as st


def test_pairs_predict_each_point_from_the_one_before():
    rng = np.random.default_rng(0)
    mask = np.arange(6) < np.array([6, 3, 1, 0])[:, None]
    lines = st.Strokes(
        rng.normal(size=(4, 6, 2)) * mask[..., None], rng.integers(0, 2, (4, 6)) * 1.0 * mask, mask
    )
    inputs, targets, there = st.next_step_pairs(lines)
    assert inputs.shape == (4, 5, 3)
    for b in range(4):
        for t in range(5):
            assert inputs[b, t].tolist() == [*lines.offsets[b, t], lines.pen_up[b, t]]
            assert targets["offset"][b, t].tolist() == lines.offsets[b, t + 1].tolist()
            assert targets["pen_up"][b, t] == lines.pen_up[b, t + 1]
    assert there.sum(1).tolist() == [5, 2, 0, 0]
    assert there[1].tolist() == [True, True, False, False, False]
    traced = jax.jit(st.next_step_pairs)(jax.tree.map(jnp.asarray, lines))
    np.testing.assert_allclose(traced[0], inputs, rtol=1e-6)


def test_one_point_predicts_nothing():
    one = st.Strokes(np.zeros((1, 2)), np.zeros(1), np.ones(1, bool))
    with pytest.raises(ValueError, match="next_step_pairs: strokes must be T >= 2"):
        st.next_step_pairs(one)


def test_stroke_head_is_the_mixture_times_the_bernoulli():
    head = st.stroke_head(4)
    assert head.num_outputs == 6 * 4 + 1
    assert st.stroke_head().num_outputs == 121
    raw = np.random.default_rng(0).normal(size=(3, 25)).astype(np.float32)
    y = np.array([[0.1, 0.2], [1.0, -1.0], [-0.3, 0.4]], np.float32)
    pen_up = np.array([0.0, 1.0, 0.0], np.float32)
    got = mdn.nll(head, jnp.asarray(raw), {"offset": y, "pen_up": pen_up})
    mix = head["offset"].mixture(raw[:, :24])
    for i in range(3):
        p = sum(
            mix.weights[i, k]
            * scipy.stats.multivariate_normal(
                np.asarray(mix.loc[i, k], np.float64),
                np.asarray(mix.component_covariances[i, k], np.float64),
            ).pdf(y[i])
            for k in range(4)
        )
        lift = 1 / (1 + np.exp(-raw[i, 24]))
        want = -np.log(p) - np.log(lift if pen_up[i] else 1 - lift)
        np.testing.assert_allclose(got[i], want, rtol=1e-5)


def test_noise_is_one_unit_wide_uniform_and_on_targets_only():
    unit = (0.5, 0.02)
    targets = {"offset": jnp.ones((100, 40, 2)), "pen_up": jnp.ones((100, 40))}
    noisy = st.dequantize(jax.random.key(0), targets, unit)
    assert noisy["pen_up"] is targets["pen_up"]
    u = (np.asarray(noisy["offset"], np.float64) - 1).reshape(-1, 2) / np.array(unit)
    assert np.abs(u).max() <= 0.5 + 1e-5
    for column in u.T:
        assert scipy.stats.kstest(column, scipy.stats.uniform(-0.5, 1).cdf).pvalue > 1e-4 / 3
    assert scipy.stats.pearsonr(*u.T).pvalue > 1e-4 / 3
    again = st.dequantize(jax.random.key(0), targets, unit)["offset"]
    np.testing.assert_array_equal(again, noisy["offset"])
    assert (st.dequantize(jax.random.key(1), targets, unit)["offset"] != noisy["offset"]).any()
