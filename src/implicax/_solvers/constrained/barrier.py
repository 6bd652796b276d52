"""A primal-dual interior point method for programs that need not be convex.

Minimise `f(x)` where `lower <= c(x) <= upper`, `x` between bounds. Each row has a
slack, `c(x) - s = 0`, and a logarithmic barrier of weight `mu` keeps `w = (s, x)`
strictly between its sides. Newton's method for the primal-dual conditions,

    [ H + Tx     0     J^T  ] [dx]     what is left of stationarity in x,
    [   0       Ts     -1   ] [ds] = - of stationarity in s,
    [   J       -1   -sigma ] [dy]     of c - s,

is eliminated down to a matrix in `x` that is positive definite, or made so by a shift;
`sigma` makes rows solvable that depend on each other. A step is taken where it leads to
less violation or to a lower barrier function than a filter knows (Waechter & Biegler,
Math. Program. 106, 2006; equations and constants of that paper). Where no such step is
found, the violation itself is minimised for a while (*restoration*), by the same step:

    |c - s|^2 / 2 + zeta |w - w_R|^2 / 2 + barriers,   with  y = c - s, sigma = 1.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from implicax._core import tree_math
from implicax._solvers.constrained.direction import Direction, Terms, direction
from implicax._solvers.constrained.filter import Filter, Merit, falls_enough
from implicax._solvers.constrained.nonlinear import Derivatives, Nonlinear

#: The first weight of the barrier.
MU = 0.1
#: It falls where its own conditions hold to `KAPPA mu`: to a part, or to a power (eq.
#: 7).
KAPPA, FALLS, POWER = 10.0, 0.2, 1.5
#: At least this part of the way to a side may be taken (eq. 8).
TO_THE_BOUNDARY = 0.99
#: Multipliers stay within this factor of `mu` over their slacks (eq. 16).
NEIGHBOURHOOD = 1e10
#: Residuals of stationarity are relative to multipliers above this (eq. 6).
MULTIPLIERS = 100.0
#: `sigma`, as a power of `eps` (1e-7).
SIGMA = 0.45
#: Conditions are solved to `eps` to this power (1e-8); the last digits are found
#: otherwise.
TOLERANCE = 0.5
#: Rounding errors of a merit, in units of `eps`.
ROUNDING = 10.0
#: An objective that has fallen below this power of `1 / eps` falls without end.
ENDLESS = 0.95
#: Halvings of a step.
HALVINGS = 30
#: Restoration ends below this part of the violation, and multipliers begin again, at
#: no more than this.
RESTORED, RESET = 0.9, 1e3


class Walk(eqx.Module):
    """Where the method stands."""

    w: Float[Array, " m_plus_n"]
    """Slacks of the rows, then the unknowns."""
    y: Float[Array, " m"]
    """The multipliers of `c - s = 0`."""
    z: Float[Array, "2 m_plus_n"]
    """... and of the upper and the lower sides, positive."""
    objective: Float[Array, ""]
    rows: Float[Array, " m"]
    """What the program's parts are there."""
    mu: Float[Array, " 2"]
    """The weight of the barrier; and that in restoration."""
    shift: Float[Array, ""]
    """The last one that was needed."""
    filter: Filter
    restoring: Bool[Array, ""]
    anchor: Float[Array, " m_plus_n"]
    """Where restoration began, ..."""
    violated: Float[Array, ""]
    """... and the violation there."""
    reach: Float[Array, " n"]
    """The largest `|x_i|` on the way."""
    steps: Int[Array, ""]
    error: Float[Array, ""]
    """What was left of the conditions before the last step."""
    halted: Bool[Array, ""]
    """Whether there is no further step."""
    endless: Bool[Array, ""]
    """Whether the objective falls without end."""
    infeasible: Bool[Array, ""]
    """Whether the violation has a minimum here, other than zero."""

    @classmethod
    def begin(
        cls, program: Nonlinear, x: Float[Array, " n"], mu: Float[Array, ""]
    ) -> "Walk":
        """At what is near `x` and inside the bounds, with a barrier of weight `mu`."""
        m, dtype = program.lower.size - x.size, x.dtype
        x = program.inside(x, slice(m, None))
        f, c = program.parts(x)
        w = jnp.concatenate([program.inside(c, slice(m)), x])
        theta = jnp.sum(jnp.abs(c - w[:m]))
        zero, no = jnp.zeros((), dtype), jnp.zeros((), bool)
        return cls(
            w=w,
            y=jnp.zeros(m, dtype),
            z=jnp.where(program.sided, mu / MU, 0),
            objective=f,
            rows=c,
            mu=jnp.stack([mu, mu]),
            shift=zero,
            filter=Filter.empty(theta),
            restoring=no,
            anchor=w,
            violated=theta,
            reach=jnp.abs(x),
            steps=jnp.zeros((), jnp.int32),
            error=jnp.full((), jnp.inf, dtype),
            halted=~jnp.isfinite(theta),
            endless=no,
            infeasible=no,
        )


