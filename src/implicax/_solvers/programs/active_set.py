"""The last digits: a solution by its active set.

An interior point method ends near a solution, on the central path; which constraints
act there shows by whether a multiplier or its slack is the larger one. With these as
equations the program is linear algebra, and the answer is exact to rounding. Where a
constraint that was left out is passed, or one that was taken pulls instead of pushing,
it changes sides, and the system is solved again (the primal-dual active set method:
Hintermueller, Ito & Kunisch, SIAM J. Optim. 13, 2002).

Beside it, the same system is solved with a right-hand side that has no structure. Where
that cannot be reached the Jacobian of the conditions is singular: constraints depend on
each other, or the solution is one of many.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from implicax._core import tree_math
from implicax._linear.kkt import KKTInverse
from implicax._solvers.programs.scaled import Scaled, sides

#: How often constraints may change sides.
CHANGES = 8
#: Refinements of one system: at least so many, ...
TRIALS = 3
#: ... and at most, while each leaves at most a half.
REFINEMENTS = 20
#: Constraints count as passed from this part of their size on, in powers of `eps`.
PASSED = 0.75
#: More than this is left of a right-hand side that cannot be reached, ...
UNREACHED = 1e-3
#: ... while a refinement takes less than this part of it: singular values are below
#: 3e-4 of the largest then, in float64, and curvatures below 1e-10. (Derivatives are
#: refined likewise, and find the same obstacle.)
FALLING = 0.1


class Answer(eqx.Module):
    """A point, its multipliers, and what is active there."""

    x: Float[Array, " n"]
    t: Float[Array, " rows"]
    side: Int[Array, " rows"]
    """One at the upper side, minus one at the lower, zero in between."""
    correction: Float[Array, " n"]
    """The last correction of `x`."""
    unreached: Bool[Array, "2"]
    """Whether the conditions of stationarity, and the active constraints, cannot be
    perturbed at will."""
    factor: Float[Array, "n n"]

    def inverse(self, program: Scaled) -> KKTInverse:
        active = self.side != 0
        scaled = program.P, program.rows, active, program.scaling
        return KKTInverse.made(self.factor, *scaled)


class _Round(eqx.Module):
    answer: Answer
    wanted: Int[Array, " rows"]
    """Where rows belong."""
    changes: Int[Array, ""]


def polished(program: Scaled, x: Array, t: Array, side: Array) -> Answer:
    """The solution whose active constraints are these, or those that they lead to."""

    def change(now: _Round) -> _Round:
        answer = _on_active_set(program, now.answer.x, now.answer.t, now.wanted)
        return _Round(answer, _sides(program, answer), now.changes + 1)

    def going(now: _Round) -> Bool[Array, ""]:
        moved = (now.wanted != now.answer.side).any() & (now.changes <= CHANGES)
        return moved | (now.changes == 0)

    no = jnp.zeros(2, bool)
    nothing = Answer(x, t, side, jnp.zeros_like(x), no, jnp.zeros_like(program.P))
    begun = _Round(nothing, side, jnp.zeros((), jnp.int32))
    return tree_math.while_loop(going, change, begun).answer


def _sides(program: Scaled, answer: Answer) -> Int[Array, " rows"]:
    """Where each row belongs, by what is passed and by what pulls."""
    size = program.rows.magnitude()(jnp.abs(answer.x))
    size = size + jnp.abs(program.bound).max(0)
    slack = tree_math.coarsest_eps(answer.x) ** PASSED * size
    value, side = program.rows(answer.x), answer.side
    above, below = value > program.upper + slack, value < program.lower - slack
    stays = answer.t * side.astype(answer.t.dtype) >= 0
    upper = program.fixed | above | ((side > 0) & stays & ~below)
    return sides(upper, below | ((side < 0) & stays))


class _Refined(eqx.Module):
    """Solutions of the system for two right-hand sides."""

    v: Float[Array, "2 n_plus_rows"]
    left: Float[Array, "2 n_plus_rows"]
    """What is left of the right-hand sides."""
    correction: Float[Array, " n_plus_rows"]
    sizes: Float[Array, "2"]
    """What is left of the second one, of stationarity and of the constraints, ..."""
    taken: Float[Array, "2"]
    """... and which part of it the last refinement took."""
    steps: Int[Array, ""]
    going: Bool[Array, ""]


def _on_active_set(program: Scaled, x: Array, t: Array, side: Array) -> Answer:
    """The solution of the equations that are active, from `x` and `t` on."""
    active, n = side != 0, x.size
    inverse = KKTInverse.of(program.P, program.rows, active, program.scaling)
    at = jnp.where(side > 0, program.bound[0], program.bound[1])
    target = jnp.cos(jnp.arange(1.0, n + t.size + 1.0) ** 2).astype(x.dtype)
    goals = jnp.stack([jnp.concatenate([-program.q, at]), target])

    def remainder(v: Array, goal: Array) -> Array:
        x, t = jnp.split(v, [n])
        rows = jnp.where(active, goal[n:] - program.rows(x), 0)
        bent = program.P @ x + program.rows.transposed(t)
        return jnp.concatenate([goal[:n] - bent, rows])

    def correct(left: Array) -> Array:
        return jnp.concatenate(inverse.scaled_solve(*jnp.split(left, [n])))

    def parts(left: Array) -> Array:
        padded = jnp.append(jnp.abs(left[n:]), 0)  # there may be no rows
        return jnp.stack([tree_math.max_abs(left[:n]), tree_math.max_abs(padded)])

    def refine(now: _Refined) -> _Refined:
        dv = jax.vmap(correct)(now.left)
        v = now.v + dv
        left = jax.vmap(remainder)(v, goals)
        was, size = tree_math.max_abs(jnp.stack([now.left[0], left[0]]), 1)
        steps, worse = now.steps + 1, size >= was
        v = v.at[0].set(jnp.where(worse, now.v[0], v[0]))
        left = left.at[0].set(jnp.where(worse, now.left[0], left[0]))
        sizes = parts(left[1])
        taken = 1 - sizes / jnp.where(now.sizes == 0, 1, now.sizes)
        falling = ((taken > FALLING) & (sizes > UNREACHED)).any() | (size <= was / 2)
        going = (falling & (steps < REFINEMENTS)) | (steps < TRIALS)
        return _Refined(v, left, dv[0], sizes, taken, steps, going)

    begin = jnp.concatenate([x, jnp.where(active, t, 0)])
    v = jnp.stack([begin, jnp.zeros_like(begin)])
    left = jax.vmap(remainder)(v, goals)
    zero, yes = jnp.zeros((), jnp.int32), jnp.ones((), bool)
    two = jnp.ones(2, x.dtype)
    first = _Refined(v, left, jnp.zeros_like(begin), two, two, zero, yes)
    last = tree_math.while_loop(lambda now: now.going, refine, first)
    x, t = jnp.split(last.v[0], [n])
    if program.rows.box:
        # At a bound an unknown is that bound.
        x = jnp.where(active[-n:], at[-n:], x)
    unreached = (last.sizes > UNREACHED) & (last.taken < FALLING)
    return Answer(x, t, side, last.correction[:n], unreached, inverse.factor)
