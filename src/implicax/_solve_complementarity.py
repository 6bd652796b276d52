"""`complementarity`: equations that hold where bounds do not act."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import PyTree

from implicax._build_solution import build_solution, exact_derivative, stop_gradient
from implicax._core import tree_math
from implicax._core.checks import check_unknown
from implicax._core.failure import OnFailure
from implicax._core.keywords import explained
from implicax._core.solution import Solution, Y
from implicax._derivatives.base import AbstractDerivative
from implicax._problems.canonical import canonicalize
from implicax._problems.complementarity import Complementarity
from implicax._problems.constrained_solution import ConstrainedSolution
from implicax._problems.constraints import Multipliers
from implicax._problems.program_solution import Degeneracy
from implicax._solvers.complementarity import FischerBurmeister, run_complementarity
from implicax._solvers.defaults import default_solver
from implicax._solvers.run import check_max_steps, check_solver, check_start, name_of


@explained
def complementarity(
    fn: Callable[[Any, Any], Any],
    y0: Y | ArrayLike,
    args: PyTree = None,
    *,
    bounds: Any = (0.0, None),
    solver: Any = None,
    derivative: AbstractDerivative | None = None,
    max_steps: int = 256,
    has_aux: bool = False,
    on_failure: OnFailure = "raise",
) -> ConstrainedSolution[Y]:
    """Solve a mixed complementarity problem, and make the solution differentiable.

    At a solution `fn(y, args)` is zero where `y` is between its bounds, at least zero
    where it is at the lower one, and at most zero where it is at the upper one: an
    equilibrium of a game, of a market, of bodies in contact, or the conditions of a
    minimum within bounds.

    **Arguments:**

    - `fn`: takes `(y, args)`, returns as many numbers as `y` has, in its structure.
    - `y0`: the initial guess: a scalar or any pytree of real arrays.
    - `args`: any pytree; its arrays are differentiated.
    - `bounds`: a pair `(lower, upper)`, each a number, `None`, or a pytree like `y0`;
      by default `y` is not negative.
    - `solver`: of the equations with kinks that lead near the solution; `None` means
      that of [`implicax.root`][].
    - `derivative`, `max_steps`, `has_aux`, `on_failure`: as of [`implicax.root`][].

    **Returns:** an [`implicax.ConstrainedSolution`][]. `dual.bounds` is what the bounds
    add, `fn + dual.bounds = 0`. Where `degeneracy.weak` is told, a bound acts with a
    multiplier of zero: the derivative is one-sided.

    **Raises:** `ConvergenceError`, and `TypeError` or `ValueError` for bad input.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp

    def quantities(costs):  # of two firms that share a market
        profit = lambda q, costs: costs + q + jnp.sum(q) - 10.0
        return ix.complementarity(profit, jnp.ones(2), costs).value

    for costs in ([1.0, 4.0], [1.0, 7.0]):
        print(quantities(jnp.array(costs)).round(4))
    ```
    ```text
    [4. 1.]
    [4.5 0. ]
    ```
    """
    problem = Complementarity(fn, bounds, has_aux)
    how = solver, derivative, max_steps, on_failure
    return solve_complementarity(problem, y0, args, *how)


def solve_complementarity(
    problem: Complementarity,
    y0: Any,
    args: PyTree,
    solver: Any,
    derivative: AbstractDerivative | None,
    max_steps: int,
    on_failure: OnFailure,
) -> Any:
    """As `solve`, for complementarity problems."""
    check_start(y0)
    derivative = exact_derivative(derivative, on_failure)
    check_max_steps(max_steps)
    y0 = check_unknown(y0, "y0")
    if any(map(jnp.iscomplexobj, jax.tree.leaves(y0))):
        raise TypeError("y0 must be real: complex numbers have no order.")
    bounds = problem.sides(y0)
    near = canonicalize(FischerBurmeister(problem), y0, args)
    if solver is None:
        unknowns = tree_math.num_unknowns(near.v0)
        solver = default_solver(near.conditions, unknowns)
    check_solver(solver)
    zeros = jax.tree.map(jnp.zeros_like, y0)
    canonical = canonicalize(problem, (y0, Multipliers(bounds=zeros)), args)
    sides = tuple(near.view.to_real(side) for side in bounds)
    given = near.v0, sides, (near.inputs, canonical.inputs), solver
    v0, sides, inputs, solver = stop_gradient(given)
    conditions = near.conditions, canonical.conditions
    result = run_complementarity(*conditions, solver, v0, sides, inputs, int(max_steps))
    canonical = canonical.on(near.view.from_real(result.side))
    no = jnp.zeros_like(result.weak)

    def finish(solution: Solution) -> Solution:
        y, dual = solution.value
        parts = solution.aux, solution.status, solution.stats, None
        return ConstrainedSolution(y, *parts, dual, Degeneracy(result.weak, no, no))

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
