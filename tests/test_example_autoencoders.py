"""The examples of autoencoders: run as a user runs them, and what they print against the files."""

import importlib
import json
import pathlib
import subprocess
import sys

import pytest
from PIL import Image

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples"


def run(name, *options):
    return subprocess.run(
        [sys.executable, EXAMPLES / name, *options], capture_output=True, text=True, timeout=600
    )


def test_a_short_run_of_vae_writes_all_it_promises(tmp_path):
    out = tmp_path / "run"
    small = ["--hidden", "64", "--latent", "3", "--steps", "3", "--importance", "20", "--k", "3"]
    done = run("vae.py", *small, "--map-steps", "1", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    with Image.open(out / "vae.png") as picture:
        picture.load()
    metrics = json.loads((out / "metrics.json").read_text())
    nats = {name: value for name, (value, _) in metrics["nats"].items()}
    assert nats["-elbo"] == pytest.approx(nats["-log p(x | z)"] + nats["KL(q || p)"], rel=1e-5)
    assert nats["-log p(x)"] < nats["-elbo"] < 64 * 0.7  # 64 pixels of a bit each
    assert len(metrics["kl_of_coordinate"]) == 3
    assert f"-elbo {nats['-elbo']:17.2f}" in done.stdout
    again = run("vae.py", *small, "--map-steps", "0", "--out", out, "--resume")
    assert again.returncode == 0, again.stderr
    assert json.loads((out / "metrics.json").read_text())["nats"] == metrics["nats"]


def test_a_short_run_of_cvae_writes_all_it_promises(tmp_path):
    out = tmp_path / "run"
    small = ["--hidden", "32", "--latent", "3", "--steps", "30", "--importance", "20"]
    done = run("cvae.py", *small, "--pictures", "120", "--picture-steps", "10", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    with Image.open(out / "cvae.png") as picture:
        picture.load()
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics["nats"]["halves"]) == {"-log p(right | left)", "... each pixel alone"}
    for score in metrics["fidelity"].values():
        assert set(score) == {"shape", "color", "background", "size", "right", "down", "angle"}
        assert 0 <= score["shape"] <= 1
        assert 0 < score["angle"] < 60  # the most that a triangle can be off


@pytest.mark.parametrize("name", ["vae", "cvae"])
def test_missing_files_are_named_in_one_line(tmp_path, monkeypatch, name):
    monkeypatch.syspath_prepend(EXAMPLES)  # where Python looks when it runs the example
    example = importlib.import_module(name)
    options = ["--data", str(tmp_path), "--out", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *options])
    with pytest.raises(SystemExit) as ended:
        example.main()
    message = ended.value.code
    assert message.startswith(f"{name}.py: mnist: {tmp_path}/train-images-idx3-ubyte.gz is not")
    assert "\n" not in message
