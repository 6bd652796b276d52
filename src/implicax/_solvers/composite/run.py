"""How a composite problem is solved: by steps of a first-order method, then exactly.

Where `y = prox(y - t gradient)` is smooth, Newton's method on that equation has the
last digits in a few steps, and where `g` is polyhedral it is exact once the support is
right (semismooth Newton: Qi & Sun 1993; with first-order steps around it: Patrinos,
Stella & Bemporad 2014). So the solver's steps come in rounds of growing length, after
each of which Newton's method tries; where it only gets nearer, the solver goes on from
there.
"""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from implicax._core import tree_math
from implicax._core.domain import View
from implicax._core.solution import Stats, Status
from implicax._core.tree_math import Vector
from implicax._problems.composite import fitting_units
from implicax._problems.equations import System
from implicax._problems.optimality_conditions import OptimalityConditions
from implicax._solvers.composite.base import (
    AbstractCompositeSolver,
    CompositeState,
    Split,
)
from implicax._solvers.composite.verdict import examined, has_kink
from implicax._solvers.loop import SolverResult, run_loop
from implicax._solvers.newton import Newton

#: Steps of the first round; each further one has twice as many.
FIRST_ROUND = 16
#: Newton's steps after each.
NEWTON_STEPS = 30
#: Newton's method got nearer where it has left at most this part of the residual.
NEARER = 0.5


class CompositeResult(eqx.Module):
    """Where the solve ended."""

    outcome: SolverResult
    active: tuple[Array, PyTree[Array] | None]
    """The step length in the equation, and the units."""
    weak: Bool[Array, ""]
    """Whether the proximal operator has a kink there."""


class _Round(eqx.Module):
    state: CompositeState
    """The solver's."""
    v: Vector
    """Where Newton's method ended, ..."""
    length: Array
    """... with this step length, ..."""
    status: Status
    stats: Stats
    """... how, ..."""
    steps: Int[Array, ""]
    """... after so many steps of the solver in all, ..."""
    budget: Int[Array, ""]
    """... and how many there may be after the next round."""
    going: Bool[Array, ""]


@eqx.filter_jit(inline=True)  # pyright: ignore[reportCallIssue]
def run_composite(
    split: Split,
    conditions: OptimalityConditions,
    inputs: PyTree[Array],
    view: View,
    solver: AbstractCompositeSolver,
    y0: PyTree[Array],
    max_steps: int,
    separable: bool,
) -> CompositeResult:
    """From `y0` to a solution of the conditions."""
    constants, (arrays, _) = inputs
    units = fitting_units(split.value, y0) if separable else None
    split = dataclasses.replace(split, units=units)

    def system_at(length: Array) -> System:
        return System.of(conditions, (constants, (arrays, (length, units))))

    def one_round(now: _Round) -> _Round:
        state, steps = _stepped(solver, split, now.state, now.steps, now.budget)
        # (Not the solver's length: its search may have ended on a tiny one.)
        length = split.first_length(state.y)
        system = system_at(length)
        near = system.evaluate(view.to_real(split.to_user(state.y)))
        found = run_loop(Newton(rtol=solver.rtol), system, near.y, NEWTON_STEPS)
        status, error = examined(split, system, view, found, length, solver.rtol)
        solved, norm = status == Status.converged, found.stats.residual_norm
        nearer = (norm <= NEARER * near.norm) & ~solved & (status != Status.saddle)
        known = jnp.isfinite(near.norm)
        ends = solved | state.halted & ~nearer | ~known | (steps >= max_steps)
        there = split.from_user(view.from_real(found.y))
        onward = solver.start(split, there, length)
        spent = now.stats.steps + found.stats.steps
        evaluations = now.stats.evaluations + found.stats.evaluations
        return _Round(
            tree_math.where(nearer, onward, state),
            found.y,
            length,
            Status.where(known, status, Status.non_finite),
            Stats(spent, evaluations, norm, error, None),
            steps,
            jnp.minimum(2 * now.budget, max_steps),
            ~ends,
        )

    x0 = split.from_user(y0)
    zero, length = jnp.zeros((), jnp.int32), split.first_length(x0)
    infinite = jnp.full((), jnp.inf, length.dtype)
    first = _Round(
        solver.start(split, x0, length),
        view.to_real(y0),
        length,
        Status.not_solved,
        Stats(zero, zero, infinite, infinite, None),
        zero,
        jnp.minimum(jnp.asarray(FIRST_ROUND, jnp.int32), max_steps),
        jnp.ones((), bool),
    )
    last = tree_math.while_loop(lambda now: now.going, one_round, first)
    told = (Status.converged, Status.saddle, Status.singular, Status.non_finite)
    kept = jnp.stack([last.status == status for status in told]).any()
    out = last.steps >= max_steps
    ending = Status.where(out, Status.max_steps_reached, Status.stagnated)
    status = Status.where(kept, last.status, ending)
    spent = last.steps + last.stats.steps, last.steps + last.stats.evaluations
    stats = Stats(*spent, last.stats.residual_norm, last.stats.error, None)
    outcome = SolverResult(last.v, status, stats, None)
    weak = has_kink(split, view, last.v, last.length)
    return CompositeResult(outcome, (last.length, units), weak)


def _stepped(
    solver: AbstractCompositeSolver,
    split: Split,
    state: CompositeState,
    steps: Array,
    budget: Array,
) -> tuple[CompositeState, Array]:
    """The solver's steps up to that number."""

    def going(carry: tuple[CompositeState, Array]) -> Array:
        state, steps = carry
        return (steps < budget) & ~state.halted

    def step(carry: tuple[CompositeState, Array]) -> tuple[CompositeState, Array]:
        state, steps = carry
        return solver.step(split, state), steps + 1

    return tree_math.while_loop(going, step, (state, steps))
