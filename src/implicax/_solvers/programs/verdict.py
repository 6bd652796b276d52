"""When is a program solved, and when can it not be?

Solved: every equation of Karush, Kuhn and Tucker's holds to `rtol` of the sizes of its
own terms, every constraint is kept to `rtol` of its own, and of each multiplier and its
slack one is that small. (A backward error row by row: Oettli & Prager 1964. What an
elimination rounds, a few `eps` of the largest terms in equilibrated units, passes.) And
the objective must be what the multipliers say it is: where iterates run off to infinity
all terms are large and nothing is small beside them, but strong duality is far.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import cholesky
from jaxtyping import Array, Bool, Float, Int

from implicax._core import tree_math
from implicax._core.solution import Stats, Status
from implicax._linear.kkt import KKTInverse
from implicax._problems.program_solution import Degeneracy
from implicax._solvers.programs.active_set import Answer, polished
from implicax._solvers.programs.evidence import Evidence, evidence
from implicax._solvers.programs.scaled import Scaled, sides

#: The default `rtol`, as a power of `eps`.
PRECISION = 2 / 3
#: The duality gap must be below `eps` to this power of the objective.
GAP = 1 / 3
#: Rounding errors of an elimination, in units of `eps` of its largest terms.
ROUNDING = 10.0


class ProgramResult(eqx.Module):
    """What a solver left behind, in the user's units."""

    x: Float[Array, " n"]
    t: Float[Array, " rows"]
    status: Status
    stats: Stats
    approximate_inverse: KKTInverse
    degeneracy: Degeneracy
    farkas: Float[Array, " rows"]
    ray: Float[Array, " n"]


class Guess(eqx.Module):
    """Where a solver of programs ended, scaled."""

    x: Float[Array, " n"]
    t: Float[Array, " rows"]
    side: Int[Array, " rows"]
    """At which side each row seems to be: 1, -1, or 0 for neither."""
    reach: Float[Array, " n"]
    """The largest `|x_i|` on the way."""


def sides_at(program: Scaled, x: Array, t: Array) -> Array:
    """At which side each row is, by whether its multiplier or its slack is larger."""
    value = program.rows(x)
    far = _at_least(tree_math.max_abs(x), 0.0)
    t = t / _at_least(tree_math.max_abs(t), 0.0)
    upper = (t > 0) & (t > (program.upper - value) / far)
    lower = (t < 0) & (-t > (value - program.lower) / far)
    return sides(program.fixed | upper, lower)


class Sizes(eqx.Module):
    """Residuals, slacks and multipliers as parts of what they are made of, where `x`
    has been as `far` as that."""

    normwise: Float[Array, "2 rows"]
    """Slack and multiplier as parts of the largest terms of all."""
    error: Float[Array, ""]
    """The largest part that is left of any condition; NaN counts as infinite."""

    @classmethod
    def of(cls, program: Scaled, x: Array, t: Array, far: Array) -> "Sizes":
        sizes, bound = program.rows.magnitude(), jnp.abs(program.bound)
        bends = jnp.abs(program.P) @ jnp.abs(x)
        terms = bends + jnp.abs(program.q) + sizes.transposed(jnp.abs(t))
        eps = tree_math.coarsest_eps(x)
        start = jnp.maximum(tree_math.max_abs(terms), eps * tree_math.max_abs(far))
        floor = ROUNDING * eps ** (1 - PRECISION)
        terms = _at_least(terms, floor * start)
        value, size = program.rows(x), sizes(jnp.abs(x))
        largest = tree_math.max_abs(far)
        size_up = _at_least(size + bound[0], floor * largest)
        size_down = _at_least(size + bound[1], floor * largest)
        shares = tree_math.max_abs(sizes.matrix / terms[None], 1)
        if program.rows.box:
            shares = jnp.concatenate([shares, 1 / terms])
        above, below = program.upper - value, value - program.lower
        slack = jnp.minimum(jnp.abs(above), jnp.abs(below))
        slack = slack / _at_least(size, largest)
        below = jnp.where(jnp.isfinite(program.lower), below / size_down, jnp.inf)
        above = jnp.where(jnp.isfinite(program.upper), above / size_up, jnp.inf)
        side = jnp.abs(jnp.where(t > 0, above, below))
        apart = jnp.where(t == 0, 0, jnp.minimum(jnp.abs(t) * shares, side))
        apart = jnp.where(program.fixed, 0, apart)
        left = jnp.abs(program.gradient(x, t)) / terms
        passed = jnp.maximum(-above, -below)
        parts = jnp.concatenate([left, apart, jnp.maximum(passed, 0)])
        error = tree_math.max_abs(parts)
        # (A `where`: infinite limits have no multiplier.)
        limit = jnp.where(t > 0, program.bound[0], program.bound[1])
        curved, linear, pushed = x @ (program.P @ x), program.q @ x, t @ limit
        primal, dual = linear + curved / 2, -pushed - curved / 2
        scale = jnp.abs(primal) + jnp.abs(dual)
        unit = ROUNDING * eps * x.size * tree_math.max_abs(x)
        # (Of what rounding makes of the objective nothing is known.)
        gap = jnp.abs(primal - dual) + eps * (jnp.abs(x) @ bends)
        closed = gap <= eps**GAP * scale + unit
        error = jnp.where(closed, error, jnp.inf)
        weak = jnp.stack([slack, jnp.abs(t) / tree_math.max_abs(terms)])
        return cls(weak, jnp.where(jnp.isnan(error), jnp.inf, error))


