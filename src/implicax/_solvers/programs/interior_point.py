"""A primal-dual interior point method for convex quadratic programs.

Predictor and corrector by Mehrotra (SIAM J. Optim. 2, 1992; Nocedal & Wright 2006, sec.
16.6), with proximal terms in `x` and in all multipliers around the current iterate
(Friedlander & Orban 2012; Pougkakiotis & Gondzio 2021; Schwan et al. 2023). These leave
the solution where it is, and make every linear system solvable: rows may depend on each
other, unknowns may be free. So a system is eliminated down to a positive definite one
in `x` alone, and one Cholesky factor serves both steps.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Bool, Float, Int

from implicax._core import tree_math
from implicax._linear.kkt import STIFFER, factorised
from implicax._solvers.programs.scaled import Scaled, least

#: How far to go towards the boundary (Nocedal & Wright, eq. 16.66).
TO_THE_BOUNDARY = 0.99
#: The centering exponent of Mehrotra's.
CENTERING = 3
#: Steps without progress after which there will be none: most programs without a
#: solution show after a few.
PATIENCE = 20
#: Slacks and multipliers start no smaller than this.
LEAST = 1e-3
#: Residuals are taken to `eps` to this power, relative to their terms (which are at
#: least `sqrt(eps)` of the largest on the way), ...
PRECISION = 0.8
#: ... and from there on as far as steps improve on them; ...
LAST = 8
#: ... products of slacks and multipliers to this power of that: one of both is then
#: small where both fall alike.
COMPLEMENTARITY = 1.5


class Point(eqx.Module):
    """An iterate, scaled."""

    x: Float[Array, " n"]
    y: Float[Array, " rows"]
    """Multipliers of the rows that are equations."""
    sz: Float[Array, "2 2 rows"]
    """Slacks to the upper and the lower sides, and their multipliers."""

    @property
    def t(self) -> Float[Array, " rows"]:
        """The multipliers, signed."""
        return self.y + self.sz[1, 0] - self.sz[1, 1]


class Residuals(eqx.Module):
    """What is left of the conditions."""

    stationarity: Float[Array, " n"]
    equations: Float[Array, " rows"]
    slackness: Float[Array, "2 rows"]

    @classmethod
    def of(cls, program: Scaled, point: Point) -> "Residuals":
        value = program.rows(point.x)
        equations = jnp.where(program.fixed, value - program.bound[0], 0)
        slackness = point.sz[0] - _signed(program.bound - value[None])
        slackness = jnp.where(program.sided, slackness, 0)
        return cls(program.gradient(point.x, point.t), equations, slackness)


class Walk(eqx.Module):
    """Where the method stands."""

    point: Point
    residuals: Residuals
    reach: Float[Array, " n"]
    """The largest `|x_i|` on the way, ..."""
    terms: Float[Array, " kinds"]
    """... and the largest terms of each kind of condition."""
    steps: Int[Array, ""]
    error: Float[Array, ""]
    """The largest relative residual, or complementarity, ..."""
    least: Float[Array, ""]
    """... the least on the way, ..."""
    idle: Float[Array, ""]
    """... and the steps since then."""
    stiff: Float[Array, ""]
    """How many times larger the proximal term in `x` has had to become."""

    @property
    def solved(self) -> Bool[Array, ""]:
        return self.least <= tree_math.coarsest_eps(self.point.x) ** PRECISION

    @classmethod
    def at_the_origin(cls, program: Scaled) -> "Walk":
        """With slacks and multipliers of one."""
        n, m, dtype = program.q.size, program.lower.size, program.q.dtype
        ones = jnp.ones((2, 2, m), dtype)
        sz = jnp.where(program.sided[None], ones, _idle(ones))
        origin = Point(jnp.zeros(n, dtype), jnp.zeros(m, dtype), sz)
        kinds, idle = jnp.zeros(3 if m else 1, dtype), jnp.zeros((), dtype)
        infinite, steps = jnp.full((), jnp.inf, dtype), jnp.zeros((), jnp.int32)
        one = jnp.ones((), dtype)
        left = Residuals.of(program, origin)
        return cls(origin, left, origin.x, kinds, steps, infinite, infinite, idle, one)


def interior_point(
    program: Scaled,
    walk: Walk,
    max_steps: Int[Array, ""],
    proximal: tuple[Array, Array],
    to_the_end: Bool[Array, ""],
) -> Walk:
    """From `walk` to a solution, or as far as it gets, with these proximal terms in `x`
    and in the multipliers; to the tolerance, or as far as steps improve anything."""
    eps = tree_math.coarsest_eps(walk.point.x)

    def step(walk: Walk) -> Walk:
        rho, delta = proximal
        terms = rho * walk.stiff, delta
        point = moved(program, walk, terms)
        residuals = Residuals.of(program, point)
        left, terms = optimality(program, point, residuals)
        most = jnp.maximum(walk.terms, terms)
        error = _relative(left, jnp.maximum(terms, eps**0.5 * most))
        finite = jnp.isfinite(error)
        found, kept = (point, residuals), (walk.point, walk.residuals)
        point, residuals = tree_math.where(finite, found, kept)
        reach = jnp.maximum(walk.reach, jnp.abs(point.x))
        # (Rounding errors have made the matrix indefinite: again, with more added.)
        error = jnp.where(finite, error, walk.error)
        stiff = jnp.where(finite, walk.stiff, STIFFER * walk.stiff)
        idle = jnp.where(error < walk.least, 0, walk.idle + 1)
        lowest = jnp.minimum(error, walk.least)
        most = jnp.where(finite, most, walk.terms)
        counts = walk.steps + 1, error, lowest, idle, stiff
        return Walk(point, residuals, reach, most, *counts)

    def going(walk: Walk) -> Bool[Array, ""]:
        enough = jnp.where(to_the_end, eps, eps**PRECISION)
        patience = jnp.where(walk.solved, LAST, PATIENCE)
        unsolved = (walk.error > enough) & (walk.idle < patience)
        return unsolved & (walk.steps < max_steps)

    return tree_math.while_loop(going, step, walk)


def moved(program: Scaled, walk: Walk, proximal: tuple[Array, Array]) -> Point:
    """One predictor and one corrector step.

    The first one is Mehrotra's start: from the origin, with slacks and multipliers of
    one, a whole predictor leads to the solution of the program with squares in place of
    inequalities; and there they are shifted until they are positive.
    """
    rho, delta = proximal
    point, first, left = walk.point, walk.steps == 0, walk.residuals
    fixed, sided = program.fixed, program.sided
    s, z = point.sz[0], jnp.where(sided, point.sz[1], 1)
    products = jnp.where(sided, s * z, 0)
    count = jnp.maximum(jnp.sum(sided), 1).astype(s.dtype)
    mean = jnp.sum(products) / count
    w = jnp.where(sided, 1 / (s / z + delta), 0)
    weights = jnp.where(fixed, 1 / delta, jnp.sum(w, 0))
    factor = factorised(program.P, rho, program.rows, weights)

    def aimed(_: Array, carry: tuple) -> tuple:
        """The step after which `s z` is less by `products`, to first order; and what it
        is to be less by in the next one."""
        less = carry[0]
        inner = left.slackness - less / z
        pushed = jnp.where(
            fixed, left.equations / delta, jnp.sum(_signed(w * inner), 0)
        )
        b = -left.stationarity - program.rows.transposed(pushed)
        dx = cho_solve((factor, True), b)
        value = program.rows(dx)
        dy = jnp.where(fixed, (value + left.equations) / delta, 0)
        dz = w * (_signed(jnp.stack([value, value])) + inner)
        ds = jnp.where(sided, -(less + s * dz) / z, 0)
        dsz = jnp.stack([ds, dz])
        t = _length(point.sz, dsz, sided)
        ahead = point.sz + t * dsz
        after = jnp.sum(jnp.where(sided, ahead[0] * ahead[1], 0)) / count
        center = mean * jnp.where(mean > 0, after / mean, 0) ** CENTERING
        corrected = jnp.where(sided & ~first, products + ds * dz - center, products)
        return corrected, dx, dy, dsz, t

    t = jnp.zeros((), s.dtype)
    nothing = products, point.x, point.y, point.sz, t
    _, dx, dy, dsz, t = jax.lax.fori_loop(0, 2, aimed, nothing)
    # (Where there is no boundary, all of it.)
    t = jnp.where(first | ~sided.any(), 1, TO_THE_BOUNDARY * t).astype(t.dtype)
    sz = point.sz + t * dsz
    lowest = least(sz, sided[None], axis=(1, 2))
    lowest = jnp.where(first & (lowest < LEAST), lowest - 1, 0)
    shift = jnp.where(jnp.isfinite(lowest), -lowest, 0)
    sz = jnp.where(sided[None], sz + shift[:, None, None], point.sz)
    return Point(point.x + t * dx, point.y + t * dy, sz)


def optimality(program: Scaled, point: Point, found: Residuals) -> tuple[Array, Array]:
    """The largest residuals of stationarity and of the constraints, and the largest
    product of a slack and its multiplier; and the sizes of their terms."""
    x, t = point.x, point.t
    sizes = program.rows.magnitude()
    curved, value = jnp.abs(program.P) @ jnp.abs(x), sizes(jnp.abs(x))
    pushed = sizes.transposed(jnp.abs(t))
    terms = jnp.stack([found.stationarity, curved, program.q, pushed])
    all_terms = tree_math.max_abs(terms, 1)
    left, of = all_terms[0], all_terms[1:]
    if not t.size:
        return left[None], of.max()[None]
    products = jnp.where(program.sided, point.sz[0] * point.sz[1], 0)
    rows = [
        found.equations[None],
        found.slackness,
        products,
        value[None],
        program.bound,
    ]
    passed = tree_math.max_abs(jnp.concatenate(rows), 1)
    size = jnp.sum(jnp.abs(jnp.concatenate([x * curved, x * program.q, t * value])))
    return (
        jnp.stack([left, passed[:3].max(), passed[3:5].max()]),
        jnp.stack([of.max(), passed[5:].max(), size]),
    )


def _relative(left: Array, terms: Array) -> Array:
    parts = jnp.where(left == 0, 0, left / jnp.where(terms == 0, 1, terms))
    parts = parts.at[2:].power(1 / COMPLEMENTARITY)
    return jnp.where(jnp.isnan(left).any(), jnp.nan, parts.max())


def _signed(pair: Float[Array, "2 rows"]) -> Float[Array, "2 rows"]:
    """What belongs to upper sides as it is, to lower ones with the other sign."""
    return pair * jnp.asarray([[1.0], [-1.0]], pair.dtype)


def _idle(sz: Float[Array, "2 2 rows"]) -> Float[Array, "2 2 rows"]:
    """The slack and the multiplier of a side that is not there."""
    one, zero = jnp.ones_like(sz[0]), jnp.zeros_like(sz[0])
    return jnp.stack([one, zero])


def _length(sz: Array, step: Array, sided: Array) -> Array:
    """How much of a step keeps slacks and multipliers positive."""
    falls = sided[None] & (step < 0)
    return jnp.minimum(1, least(-sz / jnp.where(falls, step, -1), falls))
