"""`fit`: a training run set up, begun or resumed; `_run` holds its loop."""

import dataclasses
import json
import os
import pathlib
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from mdnjax._checks import require, require_extra
from mdnjax._types import Array
from mdnjax.training._differences import check_same
from mdnjax.training._folder import (
    check_folder,
    clear,
    keep_only,
    list_checkpoints,
    newest_checkpoint,
    sweep,
)
from mdnjax.training._metrics import Progress
from mdnjax.training._run import FitResult, Run, RunProgress
from mdnjax.training._signals import deferred_signals
from mdnjax.training.budget import Budget, measure_budget
from mdnjax.training.checkpoints import (
    array_types,
    find_checkpoint,
    read_config,
    restore_checkpoint,
)
from mdnjax.training.config import describe
from mdnjax.training.errors import CheckpointError
from mdnjax.training.schedule import Schedule
from mdnjax.training.sharding import StatePadding, replicate, split_batch
from mdnjax.training.state import TrainState, init_state
from mdnjax.training.step import Loss, make_step


def fit(
    loss: Loss,
    params: Any,
    state: Any,
    batches: Callable[[int], Any],
    *,
    optimizer: optax.GradientTransformation,
    schedule: Callable[[Array, Array], Array] | None = None,
    average: float | None = None,
    seed: int = 0,
    steps: int | None = None,
    minutes: float | None = None,
    started: float | None = None,
    reserve: float = 0.0,
    validate: Callable[[Any, Any], float] | None = None,
    validations: int = 20,
    patience: int | None = None,
    min_delta: float = 0.0,
    out: str | os.PathLike[str] | None = None,
    config: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    log_every: int = 10,
    progress: Progress = "auto",
    mesh: Mesh | None = None,
) -> FitResult:
    """Trains parameters on batches until the budget, a plateau, the clock or a signal ends it.

    Step n sees the batch `batches(n)` and the key `fold_in(key(seed), n)` and nothing else that
    is random, so a resumed run equals an uninterrupted one bit for bit, wherever it was killed.

    In the main thread the first Ctrl-C, SIGTERM or SIGHUP that nobody else handles or ignores says
    so, lets the step under way (or the compilation, validation or checkpoint) finish, saves and
    returns; a second one does what it does elsewhere.

    Args:
        loss: `loss(params, state, batch, key) -> (nats [B], weight [B], state)`.
        params: Initial parameters, a pytree; copied, never donated.
        state: The network's other variables, `{}` where there are none; copied.
        batches: `batches(n)`, the batch of step n, a pytree of host arrays: a pure function.
        optimizer: An Optax transformation, at learning rate 1 where there is a schedule (`adam`).
        schedule: `schedule(step, budget) -> learning rate`, such as a `Schedule`.
        average: Decay of a moving average of the parameters, which then is what is validated and
            kept; None keeps none.
        seed: The run's seed.
        steps: The budget in steps; or
        minutes: the budget in minutes, compilation included, converted once to steps after a
            warm-up that leaves the run untouched. Give one of the two.
        started: `time.monotonic()` from which the minutes count; by default now.
        reserve: Seconds of the minutes to leave for what comes after training.
        validate: `validate(params, state) -> nats per point`, such as `make_validation` returns.
        validations: How often over the budget to validate and to write checkpoints; less often
            where that would take more than a quarter of the minutes.
        patience: Stop after so many validations in a row without improvement; None never does.
        min_delta: What counts as improvement, in nats.
        out: Folder for `metrics.jsonl`, `timings.jsonl`, `last/` and `best/`; None writes nothing.
        config: JSON values for each checkpoint's `config.json`. `load_model` uses `architecture`,
            `head` and `normalizer`, made with `describe`; units belong here too.
        resume: Continue the run in `out` (with its budget); start where there is none.
        overwrite: Delete the run in `out`, if any, and start anew.
        log_every: Steps between lines of metrics.
        progress: `"bar"`, `"lines"` (one a validation), `"off"`; `"auto"` is a bar on a terminal
            and lines elsewhere.
        mesh: Devices to divide each batch among, along its leading axis (see `split_batch`); the
            rest lies on each of them, but for what of `state` the caller has divided already, by
            `split_batch` too: that has a row for each row of the batch. Where rows have to be
            filled in, no result, validation or checkpoint sees them, so a run may go on with
            another number of devices.

    Returns:
        The result; on a plateau, on time and on a signal too.

    Warns:
        UserWarning: The minutes leave time for fewer steps than there are validations.

    Raises:
        NonFiniteError: A loss, gradient or updated value is not finite: names step, batch and
            leaves; the last good state is saved and on the error.
        CheckpointError: `out` holds a run and neither `resume` nor `overwrite` is given, or the
            run to resume does not fit the arguments or lacks its best checkpoint.
        SaveError: `out` cannot be written (found at once), or no longer (a full disk): names the
            file, the reason, and the last checkpoint, which stands.
        ValueError: An argument is out of range, or a file of the run to resume holds a line that
            is no line of metrics.
        ImportError: `out` is given and Orbax is not installed, or a bar is wanted without tqdm.

    >>> import jax.numpy as jnp
    >>> from mdnjax import training
    >>> def loss(params, state, batch, key):
    ...     return (batch - params["mean"]) ** 2, jnp.ones_like(batch), state
    >>> result = training.fit(
    ...     loss,
    ...     {"mean": jnp.zeros(())},
    ...     {},
    ...     lambda n: np.float32([1.0, 3.0]),
    ...     optimizer=training.adam(),
    ...     schedule=training.Schedule(peak=0.1),
    ...     steps=200,
    ...     progress="off",
    ... )
    >>> print(round(float(result.params["mean"]), 3), result.stopped)
    2.0 budget
    """
    began = time.monotonic()
    require(
        (steps is None) != (minutes is None),
        "fit",
        "steps and minutes",
        f"{steps} and {minutes}",
        "given one of the two",
    )
    for name, value in (("steps", steps), ("minutes", minutes), ("patience", patience)):
        require(value is None or value > 0, "fit", name, value, "positive")
    for name, value in (("validations", validations), ("log_every", log_every)):
        require(value >= 1, "fit", name, value, "at least 1")
    require(not (resume and overwrite), "fit", "resume and overwrite", "both", "at most one true")
    require(out is not None or not resume, "fit", "out", out, "a folder where resume is true")
    needs_validate = validate is not None or patience is None
    require(needs_validate, "fit", "patience", patience, "None where there is no validate")

    folder = None
    if out is not None:
        require_extra("orbax.checkpoint", "train")  # now, and not at the first checkpoint
        folder = check_folder(out)
        sweep(folder)
    key = jax.random.key(seed)
    step = make_step(loss, optimizer, schedule=schedule, average=average)
    header = _header(config, seed, average, schedule)
    state, padding = StatePadding.of(state)
    validate = None if validate is None else padding.outside(validate)
    train = init_state(params, state, optimizer, budget=steps or 1, average=average is not None)
    if mesh is not None:
        train = replicate(train, mesh)
        batches = _divided(batches, mesh)
    done = RunProgress()
    deadline = None
    notes: list[str] = []
    with deferred_signals() as interruption:
        if resume and newest_checkpoint(folder) is not None:
            assert folder is not None
            like = dataclasses.replace(train, state=padding.trim(train.state))
            train, done = _resumed(folder, like, header, steps)
            train = dataclasses.replace(train, state=padding.fill(train.state, mesh))
        else:
            if folder is not None:
                clear(folder, overwrite=overwrite)
            if resume:
                notes.append(f"no run in {folder} yet: starting one")
            if minutes is not None:
                deadline = (began if started is None else started) + 60.0 * minutes - reserve
                measured = measure_budget(
                    step,
                    train,
                    batches,
                    key,
                    deadline=deadline,
                    validate=validate,
                    validations=validations,
                    out=folder,
                    interruption=interruption,
                )
                if measured is not None:
                    train = _with_budget(train, measured, minutes, validations, reserve)
                    deadline -= measured.check_seconds
                    if measured.validations < validations:
                        done.validations = measured.validations
        return Run(
            step=step,
            batches=batches,
            key=key,
            train=train,
            done=done,
            validate=validate,
            validations=validations,
            patience=patience,
            min_delta=min_delta,
            folder=folder,
            header=header,
            log_every=log_every,
            deadline=deadline,
            interruption=interruption,
            padding=padding,
            notes=notes,
        ).loop(progress)


