"""Newton's method, and the chord method that keeps its first Jacobian."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import _tree
from .._linear import DENSE_LIMIT, Factor, LinearSolve, factorise, materialise
from .._solution import Status
from .._system import System
from .._tree import Vector
from ._base import AbstractSolver, State, advance, move, start, tolerance
from ._search import backtrack


def check_linear_solver(choice: Any) -> Any:
    """`"auto"` or a lineax solver, or an error that says so."""
    import lineax as lx

    if isinstance(choice, lx.AbstractLinearSolver) or choice == "auto":
        return choice
    raise ValueError(
        "linear_solver must be 'auto' or a lineax.AbstractLinearSolver, not "
        f"{choice!r}."
    )


class Newton(AbstractSolver):
    """Newton's method with a backtracking line search.

    Each step solves `J d = -F` with the Jacobian `J = dF/dy` and moves to `y + t d`.
    Quadratic convergence near a solution with invertible `J` (Kantorovich 1948;
    Deuflhard, *Newton Methods for Nonlinear Problems*, thm 2.1), contraction or not.
    The derivative reuses the last factorisation.

    **Arguments:**

    - `linear_solver`: `"auto"` forms `J` and factorises it up to 4096 real unknowns and
      uses matrix-free GMRES beyond; or any `lineax.AbstractLinearSolver`, for example
      `lx.GMRES(rtol=1e-6, atol=1e-6)`.
    - `line_search`: halve `t` until the residual falls; `False` always takes `t = 1`.
    - `rtol`, `atol`, `record_history`: see [`implicax.AbstractSolver`][].
    """

    linear_solver: Any = eqx.field(converter=check_linear_solver, default="auto")
    line_search: bool = eqx.field(static=True, default=True)
    rtol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    atol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    record_history: bool = eqx.field(static=True, default=False)

    def _dense(self, y: Vector) -> bool:
        auto = isinstance(self.linear_solver, str)
        return auto and _tree.size(y) <= DENSE_LIMIT

    def init(self, system: System, y: Vector) -> State:
        return start(system, y, _no_factor(y) if self._dense(y) else None)

    def step(self, system: System, state: State) -> State:
        point, factor = state.point, None
        if self._dense(point.y):
            factor = _factorised_jacobian(system, point.y)
            correction = factor.solve(point.residual, transposed=False)
        else:
            _, product = jax.linearize(system.residual, point.y)
            solve = LinearSolve(self.linear_solver, None, system.fixed_point)
            correction = solve(product, point.residual)
        direction, singular = _checked_direction(correction, factor)
        length, spent = jnp.ones((), point.norm.dtype), jnp.zeros((), jnp.int32)
        trouble = Status.where(singular, Status.singular, Status.max_steps_reached)
        if self.line_search:
            length, spent, accepted = backtrack(
                system, point, direction, self.target(point)
            )
            # No length was good enough: stay, and say so.
            length = jnp.where(accepted, length, 0)
            stuck = ~accepted & ~singular
            trouble = Status.where(stuck, Status.stagnated, trouble)
        y = move(point, direction, length)
        return advance(system, state, y, factor, evaluations=spent + 1, trouble=trouble)

    def factor(self, state: State) -> Factor | None:
        return state.memory


class Chord(AbstractSolver):
    """Newton's method with the Jacobian of the initial guess throughout.

    One factorisation in all, then linear convergence at a rate proportional to the
    distance of the first Jacobian from the last (the simplified Newton method;
    Kelley, *Iterative Methods for Linear and Nonlinear Equations*, sec. 5.4). Up to
    4096 real unknowns.

    **Arguments:** `rtol`, `atol`, `record_history`: see [`implicax.AbstractSolver`][].
    """

    rtol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    atol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    record_history: bool = eqx.field(static=True, default=False)

    def init(self, system: System, y: Vector) -> State:
        if _tree.size(y) > DENSE_LIMIT:
            raise ValueError(
                f"Chord forms the Jacobian, and y0 has {_tree.size(y)} real unknowns; "
                f"the limit is {DENSE_LIMIT}. Use ix.Newton (matrix-free beyond that), "
                "ix.Broyden or ix.Anderson."
            )
        return start(system, y, _factorised_jacobian(system, y))

    def step(self, system: System, state: State) -> State:
        point, factor = state.point, state.memory
        correction = factor.solve(point.residual, transposed=False)
        direction, singular = _checked_direction(correction, factor)
        trouble = Status.where(singular, Status.singular, Status.max_steps_reached)
        y = _tree.add(point.y, direction)
        return advance(system, state, y, factor, trouble=trouble)

    def factor(self, state: State) -> Factor:
        return state.memory


def _factorised_jacobian(system: System, y: Vector) -> Factor:
    _, product = jax.linearize(system.residual, y)
    return factorise(materialise(product, y))


def _no_factor(y: Vector) -> Factor:
    """A placeholder of the right shape. As an approximate inverse it is infinite, so
    whoever reuses it finds out at once and factorises afresh."""
    n, dtype = _tree.size(y), _tree.working_dtype(y)
    false = jnp.zeros((), bool)
    return Factor(jnp.zeros((n, n), dtype), jnp.arange(n, dtype=jnp.int32), false)


def _checked_direction(
    correction: Vector, factor: Factor | None
) -> tuple[Vector, Array]:
    """`-correction`, or zero with the verdict `singular` where it means nothing."""
    singular = ~jnp.isfinite(_tree.norm(correction))
    if factor is not None:
        singular = singular | factor.singular
    direction = jax.tree.map(lambda x: jnp.where(singular, 0, -x), correction)
    return direction, singular
