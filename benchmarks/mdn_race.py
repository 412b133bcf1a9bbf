"""Contestants of the loss's benchmarks: made from formulas, checked against one another, timed."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import mdn_peers
import numpy as np
from mdn_formulas import (
    Formula,
    Mixtures,
    Shape,
    candidates,
    packing,
    plain,
)
from measure import Spread, interleaved, ratio

OURS, PLAIN, BEST = "mdnjax", "plain autodiff", "best autodiff"
COLUMNS = "mdnjax, columns"  # of raw outputs [P, B]
ROWS = "best autodiff, rows"  # of raw outputs [B, P], where the best of all is on columns
TRIAL = 5  # rounds in which candidates show which is the fastest
SETTLE = 2  # runs before each timed one


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the command line decides.

    Attributes:
        rounds: Interleaved rounds.
        patience: Seconds after which a slow contestant has had enough.
        quick: Whether shapes are small, to see that everything runs.
        platform: "cpu" or "gpu".
        threads: PyTorch's, on CPU.
        peers: The packages that take part.
        covariances: The covariances asked for; None for each section's own.
        shapes: (B, K, D) asked for in the section "alone"; None for its own.
        together: Whether the contestants of "alone" share a process; on GPU they do.
    """

    rounds: int = 10
    patience: float = 4.0
    quick: bool = False
    platform: str = "cpu"
    threads: int = 2
    peers: tuple[str, ...] = tuple(mdn_peers.PEERS)
    covariances: tuple[str, ...] | None = None
    shapes: tuple[tuple[int, int, int], ...] | None = None
    together: bool = False


@dataclasses.dataclass(frozen=True)
class Contestant:
    """One row of a table.

    Attributes:
        name: The row's.
        gradient: Computes loss and gradient, and returns when they are there.
        forward: The loss alone, likewise.
        unpack: The gradient as `Mixtures`.
        temporary: Bytes of temporary memory at the peak of `gradient`, where the compiler says.
        formula: The name of its formula, where there is a choice.
    """

    name: str
    gradient: Callable[[], tuple[Any, Any]]
    forward: Callable[[], Any]
    unpack: Callable[[Any], Mixtures]
    temporary: int | None = None
    formula: str | None = None


def ours(shape: Shape, *, columns: bool = False) -> Formula:
    """`mdnjax.nll`, or a head's `nll_columns`, as a formula.

    Raises:
        ImportError: mdnjax is not there, or not with this version of JAX.
    """
    import mdnjax as mdn

    head = mdn.GaussianHead(
        num_components=shape.components, dim=shape.dim, covariance=shape.covariance
    )
    if columns:
        return Formula(COLUMNS, *packing(shape, True), head.nll_columns, columns=True)
    return Formula(OURS, *packing(shape, False), functools.partial(mdn.nll, head))


def contestant(formula: Formula, problem: tuple[Mixtures, Any], name: str = "") -> Contestant:
    """A formula on JAX, compiled for a problem."""
    mixtures, y = problem
    raw = jnp.asarray(formula.pack(mixtures))
    targets = formula.targets(y)
    gradient = jax.jit(formula.loss_and_gradient).lower(raw, targets).compile()

    @functools.cache  # of many candidates few are asked for it
    def forward() -> Any:
        return jax.jit(formula.loss).lower(raw, targets).compile()

    return Contestant(
        name or formula.name,
        lambda: jax.block_until_ready(gradient(raw, targets)),
        lambda: jax.block_until_ready(forward()(raw, targets)),
        formula.unpack,
        temporary_bytes(gradient),
        formula.name if name else None,
    )


def best(shape: Shape, problem: tuple[Mixtures, Any]) -> Contestant:
    """The fastest of the candidates in a short trial of value and gradient."""
    found = [contestant(formula, problem, BEST) for formula in candidates(shape)]
    runs = {str(n): rival.gradient for n, rival in enumerate(found)}
    return found[int(fastest(runs))]


def fastest(runs: Mapping[str, Callable[[], Any]]) -> str:
    """The name of the fastest, by its best round of a short trial."""
    times = interleaved(runs, rounds=TRIAL, warmup=1, pause=0.005, settle=SETTLE)
    return min(times, key=lambda name: float(np.min(times[name])))


