"""`cone_program`: second-order, semidefinite, exponential and power cones."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from implicax._build_solution import build_solution, exact_derivative, stop_gradient
from implicax._core.failure import OnFailure
from implicax._core.keywords import explained
from implicax._core.solution import Solution
from implicax._derivatives.base import AbstractDerivative
from implicax._problems.canonical import canonicalize
from implicax._problems.cone_program import ConeProgram
from implicax._problems.cone_solution import ConeSolution
from implicax._problems.program_solution import Degeneracy
from implicax._solvers.cones.base import AbstractConeSolver
from implicax._solvers.cones.run import run_cone_program
from implicax._solvers.external.clarabel import Clarabel
from implicax._solvers.run import check_max_steps, name_of


@explained
def cone_program(
    P: Any,
    q: Any,
    A: Any,
    b: Any,
    cones: Any,
    *,
    solver: Any = None,
    derivative: AbstractDerivative | None = None,
    max_steps: int = 200,
    on_failure: OnFailure = "raise",
) -> ConeSolution:
    """Minimise `x^T P x / 2 + q^T x` where `A x + s = b` and `s` is in cones.

    **Arguments:**

    - `P`: symmetric and positive semidefinite, shape `(n, n)`; `None` for a linear
      objective.
    - `q`: shape `(n,)`.
    - `A`, `b`: shapes `(m, n)` and `(m,)`.
    - `cones`: a list of cones, which take the rows of `A` in their order:
      `ix.cones.Zero(count)` (equations), `Nonnegative(count)`, `SecondOrder(count)`,
      `Semidefinite(order)`, `Exponential()`, `Power(exponent)`.
    - `solver`: `None` means [`implicax.Clarabel`][], on the host.
    - `derivative`: `None` means [`implicax.Implicit`][], the exact one.
    - `max_steps`: the bound on the solver's steps.
    - `on_failure`: as of [`implicax.root`][].

    All arrays are differentiated: of a symmetric `P`, its symmetric part.

    **Returns:** an [`implicax.ConeSolution`][]: `value`, `dual` and `slack` (for each
    cone), `objective`, and `degeneracy`. Statuses are `infeasible` (with the proof in
    `farkas`), `unbounded` (in `ray`) and `not_convex`, beside those of other problems.

    **Raises:** `ConvergenceError`, and `TypeError` or `ValueError` for bad input.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp

    def nearest(point):  # on the unit disc: |x| <= 1
        A = -jnp.concatenate([jnp.zeros((1, 2)), jnp.eye(2)])
        disc = [ix.cones.SecondOrder(3)]
        b = jnp.array([1.0, 0.0, 0.0])
        return ix.cone_program(jnp.eye(2), -point, A, b, disc).value

    point = jnp.array([3.0, 4.0])
    for vector in (nearest(point), jax.grad(lambda p: nearest(p)[0])(point)):
        print(", ".join(f"{number:.3f}" for number in vector))
    ```
    ```text
    0.600, 0.800
    0.128, -0.096
    ```
    """
    how = solver, derivative, max_steps, on_failure
    return solve_cone_program(ConeProgram(cones), None, (P, q, A, b), *how)


def solve_cone_program(
    problem: ConeProgram,
    y0: Any,
    args: PyTree,
    solver: Any,
    derivative: AbstractDerivative | None,
    max_steps: int,
    on_failure: OnFailure,
) -> Any:
    """As `solve`, for cone programs."""
    derivative = exact_derivative(derivative, on_failure)
    check_max_steps(max_steps)
    if y0 is not None:
        raise TypeError(
            "An ix.ConeProgram is solved from no initial guess: y0 must be None."
        )
    solver = Clarabel() if solver is None else solver
    if not isinstance(solver, AbstractConeSolver):
        raise TypeError(
            "The solver of a cone program must be one of these, such as "
            f"ix.Clarabel(), and it is {solver!r}."
        )
    data, solver = stop_gradient((problem.data(args), solver))
    guess = solver.solve(data, int(max_steps))
    ones = jax.tree.map(jnp.ones_like, (data.q, data.b))
    canonical = canonicalize(problem, ones, args)
    inputs = stop_gradient(canonical.inputs)
    result = run_cone_program(data, guess, canonical.conditions, inputs, solver.rtol)

    def finish(solution: Solution) -> ConeSolution:
        x, z = solution.value
        made = problem.data(args)
        return ConeSolution(
            x,
            solution.aux,
            solution.status,
            solution.stats,
            solution.objective,
            made.split(z),
            made.split(made.slack(x)),
            Degeneracy(result.kink, result.free[1].any(), result.free[0].any()),
            made.split(result.farkas),
            result.ray,
            result.free[0],
        )

    return build_solution(
        canonical,
        None,
        derivative,
        result.outcome,
        on_failure,
        name_of(solver),
        finish=finish,
        kink=result.kink,
    )
