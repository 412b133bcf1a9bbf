"""Sections "step" and "hessian": the loss behind a linear layer, and its second derivatives."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from mdn_formulas import (
    Array,
    Covariance,
    Formula,
    Mixtures,
    Shape,
    candidates,
    plain,
    random_problem,
)
from mdn_race import (
    BEST,
    COLUMNS,
    OURS,
    PLAIN,
    Settings,
    covariances,
    fastest,
    lists,
    milliseconds,
    ours,
    race,
    ratios,
    temporary_bytes,
)

WIDTH = 400  # hidden states
PRODUCTS = "products alone"

Compiled = tuple[Callable[[], Any], int | None]


def step(settings: Settings) -> list[dict[str, Any]]:
    """Rows of a linear layer with the loss: gradients in kernel, bias and hidden states.

    The "products alone" are the layer's three matrix products with a gradient that is given.
    """
    found = []
    for covariance in covariances(settings, ("isotropic", "full")):
        shape = _shape(settings, covariance)
        formulas = _ours(shape, columns=True) | {PLAIN: plain(shape)}
        compiled = {name: _step(shape, formula) for name, formula in formulas.items()}
        rivals = {f.name: _step(shape, f) for f in candidates(shape) if f.block is None}
        winner = fastest({name: run for name, (run, _) in rivals.items()})
        formulas |= {BEST: next(f for f in candidates(shape) if f.name == winner)}
        compiled |= {BEST: rivals[winner]}
        _require_equal_steps(formulas, compiled)
        compiled[PRODUCTS] = _step(shape, formulas[PLAIN], products=True)
        row = _measure("step", shape, compiled, settings)
        row["formula"] = {BEST: winner}
        _print(f"linear layer of {WIDTH} and loss, {shape}", row)
        found.append(row)
    return found


def _step(shape: Shape, formula: Formula, *, products: bool = False) -> Compiled:
    """Loss and gradients of a linear layer whose outputs are in the formula's order."""
    mixtures, _ = random_problem(shape._replace(batch=WIDTH))
    kernel = jnp.asarray(formula.pack(mixtures)) / math.sqrt(WIDTH)
    # Examples of a single mixture: its axis of examples spreads over the batch.
    bias = jnp.asarray(formula.pack(random_problem(shape._replace(batch=1))[0]))
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.standard_normal((shape.batch, WIDTH), dtype=np.float32))
    targets = formula.targets(random_problem(shape)[1])
    given = jnp.asarray(formula.pack(random_problem(shape)[0])) if products else jnp.zeros(())

    def loss(weights: tuple[Array, ...], targets: Array, given: Array) -> Array:
        kernel, bias, hidden = weights
        raw = kernel @ hidden.T if formula.columns else hidden @ kernel
        raw = raw + jnp.broadcast_to(bias, raw.shape)
        return jnp.sum(raw * given) if products else formula.loss(raw, targets)

    arguments = (kernel, bias, hidden), targets, given
    run = jax.jit(jax.value_and_grad(loss)).lower(*arguments).compile()
    return lambda: jax.block_until_ready(run(*arguments)), temporary_bytes(run)


def _require_equal_steps(formulas: dict[str, Formula], compiled: dict[str, Compiled]) -> None:
    results = {}
    for name, formula in formulas.items():
        loss, (kernel, bias, hidden) = compiled[name][0]()
        results[name] = {"loss": loss, "hidden": hidden}
        for part, gradient in (("kernel", kernel), ("bias", bias)):
            for field, array in formula.unpack(gradient)._asdict().items():
                results[name][f"{part}: {field}"] = array
    _require_equal(results)


def hessian(settings: Settings) -> list[dict[str, Any]]:
    """Rows of Hessian-vector products, forward over reverse; plain is autodiff of autodiff."""
    found = []
    for covariance in covariances(settings, ("isotropic", "full")):
        shape = _shape(settings, covariance)
        formulas = _ours(shape) | {PLAIN: plain(shape)}
        compiled = {name: _hessian(shape, formula) for name, formula in formulas.items()}
        _require_equal(
            {
                name: formula.unpack(compiled[name][0]())._asdict()
                for name, formula in formulas.items()
            }
        )
        row = _measure("hessian", shape, compiled, settings)
        row["equal"] = OURS in formulas  # else we would not be here
        _print(f"Hessian-vector product, {shape}", row)
        found.append(row)
    return found


def _hessian(shape: Shape, formula: Formula) -> Compiled:
    mixtures, y = random_problem(shape)
    direction = Mixtures(*(x[::-1] for x in mixtures))  # any
    raw, tangent = (jnp.asarray(formula.pack(x)) for x in (mixtures, direction))
    targets = formula.targets(y)

    def product(raw: Array, tangent: Array, targets: Array) -> Array:
        gradient = jax.grad(lambda raw: formula.loss(raw, targets))
        return jax.jvp(gradient, (raw,), (tangent,))[1]

    run = jax.jit(product).lower(raw, tangent, targets).compile()
    return lambda: jax.block_until_ready(run(raw, tangent, targets)), temporary_bytes(run)


def _shape(settings: Settings, covariance: Covariance) -> Shape:
    batch, components = (128, 4) if settings.quick else (16384, 20)
    return Shape(batch, components, 2, covariance)


def _ours(shape: Shape, *, columns: bool = False) -> dict[str, Formula]:
    try:
        found = {OURS: ours(shape)}
        return found | {COLUMNS: ours(shape, columns=True)} if columns else found
    except ImportError:
        return {}  # the section "alone" says why


def _measure(
    section: str, shape: Shape, compiled: dict[str, Compiled], settings: Settings
) -> dict[str, Any]:
    seconds = race({name: run for name, (run, _) in compiled.items()}, settings, pause=0)
    row = {"section": section, **shape._asdict(), "seconds": lists(seconds)}
    row["ratio"] = ratios(seconds, OURS)
    row["temporary_bytes"] = {name: size for name, (_, size) in compiled.items()}
    return row


def _require_equal(results: dict[str, dict[str, Any]], *, tolerance: float = 1e-3) -> None:
    expected = results[PLAIN]
    for name, parts in results.items():
        for part, array in parts.items():
            if array.size:
                scale = float(jnp.max(jnp.abs(expected[part])))
                error = float(jnp.max(jnp.abs(array - expected[part])))
                assert error <= tolerance * scale, f"{name}: {part} differs by {error:.2g}"


def _print(title: str, row: dict[str, Any]) -> None:
    print(f"\n{title}; ratios are to {OURS}")
    line = "  {:34}{:>26}{:>9}{:>10}"
    print(line.format("", "ms (quartiles)", "ratio", "MB"))
    for name, times in row["seconds"].items():
        memory, times_ours = row["temporary_bytes"][name], row["ratio"].get(name)
        cells = milliseconds(np.array(times)), "-" if times_ours is None else f"{times_ours:.2f}"
        print(line.format(name, *cells, "" if memory is None else f"{memory / 1e6:.1f}"), end="")
        formula = row.get("formula", {}).get(name)
        print(f"  ({formula})" if formula else "")