def autodiff(shape: Shape, problem: tuple[Mixtures, Any]) -> dict[str, Contestant | str]:
    """Ours, plain and best autodiff; in place of ours, why it is not there."""
    found: dict[str, Contestant | str] = {}
    found[OURS] = or_why(lambda: contestant(ours(shape), problem))
    found[PLAIN] = contestant(plain(shape), problem)
    found[BEST] = best(shape, problem)
    require_agreement(found)
    return found


def peers(
    shape: Shape, problem: tuple[Mixtures, Any], reference: Contestant, settings: Settings
) -> dict[str, Contestant | str]:
    """The packages that take part, or why one does not: missing, failing, or of another opinion."""
    found: dict[str, Contestant | str] = {}
    for name in settings.peers:
        for compiled in (
            (False, True) if name == "torch" and settings.platform == "gpu" else (False,)
        ):

            def build(name: str = name, compiled: bool = compiled) -> Contestant:
                if name == "torch":
                    rival = torch_contestant(shape, problem, settings, compiled)
                else:
                    rival = contestant(mdn_peers.jax_formula(name, shape), problem)
                require_agreement({PLAIN: reference, rival.name: rival})
                return rival

            found[f"{name}, compiled" if compiled else name] = or_why(build)
    return found


def torch_contestant(
    shape: Shape, problem: tuple[Mixtures, Any], settings: Settings, compiled: bool = False
) -> Contestant:
    """PyTorch's loss, compiled by `torch.compile` or not."""
    device = "cpu" if settings.platform == "cpu" else "cuda"
    loss = mdn_peers.TorchLoss(shape, *problem, device, settings.threads, compiled)
    unpack = mdn_peers.unpack(shape)
    return Contestant(
        "torch", loss.gradient, loss.forward, lambda raw: unpack(raw.detach().cpu().numpy())
    )


def or_why(build: Callable[[], Contestant]) -> Contestant | str:
    """A contestant, or why it is not there."""
    # Whatever a package fails with is its row in the table, and no reason to lose the others.
    try:
        return build()
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {lines[0][:160]}"


def present(found: Mapping[str, Contestant | str]) -> dict[str, Contestant]:
    """Those that can run."""
    return {name: rival for name, rival in found.items() if isinstance(rival, Contestant)}


def require_agreement(found: Mapping[str, Contestant | str], *, tolerance: float = 1e-3) -> None:
    """Ends the benchmark where one does not compute what plain autodiff computes.

    In float32: sums over many examples, and derivatives relative to the largest of their kind.

    Raises:
        AssertionError: Naming the contestant and the parameter.
    """
    rivals = present(found)
    loss, gradient = rivals[PLAIN].gradient()
    expected = rivals[PLAIN].unpack(gradient)
    for name, rival in rivals.items():
        if name == PLAIN:
            continue
        its_loss, gradient = rival.gradient()
        np.testing.assert_allclose(
            float(its_loss), float(loss), rtol=tolerance / 10, err_msg=f"{name}: loss"
        )
        for field, its, theirs in zip(
            Mixtures._fields, rival.unpack(gradient), expected, strict=True
        ):
            if its is not None and its.size:
                scale = float(np.abs(theirs).max())
                error = float(np.abs(np.asarray(its) - np.asarray(theirs)).max())
                assert error <= tolerance * scale, f"{name}: {field} differs by {error:.2g}"


def temporary_bytes(compiled: Any) -> int | None:
    """Peak temporary memory of a compiled function, where the backend tells."""
    try:
        analysis = compiled.memory_analysis()
    except (NotImplementedError, RuntimeError):
        return None
    return None if analysis is None else int(analysis.temp_size_in_bytes)


def race(
    runs: Mapping[str, Callable[[], Any]], settings: Settings, **options: Any
) -> dict[str, np.ndarray]:
    """Seconds of each round, by name."""
    return interleaved(
        runs, rounds=settings.rounds, settle=SETTLE, patience=settings.patience, **options
    )


def ratios(seconds: Mapping[str, np.ndarray], to: str) -> dict[str, float]:
    """Medians of times over another's, by name; empty where that other is missing."""
    if to not in seconds:
        return {}
    return {name: ratio(times, seconds[to]).median for name, times in seconds.items()}


def milliseconds(times: np.ndarray) -> str:
    return f"{Spread.of(1e3 * times):.2f}"


def lists(seconds: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """For JSON."""
    return {name: [float(f"{t:.4g}") for t in times] for name, times in seconds.items()}


def covariances(settings: Settings, default: Iterable[str]) -> tuple[Any, ...]:
    """The covariances a section runs over."""
    return tuple(default) if settings.covariances is None else settings.covariances
