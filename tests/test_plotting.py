"""Pictures: densities against SciPy, ink where the data is, text inside, files that repeat."""

import inspect
import io
import itertools
import os
import subprocess
import sys

import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
import scipy.stats
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.text import Text
from PIL import Image

from mdnjax import plotting
from mdnjax.plotting import style
from mdnjax.plotting.training import _smooth
from mdnjax.strokes.curves import set_page
from mdnjax.strokes.structure import Strokes


def wave(length: int = 60, seed: int = 0) -> Strokes:
    """A made-up line of writing: loops that travel right, the pen lifted now and then."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 8 * np.pi, length)
    points = np.stack([20 * t + 15 * np.sin(t), 30 * np.cos(t)], axis=-1)
    points = points + rng.normal(size=points.shape)
    pen_up = np.zeros(length)
    pen_up[[length // 2, length - 1]] = 1
    return Strokes(np.diff(points, axis=0, prepend=points[:1]), pen_up, np.ones(length, bool))


def mixtures(steps: int, components: int, scale: float, seed: int = 0):
    """Log-weights, means and full covariances of standard deviations about `scale`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(steps, components))
    log_weights = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    deviations = scale * np.exp(0.3 * rng.normal(size=(steps, components, 2)))
    rho = rng.uniform(-0.9, 0.9, size=(steps, components))
    covariances = deviations[..., :, None] * deviations[..., None, :]
    covariances[..., 0, 1] *= rho
    covariances[..., 1, 0] *= rho
    return log_weights, 3 * rng.normal(size=(steps, components, 2)), covariances


def naive(positions, log_weights, loc, covariances, x, y):
    points = np.stack(np.meshgrid(x, y), axis=-1)
    total = np.zeros(points.shape[:2])
    for t, k in np.ndindex(*log_weights.shape):
        normal = scipy.stats.multivariate_normal(positions[t] + loc[t, k], covariances[t, k])
        total += np.exp(log_weights[t, k]) * normal.pdf(points)
    return total


@pytest.mark.parametrize("scale", [0.7, 3.0, 30.0])
def test_offset_density_is_the_sum_of_gaussians(scale):
    # The grid's cells are 0.5 and 0.4, so the widest go through a grid four times as coarse.
    positions = np.random.default_rng(1).normal(size=(5, 2)) * 10
    mixture = mixtures(5, 4, scale)
    x, y = np.linspace(-40, 50, 181), np.linspace(-30, 34, 161)
    got = plotting.offset_density(positions, *mixture, x, y)
    expected = naive(positions, *mixture, x, y)
    assert got.shape == (161, 181)
    np.testing.assert_allclose(got, expected, atol=3e-3 * expected.max())
    assert np.abs(got - expected).sum() < 3e-3 * expected.sum()


@pytest.mark.parametrize("scale", [0.01, 0.3, 2.0, 20.0])
def test_offset_density_integrates_to_the_number_of_steps(scale):
    positions = np.random.default_rng(2).normal(size=(40, 2)) * 10
    x, y = np.linspace(-180, 180, 361), np.linspace(-180, 180, 361)
    got = plotting.offset_density(positions, *mixtures(40, 3, scale), x, y, blur=0.5)
    assert got.sum() == pytest.approx(40, rel=0.02)
    assert (got >= 0).all()


def test_blur_is_an_added_variance():
    positions = np.zeros((2, 2))
    log_weights, loc, covariances = mixtures(2, 3, 1.0)
    x, y = np.linspace(-10, 10, 41), np.linspace(-10, 10, 51)
    got = plotting.offset_density(positions, log_weights, loc, covariances, x, y, blur=2.0)
    expected = naive(positions, log_weights, loc, covariances + 4 * np.eye(2), x, y)
    np.testing.assert_allclose(got, expected, atol=1e-4 * expected.max())


