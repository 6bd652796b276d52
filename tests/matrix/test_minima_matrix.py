"""The derivative matrix of minima: solver x problem x transformation x dtype.

As in `test_derivative_matrix.py`. The oracle is Newton's method on the gradient,
unrolled in float64, which is itself held against central differences.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import implicax as ix

from ..cases import MINIMA, make, squares
from ..derivative_matrix import (
    ORIGIN,
    PER_SOLVER,
    allowed,
    transformations,
)
from ..expectations import expected_of_a_minimum as expected
from ..expectations import oracle
from ..oracles import central, relative_error

MINIMISERS = {
    "TrustRegion": ix.TrustRegion(),
    "LevenbergMarquardt": ix.LevenbergMarquardt(),
    "Newton": ix.Newton(),
}


@functools.cache
def computed(solver: str, kind: str, variant: str) -> dict[str, Any]:
    """(The whole matrix is that of the linear path: `test_linear_paths.py`.)"""
    return transformations(make(kind, variant), MINIMISERS[solver], PER_SOLVER)


class Matrix:
    """The tests of one solver. A class is what pytest-xdist's `loadscope` keeps in one
    process, so that each program is compiled once."""

    solver: str
    programs: tuple[tuple[str, str], ...]

    def pytest_generate_tests(self, metafunc):
        if "entry" not in metafunc.fixturenames:
            metafunc.parametrize(("kind", "variant"), self.programs)
            return
        rows = [(*program, entry) for program in self.programs for entry in PER_SOLVER]
        metafunc.parametrize(("kind", "variant", "entry"), rows)

    def test_entry(self, kind, variant, entry):
        came = computed(self.solver, kind, variant)[entry]
        error = relative_error(came, expected(kind, variant)[entry])
        assert error <= allowed(variant)

    def test_dtypes_are_kept(self, kind, variant):
        case = make(kind, variant)
        of_the_unknown = {"value", "jvp", "vjp"}
        for entry, came in computed(self.solver, kind, variant).items():
            wanted = case.dtype if entry in of_the_unknown else case.weights.dtype
            assert {leaf.dtype for leaf in jax.tree.leaves(came)} == {wanted}, entry


class TestTrustRegion(Matrix):
    solver = "TrustRegion"
    programs = (
        ("minimize", "float32"),
        ("minimize", "float64"),
        ("minimize", "complex128"),
        ("least_squares", "float64"),
    )


class TestLevenbergMarquardt(Matrix):
    solver = "LevenbergMarquardt"
    programs = (
        ("least_squares", "float32"),
        ("least_squares", "float64"),
        ("least_squares", "complex128"),
    )


class TestNewton(Matrix):
    solver = "Newton"
    programs = (("minimize", "float64"), ("least_squares", "complex128"))


@pytest.mark.parametrize("variant", ["float64", "complex128"])
@pytest.mark.parametrize("kind", MINIMA)
def test_the_oracle_agrees_with_differences(kind, variant):
    case = make(kind, variant)
    loss, gradient, tangents = oracle(kind, variant)
    origin = jnp.asarray(ORIGIN)
    differences = central(lambda t: np.asarray(loss(t)), ORIGIN, 1e-3)
    assert relative_error(gradient(origin), differences) <= 1e-10
    z, dz = tangents(origin)
    differences = central(lambda t: np.asarray(tangents(t)[0]), ORIGIN, 1e-3)
    assert relative_error(dz, differences) <= 1e-10

    # And it is at a minimum, whatever Newton's method may have led to.
    flat, unravel = ravel_pytree(case.start())
    units = np.concatenate([np.eye(flat.size), 1j * np.eye(flat.size)])
    units = units if case.dtype.kind == "c" else units[: flat.size].real

    @jax.jit
    def objective(s, d):
        y = unravel(z + s.astype(flat.dtype) * d)
        out = ravel_pytree(case.fn(y, case.args))[0]
        return out[0] if kind == "minimize" else jnp.sum(squares(out)) / 2

    for d in units:
        along = lambda s: np.asarray(objective(s[0], d))
        assert abs(central(along, np.zeros(1), 1e-3)[0]) <= 1e-11
        assert along([1e-2]) > along([0.0]) < along([-1e-2])
