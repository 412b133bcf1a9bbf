"""The folder of a run: what lies in it, whether it can be written, what may be swept away."""

import os
import pathlib
import shutil

from mdnjax._files import write_whole
from mdnjax.training.errors import CheckpointError, SaveError

METRICS = "metrics.jsonl"
TIMINGS = "timings.jsonl"
KINDS = ("last", "best")
# What a process that was killed may leave, under hidden names: nothing that was ever whole.
_LEFTOVERS = (
    ".probe-*",
    ".warm-up-*",
    *(f".{name}.*.part" for name in (METRICS, TIMINGS)),
    *(f"{kind}/.*.{how}-*" for kind in KINDS for how in ("unfinished", "removed")),
)


def check_folder(path: str | os.PathLike[str]) -> pathlib.Path:
    """Makes a folder and proves, with a small file, that it can be written.

    `fit` does so first of all. A program that reads much data before it trains does well to call
    this before.

    Args:
        path: The folder; those above it are made too.

    Returns:
        The folder.

    Raises:
        SaveError: It cannot be made or written.
    """
    folder = pathlib.Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        write_whole(probe, b"Can this folder be written?\n")
        probe.unlink()
    except OSError as error:
        raise SaveError(folder, error) from error
    return folder


def list_checkpoints(folder: str | os.PathLike[str]) -> list[pathlib.Path]:
    """Lists the complete checkpoints in a folder, oldest step first; none if it is not there."""
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if p.name.isdecimal() and (p / "config.json").is_file()]
    return sorted(found, key=lambda p: int(p.name))


def newest_checkpoint(folder: pathlib.Path | None) -> pathlib.Path | None:
    """The checkpoint a run in a folder would go on from."""
    found = [] if folder is None else list_checkpoints(folder / "last")
    return found[-1] if found else None


def remove_checkpoint(path: pathlib.Path) -> None:
    """Removes a checkpoint: at no moment is there half of one under its name.

    One that cannot be removed is left: a newer one is always preferred to it.
    """
    hidden = path.with_name(f".{path.name}.removed-{os.getpid()}")
    try:
        path.rename(hidden)
    except OSError:
        return
    shutil.rmtree(hidden, ignore_errors=True)


def keep_only(folder: pathlib.Path, step: int | None) -> None:
    """Removes the checkpoints in a folder other than that of one step."""
    for path in list_checkpoints(folder):
        if int(path.name) != step:
            remove_checkpoint(path)


def sweep(folder: pathlib.Path) -> None:
    """Removes what a process that was killed left unfinished."""
    for pattern in _LEFTOVERS:
        for path in folder.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def clear(folder: pathlib.Path, *, overwrite: bool) -> None:
    """Makes sure that a new run does not mix with an old one.

    Raises:
        CheckpointError: There is a run of at least one step, and it may not be overwritten.
    """
    checkpoints = [path for kind in KINDS for path in list_checkpoints(folder / kind)]
    if not overwrite and any(int(path.name) > 0 for path in checkpoints):
        raise CheckpointError(
            f"fit: {folder} holds a run; expected an empty folder, resume=True or overwrite=True."
        )
    for path in checkpoints:
        remove_checkpoint(path)
    for name in (METRICS, TIMINGS):
        (folder / name).unlink(missing_ok=True)
    for kind in KINDS:
        shutil.rmtree(folder / kind, ignore_errors=True)