def _at_least(x: Array, floor: Array | float) -> Array:
    x = jnp.maximum(x, floor)
    return jnp.where(x > 0, x, 1)


class Candidate(eqx.Module):
    """The best that an attempt has led to."""

    x: Float[Array, " n"]
    t: Float[Array, " rows"]
    sizes: Sizes
    answer: Answer

    @classmethod
    def of(cls, program: Scaled, guess: Guess) -> "Candidate":
        """Of the end of an attempt, and of what it becomes on its active constraints,
        the better one."""
        answer = polished(program, guess.x, guess.t, guess.side)
        both = jnp.stack([answer.x, guess.x]), jnp.stack([answer.t, guess.t])
        sizes = jax.vmap(lambda x, t: Sizes.of(program, x, t, guess.reach))(*both)
        # (Multipliers of what does not act are zero there, and slacks of what does.)
        good = tree_math.coarsest_eps(guess.x) ** PRECISION
        first = sizes.error[0] <= jnp.maximum(sizes.error[1], good)
        x, t, sizes = jax.tree.map(
            lambda leaf: jnp.where(first, leaf[0], leaf[1]), (*both, sizes)
        )
        return cls(x, t, sizes, answer)

    @classmethod
    def nothing(cls, program: Scaled) -> "Candidate":
        x, t = jnp.zeros_like(program.q), jnp.zeros_like(program.lower)
        infinite = jnp.full((), jnp.inf, x.dtype)
        side, no = sides(program.fixed, program.fixed), jnp.zeros(2, bool)
        answer = Answer(x, t, side, x, no, jnp.zeros_like(program.P))
        return cls(x, t, Sizes(jnp.stack([t, t]), infinite), answer)

    def solves(self, rtol: Array | None) -> Bool[Array, ""]:
        eps = tree_math.coarsest_eps(self.x)
        enough = eps**PRECISION if rtol is None else rtol.astype(self.x.dtype)
        return self.sizes.error <= enough


def judge(
    program: Scaled,
    best: Candidate,
    direction: Array,
    guess: Guess,
    steps: Array,
    exhausted: Bool[Array, ""],
    rtol: Array | None,
) -> ProgramResult:
    """The solution, or the proof that there is none: the `direction` in which attempts
    ran, or the multipliers of the last `guess`; `exhausted` says whether one of them
    had no steps left."""
    x, t, sizes, answer = best.x, best.t, best.sizes, best.answer
    eps, solved = tree_math.coarsest_eps(x), best.solves(rtol)
    shown = _shown(program, direction, guess, ~solved)
    status = Status.where(exhausted, Status.max_steps_reached, Status.stagnated)
    status = Status.where(shown.unbounded, Status.unbounded, status)
    status = Status.where(shown.infeasible, Status.infeasible, status)
    status = Status.where(solved, Status.converged, status)
    status = Status.where(_is_convex(program), status, Status.not_convex)
    scaling = program.scaling
    left = tree_math.max_abs(program.gradient(x, t) / scaling.d) / scaling.c
    size = jnp.abs(x) + eps**0.5 * tree_math.max_abs(x)
    known = tree_math.max_abs(answer.correction / jnp.where(size == 0, 1, size))
    error = jnp.where(solved & jnp.isfinite(known), known, jnp.inf)
    weak = (sizes.normwise <= eps**0.5).all(0) & program.sided.any(0)
    infeasible, unbounded = status == Status.infeasible, status == Status.unbounded
    ray, farkas = scaling.point(shown.ray, shown.farkas)
    return ProgramResult(
        *scaling.point(x, t),
        status,
        Stats(steps, steps, left, error, None),
        answer.inverse(program),
        Degeneracy(weak.any(), answer.unreached[1], answer.unreached[0]),
        jnp.where(infeasible, farkas, jnp.nan),
        jnp.where(unbounded, ray, jnp.nan),
    )


def _shown(
    program: Scaled, direction: Array, guess: Guess, wanted: Bool[Array, ""]
) -> Evidence:
    """The evidence, looked for where it is wanted."""

    def look(carry: tuple[Array, Evidence]) -> tuple[Array, Evidence]:
        # (Of the carry, or the compiler would do it in any case.)
        one = jnp.where(tree_math.in_any_lane(carry[0]), 1, jnp.nan)
        found = evidence(program, direction * one, guess.x, guess.t * one)
        return jnp.zeros((), bool), found

    no = jnp.zeros((), bool)
    nothing = Evidence(jnp.zeros_like(guess.t), no, jnp.zeros_like(guess.x), no)
    return tree_math.while_loop(lambda carry: carry[0], look, (wanted, nothing))[1]


def _is_convex(program: Scaled) -> Bool[Array, ""]:
    """Whether `P` has no direction of negative curvature, above rounding."""
    P = program.P
    size = tree_math.max_abs(P)
    shift = tree_math.coarsest_eps(P) ** 0.5 * jnp.where(size > 0, size, 1)
    shifted = P + shift * jnp.eye(P.shape[0], dtype=P.dtype)
    return jnp.isfinite(cholesky(shifted, lower=True)).all()
