"""Bishop's inverse problems: drawn as documented, and the arm's two solutions are solutions."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from mdnjax.datasets import (
    ARM_LENGTHS,
    ARM_RANGES,
    arm_position,
    arm_solutions,
    inverse_sine,
    robot_arm,
)

GENERATORS = [inverse_sine, robot_arm]
SIGNIFICANCE = 1e-4


def hand(theta_1, theta_2):
    """Forward kinematics in the complex plane: at the elbow the arm turns by theta_2 - pi."""
    upper, fore = ARM_LENGTHS
    elbow = upper * np.exp(1j * theta_1)
    return elbow + fore * np.exp(1j * (theta_1 + theta_2 - np.pi))


def some_angles(num, seed=0):
    """Angles of all joints' positions, within their ranges or not, but not straight or folded."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.uniform(-3.1, 3.1, num), rng.uniform(0.05, 2 * np.pi - 0.05, num)], -1)


# Both -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("generate", GENERATORS)
def test_same_seed_same_pairs_other_seed_others(generate):
    first, again, other = generate(50), generate(50, seed=0), generate(50, seed=1)
    np.testing.assert_array_equal(first.inputs, again.inputs)
    np.testing.assert_array_equal(first.targets, again.targets)
    assert not np.any(first.targets == other.targets)


@pytest.mark.parametrize("generate", GENERATORS)
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_smaller_set_is_the_beginning_of_a_larger(generate, noise):
    few, many = generate(7, seed=3, noise=noise), generate(1000, seed=3, noise=noise)
    np.testing.assert_array_equal(few.inputs, many.inputs[:7])
    np.testing.assert_array_equal(few.targets, many.targets[:7])


@pytest.mark.parametrize("generate", GENERATORS)
def test_noise_moves_the_inputs_and_leaves_the_targets(generate):
    clean, noisy = generate(100, noise=0.0), generate(100, noise=0.05)
    np.testing.assert_array_equal(clean.targets, noisy.targets)
    assert not np.any(clean.inputs == noisy.inputs)


@pytest.mark.parametrize(("generate", "features"), [(inverse_sine, 1), (robot_arm, 2)])
def test_shapes_and_dtype(generate, features):
    for values in generate(11):
        assert values.shape == (11, features)
        assert values.dtype == np.float32
    assert len(generate()[0]) == 1000


@pytest.mark.parametrize("generate", GENERATORS)
def test_drawing_leaves_numpys_global_stream_alone(generate):
    global_state = np.random.get_state
    before = global_state()
    generate(5)
    np.testing.assert_equal(global_state(), before)


@pytest.mark.parametrize("generate", GENERATORS)
@pytest.mark.parametrize(
    ("argument", "value"), [("num", 0), ("seed", -1), ("noise", -0.1), ("noise", math.nan)]
)
def test_what_is_out_of_range_is_named(generate, argument, value):
    with pytest.raises(ValueError, match=rf"{generate.__name__}: {argument} must be"):
        generate(**{argument: value})


# The sine -------------------------------------------------------------------------------------


def test_the_sines_causes_and_noise_are_uniform_and_independent():
    x, t = (values[:, 0].astype(float) for values in inverse_sine(20_000, seed=5))
    noise = x - (t + 0.3 * np.sin(2 * np.pi * t))
    assert stats.kstest(t, "uniform").pvalue > SIGNIFICANCE
    assert stats.kstest(noise, "uniform", args=(-0.1, 0.2)).pvalue > SIGNIFICANCE
    assert stats.spearmanr(t, noise).pvalue > SIGNIFICANCE


def test_the_sine_without_noise_has_three_causes_where_it_says():
    t = np.linspace(0, 1, 100_001)
    x = t + 0.3 * np.sin(2 * np.pi * t)

    def causes(at):
        return np.count_nonzero(np.diff(np.sign(x - at)))

    assert [causes(at) for at in (0.2, 0.4065, 0.4075, 0.5001, 0.5925, 0.5935, 0.8)] == [
        *(1, 1),
        *(3, 3, 3),
        *(1, 1),
    ]


def test_the_sines_entropy_is_the_one_documented():
    # t given x is uniform over the t with |x - f(t)| <= noise; its entropy is log of their length.
    t = (np.arange(20_000) + 0.5) / 20_000
    ordered = np.sort(t + 0.3 * np.sin(2 * np.pi * t))
    x = inverse_sine(100_000, seed=2).inputs[:, 0].astype(float)
    near = np.searchsorted(ordered, x + 0.1) - np.searchsorted(ordered, x - 0.1)
    log_length = np.log(near / len(t))
    error = log_length.std() / math.sqrt(len(x))
    assert abs(log_length.mean() - -1.2823) < 4 * error + 1e-4


# The arm --------------------------------------------------------------------------------------


def test_the_hand_is_where_complex_numbers_say():
    angles = some_angles(200)
    expected = hand(angles[:, 0], angles[:, 1])
    np.testing.assert_allclose(arm_position(angles) @ [1, 1j], expected, atol=1e-14)


