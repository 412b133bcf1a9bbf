"""Can strangers read what a network wrote? Makes the sheets for a blind reading, and its key.

python benchmarks/legibility.py runs/handwriting --out FOLDER

Words are cut at wide gaps, by one and the same rule, from lines of the built-in corpus (generated
with `--seed`) and from lines that the network made up; half of the sheets show the one, half the
other, in a random order. A reader who knows neither source nor text marks each letter shape of each
sheet as recognisable or not, and names it. `key.json` says which sheet is which.
"""

import argparse
import itertools
import json
import pathlib
from collections.abc import Iterable

import jax
import numpy as np

from mdnjax import datasets, plotting, strokes, training


def main() -> None:
    """Writes the sheets and the key."""
    parser = argparse.ArgumentParser(description="Makes sheets for a blind reading of handwriting.")
    parser.add_argument("run", type=pathlib.Path, help="folder of a run of examples/handwriting.py")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="where the sheets go")
    parser.add_argument("--words", type=int, default=10, help="words of either kind (10)")
    parser.add_argument("--bias", type=float, default=0.5, help="of the samples (0.5)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)

    corpus = datasets.built_in_pens(2000, seed=arguments.seed)
    chosen = rng.choice(len(corpus), 40, replace=False)
    real = words(corpus[int(i)] for i in chosen)
    made = words(samples(arguments.run, bias=arguments.bias, seed=arguments.seed))
    sheets = [
        (source, found[int(i)])
        for source, found in (("corpus", real), ("network", made))
        for i in rng.choice(len(found), arguments.words, replace=False)
    ]
    key = {}
    for number, place in enumerate(rng.permutation(len(sheets)), start=1):
        source, word = sheets[place]
        key[f"{number:02}"] = source
        figure = plotting.page(word, width=5.0, flow=False)
        plotting.save(figure, arguments.out / f"{number:02}.png", dpi=100.0)
    (arguments.out / "key.json").write_text(json.dumps(key, indent=2) + "\n", encoding="utf-8")
    print(f"{len(key)} sheets in {arguments.out}")


def samples(run: pathlib.Path, *, bias: float, seed: int) -> list[strokes.Strokes]:
    """Forty lines that the run's best network makes up."""
    model = training.load_model(run, method="step")
    batch = strokes.generate(
        model.network,
        model.module.initial_carry((40,)),
        model.head,
        jax.random.key(seed),
        num_lines=40,
        max_points=500,
        normalizer=model.normalizer,
        bias=bias,
    )
    return [jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), batch) for i in range(40)]


def words(lines: Iterable[strokes.Strokes]) -> list[strokes.Strokes]:
    """The words inside the lines (never a line's first or last), at least three letters wide."""
    found = []
    for line in lines:
        positions = np.asarray(strokes.to_positions(line))
        ends = np.flatnonzero(line.pen_up)
        if not len(ends):  # a network may never lift its pen
            continue
        bounds = np.concatenate([[0], ends + 1])
        pieces = [slice(a, b) for a, b in itertools.pairwise(bounds)]
        heights = [float(np.ptp(positions[piece, 1])) for piece in pieces]
        tall = np.median([height for height in heights if height > 0.3 * max(heights)])
        groups: list[list[slice]] = []
        right = -np.inf
        for piece in pieces:
            left = float(positions[piece, 0].min())
            if left > right + 0.4 * tall or not groups:
                groups.append([])
                right = -np.inf
            groups[-1].append(piece)
            right = max(right, float(positions[piece, 0].max()))
        for group in groups[1:-1]:
            points = positions[group[0].start : group[-1].stop]
            if np.ptp(points[:, 0]) > 1.6 * tall:
                flags = line.pen_up[group[0].start : group[-1].stop]
                found.append(strokes.to_offsets(points, flags))
    return found


if __name__ == "__main__":
    main()
