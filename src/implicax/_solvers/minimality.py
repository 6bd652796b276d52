"""Whether a point is a minimum, and how far from it.

Near a minimum Newton's correction `n = -H^-1 g(y)`, with the exact Hessian, *is* the
distance that is left, up to its own square; and it does not change with the units of
the objective. A small gradient is not enough: it is small in large units, far down a
tail, at a saddle. So

- what rounding leaves of a curvature (a *null* direction) is told from a curvature, in
  the scaling that makes all diagonal entries of `H` one;
- the correction is compared with `|y|` component by component;
- a second correction in a row must be much shorter than the first, or as short as
  rounding makes it (natural monotonicity: Deuflhard, *Newton Methods for Nonlinear
  Problems*, sec. 2.1.3).
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from implicax._core import componentwise, tree_math
from implicax._core.packed import Flag, Number, Packed
from implicax._core.solution import Status
from implicax._core.tree_math import Vector
from implicax._problems.equations import Iterate, System
from implicax._solvers.curvature import (
    Softest,
    both_ways,
    exact,
    flat_for_good,
    null_way,
    unchanged,
)

#: Up to here Hessians are formed and decomposed (measured on CPU: an eigendecomposition
#: at 500 takes 0.1 s).
DECOMPOSED = 512
#: Newton steps that an examination may take: quadratic convergence needs no more.
MAX_STEPS = 4
#: Steps of conjugate gradients for a rough Newton correction.
ROUGH_STEPS = 200
#: The smallest correction that still has to shrink: `eps` to this power, relative.
FLOOR = 0.55


def scaled(y: Vector, factors: Any) -> Vector:
    """`|y_i|` times a factor of its leaf, without a derivative."""
    return jax.tree.map(lambda a, f: f * a, componentwise.sizes(y), factors)


def powers(y: Vector, exponent: float) -> Any:
    """`eps` of each leaf to that power."""
    return jax.tree.map(lambda leaf: componentwise.eps(leaf) ** exponent, y)


def allowed(y: Vector, reach: Vector, rtol: Array | None) -> Vector:
    """How large a correction of each component may be.

    That is `rtol |y_i|` (`None` means `eps**(2/3)` of the leaf), or what proves a
    component zero: `eps**1.5` of the largest `|y_i|` on the way. (With `eps` alone a
    start far away would prove too much.)
    """
    zero = scaled(reach, powers(y, 1.5))
    if rtol is None:
        own = scaled(y, powers(y, 2 / 3))
    else:
        own = jax.tree.map(lambda a: rtol.astype(a.dtype) * a, componentwise.sizes(y))
    return jax.tree.map(jnp.maximum, own, zero)


def relative(n: Vector, y: Vector, reach: Vector) -> Float[Array, ""]:
    """The largest `|n_i| / |y_i|`, but for components that are zero."""
    zero = scaled(reach, powers(y, 1.5))
    n = jax.tree.map(lambda n, z: jnp.where(jnp.abs(n) <= z, 0, n), n, zero)
    return componentwise.ratio(n, y)


def to_come(theta: Array) -> Array:
    """What is left after a correction, as a multiple of it, where corrections shrink by
    `theta`; at most ten, since rounding errors do not shrink at all."""
    theta = jnp.minimum(theta, 10 / 11)
    return theta / (1 - theta)


def rounded(
    n: Vector, y: Vector, reach: Vector, noise: Vector | None
) -> Bool[Array, ""]:
    """Whether corrections that no longer shrink are what rounding errors leave.

    Either they are small (`FLOOR`), or no larger than what the rounding errors of the
    gradient make of them, `noise`; or their component is zero as far as can be seen:
    correction and component are both no larger than the rounding errors of the largest
    `|y_i|` on the way.
    """
    if noise is None:
        noise = jax.tree.map(jnp.zeros_like, y)

    def holds(n, y, reach, noise):
        eps = componentwise.eps(y)
        n, y, reach = jnp.abs(n), jnp.abs(y), 10 * eps * reach
        return (n <= eps**FLOOR * y) | (n <= noise) | (jnp.maximum(n, y) <= reach)

    return componentwise.every(jax.tree.map(holds, n, y, reach, noise))


def steady(now: Array, before: Array) -> Bool[Array, ""]:
    """Whether the curvatures (their roots) are the same as a step ago. Down a tail they
    are not: there steps do not shrink either, and not for rounding errors."""
    return jnp.all((now <= 1.4 * before) & (before <= 1.4 * now))


class Judgement(eqx.Module):
    """What an examination found."""

    iterate: Iterate
    """Where Newton's corrections led."""
    status: Status
    error: Float[Array, ""]
    """The largest estimated relative error of an unknown."""
    evaluations: Int[Array, ""]


