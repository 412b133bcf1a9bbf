"""The inverse sine's example: run as a user runs it, and its constants by quadrature."""

import ast
import json
import pathlib
import runpy
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

EXAMPLE = pathlib.Path(__file__).resolve().parents[1] / "examples" / "inverse_sine.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLE), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_a_short_run_writes_all_it_promises(tmp_path):
    out = tmp_path / "new" / "run"
    done = run("--steps", 300, "--restarts", 3, "--points", 400, "--seed", 7, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert {p.name for p in out.iterdir()} == {
        "inverse_sine.png",
        "inverse_sine.svg",
        "metrics.json",
    }
    for name in ("inverse_sine.png", "inverse_sine.svg"):
        assert (out / name).stat().st_size < 200_000
    with Image.open(out / "inverse_sine.png") as picture:
        picture.load()

    metrics = json.loads((out / "metrics.json").read_text())
    square, mixture = metrics["scores"]["least squares"], metrics["scores"]["mixture density"]
    floor = metrics["exact"]
    # So short a run already tells the one from the other; nothing is better than the truth.
    assert floor["nll"] < mixture["nll"] < -0.9 < -0.3 < square["nll"]
    assert floor["crps"] < mixture["crps"] < square["crps"]
    assert floor["rmse_mean"] < square["rmse_mean"] < 0.21
    assert mixture["rmse_best_mode"] < 0.1 < mixture["rmse_mean"] < mixture["rmse_mode"]
    assert square["possible_mean"] < 0.9 < 0.97 < mixture["possible_most_probable"]
    # A normal has one mode, and it is the mean.
    assert square["rmse_mode"] == pytest.approx(square["rmse_mean"], rel=1e-4)
    restarts = metrics["restarts"]
    assert restarts["nll"][0] == pytest.approx(mixture["nll"], abs=1e-4)
    assert restarts["of"] == len(restarts["nll"]) == 3
    assert f"{restarts['within']} of 3 within 0.05 nats of the best" in done.stdout
    for value in (mixture["nll"], mixture["crps"], square["rmse_mean"]):
        assert f"{value:.4f}" in done.stdout


def test_the_exact_densitys_scores():
    """By quadrature over x and t of the exact density, uniform over the t within the noise."""
    lines = ast.parse(EXAMPLE.read_text()).body
    (floor,) = [n for n in lines if isinstance(n, ast.Assign) and n.targets[0].id == "FLOOR"]
    expected = ast.literal_eval(floor.value)

    t = (np.arange(2000) + 0.5) / 2000
    x, step = np.linspace(-0.1, 1.1, 2401, retstep=True)
    possible = np.abs(x[:, None] - t - 0.3 * np.sin(2 * np.pi * t)) <= 0.1
    length = possible.mean(1)
    density, filled = step * length / 0.2, length > 0
    weight = possible[filled] / possible[filled].sum(1, keepdims=True)
    mean = weight @ t
    cdf = np.cumsum(weight, 1) - weight / 2
    each = {
        "nll": np.log(length[filled]),
        "crps": (cdf * (1 - cdf)).mean(1),
        "rmse_mean": weight @ t**2 - mean**2,
    }
    got = {name: float(density[filled] @ value) for name, value in each.items()}
    got["rmse_mean"] **= 0.5
    assert got == pytest.approx(expected, abs=3e-4)


@pytest.fixture
def main(monkeypatch):
    """Runs the example in this process, to an early end."""

    def run(*arguments: str) -> SystemExit:
        monkeypatch.setattr(sys, "argv", ["inverse_sine.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(EXAMPLE), run_name="__main__")
        return ended.value

    monkeypatch.syspath_prepend(EXAMPLE.parent)  # where Python looks when it runs the example
    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "must be a whole number of at least 1, got '0'"),
        (["--lr", "-1"], "must be a number above 0, got '-1'"),
        (["--seed", "x"], "must be a whole number of at least 0, got 'x'"),
    ],
)
def test_a_wrong_argument_is_named(main, capsys, arguments, message):
    main(*arguments)
    assert message in capsys.readouterr().err


def test_a_missing_matplotlib_is_found_before_training(main, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ended = main("--out", str(tmp_path / "run"))
    assert str(ended.code).startswith("inverse_sine.py: matplotlib is needed here")
    assert "step" not in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
