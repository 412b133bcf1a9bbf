"""The last layer and the loss together by blocks of rows, beside the plain composition.

python benchmarks/mdn_wide.py [--quick] [--full] [--json FILE]

What is timed is the mean loss and its gradients with respect to hidden states, kernel and bias,
float32. *plain* is `mdn.nll(head, hidden @ kernel + bias, y)`, *default* is `mdn.linear_nll`, *by
blocks* the same in blocks of 8 MB even where the default would not, and *weighted after* by blocks
too, but with weights that multiply what comes out, so that the sums are formed anew. Megabytes are
what the compiled step takes besides arguments and results.
"""

import argparse
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from measure import Spread, interleaved, machine

import mdnjax as mdn

COMPONENTS = 20
BLOCK_BYTES = 2**23

# Rows, hidden states, dimensions and covariance. P/H is 1/6, 1, 4, 10 and 20; then 6, full; 16.
GRID = [
    (65536, 512, 2, "isotropic"),
    (16384, 512, 24, "isotropic"),
    *((rows, 512, dim, "isotropic") for rows in (2048, 16384) for dim in (100, 254, 510)),
    (8192, 512, 16, "full"),
    (16384, 128, 100, "isotropic"),
]
QUICK = [(2048, 128, 2, "isotropic"), (2048, 128, 24, "isotropic"), (2048, 128, 100, "isotropic")]
GATE = (32768, 1024, 512, "isotropic")


def main() -> None:
    parser = argparse.ArgumentParser(description="Wide heads: layer and loss by blocks of rows.")
    parser.add_argument("--quick", action="store_true", help="three small shapes")
    parser.add_argument("--full", action="store_true", help="only the widest: 2 TFLOP a step")
    parser.add_argument("--rounds", type=int, default=5, help="(5)")
    parser.add_argument("--json", type=pathlib.Path, help="a file for the rows")
    arguments = parser.parse_args()
    device = jax.devices()[0]
    print(machine(f"{device.device_kind} ({device.platform})", "jax", "jaxlib"))
    shapes = [GATE] if arguments.full else QUICK if arguments.quick else GRID
    rows = measure_wide(shapes, rounds=arguments.rounds)
    print_wide(rows)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def measure_wide(
    shapes: Sequence[tuple[int, int, int, Any]] = GRID, *, rounds: int = 5
) -> list[dict[str, Any]]:
    """A row for each contestant at each shape (rows, H, D, covariance).

    `ratio` is its time divided by that of the plain composition, within rounds.
    """
    found = []
    for num_rows, width, dim, covariance in shapes:
        head = mdn.GaussianHead(num_components=COMPONENTS, dim=dim, covariance=covariance)
        inputs = made_inputs(num_rows, width, head)
        block = max(256, BLOCK_BYTES // (4 * head.num_outputs))
        compiled = {
            name: jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).lower(*inputs).compile()
            for name, loss in losses(head, block).items()
        }
        seconds = interleaved(
            {name: ready(step, inputs) for name, step in compiled.items()}, rounds=rounds, warmup=1
        )
        for name, step in compiled.items():
            memory = step.memory_analysis()
            found.append(
                {
                    "section": "wide",
                    "contestant": name,
                    "rows": num_rows,
                    "hidden": width,
                    "components": COMPONENTS,
                    "dim": dim,
                    "covariance": covariance,
                    "outputs": head.num_outputs,
                    "seconds": seconds[name].tolist(),
                    "ratio": (seconds[name] / seconds["plain"]).tolist(),
                    "temporary_bytes": None if memory is None else memory.temp_size_in_bytes,
                }
            )
    return found


def losses(head: mdn.GaussianHead, block: int) -> dict[str, Callable[..., jax.Array]]:
    """By name, the mean loss of hidden `[B, H]`, kernel, bias, y and weight `[B]`."""

    def plain(hidden, kernel, bias, y, weight):
        del weight
        return jnp.mean(mdn.nll(head, hidden @ kernel + bias, y))

    def default(hidden, kernel, bias, y, weight):
        del weight
        return jnp.mean(mdn.linear_nll(head, hidden, kernel, bias, y))

    def by_blocks(hidden, kernel, bias, y, weight):
        del weight
        return jnp.mean(mdn.linear_nll(head, hidden, kernel, bias, y, block_size=block))

    def weighted_after(hidden, kernel, bias, y, weight):
        nats = mdn.linear_nll(head, hidden, kernel, bias, y, block_size=block)
        return jnp.mean(weight * nats)

    return {
        "plain": plain,
        "default": default,
        "by blocks": by_blocks,
        "weighted after": weighted_after,
    }


def made_inputs(num_rows: int, width: int, head: mdn.GaussianHead) -> tuple[jax.Array, ...]:
    """Hidden states, a small kernel, a bias that puts centres apart, targets, and weights."""
    rng = np.random.default_rng(0)
    shapes = {
        "hidden": (num_rows, width),
        "kernel": (width, head.num_outputs),
        "bias": (head.num_outputs,),
        "y": (num_rows, head.dim),
    }
    scales = {"hidden": 1.0, "kernel": 0.1 / np.sqrt(width), "bias": 0.5, "y": 1.0}
    made = [
        jnp.asarray(scales[name] * rng.standard_normal(shape, np.float32))
        for name, shape in shapes.items()
    ]
    return (*made, jnp.asarray(rng.uniform(0.5, 1.5, num_rows), jnp.float32))


def ready(step: Callable[..., Any], inputs: Sequence[jax.Array]) -> Callable[[], object]:
    return lambda: jax.block_until_ready(step(*inputs))


def print_wide(rows: Sequence[dict[str, Any]]) -> None:
    """The table."""
    names = list(dict.fromkeys(row["contestant"] for row in rows))
    print("milliseconds of plain, median (quartiles), and how many times as long; megabytes")
    titles = ["rows, H, P, P/H", "plain", *names[1:], *(f"MB {name}" for name in names[:3])]
    print("{:38}{:>28}{:>10}{:>11}{:>16}{:>10}{:>12}{:>14}".format(*titles))
    for n in range(0, len(rows), len(names)):
        group = rows[n : n + len(names)]
        first = group[0]
        share = first["outputs"] / first["hidden"]
        where = f"{first['rows']}, {first['hidden']}, {first['outputs']} {first['covariance']}"
        cells = [f"{where}, {share:.2g}", f"{Spread.of(1000 * np.array(first['seconds'])):.1f}"]
        cells += [f"{np.median(row['ratio']):.2f}" for row in group[1:]]
        for row in group[:3]:
            size = row["temporary_bytes"]
            cells.append("-" if size is None else f"{size / 1e6:.0f}")
        print("{:38}{:>28}{:>10}{:>11}{:>16}{:>10}{:>12}{:>14}".format(*cells))


if __name__ == "__main__":
    main()
