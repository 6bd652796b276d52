"""`solve`: one path for all problems, solvers and derivatives."""

import contextlib
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.core
from jax.typing import ArrayLike
from jaxtyping import PyTree

from implicax._build_solution import build_solution, check_call, stop_gradient
from implicax._core import tree_math
from implicax._core.domain import Chart
from implicax._core.failure import OnFailure
from implicax._core.keywords import explained
from implicax._core.solution import Solution, Y
from implicax._derivatives.base import AbstractDerivative
from implicax._derivatives.implicit import Implicit
from implicax._problems.base import AbstractProblem
from implicax._problems.canonical import canonicalize
from implicax._problems.complementarity import Complementarity
from implicax._problems.composite import Composite
from implicax._problems.cone_program import ConeProgram
from implicax._problems.optimality_conditions import OptimalityConditions
from implicax._problems.quadratic_program import QuadraticProgram
from implicax._solve_complementarity import solve_complementarity
from implicax._solve_composite import solve_composite
from implicax._solve_cone_program import solve_cone_program
from implicax._solve_constrained import solve_constrained
from implicax._solve_program import solve_program
from implicax._solvers.base import AbstractSolver
from implicax._solvers.charts import run_in_charts
from implicax._solvers.defaults import default_solver
from implicax._solvers.external.dispatch import external_solver
from implicax._solvers.fallback import Fallback
from implicax._solvers.progress import Listener, listener
from implicax._solvers.run import (
    check_max_steps,
    check_solver,
    check_start,
    message,
    name_of,
    run,
)


@explained
def solve(
    problem: AbstractProblem,
    y0: Y | ArrayLike,
    args: PyTree = None,
    *,
    solver: Any = None,
    derivative: AbstractDerivative | None = None,
    max_steps: int = 256,
    on_failure: OnFailure = "raise",
    progress: bool | Listener = False,
) -> Solution[Y]:
    """Solve any problem, and make the solution differentiable.

    [`implicax.fixed_point`][], [`implicax.root`][], [`implicax.minimize`][] and
    [`implicax.least_squares`][] are short for this.

    **Arguments:** as of [`implicax.root`][], with this difference:

    - `problem`: [`implicax.Root`][]`(fn)`, [`implicax.FixedPoint`][],
      [`implicax.Minimum`][], [`implicax.LeastSquares`][], or an
      [`implicax.AbstractProblem`][] of your own.

    **Returns:** a [`implicax.Solution`][].

    **Raises:** `ConvergenceError`, and `TypeError` or `ValueError` for bad input.

    ```python
    import implicax as ix

    problem = ix.Root(lambda y, a: y**2 - a)
    print(f"{ix.solve(problem, 1.0, 2.0).value:.4f}")
    ```
    ```text
    1.4142
    ```
    """
    if not isinstance(problem, AbstractProblem):
        raise TypeError(
            "problem must be an ix.AbstractProblem such as ix.Root(fn), and it is "
            f"{problem!r}. (Of a function fn, ix.root(fn, y0, args) solves fn = 0.)"
        )
    how: Any = solver, derivative, max_steps, on_failure
    special = _special(problem)
    if special is not None:
        if progress is not False:
            raise TypeError(
                "progress= shows the steps of solvers without bounds, constraints and "
                "proximal operators, and this problem has some. Leave it out."
            )
        return special(y0, args, *how)
    check_start(y0)
    listen = listener(progress)
    derivative = Implicit() if derivative is None else derivative
    check_call(derivative, on_failure)
    check_max_steps(max_steps)
    if solver is not None:
        check_solver(solver)
    canonical = canonicalize(problem, y0, args)
    if solver is None:
        unknowns = tree_math.num_unknowns(canonical.v0)
        solver = default_solver(canonical.conditions, unknowns)
    # The iterations see no tangents: outside `jit` this makes the run concrete even
    # under `jax.grad`, so a failure can raise there too.
    given = canonical.v0, solver, canonical.inputs
    v0, solver, frozen = stop_gradient(given)
    takes_steps = derivative.differentiates_loop or derivative.uses_solver_steps
    if takes_steps and isinstance(solver, Fallback):
        solver = solver.solvers[0]
    name = name_of(solver)
    if takes_steps and external_solver(solver) is not None:
        raise TypeError(
            f"{type(derivative).__name__} takes steps of one of ix's own solvers, "
            f"and {name} is not one. Use ix.Implicit(), Neumann(terms) or "
            "Phantom(steps, damping)."
        )
    inputs = canonical.inputs if derivative.differentiates_loop else frozen
    with _outside(canonical.conditions, given, (v0, solver, inputs)):
        if isinstance(canonical.view, Chart) and not derivative.differentiates_loop:
            canonical, outcome = run_in_charts(
                canonical, solver, frozen, int(max_steps), listen
            )
        else:
            outcome = run(
                canonical.conditions,
                solver,
                v0,
                inputs,
                int(max_steps),
                derivative.differentiates_loop,
                listen,
            )
    if listen is not None and not tree_math.traced(outcome.stats.steps):
        jax.effects_barrier()
    own = solver if isinstance(solver, AbstractSolver) else None
    return build_solution(
        canonical, own, derivative, outcome, on_failure, name, message(outcome)
    )


def _special(problem: AbstractProblem) -> Callable[..., Any] | None:
    """How a problem is solved that is more than conditions."""
    if isinstance(problem, QuadraticProgram):
        return functools.partial(solve_program, problem)
    if isinstance(problem, Complementarity):
        return functools.partial(solve_complementarity, problem)
    if isinstance(problem, ConeProgram):
        return functools.partial(solve_cone_program, problem)
    if isinstance(problem, Composite):
        return functools.partial(solve_composite, problem)
    inside = problem.constrained()
    return None if inside is None else functools.partial(solve_constrained, inside)


def _outside(
    conditions: OptimalityConditions, given: PyTree, now: PyTree
) -> AbstractContextManager[None]:
    """Where to compute with `now`, which is `given` without tangents.

    Inside an eager `jax.grad` that has values; but there JAX keeps what each call was
    compiled for, 4 kB a solve. Named axes have no meaning outside.
    """
    was, traced = (any(map(tree_math.traced, jax.tree.leaves(x))) for x in (given, now))
    if was and not traced and not conditions.effects:
        return jax.core.eval_context()
    return contextlib.nullcontext()
