"""Sections "sweep" and "small": how cost grows with B, K and D, and what a tiny batch costs."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from mdn_formulas import Formula, Mixtures, Shape, candidates, plain, random_problem
from mdn_race import (
    BEST,
    OURS,
    PLAIN,
    Settings,
    autodiff,
    covariances,
    fastest,
    lists,
    ours,
    present,
    race,
    ratios,
)
from measure import Spread

# Every axis from a base of its own, so that no point takes long.
BASES = {"B": (0, 20, 2), "K": (16384, 0, 2), "D": (8192, 5, 0)}
VALUES = {
    "B": (64, 256, 1024, 4096, 16384, 65536, 262144),
    "K": (1, 2, 5, 10, 20, 50, 100, 200),
    "D": (1, 2, 4, 8, 16, 32, 64, 128),
}
LARGEST = 2**25  # raw outputs of a batch; full covariance has many
QUICK_BASES = {"B": (0, 3, 2), "K": (64, 0, 2), "D": (64, 3, 0)}
QUICK_VALUES = {"B": (64, 256), "K": (3,), "D": (2,)}

SMALL = (32, 256, 2048)  # examples a step
SMALL_STEPS = 500


def sweep(settings: Settings) -> list[dict[str, Any]]:
    """A row for each value of B, K and D: value and gradient by ours, plain and best autodiff."""
    settings = dataclasses.replace(settings, patience=1.0)
    values, bases = (QUICK_VALUES, QUICK_BASES) if settings.quick else (VALUES, BASES)
    found = []
    for covariance in covariances(settings, ("isotropic",)):
        for axis in "BKD":
            print(f"\nvalue and gradient, ns an example, {covariance}, as {axis} grows")
            print(f"  {axis:>8}{OURS:>32}{PLAIN:>32}{BEST:>32}")
            for value in values[axis]:
                b, k, d = (base or value for base in bases[axis])
                shape = Shape(b, k, d, covariance)
                if shape.batch * shape.outputs > LARGEST:
                    print(f"  {value:>8}  not measured: over {LARGEST:,} raw outputs")
                    continue
                row = _point(shape, axis, settings)
                print(_line(row, value, row["batch"]), flush=True)
                found.append(row)
    return found


def _point(shape: Shape, axis: str, settings: Settings) -> dict[str, Any]:
    rivals = present(autodiff(shape, random_problem(shape)))
    seconds = race({name: rival.gradient for name, rival in rivals.items()}, settings, pause=0)
    row = {"section": "sweep", "axis": axis, **shape._asdict(), "seconds": lists(seconds)}
    row["nanoseconds"] = {n: 1e9 * float(np.median(t)) / shape.batch for n, t in seconds.items()}
    row["formula"] = {BEST: rivals[BEST].formula}
    return row


def small(settings: Settings) -> list[dict[str, Any]]:
    """Microseconds a step of gradient descent on a few raw outputs, many steps under one scan."""
    steps = 20 if settings.quick else SMALL_STEPS
    found = []
    for covariance in covariances(settings, ("isotropic", "full")):
        components = 4 if settings.quick else 20
        print(f"\nus a step, {steps} steps under one scan, {covariance}, K {components}, D 2")
        print(f"  {'B':>8}{OURS:>32}{PLAIN:>32}{BEST:>32}")
        for batch in SMALL[:1] if settings.quick else SMALL:
            shape = Shape(batch, components, 2, covariance)
            row = _scanned(shape, steps, settings)
            print(_line(row, batch, steps, unit=1e6), flush=True)
            found.append(row)
    return found


def _scanned(shape: Shape, steps: int, settings: Settings) -> dict[str, Any]:
    problem = random_problem(shape)
    trial = {formula.name: _steps(formula, problem, steps) for formula in candidates(shape)}
    winner = fastest(trial)
    runs = {PLAIN: _steps(plain(shape), problem, steps), BEST: trial[winner]}
    with contextlib.suppress(ImportError):  # the section "alone" says why
        runs = {OURS: _steps(ours(shape), problem, steps)} | runs
    seconds = race(runs, settings, pause=0)
    row = {"section": "small", **shape._asdict(), "steps": steps, "seconds": lists(seconds)}
    row["ratio"] = ratios(seconds, OURS)
    row["formula"] = {BEST: winner}
    return row


def _steps(formula: Formula, problem: tuple[Mixtures, Any], steps: int) -> Callable[[], Any]:
    mixtures, y = problem
    raw, targets = jnp.asarray(formula.pack(mixtures)), formula.targets(y)

    def descend(raw: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        def step(raw: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            loss, gradient = formula.loss_and_gradient(raw, targets)
            return raw - 1e-3 * gradient, loss

        return jax.lax.scan(step, raw, None, length=steps)

    run = jax.jit(descend).lower(raw, targets).compile()
    return lambda: jax.block_until_ready(run(raw, targets))


def _line(row: dict[str, Any], value: int, per: int, unit: float = 1e9) -> str:
    cells = []
    for name in (OURS, PLAIN, BEST):
        times = row["seconds"].get(name)
        if times is None:
            cells.append("-")
        else:
            spread = Spread.of(unit * np.array(times) / per)
            cells.append(f"{spread:,.0f}" if spread.median >= 100 else f"{spread:.1f}")
    return "  {:>8}{:>32}{:>32}{:>32}  ({})".format(value, *cells, row["formula"][BEST])
