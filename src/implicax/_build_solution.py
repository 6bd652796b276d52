"""From what a solver left behind to a `Solution`: one way out for all solvers."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from implicax._core.domain import Chart
from implicax._core.failure import (
    OnFailure,
    check_on_failure,
    poisoned,
    poisons,
    raises,
)
from implicax._core.solution import ConvergenceError, Solution, Status
from implicax._core.tree_math import Vector
from implicax._derivatives.base import AbstractDerivative
from implicax._derivatives.implicit import Implicit
from implicax._problems.canonical import CanonicalProblem
from implicax._problems.optimality_conditions import OptimalityConditions
from implicax._solvers.loop import SolverResult


def build_solution(
    canonical: CanonicalProblem,
    solver: Any,
    derivative: AbstractDerivative,
    outcome: SolverResult,
    on_failure: OnFailure,
    name: str,
    message: str = "",
    finish: Callable[[Solution[Any]], Solution[Any]] = lambda solution: solution,
    kink: Bool[Array, "..."] | None = None,
) -> Any:
    """The outcome with its derivative attached; failures raise or become NaN.

    `solver` is what took the steps, or `None` if that is not one of ours; error
    messages call it `name`, and quote its `message`. `finish` makes of the solution
    what is returned, and what an error holds. `kink` says whether the solution is at
    one, where that is known.
    """
    outcome = _refused(outcome, derivative, kink)
    failed = outcome.status != Status.converged
    if isinstance(canonical.view, Chart) and not derivative.differentiates_loop:
        # What is known of the inverse is known in the chart that the solver was in.
        canonical = canonical.recentered(outcome.y)
        outcome = dataclasses.replace(outcome, y=canonical.v0, approximate_inverse=None)
    y, aux, objective = _differentiate(
        canonical.conditions,
        solver,
        derivative.on(canonical.view),
        outcome,
        canonical.inputs,
        poisons(on_failure, failed),
    )
    solution = finish(
        Solution(
            canonical.view.from_real(y),
            canonical.restore_aux(aux),
            outcome.status,
            outcome.stats,
            objective,
        )
    )
    if raises(on_failure, failed):
        raise ConvergenceError(solution, name, message)
    return solution


def _refused(
    outcome: SolverResult, derivative: AbstractDerivative, kink: Array | None
) -> SolverResult:
    """A failure at a kink, where that was asked for."""
    if not isinstance(derivative, Implicit) or derivative.kinks == "select":
        return outcome
    if kink is None:
        raise TypeError(
            "kinks='error' is for bounds, constraints, programs, complementarity and "
            "ix.Composite, which know where they have kinks. Of a function, ix.certify "
            "tells (certificate.smooth). Leave it out."
        )
    told = (outcome.status == Status.converged) & kink
    status = Status.where(told, Status.kink, outcome.status)
    return dataclasses.replace(outcome, status=status)


@eqx.filter_jit
def _differentiate(
    conditions: OptimalityConditions,
    solver: Any,
    derivative: AbstractDerivative,
    outcome: SolverResult,
    inputs: PyTree[Array],
    poison: bool,
) -> tuple[Vector, list[Array], Array | None]:
    """The solution with its derivative attached, and the auxiliary output and the
    objective at it."""
    solved = outcome.status == Status.converged
    constants, (arrays, active) = inputs
    if poison and jax.tree.leaves(active):
        # What does not act lets nothing through, NaN neither: so it is in the data.
        constants, arrays = poisoned((constants, arrays), solved)
        inputs = constants, (arrays, active)
    y = derivative.attach(conditions, solver, outcome, inputs)
    objective = None
    if conditions.reports_objective:
        objective = derivative.attach_objective(conditions, y, outcome, inputs)
    if poison:
        y, objective = poisoned((y, objective), solved)
    return y, (conditions(y, inputs)[1] if conditions.has_aux else []), objective


def stop_gradient(tree: PyTree) -> PyTree:
    arrays, others = eqx.partition(tree, eqx.is_array)
    frozen = jax.lax.stop_gradient(arrays)
    # Under `jax.grad` what is left of a Python number may not be an array.
    return eqx.combine(jax.tree.map(jnp.asarray, frozen), others)


def exact_derivative(derivative: Any, on_failure: Any) -> AbstractDerivative:
    """The derivative of a problem with constraints, or an error: one that takes a
    solver's steps does not know which constraints act."""
    derivative = Implicit() if derivative is None else derivative
    check_call(derivative, on_failure)
    if derivative.differentiates_loop or derivative.uses_solver_steps:
        raise TypeError(
            f"{type(derivative).__name__} takes steps of a solver of equations, and "
            "bounds and constraints are not in these. Use ix.Implicit()."
        )
    return derivative


def check_call(derivative: Any, on_failure: Any) -> None:
    """An error unless these are options of a solve."""
    if not isinstance(derivative, AbstractDerivative):
        raise TypeError(
            "derivative must be one of ix.Implicit(), Unrolled(), Truncated(steps), "
            "OneStep(), Neumann(terms), Phantom(steps, damping), and it is "
            f"{derivative!r}."
        )
    check_on_failure(on_failure)