def interior_point(program: Nonlinear, walk: Walk, max_steps: Array) -> Walk:
    """From `walk` to the tolerance, or as far as it gets."""
    tolerance = tree_math.coarsest_eps(walk.w) ** TOLERANCE

    def going(walk: Walk) -> Bool[Array, ""]:
        on = (walk.error > tolerance) & ~walk.halted
        return on & (walk.steps < max_steps)

    def step(walk: Walk) -> Walk:
        return _step(program, walk, tolerance)

    return tree_math.while_loop(going, step, walk)


def _step(program: Nonlinear, walk: Walk, tolerance: float) -> Walk:
    m, back = walk.y.size, walk.restoring
    s, x = jnp.split(walk.w, [m])
    r = walk.rows - s
    # In restoration multipliers are what is left, and there is no objective.
    y = jnp.where(back, r, walk.y)
    found = program.derivatives(x, y, jnp.where(back, 0.0, 1.0))
    violation = _largest(r)
    mu, lowered, error = _barrier_weight(program, walk, found, y, violation, tolerance)
    goal = _Goal.of(program, walk, mu)
    sigma = jnp.where(back, 1, tree_math.coarsest_eps(x) ** SIGMA).astype(x.dtype)
    left, slacks = jnp.where(back, 0, r), program.slacks(walk.w)
    away = walk.w - walk.anchor
    terms = Terms(y, walk.z, slacks, left, goal.weight, sigma, goal.zeta, away)
    ahead = direction(program, found, terms, walk.shift)
    # Of the goal: without multipliers; in restoration with what is left of the rows.
    along_x = found.gradient - found.jacobian.T @ jnp.where(back, 0, y)
    gradient = jnp.concatenate([jnp.where(back, -r, 0), along_x])
    gradient = gradient + terms.repelled(program)
    slope = jnp.where(program.fixed, 0, gradient) @ ahead.w
    known = walk.filter.cleared(lowered)
    now = goal.merit(walk.w, walk.objective, walk.rows)
    ended = _search(goal, known, now, walk, ahead, slope)
    t, (f, c), trial, fine, descent = ended
    fine = fine & ahead.finite
    begins = ~fine & ~back & (violation > tolerance)
    known = known.with_entry(now, ~back & ((fine & ~descent) | begins))
    ends = back & fine & (trial.theta <= RESTORED * walk.violated) & known.admits(trial)
    w = jnp.where(fine, walk.w + t * ahead.w, walk.w)
    y, z = _multipliers(program, walk, ahead, goal.weight, w, t, fine)
    again = begins | ends
    worst = jnp.stack([mu[0], jnp.maximum(mu[0], violation)])
    solved, stuck = back & (error <= tolerance), ~fine & ~begins
    endless = now.phi < -(tree_math.coarsest_eps(x) ** -ENDLESS)
    return Walk(
        w=w,
        y=jnp.where(again, 0, y),
        z=jnp.where(again, jnp.minimum(z, RESET), z),
        objective=jnp.where(fine, f, walk.objective),
        rows=jnp.where(fine, c, walk.rows),
        mu=jnp.where(begins, worst, mu),
        shift=jnp.where(ahead.shift > 0, ahead.shift, walk.shift),
        filter=known,
        restoring=(back & ~ends) | begins,
        anchor=jnp.where(begins, walk.w, walk.anchor),
        violated=jnp.where(begins, now.theta, walk.violated),
        reach=jnp.maximum(walk.reach, jnp.abs(w[m:])),
        steps=walk.steps + 1,
        error=jnp.where(back, jnp.inf, error),
        halted=stuck | solved | endless,
        endless=endless,
        infeasible=back & (stuck | solved),
    )


def _barrier_weight(
    program: Nonlinear,
    walk: Walk,
    found: Derivatives,
    y: Array,
    violation: Array,
    tolerance: float,
) -> tuple[Array, Array, Array]:
    """The weights of the barrier for the next step, whether the program's is a new one,
    and what is left of the conditions without barrier."""
    sided, back, z = program.sided, walk.restoring, walk.z
    gradient = jnp.concatenate([-y, found.gradient]) + z[0] - z[1]
    gradient = gradient + _proximal(walk, walk.mu[1]) * (walk.w - walk.anchor)
    sizes = jnp.concatenate([jnp.abs(y), z[0], z[1]])
    unit = jnp.maximum(1, jnp.mean(sizes) / MULTIPLIERS)
    dual = tree_math.max_abs(jnp.where(program.fixed, 0, gradient))
    products = jnp.where(sided, program.slacks(walk.w) * z, 0)

    def left(mu: Array) -> Array:
        apart = tree_math.max_abs(jnp.where(sided, products - mu, 0))
        return jnp.maximum(
            jnp.maximum(dual, apart) / unit, jnp.where(back, 0, violation)
        )

    mu = jnp.where(back, walk.mu[1], walk.mu[0])
    least = tolerance / 10
    lowered = (left(mu) <= KAPPA * mu) & (mu > least)
    lower = jnp.maximum(least, jnp.minimum(FALLS * mu, mu**POWER))
    mu = jnp.where(lowered, lower, mu).astype(z.dtype)
    weights = jnp.where(back, walk.mu.at[1].set(mu), walk.mu.at[0].set(mu))
    return weights, lowered & ~back, left(jnp.zeros_like(mu))


