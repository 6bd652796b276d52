"""`J = dF/dy` at one point: corrections that it makes, and what its spectrum says.

Small matrices are decomposed, at a size where that is cheap; of others the spectrum is
estimated from products.
"""

import operator
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from implicax._core import tree_math
from implicax._core.noise import noise
from implicax._core.tree_math import DENSE_LIMIT, Vector
from implicax._linear.jacobian_structure import JacobianStructure
from implicax._linear.krylov import Krylov
from implicax._linear.linear_solve import SMALL, Auto, LinearSolve
from implicax._linear.lu import LUFactors, MatVec, factorise, materialize
from implicax._linear.matrix import Matrix, magnitude
from implicax._linear.minimum_norm import MinimumNorm
from implicax._linear.sparse_lu import SparseLU
from implicax._linear.sparse_matrix import SparseMatrix
from implicax._linear.spectral_estimates import (
    gelfand,
    largest_singular_value,
    no_descent,
    spectral_radius,
)

#: So many rounding errors are tried: of six, the root mean square is hardly ever less
#: than a third of what is usual.
SAMPLES = 6


class Spectrum(NamedTuple):
    """What the hypotheses of the theorem are judged by."""

    condition_number: Float[Array, ""]
    """Of `U J U`; infinite where that is singular to working precision."""
    minimum: Bool[Array, ""] | None
    """Whether no negative curvature was found; `None` for equations."""
    radius: Float[Array, ""] | None
    """Of the map's Jacobian `I - J`; `None` for other equations."""


