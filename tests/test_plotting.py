"""Pictures: ink where the data is, text inside, files that repeat."""

import os
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from made_pictures import assert_text_is_inside, mixtures, pixels
from made_writing import wave
from PIL import Image

from mdnjax import plotting
from mdnjax.plotting import style
from mdnjax.plotting.training import _smooth
from mdnjax.strokes.curves import set_page
from mdnjax.strokes.structure import Strokes


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
