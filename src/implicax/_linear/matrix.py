"""Sizes of a Jacobian that is formed, as one array or at the places of its pattern."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicax._core import tree_math
from implicax._core.tree_math import Vector
from implicax._linear.lu import row_scale
from implicax._linear.sparse_matrix import SparseMatrix

Matrix = Float[Array, "n n"] | SparseMatrix


def row_norms(matrix: Matrix) -> Float[Array, " n"]:
    """The Euclidean norm of each row; one where that is no unit."""
    matrix = jax.lax.stop_gradient(matrix)
    if isinstance(matrix, SparseMatrix):
        return matrix.row_norms
    largest = row_scale(matrix)
    norms = largest * jnp.linalg.norm(matrix / largest[:, None], axis=1)
    usable = jnp.isfinite(norms) & (largest > jnp.finfo(norms.dtype).tiny)
    return jnp.where(usable, norms, 1)


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