class Linearised(eqx.Module):
    """The Jacobian at `v`, by its products."""

    product: MatVec
    transposed: MatVec
    v: Vector
    matrix: Float[Array, "n n"] | None
    """`None` where it is too large to be formed, or is not to be."""
    solve: LinearSolve

    @classmethod
    def of(
        cls,
        product: MatVec,
        transposed: MatVec,
        v: Vector,
        choice: Auto | Krylov | MinimumNorm,
        structure: JacobianStructure,
    ) -> "Linearised":
        matrix = factor = None
        if isinstance(choice, Auto) and structure.sparsity is not None:
            factor = SparseLU.of(SparseMatrix.of(product, v, structure.sparsity))
        elif isinstance(choice, Auto) and tree_math.num_unknowns(v) <= DENSE_LIMIT:
            matrix = materialize(product, v)
            factor = factorise(matrix)
        solve = LinearSolve(choice, factor, structure)
        return cls(product, transposed, v, matrix, solve)

    @property
    def _factor(self) -> LUFactors | SparseLU | None:
        factor = self.solve.approximate_inverse
        return factor if isinstance(factor, LUFactors | SparseLU) else None

    @property
    def _formed(self) -> Matrix | None:
        factor = self._factor
        return factor.matrix if isinstance(factor, SparseLU) else self.matrix

    def rounding_errors(
        self, adjoint: Vector, by_y: Vector
    ) -> tuple[Vector, Vector] | None:
        """What rounding errors may make of `v`, and of what is left of the equation
        `J^T u = dl/dy` of the `adjoint`: a few samples of each, stacked. `None` where
        the Jacobian is not formed.

        Equations are known to the rounding unit of the terms that they sum up,
        `|J| |v|` and `|J^T| |u| + |dl/dy|` (Higham, *Accuracy and Stability of
        Numerical Algorithms*, ch. 7), and errors of that size elimination leaves.
        """
        J = self._formed
        if J is None:
            return None
        _, unravel = tree_math.ravel(self.v)
        transposed = J.transposed() if isinstance(J, SparseMatrix) else J.T
        adjoint_rows = magnitude(transposed, adjoint)
        adjoint_rows = adjoint_rows + jnp.abs(tree_math.ravel(by_y)[0])
        unit = tree_math.coarsest_eps(self.v) / 2
        rows = unit * jnp.stack([magnitude(J, self.v), adjoint_rows])
        errors = rows[None] * noise((SAMPLES, *rows.shape), rows.dtype)
        of_v = jax.vmap(lambda b: self.correct(unravel(b)))(errors[:, 0])
        return of_v, jax.vmap(unravel)(errors[:, 1])

    def correct(self, b: Vector) -> Vector:
        """`J^-1 b`, for its size; NaN where `J` is singular."""
        if self._factor is None:
            return self.solve.approximately(self.product, b, False)
        return _known(self._factor, b, False)

    def adjoint(self, *parts: Vector) -> Vector:
        """`J^-T` of the sum of the parts. (Which a singular `J` may not reach: the last
        part is unchecked there.)"""
        *checked, last = parts
        if self._factor is not None:
            total = last
            for part in checked:
                total = tree_math.add(total, part)
            return _known(self._factor, total, True)
        total = self.solve.approximately(self.transposed, last, True)
        for part in checked:
            total = tree_math.add(total, self.solve.adjoint(self.transposed, part))
        return total

    @property
    def _symmetric(self) -> bool:
        return self.solve.structure.positive_definite

    @property
    def _diagonal(self) -> Float[Array, " n"] | None:
        if isinstance(self._factor, SparseLU):
            return self._factor.matrix.diagonal
        return None if self.matrix is None else jnp.diagonal(self.matrix)

    @property
    def units(self) -> Vector:
        """The diagonal of `U`.

        Variables of different units do not make a minimum ill-conditioned. Scaled to a
        unit diagonal, the condition number is within a factor of n of the least that
        any scaling gives (van der Sluis 1969, thm 4.1).
        """
        diagonal = self._diagonal
        if diagonal is None or not self._symmetric:
            return jax.tree.map(jnp.ones_like, self.v)
        _, unravel = tree_math.ravel(self.v)
        diagonal = jnp.abs(diagonal)
        return unravel(jnp.where(diagonal > 0, diagonal**-0.5, 1))

    def spectrum(self, units: Vector) -> Spectrum:
        if self.matrix is None or self.matrix.shape[0] > SMALL:
            return self._estimated(units)
        row, _ = tree_math.ravel(units)
        minimum = radius = None
        if self._symmetric:
            values = jnp.linalg.eigvalsh(row[:, None] * self.matrix * row[None, :])
            minimum = values[0] > 0
            values = jnp.abs(values)
            largest, least = jnp.maximum(values[0], values[-1]), jnp.min(values)
        else:
            values = jnp.linalg.svd(self.matrix, compute_uv=False)
            largest, least = values[0], values[-1]
        if self.solve.structure.fixed_point:
            radius = gelfand(jnp.eye(row.size, dtype=row.dtype) - self.matrix)
        lost = ~(least > tree_math.coarsest_eps(self.v) * largest)
        condition = jnp.where(lost, jnp.inf, largest / least)
        return Spectrum(condition, minimum, radius)

    def _estimated(self, units: Vector) -> Spectrum:
        minimum = radius = None
        if self._symmetric and self.matrix is not None:
            # Cholesky's factorisation exists for positive definite matrices only.
            minimum = jnp.all(jnp.isfinite(jnp.linalg.cholesky(self.matrix)))
        elif self._symmetric:
            minimum = no_descent(self.product, self.v)
        if self.solve.structure.fixed_point:
            radius = spectral_radius(
                lambda t: tree_math.subtract(t, self.product(t)), self.v
            )
        return Spectrum(self._condition_number(units), minimum, radius)

    def _condition_number(self, units: Vector) -> Float[Array, ""]:
        def multiplied(x: Vector) -> Vector:
            return jax.tree.map(operator.mul, x, units)

        def divided(x: Vector) -> Vector:
            return jax.tree.map(operator.truediv, x, units)

        size = largest_singular_value(
            lambda x: multiplied(self.product(multiplied(x))),
            lambda x: multiplied(self.transposed(multiplied(x))),
            units,
        )
        size_of_inverse = largest_singular_value(
            lambda x: divided(self.correct(divided(x))),
            lambda x: divided(self.adjoint(divided(x))),
            units,
        )
        condition = size * size_of_inverse
        return jnp.where(jnp.isfinite(condition), condition, jnp.inf)


def _known(factor: LUFactors | SparseLU, b: Vector, transposed: bool) -> Vector:
    singular = factor.singular
    return jax.tree.map(
        lambda x: jnp.where(singular, jnp.nan, x), factor.solve(b, transposed)
    )
