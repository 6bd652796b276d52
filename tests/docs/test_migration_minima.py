"""The pages for those who come from jaxopt and optimistix: every name, and the same
numbers from the real packages.

A ```py block is the other package's, a ```python block ours. Both run in the order of
the page, each in a namespace of its side, with the first block in both. What a block
calls `there` must equal what the next one of ours calls `here`; where a ```text block
follows, the output equals it. (Ours that define no `here` are left to
`test_documentation`.)
"""

import inspect
import itertools
import pathlib
import re
import warnings
from typing import Any

import jax
import numpy as np
import optimistix
import pytest

from ..pages import blocks, normalised, run

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import jaxopt
    from jaxopt import implicit_diff, linear_solve

DOCS = pathlib.Path(__file__).parents[2] / "docs"
PAIRS = {"jaxopt": 5, "optimistix": 5}


def page(package: str) -> str:
    return (DOCS / f"migration-{package}.md").read_text()


def both_sides(text: str) -> list[tuple[Any, Any]]:
    """What the page's pairs of blocks define: `[(there, here), ...]`."""
    code = [*blocks(text), ("", "")]
    (language, shared), theirs, ours = code[0], {}, {}
    assert language == "python"
    exec(shared, theirs)
    exec(shared, ours)
    there, here = [], []
    for (language, block), (after, expected) in itertools.pairwise(code[1:]):
        if language == "py":
            # Their code is written for JAX as it comes, and warns of its age.
            with (
                jax.numpy_dtype_promotion("standard"),
                jax.numpy_rank_promotion("allow"),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")
                output = run(block, theirs, "theirs")
            assert after != "text" or normalised(output) == normalised(expected)
            there += [theirs.pop("there")] if "there" in theirs else []
        elif language == "python" and "here =" in block:
            run(block, ours, "ours")
            here.append(ours.pop("here"))
            assert len(there) == len(here)
    return list(zip(there, here, strict=True))


@pytest.mark.parametrize("package", PAIRS)
def test_every_pair_gives_the_same_numbers(package):
    pairs = both_sides(page(package))
    assert len(pairs) == PAIRS[package]
    for there, here in pairs:
        # Number by number, so that no large one hides a small one.
        came, expected = jax.tree.leaves(here), jax.tree.leaves(there)
        for ours, theirs in zip(came, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=0.0)


def named(text: str) -> set[str]:
    """The identifiers in a page's code spans; not those in its blocks."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`]+)`", prose)
    return {name for span in spans for name in re.findall(r"[A-Za-z_]\w*", span)}


def public(module: Any) -> set[str]:
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }


def test_every_name_of_jaxopt_is_on_its_page():
    modules = {
        name
        for name, value in vars(jaxopt).items()
        if inspect.ismodule(value) and value.__name__.startswith("jaxopt.")
    }
    names = public(jaxopt) | modules - {"_src"}
    for module in (implicit_diff, linear_solve):
        names |= public(module)
    assert len(names) > 50
    assert names - named(page("jaxopt")) == set()


def test_every_name_of_optimistix_is_on_its_page():
    names = public(optimistix)
    assert len(names) >= 60
    assert names - named(page("optimistix")) == set()


def test_a_missing_name_is_noticed():
    assert named("`BFGS(tol)`, `a.LBFGS` and NonlinearCG") >= {"BFGS", "LBFGS"}
    assert "NonlinearCG" not in named("`BFGS(tol)`, `a.LBFGS` and NonlinearCG")
    assert "BFGS" not in named("```py\nBFGS\n```\n`LBFGS`")


@pytest.mark.parametrize("text", ["print(1)\n```\n```text\n2", "there = 1.0"])
def test_a_wrong_output_and_a_pair_that_is_none_are_noticed(text):
    with pytest.raises((AssertionError, ValueError)):
        both_sides(f"```python\n```\n```py\n{text}\n```\n")
