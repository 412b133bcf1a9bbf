"""GIFs of the pen at work: read back with Pillow, frame by frame."""

import io
import itertools
import os
import pathlib
import sys

import numpy as np
import pytest
from made_writing import wave
from PIL import Image
from PIL.GifImagePlugin import GifImageFile

from mdnjax import plotting
from mdnjax.plotting._gif import encode_gif
from mdnjax.strokes import Animation
from mdnjax.strokes.animation import pen_times
from mdnjax.strokes.curves import set_page
from mdnjax.strokes.structure import Strokes


def read_gif(source: bytes | pathlib.Path) -> tuple[list[np.ndarray], list[int], GifImageFile]:
    """All frames as RGB, how long each is seen in milliseconds, and the file."""
    content = source if isinstance(source, bytes) else source.read_bytes()
    image = Image.open(io.BytesIO(content))
    assert isinstance(image, GifImageFile)
    frames, durations = [], []
    for k in range(image.n_frames):
        image.seek(k)
        frames.append(np.asarray(image.convert("RGB")))
        durations.append(image.info["duration"])
    return frames, durations, image


def written(tmp_path, lines, **options):
    plotting.write_gif(tmp_path / "pen.gif", lines, **options)
    return read_gif(tmp_path / "pen.gif")


def darkness(frame: np.ndarray) -> np.ndarray:
    return 1 - frame.astype(float).mean(axis=-1) / 255


def test_the_last_frame_is_the_page(tmp_path):
    lines = [wave(), wave(90, seed=1)]
    frames, _, _ = written(tmp_path, lines, width=600, animation=Animation(seconds=1.0))
    buffer = io.BytesIO()
    plotting.page(lines, width=6.0).savefig(buffer, format="png", dpi=100)
    page = np.asarray(Image.open(buffer).convert("RGB"))
    assert frames[-1].shape == page.shape
    assert np.abs(frames[-1].astype(int) - page).max() <= 12  # fifteen shades


@pytest.mark.parametrize("together", [False, True])
def test_ink_grows_with_the_pen(tmp_path, together):
    lines = [wave(), wave(90, seed=1)]
    animation = Animation(seconds=2.0, together=together, tip=None)
    frames, durations, _ = written(
        tmp_path, lines, width=500, animation=animation, frames_per_second=10.0
    )
    # Where the pen is in the air nothing changes, and one frame stands for several.
    inked = [
        darkness(f) > 0.1 for f, d in zip(frames, durations, strict=True) for _ in range(0, d, 100)
    ]
    assert len(inked) == 20 + 20
    for before, after in itertools.pairwise(inked):
        assert after[before].all()
    # At every point of the data: ink once the pen was there, and paper before, but for the few
    # points that the pen passes twice.
    page = set_page(lines)
    times, _ = pen_times(page, animation)
    early = []
    for line, clocks in zip(page.lines, times, strict=True):
        for point, moment in zip(np.concatenate(line), np.concatenate(clocks), strict=True):
            column, row = (point * 500 / page.size[0]).astype(int)
            seen = np.array([frame[row, column] for frame in inked])
            arrival = int(np.ceil(10 * moment - 1e-6))
            assert seen[arrival:].all()
            early += list(seen[: max(0, arrival - 2)])
    assert len(early) > 500
    assert np.mean(early) < 0.03


def test_nothing_is_left_for_the_last_frame(tmp_path):
    frames, _, _ = written(
        tmp_path, wave(), width=500, animation=Animation(seconds=2.0, tip=None), pen_width=4.0
    )
    appeared = (frames[-1] != frames[-3]).any(axis=-1)
    assert appeared.sum() < 0.1 * (darkness(frames[-1]) > 0.1).sum()
    late = np.flatnonzero(appeared.any(axis=0))
    assert len(late) == 0 or late.min() > 400  # only where the pen is last


