"""The one bounded loop that every iterative solver of ours runs in."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from implicax._core import tree_math
from implicax._core.packed import Flag, Number, Packed
from implicax._core.solution import Stats, Status
from implicax._core.tree_math import Vector
from implicax._linear.approximate_inverse import ApproximateInverse
from implicax._linear.krylov import Krylov
from implicax._problems.equations import Iterate, System
from implicax._solvers.base import AbstractSolver, State
from implicax._solvers.progress import Listener, tell
from implicax._solvers.termination import confirm, examinable

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
    approximate_inverse: ApproximateInverse | Krylov | None
    """What the solver knows of `(dF/dy)^-1` near `y`, or `None`."""
    said: Array | None = None
    """What a solver of another library said of it: text as data, or `None`."""


class _Ledger(Packed):
    """The loop's own books."""

    steps = Number()
    lowest = Number()
    """The lowest measure of the residual so far."""
    lowest_at = Number()
    """The step that reached it."""
    going = Flag()
    halted = Flag()
    """Whether the solver cannot go on."""
    best_norm = Number()
    """The residual norm of the best iterate, the one to return."""
    lowest_objective = Number()
    """Infinite where nothing is minimised."""


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
    wrong_sparsity: Bool[Array, ""] | None
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
    """Step until the solver converges, fails, or has spent `max_steps`; then once more,
    if the solver has another way to try.

    Returns the converged iterate, or else the one with the lowest residual.
    `differentiable=True` runs the same steps in a `lax.scan`, which has a reverse
    mode and stores every iterate; otherwise a `lax.while_loop`, which does neither.
    `listen` is told of every step.

    Where the solver's estimate of the errors is none by an exact Jacobian, and one is
    cheap, its answer is confirmed by that; a refused one is improved.
    """
    state = solver.init(system, y0)
    ceiling = DIVERGED * (solver.measure(state) + state.first_size)
    loop = _Loop(
        solver, system, max_steps, differentiable, listen, state.iterate, ceiling
    )
    other = solver.restarted(state)
    if other is None:
        last, outcome = loop.attempt(state)
        inverse = solver.approximate_inverse(last)
    else:
        outcome, inverse = _two_attempts(loop, state, other)
    if not isinstance(inverse, ApproximateInverse | Krylov | None):
        raise TypeError(
            f"{type(solver).__name__}.approximate_inverse(state) must return None or "
            "an object with a method solve(b, transposed) (ix.ApproximateInverse), and "
            f"it returned {inverse!r}."
        )
    return dataclasses.replace(outcome, approximate_inverse=inverse)


