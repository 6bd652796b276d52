"""Solver x problem x transformation x dtype, each entry against an oracle.

One program per (solver, problem, dtype) computes all transformations at once; the tests
read from it. So a failing entry is named by its test, and nothing is compiled twice.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from .oracles import ClosedForm, central, relative_error, unrolled
from .problems import (
    DIRECTIONS,
    KINDS,
    SOLVERS,
    VARIANTS,
    Case,
    make,
    quick_jit,
    restore,
)

ORIGIN = np.zeros(DIRECTIONS)
SCAN_WEIGHTS = np.array([1.0, -0.5])

ENTRIES = (
    "value",
    "jvp",
    "vjp",
    "jacfwd",
    "jacrev",
    "forward_over_forward",
    "forward_over_reverse",
    "reverse_over_forward",
    "reverse_over_reverse",
    "vmap_of_grad",
    "grad_of_vmap",
    "grad_in_scan",
    "grad_of_scan",
)
PROGRAMS = [(kind, variant) for kind in KINDS for variant in VARIANTS]


def transformations(case: Case, solver: str) -> Callable[[], dict[str, Any]]:
    """All entries of the matrix as one function without arguments."""
    solve = lambda args: case.solve(SOLVERS[solver], args)
    solution = lambda t: solve(case.along(t))
    loss = lambda t: case.loss(solution(t))

    def row(t: Any) -> Any:
        """The solution as one real vector: what a real Jacobian is taken of."""
        z, _ = ravel_pytree(solution(t))
        return jnp.stack([z.real, z.imag]) if case.dtype.kind == "c" else z

    def weigh(losses: Any) -> Any:
        return jnp.sum(jnp.asarray(SCAN_WEIGHTS, losses.dtype) * losses)

    def grad_in_scan(points: Any) -> Any:
        grad = jax.jit(jax.grad(loss))
        return jax.lax.scan(lambda carry, t: (carry, grad(t)), None, points)[1]

    def scan(points: Any) -> Any:
        """Continuation: each solve starts at the solution before it."""

        def body(y: Any, t: Any) -> tuple[Any, Any]:
            y = case.solve(SOLVERS[solver], case.along(t), y)
            return y, case.loss(y)

        return weigh(jax.lax.scan(body, case.start(), points)[1])

    def program() -> dict[str, Any]:
        t = jnp.zeros(DIRECTIONS, case.weights.dtype)
        first = jax.tree.map(lambda leaf: leaf[0], case.directions)
        value, tangent = jax.jvp(solve, (case.args,), (first,))
        return {
            "value": value,
            "jvp": tangent,
            "vjp": jax.vjp(solve, case.args)[1](case.cotangent)[0],
            "jacfwd": jax.jacfwd(row)(t),
            "jacrev": jax.jacrev(row)(t),
            "forward_over_forward": jax.jacfwd(jax.jacfwd(loss))(t),
            "forward_over_reverse": jax.jacfwd(jax.jacrev(loss))(t),
            "reverse_over_forward": jax.jacrev(jax.jacfwd(loss))(t),
            "reverse_over_reverse": jax.jacrev(jax.jacrev(loss))(t),
            "vmap_of_grad": jax.vmap(jax.grad(loss))(case.points),
            "grad_of_vmap": jax.grad(lambda ts: weigh(jax.vmap(loss)(ts)))(case.points),
            "grad_in_scan": grad_in_scan(case.points),
            "grad_of_scan": jax.grad(scan)(case.points),
        }

    return program


@functools.cache
def computed(solver: str, kind: str, variant: str) -> dict[str, Any]:
    program = transformations(make(kind, variant), solver)
    return quick_jit(program)()


@functools.cache
def expected(kind: str, variant: str) -> dict[str, Any]:
    case = make(kind, variant)
    closed = ClosedForm(case)
    args = closed.arguments(ORIGIN)
    z, dz = closed.solve(args), closed.jacobian(ORIGIN)
    rows = np.stack([dz.real, dz.imag]) if case.dtype.kind == "c" else dz
    hessian = closed.hessian(ORIGIN)
    points = np.asarray(case.points, np.float64)
    gradients = np.stack([closed.gradient(t) for t in points])
    weighted = SCAN_WEIGHTS[:, None] * gradients
    return {
        "value": restore(z),
        "jvp": restore(dz[:, 0]),
        "vjp": closed.cotangent(z, args, case.cotangent),
        "jacfwd": rows,
        "jacrev": rows,
        "forward_over_forward": hessian,
        "forward_over_reverse": hessian,
        "reverse_over_forward": hessian,
        "reverse_over_reverse": hessian,
        "vmap_of_grad": gradients,
        "grad_of_vmap": weighted,
        "grad_in_scan": gradients,
        "grad_of_scan": weighted,
    }


def allowed(variant: str) -> float:
    """The relative error that default tolerances (`eps**(2/3)`) and rounding permit."""
    return 1e-4 if variant == "float32" else 1e-8


class Matrix:
    """The tests of one solver. A class is what pytest-xdist's `loadscope` keeps in one
    process, so that each program is compiled once."""

    solver: str

    @pytest.mark.parametrize("entry", ENTRIES)
    @pytest.mark.parametrize(("kind", "variant"), PROGRAMS)
    def test_entry(self, kind, variant, entry):
        came = computed(self.solver, kind, variant)[entry]
        error = relative_error(came, expected(kind, variant)[entry])
        assert error <= allowed(variant)

    @pytest.mark.parametrize(("kind", "variant"), PROGRAMS)
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

    @quick_jit
    def both(t):
        return jax.grad(loss)(t), jax.hessian(loss)(t)

    gradient, hessian = both(jnp.asarray(ORIGIN))
    assert relative_error(gradient, closed.gradient(ORIGIN)) <= 1e-13
    assert relative_error(hessian, closed.hessian(ORIGIN)) <= 1e-10