class _Found(Packed):
    error = Number()
    length = Number()
    """Of Newton's correction, in the scaling of the Hessian."""
    count = Number()
    going = Flag()


class _Flags(Packed):
    small = Flag()
    """Whether the correction is within the tolerance."""
    floor = Flag()
    """Whether it is what rounding leaves."""
    down = Flag()
    """Whether a curvature is negative."""
    level = Flag()
    """Whether the way led along what is flat, ..."""
    out = Flag()
    """... outwards."""
    nowhere = Flag()
    """Whether it did, or there is a slope still."""
    isolated = Flag()
    """Whether it is a minimum but for what is flat for good."""


class _Look(eqx.Module):
    iterate: Iterate
    own: Float[Array, " n"]
    found: _Found
    flags: _Flags


def examine(
    system: System,
    iterate: Iterate,
    origin: Vector,
    reach: Vector,
    rtol: Array | None,
    *,
    steps: int = MAX_STEPS,
) -> Judgement:
    """Newton's method with the exact Hessian from a point that is thought to be a
    minimum, for as long as the corrections shrink and are above the tolerance.

    The status is converged, saddle, unbounded, degenerate, non_finite, or else
    stagnated.
    """
    dtype = iterate.norm.dtype
    start, unravel = tree_math.ravel(origin)

    def look(old: _Look) -> _Look:
        iterate = old.iterate
        model, flat = exact(system, iterate), tree_math.ravel(iterate.y)[0]
        correction = model.basis @ model.q
        n = unravel(correction)
        length = jnp.linalg.norm(model.q)
        before, count = old.found.length, old.found.count
        theta = length / jnp.where(before > 0, before, 1)
        first = count == 0
        left = jnp.where(first, 1, to_come(theta))
        expected = jax.tree.map(lambda n: left.astype(n.dtype) * n, n)
        most = allowed(iterate.y, reach, rtol)
        excess = componentwise.ratio(expected, most)
        small = (excess <= 1) & (first | (theta <= 0.5) | (excess <= 0.1))
        noise = unravel(model.reaction)
        floor = ~first & (theta > 0.5) & steady(model.own, old.own)
        floor = floor & rounded(n, iterate.y, reach, noise)

        error = _known_to(small, expected, noise, most)
        level, out = model.level(flat - start, flat)
        nowhere = model.sloping | level
        size = jnp.maximum(jnp.linalg.norm(model.inverse @ flat), model.unit)
        null = model.null
        way = null_way(model.basis, null, size)
        # (All evaluations at once: a copy of the user's function in the program.)
        softest = Softest.of(model.basis, model.values, model.slopes, size, model.noise)
        beside = [correction + part for part in both_ways(softest.way)]
        points = flat[None, :] + jnp.stack([*both_ways(way), correction, *beside])
        at = jax.vmap(lambda v: system.evaluate(unravel(v)))(points)
        new = jax.tree.map(lambda leaf: leaf[2], at)
        ends = jax.vmap(lambda residual: tree_math.ravel(residual)[0])(at.residual)
        good = unchanged(iterate, ends[:2], model.basis, way, model.noise, model.own)
        isolated = ~jnp.any(null) | good
        isolated = model.zero | (isolated & ~softest.gone(ends[3:]))
        shrinks = first | (theta <= 0.5)
        more = ~small & shrinks & ~model.curved_down & ~nowhere
        more = more & jnp.isfinite(length) & (count < steps)
        more = more & jnp.isfinite(new.norm)
        # What is expected to be left is left *after* the correction: it is taken, too.
        moves = more | (small & ~nowhere & jnp.isfinite(new.norm))
        return _Look(
            tree_math.where(moves, new, iterate),
            model.own,
            _Found.of(
                dtype,
                error=relative(error, iterate.y, reach),
                length=length,
                count=count + 1,
                going=more,
            ),
            _Flags.of(
                dtype,
                small=small,
                floor=floor,
                down=model.curved_down,
                level=level,
                out=out,
                nowhere=nowhere,
                isolated=isolated,
            ),
        )

    inf = jnp.inf
    nothing = _Found.of(dtype, error=inf, length=inf, count=0, going=True)
    entry = _Look(iterate, jnp.zeros_like(start), nothing, _Flags.filled(dtype, 0.0))
    end = tree_math.while_loop(lambda look: look.found.going, look, entry)
    spent = end.found.count.astype(jnp.int32) - 1
    return Judgement(end.iterate, _said_by(end), end.found.error, spent)


