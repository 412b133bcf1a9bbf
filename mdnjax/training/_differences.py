"""What a run was begun with and what is asked of it now, where the two differ, in words."""

import json
from collections.abc import Iterator
from typing import Any

from mdnjax.training.errors import CheckpointError

_MOST = 5
_LONGEST = 60
_ABSENT = object()
# What `describe` wraps values in says nothing to whoever gave them.
_WRAPPING = ("fields", "options", "array")


def check_same(folder: Any, run: Any, now: Any) -> None:
    """Makes sure that a run goes on with what it was begun with.

    Args:
        folder: The run's folder, for the message.
        run: JSON values the run was begun with.
        now: Those of the call that would go on with it.

    Raises:
        CheckpointError: They differ; the message names at most five places.

    >>> check_same("runs/a", {"seed": 5}, {"seed": 0})
    Traceback (most recent call last):
    mdnjax.training.errors.CheckpointError: the run in runs/a can only go on as it was begun:
      seed: the run has 5, now 0
    """
    lines = list(differences(run, now))
    if not lines:
        return
    more = [f"and {len(lines) - _MOST} more"] if len(lines) > _MOST else []
    shown = "".join(f"\n  {line}" for line in lines[:_MOST] + more)
    raise CheckpointError(f"the run in {folder} can only go on as it was begun:{shown}")


def differences(run: Any, now: Any, name: str = "") -> Iterator[str]:
    """Yields a line for each place at which two JSON values differ.

    >>> a = {"class": "Schedule", "fields": {"peak": 0.01, "warmup": 5}}
    >>> b = {"class": "Schedule", "fields": {"peak": 0.02, "warmup": 5}}
    >>> list(differences(a, b, "schedule"))
    ['schedule.peak: the run has 0.01, now 0.02']
    """
    if run == now:
        return
    if isinstance(run, dict) and isinstance(now, dict):
        for key in {**run, **now}:
            inner = name if key in _WRAPPING and name else f"{name}.{key}" if name else key
            yield from differences(run.get(key, _ABSENT), now.get(key, _ABSENT), inner)
    elif _nested(run) and _nested(now) and len(run) == len(now):
        for i, (a, b) in enumerate(zip(run, now, strict=True)):
            yield from differences(a, b, f"{name}[{i}]")
    else:
        yield f"{name}: the run has {_shown(run)}, now {_shown(now)}"


def _nested(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, dict | list) for item in value)


def _shown(value: Any) -> str:
    if value is _ABSENT or value is None:
        return "none"
    if isinstance(value, dict) and isinstance(value.get("class"), str):
        return value["class"]
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
