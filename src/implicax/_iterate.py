"""The one bounded loop that every iterative solver of ours runs in, and the verdict on
the answers of others."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from . import _tree
from ._progress import Listener, tell
from ._solution import Stats, Status
from ._system import System
from ._tree import Vector
from .solvers._base import AbstractSolver, State

#: A residual this much above the first one (and its scale) has diverged.
DIVERGED = 1e8


class Outcome(eqx.Module):
    """What a solver left behind."""

    y: Vector
    status: Status
    stats: Stats
    inverse: Any
    """What the solver knows of `(dF/dy)^-1` near `y`, or `None`."""
    said: Array | None = None
    """What a solver of another library said of it: text as data, or `None`."""


class _Ledger(eqx.Module):
    """The loop's own books: a few numbers, kept in *one* array.

    As scalars they would be a kernel each per step, which for small problems cost more
    than the step itself (measured at n = 10: 15 against 9 microseconds per solve).
    """

    numbers: Float[Array, " k"]

    @classmethod
    def entry(
        cls, steps: Array, lowest: Array, lowest_at: Array, going: Array, *more: Array
    ) -> "_Ledger":
        row = (steps, lowest, lowest_at, going, *more)
        return cls(jnp.stack([number.astype(lowest.dtype) for number in row]))

    @property
    def steps(self) -> Float[Array, ""]:
        return self.numbers[0]

    @property
    def lowest(self) -> Float[Array, ""]:
        """The lowest residual norm so far."""
        return self.numbers[1]

    @property
    def lowest_at(self) -> Float[Array, ""]:
        """The step that reached it."""
        return self.numbers[2]

    @property
    def going(self) -> Bool[Array, ""]:
        return self.numbers[3] > 0

    @property
    def lowest_objective(self) -> Float[Array, ""]:
        """Where something is minimised."""
        return self.numbers[4]

    @property
    def best_norm(self) -> Float[Array, ""]:
        """The residual norm of the best iterate, the one to return."""
        return self.lowest if self.numbers.size == 4 else self.numbers[5]


class _Carry(eqx.Module):
    state: State
    ledger: _Ledger
    best: Vector
    history: Float[Array, " max_steps_plus_1"] | None


def iterate(
    solver: AbstractSolver,
    system: System,
    y0: Vector,
    max_steps: int,
    *,
    differentiable: bool = False,
    listen: Listener | None = None,
) -> Outcome:
    """Step until the solver converges, fails, or has spent `max_steps`.

    Returns the converged iterate, or else the one with the lowest residual.
    `differentiable=True` runs the same steps in a `lax.scan`, which has a reverse
    mode and stores every iterate; otherwise a `lax.while_loop`, which does neither.
    `listen` is told of every step.
    """
    state = solver.init(system, y0)
    first = state.point
    ceiling = DIVERGED * (first.norm + first.scale)

    def endings(state: State, stale: Array) -> list[tuple[Array, Status]]:
        """Why a solve may end, the stronger reason later."""
        norm, objective = state.point.norm, state.point.objective
        grown = norm > ceiling
        if objective is not None and first.objective is not None:
            # Away from a saddle gradients grow without bound, and the objective falls.
            grown = grown & ~(objective < first.objective)
        return [
            (stale >= solver.patience, Status.stagnated),
            (grown, Status.diverged),
            (~jnp.isfinite(norm), Status.non_finite),
            (solver.converged(state), Status.converged),
        ]

    def goes_on(state: State, steps: Array, stale: Array) -> Array:
        going = (steps < max_steps) & ~state.stuck
        for holds, _ in endings(state, stale):
            going = going & ~holds
        return going

    def step(carry: _Carry) -> _Carry:
        state, ledger = solver.step(system, carry.state), carry.ledger
        norm, steps = state.point.norm, ledger.steps + 1
        objective, more = state.point.objective, ()
        lower = better = norm < ledger.lowest
        lowest = jnp.where(lower, norm, ledger.lowest)
        if objective is not None:
            # A minimisation may well pass through larger gradients: what counts is the
            # objective, or else the gradient alone where that has met its rounding.
            better = objective < ledger.lowest_objective
            better = better | (objective == ledger.lowest_objective) & lower
            more = (
                jnp.where(better, objective, ledger.lowest_objective),
                jnp.where(better, norm, ledger.best_norm),
            )
        lowest_at = jnp.where(better | lower, steps, ledger.lowest_at)
        going = goes_on(state, steps, steps - lowest_at)
        if listen is not None:
            tell(listen, steps, max_steps, norm, objective, done=False)
        history = carry.history
        if history is not None:
            history = history.at[steps.astype(jnp.int32)].set(norm)
        return _Carry(
            state,
            _Ledger.entry(steps, lowest, lowest_at, going, *more),
            _tree.where(better, state.point.y, carry.best),
            history,
        )

    zero = jnp.zeros((), first.norm.dtype)
    history = None
    if solver.record_history:
        empty = jnp.full((max_steps + 1,), jnp.nan, first.norm.dtype)
        history = empty.at[0].set(first.norm)
    # Where the first residual is NaN nothing can be lower than it: let infinity stand.
    lowest = jnp.where(jnp.isnan(first.norm), jnp.inf, first.norm)
    more = ()
    if first.objective is not None:
        worst = jnp.where(jnp.isnan(first.objective), jnp.inf, first.objective)
        more = (worst, first.norm)
    ledger = _Ledger.entry(zero, lowest, zero, goes_on(state, zero, zero), *more)
    carry = _Carry(state, ledger, y0, history)
    if differentiable:

        def maybe_step(carry: _Carry, _: None) -> tuple[_Carry, None]:
            return jax.lax.cond(carry.ledger.going, step, lambda c: c, carry), None

        carry, _ = jax.lax.scan(maybe_step, carry, None, length=max_steps)
    else:
        carry = _tree.while_loop(lambda carry: carry.ledger.going, step, carry)

    last, ledger = carry.state, carry.ledger
    if listen is not None:
        norm, objective = last.point.norm, last.point.objective
        tell(listen, ledger.steps, max_steps, norm, objective, done=True)
    converged = solver.converged(last)
    status = Status.max_steps_reached
    for holds, verdict in endings(last, ledger.steps - ledger.lowest_at):
        status = Status.where(holds, verdict, status)
    # What the solver knows of its trouble says more than the symptoms do; and a step by
    # a singular Jacobian leads to *a* solution at best, one of many.
    why = solver.why_stuck(last)
    singular = (why == Status.singular) & (ledger.steps > 0)
    status = Status.where(last.stuck & ~converged | singular, why, status)
    converged = status == Status.converged
    there = last.stuck & ~singular & solver.at_rounding_error(last)
    status = Status.where(there, Status.converged, status)
    stats = Stats(
        ledger.steps.astype(jnp.int32),
        last.evaluations,
        jnp.where(converged, last.point.norm, ledger.best_norm),
        carry.history,
    )
    y = _tree.where(converged, last.point.y, carry.best)
    return Outcome(y, status, stats, solver.approximate_inverse(last))


def judge(
    system: System, v0: Vector, v: Vector, steps: Array, lost: Bool[Array, ""]
) -> Outcome:
    """The outcome of a solve that somebody else made."""
    first, last = system.evaluate(v0), system.evaluate(v)
    loose = _tree.coarsest_eps(v) ** 0.5
    if last.objective is not None:
        # An objective is flat at its minimum: who sees nothing else finds `y` to about
        # `sqrt(eps)`, with a gradient to match.
        loose *= 10
    solved = last.meets(loose, loose * first.norm, first.norm, first.scale)
    status = Status.where(solved, Status.converged, Status.not_solved)
    status = Status.where(jnp.isfinite(last.norm), status, Status.non_finite)
    status = Status.where(lost, Status.failed, status)
    two = jnp.full((), 2, jnp.int32)
    stats = Stats(steps.astype(jnp.int32), two, last.norm, None)
    return Outcome(v, status, stats, None)