def _known_to(small: Array, left: Vector, noise: Vector, most: Vector) -> Vector:
    """What is left, or what the rounding errors of the gradient make of it: where that
    is within what was asked for (`small`), no more than that."""

    def larger(left: Array, noise: Array, most: Array) -> Array:
        noise = jnp.where(small, jnp.minimum(noise, most), noise)
        return jnp.maximum(jnp.abs(left), noise)

    return jax.tree.map(larger, left, noise, most)


def _said_by(end: _Look) -> Status:
    """What the last look says."""
    last, found = end.flags, end.found
    done = last.small | last.floor
    status = Status.where(done, Status.converged, Status.stagnated)
    status = Status.where(done & ~last.isolated, Status.degenerate, status)
    status = Status.where(last.nowhere, Status.stagnated, status)
    status = Status.where(last.level, Status.degenerate, status)
    status = Status.where(last.level & last.out, Status.unbounded, status)
    status = Status.where(last.down & done, Status.saddle, status)
    status = Status.where(last.down & ~done, Status.stagnated, status)
    known = jnp.isfinite(end.iterate.norm) & jnp.isfinite(found.length)
    return Status.where(known, status, Status.non_finite)


def concluded(
    outcome: Any, found: Judgement, atol: Array | None, exact: Bool[Array, ""]
) -> Any:
    """The outcome of a minimisation, after an examination of where it ended.

    `exact`: whether it went by the Hessian. Then an examination that has seen nothing
    bad, but has got no nearer, takes nothing back.
    """
    said, iterate = outcome.status, found.iterate
    ended = said == Status.converged
    ended = ended | (said == Status.stagnated) | (said == Status.unbounded)
    ended = ended | (said == Status.degenerate)
    ended = ended | (said == Status.max_steps_reached)
    good = ended & (found.status == Status.converged)
    bad = (found.status == Status.saddle) | (found.status == Status.unbounded)
    bad = bad | (found.status == Status.degenerate)
    if atol is not None:
        good = good | ended & ~bad & (iterate.norm <= atol.astype(iterate.norm.dtype))
    doubted = bad | (said == Status.converged) & ~exact
    status = Status.where(ended & doubted, found.status, said)
    status = Status.where(good, Status.converged, status)
    stats = outcome.stats
    return eqx.tree_at(
        lambda o: (
            o.y,
            o.status,
            o.stats.evaluations,
            o.stats.residual_norm,
            o.stats.error,
        ),
        outcome,
        (
            tree_math.where(good, iterate.y, outcome.y),
            status,
            stats.evaluations + found.evaluations,
            jnp.where(good, iterate.norm, stats.residual_norm),
            jnp.where(good, found.error.astype(stats.error.dtype), stats.error),
        ),
    )


