"""One run of training from where it stands to what ends it: what `fit` sets up and calls."""

import contextlib
import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from signal import Signals
from typing import Any, Literal

import jax
import numpy as np

from mdnjax.training._folder import METRICS, TIMINGS, keep_only, newest_checkpoint
from mdnjax.training._metrics import Display, LinesFile, Progress, Window
from mdnjax.training._signals import Interruption
from mdnjax.training.checkpoints import restore_checkpoint, save_checkpoint
from mdnjax.training.errors import SaveError
from mdnjax.training.sharding import PaddedBatch, StatePadding
from mdnjax.training.state import TrainState, copy_tree
from mdnjax.training.step import NonFiniteError, StepMetrics, checked_names, leaf_names

Stopped = Literal["budget", "plateau", "time", "interrupted"]


@dataclasses.dataclass(frozen=True, eq=False)
class FitResult:
    """What training came to.

    Attributes:
        params: The parameters to use: those of the best validation, or the last where there is no
            validation; averaged where an average was kept.
        state: The network's other variables that belong to them.
        step: The step they are of.
        valid: Their validation nats per point, or None.
        last: The whole training state at the end.
        stopped: Why it ended: `"budget"`, `"plateau"`, `"time"` (minutes were up before the
            budget they had been converted to) or `"interrupted"` (Ctrl-C, SIGTERM or SIGHUP).
        points: Weights seen.
        seconds: Time spent training, validation included.
        signal: Which signal interrupted it, or None. By custom a program then exits with
            `128 + signal`.
        checkpoint: The newest checkpoint, from which the run goes on; None where none was written.
    """

    params: Any
    state: Any
    step: int
    valid: float | None
    last: TrainState
    stopped: Stopped
    points: float
    seconds: float
    signal: Signals | None = None
    checkpoint: pathlib.Path | None = None


@dataclasses.dataclass
class RunProgress:
    """Where a run stands, as its checkpoints keep it; all of it is JSON."""

    step: int = 0
    points: float = 0.0
    seconds: float = 0.0
    stale: int = 0
    best_step: int | None = None
    best_valid: float | None = None
    window: Window = dataclasses.field(default_factory=Window)
    validations: int | None = None  # where minutes leave room for fewer than were asked for

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "RunProgress":
        return cls(**{**values, "window": Window(**values["window"])})


