"""How a program is solved: from the constraints that acted before, where they are
known, and by attempts of a solver, each looked at closely."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from implicax._core import tree_math
from implicax._problems.program import Program
from implicax._solvers.programs.base import AbstractProgramSolver
from implicax._solvers.programs.scaled import Scaled
from implicax._solvers.programs.verdict import (
    Candidate,
    Guess,
    ProgramResult,
    judge,
    sides_at,
)


class _Attempts(eqx.Module):
    state: Any
    direction: Float[Array, " n"]
    """Where attempts at the objective ran to."""
    guess: Guess
    """Where the last attempt ended."""
    best: Candidate
    number: Int[Array, ""]
    steps: Int[Array, ""]
    exhausted: Bool[Array, ""]
    """Whether an attempt has taken all of its steps."""


@eqx.filter_jit(inline=True)  # pyright: ignore[reportCallIssue]
def run_program(
    program: Program,
    solver: AbstractProgramSolver,
    start: tuple[Float[Array, " n"], Float[Array, " rows"]] | None,
    max_steps: Array,
) -> ProgramResult:
    """What `solver` makes of the program; `start` is the solution of another one."""
    scaled = Scaled.of(program)
    nothing, zero = Candidate.nothing(scaled), jnp.zeros((), jnp.int32)
    guess = Guess(nothing.x, nothing.t, nothing.answer.side, nothing.x)
    no = jnp.zeros((), bool)
    first = _Attempts(solver.init(scaled), guess.x, guess, nothing, zero, zero, no)
    if start is not None:
        # The attempt before the first one takes no steps.
        x, t = scaled.scaling.scaled_point(*start)
        guess = Guess(x, t, sides_at(scaled, x, t), jnp.abs(x))
        first = _Attempts(first.state, x, guess, nothing, zero - 1, zero, no)

    def attempt(now: _Attempts) -> _Attempts:
        warm = now.number < 0
        allowed = jnp.where(warm, 0, max_steps)
        number = jnp.maximum(now.number, 0)
        state, guess, steps = solver.attempt(scaled, now.state, number, allowed)
        guess = tree_math.where(warm, now.guess, guess)
        state = tree_math.where(warm, now.state, state)
        found = Candidate.of(scaled, guess)
        better = found.sizes.error < now.best.sizes.error
        best = tree_math.where(better | (now.number == 0), found, now.best)
        aimless = (number == solver.attempts - 1) & (solver.attempts > 1)
        direction = jnp.where(aimless, now.direction, guess.x)
        exhausted = now.exhausted | (~warm & (steps >= allowed))
        counts = now.number + 1, now.steps + steps, exhausted
        return _Attempts(state, direction, guess, best, *counts)

    def going(now: _Attempts) -> Array:
        return ~now.best.solves(solver.rtol) & (now.number < solver.attempts)

    last = tree_math.while_loop(going, attempt, first)
    shown, steps = (last.direction, last.guess), (last.steps, last.exhausted)
    return judge(scaled, last.best, *shown, *steps, solver.rtol)
