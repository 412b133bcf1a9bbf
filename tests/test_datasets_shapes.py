"""Rendered pictures show what their attributes say, by measurements on the pixels."""

import numpy as np
import pytest

from mdnjax import datasets

SIDE = 64


def attributes(**given):
    number = max(np.shape(v)[0] for v in given.values())
    base = {"shape": 0, "color": 0, "background": 0, "size": 0.4, "angle": 0.0}
    columns = {name: np.full(number, value) for name, value in base.items()}
    columns["place"] = np.zeros((number, 2))
    return datasets.ShapeAttributes(**{**columns, **{n: np.array(v) for n, v in given.items()}})


def masks(found):
    """Where a picture has a colour: shapes are red, backgrounds grey, `[N, H, W]`."""
    images = np.float64(found.images)
    red = images[..., 0] - images[..., 2]
    return red > 0.5 * red.max((1, 2), keepdims=True)  # more than half covered


def render(found):
    return datasets.render_shapes(found, side=SIDE, noise=0.0)


def test_shapes_have_their_areas():
    size = 0.45
    found = masks(render(attributes(shape=np.arange(4), size=np.full(4, size), angle=[0.5] * 4)))
    disc, square = np.pi * 0.95**2, 1.6**2
    triangle = 3 * np.sqrt(3) * 0.6**2  # of inradius 0.6
    cross = 2 * (2 * 2 / 3) - (2 / 3) ** 2
    expected = np.array([disc, square, triangle, cross]) * size**2 / 4
    np.testing.assert_allclose(found.mean((1, 2)), expected, rtol=0.04)


def test_shapes_stand_where_they_are_said_to():
    places = np.array([[0.0, 0.0], [0.4, 0.0], [0.0, 0.4], [-0.3, 0.2]])
    found = masks(render(attributes(place=places, size=np.full(4, 0.3))))
    centres = (np.arange(SIDE) + 0.5) * 2 / SIDE - 1
    right = (found * centres).sum((1, 2)) / found.sum((1, 2))
    down = (found * centres[:, None]).sum((1, 2)) / found.sum((1, 2))
    np.testing.assert_allclose(np.stack([right, down], axis=-1), places, atol=0.01)


def test_angles_turn_clockwise_and_by_the_symmetry_nothing_changes():
    turn = 0.4
    bar = attributes(shape=[2, 2, 2], angle=[0.0, turn, 2 * np.pi / 3])
    upright, turned, round_again = masks(render(bar))
    np.testing.assert_array_equal(upright, round_again)
    at = (np.arange(SIDE) + 0.5) * 2 / SIDE - 1
    x, y = np.broadcast_to(at, upright.shape), np.broadcast_to(at[:, None], upright.shape)
    # Of a triangle the third angular moment says its direction, three times over.
    moments = [np.sum(m * (x + 1j * y) ** 3) for m in (upright, turned)]
    assert np.angle(moments[1] / moments[0]) == pytest.approx(3 * turn, abs=0.05)


def test_colours_and_backgrounds():
    found = render(attributes(color=np.arange(4))).images[:, SIDE // 2, SIDE // 2]
    np.testing.assert_array_equal(found[:3].argmax(-1), [0, 1, 2])
    assert found[3, :2].min() > 2 * found[3, 2]  # yellow: red and green
    behind = render(attributes(background=np.arange(4), size=np.full(4, 0.25))).images
    grey = behind[:, :8]  # the shape is not there
    np.testing.assert_allclose(grey[..., 0], grey[..., 2], atol=1e-6)
    dark, light = grey[:2].mean((1, 2, 3))
    assert dark < 0.3
    assert light > 0.7
    spread = behind[..., 0].std((1, 2))
    assert spread[2:].min() > 0.1


def test_everything_is_a_function_of_the_seeds():
    one, same, other = (datasets.random_attributes(50, seed=seed) for seed in (0, 0, 1))
    for a, b in zip(one, same, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(one.angle, other.angle)
    images = [datasets.render_shapes(one, seed=seed).images for seed in (0, 0, 1)]
    np.testing.assert_array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])
    assert images[0].shape == (50, 24, 24, 3)
    assert images[0].dtype == np.float32
    assert images[0].min() >= 0
    assert images[0].max() <= 1
    vector = one.vector()
    assert vector.shape == (50, 17)
    assert np.abs(vector).max() <= 1 + 1e-6
    for begin, classes in ((0, one.shape), (4, one.color), (13, one.background)):
        np.testing.assert_array_equal(vector[:, begin : begin + 4].argmax(-1), classes)


def test_pictures_that_differ_only_by_an_unseen_turn_have_one_vector():
    for shape, turn in enumerate([0.7, np.pi / 2, 2 * np.pi / 3, np.pi / 2]):
        three = attributes(shape=[shape] * 3, angle=[0.2, 0.2 + turn, 0.2 + turn / 3])
        first, turned, other = masks(render(three))
        vectors = three.vector()
        assert np.mean(first != turned) < 1e-3
        np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)
        is_seen = shape > 0
        assert (np.mean(first != other) > 1e-2) == is_seen
        assert (np.abs(vectors[0] - vectors[2]).max() > 0.05) == is_seen


def test_attributes_are_even():
    many = datasets.random_attributes(20_000)
    for classes in (many.shape, many.color, many.background):
        assert np.abs(np.bincount(classes) / 20_000 - 0.25).max() < 4.5 * np.sqrt(0.1875 / 20_000)


def test_errors():
    with pytest.raises(ValueError, match="random_attributes: num must be at least 0, got -1"):
        datasets.random_attributes(-1)
    with pytest.raises(ValueError, match="render_shapes: side must be at least 1, got 0"):
        datasets.render_shapes(datasets.random_attributes(1), side=0)
    with pytest.raises(ValueError, match=r"render_shapes: noise must be at least 0, got -0\.1"):
        datasets.render_shapes(datasets.random_attributes(1), noise=-0.1)
