"""`solve`, and what is short for it: one path for all problems, solvers and
derivatives."""

import contextlib
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
from implicax._problems.fixed_point import FixedPoint
from implicax._problems.least_squares import LeastSquares
from implicax._problems.losses import AbstractLoss
from implicax._problems.minimum import Minimum
from implicax._problems.optimality_conditions import OptimalityConditions
from implicax._problems.root import Root
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
def fixed_point(
    fn: Callable[[Any, Any], Any],
    y0: Y | ArrayLike,
    args: PyTree = None,
    *,
    solver: Any = None,
    derivative: AbstractDerivative | None = None,
    max_steps: int = 256,
    has_aux: bool = False,
    sparsity: Any = None,
    on_failure: OnFailure = "raise",
    progress: bool | Listener = False,
) -> Solution[Y]:
    """Solve `y = fn(y, args)` and make the solution differentiable.

    **Arguments:**

    - `fn`: takes `(y, args)`, returns the next iterate: structure, shapes and dtypes of
      `y`. Arrays that it closes over are differentiated too.
    - `y0`: the initial guess: a scalar or any pytree of floating or complex arrays. The
      derivative with respect to it is exactly zero.
    - `args`: any pytree; its arrays are differentiated.
    - `solver`: [`implicax.Picard`][], [`implicax.Anderson`][], [`implicax.Broyden`][],
      [`implicax.Newton`][], [`implicax.Chord`][] or your own; [`implicax.SciPy`][]; any
      optimistix root finder, fixed-point, least-squares or minimising solver. `None`
      means `Anderson()`: one evaluation per step, far fewer steps than plain iteration,
      and it survives many maps that do not contract.
    - `derivative`: `None` means [`implicax.Implicit`][], the exact one.
    - `max_steps`: the bound on the solver's steps.
    - `has_aux`: whether `fn` returns `(iterate, aux)`.
    - `sparsity`: where `dF/dy` may be other than zero, for thousands to a million
      unknowns: `"auto"` finds it, or an [`implicax.Sparsity`][].
    - `on_failure`: `"raise"`: outside `jit` a [`implicax.ConvergenceError`][], under
      `jit` and `vmap` NaN in value and derivative of the failed lanes only.
      `"ignore"`: the best effort, and `solution.status` tells.
    - `progress`: `True` shows a bar (needs tqdm), a function is called with an
      [`implicax.Progress`][] after each step (or evaluation, of other libraries).

    **Returns:** a [`implicax.Solution`][].

    **Raises:** `ConvergenceError`, and `TypeError` or `ValueError` for bad input.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp

    def cosine(a):
        return ix.fixed_point(lambda y, a: jnp.cos(a * y), jnp.asarray(0.5), a).value

    print(f"{cosine(1.0):.4f} {jax.grad(cosine)(1.0):.4f}")
    ```
    ```text
    0.7391 -0.2975
    ```
    """
    return solve(
        FixedPoint(fn, has_aux, sparsity=sparsity),
        y0,
        args,
        solver=solver,
        derivative=derivative,
        max_steps=max_steps,
        on_failure=on_failure,
        progress=progress,
    )


@explained
def root(
    fn: Callable[[Any, Any], Any],
    y0: Y | ArrayLike,
    args: PyTree = None,
    *,
    solver: Any = None,
    derivative: AbstractDerivative | None = None,
    max_steps: int = 256,
    has_aux: bool = False,
    sparsity: Any = None,
    on_failure: OnFailure = "raise",
    progress: bool | Listener = False,
) -> Solution[Y]:
    """Solve `fn(y, args) = 0` and make the solution differentiable.

    **Arguments:** as [`implicax.fixed_point`][], with these differences:

    - `fn`: takes `(y, args)`, returns the residual: as many numbers as `y` has, in the
      same dtype, and best in the structure and shapes of `y`.
    - `solver`: `None` means [`implicax.Newton`][]`(retry=True)`: line-searched, and
      where that does not get there, with damped steps from `y0` again (beyond 512 real
      unknowns [`implicax.LevenbergMarquardt`][]; with `sparsity`, once).

    **Returns:** a [`implicax.Solution`][].

    **Raises:** `ConvergenceError`, and `TypeError` or `ValueError` for bad input.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp

    def square_root(a):
        return ix.root(lambda y, a: y**2 - a, jnp.asarray(1.0), a).value

    print(f"{square_root(2.0):.4f} {jax.grad(square_root)(2.0):.4f}")
    ```
    ```text
    1.4142 0.3536
    ```
    """
    return solve(
        Root(fn, has_aux, sparsity=sparsity),
        y0,
        args,
        solver=solver,
        derivative=derivative,
        max_steps=max_steps,
        on_failure=on_failure,
        progress=progress,
    )