def test_an_arm_that_is_straight_folded_or_bent_at_right_angles():
    upper, fore = ARM_LENGTHS
    np.testing.assert_allclose(arm_position([0, np.pi]), [upper + fore, 0], atol=1e-15)
    np.testing.assert_allclose(arm_position([np.pi / 2, 0]), [0, upper - fore], atol=1e-15)
    np.testing.assert_allclose(arm_position([0, np.pi / 2]), [upper, -fore], atol=1e-15)
    np.testing.assert_allclose(arm_position([0, 3 * np.pi / 2]), [upper, fore], atol=1e-15)


def test_drawn_angles_are_uniform_over_the_joints_ranges():
    _, angles = robot_arm(20_000, seed=4)
    for theta, (low, high) in zip(angles.astype(float).T, ARM_RANGES, strict=True):
        assert np.all((theta > low - 1e-6) & (theta < high + 1e-6))
        assert stats.kstest(theta, "uniform", args=(low, high - low)).pvalue > SIGNIFICANCE
    assert stats.spearmanr(*angles.T).pvalue > SIGNIFICANCE


def test_noise_on_the_hand_is_normal_with_the_deviation_given():
    position, angles = robot_arm(10_000, seed=6, noise=0.03)
    noise = (position - arm_position(angles)).astype(float)
    for e in noise.T:
        assert stats.kstest(e, "norm", args=(0, 0.03)).pvalue > SIGNIFICANCE
    for one, other in itertools.combinations([*noise.T, *angles.T], 2):
        assert stats.spearmanr(one, other).pvalue > SIGNIFICANCE


def test_one_of_the_solutions_is_where_the_hand_came_from():
    angles = some_angles(500, seed=1)
    solutions = arm_solutions(arm_position(angles)).angles
    distance = np.abs(solutions - angles[:, None]).max(-1).min(-1)
    assert distance.max() < 1e-6


def test_both_solutions_bring_the_hand_to_the_same_place_on_two_sides():
    position = arm_position(some_angles(500, seed=2))
    first, second = arm_solutions(position).angles.swapaxes(0, 1)
    for angles in (first, second):
        np.testing.assert_allclose(hand(*angles.T), position @ [1, 1j], atol=1e-12)
    # The elbows are mirror images in the line to the hand: its unit vector is `along`.
    along = position @ [1, 1j] / np.abs(position @ [1, 1j])
    elbows = np.exp(1j * first[:, 0]), np.exp(1j * second[:, 0])
    np.testing.assert_allclose(elbows[1], along * np.conj(elbows[0] / along), atol=1e-9)
    np.testing.assert_allclose(first[:, 1] + second[:, 1], 2 * np.pi)
    assert np.all(first[:, 1] < second[:, 1])


def test_drawn_positions_have_one_allowed_solution_or_two():
    position, angles = robot_arm(4000, seed=7)
    solutions, allowed = arm_solutions(position)
    count = allowed.sum(-1)
    # A solution on a range's very edge may fall out by rounding.
    assert np.mean(count == 0) < 1e-3
    assert 0.1 < np.mean(count == 2) < 0.9
    distance = np.abs(solutions - angles[:, None]).max(-1)
    nearest = distance.argmin(-1)
    # arccos loses half the digits where the arm is nearly straight.
    assert distance.min(-1).max() < 2e-3
    assert np.mean(allowed[np.arange(len(count)), nearest]) > 0.999
    # The other one, where allowed, is another one: the mean of the two misses the hand.
    two = (count == 2) & (np.abs(angles[:, 1] - np.pi) > 0.5)
    between = arm_position(solutions[two].mean(1))
    assert np.linalg.norm(between - position[two], axis=-1).min() > 5e-3


def test_angles_turn_over_at_pi_and_zero_is_in_the_middle():
    theta_1 = arm_solutions(arm_position(some_angles(500, seed=3))).angles[..., 0]
    assert theta_1.min() > -np.pi
    assert theta_1.max() <= np.pi
    assert theta_1.min() < -3
    assert theta_1.max() > 3


def test_solutions_at_the_edge_of_the_reach_and_beyond():
    at = arm_solutions([[1.0, 0.0], [0.0, 0.6], [1.01, 0.0], [0.3, 0.3]])
    np.testing.assert_allclose(at.angles[0], [[0, np.pi], [0, np.pi]], atol=1e-6)
    np.testing.assert_allclose(at.angles[1], [[np.pi / 2, 0], [np.pi / 2, 2 * np.pi]], atol=1e-6)
    assert np.isnan(at.angles[2:]).all()
    assert not at.allowed.any()


def test_batch_shapes_and_bad_shapes():
    angles = some_angles(6).reshape(2, 3, 2)
    position = arm_position(angles)
    assert position.shape == (2, 3, 2)
    solutions = arm_solutions(position)
    assert solutions.angles.shape == (2, 3, 2, 2)
    assert solutions.allowed.shape == (2, 3, 2)
    assert arm_position([0.5, 2.0]).shape == (2,)
    with pytest.raises(ValueError, match=r"arm_position: angles must be \[\.\.\., 2\]"):
        arm_position(np.zeros(3))
    with pytest.raises(ValueError, match=r"arm_solutions: position must be"):
        arm_solutions(1.0)