def _proximal(walk: Walk, mu: Array) -> Float[Array, " m_plus_n"]:
    """The weights `zeta` of the way from the anchor, in restoration (same paper, eq.
    30)."""
    own = jnp.maximum(1, jnp.abs(walk.anchor)) ** -2
    own = own.at[: walk.y.size].set(0)
    return jnp.where(walk.restoring, jnp.sqrt(mu) * own, 0)


class _Goal(eqx.Module):
    """What steps are to lower."""

    program: Nonlinear
    mu: Float[Array, ""]
    """The weight of the program's barrier, ..."""
    weight: Float[Array, ""]
    """... and of that which is lowered."""
    restoring: Bool[Array, ""]
    zeta: Float[Array, " m_plus_n"]
    anchor: Float[Array, " m_plus_n"]

    @classmethod
    def of(cls, program: Nonlinear, walk: Walk, mu: Array) -> "_Goal":
        weight = jnp.where(walk.restoring, mu[1], mu[0])
        zeta = _proximal(walk, weight)
        return cls(program, mu[0], weight, walk.restoring, zeta, walk.anchor)

    def merit(self, w: Array, f: Array, c: Array) -> Merit:
        """Where the objective is `f`, and the rows are `c`."""
        gaps = jnp.where(self.program.sided, self.program.slacks(w), 1)
        logs = jnp.sum(jnp.log(gaps))
        r = c - w[: c.size]
        near = self.zeta @ (w - self.anchor) ** 2
        phi = f - self.mu * logs
        goal = jnp.where(self.restoring, (r @ r + near) / 2 - self.weight * logs, phi)
        return Merit(jnp.sum(jnp.abs(r)), phi, goal)


def _search(
    goal: _Goal,
    known: Filter,
    now: Merit,
    walk: Walk,
    ahead: Direction,
    slope: Array,
) -> tuple[Array, tuple[Array, Array], Merit, Array, Array]:
    """The longest of halved steps that is progress: its length, the parts and the merit
    there, whether there is one, and whether it needs no entry in the filter."""
    w, here = walk.w, (walk.objective, walk.rows)
    sided, slacks = goal.program.sided, goal.program.slacks(w)
    most = _length(slacks, jnp.stack([-ahead.w, ahead.w]), sided, goal.weight)
    eps = tree_math.coarsest_eps(ahead.w)
    noise = ROUNDING * eps * (jnp.abs(now.goal) + jnp.abs(now.phi))

    def trial(carry: tuple) -> tuple:
        t, *_, halvings = carry
        t = jnp.where(halvings == 0, t, t / 2)
        ahead_w = w + t * ahead.w
        parts = goal.program.parts(ahead_w[-goal.program.num_unknowns :])
        there = goal.merit(ahead_w, *parts)
        fine, descent = known.accepts(now, there, slope, t, noise)
        lower = falls_enough(now, there, slope, t, noise)
        fine = jnp.where(goal.restoring, lower, fine)
        finite = jnp.isfinite(there.goal) & jnp.isfinite(there.theta)
        return t, parts, there, fine & finite, descent, halvings + 1

    def going(carry: tuple) -> Array:
        return ~carry[3] & (carry[5] < HALVINGS)

    no = jnp.zeros((), bool)
    begun = most, here, now, no, no, jnp.zeros((), jnp.int32)
    return tree_math.while_loop(going, trial, begun)[:5]


def _multipliers(
    program: Nonlinear,
    walk: Walk,
    ahead: Direction,
    mu: Array,
    w: Array,
    t: Array,
    fine: Array,
) -> tuple[Array, Array]:
    """The multipliers after a step of length `t` to `w`; those of sides go their own
    way, and stay near `mu` over their slacks."""
    longest = _length(walk.z, ahead.z, program.sided, mu)
    y = jnp.where(fine & ~walk.restoring, walk.y + t * ahead.y, walk.y)
    z = jnp.where(fine, walk.z + longest * ahead.z, walk.z)
    central = mu / program.slacks(w)
    z = jnp.clip(z, central / NEIGHBOURHOOD, central * NEIGHBOURHOOD)
    return y, jnp.where(program.sided, z, 0)


def _length(v: Array, step: Array, sided: Array, mu: Array) -> Array:
    """How much of a step keeps `v` positive."""
    kept = jnp.maximum(TO_THE_BOUNDARY, 1 - mu)
    falls = sided & (step < 0)
    most = jnp.where(falls, -kept * v / jnp.where(falls, step, -1), jnp.inf)
    return jnp.minimum(1, jnp.min(most, initial=jnp.inf))


def _largest(x: Array) -> Array:
    """`max |x_i|`, zero if there are none."""
    return tree_math.max_abs(jnp.append(x, jnp.zeros(1, x.dtype)))
