"""From a solver's answer to the solution of a cone program, exact to rounding.

Newton's steps on the conditions `P x + q + A^T z = 0`, `s = C(s - w z)`: near a
solution that is not degenerate they converge quadratically (semismooth: Qi & Sun 1993;
for cone programs: Busseti, Moursi & Boyd 2019). Each system is solved in units in which
its rows and columns are about one; where it is singular, by its shortest solution.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from implicax._core import componentwise, tree_math
from implicax._core.solution import Stats, Status
from implicax._core.tree_math import Vector
from implicax._linear.equilibrated import EquilibratedInverse
from implicax._linear.lu import materialize
from implicax._problems.cone_program import ConeData
from implicax._problems.cones import project
from implicax._problems.equations import System
from implicax._problems.optimality_conditions import OptimalityConditions
from implicax._solvers.cones.base import INFEASIBLE, UNBOUNDED, ConeGuess
from implicax._solvers.loop import SolverResult
from implicax._solvers.termination import Tolerance

#: Newton's steps, at most, and without the residual falling to a half, at most.
STEPS, IDLE = 30, 4
#: Digits of each unknown, as a power of `eps`.
PRECISION = 2 / 3
#: Below so many `eps` of the largest, in units of its own, a number may be zero.
LOST = 1e3
#: A kink nearer than `eps` to this power of the point is one at the solution.
KINK = 0.5
#: A kink changes a derivative by more than this part.
BENT = 0.1
#: An entry of a direction of length one above `eps` to this power is seen.
SEEN = 0.25
#: A proof may be violated by `eps` to this power of the sizes in it.
PROOF = 0.4


class ConeResult(eqx.Module):
    """Where the solve ended."""

    outcome: SolverResult
    free: tuple[Bool[Array, " n"], Bool[Array, " m"]]
    """Which unknowns and multipliers are not determined."""
    kink: Bool[Array, ""]
    """Whether the projection has a kink there."""
    farkas: Float[Array, " m"]
    ray: Float[Array, " n"]


class _Place(eqx.Module):
    """A point, and what is known there."""

    v: Vector
    residual: Vector
    matrix: Float[Array, "k k"]
    """`dF/dv`."""
    inverse: EquilibratedInverse

    @classmethod
    def at(cls, system: System, v: Vector) -> "_Place":
        residual, push = jax.linearize(system.residual, v)
        matrix = materialize(push, v)
        return cls(v, residual, matrix, EquilibratedInverse.of(matrix))

    @property
    def correction(self) -> Vector:
        """`J^-1 F`, the shortest where there are many."""
        return self.inverse.solve(self.residual, transposed=False)


class _Now(eqx.Module):
    v: Vector
    """Where to look next."""
    best: _Place
    units: Float[Array, " k"]
    """Those of the residuals, as at the start: what is compared keeps them."""
    least: Float[Array, ""]
    """The least of the largest residuals in these, ..."""
    idle: Int[Array, ""]
    """... and the steps since it fell to a half."""
    steps: Int[Array, ""]
    going: Bool[Array, ""]


@eqx.filter_jit(inline=True)  # pyright: ignore[reportCallIssue]
def run_cone_program(
    data: ConeData,
    guess: ConeGuess,
    conditions: OptimalityConditions,
    inputs: PyTree[Array],
    rtol: Array | None,
) -> ConeResult:
    """The solution next to a guess, judged."""
    found = guess.x, guess.z
    finite = jnp.isfinite(tree_math.max_norm(found))
    v0 = tree_math.where(finite, found, tree_math.zeros_like(found))
    last = _polished(System.of(conditions, inputs), v0)
    best = last.best
    solved, error = _judged(data, best, rtol)
    solved = solved & finite
    infeasible, farkas, unbounded, ray = _proofs(data, guess)
    convex = _is_convex(data)
    status = Status.where(solved & convex, Status.converged, Status.stagnated)
    status = Status.where(solved & ~convex, Status.not_convex, status)
    status = Status.where(infeasible, Status.infeasible, status)
    status = Status.where(unbounded, Status.unbounded, status)
    known = jnp.isfinite(tree_math.max_norm(jax.tree.leaves(data)))
    status = Status.where(known, status, Status.non_finite)
    there, steps = status == Status.converged, guess.steps + last.steps
    norm = tree_math.max_norm(best.residual)
    stats = Stats(steps, steps, norm, jnp.where(there, error, jnp.inf), None)
    # (A multiplier that is lost in rounding errors is none.)
    x, z = best.v
    lost = _lost(best)[data.q.size :]
    v = x, jnp.where(jnp.abs(z) <= lost, 0, z)
    outcome = SolverResult(v, status, stats, best.inverse)
    seen = jnp.abs(best.inverse.null) > tree_math.coarsest_eps(v0) ** SEEN
    free = seen.any(0) & there
    split = free[: data.q.size], free[data.q.size :]
    kink = _has_kink(data, best.v) & there
    farkas = jnp.where(infeasible, farkas, jnp.nan)
    ray = jnp.where(unbounded, ray, jnp.nan)
    return ConeResult(outcome, split, kink, farkas, ray)


def _polished(system: System, v0: Vector) -> _Now:
    """Newton's steps, as long as they lead nearer."""

    def step(now: _Now) -> _Now:
        place = _Place.at(system, now.v)
        first = now.steps == 0
        units = jnp.where(first, place.inverse.left, now.units)
        left = tree_math.max_abs(units * tree_math.ravel(place.residual)[0])
        better, halved = left < now.least, left <= now.least / 2
        idle = jnp.where(halved, 0, now.idle + 1)
        return _Now(
            tree_math.subtract(now.v, place.correction),
            tree_math.where(better | first, place, now.best),
            units,
            jnp.where(better, left, now.least),
            idle,
            now.steps + 1,
            (idle < IDLE) & (now.steps < STEPS) & (left > 0) & jnp.isfinite(left),
        )

    shapes = jax.eval_shape(lambda v: _Place.at(system, v), v0)
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    infinite = jnp.full((), jnp.inf, tree_math.working_dtype(v0))
    zero, yes = jnp.zeros((), jnp.int32), jnp.ones((), bool)
    start = _Now(v0, nothing, nothing.inverse.left, infinite, zero, zero, yes)
    return tree_math.while_loop(lambda now: now.going, step, start)


