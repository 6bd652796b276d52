"""Why a program has no solution: a Farkas vector, or a ray, each verified.

*Infeasible*: multipliers `t`, positive only where there is an upper side and negative
only where there is a lower one, with `R^T t = 0` and `sum t_i limit_i < 0`. For any
feasible `x` that sum would be at least `t^T R x = 0` (Farkas' lemma: Boyd &
Vandenberghe, *Convex Optimization*, sec. 5.8). *Unbounded*: a direction that stays
feasible, along which the objective is linear and falls, and a point to start from.

Diverging iterates of the method tend to one or the other (Banjac et al. 2019); a
projection makes it exact, and then it is checked: what rounding leaves of `R^T t = 0`
must be so small that a feasible `x` would have to be further away than any number in
the program by a factor of `FAR`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Bool, Float

from implicax._core import tree_math
from implicax._linear.kkt import factorised, proximal_terms
from implicax._solvers.programs.scaled import Scaled

#: How far away a solution would have to be, at least, as a power of `1 / eps`.
FAR = 0.5
#: Rows along which a ray moves by less than this power of `eps` are kept to.
KEPT = 0.4
#: Projections; the proximal term leaves a little of each.
REFINEMENTS = 3


class Evidence(eqx.Module):
    """What was found, scaled; each is of no meaning unless it is verified."""

    farkas: Float[Array, " rows"]
    infeasible: Bool[Array, ""]
    ray: Float[Array, " n"]
    unbounded: Bool[Array, ""]


def evidence(program: Scaled, d: Array, x: Array, t: Array) -> Evidence:
    """Whether the direction `d` from the feasible point `x`, or the multipliers `t`,
    show that there is no solution."""
    far = tree_math.coarsest_eps(x) ** -FAR * (1 + tree_math.max_abs(x))
    farkas, infeasible = _farkas(program, t, far)
    ray, falls = _ray(program, d)
    return Evidence(farkas, infeasible, ray, falls & _feasible(program, x))


def _feasible(program: Scaled, x: Array) -> Bool[Array, ""]:
    """Whether `x` satisfies the constraints, up to the square root of rounding."""
    # (Of the limits, not of `x`: far out anything is small beside that.)
    value, size = program.rows(x), jnp.abs(program.bound).max(0)
    small = tree_math.coarsest_eps(x) ** 0.5 * (1 + size)
    above, below = value > program.upper + small, value < program.lower - small
    return ~(above | below).any() & jnp.isfinite(x).all()


def _farkas(program: Scaled, t: Array, far: Array) -> tuple[Array, Array]:
    if not t.size:
        return t, jnp.zeros((), bool)
    upper, lower = jnp.isfinite(program.upper), jnp.isfinite(program.lower)
    allowed = jnp.where(t > 0, upper, lower)
    t = _unit(jnp.where(allowed, t, 0))
    rho, _ = proximal_terms(t)
    support = (t != 0).astype(t.dtype)
    normal = factorised(jnp.zeros_like(program.P), rho, program.rows, support)

    def onto_the_kernel(_: Array, t: Array) -> Array:
        shift = cho_solve((normal, True), program.rows.transposed(t))
        moved = t - support * program.rows(shift)
        return jnp.where(program.fixed | (moved * t > 0), moved, 0)

    t = jax.lax.fori_loop(0, REFINEMENTS, onto_the_kernel, t)
    bound = jnp.where(t > 0, program.bound[0], program.bound[1])
    gains = t * bound
    left = tree_math.max_abs(program.rows.transposed(t))
    eps = tree_math.coarsest_eps(t)
    clear = -jnp.sum(gains) > eps**0.5 * jnp.sum(jnp.abs(gains))
    return t, clear & (-jnp.sum(gains) > far * left) & jnp.isfinite(left)


def _ray(program: Scaled, x: Array) -> tuple[Array, Array]:
    d = _unit(x)
    eps = tree_math.coarsest_eps(x)
    rho, delta = proximal_terms(x)
    sided = jnp.isfinite(program.upper) | jnp.isfinite(program.lower)
    kept = sided & (jnp.abs(program.rows(d)) <= eps**KEPT) | program.fixed
    weights = jnp.where(kept, 1 / delta, 0)
    factor = factorised(program.P / delta, rho, program.rows, weights)

    def into_the_kernel(_: Array, d: Array) -> Array:
        left = program.rows.transposed(weights * program.rows(d))
        return d - cho_solve((factor, True), program.P @ d / delta + left)

    d = jax.lax.fori_loop(0, REFINEMENTS, into_the_kernel, d)
    d = jnp.where(jnp.abs(d) <= eps, 0, d)
    moved = program.rows(d)
    up = jnp.isfinite(program.upper) & (moved > 0)
    down = jnp.isfinite(program.lower) & (moved < 0)
    left = jnp.where(up | down | program.fixed, jnp.abs(moved), 0)
    slope = program.q @ d
    small = eps ** (1 - KEPT / 2)
    fits = jnp.all(left <= small) & (tree_math.max_abs(program.P @ d) <= small)
    steep = -slope > eps**0.5 * jnp.sum(jnp.abs(program.q * d))
    return d, fits & steep & (-slope > eps**0.5)


def _unit(x: Array) -> Array:
    size = tree_math.max_abs(x)
    return x / jnp.where((size > 0) & jnp.isfinite(size), size, 1)
