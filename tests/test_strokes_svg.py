"""SVG drawings: valid XML, exact at the data, smooth between, small, and honest about errors."""

import os
import re
import xml.etree.ElementTree as ElementTree

import jax.numpy as jnp
import numpy as np
import pytest

from mdnjax.strokes import curves
from mdnjax.strokes.structure import Strokes
from mdnjax.strokes.svg import to_svg, write_svg

SVG = "{http://www.w3.org/2000/svg}"


def wave(length: int = 60, seed: int = 0, strokes: int = 4) -> Strokes:
    """A made-up line of writing: loops that travel right, the pen lifted now and then."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 8 * np.pi, length)
    points = np.stack([20 * t + 15 * np.sin(t), 30 * np.cos(t)], axis=-1)
    points = points + rng.normal(size=points.shape)
    pen_up = np.zeros(length)
    pen_up[np.linspace(0, length - 1, strokes + 1).astype(int)[1:]] = 1
    return Strokes(np.diff(points, axis=0, prepend=points[:1]), pen_up, np.ones(length, bool))


def paths(document: str) -> list[tuple[str, np.ndarray]]:
    """Command and absolute points of every path: an independent reader of what we write."""
    found = []
    for element in ElementTree.fromstring(document).iter(f"{SVG}path"):
        match = re.fullmatch(r"M([-\d. ]+)([clh])([-\d. ]+)", element.attrib["d"])
        assert match is not None, element.attrib["d"]
        numbers = [
            np.array([float(n) for n in re.findall(r"-?(?:\d+\.?\d*|\.\d+)", part)])
            for part in (match[1], match[3])
        ]
        start = numbers[0]
        if match[2] == "h":
            found.append(("h", start[None]))
            continue
        relative = numbers[1].reshape(-1, 3 if match[2] == "c" else 1, 2)
        ends = start + np.cumsum(relative[:, -1], axis=0)
        begins = np.concatenate([start[None], ends[:-1]])
        found.append((match[2], np.concatenate([begins[:, None], begins[:, None] + relative], 1)))
    return found


def test_curve_passes_through_the_points_with_a_continuous_tangent():
    points = np.random.default_rng(1).normal(size=(40, 2)).cumsum(axis=0)
    segments = curves.bezier(points)
    np.testing.assert_array_equal(segments[:, 0], points[:-1])
    np.testing.assert_array_equal(segments[:, 3], points[1:])
    arriving, leaving = segments[:-1, 3] - segments[:-1, 2], segments[1:, 1] - segments[1:, 0]
    cross = arriving[:, 0] * leaving[:, 1] - arriving[:, 1] * leaving[:, 0]
    np.testing.assert_allclose(cross, 0, atol=1e-12)
    assert (np.sum(arriving * leaving, axis=-1) > 0).all()


def test_curve_agrees_with_the_barry_goldman_pyramid():
    points = np.random.default_rng(2).normal(size=(4, 2)) * np.array([3.0, 1.0])
    t = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1) ** 0.5)])

    def mix(a, b, ta, tb, u):
        return ((tb - u) * a + (u - ta) * b) / (tb - ta)

    segment = curves.bezier(points)[1]
    for s in np.linspace(0, 1, 7):
        u = t[1] + s * (t[2] - t[1])
        first = [mix(points[i], points[i + 1], t[i], t[i + 1], u) for i in range(3)]
        second = [mix(first[i], first[i + 1], t[i], t[i + 2], u) for i in range(2)]
        expected = mix(second[0], second[1], t[1], t[2], u)
        bernstein = np.array([(1 - s) ** 3, 3 * s * (1 - s) ** 2, 3 * s**2 * (1 - s), s**3])
        np.testing.assert_allclose(bernstein @ segment, expected, atol=1e-12)


def test_document_is_exact_at_the_data_points():
    line = wave()
    document = to_svg(line, decimals=3)
    read = paths(document)
    strokes = curves.set_page(line).lines[0]
    assert [kind for kind, _ in read] == ["c"] * len(strokes)
    for (_, segments), stroke in zip(read, strokes, strict=True):
        ends = np.concatenate([segments[:1, 0], segments[:, -1]])
        np.testing.assert_allclose(ends, stroke, atol=0.501e-3)
        arriving, leaving = segments[:-1, 3] - segments[:-1, 2], segments[1:, 1] - segments[1:, 0]
        cross = arriving[:, 0] * leaving[:, 1] - arriving[:, 1] * leaving[:, 0]
        sizes = np.linalg.norm(arriving, axis=1) * np.linalg.norm(leaving, axis=1)
        assert (np.abs(cross) < 2e-3 * sizes).all()


def test_integer_data_keeps_its_steps_exactly():
    rng = np.random.default_rng(3)
    offsets = rng.integers(-40, 40, size=(50, 2)).astype(float)
    line = Strokes(offsets, np.zeros(50), np.ones(50, bool))
    ((_, segments),) = paths(to_svg(line, stroke_width=2.0, decimals=0))
    np.testing.assert_array_equal(segments[:, -1] - segments[:, 0], offsets[1:])


def test_document_is_valid_accessible_and_holds_the_drawing():
    lines = [wave(seed=s, length=40 + 10 * s) for s in range(3)]
    root = ElementTree.fromstring(to_svg(lines, title='Less < more & "so" on', color="navy"))
    assert root.tag == f"{SVG}svg"
    assert root.attrib["role"] == "img"
    assert root.findtext(f"{SVG}title") == 'Less < more & "so" on'
    group = root.find(f"{SVG}g")
    assert group is not None
    assert group.attrib["stroke-linecap"] == group.attrib["stroke-linejoin"] == "round"
    assert group.attrib["stroke"] == "navy"
    assert len(group.findall(f"{SVG}g")) == 3
    pen = float(group.attrib["stroke-width"])
    box = [float(n) for n in root.attrib["viewBox"].split()]
    points = np.concatenate([p.reshape(-1, 2) for _, p in paths(to_svg(lines))])
    assert box[:2] == [0, 0]
    assert (points.min(axis=0) > pen).all()
    assert (points.max(axis=0) < np.array(box[2:]) - pen).all()
    aspect = float(root.attrib["width"]) / float(root.attrib["height"])
    assert aspect == pytest.approx(box[2] / box[3], rel=0.01)


def test_background_is_optional():
    assert "<rect" in to_svg(wave())
    assert "<rect" not in to_svg(wave(), background=None)


def test_lines_stand_below_each_other_and_never_touch():
    tall = wave(seed=1)
    tall = Strokes(tall.offsets * np.array([1.0, 6.0]), tall.pen_up, tall.mask)
    page = curves.set_page([wave(), tall, tall, wave()], leading=0.5)
    tops = [min(s[:, 1].min() for s in line) for line in page.lines]
    bottoms = [max(s[:, 1].max() for s in line) for line in page.lines]
    assert all(top > bottom for top, bottom in zip(tops[1:], bottoms[:-1], strict=True))
    lefts = [min(s[:, 0].min() for s in line) for line in page.lines]
    np.testing.assert_allclose(lefts, lefts[0])


def test_equal_lines_are_set_at_an_even_distance():
    page = curves.set_page([wave()] * 4, leading=2.0)
    starts = np.array([line[0][0] for line in page.lines])
    np.testing.assert_allclose(np.diff(starts[:, 1]), page.line_height)
    height = np.ptp(np.concatenate(page.lines[0])[:, 1])
    assert page.line_height == pytest.approx(2 * height)


def test_dots_and_straight_strokes():
    offsets = np.array([[0.0, 0], [10, 0], [5, 5], [5, 5], [0, 0], [30, 5]])
    pen_up = np.array([0.0, 1, 1, 0, 1, 1])
    line = Strokes(offsets, pen_up, np.ones(6, bool))
    read = paths(to_svg(line, stroke_width=1.0))
    # A straight line, a touch, a touch held for two points, and a touch at the end.
    assert [kind for kind, _ in read] == ["l", "h", "h", "h"]
    lonely = Strokes(np.zeros((1, 2)), np.ones(1), np.ones(1, bool))
    ((kind, point),) = paths(to_svg(lonely))
    assert kind == "h"
    assert np.isfinite(point).all()


def test_thinning_keeps_the_ends_and_changes_nothing_one_can_see():
    rng = np.random.default_rng(5)
    t = np.linspace(0, 2 * np.pi, 4000)
    points = 100 * np.stack([np.cos(t), np.sin(2 * t)], axis=-1) + 0.01 * rng.normal(size=(4000, 2))
    kept = points[curves.thin(points, 0.5)]
    assert len(kept) < 2000
    np.testing.assert_array_equal(kept[[0, -1]], points[[0, -1]])
    u = np.linspace(0, 1, 9)[None, :, None]
    p = curves.bezier(kept)[:, :, None, :]
    curve = (1 - u) ** 3 * p[:, 0] + 3 * u * (1 - u) ** 2 * p[:, 1]
    curve = (curve + 3 * u**2 * (1 - u) * p[:, 2] + u**3 * p[:, 3]).reshape(-1, 2)
    # Every left-out point is on the curve to a small part of the spacing (noise included).
    gaps = np.linalg.norm(points[::7, None] - curve[None], axis=-1).min(axis=1)
    assert gaps.max() < 0.1


def test_padding_is_not_drawn_and_batches_are_lines():
    line = wave(length=30)
    offsets = np.concatenate([line.offsets, np.full((12, 2), np.nan)])
    pen_up = np.concatenate([line.pen_up, np.full(12, np.nan)])
    mask = np.arange(42) < 30
    padded = Strokes(offsets, pen_up, mask)
    assert to_svg(padded) == to_svg(line)
    batch = Strokes(np.stack([offsets] * 2), np.stack([pen_up] * 2), np.stack([mask] * 2))
    assert to_svg(batch) == to_svg([line, line])


def test_jax_arrays_and_numpy_arrays_draw_the_same():
    line = wave(length=20)
    offsets = line.offsets.astype(np.float32)
    as_numpy = Strokes(offsets, line.pen_up.astype(np.float32), line.mask)
    as_jax = Strokes(jnp.asarray(offsets), jnp.asarray(as_numpy.pen_up), jnp.asarray(line.mask))
    assert to_svg(as_numpy) == to_svg(as_jax)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_picture_does_not_depend_on_the_unit(scale):
    line = wave()
    scaled = Strokes(line.offsets * scale, line.pen_up, line.mask)
    plain, other = curves.set_page(line), curves.set_page(scaled)
    np.testing.assert_allclose(other.size, np.multiply(plain.size, scale))
    np.testing.assert_allclose(other.pen_width, plain.pen_width * scale)
    for (_, a), (_, b) in zip(paths(to_svg(line)), paths(to_svg(scaled)), strict=True):
        np.testing.assert_allclose(b, a * scale, atol=0.06 * other.pen_width)


def test_files_stay_small():
    line = wave(length=3000, strokes=200)
    assert len(to_svg(line)) < 26 * 3000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offsets": np.zeros((5, 3))}, "offsets"),
        ({"offsets": np.zeros(5)}, "offsets"),
        ({"pen_up": np.zeros(4)}, "pen_up"),
        ({"mask": np.ones((1, 5), bool)}, "mask"),
        ({"mask": np.zeros(5, bool)}, "line 0 with none"),
        ({"offsets": np.full((5, 2), np.nan)}, "line 0"),
        ({"pen_up": np.full(5, np.inf)}, "finite"),
    ],
)
def test_broken_lines_are_named(change, message):
    good = {"offsets": np.ones((5, 2)), "pen_up": np.zeros(5), "mask": np.ones(5, bool)}
    parts = good | change
    line = object.__new__(Strokes)  # past the constructor, which may check on its own
    for name, value in parts.items():
        object.__setattr__(line, name, value)
    with pytest.raises(ValueError, match=rf"to_svg: lines must be .*{message}"):
        to_svg(line)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"width": 0.0}, "width"),
        ({"stroke_width": -1.0}, "stroke_width"),
        ({"stroke_width": float("nan")}, "stroke_width"),
        ({"leading": -0.1}, "leading"),
        ({"margin": float("inf")}, "margin"),
        ({"decimals": -1}, "decimals"),
    ],
)
def test_options_out_of_range_are_named(options, name):
    with pytest.raises(ValueError, match=f"to_svg: {name} must be"):
        to_svg(wave(), **options)


def test_no_lines_is_an_error():
    with pytest.raises(ValueError, match="to_svg: lines must be at least one line"):
        to_svg([])


def test_write_svg_is_whole_or_nothing(tmp_path, monkeypatch):
    target = tmp_path / "lines.svg"
    write_svg(target, wave(), title="first")
    first = target.read_bytes()
    assert first.decode() == to_svg(wave(), title="first") + "\n"
    with pytest.raises(ValueError, match="lines"):
        write_svg(target, [])

    def full(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        write_svg(target, wave(), title="second")
    assert target.read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == ["lines.svg"]


@pytest.mark.parametrize("name", ["absent/lines.svg", "folder"])
def test_a_file_that_cannot_be_written_is_called_by_its_own_name(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises((FileNotFoundError, IsADirectoryError)) as error:
        write_svg(tmp_path / name, wave())
    assert (error.value.filename, error.value.filename2) == (str(tmp_path / name), None)
    assert error.value.strerror == os.strerror(error.value.errno)
    assert ".part" not in str(error.value)
