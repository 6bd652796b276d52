"""How a solution is differentiated: what every way has in common."""

import abc
from typing import ClassVar

import equinox as eqx
from jaxtyping import Array, Float, PyTree

from implicax._core.domain import View
from implicax._core.tree_math import Vector
from implicax._problems.optimality_conditions import OptimalityConditions
from implicax._solvers.base import AbstractSolver
from implicax._solvers.loop import SolverResult


class AbstractDerivative(eqx.Module):
    """Base of the `derivative=` choices."""

    #: Whether the solver's own loop is to be differentiated.
    differentiates_loop: ClassVar[bool] = False
    #: Whether steps of the solver are taken at the solution.
    uses_solver_steps: ClassVar[bool] = False

    def on(self, view: View) -> "AbstractDerivative":
        """The same on the real view of the unknown."""
        del view
        return self

    @abc.abstractmethod
    def attach(
        self,
        conditions: OptimalityConditions,
        solver: AbstractSolver,
        outcome: SolverResult,
        inputs: PyTree[Array],
    ) -> Vector:
        """`outcome.y`, unchanged in value, with its derivative in `inputs`."""

    def attach_objective(
        self,
        conditions: OptimalityConditions,
        y: Vector,
        outcome: SolverResult,
        inputs: PyTree[Array],
    ) -> Float[Array, ""]:
        """The objective at the minimum `y`, which has been attached to."""
        del outcome
        return conditions.objective(y, inputs)
