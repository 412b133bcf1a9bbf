"""Checks of what came in: errors at trace time that name function, argument, got and expected."""

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
