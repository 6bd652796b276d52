"""Sizes of a Jacobian that is formed, as one array or at the places of its pattern."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicax._core import tree_math
from implicax._core.tree_math import Vector
from implicax._linear.sparse_matrix import SparseMatrix

Matrix = Float[Array, "n n"] | SparseMatrix


def row_units(matrix: Matrix) -> Float[Array, " n"]:
    """What each row is measured by: the sum of its absolute entries; one where that is
    no unit."""
    matrix = jax.lax.stop_gradient(matrix)
    if isinstance(matrix, SparseMatrix):
        sums = matrix.row_sums
    else:
        # A product, and no reduction: that would write all absolute values first.
        sums = jnp.abs(matrix) @ jnp.ones((matrix.shape[1],), matrix.dtype)
    usable = jnp.isfinite(sums) & (sums > jnp.finfo(sums.dtype).tiny)
    return jnp.where(usable, sums, 1)


def num_terms(matrix: Matrix) -> int:
    """How many terms an equation has, at most."""
    if isinstance(matrix, SparseMatrix):
        return matrix.sparsity.most_in_a_row
    return matrix.shape[0]


def magnitude(matrix: Matrix, y: Vector) -> Float[Array, " n"]:
    """`|J| |y|`: what each equation is made of."""
    flat, _ = tree_math.ravel(y)
    if isinstance(matrix, SparseMatrix):
        return jax.lax.stop_gradient(matrix.magnitude(flat))
    return jax.lax.stop_gradient(jnp.abs(matrix) @ jnp.abs(flat))
