"""Corpora and problems: generators and readers, in NumPy."""

from mdnjax.datasets.inverse import (
    ARM_LENGTHS,
    ARM_RANGES,
    ArmSolutions,
    Pairs,
    arm_position,
    arm_solutions,
    inverse_sine,
    robot_arm,
)
from mdnjax.datasets.pens import built_in_pens

__all__ = [
    "ARM_LENGTHS",
    "ARM_RANGES",
    "ArmSolutions",
    "Pairs",
    "arm_position",
    "arm_solutions",
    "built_in_pens",
    "inverse_sine",
    "robot_arm",
]
