"""`quadratic_program` and `linear_program`."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from implicax._build_solution import build_solution, exact_derivative, stop_gradient
from implicax._core.failure import OnFailure
from implicax._core.keywords import explained
from implicax._core.solution import Solution
from implicax._derivatives.base import AbstractDerivative
from implicax._problems.base import AbstractProblem
from implicax._problems.canonical import canonicalize
from implicax._problems.program import Dual, Program
from implicax._problems.program_solution import ProgramSolution
from implicax._problems.quadratic_program import QuadraticProgram
from implicax._solvers.external.scipy import SciPy
from implicax._solvers.external.scipy_linprog import SciPyLinprog
from implicax._solvers.loop import SolverResult
from implicax._solvers.programs.base import AbstractProgramSolver
from implicax._solvers.programs.primal_dual import InteriorPoint
from implicax._solvers.programs.run import run_program
from implicax._solvers.run import check_max_steps, name_of


@explained
def quadratic_program(
    P: Any,
    q: Any,
    *,
    A: Any = None,
    b: Any = None,
    G: Any = None,
    h: Any = None,
    bounds: Any = None,
    y0: Any = None,
    solver: Any = None,
    derivative: AbstractDerivative | None = None,
    max_steps: int = 100,
    on_failure: OnFailure = "raise",
) -> ProgramSolution:
    """Minimise `x^T P x / 2 + q^T x` where `A x = b`, `G x <= h` and `x` is in bounds.

    **Arguments:**

    - `P`: symmetric and positive semidefinite, shape `(n, n)`; `None` for a linear
      program.
    - `q`: shape `(n,)`.
    - `A`, `b`: equations, shapes `(p, n)` and `(p,)`.
    - `G`, `h`: inequalities, shapes `(m, n)` and `(m,)`; a pair `h=(lower, upper)` for
      `lower <= G x <= upper`. Infinite sides are none.
    - `bounds`: a pair `(lower, upper)` of numbers, vectors or `None`.
    - `y0`: the [`implicax.ProgramSolution`][] of a similar program, whose active
      constraints are tried first.
    - `solver`: `None` means [`implicax.InteriorPoint`][].
    - `derivative`: `None` means [`implicax.Implicit`][], the exact one, on the
      constraints that act.
    - `max_steps`: the bound on the solver's steps.
    - `on_failure`: as of [`implicax.root`][].

    All arrays are differentiated: of a symmetric `P`, its symmetric part.

    **Returns:** a [`implicax.ProgramSolution`][]: `value`, `dual`, `objective`, and
    `degeneracy`, which says where there is no derivative, or one to one side only.
    Statuses are `infeasible` (with the proof in `farkas`), `unbounded` (in `ray`) and
    `not_convex`, beside those of other problems.

    **Raises:** `ConvergenceError`, and `TypeError` or `ValueError` for bad input.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp

    def nearest(point):  # on the simplex
        ones = jnp.ones((1, 3))
        return ix.quadratic_program(
            jnp.eye(3), -point, A=ones, b=jnp.ones(1), bounds=(0.0, None)
        ).value

    point = jnp.array([1.0, 0.5, -1.0])
    print(nearest(point))
    print(jax.jacobian(nearest)(point)[0].round(2) + 0.0)
    ```
    ```text
    [0.75 0.25 0.  ]
    [ 0.5 -0.5  0. ]
    ```
    """
    program = Program(P, q, A=A, b=b, G=G, h=h, bounds=bounds)
    how = solver, derivative, max_steps, on_failure
    return solve_program(QuadraticProgram(), y0, program, *how)


@explained
def linear_program(
    q: Any,
    *,
    A: Any = None,
    b: Any = None,
    G: Any = None,
    h: Any = None,
    bounds: Any = None,
    y0: Any = None,
    solver: Any = None,
    derivative: AbstractDerivative | None = None,
    max_steps: int = 100,
    on_failure: OnFailure = "raise",
) -> ProgramSolution:
    """Minimise `q^T x` where `A x = b`, `G x <= h` and `x` is in bounds.

    **Arguments:** as of [`implicax.quadratic_program`][] with `P=None`.

    **Returns:** a [`implicax.ProgramSolution`][]. The derivative of `value` in `q` is
    zero as long as it stays in the same vertex; with respect to the constraints it is
    how the vertex moves.

    **Raises:** `ConvergenceError`, and `TypeError` or `ValueError` for bad input.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp

    def cost(demand):
        prices = jnp.array([1.0, 2.0])
        return ix.linear_program(
            prices, A=jnp.ones((1, 2)), b=demand, bounds=(0.0, 3.0)
        ).objective

    print(cost(jnp.array([4.0])), jax.grad(cost)(jnp.array([4.0])))
    ```
    ```text
    5.0 [2.]
    ```
    """
    return quadratic_program(
        None,
        q,
        A=A,
        b=b,
        G=G,
        h=h,
        bounds=bounds,
        y0=y0,
        solver=solver,
        derivative=derivative,
        max_steps=max_steps,
        on_failure=on_failure,
    )


def solve_program(
    problem: AbstractProblem,
    y0: Any,
    args: PyTree,
    solver: Any,
    derivative: AbstractDerivative | None,
    max_steps: int,
    on_failure: OnFailure,
) -> Any:
    """As `solve`, for problems that are programs."""
    derivative = exact_derivative(derivative, on_failure)
    check_max_steps(max_steps)
    solver = InteriorPoint() if solver is None else solver
    assert isinstance(problem, QuadraticProgram)
    program = problem.program(args)
    if isinstance(solver, SciPy):
        solver = SciPyLinprog.of(solver, program.P is None)
    if not isinstance(solver, AbstractProgramSolver):
        raise TypeError(
            "The solver of a program must be one of programs, such as "
            f"ix.InteriorPoint(), and it is {solver!r}."
        )
    program, solver = stop_gradient((program, solver))
    start = None if y0 is None else _start(y0, program)
    result = run_program(program, solver, start, jnp.asarray(max_steps))
    # What the conditions are about, where the solver ended.
    here = result.x, program.split(result.t)
    finite = jax.tree.map(jnp.ones_like, here)
    canonical = canonicalize(problem, finite, args)
    canonical = canonical.on(problem.active_set(here, args))
    outcome = SolverResult(
        canonical.view.to_real(here),
        result.status,
        result.stats,
        result.approximate_inverse,
    )

    def finish(solution: Solution) -> ProgramSolution:
        x, dual = solution.value
        return ProgramSolution(
            x,
            solution.aux,
            solution.status,
            solution.stats,
            solution.objective,
            dual,
            result.degeneracy,
            program.split(result.farkas),
            result.ray,
        )

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


def _start(y0: Any, program: Program) -> tuple[Any, Any]:
    if isinstance(y0, ProgramSolution):
        y0 = y0.unknown
    if not isinstance(y0, tuple) or len(y0) != 2 or not isinstance(y0[1], Dual):
        raise TypeError(
            "y0 must be None, the ix.ProgramSolution of a similar program, or a pair "
            f"(x, ix.Dual(...)), and it is {y0!r}."
        )
    x, dual = stop_gradient(y0)
    t = program.join(dual)
    wanted = program.q.shape, program.limits[0].shape
    if (x.shape, t.shape) != wanted:
        raise ValueError(
            f"y0 must be of a program of the same size: {wanted[0]} unknowns and "
            f"{wanted[1]} constraints, and it has {x.shape} and {t.shape}."
        )
    return x, t
