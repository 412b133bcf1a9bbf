"""The robot arm's example: run as a user runs it, and its parts against the exact kinematics."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import mdnjax as mdn
from mdnjax import datasets
from mdnjax.mixtures import Modes

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(scope="module", autouse=True)
def beside():
    """The examples' modules can be imported, as they are when one of them runs."""
    sys.path.insert(0, str(EXAMPLES))
    yield
    sys.path.remove(str(EXAMPLES))


@pytest.fixture
def example(beside):
    import robot_arm

    return robot_arm


@pytest.fixture
def pictures(beside):
    import robot_arm_pictures

    return robot_arm_pictures


def test_a_short_run_writes_all_it_promises(tmp_path):
    out = tmp_path / "new" / "run"
    network = ["--steps", "60", "--width", "16", "--layers", "1", "--seed", "3"]
    data = ["--points", "300", "--batch", "256", "--test", "2000"]
    done = subprocess.run(
        [sys.executable, EXAMPLES / "robot_arm.py", *network, *data, "--out", out],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    written = {path.name for path in out.iterdir()}
    assert written == {"robot_arm.png", "robot_arm_errors.png", "robot_arm.gif", "metrics.json"}
    for name in written - {"metrics.json"}:
        assert (out / name).stat().st_size < 200_000
        with Image.open(out / name) as picture:
            picture.load()
    with Image.open(out / "robot_arm.gif") as film:
        assert film.n_frames == 64

    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["arguments"]["points"] == 300
    scores = metrics["scores"]
    errors = scores["position_error"]
    assert list(errors) == ["least squares", "most probable component", "global mode"]
    for error in errors.values():
        assert 0 < error["median"] <= error["99 %"] <= error["worst"] < 2  # the arm's reach
    exact = datasets.arm_solutions(datasets.robot_arm(2000, seed=1).inputs)
    assert scores["positions_with_two_solutions"] == exact.allowed.all(-1).sum()
    assert f"{errors['least squares']['rms']:.5f}" in done.stdout
    # Two solutions of half the weight, or one: from log 2 to 0 above a lone Gaussian's peak.
    lone = np.log(2 * np.pi * 0.02**2)
    assert lone < scores["nats_of_the_exact_solutions"] < lone + np.log(2)


@pytest.mark.parametrize("missing", ["matplotlib", "folder"])
def test_what_cannot_work_is_said_before_anything_is_learned(
    example, tmp_path, monkeypatch, missing
):
    monkeypatch.setattr(example, "learn", lambda arguments: pytest.fail("it learns"))
    monkeypatch.setattr(sys, "argv", ["robot_arm.py", "--out", str(tmp_path / "out")])
    if missing == "matplotlib":
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        expected = 'pip install "mdnjax[plot]"'
    else:
        (tmp_path / "out").touch()
        expected = str(tmp_path / "out")
    with pytest.raises(SystemExit) as ended:
        example.main()
    assert str(ended.value).startswith("robot_arm.py: ")
    assert expected in str(ended.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--steps", "0"),
        ("--components", "2.5"),
        ("--floor", "-1"),
        ("--lr", "inf"),
        ("--seed", "x"),
    ],
)
def test_arguments_out_of_range_are_named(example, capsys, option, value):
    with pytest.raises(SystemExit) as ended:
        example.parse_arguments([option, value])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert option in error
    assert repr(value) in error


def test_fewer_points_than_components_are_refused(example, capsys):
    assert example.parse_arguments(["--points", "5", "--components", "5"]).points == 5
    with pytest.raises(SystemExit):
        example.parse_arguments(["--points", "4", "--components", "5"])
    assert "--points: must be at least 5 for 5 components, got 4" in capsys.readouterr().err


