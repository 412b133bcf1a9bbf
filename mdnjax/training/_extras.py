"""Imports of the extra `train`, when they are used."""

import importlib
from typing import Any


def require_extra(module: str) -> Any:
    """Imports a module of the extra `train`, or says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f'{module} is needed here; install it with: pip install "mdnjax[train]"'
        ) from error
