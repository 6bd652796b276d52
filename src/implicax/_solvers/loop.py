"""The one bounded loop that every iterative solver of ours runs in, and the verdict on
the answers of others."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from implicax._core import tree_math
from implicax._core.solution import Stats, Status
from implicax._core.tree_math import Vector
from implicax._linear.approximate_inverse import ApproximateInverse
from implicax._problems.equations import System
from implicax._solvers.base import AbstractSolver, State
from implicax._solvers.minimality import judge_minimum
from implicax._solvers.progress import Listener, tell
from implicax._solvers.termination import (
    STRANGERS,
    Tolerance,
    confirm,
    examinable,
    judge_equations,
)

#: A residual this much above the first one (and the unknown) has diverged.
DIVERGED = 1e8
#: How often a solve goes on after an exact correction has refused its answer.
REFUSALS = 64
#: A solution this much larger than the start may lie at infinity.
FAR = 10.0


class SolverResult(eqx.Module):
    """What a solver left behind."""

    y: Vector
    status: Status
    stats: Stats
    approximate_inverse: ApproximateInverse | None
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
        """The lowest measure of the residual so far."""
        return self.numbers[1]

    @property
    def lowest_at(self) -> Float[Array, ""]:
        """The step that reached it."""
        return self.numbers[2]

    @property
    def going(self) -> Bool[Array, ""]:
        return self.numbers[3] > 0

    @property
    def best_norm(self) -> Float[Array, ""]:
        """The residual norm of the best iterate, the one to return."""
        return self.numbers[4]

    @property
    def limit(self) -> Float[Array, ""]:
        """The steps that may be taken, ..."""
        return self.numbers[5]

    @property
    def best(self) -> Float[Array, ""]:
        """... and the lowest measure of all attempts: where there may be two."""
        return self.numbers[6]

    @property
    def lowest_objective(self) -> Float[Array, ""]:
        """Where something is minimised."""
        return self.numbers[5]


class _Carry(eqx.Module):
    state: State
    ledger: _Ledger
    best: Vector
    history: Float[Array, " max_steps_plus_1"] | None


class _Verdict(eqx.Module):
    """What an exact correction said of the last iterate."""

    carry: _Carry
    refusals: Float[Array, ""]
    solved: Bool[Array, ""]
    refused: Bool[Array, ""]
    """Whether the solver believed in it, and it is no solution."""
    singular: Bool[Array, ""]
    degenerate: Bool[Array, ""]
    error: Float[Array, ""]
    going: Bool[Array, ""]


def run_loop(
    solver: AbstractSolver,
    system: System,
    y0: Vector,
    max_steps: int,
    *,
    differentiable: bool = False,
    listen: Listener | None = None,
) -> SolverResult:
    """Step until the solver converges, fails, or has spent `max_steps`.

    Returns the converged iterate, or else the one with the lowest residual.
    `differentiable=True` runs the same steps in a `lax.scan`, which has a reverse
    mode and stores every iterate; otherwise a `lax.while_loop`, which does neither.
    `listen` is told of every step.

    Where the solver's estimate of the errors is none by an exact Jacobian, and one is
    cheap, its answer is confirmed by that; a refused one is improved.
    """
    state = solver.init(system, y0)
    first, start = state.iterate, solver.measure(state)
    ceiling = DIVERGED * (start + state.first_size)
    two = solver.restarted(state, jnp.zeros((), bool)) is not None
    attempts = 2 if two else 1

    def endings(state: State, stale: Array) -> list[tuple[Array, Status]]:
        """Why a solve may end, the stronger reason later."""
        norm, objective = state.iterate.norm, state.iterate.objective
        grown = solver.measure(state) > ceiling
        if objective is not None and first.objective is not None:
            # Away from a saddle gradients grow without bound, and the objective falls.
            grown = grown & ~(objective < first.objective)
        return [
            (stale >= solver.patience, Status.stagnated),
            (grown, Status.diverged),
            (~jnp.isfinite(norm), Status.non_finite),
            (solver.converged(state), Status.converged),
        ]

    def goes_on(state: State, steps: Array, stale: Array, limit: Any) -> Array:
        going = (steps < limit) & ~state.halted
        for holds, _ in endings(state, stale):
            going = going & ~holds
        return going

    def step(carry: _Carry) -> _Carry:
        state, ledger = solver.step(system, carry.state), carry.ledger
        norm, steps = solver.measure(state), ledger.steps + 1
        objective, more = state.iterate.objective, ()
        lower = better = norm < ledger.lowest
        lowest = jnp.where(lower, norm, ledger.lowest)
        if objective is not None:
            # A minimisation may well pass through larger gradients: what counts is the
            # objective, or else the gradient alone where that has met its rounding.
            better = objective < ledger.lowest_objective
            better = better | (objective == ledger.lowest_objective) & lower
            more = (jnp.where(better, objective, ledger.lowest_objective),)
        lowest_at = jnp.where(better | lower, steps, ledger.lowest_at)
        limit = ledger.limit if attempts > 1 else max_steps
        going = goes_on(state, steps, steps - lowest_at, limit)
        iterate = state.iterate
        if attempts > 1:
            better = norm < ledger.best
            why = solver.failure_reason(state)
            solved = solver.converged(state) & (why != Status.singular)
            failed = ~going & ~solved & (why != Status.degenerate)
            other = solver.restarted(state, failed)
            assert other is not None
            state, again = other
            going = going | again
            lowest = jnp.where(again, jnp.inf, lowest)
            lowest_at = jnp.where(again, steps, lowest_at)
            limit = jnp.where(again, steps + max_steps, limit)
            more = limit, jnp.where(better, norm, ledger.best)
        best_norm = jnp.where(better, iterate.norm, ledger.best_norm)
        if listen is not None:
            tell(listen, steps, max_steps, iterate.norm, objective, done=False)
        history = carry.history
        if history is not None:
            history = history.at[steps.astype(jnp.int32)].set(iterate.norm)
        return _Carry(
            state,
            _Ledger.entry(steps, lowest, lowest_at, going, best_norm, *more),
            tree_math.where(better, iterate.y, carry.best),
            history,
        )

    zero = jnp.zeros((), start.dtype)
    history = None
    if solver.record_history:
        empty = jnp.full((attempts * max_steps + 1,), jnp.nan, first.norm.dtype)
        history = empty.at[0].set(first.norm)
    # Where the first residual is NaN nothing can be lower than it: let infinity stand.
    lowest = jnp.where(jnp.isnan(start), jnp.inf, start)
    more = (first.norm,)
    if attempts > 1:
        more = (first.norm, jnp.full_like(start, max_steps), lowest)
    if first.objective is not None:
        worst = jnp.where(jnp.isnan(first.objective), jnp.inf, first.objective)
        more = (first.norm, worst)
    going = goes_on(state, zero, zero, max_steps)
    ledger = _Ledger.entry(zero, lowest, zero, going, *more)
    carry = _Carry(state, ledger, y0, history)
    verdict = None
    if differentiable:

        def maybe_step(carry: _Carry, _: None) -> tuple[_Carry, None]:
            return jax.lax.cond(carry.ledger.going, step, lambda c: c, carry), None

        carry, _ = jax.lax.scan(maybe_step, carry, None, length=max_steps)
    else:

        def steps_from(carry: _Carry) -> _Carry:
            return tree_math.while_loop(lambda carry: carry.ledger.going, step, carry)

        if solver.exact or not examinable(system, y0, solver.forms_jacobian):
            carry = steps_from(carry)
        else:
            verdict = _until_confirmed(solver, system, carry, steps_from, goes_on)
            carry = verdict.carry

    last, ledger = carry.state, carry.ledger
    if listen is not None:
        norm, objective = last.iterate.norm, last.iterate.objective
        tell(listen, ledger.steps, max_steps, norm, objective, done=True)
    status, converged = Status.max_steps_reached, solver.converged(last)
    for holds, ending in endings(last, ledger.steps - ledger.lowest_at):
        status = Status.where(holds, ending, status)
    # What the solver knows of its trouble says more than the symptoms do; and a step by
    # a singular Jacobian leads to *a* solution at best, one of many.
    why = solver.failure_reason(last)
    singular = (why == Status.singular) & (ledger.steps > 0)
    status = Status.where(last.halted & ~converged | singular, why, status)
    there = last.halted & ~singular & solver.at_rounding_error(last)
    status = Status.where(there, Status.converged, status)
    error = solver.error(last)
    if verdict is not None:
        lost = Status.where(verdict.singular, Status.singular, Status.stagnated)
        lost = Status.where(verdict.degenerate, Status.degenerate, lost)
        status = Status.where(verdict.refused | verdict.degenerate, lost, status)
        status = Status.where(verdict.solved & ~singular, Status.converged, status)
        error = verdict.error
    converged = status == Status.converged
    stats = Stats(
        ledger.steps.astype(jnp.int32),
        last.evaluations,
        jnp.where(converged, last.iterate.norm, ledger.best_norm),
        jnp.where(converged, error, jnp.inf),
        carry.history,
    )
    y = tree_math.where(converged, last.iterate.y, carry.best)
    inverse = solver.approximate_inverse(last)
    if not isinstance(inverse, ApproximateInverse | None):
        raise TypeError(
            f"{type(solver).__name__}.approximate_inverse(state) must return None or "
            "an object with a method solve(b, transposed) (ix.ApproximateInverse), and "
            f"it returned {inverse!r}."
        )
    outcome = SolverResult(y, status, stats, inverse)
    return solver.judged(system, last, outcome)


def _until_confirmed(
    solver: AbstractSolver, system: System, carry: _Carry, steps_from: Any, goes_on: Any
) -> _Verdict:
    """Take steps until an exact correction confirms the estimated errors.

    A loop around the loop: under `vmap` its matrix is formed once for all lanes, when
    the last of them believes that it is there.
    """

    def body(verdict: _Verdict) -> _Verdict:
        carry = steps_from(verdict.carry)
        state, ledger = carry.state, carry.ledger
        stale = ledger.steps - ledger.lowest_at
        idle = state.halted | (stale >= solver.patience)
        believed = solver.converged(state)
        iterate = state.iterate
        near = jnp.ones((), bool)
        if system.fixed_point:
            start = state.first_size + state.first_norm
            near = tree_math.max_norm(iterate.y) <= FAR * start
        seen = confirm(
            system, iterate, state.reach, solver.tolerance, believed, idle, near
        )
        solved = ((believed | idle) & seen.solved) | solver.absolute(iterate)
        degenerate = (believed | idle) & seen.degenerate & ~solved
        # The estimate was too small by so much: ask for more of it.
        scaled = tree_math.scaled(state.distrust, state.error)
        told = solver.tolerance.units(scaled, iterate.y, state.reach)
        missing = 2 * jnp.maximum(seen.units, 1) / jnp.maximum(told, 1e-12)
        missing = jnp.clip(missing, 2, 1e12)
        distrust = jnp.where(solved, state.distrust, missing * state.distrust)
        state = eqx.tree_at(lambda s: s.distrust, state, distrust)
        refusals, refused = verdict.refusals + 1, believed & ~solved
        going = goes_on(state, ledger.steps, stale, max_steps) & ~degenerate
        going = going & refused & (refusals < REFUSALS)
        numbers = ledger.numbers.at[3].set(going.astype(dtype))
        return _Verdict(
            _Carry(state, _Ledger(numbers), carry.best, carry.history),
            refusals,
            solved,
            refused,
            seen.singular,
            degenerate,
            seen.error,
            going,
        )

    dtype = carry.ledger.numbers.dtype
    no, zero = jnp.zeros((), bool), jnp.zeros((), dtype)
    inf = jnp.full((), jnp.inf, dtype)
    first = _Verdict(carry, zero, no, no, no, no, inf, jnp.ones((), bool))
    return tree_math.while_loop(lambda verdict: verdict.going, body, first)


def judge(
    system: System,
    v0: Vector,
    v: Vector,
    steps: Array,
    failed: Bool[Array, ""],
    rtol: Array | None = None,
    atol: Array | None = None,
) -> SolverResult:
    """The outcome of a solve that somebody else made.

    `rtol`, `atol`: the relative error that each unknown may have, or the `|F|` that is
    small enough.
    """
    if system.objective is not None:
        last = system.evaluate(v)
        status, error = judge_minimum(system, system.evaluate(v0), last, rtol)
        if atol is not None:
            small = last.norm <= atol.astype(last.norm.dtype)
            status = Status.where(small, Status.converged, status)
    else:
        last, solved, error = judge_equations(
            system, v0, v, Tolerance(rtol, STRANGERS), atol
        )
        status = Status.where(solved, Status.converged, Status.not_solved)
    status = Status.where(jnp.isfinite(last.norm), status, Status.non_finite)
    status = Status.where(failed, Status.failed, status)
    two = jnp.full((), 2, jnp.int32)
    error = jnp.where(status == Status.converged, error, jnp.inf)
    stats = Stats(steps.astype(jnp.int32), two, last.norm, error, None)
    return SolverResult(v, status, stats, None)
