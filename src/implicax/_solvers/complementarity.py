"""How a complementarity problem is solved: as equations with kinks, then exactly on the
bounds that act there.

`a >= 0, b >= 0, a b = 0` holds where `a + b - sqrt(a^2 + b^2)` is zero (Fischer 1992).
With `a` the way to a bound and `b` what the equation leaves there, that makes a square
system of equations of the problem (Facchinei & Pang 2003, sec. 9.1), which Newton's
method and its fallback bring near a solution. Which bounds act shows there; with them
as equations the last digits are found, and the verdict is that of equations.
"""

import operator
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from implicax._core import componentwise, tree_math
from implicax._core.solution import Stats, Status
from implicax._core.tree_math import Vector
from implicax._linear.lu import factorise, materialize
from implicax._problems.base import AbstractProblem
from implicax._problems.complementarity import Complementarity
from implicax._problems.equations import System
from implicax._problems.optimality_conditions import Conditions, OptimalityConditions
from implicax._solvers.equation_sizes import equation_sizes
from implicax._solvers.loop import SolverResult
from implicax._solvers.run import run
from implicax._solvers.termination import Tolerance, judge_equations

#: Steps on the bounds that act, which are Newton's: at least and at most.
FIRST_STEPS, LAST_STEPS = 3, 20
#: Digits of each unknown, as a power of `eps`.
PRECISION = 2 / 3
#: A multiplier, or a way to a bound, is zero below `eps` to this power of its terms.
WEAK = 0.5


class FischerBurmeister(AbstractProblem):
    """A complementarity problem as equations with kinks."""

    problem: Complementarity

    def active_set(self, y0, args):
        """The units of the equations in those of the unknowns: one."""
        del args
        return jax.tree.map(jnp.ones_like, y0)

    def conditions(self, y, args):
        return self.conditions_on(self.active_set(y, args), y, args)

    def conditions_on(self, active, y, args):
        values, _ = self.problem.evaluate(y, args)
        values = jax.tree.map(operator.mul, active, values)
        lower, upper = self.problem.sides(y)

        def row(y, f, lower, upper):
            # Without a bound the way to it is infinite, and what is left is the other.
            below, above = jnp.isfinite(lower), jnp.isfinite(upper)
            up = jnp.where(above, upper, y) - y
            down = y - jnp.where(below, lower, y)
            inner = jnp.where(above, -_fischer(up, -f), f)
            both = jnp.where(below, _fischer(down, inner), inner)
            return jnp.where(lower == upper, y - lower, both)

        return Conditions(residual=jax.tree.map(row, y, values, lower, upper))


def _fischer(a: Array, b: Array) -> Array:
    square = a**2 + b**2
    known = square > 0
    return a + b - jnp.where(known, jnp.sqrt(jnp.where(known, square, 1)), 0)


class ComplementarityResult(eqx.Module):
    """Where a solver ended, exactly on the bounds that act there."""

    outcome: SolverResult
    side: Vector
    """1 at the upper bound, -1 at the lower one."""
    weak: Bool[Array, ""]


def run_complementarity(
    equations: OptimalityConditions,
    conditions: OptimalityConditions,
    solver: Any,
    y0: Vector,
    bounds: tuple[Vector, Vector],
    inputs: tuple[PyTree[Array], PyTree[Array]],
    max_steps: int,
) -> ComplementarityResult:
    """From `y0`, by the equations with kinks, to the conditions on the bounds that
    act; `inputs` are those of both."""
    lower, upper = bounds
    start = jax.tree.map(jnp.clip, y0, lower, upper)
    constants, (arrays, _) = inputs[1]
    zeros = tree_math.zeros_like(start)

    def at(side: Vector) -> PyTree[Array]:
        return constants, (arrays, side)

    def left(y: Vector) -> Vector:
        return conditions.residual((*y, *zeros), at(zeros))[: len(y)]

    units = _units(left, start)
    kept, (own, _) = inputs[0]
    rough = run(equations, solver, start, (kept, (own, units)), max_steps, False)
    y = jax.tree.map(jnp.clip, rough.y, lower, upper)
    values = jax.tree.map(operator.mul, units, left(y))
    side = jax.tree.map(_side, y, values, lower, upper)
    last = _on_active_set(conditions, at(side), rough, y, side, bounds)
    return _examined(conditions, at(side), rough, last, side, bounds)


def _units(left: Callable[[Vector], Vector], y: Vector) -> Vector:
    """The units of the unknowns in those of the equations, where both have some: what
    each equation changes by with its own unknown, or else with any."""
    flat, unravel = tree_math.ravel(y)
    matrix = jnp.abs(materialize(jax.linearize(left, y)[1], y))
    own, any_one = jnp.diag(matrix), matrix.max(1)
    size = jnp.where(own > 0, own, jnp.where(any_one > 0, any_one, 1))
    return unravel(jnp.where(jnp.isfinite(size), 1 / size, 1).astype(flat.dtype))


