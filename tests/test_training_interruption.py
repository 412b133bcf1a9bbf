"""What ends a run from outside: SIGKILL, signals, a full disk, a folder that cannot be written.

Signals and kills go to real processes, which run the program below or the benchmark.
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mdnjax import training

ROOT = pathlib.Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and limits are POSIX's")

# A small run: `python -c PROGRAM FOLDER WHAT`, where WHAT happens at step 13.
PROGRAM = """
    import os, resource, signal, sys, time
    import jax, jax.numpy as jnp, numpy as np
    from mdnjax import training

    folder, what = sys.argv[1:3]
    SIZE = 20_000
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=SIZE).astype(np.float32)}

    def loss(params, state, batch, key):
        target = jax.random.normal(key, (4, SIZE))
        return jnp.mean((params["w"] - target) ** 2, -1) + batch, jnp.ones(4), state

    def batches(n):
        if n == 13 and what == "files":
            resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
        if n == 13 and what == "metrics":
            size = os.path.getsize(folder + "/metrics.jsonl") + 50
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        if n == 13 and what == "nan":
            resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
            return np.full(4, np.nan, np.float32)
        if what == "slow":
            time.sleep(0.02)
        return np.full(4, n, np.float32)

    def validate(params, state):
        if what == "hang":
            print("validating", flush=True)
            time.sleep(60)
        return float(jnp.mean(params["w"] ** 2))

    try:
        result = training.fit(
            loss, params, {}, batches, optimizer=training.adam(), average=0.9, steps=40,
            schedule=training.Schedule(peak=0.1), validate=validate, validations=10, log_every=1,
            out=folder, resume=True, progress="lines",
        )
    except (OSError, training.NonFiniteError, training.CheckpointError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(result.stopped, int(result.last.step), result.checkpoint)
    sys.exit(0 if result.signal is None else 128 + result.signal)
"""


def start(folder, what="nothing", **options):
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(folder), what]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **pipes, **options)


def end(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def like():
    params = {"w": jnp.zeros(20_000)}
    return training.init_state(params, {}, training.adam(), budget=40, average=True)


def check_equal(whole, folder):
    for kind in ("last", "best"):
        names = [sorted(p.name for p in (f / kind).iterdir()) for f in (whole, folder)]
        assert names[0] == names[1]
        both = [training.restore_checkpoint(f / kind, like())[0] for f in (whole, folder)]
        for a, b in zip(*map(jax.tree.leaves, both), strict=True):
            np.testing.assert_array_equal(a, b)
    assert (whole / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()
    assert not list(folder.rglob(".*"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    code, _, err = end(start(folder))
    assert code == 0, err
    return folder


def test_killed_runs_resume_bit_for_bit():
    """Three kills of a real run, one of them in the writing of a checkpoint; see the benchmark."""
    command = [sys.executable, ROOT / "benchmarks" / "interruption.py", "--kills", "3"]
    command += ["--lines", "40", "--hidden", "8", "--steps", "16"]
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


def quick(**options):
    """A run of 12 steps in this process."""

    def loss(params, state, batch, key):
        if on_trace is not None:
            on_trace()
        return (params["w"] - batch) ** 2, jnp.ones(2), state

    on_trace = options.pop("on_trace", None)
    settings = {"optimizer": optax.sgd(0.1), "steps": 12, "progress": "off"} | options
    batches = settings.pop("batches", lambda n: np.float32([n, 0]))
    return training.fit(loss, {"w": 0.0}, {}, batches, **settings)


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


def test_files_that_cannot_grow_keep_the_last_checkpoint(tmp_path, whole):
    """As on a full disk, but without the right to make one: EFBIG where that says ENOSPC."""
    for what, stands, name in (
        ("files", 12, "best/00000016"),
        ("metrics", 12, "metrics.jsonl"),
    ):
        folder = tmp_path / what
        code, _, err = end(start(folder, what))
        assert code == 1
        message = err.strip().splitlines()[-1]
        checkpoint = folder / "last" / f"{stands:08d}"
        assert message == (
            f"SaveError: {folder / name} could not be written: File too large (EFBIG). "
            f"The last checkpoint stands: {checkpoint}."
        )
        assert int(training.restore_checkpoint(folder, like())[0].step) == stands
        assert not list(folder.rglob(".*"))
    # With room again, the run goes on as if nothing had been.
    assert end(start(folder))[0] == 0
    check_equal(whole, folder)


def test_a_bad_step_on_a_full_disk_is_still_named(tmp_path):
    code, _, err = end(start(tmp_path, "nan"))
    assert code == 1
    message = err.strip().splitlines()[-1]
    assert message.startswith("NonFiniteError: fit: step 13 (batch 13; not finite in it")
    assert "The state before it is lost: " in message
    assert message.endswith(f"The last checkpoint stands: {tmp_path / 'last' / '00000012'}.")


def mounted(tmp_path, commands, timeout=120):
    """Runs shell commands where mounts are private, if this system lets us."""
    script = f"mount -t tmpfs -o size=1m tmpfs {tmp_path} && echo ready && ({commands})"
    try:
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=timeout
        )
    except OSError as error:
        pytest.skip(f"no unshare: {error}")
    if not done.stdout.startswith("ready"):
        pytest.skip(f"no right to mount: {done.stderr.strip()}")
    return done


def program(folder, what="nothing"):
    code = textwrap.dedent(PROGRAM)
    return f"{sys.executable} - {folder} {what} <<'PROGRAM'\n{code}\nPROGRAM\n"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may mount")
def test_a_disk_that_is_full(tmp_path):
    # The average and Adam's moments: 320 kB a checkpoint, of which there are two or three.
    done = mounted(tmp_path, f"{program(tmp_path / 'run')} ls {tmp_path}/run/last >&2")
    *_, message, left = done.stderr.strip().splitlines()
    found = re.fullmatch(
        rf"SaveError: {tmp_path}/run/(best|last)/\d+ could not be written: No space left on "
        rf"device.* \(ENOSPC\)\. The last checkpoint stands: {tmp_path}/run/last/(\d+)\.",
        message,
    )
    assert found, done.stderr
    assert left == found.group(2)


def test_a_disk_that_is_full_from_the_start_leaves_nothing_like_a_run(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=0))
        with pytest.raises(training.SaveError, match=r"last/00000000 could not .* \(ENOSPC\)"):
            quick(out=tmp_path)
    assert not any((tmp_path / kind).exists() for kind in ("last", "best"))
    assert quick(out=tmp_path).stopped == "budget"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may mount")
def test_a_disk_that_is_read_only(tmp_path):
    read_only = f"mount -o remount,ro {tmp_path}; {program(tmp_path / 'run')}"
    done = mounted(tmp_path, read_only)
    expected = f"SaveError: {tmp_path}/run could not be written: Read-only file system (EROFS)."
    assert done.stderr.strip().splitlines()[-1] == expected


def test_a_folder_that_cannot_be_written_fails_before_anything_else(tmp_path):
    def never(n):
        raise AssertionError("no batch should have been asked for")

    (tmp_path / "file").write_text("in the way")
    with pytest.raises(training.SaveError, match=r"file could not be written: .*EEXIST") as caught:
        quick(out=tmp_path / "file", batches=never)
    assert caught.value.path == tmp_path / "file"
    assert caught.value.standing is None
    with pytest.raises(training.SaveError, match="ENOTDIR"):
        training.check_folder(tmp_path / "file" / "below")
    assert training.check_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert not list((tmp_path / "a" / "b").iterdir())


def test_a_folder_that_is_not_ours_to_write(tmp_path):
    """As another user, for to root no folder is read-only."""
    tmp_path.chmod(0o555)
    code = f"""
        import os, sys
        from mdnjax import training
        if os.geteuid() == 0:
            os.setuid(65534)
        try:
            training.check_folder({str(tmp_path)!r})
        except training.SaveError as error:
            sys.exit(str(error))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True
    )
    tmp_path.chmod(0o755)
    expected = f"{tmp_path} could not be written: Permission denied (EACCES)."
    assert done.stderr.strip().splitlines()[-1] == expected


