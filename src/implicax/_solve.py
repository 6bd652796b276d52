"""`fixed_point` and `root`: one path for all problems, solvers and derivatives."""

import numbers
from collections.abc import Callable
from typing import Any

import equinox as eqx
from jaxtyping import Array, PyTree

from ._conclude import OnFailure, check_call, conclude, stop_gradient
from ._conditions import Conditions, close
from ._derivative import AbstractDerivative, Implicit
from ._iterate import Outcome, iterate, judge
from ._problem import AbstractProblem, FixedPoint, Root
from ._solution import Solution
from ._system import System
from ._tree import Vector
from .solvers import AbstractSolver, Anderson, Newton
from .solvers._engines import AbstractEngine, engine

#: Steps are counted in the dtype of the residual norm: float32 counts to here.
MAX_STEPS = 2**24


def fixed_point(
    fn: Callable[[Any, Any], Any],
    y0: PyTree,
    args: PyTree = None,
    *,
    solver: Any = None,
    derivative: AbstractDerivative | None = None,
    max_steps: int = 256,
    has_aux: bool = False,
    on_failure: OnFailure = "raise",
) -> Solution:
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
    - `on_failure`: `"raise"`: outside `jit` a [`implicax.ConvergenceError`][], under
      `jit` and `vmap` NaN in value and derivative of the failed lanes only.
      `"ignore"`: the best effort, and `solution.status` tells.

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
    problem = FixedPoint(fn, has_aux)
    solver = default_solver(problem) if solver is None else solver
    return _solve(problem, y0, args, solver, derivative, max_steps, on_failure)


def root(
    fn: Callable[[Any, Any], Any],
    y0: PyTree,
    args: PyTree = None,
    *,
    solver: Any = None,
    derivative: AbstractDerivative | None = None,
    max_steps: int = 256,
    has_aux: bool = False,
    on_failure: OnFailure = "raise",
) -> Solution:
    """Solve `fn(y, args) = 0` and make the solution differentiable.

    **Arguments:** as [`implicax.fixed_point`][], with these differences:

    - `fn`: takes `(y, args)`, returns the residual: structure, shapes and dtypes of
      `y`.
    - `solver`: `None` means `Newton()`: it asks nothing of the residual but an
      invertible Jacobian, and the derivative reuses its factorisation.

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
    problem = Root(fn, has_aux)
    solver = default_solver(problem) if solver is None else solver
    return _solve(problem, y0, args, solver, derivative, max_steps, on_failure)


def _solve(
    problem: AbstractProblem,
    y0: PyTree,
    args: PyTree,
    solver: Any,
    derivative: AbstractDerivative | None,
    max_steps: int,
    on_failure: OnFailure,
) -> Solution:
    derivative = Implicit() if derivative is None else derivative
    check_solver(solver, max_steps)
    check_call(derivative, on_failure)
    max_steps = int(max_steps)
    closed = close(problem, y0, args)
    kind = problem.fixed_point
    # The iterations see no tangents: outside `jit` this makes the run concrete even
    # under `jax.grad`, so a failure can raise there too.
    v0, solver, frozen = stop_gradient((closed.v0, solver, closed.inputs))
    name = type(solver).__name__
    other = engine(solver)
    if other is not None:
        if derivative.unrolls or derivative.steps_with_solver:
            raise TypeError(
                f"{type(derivative).__name__} takes steps of one of ix's own solvers, "
                f"and {name} is not one. Use ix.Implicit(), Neumann(terms) or "
                "Phantom(steps, damping)."
            )
        outcome = _run_engine(closed.conditions, kind, other, v0, frozen, max_steps)
        return conclude(problem, closed, None, derivative, outcome, on_failure, name)
    inputs = closed.inputs if derivative.unrolls else frozen
    outcome = _run(
        closed.conditions, kind, solver, v0, inputs, max_steps, derivative.unrolls
    )
    return conclude(problem, closed, solver, derivative, outcome, on_failure, name)


@eqx.filter_jit(inline=True)  # pyright: ignore[reportCallIssue]
def _run(
    conditions: Conditions,
    kind: bool,
    solver: AbstractSolver,
    v0: Vector,
    inputs: PyTree[Array],
    max_steps: int,
    unrolls: bool,
) -> Outcome:
    system = System(
        lambda v: conditions.residual(v, inputs), kind, unrolls, conditions.reverse_only
    )
    return iterate(solver, system, v0, max_steps, differentiable=unrolls)


@eqx.filter_jit(inline=True)  # pyright: ignore[reportCallIssue]
def _run_engine(
    conditions: Conditions,
    kind: bool,
    solver: AbstractEngine,
    v0: Vector,
    inputs: PyTree[Array],
    max_steps: int,
) -> Outcome:
    v, steps, broke = solver.solve(conditions, kind, v0, inputs, max_steps)
    system = System(
        lambda v: conditions.residual(v, inputs),
        kind,
        reverse_only=conditions.reverse_only,
    )
    return judge(system, v0, v, steps, broke)


def default_solver(problem: AbstractProblem) -> AbstractSolver:
    return Anderson() if problem.fixed_point else Newton()


def check_solver(solver: Any, max_steps: Any, *, own: bool = False) -> None:
    """An error unless these solve; with `own`, unless the solver is one of ours."""
    if own and not isinstance(solver, AbstractSolver):
        raise TypeError(
            "solver must be an ix.AbstractSolver such as ix.Newton(): its tolerance is "
            f"to be changed. It is {solver!r}."
        )
    if not isinstance(solver, AbstractSolver) and engine(solver) is None:
        raise TypeError(
            "solver must be an ix.AbstractSolver such as ix.Newton() (an instance, not "
            "the class), ix.SciPy(method) or an optimistix solver, and it is "
            f"{solver!r}."
        )
    integral = isinstance(max_steps, numbers.Integral) and max_steps is not True
    if not integral or not 1 <= int(max_steps) <= MAX_STEPS:
        raise ValueError(
            f"max_steps must be a positive integer up to {MAX_STEPS}, not "
            f"{max_steps!r}."
        )
