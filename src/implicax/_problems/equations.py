"""The conditions as a solver sees them: functions of the unknown alone."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from implicax._core import tree_math
from implicax._core.tree_math import Vector
from implicax._linear.jacobian_structure import JacobianStructure
from implicax._linear.lu import materialize
from implicax._linear.sparse_matrix import SparseMatrix
from implicax._linear.sparsity import Sparsity
from implicax._problems.losses import AbstractLoss
from implicax._problems.optimality_conditions import OptimalityConditions


class Iterate(eqx.Module):
    """An iterate, and its residual.

    ```python
    import implicax as ix

    system = ix.System(lambda y: y**2 - 2.0)
    print(float(system.evaluate(3.0).norm))
    ```
    ```text
    7.0
    ```
    """

    y: Vector
    residual: Vector
    norm: Float[Array, ""]
    """`|F(y)|`, its largest component."""
    objective: Float[Array, ""] | None = None
    """What is minimised, where something is."""
    fixed_point: bool = eqx.field(static=True, default=False)
    """Whether the residual is `y - f(y)`."""


class System(eqx.Module):
    """`residual(y) = 0`, everything but `y` fixed.

    Where the residual is the gradient of an objective, that is there too; and where the
    objective is a sum of squares, the errors.

    Made by hand to single-step a solver:

    ```python
    import implicax as ix
    import jax.numpy as jnp

    system = ix.System(lambda y: y - jnp.cos(y), fixed_point=True)
    solver = ix.Picard()
    state = solver.init(system, jnp.asarray(0.5))
    while not solver.converged(state):
        state = solver.step(system, state)
    print(f"{state.iterate.y:.4f}")
    ```
    ```text
    0.7391
    ```
    """

    residual: Callable[[Vector], Vector]
    fixed_point: bool = eqx.field(static=True, default=False)
    """Whether the residual is `y - f(y)`."""
    differentiable: bool = eqx.field(static=True, default=False)
    """Whether derivatives are to flow through a solver's steps."""
    reverse_only: bool = eqx.field(static=True, default=False)
    """Whether the residual has a VJP but no JVP."""
    objective: Callable[[Vector], Array] | None = None
    """What `residual` is the gradient of, if it is one."""
    errors: Callable[[Vector], tuple[Vector, AbstractLoss]] | None = None
    """What the objective sums up, by which loss, if it is a sum."""
    errors_reverse_only: bool = eqx.field(static=True, default=False)
    """Whether the errors have a VJP but no JVP."""
    sparsity: Sparsity | None = eqx.field(static=True, default=None)
    """Where the Jacobian may be other than zero, if that is known."""

    @classmethod
    def of(
        cls,
        conditions: OptimalityConditions,
        inputs: PyTree[Array],
        *,
        differentiable: bool = False,
    ) -> "System":
        """The conditions at `inputs`."""

        def at(function: Callable[..., Any] | None) -> Any:
            return None if function is None else lambda v: function(v, inputs)

        return cls(
            at(conditions.residual),
            conditions.structure.fixed_point,
            differentiable,
            conditions.structure.reverse_only,
            at(conditions.objective if conditions.has_objective else None),
            at(conditions.errors if conditions.has_errors else None),
            conditions.traced_reverse_only,
            conditions.structure.sparsity,
        )

    @property
    def structure(self) -> JacobianStructure:
        """What is known of the Jacobian of the residual."""
        return JacobianStructure(
            fixed_point=self.fixed_point,
            reverse_only=self.reverse_only,
            sparsity=self.sparsity,
        )

    def evaluate(self, y: Vector) -> Iterate:
        """The residual at `y`, and its norm (without a derivative: it steers)."""
        objective = None
        if self.objective is None:
            residual = self.residual(y)
        else:
            objective, residual = jax.value_and_grad(self.objective)(y)
        norm = tree_math.max_norm(jax.lax.stop_gradient(residual))
        if objective is not None:
            # A gradient that is zero, of an objective that is infinite, is no minimum.
            known = jnp.isfinite(jax.lax.stop_gradient(objective))
            norm = jnp.where(known, norm, jnp.nan)
        return Iterate(y, residual, norm, objective, self.fixed_point)

    def jacobian(self, y: Vector) -> Float[Array, "n n"]:
        """`dF/dy` as a matrix: by columns, or by rows where only a VJP is there."""
        if self.reverse_only:
            _, pullback = jax.vjp(self.residual, y)
            return materialize(lambda u: pullback(u)[0], y).T
        return materialize(jax.linearize(self.residual, y)[1], y)

    def sparse_jacobian(self, y: Vector) -> SparseMatrix:
        """The same at the places of its pattern."""
        assert self.sparsity is not None
        if self.reverse_only:
            _, pullback = jax.vjp(self.residual, y)
            pattern = self.sparsity.transposed
            return SparseMatrix.of(lambda u: pullback(u)[0], y, pattern).transposed()
        product = jax.linearize(self.residual, y)[1]
        return SparseMatrix.of(product, y, self.sparsity)