def test_a_run_of_which_only_the_start_stands_is_begun_anew(tmp_path):
    def failing(n):
        raise RuntimeError("at the first batch")

    with pytest.raises(RuntimeError, match="first batch"):
        quick(out=tmp_path, batches=failing)
    assert training.find_checkpoint(tmp_path).name == "00000000"
    result = quick(out=tmp_path, steps=7)
    assert result.checkpoint == tmp_path / "last" / "00000007"


def test_what_a_killed_process_left_is_swept_away(tmp_path):
    quick(out=tmp_path)
    names = [".warm-up-x", "last/.00000099.unfinished-1", "best/.00000098.removed-1"]
    for name in names:
        (tmp_path / name / "model").mkdir(parents=True)
    (tmp_path / ".metrics.jsonl.00ff.part").write_text("half")
    (tmp_path / ".somebody-elses").write_text("whole")
    quick(out=tmp_path, resume=True)
    assert [p.name for p in tmp_path.rglob(".*")] == [".somebody-elses"]


def test_what_is_computed_and_how_long_it_took_stand_apart(tmp_path):
    quick(out=tmp_path, log_every=4, validations=1)
    metrics = (tmp_path / "metrics.jsonl").read_text()
    assert "seconds" not in metrics
    timings = (tmp_path / "timings.jsonl").read_text().splitlines()
    assert len(timings) == len(metrics.splitlines()) == 3
    lines = training.read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [4, 8, 12]
    assert all(line["seconds"] > 0 and line["points_per_second"] > 0 for line in lines)
    # Of a run of mdnjax 0.1, one file holds both.
    old = tmp_path / "old" / "metrics.jsonl"
    old.parent.mkdir()
    old.write_text('{"step": 4, "seconds": 1.5, "nats": 2.0, "points_per_second": 3.0}\n')
    assert training.read_metrics(old) == [
        {"step": 4, "seconds": 1.5, "nats": 2.0, "points_per_second": 3.0}
    ]
