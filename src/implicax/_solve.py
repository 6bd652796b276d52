"""`fixed_point` and `root`: one path for all problems, solvers and derivatives."""

import numbers
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from . import _tree
from ._conditions import Conditions, close
from ._derivative import AbstractDerivative, Implicit
from ._iterate import Outcome, iterate
from ._problem import AbstractProblem, FixedPoint, Root
from ._solution import ConvergenceError, Solution, Status
from ._system import System
from ._tree import Vector
from .solvers import AbstractSolver, Anderson, Newton

OnFailure = Literal["raise", "ignore"]

#: Steps are counted in the dtype of the residual norm: float32 counts to here.
MAX_STEPS = 2**24


def fixed_point(
    fn: Callable[[Any, Any], Any],
    y0: PyTree,
    args: PyTree = None,
    *,
    solver: AbstractSolver | None = None,
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
      [`implicax.Newton`][], [`implicax.Chord`][] or your own. `None` means
      `Anderson()`: one evaluation per step, a fraction of plain iteration's steps,
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
    solver = Anderson() if solver is None else solver
    return _solve(problem, y0, args, solver, derivative, max_steps, on_failure)


def root(
    fn: Callable[[Any, Any], Any],
    y0: PyTree,
    args: PyTree = None,
    *,
    solver: AbstractSolver | None = None,
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
    solver = Newton() if solver is None else solver
    return _solve(problem, y0, args, solver, derivative, max_steps, on_failure)


def _solve(
    problem: AbstractProblem,
    y0: PyTree,
    args: PyTree,
    solver: AbstractSolver,
    derivative: AbstractDerivative | None,
    max_steps: int,
    on_failure: OnFailure,
) -> Solution:
    derivative = Implicit() if derivative is None else derivative
    _check_options(solver, derivative, max_steps, on_failure)
    max_steps = int(max_steps)
    closed = close(problem, y0, args)
    kind = problem.fixed_point
    # The iterations see no tangents: outside `jit` this makes the run concrete even
    # under `jax.grad`, so a failure can raise there too.
    v0, solver, frozen = _stop_gradient((closed.v0, solver, closed.inputs))
    inputs = closed.inputs if derivative.unrolls else frozen
    outcome = _run(
        closed.conditions, kind, solver, v0, inputs, max_steps, derivative.unrolls
    )
    failed = outcome.status != Status.converged
    concrete = not _tree.traced(failed)
    poison = on_failure == "raise" and not concrete
    y, aux = _differentiate(
        closed.conditions, kind, solver, derivative, outcome, closed.inputs,
        problem.has_aux, poison,
    )  # fmt: skip
    solution = Solution(
        closed.view.from_real(y), closed.restore_aux(aux), outcome.status, outcome.stats
    )
    if on_failure == "raise" and concrete and bool(failed):
        raise ConvergenceError(solution, type(solver).__name__)
    return solution


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
    system = System(lambda v: conditions.residual(v, inputs), kind, unrolls)
    return iterate(solver, system, v0, max_steps, differentiable=unrolls)


@eqx.filter_jit(inline=True)  # pyright: ignore[reportCallIssue]
def _differentiate(
    conditions: Conditions,
    kind: bool,
    solver: AbstractSolver,
    derivative: AbstractDerivative,
    outcome: Outcome,
    inputs: PyTree[Array],
    has_aux: bool,
    poison: bool,
) -> tuple[Vector, list[Array]]:
    """The solution with its derivative attached, and the auxiliary output at it."""
    y = derivative.attach(conditions, kind, solver, outcome, inputs)
    if poison:
        # A product, not a `where`: the derivative of a failed lane must be NaN too.
        factor = jnp.where(outcome.status == Status.converged, 1.0, jnp.nan)
        y = jax.tree.map(lambda leaf: leaf * factor.astype(leaf.dtype), y)
    return y, (conditions(y, inputs)[1] if has_aux else [])


def _stop_gradient(tree: PyTree) -> PyTree:
    arrays, others = eqx.partition(tree, eqx.is_array)
    frozen = jax.lax.stop_gradient(arrays)
    # Under `jax.grad` what is left of a Python number may not be an array.
    return eqx.combine(jax.tree.map(jnp.asarray, frozen), others)


def _check_options(
    solver: Any, derivative: Any, max_steps: Any, on_failure: Any
) -> None:
    if not isinstance(solver, AbstractSolver):
        raise TypeError(
            "solver must be an ix.AbstractSolver such as ix.Newton() (an instance, not "
            f"the class), and it is {solver!r}."
        )
    if not isinstance(derivative, AbstractDerivative):
        raise TypeError(
            "derivative must be one of ix.Implicit(), Unrolled(), Truncated(steps), "
            "OneStep(), Neumann(terms), Phantom(steps, damping), and it is "
            f"{derivative!r}."
        )
    integral = isinstance(max_steps, numbers.Integral) and max_steps is not True
    if not integral or not 1 <= int(max_steps) <= MAX_STEPS:
        raise ValueError(
            f"max_steps must be a positive integer up to {MAX_STEPS}, not "
            f"{max_steps!r}."
        )
    if on_failure not in ("raise", "ignore"):
        raise ValueError(f"on_failure must be 'raise' or 'ignore', not {on_failure!r}.")
