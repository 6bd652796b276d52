"""What the documentation shows is what happens.

Every ```python block of the README, of each page and of each public docstring is
executed, block after block in one namespace per page, and so is every example. Where a
```text block follows, the output must equal it, character by character; only figures
at the level of rounding (below 1e-14), which differ between machines, count as equal
to each other. Pages all of whose blocks are executed when they are built (`exec="1"`)
are left to `make docs`, which an error in one of them aborts.
"""

import ast
import contextlib
import io
import itertools
import pathlib
import re
import runpy
import shlex
import sys
import types
from unittest import mock

import jax
import pytest

import implicax as ix
from implicax._core.advice import EQUATIONS

from .. import asdex_here
from ..pages import blocks, normalised, run

ROOT = pathlib.Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
#: Executed elsewhere: on eight devices, ...
ELSEWHERE = {ROOT / "docs" / "many-devices.md"}
#: ... and by `make docs`.
BUILT = {page for page in PAGES if '```python exec="1"' in page.read_text()} - {
    page for page in PAGES if "```python\n" in page.read_text()
}
#: A leading underscore: what an example imports. The last one is part of a page.
EXAMPLES = sorted(
    {*ROOT.glob("examples/[!_]*.py")} - {ROOT / "examples" / "two_processes.py"}
)
SOURCES = sorted(ROOT.glob("src/**/*.py"))


@pytest.fixture(autouse=True)
def _as_a_reader_has_it(monkeypatch):
    """JAX as it comes, whatever the other tests or the last page have set; and the
    root of the repository, where readers run things."""
    monkeypatch.chdir(ROOT)
    names = ("jax_enable_x64", "jax_numpy_dtype_promotion", "jax_numpy_rank_promotion")
    before = [getattr(jax.config, name) for name in names]
    for name, default in zip(names, (False, "standard", "allow"), strict=True):
        jax.config.update(name, default)
    yield
    for name, value in zip(names, before, strict=True):
        jax.config.update(name, value)


def run_example(path):
    """As `python path` runs it: its own arguments, its folder importable."""
    output = io.StringIO()
    with (
        mock.patch.object(sys, "argv", [str(path)]),
        mock.patch.object(sys, "path", [str(path.parent), *sys.path]),
        contextlib.redirect_stdout(output),
    ):
        runpy.run_path(str(path), run_name="__main__")
    return output.getvalue()


def check_page(text, name):
    shown = [code for language, code in blocks(text) if language == "python"]
    if asdex_here.REASON and "sparsity" in "".join(shown):
        pytest.skip(asdex_here.REASON)
    namespace = {"__name__": "__main__"}
    pairs = [*blocks(text), ("", "")]
    for (language, code), (after, expected) in itertools.pairwise(pairs):
        output = None
        if language == "python":
            output = run(code, namespace, name)
        elif language == "sh" and code.startswith("python examples/"):
            output = run_example(ROOT / shlex.split(code)[1])
        if output is not None and after == "text":
            assert normalised(output) == normalised(expected), name


def docstrings():
    """(name, text) of the docstrings in `src` that show code."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                if "```python" in text:
                    where = path.relative_to(ROOT / "src").with_suffix("")
                    yield f"{where}:{getattr(node, 'name', '')}", text


DOCSTRINGS = list(docstrings())


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page not in ELSEWHERE | BUILT],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_pages_do_what_they_say(page):
    check_page(page.read_text(), str(page))


@pytest.mark.parametrize(("name", "text"), DOCSTRINGS, ids=[d[0] for d in DOCSTRINGS])
def test_docstrings_do_what_they_say(name, text):
    check_page(text, name)


def test_examples_run():
    """Those that no page runs."""
    shown = "".join(page.read_text() for page in PAGES)
    rest = [path for path in EXAMPLES if f"python examples/{path.name}" not in shown]
    for path in rest:
        assert run_example(path).strip()


def test_a_wrong_output_is_noticed():
    page = "```python\nprint(1 + 1)\n```\n```text\n3\n```\n"
    with pytest.raises(AssertionError):
        check_page(page, "wrong")


def test_only_rounding_is_forgiven():
    assert normalised("2.6e-16 0.0e+00") == normalised("1.1e-17 3.1e-15")
    assert normalised("2.6e-12") != normalised("2.7e-12")


def public_names():
    return {
        name
        for name, value in vars(ix).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }


def test_the_api_page_has_every_public_name():
    page = (ROOT / "docs" / "api.md").read_text()
    listed = re.findall(r"^::: implicax\.(\w+)$", page, re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == public_names() | {"projections", "prox", "cones"}
    layers = re.findall(r"^::: implicax\.nn\.(\w+)$", page, re.MULTILINE)
    assert {*layers, "flax"} == set(dir(ix.nn))


def test_every_public_name_explains_itself():
    for name in public_names():
        text = getattr(ix, name).__doc__ or f"{name}("
        # What dataclasses write by themselves is the signature.
        assert not text.startswith(f"{name}("), name


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("https://", "data:")):
            assert (page.parent / target).exists(), target


def test_the_readme_names_the_targets_that_exist():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"`?make ([a-z]+)", (ROOT / "README.md").read_text())
    assert {"primer", "test"} <= set(named) <= set(targets)


def test_the_statuses_on_the_page_are_the_statuses():
    page = (ROOT / "docs" / "concepts" / "solutions.md").read_text()
    for name in ("converged", *EQUATIONS):
        assert f"`{name}`" in page