def judge_minimum(
    system: System, first: Iterate, last: Iterate, rtol: Array | None = None
) -> tuple[Status, Float[Array, ""]]:
    """Whether somebody's answer `last` is a minimum, and its largest estimated relative
    error; `first` is where the search began.

    `rtol=None` means `eps**0.4` of each leaf (5e-7 in float64): an objective is flat at
    its minimum, and who sees nothing else finds `y` to about `eps**(1/2)`. What is
    meant to be zero is compared with how far its unknown could move before the
    objective changed by itself, or by as much as it has changed since `first`, if that
    is less.
    """
    y, reach = last.y, componentwise.grown(componentwise.sizes(first.y), last.y)
    if rtol is None:
        loose = powers(y, 0.4)
    else:
        loose = jax.tree.map(lambda leaf: rtol.astype(leaf.dtype), y)
    dtype, no = last.norm.dtype, jnp.zeros((), bool)
    unit, nowhere, isolated = jax.tree.map(jnp.zeros_like, y), no, ~no
    if tree_math.num_unknowns(y) <= DECOMPOSED:
        (flat, unravel), start = tree_math.ravel(y), tree_math.ravel(first.y)[0]

        def look(iterate: Iterate, _: Any) -> tuple[Iterate, tuple]:
            model = exact(system, iterate)
            p = model.basis @ model.q
            size = jnp.maximum(jnp.linalg.norm(model.inverse @ flat), model.unit)
            basis, noise = model.basis, model.noise
            softest = Softest.of(basis, model.values, model.slopes, size, noise)
            good = flat_for_good(
                system, iterate, basis, model.null, size, noise, model.own, softest
            )
            level, _ = model.level(flat - start, flat)
            nowhere = model.sloping | level
            isolated = model.zero | good
            found = p, model.own, model.curved_down, nowhere, isolated
            return system.evaluate(tree_math.add(iterate.y, unravel(p))), found

        _, found = jax.lax.scan(look, last, None, length=2)
        steps, own, *flags = found
        down, nowhere, isolated = (flag[0] for flag in flags)
        n = unravel(steps[0])
        gained = jnp.asarray(first.objective) - jnp.asarray(last.objective)
        span = jnp.minimum(jnp.abs(gained), jnp.abs(jnp.asarray(last.objective)))
        known = steady(own[1], own[0]) & (own[0] > 0)
        unit = jnp.sqrt(2 * span) / jnp.where(known, own[0], 1)
        unit = unravel(jnp.where(known, unit, 0))
    else:
        n, down = by_gradients(system, last)

    def holds(n, y, unit, reach, loose):
        zero = jnp.maximum(loose * unit, 10 * componentwise.eps(y) * reach)
        n, y = jnp.abs(n), jnp.abs(y)
        return (n <= loose * y) | (jnp.maximum(n, y) <= zero)

    small = componentwise.every(jax.tree.map(holds, n, y, unit, reach, loose))
    solved = small & ~nowhere & ~down
    status = Status.where(solved, Status.converged, Status.not_solved)
    status = Status.where(solved & ~isolated, Status.degenerate, status)
    status = Status.where(small & down, Status.saddle, status)
    known = jnp.isfinite(last.norm) & jnp.isfinite(tree_math.max_norm(n))
    status = Status.where(known, status, Status.non_finite)
    return status, relative(n, y, reach).astype(dtype)


def by_gradients(system: System, iterate: Iterate) -> tuple[Vector, Bool[Array, ""]]:
    """Newton's correction by conjugate gradients, roughly, and whether the curvature
    along it is negative."""
    y, g = iterate.y, iterate.residual
    if system.reverse_only:  # (A Hessian is symmetric.)
        _, pull = jax.vjp(system.residual, y)

        def product(t: Vector) -> Vector:
            return pull(t)[0]
    else:
        _, product = jax.linearize(system.residual, y)

    n, _ = jax.scipy.sparse.linalg.cg(product, g, tol=0.1, maxiter=ROUGH_STEPS)
    return n, tree_math.dot(n, product(n)) < 0
