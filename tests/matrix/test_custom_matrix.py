"""The derivative matrix for solvers that know nothing of JAX: SciPy's, and one in C.

On the host under every transformation; and, where nothing is traced, as they are.
"""

import functools
from typing import Any

import jax
import pytest

import implicax as ix

from ..derivative_matrix import (
    ENTRIES,
    PER_SOLVER,
    allowed,
    functions,
    transformations,
)
from ..expectations import expected
from ..legacy import COMPILER, LEGACY, solved_by
from ..oracles import relative_error

with_compiler = pytest.mark.skipif(
    COMPILER is None, reason="there is no C compiler called cc"
)
EAGER = [entry for entry in ENTRIES if "vmap" not in entry and "scan" not in entry]


def asked(name: str, variant: str) -> tuple[str, ...]:
    """The whole matrix once."""
    return ENTRIES if (name, variant) == ("scipy_root", "conjugate") else PER_SOLVER


@functools.cache
def computed(name: str, variant: str) -> dict[str, Any]:
    """Entries of the matrix, compiled."""
    solver, kind = LEGACY[name]
    case = solved_by(ix.host(solver), kind, variant)
    # The name of a solver of the library's is asked for, and not used.
    return transformations(case, "Newton", asked(name, variant))


class Matrix:
    """The tests of one solver, kept in one process (see the library's own matrix)."""

    name: str
    variants: tuple[str, ...]

    def pytest_generate_tests(self, metafunc):
        if "entry" not in metafunc.fixturenames:
            metafunc.parametrize("variant", self.variants)
            return
        cases = [(v, entry) for v in self.variants for entry in asked(self.name, v)]
        metafunc.parametrize(("variant", "entry"), cases)

    def test_host_entry(self, variant, entry):
        kind = LEGACY[self.name][1]
        came = computed(self.name, variant)[entry]
        error = relative_error(came, expected(kind, variant)[entry])
        assert error <= allowed(variant)

    def test_dtypes_are_kept(self, variant):
        case = solved_by(*LEGACY[self.name], variant)
        of_the_unknown = {"value", "jvp", "vjp"}
        for entry, came in computed(self.name, variant).items():
            wanted = case.dtype if entry in of_the_unknown else case.weights.dtype
            assert {leaf.dtype for leaf in jax.tree.leaves(came)} == {wanted}, entry


class TestSciPyRoot(Matrix):
    name = "scipy_root"
    variants = ("float32", "float64", "complex128", "conjugate")


class TestSciPyFixedPoint(Matrix):
    name = "scipy_fixed_point"
    variants = ("float32", "float64", "complex128", "conjugate")


@with_compiler
class TestC(Matrix):
    name = "c"
    variants = ("float32", "float64", "complex128")


@pytest.mark.parametrize("entry", EAGER)
@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("scipy_root", "conjugate"),
        ("scipy_fixed_point", "float64"),
        pytest.param("c", "complex128", marks=with_compiler),
    ],
)
class TestEager:
    def test_entry(self, name, variant, entry):
        solver, kind = LEGACY[name]
        came = functions(solved_by(solver, kind, variant), None)[entry]()
        error = relative_error(came, expected(kind, variant)[entry])
        assert error <= allowed(variant)
