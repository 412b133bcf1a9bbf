"""Checks of what came in, named by function and argument, and of what is installed."""

import importlib
from typing import Any


def require(condition: bool, function: str, argument: str, got: Any, expected: str) -> None:
    """Raises `ValueError` naming function, argument, what came and what was expected.

    Args:
        condition: What must hold.
        function: The public function's name, as the user typed it.
        argument: The argument's name.
        got: What came; shown with `str`.
        expected: What was expected, in words.

    Raises:
        ValueError: `condition` is false.
    """
    if not condition:
        raise ValueError(f"{function}: {argument} must be {expected}, got {got}.")


def require_outputs(function: str, raw: Any, head: Any, *, columns: bool = False) -> None:
    """Raises `ValueError` unless raw outputs are as many as a head takes.

    Args:
        function: The public function's name, as the user typed it.
        raw: An array, `[..., head.num_outputs]`, or of columns `[head.num_outputs, ...]`.
        head: Any head.
        columns: Which of the two.

    Raises:
        ValueError: The last axis of `raw`, or of columns the first, is of another size.
    """
    count = head.num_outputs
    require(
        raw.ndim >= 1 and raw.shape[0 if columns else -1] == count,
        function,
        "raw",
        f"shape {raw.shape}",
        f"{f'[{count}, ...]' if columns else f'[..., {count}]'} for {head}",
    )


def require_extra(module: str, extra: str) -> Any:
    """Imports a module of an optional extra, or says how to install it.

    Args:
        module: Its full name.
        extra: The extra of this package that brings it.

    Returns:
        The module.

    Raises:
        ImportError: It is not installed; the message is the pip line.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f'{module} is needed here; install it with: pip install "mdnjax[{extra}]"'
        ) from error
