"""Section "alone": loss and gradient with respect to the raw outputs, and nothing else."""

from collections.abc import Callable
from typing import Any, get_args

import jax
import mdn_limits
import mdn_peers
import numpy as np
from apart import Apart
from mdn_formulas import Covariance, Formula, Shape, candidates, plain, random_problem
from mdn_race import (
    BEST,
    COLUMNS,
    OURS,
    PLAIN,
    ROWS,
    SETTLE,
    Contestant,
    Settings,
    contestant,
    covariances,
    lists,
    milliseconds,
    or_why,
    ours,
    peers,
    present,
    race,
    ratios,
    require_agreement,
    torch_contestant,
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
    """One row: times of each round, medians of ratios, memory, and who is missing.

    Every candidate for the best automatic differentiation takes part; of them the row keeps the
    fastest, and where that one is on columns, the fastest on rows as well.
    """
    problem = random_problem(shape)
    reference = contestant(plain(shape), problem)
    found = {OURS: or_why(lambda: contestant(ours(shape), problem))}
    found[COLUMNS] = or_why(lambda: contestant(ours(shape, columns=True), problem))
    found[PLAIN] = reference
    found |= {formula.name: contestant(formula, problem) for formula in candidates(shape)}
    require_agreement(found)
    found |= peers(shape, problem, reference, settings)
    timing = _together if settings.together or settings.platform == "gpu" else _apart
    gradient, forward, fresh = timing(shape, present(found), settings)
    winners = _winners(shape, gradient)
    out = {formula.name for formula in candidates(shape)}
    names = {OURS: OURS, COLUMNS: COLUMNS, PLAIN: PLAIN} | winners
    names |= {name: name for name in found if name not in out}

    def kept(values: dict[str, Any]) -> dict[str, Any]:
        return {name: values[its] for name, its in names.items() if its in values}

    names |= {name: name for name in mdn_limits.NAMES}
    gradient, forward, fresh = kept(gradient), kept(forward), kept(fresh)
    to = OURS if OURS in gradient else PLAIN
    row: dict[str, Any] = {"section": "alone", **shape._asdict(), "outputs": shape.outputs}
    row["seconds"] = {"gradient": lists(gradient), "forward": lists(forward)}
    row["reference"] = to
    row["ratio"] = {"gradient": ratios(gradient, to), "forward": ratios(forward, to)}
    row["ratio"]["gradient, to columns"] = ratios(gradient, COLUMNS)
    rivals = kept(present(found))
    row["temporary_bytes"] = {name: rival.temporary for name, rival in rivals.items()}
    row["fresh_bytes"] = fresh
    row["formula"] = winners
    row["missing"] = {name: why for name, why in found.items() if isinstance(why, str)}
    row["exponentials"] = shape.batch * shape.exponentials
    row["copy_bandwidth"] = _bandwidth(mdn_limits.copy_traffic(shape), gradient[mdn_limits.COPY])
    row["copy_fraction"] = {
        name: _bandwidth(mdn_limits.traffic(shape), gradient[name]) / row["copy_bandwidth"]
        for name in rivals
    }
    return row


def _winners(shape: Shape, seconds: dict[str, np.ndarray]) -> dict[str, str]:
    """The fastest candidate of all; where it is on columns, of those on rows too."""

    def fastest(formulas: list[Formula]) -> Formula:
        return min(formulas, key=lambda formula: float(np.median(seconds[formula.name])))

    best = fastest(candidates(shape))
    winners = {BEST: best.name}
    if best.columns:
        winners[ROWS] = fastest([f for f in candidates(shape) if not f.columns]).name
    return winners


Seconds = dict[str, np.ndarray]
Timing = tuple[Seconds, Seconds, dict[str, int]]
"""Gradient and forward, and the fresh memory of the gradient, by contestant."""


def _together(shape: Shape, rivals: dict[str, Contestant], settings: Settings) -> Timing:
    gradient = {name: rival.gradient for name, rival in rivals.items()}
    forward = {name: rival.forward for name, rival in rivals.items()}
    gradient |= mdn_limits.limits(shape)
    return race(gradient, settings), race(forward, settings), {}


def _apart(shape: Shape, rivals: dict[str, Contestant], settings: Settings) -> Timing:
    builders = {name: (_rebuild, (name, shape, settings)) for name in rivals}
    limits = {name: (_limit, (name, shape, settings)) for name in mdn_limits.NAMES}
    with Apart(builders | limits, settle=SETTLE, patience=settings.patience) as processes:
        gradient = processes.race("gradient", [*builders, *limits], rounds=settings.rounds)
        fresh = processes.fresh_bytes
        forward = processes.race("forward", builders, rounds=settings.rounds)
    return gradient, forward, fresh


def _rebuild(name: str, shape: Shape, settings: Settings) -> dict[str, Callable[[], Any]]:
    """A contestant again, in its own process."""
    jax.config.update("jax_default_device", jax.devices(settings.platform)[0])
    problem = random_problem(shape)
    if name == "torch":
        rival = torch_contestant(shape, problem, settings)
    elif name in mdn_peers.PEERS:
        rival = contestant(mdn_peers.jax_formula(name, shape), problem)
    elif name in (OURS, COLUMNS):
        rival = contestant(ours(shape, columns=name == COLUMNS), problem)
    else:
        formulas = [plain(shape), *candidates(shape)]
        rival = contestant(next(f for f in formulas if f.name == name), problem)
    return {"gradient": rival.gradient, "forward": rival.forward}


def _limit(name: str, shape: Shape, settings: Settings) -> dict[str, Callable[[], Any]]:
    jax.config.update("jax_default_device", jax.devices(settings.platform)[0])
    return {"gradient": mdn_limits.limits(shape)[name]}


def _bandwidth(num_bytes: int, times: np.ndarray) -> float:
    return num_bytes / float(np.median(times))


def print_row(row: dict[str, Any]) -> None:
    """The row of the JSON as a block of the table."""
    shape = Shape(row["batch"], row["components"], row["dim"], row["covariance"])
    line = "  {:34}{:>26}{:>9}{:>26}{:>9}{:>8}{:>10}"
    to = row["reference"]
    titles = ("gradient, ms (quartiles)", "ratio", "forward, ms (quartiles)", "ratio")
    titles += ("MB", "fresh MB")
    print(f"\n{shape} (P {row['outputs']}); ratios are to {to}")
    print(line.format("", *titles))
    gradient, forward = row["seconds"]["gradient"], row["seconds"]["forward"]
    for name, times in gradient.items():
        formula = row["formula"].get(name)
        cells = [milliseconds(np.array(times)), f"{row['ratio']['gradient'][name]:.2f}"]
        if name in forward:
            cells += [milliseconds(np.array(forward[name]))]
            cells += [f"{row['ratio']['forward'][name]:.2f}"]
        cells += ["", ""] if len(cells) == 2 else []
        for memory in (row["temporary_bytes"].get(name), row["fresh_bytes"].get(name)):
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
