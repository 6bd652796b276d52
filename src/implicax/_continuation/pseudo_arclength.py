"""Following a curve: predict along the tangent, correct, and make sure that it is the
same curve.

The curve is `G(z) = 0` with one unknown more than equations, `z = (q, pi)`: every
unknown in units of its own size, and the parameter as a fraction of its range. A step
of length `h` along the unit tangent `t` is corrected by Newton's method for

    G(z) = 0,      c . (z - predicted) = 0.

With `c = t` this is *pseudo-arclength* continuation (Keller 1977): its matrix
`[dG/dz; t]` is regular at a fold, where `dG/dq` is not. With `c` the unit vector of the
parameter it is *natural* continuation, and what lands on either end of the range. The
next tangent solves `[dG/dz; c] t = (0, 1)`, by the same elimination (Allgower & Georg,
*Introduction to Numerical Continuation Methods*, 2003, ch. 2 and 6).

Newton's method converges to some curve, not always to the one that is followed. Three
things tell, and a step that fails one of them is refused and halved:

- *Orientation.* Along one curve the sign of `det [dG/dz; t]` stays, at folds as well;
  on the next of two curves side by side it is the other one, and it changes where
  curves cross (ibid., sec. 2.1 and 8.1). From `[dG/dz; c]` it comes with the pivots.
- *Contraction.* The second of two corrections is at most a quarter of the first, so the
  prediction was nearer to this curve than to any other (ibid., sec. 6.1).
- *The middle.* The cubic through both points with both tangents (Hermite) is two orders
  better than the prediction if they lie on one smooth curve, and half the gap off if
  they do not: one correction from its middle shows which, in every unknown.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from implicax._continuation.branch import BranchStatus
from implicax._core import tree_math

#: Newton corrections per point; more than this is too far to predict.
MAX_CORRECTIONS = 8
#: The angle between successive tangents that a step aims at, and the smallest cosine.
ANGLE, COSINE = 0.2, 0.8
#: The ratio of successive corrections that a step aims at, and the largest (Allgower &
#: Georg, sec. 6.1; Deuflhard, *Newton Methods for Nonlinear Problems*, sec. 5.1.3).
CONTRACTION, LARGEST_CONTRACTION = 0.125, 0.25
#: The largest error in the middle of a step, relative to that of the prediction. On a
#: curve with features of length `L` it is about `(h / L)^2 / 192`.
MIDDLE = 1 / 16
#: A step that is to be shorter than this, relative to the longest, is none; and one
#: shorter than so many rounding units.
SHORTEST, ROUNDING = 2.0**-20, 64

Curve = Callable[[Float[Array, " N"]], Float[Array, " n"]]


def _sizes(z: Array) -> Array:
    """What components are measured by: their unit, or what has outgrown it."""
    return jnp.maximum(1, jnp.abs(z)).at[-1].set(1)


def _metric(z: Array) -> Array:
    """The squares of what components weigh: the unknowns together as the parameter."""
    weight = 1 / _sizes(z) ** 2
    return (weight / (z.size - 1)).at[-1].set(1)


def _length(metric: Array, x: Array) -> Float[Array, ""]:
    return jnp.sqrt(jnp.sum(metric * x**2))


def _enough(dtype: jnp.dtype) -> float:
    """The correction after one of this size is lost in rounding."""
    return float(jnp.finfo(dtype).eps) ** 0.5


class Trace(eqx.Module):
    """The points that were found: of `max_points` rows the first `count`."""

    points: Float[Array, "max_points N"]
    slopes: Float[Array, " max_points"]
    """`d pi / ds`, of the curve in its first units."""
    count: Int[Array, ""]
    status: BranchStatus


class _Correction(eqx.Module):
    step: Array
    tangent: Array
    """With `c . tangent = 1`, not of unit length."""
    sign: Float[Array, ""]
    """Of `det [dG/dz; c]`: that of `det [dG/dz; tangent]`, too."""


def _newton(curve: Curve, z: Array, predicted: Array, c: Array) -> _Correction:
    residual = jnp.append(curve(z), jnp.dot(c, z - predicted))
    matrix = jnp.concatenate([jax.jacfwd(curve)(z), c[None]])
    scale = tree_math.max_abs(matrix, axis=1)
    scale = jnp.where(scale > 0, scale, 1)
    lu, pivots, permutation = jax.lax.linalg.lu(matrix / scale[:, None])
    last = jnp.zeros_like(z).at[-1].set(1)
    both = jnp.stack([residual, last], axis=1) / scale[:, None]
    solve = jax.scipy.linalg.solve_triangular
    half = solve(lu, both[permutation], lower=True, unit_diagonal=True)
    step, tangent = solve(lu, half).T
    swaps = jnp.sum(pivots != jnp.arange(z.size, dtype=pivots.dtype))
    sign = jnp.prod(jnp.sign(jnp.diagonal(lu))) * jnp.where(swaps % 2 == 0, 1, -1)
    return _Correction(-step, tangent, sign)


class _Corrected(eqx.Module):
    z: Array
    tangent: Array
    sign: Float[Array, ""]
    size: Float[Array, ""]
    """The last correction, in its largest component."""
    contraction: Float[Array, ""]
    """The largest ratio of successive corrections."""
    count: Int[Array, ""]

    @property
    def converged(self) -> Bool[Array, ""]:
        near = self.size <= _enough(self.z.dtype)
        return near & (self.contraction <= LARGEST_CONTRACTION)


def _correct(curve: Curve, predicted: Array, c: Array) -> _Corrected:
    dtype = predicted.dtype
    enough = _enough(dtype)

    def newton(at: _Corrected) -> _Corrected:
        new = _newton(curve, at.z, predicted, c)
        size = tree_math.max_abs(new.step / _sizes(at.z))
        # Below `enough` the ratio is one of rounding errors.
        ratio = jnp.where(size > enough, size / at.size, 0)
        contraction = jnp.maximum(at.contraction, ratio)
        z = at.z + new.step
        return _Corrected(z, new.tangent, new.sign, size, contraction, at.count + 1)

    def going(at: _Corrected) -> Bool[Array, ""]:
        contracts = at.contraction <= LARGEST_CONTRACTION
        contracts = contracts & jnp.isfinite(at.size)
        return (at.size > enough) & contracts & (at.count < MAX_CORRECTIONS)

    # Not infinity, which is what a singular matrix gives.
    much = jnp.full((), jnp.finfo(dtype).max, dtype)
    zero = jnp.zeros((), dtype)
    count = jnp.zeros((), jnp.int32)
    start = _Corrected(predicted, c, zero, much, zero, count)
    return tree_math.while_loop(going, newton, start)


def _one_curve(
    curve: Curve,
    ends: tuple[Array, Array],
    tangents: tuple[Array, Array],
    predicted: Array,
    metric: Array,
    sign: Array,
) -> Bool[Array, ""]:
    """Whether one smooth curve joins two points, with these unit tangents and this
    orientation: looked at in the middle."""
    (z0, z1), (t0, t1) = ends, tangents
    length = _length(metric, z1 - z0)
    bend = length * (t1 - t0)
    middle = (z0 + z1) / 2 - bend / 8
    along = metric * (t0 + t1)
    new = _newton(curve, middle, middle, along)
    # The curvature's share in the step, in two ways: one of them may happen to vanish.
    curved = jnp.maximum(jnp.abs(z1 - predicted), jnp.abs(bend) / 2)
    noise = _enough(z0.dtype) * jnp.maximum(_sizes(z0), _sizes(z1))
    joined = jnp.abs(new.step) <= MIDDLE * curved + noise
    return joined.all() & (new.sign == sign)


class _Walk(eqx.Module):
    z: Array
    tangent: Array
    step: Float[Array, ""]
    points: Array
    slopes: Array
    count: Int[Array, ""]
    status: BranchStatus
    going: Bool[Array, ""]


def follow_curve(
    curve: Curve,
    z: Float[Array, " N"],
    lowest: Float[Array, ""],
    step: Float[Array, ""],
    max_points: int,
    natural: bool,
) -> Trace:
    """The curve from `z`, towards larger last components, to where the last component
    is 1 or `lowest`."""
    parameter_axis = jnp.zeros_like(z).at[-1].set(1)
    first = _newton(curve, z, z, parameter_axis)
    orientation, tangent = (
        first.sign,
        first.tangent / _length(_metric(z), first.tangent),
    )
    shortest = jnp.maximum(SHORTEST * step, ROUNDING * jnp.finfo(z.dtype).eps)

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

        unit = orientation * new.sign * new.tangent / _length(metric, new.tangent)
        straight = jnp.dot(unit, metric * t) >= COSINE
        near = _length(metric, new.z - predicted) <= 0.5 * length + _enough(z.dtype)
        inside = ends | (new.z[-1] < 1) & (new.z[-1] > lowest)
        accepted = new.converged & straight & near & inside
        # Here `c . t > 0` in the middle as well, so the sign is the branch's own.
        accepted = accepted & _one_curve(
            curve, (z, new.z), (t, unit), predicted, metric, orientation
        )
        if natural:
            accepted = accepted & (unit[-1] > 0)

        factor = _growth(_length(metric, unit - t), new.contraction)
        next_step = jnp.where(accepted, at.step * factor, 0.5 * length)
        next_step = jnp.minimum(next_step, step)
        count = at.count + accepted.astype(jnp.int32)
        status = at.status
        lost = ~accepted & ~(next_step >= shortest)
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

    regular = jnp.isfinite(z).all() & jnp.isfinite(tangent).all() & (orientation != 0)
    start = _begin(z, tangent, step, max_points, regular)
    end = tree_math.while_loop(lambda at: at.going, walk, start)
    return Trace(end.points, end.slopes, end.count, end.status)


def _growth(angle: Array, contraction: Array) -> Float[Array, ""]:
    """By how much the next step may be longer: with the angle that the curve turned by,
    and how fast Newton's corrections fell (see `CONTRACTION`)."""
    factor = jnp.minimum(
        ANGLE / jnp.maximum(angle, 0.1 * ANGLE),
        jnp.sqrt(CONTRACTION / jnp.maximum(contraction, 0.1 * CONTRACTION)),
    )
    return jnp.clip(factor, 0.5, 2)


def _begin(
    z: Array, tangent: Array, step: Array, max_points: int, regular: Bool[Array, ""]
) -> _Walk:
    points = jnp.full((max_points, z.size), jnp.nan, z.dtype).at[0].set(z)
    slopes = jnp.full(max_points, jnp.nan, z.dtype)
    slopes = slopes.at[0].set(tangent[-1] / jnp.linalg.norm(tangent))
    status = BranchStatus.where(
        regular, BranchStatus.max_points_reached, BranchStatus.no_start
    )
    count = regular.astype(jnp.int32)
    return _Walk(z, tangent, step, points, slopes, count, status, regular)


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
