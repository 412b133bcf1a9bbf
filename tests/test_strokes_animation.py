"""Drawings that draw themselves: the clock, grids, given points, and CSS as a browser reads it."""

import inspect
import itertools
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from made_writing import wave

from mdnjax.strokes import Animation, curves, to_svg, write_svg
from mdnjax.strokes.animation import follow, pen_times
from mdnjax.strokes.keyframes import knots
from mdnjax.strokes.structure import Strokes

SVG = "{http://www.w3.org/2000/svg}"


def square(size: float = 10.0, width: float = 1.0) -> Strokes:
    """A drawing of four corners."""
    steps = np.array([[0.0, 0], [width, 0], [0, 1], [-width, 0], [0, -1]]) * size
    return Strokes(steps, np.array([0.0, 0, 0, 0, 1]), np.ones(5, bool))


DOTTED = Strokes(
    np.array([[0.0, 0], [10, 0], [5, 5], [5, 5], [0, 0], [30, 5], [9, 9]]),
    np.array([0.0, 1, 1, 0, 1, 0, 1]),
    np.ones(7, bool),
)


# --- an independent reader of the CSS: property values at a moment ---


def keyframes(document: str) -> dict[str, list[tuple[float, dict[str, str]]]]:
    """The keyframes of every animation, sorted."""
    style = ElementTree.fromstring(document).findtext(f"{SVG}style")
    assert style is not None
    found = {}
    for name, body in re.findall(r"@keyframes ([\w-]+)\{((?:[^{}]+\{[^{}]*\})*)\}", style):
        frames = []
        for selectors, declarations in re.findall(r"([^{}]+)\{([^{}]*)\}", body):
            values = dict(part.split(":", 1) for part in declarations.split(";"))
            for selector in selectors.split(","):
                at = {"from": 0.0, "to": 100.0}.get(selector)
                at = float(selector.removesuffix("%")) if at is None else at
                assert 0 <= at <= 100
                frames.append((at, values))
        assert [at for at, _ in frames] == sorted(at for at, _ in frames)
        found[name] = frames
    return found


def value(frames, name: str, percent: float, rest: float) -> float | np.ndarray:
    """A property at a moment, by linear interpolation between the keyframes that set it."""

    def number(text):
        if text in ("hidden", "visible"):
            return float(text == "visible")
        numbers = re.findall(r"-?[\d.]+", text.removeprefix("translate"))
        return np.array([float(n) for n in numbers]) if len(numbers) > 1 else float(numbers[0])

    set_at = [(at, number(values[name])) for at, values in frames if name in values]
    if set_at[0][0] > 0:
        set_at.insert(0, (0.0, rest))
    if set_at[-1][0] < 100:
        set_at.append((100.0, rest))
    for (a, left), (b, right) in itertools.pairwise(set_at):
        if a <= percent < b:
            share = (percent - a) / (b - a)
            if name == "visibility":  # anything between hidden and visible is visible
                return max(left, right) if 0 < share < 1 else left
            return left + share * (right - left)
    return set_at[-1][1]


def drawn_paths(document: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(document).iter(f"{SVG}path"))


def animation_of(element: ElementTree.Element) -> str:
    match = re.fullmatch(r"animation-name:([\w-]+)", element.attrib["style"])
    assert match is not None
    return match[1]


def expected_ink(lines, animation, moment: float):
    """Of every piece, how much is written at a moment, and where each pen is; by simulation."""
    page = curves.set_page(lines)
    times, _ = pen_times(page, animation)
    written, pens = [], []
    for line, clocks in zip(page.lines, times, strict=True):
        for stroke, clock in zip(line, clocks, strict=True):
            curve = curves.flatten(curves.bezier(stroke), 50)
            at = np.interp(np.arange(len(curve)) / 50, np.arange(len(stroke)), clock)
            lengths = np.cumsum([0.0, *np.hypot(*np.diff(curve, axis=0).T)])
            written.append((np.interp(moment, at, lengths), lengths[-1]))
            pens.append((at, curve))
    return written, pens


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.13, 0.5, 0.77, 0.999])
def test_a_browser_shows_the_ink_that_is_written_and_the_pen_at_its_end(share, together):
    lines = [wave(), wave(90, seed=1)]
    animation = Animation(seconds=8.0, hold=2.0, together=together)
    document = to_svg(lines, animation=animation)
    frames = keyframes(document)
    pen = curves.set_page(lines).pen_width
    moment = 8.0 * share
    percent = 100 * moment / 10.0
    written, pens = expected_ink(lines, animation, moment)
    found = drawn_paths(document)
    assert len(found) == len(written)
    for path, (done, length), (at, _) in zip(found, written, pens, strict=True):
        assert path.attrib["pathLength"] == "1"
        own = frames[animation_of(path)]
        shown = 1 - value(own, "stroke-dashoffset", percent, 0.0)
        assert abs(shown * length - done) < 1.1 * pen
        visible = value(own, "visibility", percent, 1.0)
        if moment < at[0] - 1e-3:
            assert visible == 0
        if moment > at[0] + 1e-3:
            assert visible == 1
    tips = list(ElementTree.fromstring(document).iter(f"{SVG}circle"))
    assert len(tips) == (2 if together else 1)
    writing = [(at, curve) for at, curve in pens if at[0] <= moment <= at[-1]]
    places = [np.stack([np.interp(moment, at, c) for c in curve.T]) for at, curve in writing]
    for place in places:
        shown = [value(frames[animation_of(t)], "transform", percent, 0.0) for t in tips]
        assert min(np.linalg.norm(s - place) for s in shown) < 1.1 * pen


