"""Offsets and positions undo each other, in NumPy and in JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mdnjax import strokes as st


def _positions(seed, shape=(3, 7, 2)):
    return np.random.default_rng(seed).integers(-500, 500, shape)


def test_offsets_are_the_steps_that_led_there():
    positions = _positions(0)
    pen_up = np.random.default_rng(1).integers(0, 2, (3, 7))
    lines = st.to_offsets(positions, pen_up)
    for b in range(3):
        assert lines.offsets[b, 0].tolist() == [0, 0]
        for t in range(1, 7):
            assert lines.offsets[b, t].tolist() == (positions[b, t] - positions[b, t - 1]).tolist()
    np.testing.assert_array_equal(lines.pen_up, pen_up)
    assert lines.offsets.dtype == lines.pen_up.dtype == np.float32
    assert lines.mask.all()
    np.testing.assert_array_equal(st.to_positions(lines), positions - positions[:, :1])


def test_padding_is_zero_whatever_stood_there():
    positions = _positions(2).astype(np.float64)
    mask = np.arange(7) < np.array([7, 3, 1])[:, None]
    lines = st.to_offsets(np.where(mask[..., None], positions, np.nan), np.ones((3, 7)), mask)
    assert not lines.offsets[~mask].any()
    assert not lines.pen_up[~mask].any()
    np.testing.assert_array_equal(
        st.to_positions(lines)[1], (positions[1] - positions[1, 0])[[0, 1, 2, 2, 2, 2, 2]]
    )


def test_jax_arrays_stay_jax_arrays_under_jit():
    positions, pen_up = _positions(3), np.zeros((3, 7))
    expected = st.to_offsets(positions, pen_up)
    got = jax.jit(st.to_offsets)(jnp.asarray(positions), jnp.asarray(pen_up))
    assert isinstance(got.offsets, jax.Array)
    np.testing.assert_array_equal(got.offsets, expected.offsets)
    back = jax.jit(st.to_positions)(got)
    np.testing.assert_array_equal(back, positions - positions[:, :1])


def test_flags_of_another_shape_are_refused():
    # By jaxtyping here, by the function itself (a ValueError) where annotations are not checked.
    with pytest.raises((ValueError, TypeError), match="pen_up"):
        st.to_offsets(np.zeros((7, 2)), np.zeros(6))
