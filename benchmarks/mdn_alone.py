"""Section "alone": loss and gradient with respect to the raw outputs, and nothing else."""

from typing import Any, get_args

import mdn_limits
import numpy as np
from mdn_formulas import Covariance, Shape
from mdn_race import (
    OURS,
    PLAIN,
    Contestant,
    Settings,
    autodiff,
    covariances,
    lists,
    milliseconds,
    peers,
    present,
    problem_of,
    race,
    ratios,
)

SHAPES = ((262144, 5, 1), (65536, 20, 2), (8192, 5, 48), (4096, 32, 16))
QUICK = ((256, 4, 3),)


def alone(settings: Settings) -> list[dict[str, Any]]:
    """A row for each covariance and shape, with all contestants and the limits."""
    shapes = settings.shapes or (QUICK if settings.quick else SHAPES)
    found = []
    for covariance in covariances(settings, get_args(Covariance)):
        for size in shapes:
            row = measure(Shape(*size, covariance), settings)
            print_row(row)
            found.append(row)
    return found


def measure(shape: Shape, settings: Settings) -> dict[str, Any]:
    """One row: times of each round, medians of ratios, memory, and who is missing."""
    problem = problem_of(shape)
    found = autodiff(shape, problem)
    reference = found[PLAIN]
    assert isinstance(reference, Contestant)
    found |= peers(shape, problem, reference, settings)
    rivals = present(found)
    limits = mdn_limits.limits(shape)
    gradient = race({name: rival.gradient for name, rival in rivals.items()} | limits, settings)
    forward = race({name: rival.forward for name, rival in rivals.items()}, settings)
    to = OURS if OURS in rivals else PLAIN
    row: dict[str, Any] = {"section": "alone", **shape._asdict(), "outputs": shape.outputs}
    row["seconds"] = {"gradient": lists(gradient), "forward": lists(forward)}
    row["reference"] = to
    row["ratio"] = {"gradient": ratios(gradient, to), "forward": ratios(forward, to)}
    row["temporary_bytes"] = {name: rival.temporary for name, rival in rivals.items()}
    row["formula"] = {name: rival.formula for name, rival in rivals.items() if rival.formula}
    row["missing"] = {name: why for name, why in found.items() if isinstance(why, str)}
    row["exponentials"] = shape.batch * shape.exponentials
    row["copy_bandwidth"] = _bandwidth(mdn_limits.copy_traffic(shape), gradient[mdn_limits.COPY])
    row["copy_fraction"] = {
        name: _bandwidth(mdn_limits.traffic(shape), gradient[name]) / row["copy_bandwidth"]
        for name in rivals
    }
    return row


def _bandwidth(num_bytes: int, times: np.ndarray) -> float:
    return num_bytes / float(np.median(times))


def print_row(row: dict[str, Any]) -> None:
    """The row of the JSON as a block of the table."""
    shape = Shape(row["batch"], row["components"], row["dim"], row["covariance"])
    line = "  {:34}{:>26}{:>9}{:>26}{:>9}{:>10}"
    to = row["reference"]
    titles = ("gradient, ms (quartiles)", "ratio", "forward, ms (quartiles)", "ratio", "MB")
    print(f"\n{shape} (P {row['outputs']}); ratios are to {to}")
    print(line.format("", *titles))
    gradient, forward = row["seconds"]["gradient"], row["seconds"]["forward"]
    for name, times in gradient.items():
        formula = row["formula"].get(name)
        cells = [milliseconds(np.array(times)), f"{row['ratio']['gradient'][name]:.2f}"]
        if name in forward:
            cells += [milliseconds(np.array(forward[name]))]
            cells += [f"{row['ratio']['forward'][name]:.2f}"]
        memory = row["temporary_bytes"].get(name)
        cells += ["", ""] if len(cells) == 2 else []
        cells.append("" if memory is None else f"{memory / 1e6:.1f}")
        print(line.format(name, *cells).rstrip())
        if formula:
            print(f"    ({formula})")
    for name, why in row["missing"].items():
        print(f"  {name:34}not measured: {why}")
    share = row["copy_fraction"].get(to)
    if share is not None:
        copied = row["copy_bandwidth"] / 1e9
        print(f"  {to}: {100 * share:.0f} per cent of the copy's bandwidth, {copied:.1f} GB/s")
