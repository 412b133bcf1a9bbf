"""Sheets of images, and codes in a plane."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from mdnjax import plotting
from mdnjax.plotting import style

RNG = np.random.default_rng(0)


def sheet_of(ax):
    return np.asarray(ax.get_images()[0].get_array())


def test_every_image_stands_in_its_place_with_paper_between():
    images = RNG.random((2, 3, 4, 5, 3)).astype(np.float32)
    sheet = sheet_of(plotting.plot_images(images, gap=2))
    assert sheet.shape == (2 * 4 + 2, 3 * 5 + 2 * 2, 3)
    for row in range(2):
        for column in range(3):
            part = sheet[6 * row : 6 * row + 4, 7 * column : 7 * column + 5]
            np.testing.assert_array_equal(part, images[row, column])
    assert (sheet[4:6] == 1).all()
    assert (sheet[:, 5:7] == 1).all()


def test_grey_images_are_ink_on_paper_or_light_on_black():
    images = np.array([0.0, 1.0, 2.0, -1.0]).reshape(1, 4, 1, 1)
    sheet = sheet_of(plotting.plot_images(images, gap=0))[0]
    expected = [to_rgb(color) for color in (style.PAPER, style.INK, style.INK, style.PAPER)]
    np.testing.assert_allclose(sheet, expected, atol=1e-6)
    sheet = sheet_of(plotting.plot_images(images, gap=0, inked=False))[0]
    np.testing.assert_array_equal(sheet, np.array([0, 1, 1, 0])[:, None] * np.ones(3))


def test_a_pixel_is_a_unit_and_there_are_no_ticks():
    ax = plotting.plot_images(np.zeros((2, 3, 4, 5)))
    assert ax.get_xlim() == (0, 17)
    assert ax.get_ylim() == (9, 0)
    assert not len(ax.get_xticks())
    again = plotting.plot_images(np.zeros((1, 1, 2, 2)), ax=ax)
    assert again is ax


def test_codes_are_drawn_as_their_numerals():
    codes, labels = RNG.normal(size=(40, 2)), np.arange(40) % 10
    ax = plotting.plot_codes(codes, labels)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("z1", "z2")
    groups = ax.collections
    assert len(groups) == 10
    for label, group in enumerate(groups):
        np.testing.assert_allclose(group.get_offsets(), codes[labels == label])
    assert len({tuple(group.get_facecolor()[0]) for group in groups}) == 10
    outlines = [group.get_paths()[0].vertices for group in groups]
    assert len({len(outline) for outline in outlines}) > 3  # numerals, not dots


def test_errors():
    for shape in ((4, 5), (2, 3, 4, 5, 4), (0, 3, 4, 5)):
        with pytest.raises(ValueError, match=r"plot_images: images must be \[R, C, H, W\]"):
            plotting.plot_images(np.zeros(shape))
    with pytest.raises(ValueError, match=r"plot_codes: labels must be from 0 to 9, got \[10\]"):
        plotting.plot_codes(np.zeros((1, 2)), np.array([10]))


def test_codes_that_do_not_fit(without_jaxtyping):
    with pytest.raises(ValueError, match=r"codes and labels must be \[N, 2\] and \[N\]"):
        plotting.plot_codes(np.zeros((3, 2)), np.zeros(2, int))
