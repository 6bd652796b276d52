"""How a nonlinear program is solved: by attempts of a solver, each brought to its end
on the active constraints, and looked at closely."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from implicax._core import tree_math
from implicax._core.solution import Stats, Status
from implicax._core.traced_function import TracedFunction
from implicax._core.tree_math import Vector
from implicax._linear.kkt import KKTInverse
from implicax._problems.equations import System
from implicax._problems.optimality_conditions import OptimalityConditions
from implicax._problems.program_solution import Degeneracy
from implicax._solvers.constrained.active_set import ending
from implicax._solvers.constrained.base import AbstractConstrainedSolver, Guess
from implicax._solvers.constrained.nonlinear import Nonlinear
from implicax._solvers.termination import FLOOR, Tolerance, judge_equations

#: Digits of each unknown by default, as a power of `eps`.
PRECISION = 2 / 3
#: An unknown that has lost all digits of its largest value on the way is zero, up to so
#: many `eps` of that.
LOST = 10.0
#: What is flat, and so many times further away than the start, has run off.
FAR = 1e3
#: Rounding errors, in units of `eps` of each term.
ROUNDING = 10.0


class ConstrainedResult(eqx.Module):
    """What a solver left behind, and what was found of it."""

    v: Vector
    """The unknowns, then the multipliers where conditions are about them."""
    status: Status
    stats: Stats
    approximate_inverse: KKTInverse | None
    degeneracy: Degeneracy
    side: Float[Array, " sides"]
    """Which constraints act: 1 at the upper side, -1 at the lower one."""


class _Judged(eqx.Module):
    x: Float[Array, " n"]
    t: Float[Array, " sides"]
    status: Status
    norm: Float[Array, ""]
    error: Float[Array, ""]
    inverse: KKTInverse
    degeneracy: Degeneracy
    side: Float[Array, " sides"]


class _Attempts(eqx.Module):
    best: _Judged
    x: Float[Array, " n"]
    """Where the next one begins."""
    number: Int[Array, ""]
    steps: Int[Array, ""]


@eqx.filter_jit(inline=True)  # pyright: ignore[reportCallIssue]
def run_constrained(
    functions: TracedFunction,
    conditions: OptimalityConditions,
    solver: AbstractConstrainedSolver,
    x0: Float[Array, " n"],
    like: Vector,
    inputs: tuple[PyTree[Array], PyTree[Array]],
    max_steps: Array,
    boxed: bool,
) -> ConstrainedResult:
    """What `solver` makes of the program that `functions` compute, by its optimality
    `conditions` on an unknown `like` that; `inputs` are those of both."""

    def parts(x: Array) -> tuple[Array, Array]:
        found = functions.output((x,), inputs[0])
        return found.objective, found.rows

    said = functions.output((x0,), inputs[0])
    source = functions, inputs[0]
    program = Nonlinear(x0.size, boxed, parts, said.lower, said.upper, source)
    m = said.rows.size
    x0 = jnp.clip(x0, program.lower[m:], program.upper[m:])
    size = tree_math.max_abs(x0)
    judge = _Judge(program, conditions, inputs[1], like, solver.rtol, size)

    def attempt(now: _Attempts) -> _Attempts:
        guess = solver.attempt(program, now.x, now.number, max_steps)
        found = judge(guess, guess.steps >= max_steps)
        onward = jnp.where(jnp.isfinite(guess.x).all(), guess.x, now.x)
        return _Attempts(found, onward, now.number + 1, now.steps + guess.steps)

    def going(now: _Attempts) -> Bool[Array, ""]:
        solved = now.best.status == Status.converged
        return (now.number == 0) | (~solved & (now.number < solver.attempts))

    zero = jnp.zeros((), jnp.int32)
    shapes = jax.eval_shape(lambda x: judge(Guess.at(program, x), zero > 0), x0)
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    first = _Attempts(nothing, x0, zero, zero)
    last = tree_math.while_loop(going, attempt, first)
    best, steps = last.best, last.steps
    stats = Stats(steps, steps, best.norm, best.error, None)
    inverse = best.inverse if judge.has_multipliers else None
    v = judge.unknown(best.x, best.t)
    told = best.status, stats, inverse, best.degeneracy, best.side
    return ConstrainedResult(v, *told)


class _Judge(eqx.Module):
    """Leads a guess to its end on the active constraints, and says what that is."""

    program: Nonlinear
    conditions: OptimalityConditions = eqx.field(static=True)
    inputs: PyTree[Array]
    like: Vector
    rtol: Float[Array, ""] | None
    start: Float[Array, ""]
    """The largest unknown at the start."""

    @property
    def has_multipliers(self) -> bool:
        return tree_math.num_unknowns(self.like) > self.program.num_unknowns

    def unknown(self, x: Array, t: Array) -> Vector:
        """What the conditions are about."""
        _, unravel = tree_math.ravel(self.like)
        return unravel(jnp.concatenate([x, t]) if self.has_multipliers else x)

    def __call__(self, guess: Guess, exhausted: Bool[Array, ""]) -> _Judged:
        program, count = self.program, self.program.num_sides
        sides = guess.t[:count], guess.side[:count]
        end = ending(program, guess.x, *sides, guess.reach)
        v = self.unknown(end.x, end.t)
        constants, (arrays, active) = self.inputs
        active = end.side if self.has_multipliers else active
        system = System.of(self.conditions, (constants, (arrays, active)))
        tolerance = Tolerance(self.rtol, PRECISION)
        digits = tree_math.coarsest_eps(end.x) / tolerance.of(end.x)
        none = jnp.zeros_like(end.t)
        start = self.unknown(LOST * digits * guess.reach, none)
        answer, told, error = judge_equations(system, start, v, tolerance, None)
        # Where multipliers are not unique the error is not known, and nothing but
        # rounding may be left; where `x` is not, there is no derivative.
        eps, n = tree_math.coarsest_eps(end.x), end.x.size
        left = jnp.abs(tree_math.ravel(answer.residual)[0][:n])
        rounded = (left <= ROUNDING * n * eps * end.terms).all() & self.has_multipliers
        sharp = error <= eps**FLOOR
        many = end.unreached[0] & self.has_multipliers
        stays = (told == Status.converged) & end.feasible
        holds = stays & (rounded | sharp) & ~many
        minimal = end.minimal | (not self.has_multipliers)
        solved = holds & minimal
        status = Status.where(exhausted, Status.max_steps_reached, Status.stagnated)
        apart = guess.infeasible & ~end.feasible
        status = Status.where(apart, Status.locally_infeasible, status)
        status = Status.where(holds & ~minimal, Status.saddle, status)
        status = Status.where(guess.unbounded, Status.unbounded, status)
        finite = jnp.isfinite(answer.norm)
        status = Status.where(finite, status, Status.non_finite)
        answered = jnp.isfinite(guess.x).all()
        status = Status.where(answered, status, Status.failed)
        flat = stays & minimal & many & rounded
        status = Status.where(flat, Status.degenerate, status)
        # (What levels off has no curvature either, far away.)
        ran_off = tree_math.max_abs(end.x) > FAR * jnp.maximum(1, self.start)
        runs_off = many & ran_off & end.feasible
        status = Status.where(runs_off, Status.unbounded, status)
        status = Status.where(solved, Status.converged, status)
        error = jnp.where(solved, error, jnp.inf)
        degeneracy = Degeneracy(end.weak, end.unreached[1], end.unreached[0])
        return _Judged(
            end.x,
            end.t,
            status,
            answer.norm,
            error,
            end.inverse,
            degeneracy,
            end.side,
        )
