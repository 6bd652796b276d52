"""`solve`, where there are bounds or constraints."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from implicax._build_solution import build_solution, exact_derivative, stop_gradient
from implicax._core import tree_math
from implicax._core.checks import check_real, split_arrays
from implicax._core.failure import OnFailure
from implicax._core.solution import Solution
from implicax._core.traced_function import TracedFunction, trace
from implicax._derivatives.base import AbstractDerivative
from implicax._problems.canonical import canonicalize
from implicax._problems.constrained import Constrained
from implicax._problems.constrained_solution import ConstrainedSolution
from implicax._problems.constraints import read_bounds
from implicax._solvers.constrained.base import AbstractConstrainedSolver
from implicax._solvers.constrained.primal_dual import NonlinearInteriorPoint
from implicax._solvers.constrained.run import run_constrained
from implicax._solvers.external.scipy import SciPy
from implicax._solvers.external.scipy_constrained import SciPyConstrained
from implicax._solvers.loop import SolverResult
from implicax._solvers.run import check_max_steps, check_start, name_of


def solve_constrained(
    problem: Constrained,
    y0: Any,
    args: PyTree,
    solver: Any,
    derivative: AbstractDerivative | None,
    max_steps: int,
    on_failure: OnFailure,
) -> Any:
    """As `solve`, for problems with bounds or constraints."""
    check_start(y0)
    derivative = exact_derivative(derivative, on_failure)
    check_max_steps(max_steps)
    solver = _solver(solver, problem)
    y0 = _start(y0)
    read_bounds(problem.bounds, y0)
    arrays, others = split_arrays(args)
    x0, unravel = tree_math.ravel(y0)

    def traced(v: Any, arrays: PyTree) -> Any:
        parts = problem.parts(unravel(v[0]), eqx.combine(arrays, others))
        return dataclasses.replace(parts, aux=None)

    functions, constants = trace(TracedFunction, traced, (x0,), arrays)
    start: Any = y0
    if problem.has_multipliers:
        sides = jax.eval_shape(traced, (x0,), arrays).lower
        count = sides.size if problem.bounds is not None else sides.size - x0.size
        zeros = jnp.zeros(count, sides.dtype)
        start = y0, problem.multipliers(zeros, y0, args)
    whole = problem if problem.has_multipliers else problem.problem
    canonical = canonicalize(whole, start, args)
    inputs = (constants, arrays), canonical.inputs
    x0, solver, inputs, like = stop_gradient((x0, solver, inputs, canonical.v0))
    result = run_constrained(
        functions,
        canonical.conditions,
        solver,
        x0,
        like,
        inputs,
        jnp.asarray(max_steps),
        problem.bounds is not None,
    )
    if problem.has_multipliers:
        canonical = canonical.on(result.side)
    outcome = SolverResult(
        result.v, result.status, result.stats, result.approximate_inverse
    )

    def finish(solution: Solution) -> Solution:
        if not problem.has_multipliers:
            return solution
        y, dual = solution.value
        parts = solution.aux, solution.status, solution.stats, solution.objective
        return ConstrainedSolution(y, *parts, dual, result.degeneracy)

    return build_solution(
        canonical,
        None,
        derivative,
        outcome,
        on_failure,
        name_of(solver),
        finish=finish,
        kink=result.degeneracy.weak,
    )


def _start(y0: Any) -> PyTree:
    """`y0`, checked: real arrays of one precision, and few enough."""
    y0 = check_real(y0, "Within bounds or under constraints")
    if tree_math.num_unknowns(y0) > tree_math.DENSE_LIMIT:
        raise ValueError(
            f"Within bounds or under constraints there may be {tree_math.DENSE_LIMIT} "
            f"unknowns, and y0 has {tree_math.num_unknowns(y0)}: matrices are dense."
        )
    return y0


def _solver(solver: Any, problem: Constrained) -> AbstractConstrainedSolver:
    if solver is None:
        return NonlinearInteriorPoint()
    if isinstance(solver, SciPy):
        return SciPyConstrained.of(solver, bool(problem.constraints))
    if not isinstance(solver, AbstractConstrainedSolver):
        raise TypeError(
            "Within bounds or under constraints the solver must know them, as "
            "ix.NonlinearInteriorPoint() and ix.SciPy('SLSQP') do, and it is "
            f"{solver!r}."
        )
    return solver
