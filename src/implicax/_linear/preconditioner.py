"""Preconditioners: what is known of `J^-1` before a Krylov method begins.

Each becomes an approximate inverse, with a transpose for the adjoint.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from implicax._core import tree_math
from implicax._core.tree_math import Vector
from implicax._linear.approximate_inverse import ApproximateInverse
from implicax._linear.jacobian_structure import JacobianStructure
from implicax._linear.lu import LUFactors, MatVec
from implicax._linear.sparse_lu import SparseLU
from implicax._linear.sparse_matrix import SparseMatrix
from implicax._linear.sparsity import Sparsity

#: Those that are made of the Jacobian, at the places of its pattern.
NAMES = ("jacobi", "ilu")


class _Diagonal(eqx.Module):
    """Jacobi's: the inverse of the diagonal."""

    diagonal: Float[Array, " n"]

    def solve(self, b: Vector, transposed: bool) -> Vector:
        del transposed
        flat, unravel = tree_math.ravel(b)
        return unravel(flat / jnp.where(self.diagonal == 0, 1, self.diagonal))


class _Function(eqx.Module):
    """A linear function of flat vectors, traced by JAX, which transposes it."""

    function: Callable[[Array], Array]

    def solve(self, b: Vector, transposed: bool) -> Vector:
        flat, unravel = tree_math.ravel(b)

        def apply(r: Array) -> Array:
            return jnp.reshape(self.function(r), r.shape).astype(r.dtype)

        if transposed:
            return unravel(jax.linear_transpose(apply, flat)(flat)[0])
        return unravel(apply(flat))


class _OnHost(eqx.Module):
    """A `scipy.sparse.linalg.LinearOperator`: a cycle of pyamg's, say."""

    operator: Any = eqx.field(static=True)

    def solve(self, b: Vector, transposed: bool) -> Vector:
        flat, unravel = tree_math.ravel(b)
        operator = self.operator
        multiply = operator.rmatvec if transposed else operator.matvec

        def on_host(rows: Any) -> np.ndarray:
            rows = np.asarray(rows)
            lanes = rows.reshape(-1, rows.shape[-1])
            try:
                found = np.stack([np.ravel(multiply(lane)) for lane in lanes])
            except NotImplementedError as error:  # what SciPy raises for no rmatvec
                if not transposed:
                    raise
                raise TypeError(
                    "The preconditioner has no rmatvec, and reverse mode multiplies by "
                    "its transpose. Give scipy.sparse.linalg.LinearOperator(shape, "
                    "matvec, rmatvec=...): the same again, where it is symmetric."
                ) from error
            return found.reshape(rows.shape).astype(rows.dtype)

        shape = jax.ShapeDtypeStruct(flat.shape, flat.dtype)
        return unravel(
            jax.pure_callback(on_host, shape, flat, vmap_method="expand_dims")
        )


def as_preconditioner(given: Any) -> Any:
    """`None`, a name, or an approximate inverse; or an error that says what is one."""
    if given is None or (isinstance(given, str) and given in NAMES):
        return given
    if not isinstance(given, str | type):
        import scipy.sparse

        if scipy.sparse.issparse(given):
            return _factors(given)
        if hasattr(given, "matvec") and hasattr(given, "rmatvec"):
            return _OnHost(given)
        if isinstance(given, ApproximateInverse):
            return given
        if callable(given):
            function: Any = given
            return _Function(function)
    raise TypeError(
        "preconditioner must be 'jacobi', 'ilu', a SciPy sparse matrix near the "
        "Jacobian (it is factorised), a linear function of flat vectors, a SciPy "
        "LinearOperator, or an object with solve(b, transposed), not "
        f"{given!r}."
    )


def _factors(matrix: Any) -> SparseLU:
    """Of a matrix near the Jacobian, once."""
    rows, columns = matrix.shape
    if rows != columns:
        raise ValueError(
            f"The preconditioner is {rows} x {columns}, and a Jacobian is square."
        )
    sparsity = Sparsity.of(matrix, rows)
    entries = matrix.tocsr()[sparsity.rows, sparsity.columns]
    values = jnp.asarray(np.ravel(entries).astype(float))
    if not np.isfinite(values).all():
        raise ValueError("The preconditioner has entries that are not finite.")
    factor = SparseLU.of(SparseMatrix(values, sparsity, jnp.ones((), bool)))
    if bool(factor.singular):
        raise ValueError("The preconditioner is a singular matrix.")
    return factor


def inverse_of(
    preconditioner: Any,
    product: MatVec,
    b: Vector,
    structure: JacobianStructure,
    transposed: bool,
) -> tuple[MatVec | None, Bool[Array, ""]]:
    """Multiplication by the preconditioner of `product`, which is `J` (or `J^T`), and
    whether there is one: an incomplete factorisation may break down."""
    there = jnp.ones((), bool)
    if preconditioner is None:
        return None, there
    if not isinstance(preconditioner, str):
        _check_size(preconditioner, b)
        return lambda r: preconditioner.solve(r, transposed), there
    sparsity = structure.sparsity
    if sparsity is None:
        raise ValueError(
            f"preconditioner={preconditioner!r} is made of the Jacobian's entries, and "
            "where they are is not known. Give the problem sparsity='auto', or a "
            "preconditioner of your own."
        )
    # `product` is that of the transposed matrix already.
    pattern = sparsity.transposed if transposed else sparsity
    matrix = SparseMatrix.of(product, tree_math.zeros_like(b), pattern)
    # Of a preconditioner it does not matter whether the pattern misses something.
    matrix = dataclasses.replace(matrix, faithful=there)
    if preconditioner == "jacobi":
        diagonal = _Diagonal(jax.lax.stop_gradient(matrix.diagonal))
        return lambda r: diagonal.solve(r, False), there
    factor = SparseLU.of(matrix, incomplete=True)
    return lambda r: factor.solve(r, False), jnp.isfinite(factor.inverse_size)


def _check_size(preconditioner: Any, b: Vector) -> None:
    n, size = tree_math.num_unknowns(b), None
    if isinstance(preconditioner, SparseLU):
        size = preconditioner.matrix.sparsity.n
    elif isinstance(preconditioner, LUFactors):
        size = preconditioner.scale.size
    elif isinstance(preconditioner, _OnHost):
        size = preconditioner.operator.shape[0]
    if size is not None and size != n:
        raise ValueError(
            f"The preconditioner is {size} x {size}, and there are {n} real unknowns."
        )
