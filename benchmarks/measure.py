"""How the benchmarks measure: contestants in turn, medians with quartiles, one line on the machine.

Every contestant runs once a round, so that whatever else slows the machine slows them alike. A
contestant returns only when its work is done. Ratios are taken within rounds, and count; absolute
times do not travel.
"""

import dataclasses
import functools
import importlib.metadata
import math
import platform
import time
from collections.abc import Callable, Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class Spread:
    """A median between its quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Spread":
        """The spread of values `[n]`."""
        low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
        return cls(float(median), float(low), float(high))

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


def timed(run: Callable[[], object], *, settle: int = 0, seconds: float = 0.0) -> float:
    """Seconds of a run, after others that are not timed.

    Its threads are then awake, and the memory it takes is what its last run left: as in a loop of
    its own, not as behind a contestant that took and gave back other sizes. Fresh pages from the
    system can cost more than the work.

    Args:
        run: Returns when its work is done.
        settle: At least so many others before.
        seconds: At least for so long.
    """
    start = begin = time.perf_counter()
    while settle > 0 or begin - start < seconds:
        run()
        settle -= 1
        begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def warm_up(run: Callable[[], object], times: int, *, patience: float = math.inf) -> None:
    """Runs it so often, or until it has taken a quarter of the patience."""
    begin = time.perf_counter()
    for _ in range(times):
        run()
        if time.perf_counter() - begin > patience / 4:
            break


def interleaved(
    contestants: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warmup: int = 3,
    pause: float = 0.02,
    settle: int = 0,
    patience: float = math.inf,
) -> dict[str, np.ndarray]:
    """Times contestants in turn.

    Args:
        contestants: By name, functions that return when their work is done.
        rounds: How often each is timed.
        warmup: How often each runs before.
        pause: Seconds of rest before each turn.
        settle: How often each runs after the rest, just before it is timed; see `timed`.
        patience: Seconds, in all, after which a slow contestant has had enough.

    Returns:
        By name, the seconds of each round.
    """
    for run in contestants.values():
        warm_up(run, warmup, patience=patience)
    timers = {
        name: functools.partial(timed, run, settle=settle) for name, run in contestants.items()
    }
    return in_turn(timers, rounds=rounds, pause=pause, patience=patience)


def in_turn(
    timers: Mapping[str, Callable[[], float]],
    *,
    rounds: int,
    pause: float = 0.02,
    patience: float = math.inf,
) -> dict[str, np.ndarray]:
    """Lets every one run once a round.

    Args:
        timers: By name, functions that run a contestant and return its seconds.
        rounds: How many.
        pause: Seconds of rest before each turn, in which other libraries' threads go to sleep.
        patience: Seconds, in all, after which a slow contestant has had enough: it takes part in
            the first rounds only, at least in three.

    Returns:
        By name, the seconds of each round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, timer in timers.items():
            if len(seconds[name]) >= 3 and sum(seconds[name]) > patience:
                continue
            time.sleep(pause)
            seconds[name].append(timer())
    return {name: np.array(times) for name, times in seconds.items()}


def ratio(times: np.ndarray, to: np.ndarray) -> Spread:
    """How many times as long as another's, within the rounds that both took part in."""
    both = min(len(times), len(to))
    return Spread.of(times[:both] / to[:both])


def machine(device: str, *packages: str) -> str:
    """One line: the device, and the versions of Python and of packages that are installed."""
    versions = [f"Python {platform.python_version()}"]
    for package in packages:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} not installed")
    return f"{device}, {platform.machine()}; {', '.join(versions)}"