def _with_budget(
    train: TrainState, measured: Budget, minutes: float, validations: int, reserve: float
) -> TrainState:
    """Puts the budget measured into the state, and warns of one that is next to nothing."""
    if measured.steps < validations:
        warnings.warn(
            f"fit: {minutes} minutes leave time for {measured.steps} steps of "
            f"{measured.step_seconds:.2g} s, beside compilation, {measured.validations} "
            f"validations of {measured.check_seconds:.2g} s and a reserve of {reserve:.3g} s.",
            stacklevel=3,
        )
    budget = jax.device_put(np.int32(measured.steps), train.budget.sharding)
    return dataclasses.replace(train, budget=budget)


def _divided(batches: Callable[[int], Any], mesh: Mesh) -> Callable[[int], Any]:
    return lambda step: split_batch(batches(step), mesh)


def _header(
    config: Mapping[str, Any] | None, seed: int, average: float | None, schedule: Any
) -> dict[str, Any]:
    """What is the same in every checkpoint of a run, checked to be JSON before any training."""
    own = {"seed": seed, "average": average}
    if isinstance(schedule, Schedule):
        own["schedule"] = describe(schedule)
    given = dict(config or {})
    taken = {*own, "format_version", "versions", "arrays", "progress"} & given.keys()
    require(not taken, "fit", "config", sorted(taken), "without the keys fit writes itself")
    try:
        # As it will be read again: tuples become lists.
        return json.loads(json.dumps({**own, **given}, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"fit: config must be JSON (see training.describe): {error}") from error


def _resumed(
    folder: pathlib.Path, like: TrainState, header: dict[str, Any], steps: int | None
) -> tuple[TrainState, RunProgress]:
    """Reads the newest checkpoint of a run and forgets what the run did after it."""
    path = find_checkpoint(folder, prefer="last")
    config = read_config(path)
    # What was asked for first: other shapes of arrays are mostly what follows from it.
    check_same(folder, {name: config.get(name) for name in header}, header)
    check_same(folder, _by_name(config.get("arrays", {})), _by_name(array_types(like)))
    train, config = restore_checkpoint(path, like)
    budget = int(train.budget)
    check_same(folder, {"steps": budget}, {"steps": budget if steps is None else steps})
    try:
        done = RunProgress.from_json(config["progress"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: expected how far a run of fit had come; got {error!r} for its progress."
        ) from error
    # Now, for at the end of the run its result would be that checkpoint.
    if done.best_step not in (None, *(int(p.name) for p in list_checkpoints(folder / "best"))):
        raise CheckpointError(
            f"{path}: its best validation was at step {done.best_step}, expected that checkpoint "
            f"in {folder / 'best'}; it is not there."
        )
    # What the run did later, and what it was killed before it could remove.
    keep_only(folder / "last", done.step)
    keep_only(folder / "best", done.best_step)
    return train, done


def _by_name(items: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The arrays of all items of a checkpoint together: their names are distinct."""
    return {name: kind for arrays in items.values() for name, kind in arrays.items()}
