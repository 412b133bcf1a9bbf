"""What the closed-form gradient buys over automatic differentiation, and how far the limit is.

python benchmarks/mdn_gradients.py [--quick] [--only SECTION ...] [--json FILE] [--figure FILE]

Sections: *alone* (loss and gradient in the raw outputs, beside automatic differentiation, NumPyro,
PyTorch, Distrax, TensorFlow Probability, a copy and the exponentials), *sweep* (how cost grows with
B, K and D), *step* (behind a linear layer), *hessian* (Hessian-vector products), *small* (tiny
batches under one scan; by default on GPU), *wide* and *widest* (layer and loss by blocks; only when
asked for). Everything computes the same before it is timed. docs/gradients.md says how to read it.

Without mdnjax, say under an older JAX, the others are measured beside plain automatic
differentiation.
"""

import argparse
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any, get_args

import jax
import mdn_peers
from mdn_alone import alone
from mdn_formulas import Covariance
from mdn_gates import Gate, floor_ratio, gates
from mdn_race import BEST, COLUMNS, PLAIN, ROWS, Settings
from mdn_steps import hessian, step
from mdn_sweep import small, sweep
from measure import machine

PACKAGES = ("jax", "jaxlib", "numpyro", "torch", "distrax", "tensorflow-probability", "tfp-nightly")


def main() -> None:
    arguments = parse_arguments()
    device = jax.devices(arguments.device)[0]
    jax.config.update("jax_default_device", device)
    print(machine(f"{device.device_kind} ({device.platform})", *PACKAGES))
    settings = Settings(
        rounds=arguments.rounds or (3 if arguments.quick else 10),
        quick=arguments.quick,
        platform=arguments.device,
        threads=arguments.threads,
        peers=tuple(arguments.peers),
        covariances=tuple(arguments.covariance) if arguments.covariance else None,
        shapes=tuple(arguments.shape) if arguments.shape else None,
        together=arguments.together,
    )
    rows: list[dict[str, Any]] = []
    seconds: dict[str, float] = {}
    for name in arguments.only or default_sections(arguments.device):
        begin = time.perf_counter()
        rows += SECTIONS[name](settings)
        seconds[name] = time.perf_counter() - begin
    found = [] if arguments.quick else gates(rows)  # small shapes decide nothing
    summarise(rows, found)
    print("\nseconds:", ", ".join(f"{name} {taken:.0f}" for name, taken in seconds.items()))
    if arguments.json is not None:
        arguments.json.write_text(
            json.dumps(as_json(rows, found, device), indent=1) + "\n", "utf-8"
        )
    if arguments.figure is not None:
        from mdn_figure import figure

        from mdnjax import plotting

        plotting.save(figure(rows), arguments.figure, dpi=150.0)


def wide(settings: Settings) -> list[dict[str, Any]]:
    """Heads of several widths; see `mdn_wide`."""
    import mdn_wide

    shapes = mdn_wide.QUICK if settings.quick else mdn_wide.GRID
    rows = mdn_wide.measure_wide(shapes, rounds=min(settings.rounds, 5))
    print()
    mdn_wide.print_wide(rows)
    return rows


def widest(settings: Settings) -> list[dict[str, Any]]:
    """The head of the gate: 2 TFLOP a step, or a small one."""
    import mdn_wide

    shapes = mdn_wide.QUICK[-1:] if settings.quick else [mdn_wide.GATE]
    rows = mdn_wide.measure_wide(shapes, rounds=min(settings.rounds, 3))
    print()
    mdn_wide.print_wide(rows)
    plain = next(row for row in rows if row["contestant"] == "plain")
    extra = {"section": "widest", "plain_temporary_bytes": plain["temporary_bytes"]}
    return [row | extra for row in rows]


SECTIONS: dict[str, Callable[[Settings], list[dict[str, Any]]]] = {
    "alone": alone,
    "sweep": sweep,
    "step": step,
    "hessian": hessian,
    "small": small,
    "wide": wide,
    "widest": widest,
}


def default_sections(device: str) -> list[str]:
    return ["alone", "sweep", "step", "hessian", *(["small"] if device == "gpu" else [])]


def summarise(rows: list[dict[str, Any]], found: list[Gate]) -> None:
    """How many times ours each takes, and which gates hold."""
    table = [row for row in rows if row["section"] == "alone"]
    names = [COLUMNS, PLAIN, BEST, ROWS, *mdn_peers.PEERS]
    line = "{:36}" + "{:>10}" * (len(names) + 2)
    if table:
        titles = [name.rpartition(", ")[2].removesuffix(" autodiff") for name in names]
        reference = table[0]["reference"]
        print(f"\nvalue and gradient, times that of {reference}; its own over the limits'")
        print(line.format("", *titles, "/ copy", "/ exp"))
    for row in table:
        ratio = row["ratio"]["gradient"]
        ratio = {ROWS: ratio[BEST]} | ratio  # the best may be one on rows
        cells = [f"{ratio[name]:.2f}" if name in ratio else "-" for name in names]
        cells += [f"{1 / ratio['copy']:.1f}", f"{1 / floor_ratio(row):.1f}"]
        size = f"{row['covariance']} ({row['batch']}, {row['components']}, {row['dim']})"
        print(line.format(size, *cells))
    for n, gate in enumerate(found):
        print(gate if n else f"\n{gate}")


def as_json(rows: list[dict[str, Any]], found: list[Gate], device: Any) -> dict[str, Any]:
    return {
        "machine": machine(f"{device.device_kind} ({device.platform})", *PACKAGES),
        "rows": rows,
        "gates": [gate._asdict() | {"holds": gate.holds} for gate in found],
    }


def size(text: str) -> tuple[int, int, int]:
    """B,K,D from the command line."""
    b, k, d = (int(part) for part in text.split(","))
    return b, k, d


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small shapes, to see that it runs")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="(cpu)")
    parser.add_argument("--rounds", type=int, help="interleaved rounds (10; quick 3)")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION", help="sections")
    parser.add_argument("--covariance", nargs="+", choices=get_args(Covariance), help="only these")
    parser.add_argument(
        "--shape", nargs="+", type=size, metavar="B,K,D", help='these, in "alone" (four)'
    )
    parser.add_argument(
        "--peers", nargs="*", choices=mdn_peers.PEERS, default=list(mdn_peers.PEERS), help="(all)"
    )
    parser.add_argument(
        "--together", action="store_true", help='contestants of "alone" in one process, as on GPU'
    )
    parser.add_argument("--threads", type=int, default=2, help="PyTorch's threads (2)")
    parser.add_argument("--json", type=pathlib.Path, help="write all times and gates here")
    parser.add_argument("--figure", type=pathlib.Path, help="draw them here: .png, .svg, .pdf")
    return parser.parse_args()


if __name__ == "__main__":
    main()