def test_weightless_components_add_nothing_and_jax_arrays_do():
    positions = np.zeros((3, 2))
    log_weights, loc, covariances = mixtures(3, 2, 2.0)
    x = y = np.linspace(-15, 15, 61)
    expected = plotting.offset_density(positions, log_weights, loc, covariances, x, y)
    padded = (
        np.concatenate([log_weights, np.full((3, 1), -np.inf)], axis=1),
        np.concatenate([loc, np.zeros((3, 1, 2))], axis=1),
        np.concatenate([covariances, np.tile(np.eye(2), (3, 1, 1, 1))], axis=1),
    )
    where, *mixture = (jnp.asarray(a, dtype=jnp.float32) for a in (positions, *padded))
    got = plotting.offset_density(where, mixture[0], mixture[1], mixture[2], x, y)
    np.testing.assert_allclose(got, expected, atol=1e-5 * expected.max())


def test_offset_density_names_what_is_wrong():
    # Past the tests' type checker, as a user calls it.
    density = inspect.unwrap(plotting.offset_density)
    grid = np.linspace(-1, 1, 5)
    good = dict(zip(("log_weights", "loc", "covariances"), mixtures(3, 2, 1.0), strict=True))
    good = {"positions": np.zeros((3, 2)), "x": grid, "y": grid} | good
    density(**good)
    for name, bad, message in [
        ("positions", np.zeros((4, 2)), "positions"),
        ("loc", np.zeros((3, 2, 3)), "loc"),
        ("log_weights", np.zeros(3), "log_weights"),
        ("covariances", np.zeros((3, 2, 2)), "covariances"),
        ("covariances", -good["covariances"], "positive definite"),
        ("loc", np.full((3, 2, 2), np.nan), "finite"),
        ("x", np.array([0.0, 1.0, 3.0]), "x must be"),
        ("y", np.array([1.0, 0.0]), "y must be"),
        ("blur", -1.0, "blur"),
    ]:
        with pytest.raises(ValueError, match=f"offset_density: .*{message}"):
            density(**(good | {name: bad}))


def pixels(figure, dpi: float = 100.0) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return np.asarray(Image.open(buffer).convert("L"), dtype=float) / 255