@dataclasses.dataclass(frozen=True)
class _Loop:
    """What stays the same from step to step."""

    solver: AbstractSolver
    system: System
    max_steps: int
    differentiable: bool
    listen: Listener | None
    first: Iterate
    ceiling: Array
    """A larger residual has diverged."""

    def attempt(self, state: State) -> tuple[State, SolverResult]:
        """From a state to where the solver ends."""
        carry, solver = self.begin(state), self.solver
        if self.differentiable:

            def maybe_step(carry: _Carry, _: None) -> tuple[_Carry, None]:
                going = carry.ledger.going
                return jax.lax.cond(going, self.step, lambda c: c, carry), None

            carry, _ = jax.lax.scan(maybe_step, carry, None, length=self.max_steps)
            return self.conclude(carry, None)
        y = state.iterate.y
        if solver.exact or not examinable(self.system, y, solver.forms_jacobian):
            return self.conclude(self.steps_from(carry), None)
        verdict = _until_confirmed(self, carry)
        return self.conclude(verdict.carry, verdict)

    def begin(self, state: State) -> _Carry:
        norm, first = state.iterate.norm, self.solver.measure(state)
        dtype, history = norm.dtype, None
        if self.solver.record_history:
            empty = jnp.full((self.max_steps + 1,), jnp.nan, dtype)
            history = empty.at[0].set(norm)
        zero = jnp.zeros((), dtype)
        objective = jnp.inf if self.first.objective is None else self.first.objective
        # Where the first residual is NaN nothing can be lower: let infinity stand.
        ledger = _Ledger.of(
            dtype,
            steps=zero,
            lowest=jnp.where(jnp.isnan(first), jnp.inf, first),
            lowest_at=zero,
            going=self.goes_on(state, zero, zero),
            halted=state.halted,
            best_norm=norm,
            lowest_objective=jnp.where(jnp.isnan(objective), jnp.inf, objective),
        )
        return _Carry(state, ledger, state.iterate.y, history)

    def steps_from(self, carry: _Carry) -> _Carry:
        return tree_math.while_loop(lambda carry: carry.ledger.going, self.step, carry)

    def endings(self, state: State, stale: Array) -> list[tuple[Array, Status]]:
        """Why a solve may end, the stronger reason later."""
        norm, objective = state.iterate.norm, state.iterate.objective
        grown = self.solver.measure(state) > self.ceiling
        if objective is not None and self.first.objective is not None:
            # Away from a saddle gradients grow without bound, and the objective falls.
            grown = grown & ~(objective < self.first.objective)
        return [
            (stale >= self.solver.patience, Status.stagnated),
            (grown, Status.diverged),
            (~jnp.isfinite(norm), Status.non_finite),
            (self.solver.converged(state), Status.converged),
        ]

    def goes_on(self, state: State, steps: Array, stale: Array) -> Array:
        going = (steps < self.max_steps) & ~state.halted
        for holds, _ in self.endings(state, stale):
            going = going & ~holds
        return going

    def step(self, carry: _Carry) -> _Carry:
        solver, ledger = self.solver, carry.ledger
        state = solver.step(self.system, carry.state)
        norm, steps = solver.measure(state), ledger.steps + 1
        objective, lowest_objective = state.iterate.objective, ledger.lowest_objective
        lower = better = norm < ledger.lowest
        if objective is not None:
            # A minimisation may well pass through larger gradients: what counts is the
            # objective, or else the gradient alone where that has met its rounding.
            better = objective < lowest_objective
            better = better | (objective == lowest_objective) & lower
            lowest_objective = jnp.where(better, objective, lowest_objective)
        lowest_at = jnp.where(better | lower, steps, ledger.lowest_at)
        if self.listen is not None:
            now = steps, self.max_steps, state.iterate.norm, objective
            tell(self.listen, *now, done=False)
        history = carry.history
        if history is not None:
            history = history.at[steps.astype(jnp.int32)].set(state.iterate.norm)
        ledger = _Ledger.of(
            ledger.numbers.dtype,
            steps=steps,
            lowest=jnp.where(lower, norm, ledger.lowest),
            lowest_at=lowest_at,
            going=self.goes_on(state, steps, steps - lowest_at),
            halted=state.halted,
            best_norm=jnp.where(better, state.iterate.norm, ledger.best_norm),
            lowest_objective=lowest_objective,
        )
        best = tree_math.where(better, state.iterate.y, carry.best)
        return _Carry(state, ledger, best, history)

    def conclude(
        self, carry: _Carry, verdict: _Verdict | None
    ) -> tuple[State, SolverResult]:
        """How it ended."""
        solver, last, ledger = self.solver, carry.state, carry.ledger
        if self.listen is not None:
            now = last.iterate.norm, last.iterate.objective
            tell(self.listen, ledger.steps, self.max_steps, *now, done=True)
        status, converged = Status.max_steps_reached, solver.converged(last)
        for holds, ending in self.endings(last, ledger.steps - ledger.lowest_at):
            status = Status.where(holds, ending, status)
        # What the solver knows of its trouble says more than the symptoms do; and a
        # step by a singular Jacobian leads to *a* solution at best, one of many.
        why = solver.failure_reason(last)
        singular = (why == Status.singular) & (ledger.steps > 0)
        status = Status.where(ledger.halted & ~converged | singular, why, status)
        there = ledger.halted & ~singular & solver.at_rounding_error(last)
        status = Status.where(there, Status.converged, status)
        error = solver.error(last)
        if verdict is not None:
            lost = Status.where(verdict.singular, Status.singular, Status.stagnated)
            lost = Status.where(verdict.degenerate, Status.degenerate, lost)
            if verdict.wrong_sparsity is not None:
                wrong = verdict.wrong_sparsity
                lost = Status.where(wrong, Status.wrong_sparsity, lost)
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
        outcome = SolverResult(y, status, stats, None)
        return last, solver.judged(self.system, last, outcome)


