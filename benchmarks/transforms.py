"""The strokes' transforms on the host (NumPy, ragged) and on the device (JAX, padded), in turn.

python benchmarks/transforms.py [--lines 5000] [--out FILE]

Made-up lines without padding, so that both do the same work: strokes of 24 points on average, and
steps of whole units, some ten long. The host's figures hold no transfer, the device's none either:
each transforms what is already there. Resampling puts as many points as there were.
"""

import argparse
import functools
import json
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from measure import Spread, interleaved, machine

from mdnjax import strokes as st

TOLERANCE = 2.0
SCALE, SHEAR, ROTATION = 0.1, 0.1, 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description="Transforms of strokes, on host and device.")
    parser.add_argument("--lines", type=int, default=5000, help="of 600 points, the corpus (5000)")
    parser.add_argument("--rounds", type=int, default=25, help="of the small batches (25)")
    parser.add_argument("--out", type=pathlib.Path, help="a JSON file with all figures")
    arguments = parser.parse_args()
    device = jax.devices()[0]
    print(machine(f"{device.device_kind} ({device.platform})", "jax", "jaxlib", "numpy"))
    print(f"{'milliseconds, median (quartiles)':34}{'host':>26}{'device':>26}{'host/device':>13}")
    figures = {}
    sizes = [(32, 64, arguments.rounds), (64, 256, arguments.rounds), (arguments.lines, 600, 5)]
    for num_lines, length, rounds in sizes:
        corpus = scribble(num_lines, length)
        batch = on_device(corpus, length)
        for name, (host, on_batch) in transforms(corpus, batch, length).items():
            contestants = {"host": host}
            if on_batch is not None:
                contestants["device"] = on_batch
            seconds = interleaved(contestants, rounds=rounds, warmup=2)
            figures[f"{num_lines} x {length}: {name}"] = {k: s.tolist() for k, s in seconds.items()}
            row = [f"{num_lines} x {length}: {name}"]
            row += [f"{Spread.of(1000 * s):.2f}" for s in seconds.values()]
            if on_batch is not None:
                row += [f"{np.median(seconds['host'] / seconds['device']):.2f}"]
            print("{:34}{:>26}{:>26}{:>13}".format(*row, *["-"] * (4 - len(row))))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def transforms(
    corpus: st.Corpus, batch: st.Strokes, length: int
) -> dict[str, tuple[Callable[[], object], Callable[[], object] | None]]:
    """By name, each transform of the corpus, and of the same lines on the device."""
    key = jax.random.key(0)
    steps = np.asarray(corpus.strokes.offsets)
    spacing = float(np.hypot(*steps.T).mean())

    def ready(function: Callable[..., st.Strokes], *inputs: object) -> Callable[[], object]:
        compiled = jax.jit(function)
        return lambda: jax.block_until_ready(compiled(*inputs))

    def simplify(lines: st.Strokes) -> st.Strokes:
        return st.simplify(lines, TOLERANCE)

    def affine(key: jax.Array, lines: st.Strokes) -> st.Strokes:
        return st.augment(key, lines, scale=SCALE, shear=SHEAR, rotation=ROTATION)

    def drop(key: jax.Array, lines: st.Strokes) -> st.Strokes:
        return st.augment(key, lines, drop=0.1)

    count = functools.partial(st.resample_count, num_points=length)
    return {
        "resample_rate": (lambda: st.resample_rate(corpus, 100.0), None),
        "arc length; count": (
            lambda: st.resample_arc_length(corpus, spacing),
            ready(count, batch),
        ),
        "simplify": (lambda: st.simplify(corpus, TOLERANCE), ready(simplify, batch)),
        "augment, affine": (
            lambda: st.augment(key, corpus, scale=SCALE, shear=SHEAR, rotation=ROTATION),
            ready(affine, key, batch),
        ),
        "augment, drop": (lambda: st.augment(key, corpus, drop=0.1), ready(drop, key, batch)),
    }


def scribble(num_lines: int, length: int) -> st.Corpus:
    """Lines of a smooth pen that is lifted now and then, sampled 120 times a second."""
    rng = np.random.default_rng(0)
    speed = rng.normal(0, 4, (num_lines * length, 2))
    memory = np.exp(-np.arange(30) / 8)
    offsets = np.stack([np.convolve(s, memory, mode="same") for s in speed.T], axis=1)
    offsets = np.rint(offsets).astype(np.float32)
    offsets[::length] = 0
    pen_up = rng.random(len(offsets)) < 1 / 24
    pen_up[length - 1 :: length] = True
    return st.Corpus.from_offsets(
        offsets,
        pen_up,
        np.full(num_lines, length),
        [f"a-{i}" for i in range(num_lines)],
        [""] * num_lines,
        times=np.tile(np.arange(length) / 120, num_lines),
    )


def on_device(corpus: st.Corpus, length: int) -> st.Strokes:
    """The same lines as one batch."""
    lines = st.gather_lines(corpus, np.arange(len(corpus)), length)
    return st.Strokes(*(jnp.asarray(a) for a in (lines.offsets, lines.pen_up, lines.mask)))


if __name__ == "__main__":
    main()