def test_when_all_is_written_the_picture_is_the_finished_one_and_the_pen_has_gone():
    document = to_svg([wave(), DOTTED], animation=Animation(seconds=5.0, hold=3.0))
    frames = keyframes(document)
    for element in ElementTree.fromstring(document).iter():
        if "style" not in element.attrib:
            continue
        own = frames[animation_of(element)]
        if element.tag == f"{SVG}circle":
            assert value(own, "opacity", 70.0, 0.0) == 0
            assert value(own, "opacity", 30.0, 0.0) == 1
        else:
            assert value(own, "visibility", 63.0, 1.0) == 1
            if "pathLength" in element.attrib:
                assert value(own, "stroke-dashoffset", 63.0, 0.0) == 0


def test_without_css_animations_the_picture_is_the_finished_one():
    """All that moves stands in the media query; the elements themselves are the static drawing."""
    lines = [wave(), DOTTED]
    still, moving = to_svg(lines), to_svg(lines, animation=Animation())
    assert [p.attrib["d"] for p in drawn_paths(moving)] == [
        p.attrib["d"] for p in drawn_paths(still)
    ]
    root = ElementTree.fromstring(moving)
    style = root.findtext(f"{SVG}style")
    assert style is not None
    match = re.search(r"@media \(prefers-reduced-motion:no-preference\)\{(.*?)\n\}", style, re.S)
    assert match is not None
    outside = re.sub(r"@keyframes [\w-]+\{(?:[^{}]+\{[^{}]*\})*\}", "", style.replace(match[0], ""))
    assert outside.strip() == ""
    assert "stroke-dasharray" in match[1]
    for element in root.iter():
        assert not {"stroke-dasharray", "stroke-dashoffset", "visibility"} & element.attrib.keys()
        if element.tag == f"{SVG}circle":
            assert element.attrib["opacity"] == "0"


def test_the_document_is_self_contained():
    document = to_svg(wave(), animation=Animation())
    assert not re.search(r"<script|href|url\(|@import|\bon\w+=", document)


def test_touches_are_shown_whole_when_the_pen_is_there():
    document = to_svg(DOTTED, stroke_width=1.0, animation=Animation(seconds=6.0, hold=0.0))
    kinds = ["pathLength" in p.attrib for p in drawn_paths(document)]
    assert kinds == [True, False, False, True]  # a line, a touch, a held touch, a line
    frames = keyframes(document)
    times, _ = pen_times(curves.set_page(DOTTED), Animation(seconds=6.0))
    touch, start = frames[animation_of(drawn_paths(document)[1])], times[0][1][0]
    assert value(touch, "visibility", 100 * start / 6.0 - 0.01, 1.0) == 0
    assert value(touch, "visibility", 100 * start / 6.0 + 0.01, 1.0) == 1


@pytest.mark.parametrize(
    ("loop", "expected"), [(True, "7s linear infinite"), (False, "5s linear 1")]
)
def test_it_plays_once_or_for_ever(loop, expected):
    document = to_svg(wave(), animation=Animation(seconds=5.0, hold=2.0, loop=loop))
    assert f"{{animation:{expected}}}" in document


def test_two_drawings_in_one_page_share_no_names():
    first, second = (to_svg(wave(seed=s), animation=Animation()) for s in (0, 1))
    assert not keyframes(first).keys() & keyframes(second).keys()
    assert to_svg(wave(), animation=Animation()) == first


def test_the_tip_can_be_left_out_and_coloured():
    assert "<circle" not in to_svg(wave(), animation=Animation(tip=None))
    assert 'fill="red"' in to_svg(wave(), animation=Animation(tip="red"))


