"""The last digits of a nonlinear program: Newton's method on the active constraints.

Near a solution the program is, to second order, a quadratic one: `x` minimises

    x^T H x / 2 + (grad f - H x_k)^T x   where   lower <= c + J (x - x_k) <= upper,

`H` the Hessian of the Lagrangian. Solved again and again on its active set (which
changes sides by itself) that is Newton's method for the conditions of Karush, Kuhn and
Tucker (Nocedal & Wright 2006, sec. 18.1), and what that polish knows of degeneracy is
known here too.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from implicax._core import tree_math
from implicax._linear.kkt import KKTInverse, factorised, proximal_terms
from implicax._problems.program import Program
from implicax._solvers.constrained.nonlinear import Nonlinear
from implicax._solvers.programs.active_set import polished
from implicax._solvers.programs.scaled import Scaled
from implicax._solvers.programs.verdict import Sizes

#: Newton steps: convergence is quadratic.
ROUNDS = 12
#: Corrections are taken to `eps` to this power, relative, and on while they fall.
SETTLED = 0.9
#: Constraints hold to `eps` to this power of what they are made of.
FEASIBLE = 2 / 3


class Ending(eqx.Module):
    """Where the active constraints led, and what is known there."""

    x: Float[Array, " n"]
    t: Float[Array, " m_plus_n"]
    side: Float[Array, " sides"]
    """Which constraints act: 1 at the upper side, -1 at the lower one."""
    terms: Float[Array, " n"]
    """The sizes of what makes up each condition of stationarity."""
    feasible: Bool[Array, ""]
    """Whether all constraints hold, and all multipliers push."""
    minimal: Bool[Array, ""]
    """Whether curvature is positive along the active constraints."""
    unreached: Bool[Array, "2"]
    weak: Bool[Array, ""]
    inverse: KKTInverse


class _Round(eqx.Module):
    x: Float[Array, " n"]
    t: Float[Array, " m_plus_n"]
    side: Int[Array, " m_plus_n"]
    correction: Float[Array, ""]
    falls: Bool[Array, ""]
    changed: Bool[Array, ""]
    count: Int[Array, ""]
    program: Program
    """The quadratic program that led here, ..."""
    unreached: Bool[Array, "2"]
    """... and what its conditions cannot be perturbed by."""


def quadratic(program: Nonlinear, x: Array, t: Array) -> Program:
    """The quadratic program at `x`."""
    n = program.num_unknowns
    m = program.lower.size - n
    found = program.derivatives(x, t[:m])
    q = found.gradient - found.jacobian.T @ t[:m] - found.hessian @ x
    at = found.jacobian @ x - found.rows
    sides = program.lower, program.upper
    rows: Any = tuple(at + side[:m] for side in sides) if m else None
    box = tuple(side[m:] for side in sides) if program.boxed else None
    matrix = found.jacobian if m else None
    return Program(found.hessian, q, G=matrix, h=rows, bounds=box)


def ending(program: Nonlinear, x: Array, t: Array, side: Array, reach: Array) -> Ending:
    """The solution whose active constraints are these, or those that they lead to."""
    eps = tree_math.coarsest_eps(x)

    def correct(now: _Round) -> _Round:
        local = quadratic(program, now.x, now.t)
        scaled = Scaled.of(local)
        begin = scaled.scaling.scaled_point(now.x, now.t)
        answer = polished(scaled, *begin, now.side)
        x, t = scaled.scaling.point(answer.x, answer.t)
        size = jnp.maximum(jnp.abs(x), eps * reach)
        moved = jnp.abs(x - now.x) / jnp.where(size == 0, 1, size)
        correction = tree_math.max_abs(moved)
        finite = jnp.isfinite(correction) & jnp.isfinite(t).all()
        falls = (correction <= now.correction / 2) & finite
        x, t = (jnp.where(finite, a, b) for a, b in ((x, now.x), (t, now.t)))
        found = x, t, answer.side
        changed = (answer.side != now.side).any()
        told = correction, falls, changed, now.count + 1
        return _Round(*found, *told, local, answer.unreached)

    def going(now: _Round) -> Bool[Array, ""]:
        early = (now.count < 3) | now.changed
        on = (now.falls | early) & (now.correction > eps**SETTLED)
        return on & (now.count < ROUNDS)

    infinite, yes = jnp.full((), jnp.inf, x.dtype), jnp.ones((), bool)
    shapes = jax.eval_shape(lambda: quadratic(program, x, t))
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    none, no = jnp.zeros((), jnp.int32), jnp.zeros(2, bool)
    begun = _Round(x, t, side, infinite, yes, yes, none, nothing, no)
    last = tree_math.while_loop(going, correct, begun)
    return _examined(program, last, reach)


def _examined(program: Nonlinear, last: _Round, reach: Array) -> Ending:
    """What is known at the end."""
    n, eps = program.num_unknowns, tree_math.coarsest_eps(last.x)
    x = jnp.clip(last.x, program.lower[-n:], program.upper[-n:])
    scaled = Scaled.of(last.program)
    t = jnp.where(last.side == 0, 0, last.t)
    here, multipliers = scaled.scaling.scaled_point(x, t)
    far, _ = scaled.scaling.scaled_point(reach, t)
    sizes = Sizes.of(scaled, here, multipliers, far)
    weak = (sizes.normwise <= eps**0.5).all(0) & scaled.sided.any(0)
    # A multiplier that rounding makes does not act.
    t = jnp.where(weak, 0, t)
    _, rows = program.parts(x)
    count = program.num_sides
    value, lower, upper = (
        side[:count]
        for side in (jnp.concatenate([rows, x]), program.lower, program.upper)
    )
    made_of = last.program.rows.magnitude()(jnp.abs(x)) + jnp.abs(value)
    slack = eps**FEASIBLE * made_of
    passed = ~((value <= upper + slack) & (value >= lower - slack))
    pulls = (lower != upper) & (t * last.side.astype(t.dtype) < 0)
    rho, delta = proximal_terms(x)
    active = last.side != 0
    weights = jnp.where(active, 1 / delta, 0).astype(x.dtype)
    minimal = jnp.isfinite(factorised(scaled.P, rho, scaled.rows, weights)).all()
    inverse = KKTInverse.of(scaled.P, scaled.rows, active & ~weak, scaled.scaling)
    side = jnp.where(weak, 0, last.side).astype(x.dtype)
    curved = last.program.P
    assert curved is not None
    terms = jnp.abs(curved) @ jnp.abs(x) + jnp.abs(last.program.q)
    terms = terms + last.program.rows.magnitude().transposed(jnp.abs(t))
    found = side, terms, ~(passed | pulls).any(), minimal
    return Ending(x, t, *found, last.unreached, weak.any(), inverse)
