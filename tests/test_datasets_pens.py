"""The built-in pens: reproducible, on the lattice, moving as documented, near IAM in numbers."""

import dataclasses
import inspect
import string
import sys

import numpy as np
import pytest
from made_clock import within
from scipy import interpolate, stats

from mdnjax.datasets import built_in_pens
from mdnjax.datasets.pens.glyphs import load_face
from mdnjax.datasets.pens.motion import minimum_jerk, pace, shake, trace
from mdnjax.datasets.pens.page import lay_out
from mdnjax.datasets.pens.text import cut_lines, load_words
from mdnjax.datasets.pens.writers import Hand, Warp, Writer

LINES = 320  # each of the forty writers once


@pytest.fixture(scope="module")
def corpus():
    return built_in_pens(LINES)


def offsets_within_lines(corpus):
    first = np.cumsum(corpus.lengths) - corpus.lengths
    return np.delete(corpus.strokes.offsets, first, axis=0).astype(float)


def extents(corpus, axis):
    return np.array([np.ptp(corpus.positions(i)[:, axis]) for i in range(len(corpus))])


# The corpus ------------------------------------------------------------------------------------


def test_same_seed_same_corpus_other_seed_other_corpus(corpus):
    again, other = built_in_pens(12), built_in_pens(12, seed=1)
    np.testing.assert_array_equal(again.strokes.offsets, corpus.subset(range(12)).strokes.offsets)
    assert again.texts.tolist() != other.texts.tolist()
    assert again.lengths.tolist() != other.lengths.tolist()


@pytest.mark.parametrize("num_lines", [1, 7, 8, 9, 30])
def test_a_shorter_corpus_is_a_prefix(corpus, num_lines):
    short, prefix = built_in_pens(num_lines), corpus.subset(range(num_lines))
    np.testing.assert_array_equal(short.strokes.offsets, prefix.strokes.offsets)
    np.testing.assert_array_equal(short.strokes.pen_up, prefix.strokes.pen_up)
    for name in ("lengths", "ids", "texts", "writers"):
        np.testing.assert_array_equal(getattr(short, name), getattr(prefix, name))


def test_drawing_leaves_numpys_global_stream_alone():
    global_state = np.random.get_state
    before = global_state()
    built_in_pens(2)
    np.testing.assert_equal(global_state(), before)


def test_offsets_are_finite_integers_and_lines_start_at_zero(corpus):
    offsets, first = corpus.strokes.offsets, np.cumsum(corpus.lengths) - corpus.lengths
    assert np.all(np.isfinite(offsets))
    np.testing.assert_array_equal(offsets, np.rint(offsets))
    np.testing.assert_array_equal(offsets[first], 0)
    assert corpus.unit == "device"


def test_lines_end_with_the_pen_up_and_no_stroke_is_a_single_point(corpus):
    ends = np.cumsum(corpus.lengths) - 1
    pen_up = corpus.strokes.pen_up
    assert set(np.unique(pen_up)) == {0, 1}
    assert np.all(pen_up[ends] == 1)
    assert np.all(np.diff(np.flatnonzero(pen_up)) >= 2)


def test_ids_group_pages_of_one_writer(corpus):
    assert len(set(corpus.ids.tolist())) == LINES
    assert corpus.ids[[0, 7, 8]].tolist() == ["p000-000-01", "p000-000-08", "p001-000-01"]
    for form, writer in zip(corpus.forms, corpus.writers, strict=True):
        assert form.startswith(f"{writer}-")
    _, counts = np.unique(corpus.forms, return_counts=True)
    assert set(counts) == {8}
    again = built_in_pens(24, num_writers=2)
    assert again.ids[16] == "p000-001-01"


def test_texts_are_the_shipped_prose_in_order(corpus):
    prose = " ".join(load_words())
    circle = f"{prose} {prose}"
    assert prose.startswith("The harbour master kept a notebook")
    assert "CC0" not in prose
    for page in range(0, LINES, 8):
        assert " ".join(corpus.texts[page : page + 8]) in circle
    lengths = np.array([len(text) for text in corpus.texts])
    assert lengths.min() >= 20
    assert lengths.max() <= 45


def test_the_prose_is_ascii_that_both_faces_can_write():
    letters = set("".join(load_words()))
    assert letters <= set(string.printable[:95])
    assert set(string.ascii_lowercase) <= letters
    for face in ("upright", "script"):
        assert letters <= set(load_face(face))


def test_lines_never_exceed_their_bounds_wherever_the_text_is_cut():
    words = load_words()
    for seed in range(300):
        lines = cut_lines(np.random.default_rng(seed), words, 8)
        assert all(20 <= len(line) <= 45 for line in lines)


