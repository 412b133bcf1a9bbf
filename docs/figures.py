"""Makes the figures of the README and the docs from a run of examples/handwriting.py.

python docs/figures.py runs/handwriting [--real FOLDER ...]

The pictures go to docs/images; each is below 200 kB. `--real` adds the learning curves of runs on
real handwriting: figures are published, the data and what was learned from it are not.
"""

import argparse
import json
import pathlib
from typing import Any

import jax
from PIL import Image

from mdnjax import datasets, plotting, strokes, training

IMAGES = pathlib.Path(__file__).resolve().parent / "images"


def main() -> None:
    """Makes all figures."""
    parser = argparse.ArgumentParser(description="Makes the figures of the README and the docs.")
    parser.add_argument("run", type=pathlib.Path, help="folder of a run on the built-in pens")
    parser.add_argument("--real", type=pathlib.Path, nargs="*", default=[], help="other runs")
    arguments = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    corpus = datasets.built_in_pens(48)
    save(plotting.page([corpus[i] for i in range(0, 48, 8)]), "pens.png")
    written = write(arguments.run, lines=4, points=600, bias=0.7, seed=5)
    pens = strokes.Animation(together=True)
    strokes.write_svg(IMAGES / "handwriting.svg", written, animation=pens, title="Made up")
    check("handwriting.svg")
    save(primed(arguments.run), "primed.png")
    learned(arguments.run, "learning_pens.png")
    for run in arguments.real:
        learned(run, f"learning_{run.name}.png")
    shrink(arguments.run / "density.png", "density.png")


def write(run: pathlib.Path, *, lines: int, points: int, bias: float, seed: int) -> strokes.Strokes:
    """Lines that the run's best network makes up."""
    model = training.load_model(run, method="step")
    return strokes.generate(
        model.network,
        model.module.initial_carry((lines,)),
        model.head,
        jax.random.key(seed),
        num_lines=lines,
        max_points=points,
        normalizer=model.normalizer,
        bias=bias,
    )


def primed(run: pathlib.Path) -> Any:
    """Six hands that the run has not seen, and how its network goes on in the style of each."""
    model = training.load_model(run, method="step")
    corpus = datasets.built_in_pens(48, seed=77)
    lines, given = [], []
    for number in range(0, 48, 8):
        line = corpus[number]
        begin = strokes.Strokes(line.offsets[:330], line.pen_up[:330], line.mask[:330])
        result = strokes.continue_lines(
            model.network,
            model.module.initial_carry((1,)),
            model.head,
            jax.random.key(5),
            begin,
            num_points=450,
            normalizer=model.normalizer,
            bias=0.7,
        )
        lines.append(result.lines)
        given.extend(result.given.tolist())
    return plotting.page(lines, given=given)


def learned(run: pathlib.Path, name: str) -> None:
    """A run's learning curve beside the baselines of its `metrics.json`."""
    scores = json.loads((run / "metrics.json").read_text())["scores"]
    baselines = {n: s["nats_per_point"] for n, s in scores.items() if n != "network"}
    records = training.read_metrics(run / "metrics.jsonl")
    save(plotting.learning_curve(records, baselines=baselines), name)


def save(figure: Any, name: str) -> None:
    """Saves a figure, at a resolution that keeps it small."""
    plotting.save(figure, IMAGES / name, dpi=120.0)
    check(name)


def shrink(path: pathlib.Path, name: str) -> None:
    """Copies a picture at half its size."""
    with Image.open(path) as picture:
        half = picture.convert("RGB").resize((picture.width // 2, picture.height // 2))
        half.quantize(128).save(IMAGES / name, optimize=True)
    check(name)


def check(name: str) -> None:
    """Says how large a figure is, and refuses one too large to commit."""
    size = (IMAGES / name).stat().st_size
    print(f"{name}: {size / 1000:.0f} kB")
    if size > 200_000:
        raise SystemExit(f"{name} is {size} bytes; at most 200000 are committed")


if __name__ == "__main__":
    main()
