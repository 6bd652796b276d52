"""Following a curve: predict along the tangent, correct, measure the bend.

The curve is `G(z) = 0` with one unknown more than equations, `z = (q, pi)`: the unknown
in units of its own size, and the parameter as a fraction of its range. A step of length
`h` along the unit tangent `t` is corrected by Newton's method for

    G(z) = 0,      c . (z - predicted) = 0.

With `c = t` this is *pseudo-arclength* continuation (Keller 1977): its matrix
`[dG/dz; t]` is regular at a fold, where `dG/dq` is not. With `c` the unit vector of the
parameter it is *natural* continuation, and what lands on either end of the range. The
next tangent solves `[dG/dz; c] t = (0, 1)`, by the same elimination (Allgower & Georg,
*Introduction to Numerical Continuation Methods*, 2003, ch. 2 and 6).
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from . import _tree
from ._branch import BranchStatus

#: Newton corrections per point; more than this is too far to predict.
MAX_CORRECTIONS = 8
#: The angle between successive tangents that a step aims at, and the largest cosine
#: that it must keep: else it might have jumped to another branch.
ANGLE, COSINE = 0.2, 0.8
#: A step that is to be shorter than this, relative to the longest, is none.
SHORTEST = 2.0**-14

Curve = Callable[[Float[Array, " N"]], Float[Array, " n"]]


def _metric(z: Array) -> Array:
    """The squares of what components weigh: an unknown that has outgrown its unit is
    measured by its own size."""
    size = jnp.maximum(1, jnp.linalg.norm(z[:-1]))
    return jnp.full_like(z, 1 / size**2).at[-1].set(1)


def _length(metric: Array, x: Array) -> Float[Array, ""]:
    return jnp.sqrt(jnp.sum(metric * x**2))


class Trace(eqx.Module):
    """The points that were found: of `max_points` rows the first `count`."""

    points: Float[Array, "max_points N"]
    slopes: Float[Array, " max_points"]
    """`d pi / ds`, of the curve in its first units."""
    count: Int[Array, ""]
    status: BranchStatus


class _Corrected(eqx.Module):
    z: Array
    tangent: Array
    """Towards `c . t > 0`, not yet of unit length."""
    size: Float[Array, ""]
    """The length of the last correction."""
    count: Int[Array, ""]


def _correct(curve: Curve, predicted: Array, c: Array) -> _Corrected:
    dtype = predicted.dtype
    last = jnp.zeros_like(predicted).at[-1].set(1)

    def newton(at: _Corrected) -> _Corrected:
        gap = jnp.dot(c, at.z - predicted)
        residual = jnp.append(curve(at.z), gap)
        matrix = jnp.concatenate([jax.jacfwd(curve)(at.z), c[None]])
        scale = jnp.max(jnp.abs(matrix), axis=1)
        scale = jnp.where(scale > 0, scale, 1)
        both = jnp.linalg.solve(
            matrix / scale[:, None], jnp.stack([residual, last], 1) / scale[:, None]
        )
        size = jnp.linalg.norm(both[:, 0])
        return _Corrected(at.z - both[:, 0], both[:, 1], size, at.count + 1)

    def going(at: _Corrected) -> Bool[Array, ""]:
        # The correction after one of this length is lost in rounding.
        far = at.size > _enough(at.z)
        return far & jnp.isfinite(at.size) & (at.count < MAX_CORRECTIONS)

    # Not infinity, which is what a singular matrix gives.
    much = jnp.full((), jnp.finfo(dtype).max, dtype)
    start = _Corrected(predicted, c, much, jnp.zeros((), jnp.int32))
    return _tree.while_loop(going, newton, start)


def _enough(z: Array) -> Float[Array, ""]:
    return jnp.finfo(z.dtype).eps ** 0.5 * (1 + jnp.linalg.norm(z))


class _Walk(eqx.Module):
    z: Array
    tangent: Array
    step: Float[Array, ""]
    points: Array
    slopes: Array
    count: Int[Array, ""]
    status: BranchStatus
    going: Bool[Array, ""]


def follow(
    curve: Curve,
    z: Float[Array, " N"],
    tangent: Float[Array, " N"],
    lowest: Float[Array, ""],
    step: Float[Array, ""],
    max_points: int,
    natural: bool,
) -> Trace:
    """The curve from `z`, along `tangent` (of unit length), to where its last component
    is 1 or `lowest`."""
    parameter_axis = jnp.zeros_like(z).at[-1].set(1)

    def walk(at: _Walk) -> _Walk:
        z, t = at.z, at.tangent
        # A step that would leave the range ends on its border instead.
        ahead = z[-1] + at.step * t[-1]
        border = jnp.where(t[-1] > 0, 1, lowest).astype(z.dtype)
        ends = jnp.where(t[-1] > 0, ahead >= border, (ahead <= border) & (t[-1] < 0))
        slope = jnp.where(ends, t[-1], 1)
        length = jnp.where(ends, (border - z[-1]) / slope, at.step)
        predicted = z + length * t
        predicted = predicted.at[-1].set(jnp.where(ends, border, predicted[-1]))
        metric = _metric(z)
        c = parameter_axis if natural else jnp.where(ends, parameter_axis, metric * t)
        new = _correct(curve, predicted, c)

        unit = new.tangent / _length(metric, new.tangent)
        cosine = jnp.dot(unit, metric * t)
        unit, cosine = unit * jnp.sign(cosine), jnp.abs(cosine)
        moved = _length(metric, new.z - predicted)
        inside = ends | (new.z[-1] < 1) & (new.z[-1] > lowest)
        accepted = (new.size <= _enough(new.z)) & (cosine >= COSINE) & inside
        accepted = accepted & (moved <= 0.5 * length + _enough(new.z))
        if natural:
            accepted = accepted & (unit[-1] > 0)

        angle = _length(metric, unit - t)
        factor = jnp.minimum(
            ANGLE / jnp.maximum(angle, 0.1 * ANGLE),
            4 / new.count.astype(z.dtype),
        )
        factor = jnp.clip(factor, 0.5, 2)
        next_step = jnp.where(accepted, at.step * factor, 0.5 * length)
        next_step = jnp.minimum(next_step, step)
        count = at.count + accepted.astype(jnp.int32)
        status = at.status
        lost = ~accepted & ~(next_step >= SHORTEST * step)
        full = count == max_points
        arrived = accepted & ends
        at_stop = BranchStatus.where(
            t[-1] > 0, BranchStatus.reached_stop, BranchStatus.turned_back
        )
        status = BranchStatus.where(lost, BranchStatus.lost, status)
        status = BranchStatus.where(arrived, at_stop, status)
        # What is written for a step that is refused is overwritten or not counted.
        return _Walk(
            jnp.where(accepted, new.z, z),
            jnp.where(accepted, unit / _length(_metric(new.z), unit), t),
            next_step,
            at.points.at[at.count].set(new.z),
            at.slopes.at[at.count].set(unit[-1] / jnp.linalg.norm(unit)),
            count,
            status,
            ~(lost | full | arrived),
        )

    regular = jnp.isfinite(z).all() & jnp.isfinite(tangent).all()
    shape = (max_points, z.size)
    points = jnp.full(shape, jnp.nan, z.dtype).at[0].set(z)
    slopes = jnp.full(max_points, jnp.nan, z.dtype).at[0].set(tangent[-1])
    start = _Walk(
        z,
        tangent,
        step,
        points,
        slopes,
        regular.astype(jnp.int32),
        BranchStatus.where(
            regular, BranchStatus.max_points_reached, BranchStatus.no_start
        ),
        regular,
    )
    end = _tree.while_loop(lambda at: at.going, walk, start)
    return Trace(end.points, end.slopes, end.count, end.status)


def turning_points(trace: Trace) -> tuple[Array, Array]:
    """Between which points the last component turned round, and its extreme value.

    That is the one of the cubic through both points with both slopes (Hermite), over
    the chord: `pi(x) = pi0 + length (m0 x + b x^2 / 2 + a x^3 / 3)`.
    """
    points, slopes = trace.points, trace.slopes
    index = jnp.arange(slopes.size, dtype=jnp.int32)
    m0, m1 = slopes[:-1], slopes[1:]
    used = index[1:] < trace.count
    turns = used & (m0 * m1 < 0)
    chord = jnp.where(turns[:, None], points[1:] - points[:-1], 1)
    length = jnp.linalg.norm(chord, axis=1)
    mean = chord[:, -1] / length
    a, b = 3 * (m0 + m1 - 2 * mean), 2 * (3 * mean - 2 * m0 - m1)
    # The one zero of m0 + b x + a x^2 in [0, 1], without cancellation.
    root = jnp.sqrt(jnp.maximum(b**2 - 4 * a * m0, 0))
    q = -(b + jnp.where(b < 0, -root, root)) / 2
    first = m0 / jnp.where(q == 0, 1, q)
    second = q / jnp.where(a == 0, 1, a)
    x = jnp.where((first >= 0) & (first <= 1), first, second)
    extreme = points[:-1, -1] + length * (m0 * x + b * x**2 / 2 + a * x**3 / 3)
    nothing = jnp.zeros((1,), bool)
    turns = jnp.concatenate([nothing, turns])
    extreme = jnp.concatenate([jnp.full((1,), jnp.nan, extreme.dtype), extreme])
    return turns, jnp.where(turns, extreme, jnp.nan)