def test_an_upright_line_has_the_strokes_of_its_letters(corpus):
    face = load_face("upright")
    for i in [*range(8), *range(16, 24)]:
        strokes = sum(len(face[character].movements) for character in corpus.texts[i])
        assert corpus[i].pen_up.sum() == strokes


def test_longer_texts_are_wider_for_each_writer(corpus):
    # Width follows the text: within one writer's page it correlates with what the page says.
    widths = extents(corpus, 0)
    typeset = {c: g.advance for c, g in load_face("upright").items()} | {" ": 0.9}
    wanted = np.array([sum(typeset[c] for c in text) for text in corpus.texts])
    for page in range(0, LINES, 16):  # upright pages
        part = slice(page, page + 8)
        assert np.corrcoef(widths[part], wanted[part])[0, 1] > 0.9


def test_both_faces_are_present_and_script_is_joined():
    upright = built_in_pens(48, faces=("upright",))
    script = built_in_pens(48, faces=("script",))
    both = built_in_pens(48)

    def strokes_per_letter(corpus):
        letters = sum(len(text.replace(" ", "")) for text in corpus.texts)
        return corpus.strokes.pen_up.sum() / letters

    assert strokes_per_letter(upright) > 1.0
    assert strokes_per_letter(script) < 0.85
    assert strokes_per_letter(script) < strokes_per_letter(both) < strokes_per_letter(upright)
    np.testing.assert_array_equal(both[0].offsets, upright[0].offsets)
    np.testing.assert_array_equal(
        both[8].offsets, built_in_pens(9, faces=("script",) * 2)[8].offsets
    )


def test_statistics_stay_within_the_documented_bands(corpus):
    offsets = offsets_within_lines(corpus)
    characters = sum(len(text) for text in corpus.texts)
    np.testing.assert_allclose(offsets.std(axis=0), [42.6, 37.6], rtol=0.06)
    np.testing.assert_allclose(offsets.mean(axis=0), [9.1, 0.2], atol=0.8)
    assert 15 < corpus.lengths.sum() / characters < 18
    assert 0.040 < corpus.strokes.pen_up.mean() < 0.050
    assert stats.kurtosis(offsets)[0] > 50
    assert stats.kurtosis(offsets)[1] > 5


def test_statistics_are_near_iams(corpus, data_dir):
    with np.load(data_dir / "iam_ondb" / "train_t1.npz") as archive:
        iam = {name: archive[name] for name in ("xy", "lengths", "pen_up")}
    steps = np.diff(iam["xy"], axis=0)
    steps = np.delete(steps, np.cumsum(iam["lengths"])[:-1] - 1, axis=0)
    ours = offsets_within_lines(corpus)
    np.testing.assert_allclose(ours.std(axis=0), steps.std(axis=0), rtol=0.1)
    np.testing.assert_allclose(corpus.strokes.pen_up.mean(), iam["pen_up"].mean(), rtol=0.15)


def test_height_scales_with_x_height_and_points_with_speed():
    plain, tall = built_in_pens(40, x_height=200.0), built_in_pens(40, x_height=400.0)
    np.testing.assert_array_equal(plain.lengths, tall.lengths)
    np.testing.assert_allclose(extents(tall, 1).mean() / extents(plain, 1).mean(), 2, rtol=0.02)
    quick = built_in_pens(40, speed=2.0, x_height=200.0)
    # Overlaps and ticks do not shrink with speed, so the saving is less than half.
    assert 0.5 < quick.lengths.sum() / plain.lengths.sum() < 0.75


def test_writers_differ_more_than_lines_of_one_writer(corpus):
    """Letter heights and slants tell writers apart (one-way analysis of variance, by page)."""
    lean = []
    for i in range(LINES):
        offsets = corpus[i].offsets[1:][corpus[i].pen_up[:-1] == 0].astype(float)
        down = offsets[offsets[:, 1] > 20]
        lean.append(down[:, 0].sum() / down[:, 1].sum())
    groups = np.reshape(lean, (-1, 8))
    assert stats.f_oneway(*groups).pvalue < 1e-12


def test_a_linear_forecast_leaves_much_to_learn(corpus):
    """Were the lines too smooth, an autoregression of order 3 would know what comes next."""
    ratio = []
    for i in range(0, LINES, 10):
        x = corpus[i].offsets.astype(float)
        features = np.concatenate([x[2:-1], x[1:-2], x[:-3], np.ones((len(x) - 3, 1))], axis=1)
        inside = corpus[i].pen_up[2:-1] == 0
        weights, *_ = np.linalg.lstsq(features[inside], x[3:][inside])
        left = x[3:][inside] - features[inside] @ weights
        ratio.append(left.std(axis=0) / x[3:][inside].std(axis=0))
    assert np.all(np.mean(ratio, axis=0) > 0.15)