def test_a_dot_of_its_colour_stands_where_the_pen_is(tmp_path):
    line = wave()
    animation = Animation(seconds=2.0, tip="#ff0000")
    frames, _, _ = written(tmp_path, line, width=500, animation=animation, frames_per_second=10.0)
    page = set_page(line)
    (times,), _ = pen_times(page, animation)
    points, moments = np.concatenate(page.lines[0]), np.concatenate(times)
    for k, frame in enumerate(frames[:-1]):
        red = (frame[..., 0] > 200) & (frame[..., 1:] < 60).all(axis=-1)
        rows, columns = np.nonzero(red)
        assert len(rows) >= 12
        place = [np.interp(k / 10, moments, axis) * 500 / page.size[0] for axis in points.T]
        assert np.hypot(columns.mean() + 0.5 - place[0], rows.mean() + 0.5 - place[1]) < 2.0
    assert not ((frames[-1][..., 0] > 200) & (frames[-1][..., 1] < 60)).any()


def test_every_line_has_its_own_pen_when_written_together(tmp_path):
    animation = Animation(seconds=2.0, tip="#ff0000", together=True)
    frames, _, _ = written(tmp_path, [wave(), wave(90)], width=500, animation=animation)
    red = [(f[..., 0] > 200) & (f[..., 1:] < 60).all(axis=-1) for f in frames]

    def pens(frame):  # far apart, one above the other
        rows = np.flatnonzero(frame.any(axis=1))
        return 1 + int((np.diff(rows) > 10).sum()) if len(rows) else 0

    assert pens(red[5]) == 2
    assert pens(red[-3]) == 1  # the shorter line is done
    assert pens(red[-1]) == 0


@pytest.mark.parametrize("rate", [7.0, 20.0, 30.0, 50.0])
def test_it_takes_as_long_as_was_said(tmp_path, rate):
    animation = Animation(seconds=1.37, hold=0.8)
    _, durations, image = written(
        tmp_path, wave(), width=300, animation=animation, frames_per_second=rate
    )
    assert sum(durations[:-1]) == pytest.approx(1370, abs=15)
    assert durations[-1] == 800
    assert min(durations) >= 20
    assert len(durations) == round(1.37 * rate) + 1
    assert image.info["loop"] == 0


def test_it_can_play_once(tmp_path):
    _, _, image = written(tmp_path, wave(), width=200, animation=Animation(seconds=0.3, loop=False))
    assert "loop" not in image.info


def test_given_points_grid_and_colours_are_those_of_the_page(tmp_path):
    drawings = [wave(30, seed=s, strokes=1) for s in range(4)]
    options = {"columns": 2, "given": [0, 10, 30, 20], "given_color": "#00a000", "color": "#0000ff"}
    frames, _, _ = written(
        tmp_path, drawings, width=400, animation=Animation(seconds=0.5), paper="white", **options
    )
    buffer = io.BytesIO()
    page = plotting.page(drawings, width=4.0, paper="white", **options)
    page.savefig(buffer, format="png", dpi=100)
    expected = np.asarray(Image.open(buffer).convert("RGB"))
    off = np.abs(frames[-1].astype(int) - expected).max(axis=-1)
    assert np.quantile(off, 0.999) <= 12
    green = (frames[-1][..., 1] > frames[-1][..., 2] + 40).any(axis=0)
    assert green[:200].any()
    assert green[200:].any()


