"""What ends a run from outside: SIGKILL and signals.

Signals and kills go to real processes, which run the program below or the benchmark."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from made_run import check_equal, end, like, quick, start

from mdnjax import training

ROOT = pathlib.Path(__file__).resolve().parents[1]


pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and limits are POSIX's")


@pytest.fixture(autouse=True, scope="module")
def defaults():
    """Signals do what they do by default, even where the tests were started to ignore some."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_killed_runs_resume_bit_for_bit():
    """Three kills of a real run, one of them in the writing of a checkpoint; see the benchmark."""
    command = [sys.executable, ROOT / "benchmarks" / "interruption.py", "--kills", "3"]
    command += ["--lines", "24", "--hidden", "8", "--steps", "16", "--validations", "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=350)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "equal, bit for bit" in done.stdout
    assert "half of" in done.stdout
    assert "3 kills, 0 runs that differ" in done.stdout


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_in_training_saves_and_says_so(tmp_path, whole, name):
    number = signal.Signals[name]
    process = start(tmp_path, "slow")
    metrics = tmp_path / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(number)
    code, out, err = end(process)
    assert code == 128 + number, err
    stopped, step, checkpoint = out.split()
    assert stopped == "interrupted"
    assert 2 <= int(step) < 40
    assert [p.name for p in (tmp_path / "last").iterdir()] == [f"{int(step):08d}"]
    assert checkpoint == str(tmp_path / "last" / f"{int(step):08d}")
    assert err.splitlines().count(f"{name}: finishing the step and saving") == 1
    assert "resume" not in err
    if name != "SIGINT":  # one will do
        return
    code, _, err = end(start(tmp_path))
    assert code == 0, err
    check_equal(whole, tmp_path)


def test_sigterm_in_the_writing_of_a_checkpoint(tmp_path, whole):
    process = start(tmp_path, "slow")
    while not list(tmp_path.glob("last/.00000008.unfinished-*")):
        assert process.poll() is None
        time.sleep(0.0005)
    process.terminate()
    code, out, err = end(process)
    assert code == 143, err
    assert out.split()[:2] == ["interrupted", "8"]
    assert [p.name for p in (tmp_path / "last").iterdir()] == ["00000008"]
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


def interrupt(*args):
    os.kill(os.getpid(), signal.SIGINT)
    return 1.0


def test_signals_elsewhere_than_in_a_step(tmp_path):
    """While compiling, validating, in the last validation, and in the warm-up."""
    result = quick(on_trace=interrupt, out=tmp_path / "compiling")
    assert (result.stopped, result.signal, result.last.step) == ("interrupted", signal.SIGINT, 1)
    assert result.checkpoint == tmp_path / "compiling" / "last" / "00000001"
    result = quick(validate=interrupt, validations=3, out=tmp_path / "validating")
    assert (result.stopped, result.last.step, result.valid) == ("interrupted", 4, 1.0)
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
    assert quick(out=folder, resume=True).stopped == "budget"


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