@explained
def minimize(
    fn: Callable[[Any, Any], Any],
    y0: Y | ArrayLike,
    args: PyTree = None,
    *,
    solver: Any = None,
    derivative: AbstractDerivative | None = None,
    max_steps: int = 256,
    has_aux: bool = False,
    sparsity: Any = None,
    on_failure: OnFailure = "raise",
    progress: bool | Listener = False,
) -> Solution[Y]:
    """Minimise `fn(y, args)` over `y` and make the minimum differentiable.

    **Arguments:** as [`implicax.root`][], with these differences:

    - `fn`: takes `(y, args)`, returns a real scalar.
    - `solver`: `None` means [`implicax.TrustRegion`][]: Newton's method with the exact
      Hessian, which leaves saddle points and needs few steps. Also
      [`implicax.Optax`][] of any optax transformation, [`implicax.SciPy`][]`("BFGS")`
      and the like, and any optimistix minimiser. Solvers of equations
      ([`implicax.Newton`][], ...) find a stationary point, which may be a maximum.

    **Returns:** a [`implicax.Solution`][]; the minimum value is `solution.objective`.
    Its derivative is exact and takes no linear solve (the envelope theorem); that of
    `solution.value` takes one, with the exact Hessian.

    **Raises:** `ConvergenceError`, and `TypeError` or `ValueError` for bad input.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp

    def rosenbrock(y, a):
        return (a - y[0]) ** 2 + 100 * (y[1] - y[0] ** 2) ** 2

    def minimum(a):
        return ix.minimize(rosenbrock, jnp.array([-1.2, 1.0]), a).value

    print(minimum(1.0).round(3), jax.jacobian(minimum)(1.0).round(3))
    ```
    ```text
    [1. 1.] [1. 2.]
    ```
    """
    return solve(
        Minimum(fn, has_aux, sparsity=sparsity),
        y0,
        args,
        solver=solver,
        derivative=derivative,
        max_steps=max_steps,
        on_failure=on_failure,
        progress=progress,
    )


@explained
def least_squares(
    fn: Callable[[Any, Any], Any],
    y0: Y | ArrayLike,
    args: PyTree = None,
    *,
    loss: AbstractLoss | None = None,
    solver: Any = None,
    derivative: AbstractDerivative | None = None,
    max_steps: int = 256,
    has_aux: bool = False,
    sparsity: Any = None,
    on_failure: OnFailure = "raise",
    progress: bool | Listener = False,
) -> Solution[Y]:
    """Minimise `1/2 sum |fn(y, args)|^2` over `y`; the fit is differentiable.

    **Arguments:** as [`implicax.root`][], with these differences:

    - `fn`: takes `(y, args)`, returns the errors: any pytree of arrays.
    - `loss`: how errors are weighed: `None` for plain squares, or a robust one such as
      [`implicax.Huber`][]`(scale)`; see [`implicax.LeastSquares`][].
    - `solver`: `None` means [`implicax.LevenbergMarquardt`][]`(retry=True)`: where
      that does not get there, from `y0` again by the exact Hessian. Others as in
      [`implicax.minimize`][], and any optimistix least-squares solver.

    **Returns:** a [`implicax.Solution`][]; half the (weighed) sum of squares is
    `solution.objective`. The derivative uses the exact Hessian, not its Gauss-Newton
    part. [`implicax.covariance`][] has the standard errors.

    **Raises:** `ConvergenceError`, and `TypeError` or `ValueError` for bad input.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp

    t = jnp.array([0.0, 1.0, 2.0, 3.0])

    def errors(y, data):
        return y["height"] * jnp.exp(-y["rate"] * t) - data

    def rate(data):
        start = {"height": 1.0, "rate": 1.0}
        return ix.least_squares(errors, start, data).value["rate"]

    data = jnp.array([2.0, 1.2, 0.8, 0.5])
    print(f"{rate(data):.3f} {jax.grad(rate)(data)[1]:.3f}")
    ```
    ```text
    0.468 -0.136
    ```
    """
    return solve(
        LeastSquares(fn, has_aux, sparsity=sparsity, loss=loss),
        y0,
        args,
        solver=solver,
        derivative=derivative,
        max_steps=max_steps,
        on_failure=on_failure,
        progress=progress,
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
    if problem.is_program:
        how: Any = solver, derivative, max_steps, on_failure
        return solve_program(problem, y0, args, *how)
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
