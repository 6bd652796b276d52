"""Whether asdex, which finds and colors sparsity patterns, can be imported: it lags
behind the newest JAX."""

import importlib

import pytest

try:
    importlib.import_module("asdex")
    REASON = ""
except ImportError as error:
    REASON = f"asdex cannot be imported with this JAX: {error}"

needs_asdex = pytest.mark.skipif(bool(REASON), reason=REASON)