class _Last(eqx.Module):
    """Steps on the bounds that act."""

    v: Vector
    correction: Float[Array, ""]
    """The largest component of the last one, ..."""
    falls: Bool[Array, ""]
    """... and whether it is at most a half of the one before."""
    steps: Int[Array, ""]


def _on_active_set(
    conditions: OptimalityConditions,
    inputs: PyTree[Array],
    rough: SolverResult,
    y: Vector,
    side: Vector,
    bounds: tuple[Vector, Vector],
) -> SolverResult:
    """Newton's method with those bounds as equations, judged as the answer of others:
    what is at a bound is that bound, and what does not act has no multiplier."""
    n, system = len(y), System.of(conditions, inputs)

    def exact(y: Vector) -> Vector:
        y = jax.tree.map(
            lambda s, y, low, up: jnp.where(s > 0, up, jnp.where(s < 0, low, y)),
            *(side, y, *bounds),
        )
        values = system.residual((*y, *tree_math.zeros_like(y)))[:n]
        w = jax.tree.map(lambda s, f: jnp.where(s != 0, -f, 0), side, values)
        return (*y, *w)

    def step(now: _Last) -> _Last:
        factor = factorise(system.jacobian(now.v))
        dv = factor.solve(system.residual(now.v), transposed=False)
        correction = tree_math.max_norm(dv)
        finite = jnp.isfinite(correction)
        y = tree_math.subtract(now.v[:n], dv[:n])
        v = tree_math.where(finite, exact(y), now.v)
        falls = finite & (correction <= now.correction / 2)
        return _Last(v, correction, falls, now.steps + 1)

    def going(now: _Last) -> Bool[Array, ""]:
        on = now.falls | (now.steps < FIRST_STEPS)
        return on & (now.correction > 0) & (now.steps < LAST_STEPS)

    infinite = jnp.full((), jnp.inf, tree_math.working_dtype(y))
    yes, none = jnp.ones((), bool), jnp.zeros((), jnp.int32)
    last = tree_math.while_loop(going, step, _Last(exact(y), infinite, yes, none))
    start = (*rough.y, *last.v[n:])
    answer, status, error = judge_equations(
        system, start, last.v, Tolerance(None, PRECISION), None
    )
    steps = rough.stats.steps + last.steps
    evaluations = rough.stats.evaluations + last.steps
    stats = Stats(steps, evaluations, answer.norm, error, None)
    status = Status.where(status == Status.converged, status, Status.stagnated)
    return SolverResult(last.v, status, stats, None)


def _side(y: Array, f: Array, lower: Array, upper: Array) -> Array:
    """At which bound `y` seems to be: what pushes is larger than the way to it."""
    fixed = lower == upper
    above = fixed | ((f < 0) & (upper - y < -f))
    below = (f > 0) & (y - lower < f)
    return above.astype(y.dtype) - (below & ~above).astype(y.dtype)


def _examined(
    conditions: OptimalityConditions,
    inputs: PyTree[Array],
    rough: SolverResult,
    outcome: SolverResult,
    side: Vector,
    bounds: tuple[Vector, Vector],
) -> ComplementarityResult:
    """Whether signs and bounds hold there, and what is weak."""
    n = len(side)
    y, w = outcome.y[:n], outcome.y[n:]
    reach = tree_math.max_norm(y)
    system = System.of(conditions, inputs)
    sizes = equation_sizes(system, outcome.y, system.residual(outcome.y))[:n]

    def signs(side, y, w, size, lower, upper):
        eps = componentwise.eps(y)
        small = jnp.abs(w) <= eps**WEAK * size
        pushes = (side == 0) | (lower == upper) | small | (side * w >= 0)
        slack = eps ** (2 / 3) * jnp.abs(y)
        inside = (y >= lower - slack) & (y <= upper + slack)
        return pushes & inside

    def weak(side, y, w, size, lower, upper):
        eps = componentwise.eps(y)
        small = jnp.abs(w) <= eps**WEAK * size
        gap = jnp.minimum(jnp.abs(y - lower), jnp.abs(upper - y))
        near = gap <= eps**WEAK * reach.astype(y.dtype)
        return (lower != upper) & jnp.where(side != 0, small, near)

    everything = side, y, w, sizes, *bounds
    right = componentwise.every(jax.tree.map(signs, *everything))
    apart = jax.tree.map(lambda *leaves: ~weak(*leaves), *everything)
    status = Status.where(right, outcome.status, Status.stagnated)
    lost = (status != Status.converged) & (rough.status != Status.converged)
    status = Status.where(lost, rough.status, status)
    stats, solved = outcome.stats, status == Status.converged
    error = jnp.where(solved, stats.error, jnp.inf)
    stats = eqx.tree_at(lambda stats: stats.error, stats, error)
    found = SolverResult(outcome.y, status, stats, None)
    return ComplementarityResult(found, side, ~componentwise.every(apart))
