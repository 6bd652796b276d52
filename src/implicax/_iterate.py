"""The one bounded loop that every iterative solver runs in."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from . import _tree
from ._solution import Stats, Status
from ._system import System
from ._tree import Vector
from .solvers._base import AbstractSolver, State

#: A residual this much above the first one (and its scale) has diverged.
DIVERGED = 1e8
#: Steps without a new lowest residual after which a solve has stagnated. Accelerated
#: methods pause for a while before they break through; limit cycles never do.
PATIENCE = 50


class Outcome(eqx.Module):
    """What a solver left behind."""

    y: Vector
    status: Status
    stats: Stats
    factor: Any
    """A factorisation of `dF/dy` near `y`, or `None`."""


class _Carry(eqx.Module):
    state: State
    status: Status
    steps: Int[Array, ""]
    best: Vector
    best_norm: Float[Array, ""]
    best_step: Int[Array, ""]
    history: Float[Array, " max_steps_plus_1"] | None


def iterate(
    solver: AbstractSolver,
    system: System,
    y0: Vector,
    max_steps: int,
    *,
    differentiable: bool = False,
) -> Outcome:
    """Step until the solver converges, fails, or has spent `max_steps`.

    Returns the converged iterate, or else the one with the lowest residual.
    `differentiable=True` runs the same steps in a `lax.scan`, which has a reverse
    mode and stores every iterate; otherwise a `lax.while_loop`, which does neither.
    """
    state = solver.init(system, y0)
    first = state.point
    ceiling = DIVERGED * (first.norm + first.scale)

    def judge(state: State, since_best: Array) -> Status:
        norm = state.point.norm
        status = state.trouble
        for holds, verdict in (
            (since_best >= PATIENCE, Status.stagnated),
            (norm > ceiling, Status.diverged),
            (~jnp.isfinite(norm), Status.non_finite),
            (solver.converged(state), Status.converged),
        ):
            status = Status.where(holds, verdict, status)
        return status

    def going(carry: _Carry) -> Array:
        return (carry.status == Status.max_steps_reached) & (carry.steps < max_steps)

    def step(carry: _Carry) -> _Carry:
        state = solver.step(system, carry.state)
        steps = carry.steps + 1
        norm = state.point.norm
        better = norm < carry.best_norm
        best_step = jnp.where(better, steps, carry.best_step)
        status = judge(state, steps - best_step)
        take = better | (status == Status.converged)
        history = carry.history
        if history is not None:
            history = history.at[steps].set(norm)
        return _Carry(
            state,
            status,
            steps,
            _tree.where(take, state.point.y, carry.best),
            jnp.where(take, norm, carry.best_norm),
            best_step,
            history,
        )

    zero = jnp.zeros((), jnp.int32)
    history = None
    if solver.record_history:
        empty = jnp.full((max_steps + 1,), jnp.nan, first.norm.dtype)
        history = empty.at[0].set(first.norm)
    # Where the first residual is NaN nothing can be lower than it: let infinity stand.
    best_norm = jnp.where(jnp.isnan(first.norm), jnp.inf, first.norm)
    carry = _Carry(state, judge(state, zero), zero, y0, best_norm, zero, history)
    if differentiable:

        def maybe_step(carry: _Carry, _: None) -> tuple[_Carry, None]:
            return jax.lax.cond(going(carry), step, lambda c: c, carry), None

        carry, _ = jax.lax.scan(maybe_step, carry, None, length=max_steps)
    else:
        carry = jax.lax.while_loop(going, step, carry)
    stats = Stats(carry.steps, carry.state.evaluations, carry.best_norm, carry.history)
    return Outcome(carry.best, carry.status, stats, solver.factor(carry.state))
