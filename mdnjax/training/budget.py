"""Minutes into steps, once, by measuring the run itself."""

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mdnjax._types import Key
from mdnjax.training._signals import Interruption
from mdnjax.training.checkpoints import save_checkpoint
from mdnjax.training.state import TrainState, copy_tree
from mdnjax.training.step import Step

# The machine may slow down after it was measured: leave this part of the time unspent.
_MARGIN = 0.03


@dataclasses.dataclass(frozen=True)
class Budget:
    """What minutes were converted to.

    Attributes:
        steps: Steps of the whole run.
        step_seconds: Measured duration of a step.
        check_seconds: Measured duration of a validation and its checkpoints.
        save_seconds: Measured duration of one checkpoint.
    """

    steps: int
    step_seconds: float
    check_seconds: float
    save_seconds: float


def measure_budget(
    step: Step,
    state: TrainState,
    batches: Callable[[int], Any],
    key: Key,
    *,
    deadline: float,
    validate: Callable[[Any, Any], float] | None,
    validations: int,
    out: Path | None,
    interruption: Interruption,
) -> Budget | None:
    """Warms a run up on a copy of its state, and counts the steps that fit before a deadline.

    The state given is untouched: a run of so many minutes is, bit for bit, the run of the budget
    they were converted to. Steps that compile are left out of the measure, but not of the time.

    Args:
        step: The compiled step.
        state: The state before the first step.
        batches: `batches(n)` is the batch of step n.
        key: The run's key.
        deadline: `time.monotonic()` at which the last checkpoint must be written.
        validate: The validation the run will do, or None.
        validations: How many there will be.
        out: The run's folder, or None where nothing is saved.
        interruption: Ends the warm-up too, after the step or validation under way.

    Returns:
        The budget, of at least 1 step; None where it was interrupted.

    Raises:
        SaveError: No checkpoint can be written.
    """
    trial = copy_tree(state)
    begin = time.monotonic()
    # First, for this is what may fail, and soon.
    save_seconds = 0.0
    if out is not None:
        with tempfile.TemporaryDirectory(dir=out, prefix=".warm-up-") as folder:
            save_checkpoint(Path(folder) / "0", trial, {})  # imports Orbax
            save_seconds = _seconds(lambda: save_checkpoint(Path(folder) / "1", trial, {}))
    # Long enough to see all kinds of batches, short beside the run.
    enough = max(0.5, 0.02 * (deadline - begin))
    limit = begin + 0.25 * max(deadline - begin, 0.0)
    seen: set[Any] = set()
    clean, compiling = [], []
    while sum(clean) < enough or len(clean) < 3:
        if interruption:
            return None
        start = time.monotonic()
        if start > limit and (clean or len(compiling) > 1):
            break
        n = len(clean) + len(compiling)
        batch = batches(n)
        signature = _signature(batch)
        trial, metrics = step(trial, batch, key, np.int32(n))
        # To the end of each step: the loop overlaps host and device, so this errs to the safe side.
        jax.block_until_ready(metrics.nats)
        (clean if signature in seen else compiling).append(time.monotonic() - start)
        seen.add(signature)
    step_seconds = float(np.mean(clean)) if clean else min(compiling)

    check_seconds = 0.0
    if validate is not None and not interruption:
        first = _seconds(lambda: validate(trial.evaluated, trial.state))  # compiles
        affordable = time.monotonic() + first < limit
        again = _seconds(lambda: validate(trial.evaluated, trial.state)) if affordable else first
        check_seconds += again
    if interruption:
        return None
    check_seconds += save_seconds * (1 if validate is None else 2)  # last, and best
    left = (deadline - time.monotonic()) * (1.0 - _MARGIN)
    left -= save_seconds + validations * check_seconds
    return Budget(max(1, int(left / step_seconds)), step_seconds, check_seconds, save_seconds)


def _seconds(call: Callable[[], Any]) -> float:
    start = time.monotonic()
    call()
    return time.monotonic() - start


def _signature(batch: Any) -> Any:
    """What decides whether a batch needs a compilation of its own."""
    leaves, structure = jax.tree.flatten(batch)
    return structure, tuple((np.shape(leaf), jax.numpy.result_type(leaf)) for leaf in leaves)
