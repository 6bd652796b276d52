"""Solver x problem x transformation x dtype, each entry against an oracle.

All entries of a (solver, problem, dtype) are computed at once, and the tests read from
them: so a failing entry is named by its test.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from ..cases import KINDS, SOLVERS, VARIANTS, make
from ..derivative_matrix import (
    ENTRIES,
    ORIGIN,
    PER_SOLVER,
    allowed,
    transformations,
)
from ..expectations import expected
from ..oracles import ClosedForm, central, relative_error, unrolled

PROGRAMS = [(kind, variant) for kind in KINDS for variant in VARIANTS]


def asked(solver: str, kind: str, variant: str) -> tuple[str, ...]:
    """The whole matrix once, of a complex unknown whose equations are not holomorphic;
    for the rest see `test_linear_paths.py`."""
    whole = ("Newton", "root", "conjugate")
    return ENTRIES if (solver, kind, variant) == whole else PER_SOLVER


@functools.cache
def computed(solver: str, kind: str, variant: str) -> dict[str, Any]:
    names = asked(solver, kind, variant)
    return transformations(make(kind, variant), SOLVERS[solver], names)


class Matrix:
    """The tests of one solver. A class is what pytest-xdist's `loadscope` keeps in one
    process, so that each program is compiled once."""

    solver: str

    def pytest_generate_tests(self, metafunc):
        if "entry" not in metafunc.fixturenames:
            metafunc.parametrize(("kind", "variant"), PROGRAMS)
            return
        cases = [(*p, entry) for p in PROGRAMS for entry in asked(self.solver, *p)]
        metafunc.parametrize(("kind", "variant", "entry"), cases)

    def test_entry(self, kind, variant, entry):
        came = computed(self.solver, kind, variant)[entry]
        error = relative_error(came, expected(kind, variant)[entry])
        assert error <= allowed(variant)

    def test_dtypes_are_kept(self, kind, variant):
        case = make(kind, variant)
        of_the_unknown = {"value", "jvp", "vjp"}
        for entry, came in computed(self.solver, kind, variant).items():
            wanted = case.dtype if entry in of_the_unknown else case.weights.dtype
            dtypes = {leaf.dtype for leaf in jax.tree.leaves(came)}
            assert dtypes == {wanted}, entry


class TestPicard(Matrix):
    solver = "Picard"


class TestAnderson(Matrix):
    solver = "Anderson"


class TestBroyden(Matrix):
    solver = "Broyden"


class TestNewton(Matrix):
    solver = "Newton"


class TestChord(Matrix):
    solver = "Chord"


CASES = [program for program in PROGRAMS if program[1] != "float32"]


@pytest.mark.parametrize(("kind", "variant"), CASES)
def test_closed_form_agrees_with_differences(kind, variant):
    closed = ClosedForm(make(kind, variant))
    differences = central(lambda t: closed.solve(closed.arguments(t)), ORIGIN, 1e-3)
    assert relative_error(closed.jacobian(ORIGIN), differences) <= 1e-11


@pytest.mark.parametrize(("kind", "variant"), CASES)
def test_closed_form_agrees_with_unrolled_autodiff(kind, variant):
    case = make(kind, variant)
    closed, loss = ClosedForm(case), functools.partial(unrolled, case)

    @jax.jit
    def both(t):
        return jax.grad(loss)(t), jax.hessian(loss)(t)

    gradient, hessian = both(jnp.asarray(ORIGIN))
    assert relative_error(gradient, closed.gradient(ORIGIN)) <= 1e-13
    assert relative_error(hessian, closed.hessian(ORIGIN)) <= 1e-10
