"""Contestants in processes of their own, who still run in turn.

In one process the time of one depends on the heap that the others leave. Who takes 50 MB of
temporary memory is given fresh pages for them on every run, and gives them back, unless somebody's
leavings happen to have room for it: with a hole in the heap automatic differentiation of a mixture
of 20 takes 17 ms, without 31. A user's program holds one of the contestants. So each has a process,
where its memory is what it makes of it.

Unless the environment says otherwise, a process has one heap for all its threads. With one for each
(what glibc does by itself) the same program takes its memory afresh on every run or on none, as its
threads happen to come to it, and a loss takes 5 ms in most processes and 11 in some.
"""

import functools
import multiprocessing
import os
import resource
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import numpy as np
from measure import in_turn, timed, warm_up

WARMUP = 3
AWAKE = 0.05  # seconds that a process runs before it is timed: it has slept, and so has its core
REPEATS = 3  # timed runs of a turn, whose median counts

Runs = Mapping[str, Callable[[], object]]


class Apart:
    """A process for each contestant, from entering the context to leaving it.

    Args:
        builders: By contestant, a function and its arguments, all of which can be pickled. Called
            in the process, it returns what the contestant can run, by name; each run returns when
            its work is done.
        settle: How often a contestant runs before it is timed, each time.
        patience: Seconds, in all, after which a slow contestant has had enough.

    Attributes:
        fresh_bytes: After a race, by contestant: the median of the memory that the system had to
            give afresh in a timed run.

    Raises:
        RuntimeError: A process ended; the message names its contestant.
    """

    def __init__(
        self,
        builders: Mapping[str, tuple[Callable[..., Runs], Sequence[Any]]],
        *,
        settle: int,
        patience: float,
    ) -> None:
        self._builders, self._settle, self._patience = builders, settle, patience
        self.fresh_bytes: dict[str, int] = {}

    def __enter__(self) -> "Apart":
        context = multiprocessing.get_context("spawn")
        os.environ.setdefault("MALLOC_ARENA_MAX", "1")  # read by glibc when a process begins
        self._connections: dict[str, Connection] = {}
        self._processes = []
        for name, (build, arguments) in self._builders.items():
            self._connections[name], there = context.Pipe()
            options = (self._settle, self._patience)
            process = context.Process(
                target=_serve, args=(there, build, arguments, *options), daemon=True
            )
            process.start()
            there.close()
            self._processes.append(process)
        try:
            for name in self._builders:
                self._receive(name)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes."""
        for connection in self._connections.values():
            connection.close()
        for process in self._processes:
            process.join(10)
            process.kill()

    def race(
        self, what: str, names: Iterable[str], *, rounds: int, pause: float = 0.02
    ) -> dict[str, np.ndarray]:
        """Times one kind of run of contestants, in turn.

        Args:
            what: The run's name.
            names: Theirs.
            rounds: How often each is timed.
            pause: Seconds of rest before each turn.

        Returns:
            By contestant, the seconds of each round.
        """
        pages: dict[str, list[int]] = {name: [] for name in names}

        def timer(name: str) -> float:
            self._connections[name].send(what)
            seconds, fresh = self._receive(name)
            pages[name].append(fresh)
            return seconds

        timers = {name: functools.partial(timer, name) for name in pages}
        seconds = in_turn(timers, rounds=rounds, pause=pause, patience=self._patience)
        size = resource.getpagesize()
        self.fresh_bytes = {name: size * int(np.median(each)) for name, each in pages.items()}
        return seconds

    def _receive(self, name: str) -> Any:
        try:
            return self._connections[name].recv()
        except EOFError:
            raise RuntimeError(f"the process of {name!r} ended; its last words are above") from None


def _serve(
    connection: Connection,
    build: Callable[..., Runs],
    arguments: Sequence[Any],
    settle: int,
    patience: float,
) -> None:
    runs = build(*arguments)
    connection.send("ready")
    warm: set[str] = set()
    while True:
        try:
            what = connection.recv()
        except EOFError:
            return
        if what not in warm:
            warm_up(runs[what], WARMUP, patience=patience)
            warm.add(what)
        timed(runs[what], settle=settle, seconds=AWAKE)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        seconds = [timed(runs[what]) for _ in range(REPEATS)]
        pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        connection.send((float(np.median(seconds)), pages // REPEATS))