def test_an_animated_page_stays_small(tmp_path):
    lines = [wave(600, seed=s, strokes=27) for s in range(4)]
    write_svg(tmp_path / "page.svg", lines, animation=Animation())
    assert (tmp_path / "page.svg").stat().st_size < 200_000


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"seconds": 0.0}, "seconds"),
        ({"seconds": float("inf")}, "seconds"),
        ({"hold": -1.0}, "hold"),
        ({"hold": float("nan")}, "hold"),
    ],
)
def test_animations_out_of_range_are_named(options, name):
    with pytest.raises(ValueError, match=f"Animation: {name} must be"):
        Animation(**options)


# --- the clock ---


def test_the_pen_samples_at_a_constant_rate_and_jumps_at_its_usual_pace():
    offsets = np.array([[0.0, 0], [2, 0], [2, 0], [2, 0], [0.5, 0], [2, 0], [14, 0], [5000, 0]])
    pen_up = np.array([0.0, 0, 0, 1, 0, 1, 1, 1])
    page = curves.set_page(Strokes(offsets, pen_up, np.ones(8, bool)))
    times, total = pen_times(page, Animation(seconds=62.0))
    # Three steps, a short jump (at least 1), a step, a jump of 14 / 2, a jump too long (50).
    units = np.array([0, 1, 2, 3, 4, 5, 12, 62.0])
    np.testing.assert_allclose(np.concatenate(times[0]), units)
    assert total == 62.0
    assert pen_times(page, Animation())[1] == 3.0
    longer = Strokes(np.tile(offsets[1:2], (801, 1)), np.zeros(801), np.ones(801, bool))
    assert pen_times(curves.set_page(longer), Animation())[1] == pytest.approx(8.0)


def test_lines_are_written_one_after_the_other_or_together():
    page = curves.set_page([wave(), wave(90)])
    one, _ = pen_times(page, Animation(seconds=10.0))
    assert one[0][0][0] == 0
    assert one[0][-1][-1] < one[1][0][0]
    assert one[1][-1][-1] == pytest.approx(10.0)
    all_, _ = pen_times(page, Animation(seconds=10.0, together=True))
    assert all_[0][0][0] == all_[1][0][0] == 0
    assert all_[0][-1][-1] < all_[1][-1][-1] == pytest.approx(10.0)


def test_at_an_even_pace_time_is_length():
    page = curves.set_page(square(width=3.0))
    times, _ = pen_times(page, Animation(seconds=8.0, pace="length"))
    np.testing.assert_allclose(times[0][0], [0, 3, 4, 7, 8])


def test_a_single_touch_takes_no_time():
    dot = Strokes(np.zeros((1, 2)), np.ones(1), np.ones(1, bool))
    document = to_svg(dot, animation=Animation())
    assert len(keyframes(document)) == 2
    assert "nan" not in document


def test_following_a_piece_keeps_the_times_of_its_points():
    page = curves.set_page(wave())
    (times, *_), _ = pen_times(page, Animation())
    for piece in curves.ink(page, 2.0)[0]:
        points, at = follow(piece, times[piece.stroke], 8)
        np.testing.assert_allclose(points[::8], page.lines[0][piece.stroke][piece.points])
        np.testing.assert_allclose(at[::8], times[piece.stroke][piece.points])
        assert (np.diff(at) > 0).all()


def test_between_knots_movement_is_even_to_the_tolerance():
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.uniform(0.1, 1.0, 300))
    values = np.cumsum(rng.normal(size=(300, 2)), axis=0)
    found = knots(times, values, 1.5)
    assert found[0] == 0
    assert found[-1] == 299
    assert len(found) < 200
    even = np.stack([np.interp(times, times[found], v[found]) for v in values.T], axis=1)
    assert np.linalg.norm(even - values, axis=1).max() <= 1.5
    assert knots(times, values, 0.0).tolist() == list(range(300))


# --- grids ---


def boxes(page: curves.Page) -> np.ndarray:
    """Left, top, right and bottom of every drawing."""
    points = [np.concatenate(line) for line in page.lines]
    return np.array([[*p.min(axis=0), *p.max(axis=0)] for p in points])


