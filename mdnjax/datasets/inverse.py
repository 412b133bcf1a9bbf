r"""Bishop's two inverse problems, in which one input has several right answers.

A cause determines its effect; given the effect, the cause is ambiguous. A network that predicts
one answer, by least squares, predicts the mean of the right ones, which is wrong. In both problems
the *effect* is the network's input and the *cause* is its target.

The sine: x = t + 0.3 sin 2 pi t + noise. Without the noise, an x from 0.407 to 0.593 has three
causes t.

The robot arm: two links of lengths L1 = 0.8 and L2 = 0.2 in the plane. The shoulder stands at the
origin and theta_1 is the first link's angle there; theta_2 is the angle *inside* the elbow, so that
the arm is straight at pi. The hand is at

    x1 = L1 cos theta_1 - L2 cos(theta_1 + theta_2)
    x2 = L1 sin theta_1 - L2 sin(theta_1 + theta_2).

Mirrored in the line from shoulder to hand, the arm ends at the same place with the angle
2 pi - theta_2 inside the elbow: elbow up and elbow down. The joints' ranges, theta_1 in (0.3, 1.2)
and theta_2 in (pi/2, 3 pi/2), hold both solutions for some positions and one for the others.

References:
    C. M. Bishop. "Mixture Density Networks." NCRG/94/004, Aston University, 1994.
    C. M. Bishop. "Pattern Recognition and Machine Learning." 2006, section 5.6, figures 5.18, 5.19.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from mdnjax._checks import require

ARM_LENGTHS = (0.8, 0.2)
ARM_RANGES = ((0.3, 1.2), (np.pi / 2, 3 * np.pi / 2))
_CAUSES, _NOISE = range(2)  # a family of random streams each


class Pairs(NamedTuple):
    """What a network is given, and what it has to predict.

    Attributes:
        inputs: `[N, F]` float32.
        targets: `[N, D]` float32.
    """

    inputs: Float[np.ndarray, "N F"]
    targets: Float[np.ndarray, "N D"]


class ArmSolutions(NamedTuple):
    """Every pair of joint angles that brings the hand to a position.

    Attributes:
        angles: `[..., 2, 2]`, (theta_1, theta_2) of the two solutions, theta_2 <= pi first;
            theta_1 in (-pi, pi], theta_2 in [0, 2 pi]. NaN where no angles reach the position.
        allowed: `[..., 2]`, whether a solution is within `ARM_RANGES`.
    """

    angles: Float[np.ndarray, "*batch 2 2"]
    allowed: Bool[np.ndarray, "*batch 2"]


def inverse_sine(num: int = 1000, *, seed: int = 0, noise: float = 0.1) -> Pairs:
    r"""Draws points of x = t + 0.3 sin(2 pi t) + e, to be read from x to t.

    t ~ U(0, 1), e ~ U(-noise, noise). So t given x is uniform over all t whose x is within `noise`,
    one to three intervals. With noise 0.1 the least expected nll is the entropy of t given x,
    -1.282 nats (of the forward problem: log 0.2 = -1.609).

    Args:
        num: How many, N. A smaller set is the beginning of a larger one.
        seed: Of everything.
        noise: Half the width of the noise.

    Returns:
        Inputs x `[N, 1]` and targets t `[N, 1]`; for the forward problem, swap them.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> from mdnjax.datasets import inverse_sine
        >>> x, t = inverse_sine(3, noise=0.0)
        >>> bool(np.allclose(x, t + 0.3 * np.sin(2 * np.pi * t)))
        True

    References:
        Bishop 1994; PRML figure 5.19, where x and t are named the other way round.
    """
    where = "inverse_sine"
    _check_draw(where, num, seed, noise)
    t = np.random.default_rng((seed, _CAUSES)).random((num, 1))
    e = np.random.default_rng((seed, _NOISE)).uniform(-noise, noise, (num, 1))
    x = t + 0.3 * np.sin(2 * np.pi * t) + e
    return Pairs(x.astype(np.float32), t.astype(np.float32))


def robot_arm(num: int = 1000, *, seed: int = 0, noise: float = 0.0) -> Pairs:
    r"""Draws positions of a robot's hand, from which its joints' angles are to be found.

    The angles are uniform over `ARM_RANGES`, the position is `arm_position` of them. Without noise
    (Bishop's choice) a position has exactly one or two solutions: the density is singular, and a
    mixture's nll has no lower bound.

    Args:
        num: How many, N. A smaller set is the beginning of a larger one.
        seed: Of everything.
        noise: Standard deviation of normal noise, added to each coordinate of the position.

    Returns:
        Inputs: positions (x1, x2) `[N, 2]`. Targets: angles (theta_1, theta_2) `[N, 2]`, radians.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> from mdnjax.datasets import arm_position, robot_arm
        >>> position, angles = robot_arm(5)
        >>> bool(np.allclose(arm_position(angles), position, atol=1e-6))
        True

    References:
        Bishop 1994; PRML figure 5.18.
    """
    where = "robot_arm"
    _check_draw(where, num, seed, noise)
    low, high = np.array(ARM_RANGES).T
    angles = np.random.default_rng((seed, _CAUSES)).uniform(low, high, (num, 2))
    position = arm_position(angles)
    position += noise * np.random.default_rng((seed, _NOISE)).standard_normal((num, 2))
    return Pairs(position.astype(np.float32), angles.astype(np.float32))


def arm_position(angles: Any) -> Float[np.ndarray, "*batch 2"]:
    """Where the hand is: the forward kinematics.

    Args:
        angles: (theta_1, theta_2) `[..., 2]`, radians.

    Returns:
        (x1, x2) `[..., 2]`, in float64.

    Raises:
        ValueError: The last axis is not 2.

    Example:
        >>> from mdnjax.datasets import arm_position
        >>> print(arm_position([0.0, np.pi / 2]))  # the elbow at a right angle
        [ 0.8 -0.2]
    """
    angles = _two("arm_position", "angles", angles)
    shoulder, elbow = angles[..., 0], angles[..., 1]
    upper, fore = ARM_LENGTHS
    x1 = upper * np.cos(shoulder) - fore * np.cos(shoulder + elbow)
    x2 = upper * np.sin(shoulder) - fore * np.sin(shoulder + elbow)
    return np.stack([x1, x2], axis=-1)


def arm_solutions(position: Any) -> ArmSolutions:
    r"""Which angles bring the hand there: the inverse kinematics, exactly.

    With r the distance of the hand from the shoulder, the law of cosines gives the angle inside
    the elbow, and the angle at the shoulder between the first link and the line to the hand:

        cos theta_2 = (L1^2 + L2^2 - r^2) / (2 L1 L2)
        tan beta    = L2 sin theta_2 / (L1 - L2 cos theta_2),    theta_1 = atan2(x2, x1) + beta;

    2 pi - theta_2 turns the sign of beta.

    Args:
        position: (x1, x2) `[..., 2]`.

    Returns:
        Both solutions, in float64; they coincide where the arm is straight or folded.

    Raises:
        ValueError: The last axis is not 2.

    Example:
        >>> from mdnjax.datasets import arm_position, arm_solutions
        >>> angles, allowed = arm_solutions(arm_position([0.8, 2.0]))
        >>> print(angles[0], allowed)  # and a second one, within the joints' ranges as well
        [0.8 2. ] [ True  True]
    """
    position = _two("arm_solutions", "position", position)
    upper, fore = ARM_LENGTHS
    square = np.sum(position**2, axis=-1)
    cosine = (upper**2 + fore**2 - square) / (2 * upper * fore)
    # At the edge of the reach rounding must not decide; as much as float32 rounds off is forgiven.
    beyond = ~(np.abs(cosine) <= 1 + 1e-5)
    inside = np.arccos(np.where(beyond, np.nan, np.clip(cosine, -1, 1)))
    elbow = np.stack([inside, 2 * np.pi - inside], axis=-1)
    beta = np.arctan2(fore * np.sin(elbow), upper - fore * np.cos(elbow))
    shoulder = np.arctan2(position[..., 1], position[..., 0])[..., None] + beta
    shoulder = np.pi - (np.pi - shoulder) % (2 * np.pi)
    angles = np.stack([shoulder, elbow], axis=-1)
    low, high = np.array(ARM_RANGES).T
    return ArmSolutions(angles, np.all((low <= angles) & (angles <= high), axis=-1))


def _two(function: str, argument: str, values: Any) -> np.ndarray:
    """`values` in float64, checked to be pairs."""
    values = np.asarray(values, np.float64)
    require(values.shape[-1:] == (2,), function, argument, f"shape {values.shape}", "[..., 2]")
    return values


def _check_draw(function: str, num: int, seed: int, noise: float) -> None:
    require(num >= 1, function, "num", num, "at least 1")
    require(seed >= 0, function, "seed", seed, "at least 0")
    require(0 <= noise < np.inf, function, "noise", noise, "at least 0 and finite")
