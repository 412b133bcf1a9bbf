"""Corpora and problems: generators and readers, in NumPy."""

from mdnjax.datasets.batches import Batches, binarize
from mdnjax.datasets.idx import read_idx
from mdnjax.datasets.images import LabelledImages, digits, download_images, fashion_mnist, mnist
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
    "Batches",
    "LabelledImages",
    "Pairs",
    "arm_position",
    "arm_solutions",
    "binarize",
    "built_in_pens",
    "digits",
    "download_images",
    "fashion_mnist",
    "inverse_sine",
    "mnist",
    "read_idx",
    "robot_arm",
]