@dataclasses.dataclass
class Run:
    """One call of `fit`: its settings, and what changes as it goes."""

    step: Any
    batches: Callable[[int], Any]
    key: Any
    train: TrainState
    done: RunProgress
    validate: Callable[[Any, Any], float] | None
    validations: int
    patience: int | None
    min_delta: float
    folder: pathlib.Path | None
    header: dict[str, Any]
    log_every: int
    deadline: float | None
    interruption: Interruption
    padding: StatePadding
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        self.budget = int(self.train.budget)
        self.check_every = math.ceil(self.budget / (self.done.validations or self.validations))
        self.best: tuple[Any, Any] | None = None
        self.mark = 0.0

    def loop(self, progress: Progress) -> FitResult:
        """Runs to the end of the budget, or to what ends it before."""
        with contextlib.ExitStack() as stack:
            self.display = Display(progress, start=self.done.step, budget=self.budget)
            stack.callback(self.display.close)
            for note in self.notes:
                self.display.say(note)
            stack.enter_context(self.interruption.told_to(self._say_interrupted))
            with self._naming_what_stands():
                self.metrics = LinesFile(self._file(METRICS), step=self.done.step)
                stack.callback(self.metrics.close)
                self.timings = LinesFile(self._file(TIMINGS), step=self.done.step)
                stack.callback(self.timings.close)
            stopped = self._train()
            if self.interruption:
                stopped = "interrupted"
        return self._result(stopped)

    def _train(self) -> Stopped:
        stopped: Stopped = "budget"
        # The state before the first step shows that the run can be saved, and keeps its budget.
        if newest_checkpoint(self.folder) is None and not self.interruption:
            self._save("last")
        self.mark = time.monotonic()
        pending: StepMetrics | None = None
        for n in range(self.done.step, self.budget):
            if self._plateau():
                stopped = "plateau"
            elif self.interruption:
                stopped = "interrupted"
            elif self.deadline is not None and time.monotonic() > self.deadline and n > 0:
                stopped = "time"
            if stopped != "budget":
                break
            batch = self.batches(n)
            self.train, metrics = self.step(self.train, batch, self.key, np.int32(n))
            # Only now is the step before waited for: the device always has work.
            if pending is not None:
                self._absorb(pending)
            pending = metrics
            if self._checks_after(n + 1):
                self._absorb(metrics)
                pending = None
                self._check()
        if pending is not None:
            self._absorb(pending)
            if stopped == "time":
                self._check()
            else:
                self._save("last")
        return stopped

    def _checks_after(self, step: int) -> bool:
        return step % self.check_every == 0 or step == self.budget

    def _absorb(self, metrics: StepMetrics) -> None:
        """Takes in what a step reported, and stops the run where the step was not good."""
        finite = np.asarray(metrics.finite)
        if not finite.all():
            self._fail(finite, float(metrics.nats), float(metrics.weight))
        nats, weight = float(metrics.nats), float(metrics.weight)
        now = time.monotonic()
        self.done.step += 1
        self.done.points += weight
        self.done.seconds += now - self.mark
        window = self.done.window
        window.seconds += now - self.mark
        window.add(nats, weight, float(metrics.grad_norm), float(metrics.learning_rate))
        self.mark = now
        self.display.step(nats, weight)
        step = self.done.step
        if step % self.log_every == 0 and not self._checks_after(step):
            self._write(None)

    def _write(self, valid: float | None) -> dict[str, Any]:
        line = {
            "step": self.done.step,
            "points": self.done.points,
            **self.done.window.line(),
            "valid": valid,
        }
        times = {
            "step": self.done.step,
            "seconds": self.done.seconds,
            "points_per_second": self.done.window.points_per_second(),
        }
        with self._naming_what_stands():
            self.metrics.write(line)
            self.timings.write(times)
        self.done.window = Window()
        return {**line, **times}

    def _check(self) -> None:
        """Validates, writes a line of metrics, and saves."""
        valid = None
        improved = False
        if self.validate is not None:
            valid = float(self.validate(self.train.evaluated, self.train.state))
            best = self.done.best_valid
            # A value that is not finite is no improvement on anything.
            improved = math.isfinite(valid) and (best is None or valid < best - self.min_delta)
            self.done.stale = 0 if improved else self.done.stale + 1
            if improved:
                self.done.best_step, self.done.best_valid = self.done.step, valid
                kept = self._trimmed()
                self.best = copy_tree((kept.evaluated, kept.state))
        self.done.seconds += time.monotonic() - self.mark
        self.display.check(self._write(valid))
        # The best first: a kill between the two leaves a best that the resumed run finds again.
        if improved:
            self._save("best")
        self._save("last")
        self.mark = time.monotonic()

    def _save(self, kind: str) -> None:
        """Writes a checkpoint and, once it stands, removes those of its kind before it."""
        if self.folder is None:
            return
        path = self.folder / kind / f"{self.done.step:08d}"
        if not path.exists():
            progress = dataclasses.asdict(self.done)
            with self._naming_what_stands():
                save_checkpoint(path, self._trimmed(), {**self.header, "progress": progress})
        if kind == "last":
            keep_only(self.folder / "last", self.done.step)
            keep_only(self.folder / "best", self.done.best_step)

    @contextlib.contextmanager
    def _naming_what_stands(self) -> Iterator[None]:
        """Adds to a failure to write which checkpoint the run can go on from."""
        try:
            yield
        except SaveError as error:
            standing = newest_checkpoint(self.folder)
            raise SaveError(error.path, error, standing=standing) from error.__cause__

    def _file(self, name: str) -> pathlib.Path | None:
        return None if self.folder is None else self.folder / name

    def _trimmed(self) -> TrainState:
        """The training state without the rows that only fill it up on several devices."""
        state = self.padding.trim(self.train.state)
        return dataclasses.replace(self.train, state=state)

    def _say_interrupted(self, received: Signals) -> None:
        saving = "" if self.folder is None else " and saving"
        self.display.say(f"{received.name}: finishing the step{saving}")

    def _fail(self, finite: np.ndarray, nats: float, weight: float) -> None:
        """Saves the last good state and raises, naming step, batch and leaves."""
        n = self.done.step
        saved = ""
        if self.folder is not None:
            try:
                self._save("last")
                saved = f" The state before it is in {self.folder / 'last'}."
            except SaveError as error:
                saved = f" The state before it is lost: {error}"
        leaves = tuple(
            name for name, ok in zip(checked_names(self.train), finite, strict=True) if not ok
        )
        shown = ", ".join(leaves[:8]) + (f" and {len(leaves) - 8} more" if len(leaves) > 8 else "")
        batch = self.batches(n)
        batch = batch.batch if isinstance(batch, PaddedBatch) else batch
        bad = [
            name or "the batch itself"
            for name, leaf in zip(leaf_names(batch), jax.tree.leaves(batch), strict=True)
            if np.issubdtype(np.asarray(leaf).dtype, np.floating) and not np.isfinite(leaf).all()
        ]
        cause = f"not finite in it: {', '.join(bad)}" if bad else "its values are finite"
        cause = "all its weights are 0" if weight == 0 else cause
        raise NonFiniteError(
            f"fit: step {n} (batch {n}; {cause}) is not finite: {shown}; loss {nats}.{saved}",
            step=n,
            leaves=leaves,
            nats=nats,
            state=self._trimmed(),
        )

    def _plateau(self) -> bool:
        return self.patience is not None and self.done.stale >= self.patience

    def _result(self, stopped: Stopped) -> FitResult:
        done, train = self.done, self._trimmed()
        best = self.best
        if best is None and done.best_step is not None and self.folder is not None:
            path = self.folder / "best" / f"{done.best_step:08d}"
            saved, _ = restore_checkpoint(path, train)
            best = (saved.evaluated, saved.state)
        params, state = (train.evaluated, train.state) if best is None else best
        return FitResult(
            params=params,
            state=state,
            step=done.step if best is None or done.best_step is None else done.best_step,
            valid=done.best_valid,
            last=train,
            stopped=stopped,
            points=done.points,
            seconds=done.seconds,
            signal=self.interruption.received,
            checkpoint=newest_checkpoint(self.folder),
        )
