"""The house: what its layout promises. (Its layers: `lint-imports`.)"""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SOURCES = sorted(ROOT.glob("src/**/*.py"))
TESTS = sorted(ROOT.glob("tests/**/*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_files_and_functions_are_short(path):
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            doc = ast.get_docstring(node, clean=False) or ""
            lines = node.end_lineno - node.lineno - doc.count("\n")
            assert lines <= 80, node.name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_private_of_others_is_imported(path):
    text = path.read_text()
    for private in ("jax._src", "equinox.internal", "equinox._", "lineax._"):
        assert private not in text


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_no_test_imports_a_test(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert "test_" not in (node.module or "")