def test_each_step_has_its_own_data_and_the_test_another(example):
    fresh = example.training_batches(example.parse_arguments(["--batch", "5"]))
    batches = [fresh(0), fresh(1), datasets.robot_arm(5, seed=example.TEST_SEED)]
    assert len(np.unique(np.concatenate([b.inputs for b in batches]), axis=0)) == 15
    np.testing.assert_array_equal(fresh(1).inputs, batches[1].inputs)

    few = example.training_batches(example.parse_arguments(["--batch", "5", "--points", "7"]))
    seen = [few(step) for step in range(40)]
    assert {len(np.unique(b.inputs, axis=0)) for b in seen} == {5}
    assert len(np.unique(np.concatenate([b.inputs for b in seen]), axis=0)) == 7
    for b in seen:  # an input keeps its target
        np.testing.assert_allclose(datasets.arm_position(b.targets), b.inputs, atol=1e-6)


@pytest.mark.parametrize("count", [1, 8, 9])
def test_blocks_are_put_together_again(example, count):
    x = np.arange(2.0 * count).reshape(count, 2)
    seen = []

    def function(block):
        seen.append(block.shape)
        return {"double": 2 * block, "sum": block.sum(-1)}

    y = example.in_blocks(function, x, size=8)
    np.testing.assert_array_equal(y["double"], 2 * x)
    np.testing.assert_array_equal(y["sum"], x.sum(-1))
    assert seen == [(8, 2)] * (1 if count <= 8 else 2)


def test_found_by_modes_or_by_components_of_some_weight(example):
    angles = np.array([[[0.5, 2.0], [0.9, 4.0]]])
    near, far = angles + 0.03, angles + 0.04  # 0.042 and 0.057 away
    none = Modes(angles, np.zeros((1, 2)), np.zeros((1, 2), bool), *np.ones((2, 1), bool))

    def found(loc, weights, peaks=none):
        return example.found(
            mdn.GaussianMixture.isotropic(loc, [0.1, 0.1], weights=weights), peaks, angles
        )

    assert found(near, [0.5, 0.5]).tolist() == [[True, True]]
    assert found(near[:, ::-1], [0.96, 0.04]).tolist() == [[False, True]]
    assert found(far, [0.5, 0.5]).tolist() == [[False, False]]
    peaks = none._replace(is_mode=np.array([[True, False]]))
    assert found(far, [0.5, 0.5], peaks).tolist() == [[True, False]]


def test_the_path_can_be_followed_elbow_up(pictures):
    exact = datasets.arm_solutions(pictures.figure_eight(64))
    assert exact.allowed[:, 0].all()
    assert exact.allowed[:, 1].any()
    assert not exact.allowed[:, 1].all()


def test_follow_keeps_to_its_branch(pictures):
    exact = datasets.arm_solutions(pictures.figure_eight(64)).angles
    swap = np.arange(64) % 3 == 0  # in no order that would help
    points = np.where(swap[:, None, None], exact[:, ::-1], exact)
    real = np.ones((64, 2), bool)
    real[10] = False  # no mode: it waits
    for branch in (0, 1):
        chosen = pictures.follow(points, real, exact[0, branch])
        expected = exact[:, branch].copy()
        expected[10] = expected[9]
        np.testing.assert_array_equal(chosen, expected)


def test_follow_goes_by_the_last_step_not_by_the_first(pictures):
    t = np.arange(20.0)
    points = np.stack([np.stack([t, t - 20]), np.zeros((2, 20))], axis=-1).swapaxes(0, 1)
    chosen = pictures.follow(points, np.ones((20, 2), bool), points[0, 0])
    np.testing.assert_array_equal(chosen, points[:, 0])


def test_outlines_agree_with_the_exact_solutions(pictures):
    radius, direction = np.random.default_rng(0).uniform([0.8, -0.1], [1.02, 1.6], (20_000, 2)).T
    positions = pictures.polar(radius, direction)
    count = datasets.arm_solutions(positions).allowed.sum(axis=-1)
    # Of chords instead of arcs, some points next to the line may go either way.
    one, two = pictures.workspaces()
    assert np.mean(one.contains_points(positions) != (count >= 1)) < 5e-4
    assert np.mean(two.contains_points(positions) != (count == 2)) < 5e-4
    assert 0 < np.mean(count == 2) < np.mean(count >= 1) < 1
