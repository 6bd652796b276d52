"""The migration page's code, run against the packages that it migrates from.

A ```py block is the other package's and defines `there`; the ```python block after it
is ours and defines `here`. Both run in the order of the page, each in a namespace of
its side, with what stands before the first pair in both.
"""

import contextlib
import functools
import pathlib
import re
import warnings

import jax

from ..oracles import relative_error

DOCS = pathlib.Path(__file__).parents[2] / "docs"
PAGE = "migration-jaxopt-implicit-diff.md"
BLOCK = re.compile(r"^```(py|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def theirs_as_it_comes():
    """Their code is written for JAX as it comes, and says itself that it is not kept
    up."""
    stack = contextlib.ExitStack()
    stack.enter_context(jax.numpy_dtype_promotion("standard"))
    stack.enter_context(jax.numpy_rank_promotion("allow"))
    stack.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore", DeprecationWarning)
    return stack


@functools.cache
def pairs():
    """What each pair of blocks defines: `[(there, here), ...]`."""
    blocks = [(m[1], m[2]) for m in BLOCK.finditer((DOCS / PAGE).read_text())]
    assert blocks[0][0] == "python"
    theirs, ours, found = {}, {}, []
    exec(blocks[0][1], theirs)
    exec(blocks[0][1], ours)
    with theirs_as_it_comes():
        for language, code in blocks[1::2]:
            assert language == "py"
            exec(code, theirs)
            found.append(theirs.pop("there"))
    came = []
    for language, code in blocks[2::2]:
        assert language == "python"
        exec(code, ours)
        came.append(ours.pop("here"))
    return list(zip(found, came, strict=True))


def test_every_pair_gives_the_same_numbers():
    assert len(pairs()) == 7
    for there, here in pairs():
        assert relative_error(here, there) <= 1e-6


def test_they_are_ours_to_more_digits():
    """`x^3 + x = 10` has the root 2, with the derivative `1 / (3 x^2 + 1) = 1/13`."""
    for _, here in pairs()[-2:-1]:
        assert relative_error(here[0], 2.0 + 0 * here[0]) <= 1e-12
        assert relative_error(here[1], 1 / 13 + 0 * here[1]) <= 1e-12