def test_files_are_small_repeat_and_are_whole_or_not_there(tmp_path, monkeypatch):
    line = wave(600, strokes=27)
    target = tmp_path / "pen.gif"
    plotting.write_gif(target, line)
    first = target.read_bytes()
    assert len(first) < 100_000
    plotting.write_gif(target, line)
    assert target.read_bytes() == first

    def full(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        plotting.write_gif(target, wave())
    assert target.read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == ["pen.gif"]


def test_a_touch_is_a_film_too(tmp_path):
    dot = Strokes(np.zeros((1, 2)), np.ones(1), np.ones(1, bool))
    frames, _, _ = written(tmp_path, dot, width=50, animation=Animation(seconds=0.2))
    assert darkness(frames[-1]).max() > 0.5


@pytest.mark.parametrize("gap", [3.0, 10.0, 50.0])
@pytest.mark.parametrize("dpi", [50.0, 100.0, 200.0])
def test_touches_are_drawn_at_every_size(gap, dpi):
    """Agg would leave out what it moves onto one whole pixel."""
    offsets = np.array([[0.0, 0], [10, 0], [0, 10], [gap, -10], [gap, 0]])
    line = Strokes(offsets, np.array([0.0, 0, 1, 1, 1]), np.ones(5, bool))
    buffer = io.BytesIO()
    plotting.page(line).savefig(buffer, format="png", dpi=dpi)
    inked = darkness(np.asarray(Image.open(buffer).convert("RGB"))) > 0.3
    columns = np.flatnonzero(inked.any(axis=0))
    assert 1 + (np.diff(columns) > 1).sum() == 3


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"frames_per_second": 0.0}, "frames_per_second"),
        ({"frames_per_second": 51.0}, "frames_per_second"),
        ({"frames_per_second": float("nan")}, "frames_per_second"),
        ({"width": 10}, "width"),
        ({"pen_width": -1.0}, "pen_width"),
        ({"given": 61}, "given"),
        ({"columns": 0}, "columns"),
        ({"color": "inkk"}, "color"),
        ({"paper": "rgb(255, 255, 255)"}, "paper"),
        ({"paper": "none"}, "paper"),
        ({"given_color": "currentColor"}, "given_color"),
        ({"animation": Animation(tip="hsl(20 100% 40%)")}, "animation.tip"),
    ],
)
def test_options_out_of_range_are_named(tmp_path, options, name):
    with pytest.raises(ValueError, match=f"write_gif: {name} must be"):
        plotting.write_gif(tmp_path / "pen.gif", wave(), **options)
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_error_names_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "mdnjax\[plot\]"'):
        plotting.write_gif(tmp_path / "pen.gif", wave())


# --- the container ---


@pytest.mark.parametrize("colors", [2, 3, 16, 200, 255])
def test_frames_come_back_as_they_were(colors):
    rng = np.random.default_rng(colors)
    palette = rng.integers(0, 256, (colors, 3)).astype(np.uint8)
    frames = [rng.integers(0, colors, (23, 37)).astype(np.uint8)]
    for _ in range(4):
        frame = frames[-1].copy()
        top, left = rng.integers(0, 20, 2)
        frame[top : top + 5, left : left + 9] = rng.integers(0, colors, (5, 9))[: 23 - top]
        frames.append(frame)
    content = encode_gif(((f, 7 + k) for k, f in enumerate(frames)), palette, loop=True)
    got, durations, _ = read_gif(content)
    assert durations == [70, 80, 90, 100, 110]
    for frame, expected in zip(got, frames, strict=True):
        np.testing.assert_array_equal(frame, palette[expected])


def test_a_frame_that_changes_nothing_is_seen_for_longer():
    palette = np.array([[255, 255, 255], [0, 0, 0]], np.uint8)
    blank, dot = np.zeros((5, 5), np.uint8), np.zeros((5, 5), np.uint8)
    dot[2, 3] = 1
    content = encode_gif(iter([(blank, 4), (blank, 5), (dot, 6), (dot, 7)]), palette, loop=False)
    frames, durations, image = read_gif(content)
    assert durations == [90, 130]
    assert "loop" not in image.info
    np.testing.assert_array_equal(frames[1][..., 0] == 0, dot == 1)


def test_only_what_changes_is_stored():
    palette = np.array([[255, 255, 255], [0, 0, 0]], np.uint8)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 2, (200, 200)).astype(np.uint8)
    other = noise.copy()
    other[10:13, 20:24] ^= 1
    one = encode_gif([(noise, 5)], palette, loop=True)
    two = encode_gif([(noise, 5), (other, 5)], palette, loop=True)
    assert len(two) - len(one) < 60
