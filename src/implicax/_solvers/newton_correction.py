"""Newton's correction `J^-1 F`: by a matrix, by a sparse one, or by products alone."""

from typing import Any

import equinox as eqx
import jax

from implicax._core import tree_math
from implicax._core.tree_math import DENSE_LIMIT, Vector
from implicax._linear.linear_solve import Auto, LinearSolve
from implicax._linear.lu import (
    Elimination,
    LUFactors,
    augment,
    eliminate,
    no_elimination,
)
from implicax._linear.matrix import Matrix
from implicax._linear.sparse_lu import SparseElimination, SparseLU
from implicax._problems.equations import Iterate, System


class Correction(eqx.Module):
    """What one linear system of Newton's method leaves behind."""

    correction: Vector
    matrix: Matrix | None = None
    """`J`, where it is formed; ..."""
    elimination: Elimination | SparseElimination | None = None
    factor: LUFactors | SparseLU | None = None
    """... its factors, for other right-hand sides, and ..."""
    rows: Matrix | None = None
    """... itself, both without a derivative."""


def at_start(
    choice: Any, system: System, y: Vector
) -> tuple[Matrix | None, Elimination | SparseElimination | None]:
    """The Jacobian at the start, where it is formed, and a placeholder for what its
    elimination will leave."""
    if not isinstance(choice, Auto):
        return None, None
    if system.sparsity is not None:
        dtype = tree_math.working_dtype(y)
        placeholder = SparseElimination.none(system.sparsity, dtype)
        return system.sparse_jacobian(y), placeholder
    if tree_math.num_unknowns(y) <= DENSE_LIMIT:
        return system.jacobian(y), no_elimination(y)
    return None, None


def correct(choice: Any, system: System, iterate: Iterate) -> Correction:
    """`J^-1 F` at an iterate, by the linear solver that was chosen."""
    flat, unravel = tree_math.ravel(iterate.residual)
    auto = isinstance(choice, Auto)
    if auto and system.sparsity is not None:
        if system.differentiable:
            raise TypeError(
                "Derivatives do not flow through a sparse factorisation: take "
                "ix.Implicit(), the default, or leave sparsity= out."
            )
        matrix = system.sparse_jacobian(iterate.y)
        elimination = SparseElimination.of(matrix, iterate.residual)
        known = elimination.factor, matrix
        return Correction(unravel(elimination.solution), matrix, elimination, *known)
    if auto and tree_math.num_unknowns(iterate.y) <= DENSE_LIMIT:
        matrix = system.jacobian(iterate.y)
        elimination = eliminate(*augment(matrix, flat))
        known = jax.lax.stop_gradient((elimination.factor, matrix))
        return Correction(unravel(elimination.solution), matrix, elimination, *known)
    if system.reverse_only:
        raise TypeError(
            "fn has a VJP only (a jax.custom_vjp), and matrix-free Newton needs "
            "Jacobian-vector products. Use ix.Anderson or ix.Broyden, or give fn a "
            "jax.custom_jvp."
        )
    _, product = jax.linearize(system.residual, iterate.y)
    solve = LinearSolve(choice, None, system.structure)
    return Correction(solve.approximately(product, iterate.residual, False))
