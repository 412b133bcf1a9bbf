"""What `import mdnjax` costs beside `import jax`, in fresh interpreters, in turn."""

import argparse
import statistics
import subprocess
import sys


def seconds(module: str) -> float:
    """The time that one fresh interpreter takes to import `module`."""
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(run.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=11, help="interleaved pairs (default 11)")
    parser.add_argument("--gate", type=float, help="exit with 1 where the ratio is above this")
    arguments = parser.parse_args()

    for module in ("jax", "mdnjax"):
        seconds(module)  # warms the disk cache and the bytecode
    pairs = [(seconds("jax"), seconds("mdnjax")) for _ in range(arguments.repeats)]
    jax, mdnjax = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"import jax {jax:.3f} s, import mdnjax {mdnjax:.3f} s: ratio {ratio:.2f}")
    if arguments.gate is not None and ratio > arguments.gate:
        sys.exit(f"import mdnjax costs {ratio:.2f} times import jax; at most {arguments.gate}")


if __name__ == "__main__":
    main()