def _lost(place: _Place) -> Array:
    """Below what an unknown is zero: of the largest, in units of their own."""
    right, eps = place.inverse.right, tree_math.coarsest_eps(place.v)
    return LOST * eps * right * tree_math.max_abs(tree_math.ravel(place.v)[0] / right)


def _judged(
    data: ConeData, place: _Place, rtol: Array | None
) -> tuple[Bool[Array, ""], Float[Array, ""]]:
    """Whether each unknown is right by the correction that is left, and the largest
    relative error. Where the system is singular a correction says nothing of what is
    not determined: so each equation must hold too, relative to its terms."""
    left, lost = place.inverse.left, _lost(place)
    flat, tolerance = tree_math.ravel(place.v)[0], Tolerance(rtol, PRECISION)
    d = jnp.abs(tree_math.ravel(place.correction)[0])
    known = d <= jnp.maximum(tolerance.of(flat) * jnp.abs(flat), lost)
    slopes, slacks, _ = data.sizes(*place.v)
    terms = jnp.concatenate([slopes, slacks])
    eps = LOST * tree_math.coarsest_eps(place.v)
    none = eps * tree_math.max_abs(left * terms) / left
    residual = jnp.abs(tree_math.ravel(place.residual)[0])
    held = residual <= jnp.maximum(tolerance.of(flat) * terms, none)
    error = componentwise.ratio((jnp.where(d <= lost, 0, d),), (flat,))
    return known.all() & held.all(), error


def _is_convex(data: ConeData) -> Bool[Array, ""]:
    if data.P is None:
        return jnp.ones((), bool)
    size = tree_math.max_abs(data.P)
    shift = tree_math.coarsest_eps((data.P,)) ** (2 / 3) * jnp.where(size > 0, size, 1)
    identity = jnp.eye(len(data.P), dtype=data.P.dtype)
    return jnp.isfinite(jnp.linalg.cholesky(data.P + shift * identity)).all()


def _has_kink(data: ConeData, v: Vector) -> Bool[Array, ""]:
    """Whether the projection has another derivative on both sides of its point."""
    x, z = v
    s, weights = data.slack(x), data.weights(x, z)
    point, eps = s - weights * z, tree_math.coarsest_eps(v)
    sizes = jnp.sqrt(weights)
    sizes = sizes * tree_math.max_abs(point / sizes)
    keys = jax.random.split(jax.random.key(0), 4)

    def anything(k: int) -> Array:
        signs = jax.random.rademacher(keys[k], point.shape, point.dtype)
        return signs * jax.random.uniform(keys[k + 1], point.shape, point.dtype, 0.5, 1)

    toward, along = eps**KINK * sizes * anything(0), sizes * anything(2)

    def derivative(x: Array) -> Array:
        return jax.jvp(lambda x: project(data.cones, x), (x,), (along,))[1] / sizes

    above, below = jax.vmap(derivative)(jnp.stack([point + toward, point - toward]))
    return tree_math.max_abs(above - below) > BENT


def _proofs(
    data: ConeData, guess: ConeGuess
) -> tuple[Bool[Array, ""], Array, Bool[Array, ""], Array]:
    """Whether there is no solution, with a proof.

    No slack is in the cones, if `A^T z = 0` and `b^T z < 0` with `z` in the dual cones;
    the objective falls without end along `d`, if `P d = 0`, `-A d` is in the cones and
    `q^T d < 0`.
    """
    z, d = _unit(guess.z), _unit(guess.x)
    slack = -data.A @ d
    onto = jax.vmap(lambda v: project(data.cones, v))(jnp.stack([-z, slack]))
    # (`z + C(-z)` is in the dual cones: Moreau.)
    z = z + onto[0]
    small = tree_math.coarsest_eps(z) ** PROOF

    def nothing(value: Array, terms: Array) -> Array:
        terms = jnp.where(terms > 0, terms, tree_math.max_abs(terms))
        return (jnp.abs(value) <= small * terms).all()

    def falls(gains: Array) -> Array:
        return -jnp.sum(gains) > 10 * small * jnp.sum(jnp.abs(gains))

    balanced = nothing(data.A.T @ z, jnp.abs(data.A).T @ jnp.abs(z))
    stays = nothing(slack - onto[1], jnp.abs(data.A) @ jnp.abs(d))
    if data.P is not None:
        stays = stays & nothing(data.P @ d, jnp.abs(data.P) @ jnp.abs(d))
    infeasible = (guess.ending == INFEASIBLE) & balanced & falls(data.b * z)
    unbounded = (guess.ending == UNBOUNDED) & stays & falls(data.q * d)
    return infeasible, z, unbounded, d


def _unit(v: Array) -> Array:
    size = tree_math.max_abs(v)
    return v / jnp.where(size > 0, size, 1)
