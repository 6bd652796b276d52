"""Anybody's solver, with our derivative: the theorem does not ask who found `y`."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from implicax._build_solution import (
    build_solution,
    check_call,
    stop_gradient,
)
from implicax._core import tree_math
from implicax._core.checks import match
from implicax._core.failure import OnFailure
from implicax._core.solution import Solution
from implicax._core.tree_math import Vector
from implicax._core.user_function import call_solver, check_decorated
from implicax._derivatives.base import AbstractDerivative
from implicax._derivatives.implicit import Implicit
from implicax._problems.base import AbstractProblem
from implicax._problems.canonical import CanonicalProblem, canonicalize
from implicax._problems.equations import System
from implicax._problems.fixed_point import FixedPoint
from implicax._problems.optimality_conditions import OptimalityConditions
from implicax._problems.root import Root
from implicax._solvers.base import tolerance
from implicax._solvers.external.host import Host
from implicax._solvers.judge import judge
from implicax._solvers.loop import SolverResult

Solver = Callable[..., Any]


def implicit(
    problem: AbstractProblem,
    *,
    derivative: AbstractDerivative | None = None,
    has_aux: bool = False,
    rtol: float | None = None,
    atol: float | None = None,
    on_failure: OnFailure = "raise",
) -> Callable[[Solver], Callable[..., Solution[Any]]]:
    """Decorate a solver of `problem`: exact derivatives, status, every transformation.

    **Arguments:**

    - `problem`: [`implicax.Root`][], [`implicax.FixedPoint`][],
      [`implicax.Minimum`][] or [`implicax.LeastSquares`][]: what the solver's answer
      solves. Its arrays, and those it closes over, are differentiated.
    - `derivative`: `None` means [`implicax.Implicit`][]. [`implicax.Unrolled`][]
      differentiates the solver's own code; [`implicax.Neumann`][] and
      [`implicax.Phantom`][] work too.
    - `has_aux`: whether the solver returns `(y, aux)`. `aux` is passed on, in
      `solution.aux`, without a derivative.
    - `rtol`: the relative error that each unknown may have; `None` means `eps**0.4` of
      its dtype (5e-7 in float64, 2e-3 in float32).
    - `atol`: ... or an `|F|` that is small enough, in the units of `F`.
    - `on_failure`: as in [`implicax.root`][].

    **Returns:** a decorator. The solver takes `(y0, args, **options)` and returns `y`,
    with the structure, shapes and dtypes of `y0`; decorated it takes the same and
    returns a [`implicax.Solution`][]. The solver may be any JAX code, any Python code
    (called outside `jit` and `vmap`), or [`implicax.host`][] of that (anywhere). It is
    never differentiated. Options are passed on as they are.

    What the solver returned is judged by the correction that the exact Jacobian at it
    asks for, twice: where an unknown is off by more than `rtol` of itself, or the
    corrections do not shrink, the status is `not_solved`, whatever the solver thinks.
    (Beyond 512 unknowns, unless the problem's `sparsity` is known, each equation is
    compared with what it is made of.)
    `solution.stats` counts our evaluations, not the solver's.

    **Raises:** as [`implicax.root`][], and `TypeError` or `ValueError` for an answer
    that does not match `y0`.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp
    import numpy as np

    def cubic(y, a):
        return y**3 + y - a

    @ix.implicit(ix.Root(cubic))
    def solve(y0, a):  # anything that finds the root
        return np.roots([1.0, 0.0, 1.0, -float(a)])[-1].real

    print(f"{jax.grad(lambda a: solve(1.0, a).value)(2.0):.4f}")
    ```
    ```text
    0.2500
    ```
    """
    _check_problem(problem, has_aux)
    derivative = Implicit() if derivative is None else derivative
    tolerances = tolerance(rtol), tolerance(atol)
    check_call(derivative, on_failure)
    if derivative.uses_solver_steps:
        raise TypeError(
            f"{type(derivative).__name__} takes steps of one of ix's own solvers, and "
            "this solver is yours. Use ix.Implicit(), Neumann(terms), "
            "Phantom(steps, damping), or Unrolled() where it is JAX code."
        )

    def decorate(solver: Solver, *more: Any) -> Callable[..., Solution[Any]]:
        check_decorated(solver, more)
        name = getattr(solver, "__name__", type(solver).__name__)

        @functools.wraps(solver, updated=())
        def solve(
            y0: PyTree, args: PyTree = None, *more: Any, **options: Any
        ) -> Solution[Any]:
            if more:
                raise TypeError(
                    f"{name} takes (y0, args, **options), and {2 + len(more)} "
                    "arguments came. Several parameters are one pytree: args=(a, b); "
                    "options go by name."
                )
            canonical = canonicalize(problem, y0, args)
            live = canonical.view.from_real(canonical.v0), args
            if not derivative.differentiates_loop:
                live, options = stop_gradient((live, options))
            if isinstance(solver, Host):
                y, failed = solver.answer(*live, **options)
            else:
                y, failed = call_solver(solver, name, *live, **options), False
            y, aux = _split(y, name) if has_aux else (y, None)
            v = _checked(y, canonical, name)
            if not derivative.differentiates_loop:
                v = stop_gradient(v)
            v0, inputs = stop_gradient((canonical.v0, canonical.inputs))
            failed = jnp.asarray(failed)
            outcome = _judge(canonical.conditions, v0, v, inputs, failed, tolerances)
            message = ""
            if (
                isinstance(solver, Host)
                and not tree_math.traced(failed)
                and bool(failed)
            ):
                message = solver.failures[-1]
            solution = build_solution(
                canonical, None, derivative, outcome, on_failure, name, message
            )
            if has_aux:
                solution = eqx.tree_at(
                    lambda s: s.aux, solution, aux, is_leaf=lambda x: x is None
                )
            return solution

        return solve

    return decorate


def custom_root(
    fn: Callable[[Any, Any], Any], **options: Any
) -> Callable[[Solver], Callable[..., Solution[Any]]]:
    """`implicit(Root(fn), **options)`: decorate a solver of `fn(y, args) = 0`.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp

    @ix.custom_root(lambda y, a: y**2 - a)
    def square_root(y0, a):
        return jax.lax.fori_loop(0, 20, lambda _, y: (y + a / y) / 2, y0)

    print(f"{jax.grad(lambda a: square_root(1.0, a).value)(4.0):.4f}")
    ```
    ```text
    0.2500
    ```
    """
    return implicit(Root(fn), **options)


def custom_fixed_point(
    fn: Callable[[Any, Any], Any], **options: Any
) -> Callable[[Solver], Callable[..., Solution[Any]]]:
    """`implicit(FixedPoint(fn), **options)`: decorate a solver of `y = fn(y, args)`.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp

    def f(y, a):
        return jnp.cos(a * y)

    @ix.custom_fixed_point(f)
    def solve(y0, a):
        return jax.lax.fori_loop(0, 100, lambda _, y: f(y, a), y0)

    print(f"{jax.grad(lambda a: solve(0.5, a).value)(1.0):.4f}")
    ```
    ```text
    -0.2975
    ```
    """
    return implicit(FixedPoint(fn), **options)


def _split(answer: Any, name: str) -> tuple[Any, Any]:
    if not (isinstance(answer, tuple) and len(answer) == 2):
        raise TypeError(
            f"has_aux=True: {name} must return a pair (y, aux), and it returned "
            f"{type(answer).__name__}."
        )
    return answer


def _check_problem(problem: Any, has_aux: bool) -> None:
    if not isinstance(problem, AbstractProblem):
        raise TypeError(
            "problem must be ix.Root(F), ix.FixedPoint(f), ix.Minimum(f) or "
            "ix.LeastSquares(r): what the solver solves. "
            f"It is {problem!r}. (For a function, use ix.custom_root(F) or "
            "ix.custom_fixed_point(f).)"
        )
    if has_aux and getattr(problem, "has_aux", False):
        raise ValueError(
            "has_aux is set for the problem and for the solver, and there is one place "
            "for an auxiliary output: solution.aux. Set one of them."
        )
    if getattr(problem, "domain", None) is not None:
        raise TypeError(
            "A decorated solver works on arrays, and this problem has a domain. Use "
            "ix.solve(problem, y0, args), or leave domain= out."
        )


def _checked(y: Any, canonical: CanonicalProblem, name: str) -> Vector:
    """What the solver returned, on the real view, or an error if it is unlike `y0`."""
    y0 = canonical.view.from_real(canonical.v0)
    return canonical.view.to_real(match(y, y0, f"{name} must return a", "solution"))


@eqx.filter_jit(inline=True)  # pyright: ignore[reportCallIssue]
def _judge(
    conditions: OptimalityConditions,
    v0: Vector,
    v: Vector,
    inputs: PyTree[Array],
    failed: Bool[Array, ""],
    tolerances: tuple[Array | None, Array | None],
) -> SolverResult:
    """What the conditions say of an answer."""
    steps = jnp.full((), -1, jnp.int32)
    return judge(System.of(conditions, inputs), v0, v, steps, failed, *tolerances)