def test_a_large_corpus_takes_little_time():
    # 6,000 lines in 20 s are 0.33 s; five times that allows for checked annotations and load.
    with within(1.7):
        built_in_pens(100)


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"num_lines": 0}, "num_lines"),
        ({"seed": -1}, "seed"),
        ({"num_writers": 0}, "num_writers"),
        ({"num_writers": 1000}, "num_writers"),
        ({"faces": ()}, "faces"),
        ({"faces": ("gothic",)}, "faces"),
        ({"x_height": 0.0}, "x_height"),
        ({"x_height": float("nan")}, "x_height"),
        ({"speed": float("inf")}, "speed"),
    ],
)
def test_errors_name_function_and_argument(arguments, argument):
    with pytest.raises(ValueError, match=rf"built_in_pens: {argument} must be"):
        # Below the tests' own type checks, which would catch an unknown face first.
        inspect.unwrap(built_in_pens)(**arguments)


def test_a_missing_font_package_is_named_with_the_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "HersheyFonts", None)
    with pytest.raises(ImportError, match=r'pip install "mdnjax\[pens\]"'):
        built_in_pens(1)


# Glyphs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("face", ["upright", "script"])
def test_glyphs_are_movements_of_moving_points(face):
    glyphs = load_face(face)
    for character in string.printable[:94]:
        movements = glyphs[character].movements
        assert movements, character
        for movement in movements:
            assert len(movement) >= 2, character
            assert np.all(np.hypot(*np.diff(movement, axis=0).T) > 0), character
    assert glyphs[" "].movements == ()


def test_recipes_keep_all_of_the_drafted_ink():
    """Each drafted point (dots aside) is on the path of the pen."""
    from HersheyFonts import HersheyFonts

    for face, font, unit in (("upright", "rowmans", 14.0), ("script", "scripts", 11.5)):
        hershey = HersheyFonts()
        hershey.load_default_font(font)
        glyphs = load_face(face)
        for character in string.ascii_letters:
            draft = hershey.all_glyphs[character]
            path = np.concatenate(glyphs[character].movements)
            for stroke in draft.strokes:
                drawn = (np.array(list(stroke), float) - [draft.left_offset, 9]) / unit
                far = np.abs(drawn[:, None] - path).sum(-1).min(axis=1)
                assert far.max() < 0.2, character


def test_script_letters_meet_at_the_margin():
    glyphs = load_face("script")
    for character in string.ascii_lowercase:
        glyph = glyphs[character]
        assert glyph.joins
        entry = glyph.movements[0][glyph.retrace]
        assert entry[0] < 0.45, character
        leaves = glyph.movements[0][-1]
        np.testing.assert_allclose(leaves, [glyph.advance, -5 / 11.5], atol=1e-9)


def test_plain_capitals_are_the_upright_ones():
    plain, upright = load_face("script", plain_capitals=True), load_face("upright")
    np.testing.assert_array_equal(plain["Q"].movements[0], upright["Q"].movements[0])
    assert len(load_face("script")["Q"].movements) != len(upright["Q"].movements)


# Writers ---------------------------------------------------------------------------------------


def test_a_warp_displaces_smoothly_and_as_far_as_asked():
    grid = np.stack(np.meshgrid(np.linspace(0, 9, 40), np.linspace(-3, 3, 40)), -1).reshape(-1, 2)
    warps = [Warp.draw(np.random.default_rng(seed), 0.1) for seed in range(400)]
    moved = np.array([warp(grid) - grid for warp in warps])
    np.testing.assert_allclose(np.sqrt(np.mean(moved**2)), 0.1, rtol=0.1)
    nudge = np.array([0.01, 0.0])
    # Neighbours 0.01 apart move alike: the gradient is bounded by 2 pi / 2.5 per wave.
    near = np.array([warp(grid + nudge) - grid for warp in warps]) - nudge
    assert np.abs(near - moved).max() < 0.01


@pytest.mark.parametrize("face", ["upright", "script"])
def test_letters_of_two_hands_differ_and_lines_of_one_hand_too(face):
    writer = Writer.draw(np.random.default_rng(0), face)
    one, two = (Hand.draw(np.random.default_rng(s), writer, load_face(face)) for s in (1, 2))
    gap = one.glyphs["a"].movements[0] - two.glyphs["a"].movements[0]
    assert 0.02 < np.abs(gap).mean() < 0.4
    first, _ = lay_out(np.random.default_rng(3), "aa", one)
    second, _ = lay_out(np.random.default_rng(4), "aa", one)
    if face == "upright":
        assert 0.005 < np.abs(first - second).std() < 0.1


