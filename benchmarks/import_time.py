"""What `import mdnjax` costs beside `import jax`, in fresh interpreters, in turn.

`mdnjax` loads its rooms when they are first used, so two figures stand beside `import jax`: the
bare import, and the import with a first name taken from it, which loads JAX and the mixtures.
"""

import argparse
import subprocess
import sys

import numpy as np
from measure import Spread, machine

STATEMENTS = ("import jax", "import mdnjax", "import mdnjax; mdnjax.nll")


def seconds(statement: str) -> float:
    """The time that one fresh interpreter takes for a statement, its own start left out."""
    code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(run.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description="What importing mdnjax costs.")
    parser.add_argument("--repeats", type=int, default=11, help="interleaved rounds (default 11)")
    parser.add_argument("--gate", type=float, help="exit with 1 where a ratio is above this")
    arguments = parser.parse_args()

    print(machine("cpu", "jax", "jaxlib", "flax", "numpy"))
    for statement in STATEMENTS:
        seconds(statement)  # warms the disk cache and the bytecode
    rounds = np.array([[seconds(s) for s in STATEMENTS] for _ in range(arguments.repeats)])
    worst = 0.0
    for statement, times in zip(STATEMENTS, rounds.T, strict=True):
        ratio = Spread.of(times / rounds[:, 0])
        worst = max(worst, ratio.median)
        print(f"{statement:26} {Spread.of(times):.3f} s  {ratio:.2f} times import jax")
    if arguments.gate is not None and worst > arguments.gate:
        sys.exit(f"{worst:.2f} times import jax; at most {arguments.gate}")


if __name__ == "__main__":
    main()
