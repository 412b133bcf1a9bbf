"""What ends a run from outside: SIGKILL and signals.

Signals and kills go to real processes, which run made_run's program or the benchmark."""

import functools
import os
import pathlib
import runpy
import signal
import sys
import threading
import time

import numpy as np
import pytest
from made_run import check_equal, end, like, quick, start

from mdnjax import training

BENCHMARK = pathlib.Path(__file__).resolve().parents[1] / "benchmarks" / "interruption.py"

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="signals and limits are POSIX's"),
    pytest.mark.usefixtures("default_signals"),
]


def test_a_killed_run_resumes_bit_for_bit(capsys, monkeypatch):
    """A real run, killed in the writing of a checkpoint; see the benchmark."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")  # which it sets: to be put back
    options = "--kills 1 --seed 21 --lines 24 --hidden 8 --steps 16 --validations 4"
    monkeypatch.setattr(sys, "argv", [str(BENCHMARK), *options.split()])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(BENCHMARK), run_name="__main__")
    printed = capsys.readouterr().out
    assert ended.value.code == 0, f"{ended.value.code}\n{printed}"
    assert "equal, bit for bit" in printed
    assert "half of" in printed
    assert "1 kills, 0 runs that differ" in printed


def interrupted_by(process, name):
    """Of a process that a signal has been sent to, the step that it saved, and what it said."""
    code, out, err = end(process)
    assert code == 128 + signal.Signals[name], err
    stopped, step, checkpoint = out.split()
    assert stopped == "interrupted"
    folder = pathlib.Path(checkpoint).parent
    assert [p.name for p in folder.iterdir()] == [f"{int(step):08d}"]
    assert checkpoint == str(folder / f"{int(step):08d}")
    assert err.splitlines().count(f"{name}: finishing the step and saving") == 1
    assert "resume" not in err
    return int(step), folder


def test_signals_save_in_a_step_and_in_the_writing_of_a_checkpoint(tmp_path, whole):
    """And the run, interrupted twice, comes to what one that nobody interrupts comes to."""
    process = start(tmp_path, "slow")
    metrics = tmp_path / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    first, last = interrupted_by(process, "SIGINT")
    assert last == tmp_path / "last"
    assert 2 <= first < 36  # of 40, with a checkpoint every 4

    process = start(tmp_path, "slow")
    while not (writing := list(last.glob(".*.unfinished-*"))):
        assert process.poll() is None
        time.sleep(0.0005)
    process.terminate()
    second, _ = interrupted_by(process, "SIGTERM")
    assert int(writing[0].name.split(".")[1]) == second == first // 4 * 4 + 4

    code, _, err = end(start(tmp_path))
    assert code == 0, err
    check_equal(whole, tmp_path)


def test_a_second_sigterm_ends_the_process_at_once(tmp_path):
    process = start(tmp_path, "hang")
    assert process.stdout.readline() == "validating\n"
    process.terminate()
    time.sleep(0.5)
    assert process.poll() is None  # the validation goes on
    process.terminate()
    assert end(process)[0] == -signal.SIGTERM
    restored, _ = training.restore_checkpoint(tmp_path, like())
    assert int(restored.step) == 0


def test_a_signal_is_told_of_once_and_when_it_comes(capsys, tmp_path):
    told = []

    def validate(params, state):
        interrupt()
        told.append(capsys.readouterr().err)
        return 1.0

    quick(validate=validate, validations=3, progress="lines", out=tmp_path)
    assert told == ["SIGINT: finishing the step and saving\n"]
    assert "SIGINT" not in capsys.readouterr().err
    quick(validate=validate, validations=3, progress="lines")
    assert told[1:] == ["SIGINT: finishing the step\n"]


def test_a_signal_in_the_middle_of_a_write_is_taken_in(monkeypatch):
    """To which Python answers so, where a handler writes to the same stream."""

    class Busy:
        encoding = "utf-8"

        def write(self, text):
            if "SIGINT" in text:
                raise RuntimeError("reentrant call")

        def flush(self):
            pass

    monkeypatch.setattr(sys, "stderr", Busy())
    result = quick(validate=interrupt, validations=3, progress="lines")
    assert (result.stopped, result.last.step) == ("interrupted", 4)


def interrupt(*args, number=signal.SIGINT):
    os.kill(os.getpid(), number)
    return 1.0


def test_signals_elsewhere_than_in_a_step(tmp_path):
    """While compiling, validating, in the last validation, and in the warm-up."""
    hang_up = functools.partial(interrupt, number=signal.SIGHUP)
    terminate = functools.partial(interrupt, number=signal.SIGTERM)
    result = quick(on_trace=hang_up, validations=1, out=tmp_path / "compiling")
    assert (result.stopped, result.signal, result.last.step) == ("interrupted", signal.SIGHUP, 1)
    assert result.checkpoint == tmp_path / "compiling" / "last" / "00000001"
    result = quick(validate=terminate, validations=3, out=tmp_path / "validating")
    assert (result.stopped, result.signal, result.valid) == ("interrupted", signal.SIGTERM, 1.0)
    assert result.last.step == 4
    assert result.checkpoint == tmp_path / "validating" / "last" / "00000004"
    result = quick(validate=interrupt, validations=1)
    assert (result.stopped, result.last.step, result.checkpoint) == ("interrupted", 12, None)
    folder = tmp_path / "warming"
    asked = []
    result = quick(
        on_trace=interrupt,
        batches=lambda n: asked.append(n) or np.float32([n, 0]),
        steps=None,
        minutes=1.0,
        out=folder,
    )
    assert asked == [0]
    assert (result.stopped, result.last.step, result.checkpoint) == ("interrupted", 0, None)
    assert {p.name for p in folder.iterdir()} == {"metrics.jsonl", "timings.jsonl"}
    assert quick(out=folder, resume=True, steps=3, validations=1).stopped == "budget"


def test_handlers_are_put_back():
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    before = [signal.getsignal(number) for number in numbers]
    within = []

    def failing(n):
        within.extend(signal.getsignal(number) for number in numbers)
        raise RuntimeError("of the caller")

    with pytest.raises(RuntimeError, match="of the caller"):
        quick(batches=failing)
    assert [signal.getsignal(number) for number in numbers] == before
    assert not set(within) & set(before)


def test_signals_that_somebody_else_sees_to_are_left_to_them():
    came = []
    previous = [
        (signal.SIGTERM, signal.signal(signal.SIGTERM, lambda *args: came.append(args[0]))),
        (signal.SIGHUP, signal.signal(signal.SIGHUP, signal.SIG_IGN)),  # as under nohup
    ]

    def batches(n):
        if n == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGHUP)
        return np.float32([n, 0])

    try:
        result = quick(batches=batches)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        for number, handler in previous:
            signal.signal(number, handler)
    assert came == [signal.SIGTERM]
    assert (result.stopped, result.last.step) == ("budget", 12)


def test_in_another_thread_no_handler_is_installed():
    results, within = [], []

    def batches(n):
        within.append(signal.getsignal(signal.SIGINT))
        return np.float32([n, 0])

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=lambda: results.append(quick(batches=batches)))
    thread.start()
    thread.join()
    assert results[0].stopped == "budget"
    assert set(within) == {before}


def test_a_terminal_that_is_gone_does_not_end_a_run(monkeypatch):
    class Gone:
        encoding = "utf-8"

        def write(self, *args):
            raise OSError(5, "Input/output error")

        flush = isatty = write

    monkeypatch.setattr(sys, "stderr", Gone())
    for progress in ("lines", "bar"):
        assert quick(progress=progress).last.step == 12
