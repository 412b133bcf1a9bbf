"""Drawings as sketch-rnn pickles them, for tests of their reader."""

import io

import numpy as np

DRAWINGS = [
    np.array([[5, -7, 0], [3, 4, 1], [-10, 120, 0], [0, 0, 1]], np.int16),
    np.array([[100, 100, 1]], np.int16),
    np.array([[0, 0, 0], [-128, 127, 1]], np.int16),
]


def objects_of(drawings):
    array = np.empty(len(drawings), object)
    array[:] = drawings
    return array


def npy(pickled, count):
    """A `.npy` file of objects."""
    file = io.BytesIO()
    header = {"descr": "|O", "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + pickled


def assert_holds(corpus, drawings):
    assert len(corpus) == len(drawings)
    for line, drawing in zip(corpus, drawings, strict=True):
        expected = np.array(drawing, np.float64)
        expected[0, :2] = 0
        np.testing.assert_array_equal(line.offsets, expected[:, :2])
        np.testing.assert_array_equal(line.pen_up, expected[:, 2])