def assert_text_is_inside(figure):
    """Every text lies in the figure, and no two overlap."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # ticks get their text when drawn
    renderer = canvas.get_renderer()
    texts = list(figure.texts)
    for ax in figure.axes:
        texts += [t for t in ax.get_children() if isinstance(t, Text)]  # titles among them
        for axis in (ax.xaxis, ax.yaxis):
            texts.append(axis.label)
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            texts += [label for tick in ticks for label in (tick.label1, tick.label2)]
    boxes = [
        (text.get_text(), text.get_window_extent(renderer))
        for text in texts
        if text.get_visible() and text.get_text().strip()
    ]
    assert len(boxes) >= 2
    for text, box in boxes:
        inside = box.x0 >= 0 and box.y0 >= 0
        inside = inside and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        assert inside, f"{text!r} leaves the figure"
    for i, (text, box) in enumerate(boxes):
        for other, there in boxes[:i]:
            assert not box.overlaps(there), f"{text!r} overlaps {other!r}"


def test_ink_is_where_the_data_is_and_paper_elsewhere():
    lines = [wave(seed=s) for s in range(3)]
    figure = plotting.page(lines, width=6.0)
    image = pixels(figure)
    sheet = set_page(lines)
    assert image.shape[1] / image.shape[0] == pytest.approx(sheet.size[0] / sheet.size[1], rel=0.01)
    points = np.concatenate([stroke for line in sheet.lines for stroke in line])
    column, row = (points * (image.shape[1] / sheet.size[0])).astype(int).T
    assert image[row, column].max() < 0.6
    assert 0.002 < (image < 0.6).mean() < 0.2
    edge = np.concatenate([image[:5].ravel(), image[-5:].ravel(), image[:, :5].ravel()])
    assert edge.min() > 0.95


def test_a_wider_pen_leaves_more_ink_and_a_quick_one_less():
    still = Strokes(wave().offsets, np.zeros(60), np.ones(60, bool))
    quick = np.concatenate([np.full((60, 2), 0.5), np.full((40, 2), 20.0)])
    quick = Strokes(quick, np.zeros(100), np.ones(100, bool))

    def ink(line, **options):
        return float((1 - pixels(plotting.page(line, paper="white", **options))).sum())

    assert ink(still, pen_width=8.0) > 1.6 * ink(still, pen_width=4.0)
    assert ink(quick, pen_width=8.0) < 0.9 * ink(quick, pen_width=8.0, flow=False)


def test_plot_strokes_draws_into_given_axes():
    figure = style.new_figure(4.0, 3.0)
    ax = figure.add_subplot()
    assert plotting.plot_strokes(wave(), ax) is ax
    low, high = ax.get_ylim()
    assert low > high  # y down
    assert len(ax.collections) == 1
    assert (pixels(figure) < 0.5).any()
    assert plotting.plot_strokes([wave(), wave()]) is not ax


def test_a_page_can_name_its_lines():
    figure = plotting.page([wave(), wave()], labels=["bias 0", "bias 1.5"])
    assert [text.get_text() for text in figure.texts] == ["bias 0", "bias 1.5"]
    assert_text_is_inside(figure)
    ax = figure.axes[0].get_window_extent()
    assert all(text.get_window_extent().x1 < ax.x0 + 1 for text in figure.texts)
    with pytest.raises(ValueError, match="page: labels must be one for each of the 2 lines"):
        plotting.page([wave(), wave()], labels=["one"])


def test_dots_and_points_that_rest_are_drawn():
    dot = Strokes(np.zeros((3, 2)), np.array([1.0, 0, 1]), np.ones(3, bool))
    assert (pixels(plotting.page(dot)) < 0.5).any()


@pytest.mark.parametrize("beyond", [0, 1])
@pytest.mark.parametrize("weights", [True, False])
def test_density_map_shows_three_panels_with_their_text(beyond, weights):
    line = wave(40)
    mixture = mixtures(39 + beyond, 5, 2.0)
    figure = plotting.density_map(line, *mixture, weights=weights, width=8.0)
    panels = figure.axes
    assert len(panels) == (5 if weights else 3)  # with colour bars
    assert_text_is_inside(figure)
    if weights:
        shown = np.asarray(panels[2].images[0].get_array())
        np.testing.assert_allclose(shown, np.exp(mixture[0]).T)


def test_density_map_puts_the_density_at_the_true_next_points():
    line = wave(80)
    nexts = np.concatenate([line.offsets[1:], np.zeros((1, 2))])[:, None]
    covariances = np.tile(4 * np.eye(2), (80, 1, 1, 1))
    figure = plotting.density_map(line, np.zeros((80, 1)), nexts, covariances)
    image = figure.axes[1].images[0]
    density = np.asarray(image.get_array())
    left, right, bottom, top = image.get_extent()
    points = np.concatenate(set_page(line, margin=0.35).lines[0])[1:]
    column = (points[:, 0] - left) / (right - left) * density.shape[1]
    row = (points[:, 1] - top) / (bottom - top) * density.shape[0]
    peak = 1 / (2 * np.pi * 4)
    assert (density[row.astype(int), column.astype(int)] > 0.9 * peak).all()
    assert np.median(density) < 1e-3 * peak


def test_density_map_of_a_network_that_is_far_off_is_dark():
    log_weights, loc, covariances = mixtures(10, 2, 1.0)
    figure = plotting.density_map(wave(10), log_weights, loc + 1e6, covariances)
    assert not np.asarray(figure.axes[1].images[0].get_array()).max() > 1e-3
    assert_text_is_inside(figure)


def polyline(*strokes, points: int = 5) -> Strokes:
    """Strokes of straight pieces between corners, `points` to a piece."""
    drawn = []
    for corners in strokes:
        ends = np.array(corners, dtype=float)
        pieces = [np.linspace(a, b, points) for a, b in itertools.pairwise(ends)]
        drawn.append(np.concatenate(pieces))
    positions = np.concatenate(drawn)
    pen_up = np.zeros(len(positions))
    pen_up[np.cumsum([len(stroke) for stroke in drawn]) - 1] = 1
    offsets = np.diff(positions, axis=0, prepend=positions[:1])
    return Strokes(offsets, pen_up, np.ones(len(positions), bool))


DRAWINGS = {
    "kanji": polyline([(5, 30), (95, 28)], [(60, 5), (55, 60), (10, 95)], [(55, 50), (95, 95)]),
    "square": polyline([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)], points=3),
    "cat": polyline(
        [(-40, -25), (-35, -60), (-10, -38), (10, -38), (35, -60), (40, -25), (0, 40), (-40, -25)],
        [(-15, -10), (-14, -9)],
        [(15, -10), (16, -9)],
        [(-10, 8), (10, 8), (0, 14), (-10, 8)],
    ),
    "stroke": polyline([(0, 0), (0, 100)], points=10),
    "wide": polyline([(0, 0), (100, 80), (200, 0)]),
}


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("name", DRAWINGS)
def test_density_map_of_a_drawing_fits_a_screen(name, weights):
    line = DRAWINGS[name]
    steps = len(line.pen_up) - 1
    scale = 0.1 * float(np.ptp(np.cumsum(line.offsets, axis=0), axis=0).max())
    log_weights, _, covariances = mixtures(steps, 3, scale)
    loc = np.repeat(line.offsets[1:, None], 3, axis=1)
    figure = plotting.density_map(line, log_weights, loc, covariances, weights=weights, width=8.0)
    assert_text_is_inside(figure)
    width, height = figure.get_size_inches()
    assert 0.25 * width < height < 0.8 * width

    boxes = [ax.get_position() for ax in figure.axes]
    ink, density = boxes[:2]
    assert (ink.y0, ink.y1) == pytest.approx((density.y0, density.y1))
    assert ink.width == pytest.approx(density.width)
    assert ink.x1 < density.x0
    if weights:
        below = boxes[2]
        assert (below.x0, below.x1) == pytest.approx((ink.x0, density.x1))
        assert below.y1 < ink.y0
        bars = boxes[3:]
        assert bars[0].x0 == pytest.approx(bars[1].x0)
    for ax in figure.axes[:2]:  # the picture fills its panel, and the drawing is in the middle
        before = ax.get_position(original=True)
        ax.apply_aspect()
        assert ax.get_position().bounds == pytest.approx(before.bounds, rel=1e-6)
    points = np.cumsum(line.offsets, axis=0)
    sheet = np.concatenate(set_page(line, margin=0.2).lines[0])
    low, high = figure.axes[0].get_xlim()
    assert low + high == pytest.approx(sheet[:, 0].min() + sheet[:, 0].max())
    assert np.ptp(points, axis=0).max() > 0.55 * min(high - low, figure.axes[0].get_ylim()[0])

    # The pen is as thick on the page for any drawing: about a hundredth of its panel.
    (drawn,) = figure.axes[0].collections
    assert isinstance(drawn, LineCollection)
    pen = np.array(drawn.get_linewidth()) / 72
    assert (pen > 0.006 * ink.width * width).all()
    assert (pen < 0.013 * ink.width * width).all()

    # The density is where the next points are.
    image = figure.axes[1].images[0]
    shown = np.asarray(image.get_array())
    left, right, bottom, top = image.get_extent()
    column = (sheet[1:, 0] - left) / (right - left) * shown.shape[1]
    row = (sheet[1:, 1] - top) / (bottom - top) * shown.shape[0]
    assert shown[row.astype(int), column.astype(int)].min() > 0.02 * shown.max()


def test_density_map_of_a_line_stays_stacked():
    figure = plotting.density_map(wave(40), *mixtures(39, 5, 2.0))
    writing, density, weights = (ax.get_position() for ax in figure.axes[:3])
    for panel in (density, weights):
        assert (panel.x0, panel.x1) == pytest.approx((writing.x0, writing.x1))
    assert writing.y0 > density.y1 > density.y0 > weights.y1
    assert figure.axes[0].get_title("left") == "The writing"


def test_density_map_counts_a_few_points_in_whole_numbers():
    line = DRAWINGS["kanji"]
    figure = plotting.density_map(line, *mixtures(len(line.pen_up), 3, 9.0))
    ticks = np.asarray(figure.axes[2].get_xticks())
    np.testing.assert_array_equal(ticks, np.round(ticks))


def test_density_map_names_what_is_wrong():
    with pytest.raises(ValueError, match="density_map: log_weights must be 39 or 40 steps"):
        plotting.density_map(wave(40), *mixtures(41, 2, 1.0))
    two = Strokes(*(np.stack([a, a]) for a in vars(wave(40)).values()))
    for line, least in ((wave(40), "1.15"), (DRAWINGS["square"], "1.51")):
        mixture = mixtures(len(line.pen_up), 2, 1.0)
        with pytest.raises(ValueError, match=f"width must be more than {least} inches, got 1.1"):
            plotting.density_map(line, *mixture, width=1.1)
    with pytest.raises(ValueError, match="density_map: line must be one line"):
        plotting.density_map(two, *mixtures(40, 2, 1.0))


def records(count: int = 100) -> list[dict[str, float | None]]:
    return [
        {
            "step": 10 * i,
            "seconds": 6.0 * i,
            "points": 1000.0 * i,
            "nats": -1 + 4 * np.exp(-i / 10) + 0.05 * (-1) ** i,
            "valid": -0.9 if i % 20 == 0 else None,
        }
        for i in range(1, count + 1)
    ]


@pytest.mark.parametrize(
    ("against", "label", "last"),
    [
        ("points", "training points seen", 1e5),
        ("minutes", "minutes of training", 10.0),
        ("steps", "training steps", 1e3),
    ],
)
def test_learning_curve_has_units_and_names(against, label, last):
    baselines = {"static Gaussian": 2.98, "autoregression of order 3": 1.18, "almost that": 1.2}
    figure = plotting.learning_curve(records(), baselines=baselines, against=against)
    (ax,) = figure.axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == (label, "nats per point")
    assert ax.get_xlim() == (0, pytest.approx(last))
    names = [text.get_text() for text in ax.texts]
    assert "static Gaussian: 2.98" in names
    assert "validation: \N{MINUS SIGN}0.90" in names
    assert "training: \N{MINUS SIGN}0.98" in names
    assert_text_is_inside(figure)


@pytest.mark.parametrize("level", [-0.99, 2.97])
def test_crowded_names_stay_apart_and_beside_the_axes(level):
    baselines = {"all the way up": 3.0} | {f"baseline {i}": level + 0.001 * i for i in range(6)}
    figure = plotting.learning_curve(records(), baselines=baselines)
    assert_text_is_inside(figure)
    box = figure.axes[0].get_window_extent()
    for text in figure.axes[0].texts:
        place = text.get_window_extent()
        assert box.y0 - 10 < place.y0
        assert place.y1 < box.y1 + 10


@pytest.mark.parametrize("keys", [("nats",), ("valid",), ("nats", "valid")])
def test_learning_curve_needs_not_have_both_series(keys):
    kept = [{k: v for k, v in r.items() if k in ("points", *keys)} for r in records(20)]
    figure = plotting.learning_curve(kept)
    assert len(figure.axes[0].texts) == len(keys)
    assert_text_is_inside(figure)


def test_learning_curve_of_one_record_shows_a_point():
    image = pixels(plotting.learning_curve([{"points": 5.0, "nats": 2.0}]))
    assert image.min() < 0.6


def test_smoothing_is_a_mean_and_keeps_level_curves():
    np.testing.assert_allclose(_smooth(np.full(50, 3.0), 0.2), 3.0)
    values = np.arange(50.0)
    smooth = _smooth(values, 0.2)
    np.testing.assert_allclose(smooth[:45], values[:45])
    np.testing.assert_allclose(smooth[-1], values[-6:].mean())
    np.testing.assert_allclose(_smooth(values, 0.0), values)


def test_learning_curve_names_what_is_wrong():
    with pytest.raises(ValueError, match="learning_curve: records must be"):
        plotting.learning_curve([{"points": 1.0, "nats": None, "valid": float("nan")}])
    with pytest.raises(ValueError, match="learning_curve: smoothing must be"):
        plotting.learning_curve(records(), smoothing=1.0)
    with pytest.raises(ValueError, match="learning_curve: baselines must be"):
        plotting.learning_curve(records(), baselines={"none": float("nan")})


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_saving_twice_gives_the_same_bytes(tmp_path, ending):
    for name in ("a", "b"):
        figure = plotting.learning_curve(records(), baselines={"static": 2.0})
        plotting.save(figure, tmp_path / f"{name}.{ending}")
    first = (tmp_path / f"a.{ending}").read_bytes()
    assert first == (tmp_path / f"b.{ending}").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"a.{ending}", f"b.{ending}"]


def test_pictures_are_small_and_look_as_drawn(tmp_path):
    figure = plotting.page([wave(300, seed=s) for s in range(8)])
    plotting.save(figure, tmp_path / "page.png", dpi=200.0)
    assert os.path.getsize(tmp_path / "page.png") < 200_000
    saved = np.asarray(Image.open(tmp_path / "page.png").convert("L"), dtype=float) / 255
    assert np.abs(saved - pixels(figure, dpi=200.0)).max() < 0.04


def test_save_is_whole_or_nothing(tmp_path, monkeypatch):
    figure = plotting.page(wave())
    target = tmp_path / "page.png"
    plotting.save(figure, target, dpi=50.0)
    first = target.read_bytes()
    with pytest.raises(ValueError, match=r"save: path must be a \.png"):
        plotting.save(figure, tmp_path / "page.bmp")

    def full(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        plotting.save(figure, target, dpi=80.0)
    assert target.read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == ["page.png"]


def test_a_users_settings_neither_change_nor_leak_in(tmp_path):
    with matplotlib.rc_context({"font.size": 31.0, "axes.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        figure = plotting.learning_curve(records())
        plotting.save(figure, tmp_path / "loud.png", dpi=60.0)
        assert dict(matplotlib.rcParams) == before
    plotting.save(plotting.learning_curve(records()), tmp_path / "plain.png", dpi=60.0)
    assert (tmp_path / "loud.png").read_bytes() == (tmp_path / "plain.png").read_bytes()


def test_without_matplotlib_the_error_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in (
        lambda: plotting.page(wave()),
        lambda: plotting.plot_strokes(wave()),
        lambda: plotting.learning_curve(records()),
        lambda: plotting.density_map(wave(5), *mixtures(5, 2, 1.0)),
    ):
        with pytest.raises(ImportError, match=r'pip install "mdnjax\[plot\]"'):
            draw()


def test_matplotlib_is_imported_when_used_and_pyplot_never():
    program = """
import sys
import numpy as np
from mdnjax import plotting
from mdnjax.strokes.structure import Strokes
import mdnjax.strokes.svg
assert not any(name.partition(".")[0] == "matplotlib" for name in sys.modules)
plotting.page(Strokes(np.eye(2), np.zeros(2), np.ones(2, bool)))
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
