"""A full disk, a folder closed to writing, and what is left there: the last checkpoint stands."""

import os
import re
import shutil
import subprocess
import sys
import textwrap

import pytest
from made_run import PROGRAM, check_equal, end, like, quick, start

from mdnjax import training

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and limits are POSIX's")


def test_files_that_cannot_grow_keep_the_last_checkpoint(tmp_path, whole):
    """As on a full disk, but without the right to make one: EFBIG where that says ENOSPC."""
    for what, stands, name in (
        ("files", 12, "best/00000016"),
        ("metrics", 12, "metrics.jsonl"),
    ):
        folder = tmp_path / what
        code, _, err = end(start(folder, what))
        assert code == 1
        # Not always the last: the checkpoints' event loop may complain behind it as Python ends.
        (message,) = [line for line in err.splitlines() if line.startswith("SaveError: ")]
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
    (message,) = [line for line in err.splitlines() if line.startswith("NonFiniteError: ")]
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
    found = re.search(
        rf"SaveError: {tmp_path}/run/(best|last)/\d+ could not be written: No space left on "
        rf"device.* \(ENOSPC\)\. The last checkpoint stands: {tmp_path}/run/last/(\d+)\.",
        done.stderr,
    )
    assert found, done.stderr
    assert done.stderr.splitlines()[-1] == found.group(2)


def test_a_disk_that_is_full_from_the_start_leaves_nothing_like_a_run(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=0))
        with pytest.raises(training.SaveError, match=r"last/00000000 could not .* \(ENOSPC\)"):
            quick(out=tmp_path)
    assert not any((tmp_path / kind).exists() for kind in ("last", "best"))
    assert quick(out=tmp_path, validations=1).stopped == "budget"


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
    result = quick(out=tmp_path, steps=7, validations=1)
    assert result.checkpoint == tmp_path / "last" / "00000007"


def test_what_a_killed_process_left_is_swept_away(tmp_path):
    quick(out=tmp_path, steps=3, validations=1)
    names = [".warm-up-x", "last/.00000099.unfinished-1", "best/.00000098.removed-1"]
    for name in names:
        (tmp_path / name / "model").mkdir(parents=True)
    (tmp_path / ".metrics.jsonl.00ff.part").write_text("half")
    (tmp_path / ".somebody-elses").write_text("whole")
    quick(out=tmp_path, steps=3, resume=True)
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
