"""The derivative matrix for solvers that know nothing of JAX: SciPy's, and one in C.

On the host under every transformation; and, where nothing is traced, as they are.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.flatten_util import ravel_pytree

import implicax as ix

from .legacy import COMPILER, LEGACY, solved_by
from .oracles import relative_error
from .problems import DIRECTIONS, Case
from .test_derivative_matrix import ENTRIES, allowed, expected, transformations

with_compiler = pytest.mark.skipif(
    COMPILER is None, reason="there is no C compiler called cc"
)
EAGER = [entry for entry in ENTRIES if "vmap" not in entry and "scan" not in entry]


@functools.cache
def computed(name: str, variant: str) -> dict[str, Any]:
    """All entries of the matrix, compiled."""
    solver, kind = LEGACY[name]
    case = solved_by(ix.host(solver), kind, variant)
    # The name of a solver of the library's is asked for, and not used.
    return transformations(case, "Newton")


def eager(case: Case) -> dict[str, Callable[[], Any]]:
    """The entries that need no tracing of the solver."""
    solve = lambda args: case.solve(None, args)
    loss = lambda t: case.loss(solve(case.along(t)))
    t = jnp.zeros(DIRECTIONS, case.weights.dtype)
    first = jax.tree.map(lambda leaf: leaf[0], case.directions)

    def row(t: Any) -> Any:
        z, _ = ravel_pytree(solve(case.along(t)))
        return jnp.stack([z.real, z.imag]) if case.dtype.kind == "c" else z

    return {
        "value": lambda: solve(case.args),
        "jvp": lambda: jax.jvp(solve, (case.args,), (first,))[1],
        "vjp": lambda: jax.vjp(solve, case.args)[1](case.cotangent)[0],
        "jacfwd": lambda: jax.jacfwd(row)(t),
        "jacrev": lambda: jax.jacrev(row)(t),
        "forward_over_forward": lambda: jax.jacfwd(jax.jacfwd(loss))(t),
        "forward_over_reverse": lambda: jax.jacfwd(jax.jacrev(loss))(t),
        "reverse_over_forward": lambda: jax.jacrev(jax.jacfwd(loss))(t),
        "reverse_over_reverse": lambda: jax.jacrev(jax.jacrev(loss))(t),
    }


class Matrix:
    """The tests of one solver, kept in one process (see the library's own matrix)."""

    name: str

    @pytest.mark.parametrize("entry", ENTRIES)
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


@pytest.mark.parametrize("variant", ["float32", "float64", "complex128", "conjugate"])
class TestSciPyRoot(Matrix):
    name = "scipy_root"


@pytest.mark.parametrize("variant", ["float32", "float64", "complex128", "conjugate"])
class TestSciPyFixedPoint(Matrix):
    name = "scipy_fixed_point"


@with_compiler
@pytest.mark.parametrize("variant", ["float32", "float64", "complex128"])
class TestC(Matrix):
    name = "c"


@pytest.mark.parametrize("entry", EAGER)
@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("scipy_root", "conjugate"),
        ("scipy_fixed_point", "float64"),
        pytest.param("c", "float32", marks=with_compiler),
        pytest.param("c", "complex128", marks=with_compiler),
    ],
)
class TestEager:
    def test_entry(self, name, variant, entry):
        solver, kind = LEGACY[name]
        came = eager(solved_by(solver, kind, variant))[entry]()
        error = relative_error(came, expected(kind, variant)[entry])
        assert error <= allowed(variant)
