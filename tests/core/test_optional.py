"""What is said of libraries that are not there, or not in working order."""

import pytest

from implicax._core.optional import library


def test_one_that_is_missing():
    with pytest.raises(ImportError, match=r"pip install 'implicax\[sparse\]'"):
        library("no_such_library", "sparsity=", "sparse")


def test_one_that_cannot_be_imported(tmp_path, monkeypatch):
    (tmp_path / "too_old.py").write_text("raise ImportError('no name in JAX')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="cannot be imported: no name in JAX"):
        library("too_old", "sparsity=", "sparse")