def test_a_grid_has_equal_cells_with_the_drawings_in_their_middle():
    drawings = [square(s, w) for s, w in [(10, 1), (4, 2), (8, 0.5), (6, 1), (10, 1.2)]]
    page = curves.set_page(drawings, columns=3, leading=1.5, margin=0.25)
    assert page.columns == 3
    found = boxes(page)
    centres = (found[:, :2] + found[:, 2:]) / 2
    across, down = centres[1] - centres[0], centres[3] - centres[0]
    np.testing.assert_allclose(across[1], 0, atol=1e-12)
    np.testing.assert_allclose(down[0], 0, atol=1e-12)
    rows, places = np.divmod(np.arange(5), 3)
    np.testing.assert_allclose(
        centres, centres[0] + places[:, None] * across + rows[:, None] * down
    )
    usual = np.median((found[:, 2:] - found[:, :2]).max(axis=1))
    largest = (found[:, 2:] - found[:, :2]).max(axis=0)
    np.testing.assert_allclose([across[0], down[1]], largest + usual)
    edge = 0.25 * usual
    np.testing.assert_allclose(page.size, 2 * edge + largest + (across * 2 + down)[:2])
    assert page.line_height == pytest.approx(down[1])
    assert (found[:, :2] >= edge - 1e-9).all()
    assert (found[:, 2:] <= np.array(page.size) - edge + 1e-9).all()


@pytest.mark.parametrize("columns", [2, 3, 7, None])
@pytest.mark.parametrize("leading", [0.0, 1.15])
def test_drawings_in_a_grid_never_touch(columns, leading):
    page = curves.set_page([square(10, 0.6)] * 7, columns=columns, leading=leading)
    found = boxes(page)
    for i, a in enumerate(found):
        for b in found[:i]:
            apart = np.maximum(a[:2] - b[2:], b[:2] - a[2:])
            assert apart.max() > 0.5


def test_columns_follow_the_shapes():
    def suggest(count, width):
        return curves.set_page([square(10, width)] * count, columns=None).columns

    assert suggest(8, 15.0) == 1  # lines of writing
    assert suggest(1, 1.0) == 1
    assert [suggest(n, 1.0) for n in (4, 6, 12, 16, 24)] == [2, 3, 4, 4, 6]
    assert suggest(12, 0.4) > suggest(12, 1.0) > suggest(12, 2.5)
    assert curves.set_page([square()] * 3, columns=9).columns == 3


def test_a_page_of_lines_is_what_it_was():
    lines = [wave(seed=s) for s in range(3)]
    assert to_svg(lines, columns=None) == to_svg(lines, columns=1) == to_svg(lines)


@pytest.mark.parametrize("columns", [0, -1, 1.5])
def test_columns_out_of_range_are_named(columns):
    with pytest.raises(ValueError, match="set_page: columns must be a whole number"):
        inspect.unwrap(curves.set_page)(wave(), columns=columns)


# --- what was given ---


def test_given_points_are_drawn_in_their_colour_and_the_curve_is_the_same():
    line = wave(strokes=3)
    strokes = curves.set_page(line).lines[0]
    assert [len(s) for s in strokes] == [20, 20, 20]
    still = drawn_paths(to_svg(line, decimals=3))
    for given, colours in [
        (0, [None] * 3),
        (1, [None] * 3),
        (20, ["red", None, None]),
        (27, ["red", "red", None, None]),
        (60, ["red"] * 3),
    ]:
        found = drawn_paths(to_svg(line, decimals=3, given=given, given_color="red"))
        assert [p.attrib.get("stroke") for p in found] == colours
    found = drawn_paths(to_svg(line, decimals=3, given=27))
    _, whole = still[1].attrib["d"].split("c")
    (start, before), (joint, after) = (p.attrib["d"][1:].split("c") for p in found[1:3])
    assert still[1].attrib["d"].startswith(f"M{start}c{before}")
    assert whole.endswith(after)
    x, y = (float(n) for n in re.findall(r"-?[\d.]+", joint))
    np.testing.assert_allclose([x, y], strokes[1][6], atol=1e-3)


def test_every_line_has_its_own_given_points():
    lines = [wave(seed=s, strokes=1) for s in range(3)]
    found = drawn_paths(to_svg(lines, given=[60, 0, 30], given_color="red"))
    assert [p.attrib.get("stroke") for p in found] == ["red", None, "red", None]
    assert curves.set_page(lines, given=np.array([60, 0, 30])).given == (60, 0, 30)


@pytest.mark.parametrize("given", [-1, 61, [1], [[1, 2]], [5, 61], 0.5])
def test_given_that_does_not_fit_is_named(given):
    with pytest.raises(ValueError, match="set_page: given must be"):
        inspect.unwrap(curves.set_page)([wave(), wave()], given=given)


def test_given_and_made_up_ink_are_animated_in_turn():
    document = to_svg(wave(strokes=1), given=30, animation=Animation(seconds=4.0, hold=0.0))
    first, second = (keyframes(document)[animation_of(p)] for p in drawn_paths(document))
    assert value(first, "stroke-dashoffset", 51.0, 0.0) == pytest.approx(0, abs=0.03)
    assert value(second, "visibility", 48.0, 1.0) == 0
    assert value(second, "visibility", 51.0, 1.0) == 1
