"""What a run reports: windows of steps, JSON lines, and a line or bar on the terminal."""

import contextlib
import dataclasses
import json
import math
import operator
import os
import pathlib
import shutil
import sys
import time
from typing import Any, Literal

from mdnjax._checks import require_extra
from mdnjax._files import write_whole
from mdnjax.training._folder import TIMINGS
from mdnjax.training.errors import SaveError

Progress = Literal["auto", "bar", "lines", "off"]


@dataclasses.dataclass
class Window:
    """Sums over the steps since the last line; JSON-able, so that a resumed run continues it.

    Attributes:
        nats: Sum of weight times nats.
        weight: Sum of weights.
        grad_norm: Largest gradient norm.
        learning_rate: That of the latest step.
        seconds: Time spent in these steps.
    """

    nats: float = 0.0
    weight: float = 0.0
    grad_norm: float = 0.0
    learning_rate: float = 0.0
    seconds: float = 0.0

    def add(self, nats: float, weight: float, grad_norm: float, learning_rate: float) -> None:
        """Adds one step."""
        self.nats += weight * nats
        self.weight += weight
        # A norm may overflow where no gradient does, and JSON has no infinity.
        self.grad_norm = max(self.grad_norm, min(grad_norm, sys.float_info.max))
        self.learning_rate = learning_rate

    def line(self) -> dict[str, float | None]:
        """Returns the window's part of a line of metrics."""
        return {
            "nats": self.nats / self.weight if self.weight else None,
            "grad_norm": self.grad_norm,
            "lr": self.learning_rate,
        }

    def points_per_second(self) -> float | None:
        """Returns the weight seen in a second."""
        return self.weight / self.seconds if self.seconds > 0 else None


class LinesFile:
    """A file of JSON lines, each on its way to the disk when `write` returns.

    Args:
        path: The file; None writes nothing.
        step: Lines of later steps, and a torn last line, are dropped first: those a run wrote
            after the checkpoint it resumes from. 0 empties the file.

    Raises:
        SaveError: Here or in `write`: the file cannot be written.
    """

    def __init__(self, path: pathlib.Path | None, *, step: int = 0):
        self._path = path
        self._file = None
        if path is None:
            return
        kept = [line for line in _read_lines(path) if line["step"] <= step]
        try:
            write_whole(path, "".join(_json_line(line) for line in kept).encode())
            # Unbuffered: what could not be written is not tried again, and failed at, on closing.
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise SaveError(path, error) from error

    def write(self, line: dict[str, Any]) -> None:
        """Appends one object; numbers that are not finite become null."""
        if self._file is None or self._path is None:
            return
        rest = memoryview(_json_line(line).encode())
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise SaveError(self._path, error) from error

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads the lines of a run's `metrics.jsonl`, with the wall times that belong to them.

    What is computed and how long it took stand in two files, so that the first is the same in
    every run; here they are joined again by their step. A torn last line is left out.

    Args:
        path: The file; where it is not there, there are no lines. Wall times are looked for beside
            it in `timings.jsonl`; a file of an older run, which holds them itself, needs none.

    Returns:
        One dict a line: step (steps done), points (weights seen), nats (mean since the line
        before), grad_norm (largest since), lr, valid (validation nats, null where none was done);
        and, where they were measured, seconds (of training so far) and points_per_second.

    Raises:
        ValueError: A line other than a torn last one is not a JSON object with a step.
    """
    path = pathlib.Path(path)
    timings = {line["step"]: line for line in _read_lines(path.with_name(TIMINGS))}
    return [{**line, **timings.get(line["step"], {})} for line in _read_lines(path)]


def _read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = []
    *whole, torn = path.read_bytes().split(b"\n")
    del torn  # empty, unless the process died while it wrote
    for number, text in enumerate(whole, 1):
        try:
            line = json.loads(text)
            operator.index(line["step"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"read_metrics: {path}, line {number} must be a JSON object with a step: {error}"
            ) from error
        lines.append(line)
    return lines


def _json_line(line: dict[str, Any]) -> str:
    def finite(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps({key: finite(value) for key, value in line.items()}, allow_nan=False) + "\n"


class _Terminal:
    """Stderr as it is at the time, for as long as somebody listens.

    A terminal may be closed and a pipe's reader may end. That is no reason to lose a run.
    """

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


class Display:
    """A progress bar on a terminal, or a line at each validation elsewhere; on stderr.

    Args:
        kind: `"auto"` is a bar on a terminal and lines elsewhere.
        start: Steps done before.
        budget: Steps of the whole run.
    """

    def __init__(self, kind: Progress, *, start: int, budget: int):
        if kind == "auto":
            kind = "bar" if sys.stderr.isatty() else "lines"
        self._lines = kind == "lines"
        self._terminal: Any = _Terminal()
        self._bar: Any = None
        if kind == "bar":
            # A pseudo-terminal may claim a size of 0 by 0: tqdm then shows nothing, shutil says 80.
            size = shutil.get_terminal_size()
            self._bar = require_extra("tqdm", "train").tqdm(
                total=budget,
                initial=start,
                unit="step",
                file=self._terminal,
                ncols=size.columns,
                nrows=size.lines,
            )
        self._budget = budget
        self._nats = self._mass = 0.0
        self._points = 0.0
        self._since = time.monotonic()
        self._valid: float | None = None

    def step(self, nats: float, weight: float) -> None:
        """Shows one more step; the nats shown are smoothed over the last hundred or so."""
        if self._bar is None:
            return
        self._nats = 0.98 * self._nats + 0.02 * nats
        self._mass = 0.98 * self._mass + 0.02
        self._points += weight
        now = time.monotonic()
        if now - self._since > 0.5:
            rate = self._points / (now - self._since)
            shown = f"{self._nats / self._mass:.3f} nats, {rate:,.0f} points/s"
            if self._valid is not None:
                shown += f", valid {self._valid:.3f}"
            self._bar.set_postfix_str(shown, refresh=False)
            self._points, self._since = 0.0, now
        self._bar.update()

    def check(self, line: dict[str, Any]) -> None:
        """Shows a line of metrics at a validation."""
        self._valid = line["valid"]
        if not self._lines:
            return
        parts = [f"step {line['step']}/{self._budget}"]
        if line["nats"] is not None:
            parts.append(f"{line['nats']:.4f} nats")
        if line["valid"] is not None:
            parts.append(f"valid {line['valid']:.4f}")
        if line["points_per_second"] is not None:
            parts.append(f"{line['points_per_second']:,.0f} points/s")
        print(", ".join([*parts, f"{line['seconds']:.0f} s"]), file=self._terminal, flush=True)

    def say(self, text: str) -> None:
        """Shows a sentence."""
        if self._bar is not None:
            self._bar.write(text, file=self._terminal)
        elif self._lines:
            print(text, file=self._terminal, flush=True)

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()
