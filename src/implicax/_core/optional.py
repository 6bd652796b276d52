"""Libraries that not everybody has."""

import importlib
import importlib.util
import sys
from typing import Any


def library(name: str, user: str, extra: str | None = None) -> Any:
    """An optional library, or an error that says how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        # (`None` there: it is not to be imported.)
        there = name not in sys.modules and importlib.util.find_spec(name)
        if there:
            raise ImportError(
                f"{user} needs {name}, which is installed and cannot be imported: "
                f"{error}. Update it, or take a version of JAX that it supports."
            ) from error
        raise ImportError(
            f"{user} needs {name}: pip install 'implicax[{extra or name}]'."
        ) from error
