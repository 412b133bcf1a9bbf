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

# The machine may slow down after it was measured, and a run that time ends has not come to the
# end of its schedule: leave this part of the time unspent.
_MARGIN = 0.05
# Validations and checkpoints may take this part of the time; where they would take more, there
# are fewer of them.
_CHECKS = 0.25
# The warm-up measures so many steps at least, unless they take this part of the time.
_STEPS = 8
_SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class Budget:
    """What minutes were converted to.

    Attributes:
        steps: Steps of the whole run.
        validations: How often over these steps to validate and to write checkpoints.
        step_seconds: Measured duration of a step.
        check_seconds: Measured duration of a validation and its checkpoints.
        save_seconds: Measured duration of one checkpoint.
    """

    steps: int
    validations: int
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
        validations: How many are wanted.
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
    seconds: dict[Any, list[float]] = {}  # of the steps with each kind of batch; the first compiles
    count, clean = 0, 0.0
    while clean < enough or count < _STEPS + len(seconds):
        if interruption:
            return None
        start = time.monotonic()
        too_slow = clean > _SHARE * (deadline - start)
        too_many_kinds = start > limit and len(seconds) > 1
        if seconds and (too_slow or too_many_kinds):
            break
        batch = batches(count)
        trial, metrics = step(trial, batch, key, np.int32(count))
        # To the end of each step: the loop overlaps host and device, so this errs to the safe side.
        jax.block_until_ready(metrics.nats)
        taken = time.monotonic() - start
        of_kind = seconds.setdefault(_signature(batch), [])
        clean += taken if of_kind else 0.0
        of_kind.append(taken)
        count += 1
    step_seconds = _typical(list(seconds.values()))

    check_seconds = 0.0
    if validate is not None and not interruption:
        check_seconds = _seconds(lambda: validate(trial.evaluated, trial.state))  # compiles
        # The second takes as long at most, and mostly a small part of it.
        if not interruption and time.monotonic() + check_seconds < deadline:
            check_seconds = _seconds(lambda: validate(trial.evaluated, trial.state))
    if interruption:
        return None
    check_seconds += save_seconds * (1 if validate is None else 2)  # last, and best
    left = (deadline - time.monotonic()) * (1.0 - _MARGIN)
    if check_seconds > 0:
        validations = max(1, min(validations, int(_CHECKS * left / check_seconds)))
    left -= save_seconds + validations * check_seconds
    steps = max(1, int(left / step_seconds))
    return Budget(steps, validations, step_seconds, check_seconds, save_seconds)


def _typical(kinds: list[list[float]]) -> float:
    """The mean duration of a step, from durations with each kind of batch in order.

    Of each kind the first compiles, and those after it are slow still (memory not touched before,
    cold caches): the median of the later half stands for all of them.
    """
    clean = [seconds[1:] for seconds in kinds if len(seconds) > 1]
    if not clean:
        return min(seconds[0] for seconds in kinds)
    medians = [np.median(seconds[len(seconds) // 2 :]) for seconds in clean]
    return float(np.average(medians, weights=[len(seconds) for seconds in clean]))


def _seconds(call: Callable[[], Any]) -> float:
    start = time.monotonic()
    call()
    return time.monotonic() - start


def _signature(batch: Any) -> Any:
    """What decides whether a batch needs a compilation of its own."""
    leaves, structure = jax.tree.flatten(batch)
    return structure, tuple((np.shape(leaf), jax.numpy.result_type(leaf)) for leaf in leaves)
