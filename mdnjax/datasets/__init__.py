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
from mdnjax.datasets.shapes import (
    BACKGROUNDS,
    COLORS,
    SHAPES,
    ShapeAttributes,
    ShapeImages,
    random_attributes,
    render_shapes,
)

__all__ = [
    "ARM_LENGTHS",
    "ARM_RANGES",
    "BACKGROUNDS",
    "COLORS",
    "SHAPES",
    "ArmSolutions",
    "Batches",
    "LabelledImages",
    "Pairs",
    "ShapeAttributes",
    "ShapeImages",
    "arm_position",
    "arm_solutions",
    "binarize",
    "built_in_pens",
    "digits",
    "download_images",
    "fashion_mnist",
    "inverse_sine",
    "mnist",
    "random_attributes",
    "read_idx",
    "render_shapes",
    "robot_arm",
]
