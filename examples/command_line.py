"""What the examples' command lines and their `metrics.json` have in common."""

import argparse
import contextlib
import json
import math
import pathlib
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

from mdnjax import training


@contextlib.contextmanager
def named_errors(program: str) -> Iterator[None]:
    """Ends the program with one line, and not a traceback, at what a user can mend."""
    try:
        yield
    except (ValueError, OSError, ImportError, training.CheckpointError) as error:
        sys.exit(f"{program}: {error}")
    except training.NonFiniteError as error:
        sys.exit(f"{program}: {error}\nTry a smaller --lr.")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)  # as a shell reports it


def whole(text: str) -> int:
    """A whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 0, got {text!r}")
    return int(text)


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def not_negative(text: str) -> float:
    """A finite number of at least 0."""
    number = _number(text)
    if not number >= 0:
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, got {text!r}")
    return number


def positive(text: str) -> float:
    """A finite number above 0."""
    number = _number(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return number


def _number(text: str) -> float:
    """A finite number, else NaN."""
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def write_metrics(arguments: argparse.Namespace, figures: dict[str, Any], started: float) -> None:
    """Writes `metrics.json`: figures, the seconds since `started`, the command line, versions."""
    given = {n: str(v) if isinstance(v, pathlib.Path) else v for n, v in vars(arguments).items()}
    document = {
        **figures,
        "seconds": time.monotonic() - started,
        "arguments": given,
        "versions": training.package_versions(),
    }
    text = json.dumps(document, indent=2) + "\n"
    (arguments.out / "metrics.json").write_text(text, encoding="utf-8")