def test_late_marks_wait_for_the_end_of_the_word():
    face = load_face("script")
    writer = Writer.draw(np.random.default_rng(0), "script")
    calm = {"lifts": 0.0, "slant": 0.0, "slope": 0.0, "wander": 0.0, "jitter": 0.0}
    counts = {}
    for late in (False, True):
        hand = Hand.draw(
            np.random.default_rng(1),
            dataclasses.replace(writer, late_marks=late, **calm),
            face,
        )
        points, ends = lay_out(np.random.default_rng(2), "title no", hand)
        counts[late] = int(ends.sum())
        heights = [part[:, 1].max() for part in np.split(points, np.flatnonzero(ends)[:-1] + 1)]
        if late:  # body of "title", then bar, dot, bar, then "no"
            assert counts[True] == 5
            assert [height > -0.2 for height in heights] == [True, False, False, False, True]
    assert counts[False] == 8  # t, bar, i, dot, t, bar, "le", "no"


# Motion ----------------------------------------------------------------------------------------


def test_minimum_jerk_is_the_polynomial_at_rest_at_both_ends():
    # Six conditions fix a quintic: position, velocity and acceleration at 0 and at 1.
    quintic = interpolate.BPoly.from_derivatives([0, 1], [[0, 0, 0], [1, 0, 0]])
    u = np.linspace(0, 1, 101)
    np.testing.assert_allclose(minimum_jerk(u), quintic(u), atol=1e-12)
    np.testing.assert_array_equal(minimum_jerk(np.array([-1.0, 2.0])), [0.0, 1.0])


def test_pace_obeys_the_two_thirds_power_law_on_circles():
    angle = np.linspace(0, 2 * np.pi, 80)
    for radius in (0.1, 0.5, 2.0):
        points = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        speed = pace(points, np.ones(79, bool))
        np.testing.assert_allclose(speed, (1 / radius + 0.3) ** (-1 / 3), rtol=1e-3)


def test_trace_is_the_sum_of_overlapping_strokes():
    """Against the defining sum, over all segments, at the times the samples were taken."""
    points = np.cumsum(np.random.default_rng(0).normal(size=(30, 2)), axis=0)
    ends = np.zeros(30, bool)
    ends[[11, 29]] = True
    overlap, period = 0.5, 0.1
    rng = np.random.default_rng(5)
    xy, pen_up = trace(rng, points, ends, overlap=overlap, speed=1.3, period=period)
    phase = np.random.default_rng(5).random(2)

    for movement, (a, b) in enumerate([(0, 12), (12, 30)]):
        part = points[a:b]
        step = np.diff(part, axis=0)
        lead = np.hypot(*step.T) / (1.3 * pace(part, np.ones(len(step), bool)))
        start = np.concatenate([[0], np.cumsum(lead)[:-1]])
        times = 0.25 * overlap + period * (phase[movement] + np.arange(10_000))
        times = times[times <= lead.sum() + 0.75 * overlap]
        u = np.clip((times[:, None] - start) / (lead + overlap), 0, 1)
        expected = part[0] + (10 * u**3 - 15 * u**4 + 6 * u**5) @ step
        got = np.split(xy, np.flatnonzero(pen_up)[:-1] + 1)[movement]
        np.testing.assert_allclose(got, expected, atol=1e-9)


def test_the_pen_slows_in_a_corner():
    points = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [2.0, 1.0], [2.0, 2.0]])
    ends = np.array([False] * 4 + [True])
    rng = np.random.default_rng(0)
    xy, _ = trace(rng, points, ends, overlap=0.3, speed=1.0, period=0.05)
    speed = np.hypot(*np.diff(xy, axis=0).T)
    corner = int(np.argmin(np.abs(xy[:-1] - [2.0, 0.0]).sum(axis=1)))
    assert speed[corner] < 0.8 * np.max(speed)
    assert np.abs(xy - [2.0, 0.0]).sum(axis=1).min() > 0.01  # and cuts it


def test_tremor_is_smooth_and_of_unit_variance():
    noise = shake(np.random.default_rng(0), 200_000)
    np.testing.assert_allclose(noise.std(axis=0), 1, rtol=0.02)
    neighbours = [np.corrcoef(noise[:-1, axis], noise[1:, axis])[0, 1] for axis in (0, 1)]
    assert min(neighbours) > 0.8
    assert abs(np.corrcoef(noise[:, 0], noise[:, 1])[0, 1]) < 0.02
