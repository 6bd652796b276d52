"""Newton's method, and the chord method that keeps its first Jacobian."""

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .. import _tree
from .._linear import Auto, LinearSolve, linear_solver
from .._lu import DENSE_LIMIT, Elimination, Factor, augment, eliminate, factorise
from .._solution import Status
from .._system import System
from .._tree import Vector
from ._base import AbstractSolver, State, tolerance
from ._search import backtrack

#: Full steps taken against the line search.
MAX_LEAPS = 10
#: A leap to a residual this much above the first one (and its scale) leads nowhere.
LONGEST_LEAP = 1e8


class _Memory(eqx.Module):
    elimination: Elimination | None
    leaps: Float[Array, ""]


class Newton(AbstractSolver):
    """Newton's method with a backtracking line search.

    Each step solves `J d = -F` with the Jacobian `J = dF/dy` and moves to `y + t d`.
    Quadratic convergence near a solution with invertible `J` (Kantorovich 1948;
    Deuflhard, *Newton Methods for Nonlinear Problems*, thm 2.1), contraction or not.
    The derivative reuses the last factorisation.

    **Arguments:**

    - `linear_solver`: `"auto"` forms `J` and factorises it up to 4096 real unknowns and
      uses matrix-free GMRES beyond; or any `lineax.AbstractLinearSolver`, for example
      `lx.GMRES(rtol=1e-6, atol=1e-6)`; or [`implicax.MinimumNorm`][], for singular
      systems.
    - `line_search`: halve `t` until the residual falls; where no length makes it fall
      (a local minimum of `|F|` that is no root), take the full step, up to ten times.
      `False` always takes `t = 1`.
    - `rtol`, `atol`, `record_history`: see [`implicax.AbstractSolver`][].
    """

    linear_solver: Any = eqx.field(converter=linear_solver, default="auto")
    line_search: bool = eqx.field(static=True, default=True)
    rtol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    atol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    record_history: bool = eqx.field(static=True, default=False)

    precision: ClassVar[float] = 0.8

    def _dense(self, y: Vector) -> bool:
        auto = isinstance(self.linear_solver, Auto)
        return auto and _tree.size(y) <= DENSE_LIMIT

    def init(self, system: System, y: Vector) -> State:
        elimination = no_elimination(y) if self._dense(y) else None
        leaps = jnp.zeros((), _tree.working_dtype(y))
        return State.start(system, y, _Memory(elimination, leaps))

    def step(self, system: System, state: State) -> State:
        point, elimination = state.point, None
        if self._dense(point.y):
            flat, unravel = _tree.ravel(point.residual)
            elimination = eliminate(*augment(system.jacobian(point.y), flat))
            correction = unravel(elimination.solution)
        elif system.reverse_only:
            raise TypeError(
                "fn has a VJP only (a jax.custom_vjp), and matrix-free Newton needs "
                "Jacobian-vector products. Use ix.Anderson or ix.Broyden, or give fn a "
                "jax.custom_jvp."
            )
        else:
            _, product = jax.linearize(system.residual, point.y)
            solve = LinearSolve(self.linear_solver, None, system.fixed_point)
            correction = solve.approximately(product, point.residual, False)
        direction = jax.tree.map(jnp.negative, correction)
        leaps = state.memory.leaps
        if not self.line_search:
            memory = _Memory(elimination, leaps)
            return state.move(system, _tree.add(point.y, direction), memory)
        trial = backtrack(system, point, direction, lambda new: self.meets(state, new))
        memory = _Memory(elimination, leaps + trial.rejected.astype(leaps.dtype))
        new = state.moved(trial.point, memory, trial.evaluations, trial.rejected)
        hopeless = self.at_rounding_error(new) | (memory.leaps > MAX_LEAPS)
        too_far = LONGEST_LEAP * (state.first_norm + state.first_scale)
        hopeless = hopeless | (new.point.norm > too_far)
        if elimination is not None:
            hopeless = hopeless | elimination.singular
        return dataclasses.replace(new, stuck=trial.rejected & hopeless)

    def at_rounding_error(self, state: State) -> Bool[Array, ""]:
        elimination = state.memory.elimination
        if elimination is None:
            return jnp.zeros((), bool)
        # |F| <= n eps |J| |y|: zero, for a Jacobian that is n eps off in each entry
        # (Rigal & Gaches 1967; Higham, *Accuracy and Stability*, thm 7.1). `|J y|` may
        # be far smaller than that where J is ill-conditioned.
        y, scale = state.point.y, elimination.scale
        error = scale.size * _tree.coarsest_eps(y) * jnp.max(scale) * _tree.largest(y)
        return state.point.norm <= error

    def why_stuck(self, state: State) -> Status:
        elimination, singular = state.memory.elimination, False
        if elimination is not None:
            singular = elimination.singular
        return Status.where(jnp.asarray(singular), Status.singular, Status.stagnated)

    def approximate_inverse(self, state: State) -> Factor | None:
        elimination = state.memory.elimination
        return None if elimination is None else elimination.factor


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
        return State.start(system, y, factorise(system.jacobian(y)))

    def step(self, system: System, state: State) -> State:
        point, factor = state.point, state.memory
        correction = factor.solve(point.residual, transposed=False)
        return state.move(system, _tree.subtract(point.y, correction), factor)

    def why_stuck(self, state: State) -> Status:
        singular = state.memory.singular
        return Status.where(singular, Status.singular, Status.stagnated)

    def approximate_inverse(self, state: State) -> Factor:
        return state.memory


def no_elimination(y: Vector) -> Elimination:
    """A placeholder of the right shape. As an approximate inverse it is infinite, so
    whoever reuses it finds out at once and factorises afresh."""
    n, dtype = _tree.size(y), _tree.working_dtype(y)
    pivots = jnp.arange(n, dtype=jnp.int32)
    zeros, ones = jnp.zeros((n, n), dtype), jnp.ones((n,), dtype)
    return Elimination(zeros, pivots, ones, ones)
