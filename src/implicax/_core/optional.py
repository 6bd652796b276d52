"""Libraries that not everybody has."""

import importlib
from typing import Any


def library(name: str, user: str, extra: str | None = None) -> Any:
    """An optional library, or an error that says how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"{user} needs {name}: pip install 'implicax[{extra or name}]'."
        ) from error