def _two_attempts(
    loop: _Loop, state: State, other: State
) -> tuple[SolverResult, ApproximateInverse | None]:
    """The solver's way and, where that fails, its other one, from the same start.

    Both are rounds of one loop, so that nothing is compiled twice but what they do
    differently.
    """
    norm, history, solver = state.iterate.norm, None, loop.solver
    if solver.record_history:
        history = jnp.full((loop.max_steps + 1,), jnp.nan, norm.dtype)
    zero, inf = jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, norm.dtype)
    none = Stats(zero, zero, inf, inf, history)
    nothing = SolverResult(state.iterate.y, Status.not_solved, none, None)

    def body(carry: tuple) -> tuple:
        outcome, _, count, _ = carry
        first = count == 0
        last, new = loop.attempt(tree_math.where(first, state, other))
        again = failed(new, loop.system.objective is None) & first
        inverse = solver.approximate_inverse(last)
        return better(outcome, new), inverse, count + 1, again

    carry = nothing, solver.approximate_inverse(state), zero, jnp.ones((), bool)
    outcome, inverse, *_ = tree_math.while_loop(lambda carry: carry[3], body, carry)
    return outcome, inverse


def failed(outcome: SolverResult, equations: bool) -> Bool[Array, ""]:
    """Whether another attempt may find more. (A solution of equations that has no
    derivative is one, and nobody finds a derivative at it.)"""
    lost = outcome.status != Status.converged
    return lost & (outcome.status != Status.degenerate) if equations else lost


def better(first: SolverResult, second: SolverResult) -> SolverResult:
    """The second, unless it failed and is further from a solution than the first. (A
    solution without a derivative is nearer than what is none.)"""
    steps = first.stats.steps + second.stats.steps
    evaluations = first.stats.evaluations + second.stats.evaluations
    norms = first.stats.residual_norm, second.stats.residual_norm
    there = [outcome.status == Status.degenerate for outcome in (first, second)]
    nearer = jnp.where(there[0] == there[1], ~(norms[1] > norms[0]), there[1])
    good = (second.status == Status.converged) | nearer
    stats = Stats(
        steps,
        evaluations,
        jnp.where(good, norms[1], norms[0]),
        jnp.where(good, second.stats.error, first.stats.error),
        tree_math.where(
            good, second.stats.residual_history, first.stats.residual_history
        ),
    )
    status = Status.where(good, second.status, first.status)
    y = tree_math.where(good, second.y, first.y)
    return SolverResult(y, status, stats, second.approximate_inverse, second.said)


def _until_confirmed(loop: _Loop, carry: _Carry) -> _Verdict:
    """Take steps until an exact correction confirms the estimated errors.

    A loop around the loop: under `vmap` its matrix is formed once for all lanes, when
    the last of them believes that it is there.
    """

    solver, system = loop.solver, loop.system

    def body(verdict: _Verdict) -> _Verdict:
        carry = loop.steps_from(verdict.carry)
        state, ledger = carry.state, carry.ledger
        stale = ledger.steps - ledger.lowest_at
        idle = ledger.halted | (stale >= solver.patience)
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
        going = loop.goes_on(state, ledger.steps, stale) & ~degenerate
        going = going & refused & (refusals < REFUSALS)
        if seen.wrong_sparsity is not None:
            going = going & ~seen.wrong_sparsity
        numbers = ledger.numbers.at[_Ledger.going.index].set(going.astype(dtype))
        return _Verdict(
            _Carry(state, _Ledger(numbers), carry.best, carry.history),
            refusals,
            solved,
            refused,
            seen.singular,
            degenerate,
            seen.wrong_sparsity,
            seen.error,
            going,
        )

    dtype = carry.ledger.numbers.dtype
    no, zero = jnp.zeros((), bool), jnp.zeros((), dtype)
    inf = jnp.full((), jnp.inf, dtype)
    wrong = None if system.sparsity is None else no
    first = _Verdict(carry, zero, no, no, no, no, wrong, inf, jnp.ones((), bool))
    return tree_math.while_loop(lambda verdict: verdict.going, body, first)
