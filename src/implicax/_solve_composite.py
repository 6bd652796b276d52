"""`solve`, of composite problems."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from implicax._build_solution import build_solution, exact_derivative, stop_gradient
from implicax._core import tree_math
from implicax._core.checks import check_real, split_arrays
from implicax._core.domain import View
from implicax._core.failure import OnFailure
from implicax._core.solution import Solution
from implicax._core.traced_function import TracedFunction, trace
from implicax._derivatives.base import AbstractDerivative
from implicax._problems.canonical import canonicalize
from implicax._problems.composite import Composite, scalings
from implicax._problems.composite_solution import CompositeSolution
from implicax._problems.program_solution import Degeneracy
from implicax._solvers.composite.base import AbstractCompositeSolver, Split
from implicax._solvers.composite.proximal_gradient import ProximalGradient
from implicax._solvers.composite.run import run_composite
from implicax._solvers.run import check_max_steps, check_start, name_of


def solve_composite(
    problem: Composite,
    y0: Any,
    args: PyTree,
    solver: Any,
    derivative: AbstractDerivative | None,
    max_steps: int,
    on_failure: OnFailure,
) -> Any:
    """As `solve`, for composite problems."""
    check_start(y0)
    derivative = exact_derivative(derivative, on_failure)
    check_max_steps(max_steps)
    solver = ProximalGradient() if solver is None else solver
    if not isinstance(solver, AbstractCompositeSolver):
        raise TypeError(
            "The solver of an ix.Composite problem must know proximal operators, as "
            "ix.ProximalGradient() does, ProjectedGradient(), MirrorDescent(), "
            f"BlockCoordinateDescent() and ADMM(), and it is {solver!r}."
        )
    y0 = _start(y0, problem.separable)
    arrays, others = split_arrays(args)
    scaling = scalings(*problem.active_set(y0, args))

    def smooth(y: PyTree, arrays: PyTree) -> Array:
        return problem.value(y, eqx.combine(arrays, others))[0]

    def proximal(point: tuple[PyTree, PyTree], arrays: PyTree) -> PyTree:
        x, scaling = point
        return problem.proximal(x, eqx.combine(arrays, others), scaling)

    smooth_part, constants = trace(TracedFunction, smooth, y0, arrays)
    prox, numbers = trace(TracedFunction, proximal, (y0, scaling), arrays)
    canonical = canonicalize(problem, y0, args)
    split = Split(smooth_part, prox, ((constants, arrays), (numbers, arrays)), None)
    given = split, canonical.inputs, solver, y0
    split, inputs, solver, y0 = stop_gradient(given)
    assert isinstance(canonical.view, View)
    result = run_composite(
        split,
        canonical.conditions,
        inputs,
        canonical.view,
        solver,
        y0,
        int(max_steps),
        problem.separable,
    )
    canonical = canonical.on(result.active)
    no = jnp.zeros_like(result.weak)

    def finish(solution: Solution) -> Solution:
        parts = solution.value, solution.aux, solution.status, solution.stats, None
        return CompositeSolution(*parts, Degeneracy(result.weak, no, no))

    return build_solution(
        canonical,
        None,
        derivative,
        result.outcome,
        on_failure,
        name_of(solver),
        finish=finish,
        kink=result.weak,
    )


def _start(y0: Any, separable: bool) -> PyTree:
    """`y0`, checked: real arrays of one precision."""
    y0 = check_real(y0, "Of a composite problem")
    if separable and tree_math.num_unknowns(y0) > tree_math.DENSE_LIMIT:
        raise ValueError(
            f"separable=True finds units for up to {tree_math.DENSE_LIMIT} unknowns, "
            f"and y0 has {tree_math.num_unknowns(y0)}. Leave it out, and use one unit."
        )
    return y0
