"""When is an equation solved?

When the estimated error of *each* unknown is small, relative to that unknown. The error
is a correction, `J^-1 F` or the best estimate of it that a method has. Corrections do
not change when equations are mixed or multiplied by constants (affine covariance:
Deuflhard, *Newton Methods for Nonlinear Problems*, ch. 2), and relative to `|y_i|`,
component by component, not when unknowns are. How large the residual was at the start,
or is in the largest equation, decides nothing.

Two things have no scale of their own:

- *zero*: a component is settled there when it, and its correction, are below `eps^1.5`
  times the largest `|y_i|` on the way;
- *rounding*: `F` is as small as it can be computed, in every row, at
  `|F_i| <= n eps (|J| |y|)_i`, with `n` entries in a row of `J` (componentwise backward
  error: Oettli & Prager 1964; Skeel 1980); or corrections have ceased to fall, and are
  small, or lost in the last digits of what the unknown was on the way, with a Jacobian
  that stays the same.
"""

import functools
import operator

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from implicax._core import componentwise, tree_math
from implicax._core.componentwise import eps
from implicax._core.solution import Status
from implicax._core.tree_math import DENSE_LIMIT, Vector
from implicax._linear.lu import LUFactors, factorise
from implicax._linear.matrix import magnitude, num_terms
from implicax._linear.sparse_lu import SparseLU
from implicax._problems.equations import Iterate, System
from implicax._solvers.equation_sizes import equation_sizes

#: Below `eps**SETTLED` of the largest value on the way an unknown is zero. (`eps` is
#: reached by chance from far starts, `eps**2` takes Newton's method at a double root
#: 100 steps.)
SETTLED = 1.5
#: A correction is trusted as the error where the next one is at most half of it
#: (natural monotonicity: Deuflhard, sec. 3.3).
MONOTONE = 0.5
#: Up to here an exact correction costs less than what led to it.
CONFIRMED = 40
#: The last correction of somebody else's answer takes a factorisation up to here.
EXAMINED = 512
#: Where nothing is left to gain, errors up to `eps` to this power are the rounding of
#: `fn` itself (6e-6 in float64).
FLOOR = 1 / 3
#: An unknown below so many `eps` of the largest value on the way may be zero.
LOST = 100.0
#: Steps that rounding errors make do not change the Jacobian by more than this part.
STRAIGHT = 0.01
#: ... and of such a step more than this part is still to be taken after it.
LEFT = 0.01
#: Somebody else's answer must be right to `eps` to this power (5e-7 in float64): those
#: who iterate on their own stop at `sqrt(eps)` of something.
STRANGERS = 0.4

#: What is compared, component by component.
Pair = tuple[Vector, Vector]


class Tolerance(eqx.Module):
    """How many digits of each unknown are asked for.

    `rtol` is the relative error that each unknown may have; `None` means `eps` to the
    power of `precision`, for the `eps` of its own leaf.
    """

    rtol: Float[Array, ""] | None
    precision: float = eqx.field(static=True)

    def of(self, leaf: Array) -> Array | float:
        if self.rtol is None:
            return eps(leaf) ** self.precision
        return jax.lax.stop_gradient(self.rtol).astype(leaf.dtype)

    def units(self, error: Vector, y: Vector, reach: Vector) -> Float[Array, ""]:
        """The largest error in units of what is allowed: solved at one, and below."""
        return componentwise.ratio(*self.to_allowed(error, y, reach))

    def to_allowed(self, error: Vector, y: Vector, reach: Vector) -> Pair:
        """The error, without that of unknowns that are zero, and what is allowed."""
        allowed = jax.tree.map(lambda y: self.of(y) * jnp.abs(y), y)
        return unsettled(error, y, reach), allowed


def unsettled(error: Vector, y: Vector, reach: Vector) -> Vector:
    """The error, without that of unknowns that are zero."""

    def keep(error: Array, y: Array, reach: Array) -> Array:
        error, floor = jnp.abs(error), eps(reach) ** SETTLED * reach
        return jnp.where(jnp.maximum(error, jnp.abs(y)) <= floor, 0, error)

    return jax.lax.stop_gradient(jax.tree.map(keep, error, y, reach))


def visible(error: Vector, y: Vector, reach: Vector) -> Vector:
    """The error, without that of unknowns which are lost, as it is, in the last digits
    of what they were on the way: of those `fn` may not know more, where it holds a
    constant that they cancel against."""

    def keep(error: Array, y: Array, reach: Array) -> Array:
        lost = jnp.maximum(error, jnp.abs(y)) <= LOST * eps(reach) * reach
        return jnp.where(lost, 0, error)

    return jax.tree.map(keep, componentwise.sizes(error), y, reach)


def to_own(error: Vector, y: Vector, reach: Vector) -> Pair:
    """The error, without that of unknowns that are zero, and the unknowns."""
    return unsettled(error, y, reach), y


def relative(error: Vector, y: Vector, reach: Vector) -> Float[Array, ""]:
    """The largest error relative to its unknown."""
    return componentwise.ratio(*to_own(error, y, reach))


def halved(first: Array, second: Array) -> Bool[Array, ""]:
    """Whether the second of two corrections is at most half of the first: both as the
    largest component, relative to the unknowns."""
    return (second == 0) | (jnp.isfinite(first) & (second <= MONOTONE * first))


def rounded(
    residual: Vector, y: Vector, rows: Float[Array, " n"], terms: int
) -> Bool[Array, ""]:
    """Whether every equation is at its rounding error: a sum of so many terms, whose
    sizes add up to `rows`, `|J| |y|`."""
    flat, _ = tree_math.ravel(jax.lax.stop_gradient(residual))
    small = jnp.abs(flat) <= terms * tree_math.coarsest_eps(y) * rows
    return (small & jnp.isfinite(rows)).all()


#: Where a Jacobian is singular at the solution Newton's corrections fall to a half, two
#: thirds, ... of the last, and what the same Jacobian sees left is 1/4, 8/27, ..., 1/e
#: of a correction: `(1 - 1/m)^m` at a root of multiplicity `m`.
MULTIPLE = (0.2, 0.4)
#: ... while the Jacobian falls to 1/2, 4/9, ..., 1/e of what it was.
BENT = 0.25


class Evidence(eqx.Module):
    """What two corrections with one Jacobian say of an answer."""

    iterate: Iterate
    """Where the first correction leads."""
    correction: Vector
    """The first, the error of the answer; ..."""
    remainder: Vector
    """... the second, the error of `iterate`."""
    factor: LUFactors | SparseLU
    rows: Float[Array, " n"]
    """What each equation is made of, `|J| |y|`, ..."""
    small: Bool[Array, ""]
    """... and whether every one is at its rounding error."""
    trusted: Bool[Array, ""]
    """Whether the corrections fall, or are at the square root of rounding already."""
    multiple: Bool[Array, ""]
    """Whether they fall as they do at a singular solution, above rounding."""
    singular: Bool[Array, ""]
    """Whether rounding errors of the equations leave `y` undetermined, ..."""
    loose: Bool[Array, ""]
    """... those of a fixed point, which is never known better than `eps |y|`."""
    still: Bool[Array, ""]
    """Whether the correction is one that rounding errors make: visible in no unknown,
    of no use, and with the same Jacobian after it."""

    @property
    def wrong_sparsity(self) -> Bool[Array, ""] | None:
        """Whether the Jacobian has other places than its pattern says, if it has one:
        then there is no correction."""
        if not isinstance(self.factor, SparseLU):
            return None
        return ~self.factor.matrix.faithful


def examine(system: System, answer: Iterate, reach: Vector) -> Evidence:
    """Correct an answer, twice, with the Jacobian at it."""
    if system.sparsity is None:
        matrix = system.jacobian(answer.y)
        factor = factorise(matrix)
    else:
        matrix = system.sparse_jacobian(answer.y)
        factor = SparseLU.of(matrix)
    coarsest, rows = tree_math.coarsest_eps(answer.y), magnitude(matrix, answer.y)
    _, unravel = tree_math.ravel(answer.residual)
    # The correction, and what rounding errors of the equations make of one, about.
    own = jax.tree.map(lambda y: eps(y) * jnp.abs(y), answer.y)
    sources = answer.residual, unravel(coarsest * rows), own
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *sources)
    solve = functools.partial(factor.solve, transposed=False)
    solved = jax.vmap(solve)(together)
    columns = (jax.tree.map(operator.itemgetter(k), solved) for k in range(3))
    correction, noise, own = columns
    small = rounded(answer.residual, answer.y, rows, num_terms(matrix))
    iterate = system.evaluate(tree_math.subtract(answer.y, correction))
    remainder = solve(iterate.residual)
    made, undone = map(componentwise.sizes, (correction, remainder))
    # (What a correction has mended was no rounding error, however small.)
    unexplained = jax.tree.map(
        lambda seen, made, undone: jnp.where(undone < LEFT * made, made, seen),
        visible(jax.tree.map(jnp.maximum, made, undone), answer.y, reach),
        made,
        undone,
    )
    moved, left, unknown, loose, first, second, floor, seen = componentwise.ratios(
        *corrections(answer.y, correction, iterate.y, remainder, reach),
        to_own(noise, answer.y, reach),
        to_own(own, answer.y, reach),
        # (Relative to the largest on the way: the solution may be zero.)
        (correction, reach),
        (remainder, reach),
        (noise, reach),
        (unexplained, answer.y),
    )
    near = (first <= coarsest**0.25) & (first > 10 * floor)
    low, high = MULTIPLE
    multiple = near & (second >= low * first) & (second <= high * first)
    # So do the rounding errors of `F`, by chance; but at a singular solution the
    # Jacobian changes over the correction by as much as it is.
    _, change = jax.jvp(system.residual, (iterate.y,), (remainder,))
    bend, unbent = componentwise.ratios(
        (tree_math.subtract(change, iterate.residual), unravel(rows)),
        (iterate.residual, unravel(rows)),
    )
    return Evidence(
        iterate,
        correction,
        remainder,
        factor,
        rows,
        small,
        trusted=believable(moved, left, coarsest),
        multiple=multiple & (bend >= BENT * unbent),
        singular=factor.singular | ~(unknown <= coarsest**FLOOR),
        loose=factor.singular | ~(loose <= coarsest**FLOOR),
        still=(seen <= coarsest**FLOOR) & (bend <= STRAIGHT * unbent),
    )


def natural(
    old: Vector, correction: Vector, new: Vector, remainder: Vector, reach: Vector
) -> Bool[Array, ""]:
    """Whether a correction that led from `old` to `new` left half of itself at most; or
    was in the rounding errors."""
    pairs = corrections(old, correction, new, remainder, reach)
    moved, left = componentwise.ratios(*pairs)
    return believable(moved, left, tree_math.coarsest_eps(old))


def corrections(
    old: Vector, correction: Vector, new: Vector, remainder: Vector, reach: Vector
) -> tuple[Pair, Pair]:
    """A correction from `old` to `new`, and what is left of it, to be compared with the
    larger of both."""
    size = jax.tree.map(jnp.maximum, *map(componentwise.sizes, (old, new)))
    return to_own(correction, size, reach), to_own(remainder, size, reach)


def believable(moved: Array, left: Array, eps: float) -> Bool[Array, ""]:
    """Whether a correction by `moved` left half of itself at most, or was in the
    rounding errors."""
    return halved(moved, left) | ((moved <= eps**0.5) & (left <= eps**0.5))


class Confirmation(eqx.Module):
    """What an exact correction says of an iterate that a method believes in."""

    solved: Bool[Array, ""]
    singular: Bool[Array, ""]
    """Whether the rounding errors of `F` alone leave `y` undetermined."""
    degenerate: Bool[Array, ""]
    """Whether it is a solution at which the Jacobian is singular."""
    error: Float[Array, ""]
    """The largest relative error of an unknown."""
    units: Float[Array, ""]
    """The largest error in units of what is allowed."""
    wrong_sparsity: Bool[Array, ""] | None
    """Whether the Jacobian has other places than its pattern says, if it has one."""


def confirm(
    system: System,
    answer: Iterate,
    reach: Vector,
    tolerance: Tolerance,
    believed: Bool[Array, ""],
    idle: Bool[Array, ""],
    near: Bool[Array, ""],
) -> Confirmation:
    """Whether an iterate is a solution, by one exact correction.

    `believed`: whether the method says so. `idle`: whether it can get no further, so
    that a small correction is the rounding of `fn` itself. `near`: whether it has not
    run off; where the Jacobian is singular (a free direction, or a map that creeps to
    infinity) there is no correction, and that decides.
    """
    seen = examine(system, answer, reach)
    y, correction = answer.y, seen.correction
    units, error = componentwise.ratios(
        tolerance.to_allowed(correction, y, reach), to_own(correction, y, reach)
    )
    floor = idle & ((error <= tree_math.coarsest_eps(y) ** FLOOR) | seen.still)
    singular = seen.loose if system.fixed_point else seen.factor.singular
    solved = (seen.trusted & ((units <= 1) | seen.small)) | floor
    solved = jnp.where(singular, believed | seen.small, solved) & (near | ~singular)
    error = jnp.where(singular, jnp.inf, error)
    solved = solved & jnp.isfinite(answer.norm)
    wrong = seen.wrong_sparsity
    if wrong is not None:
        solved = solved & ~wrong
    degenerate = solved & seen.multiple & ~singular
    solved = solved & ~degenerate
    return Confirmation(solved, singular, degenerate, error, units, wrong)


def judge_equations(
    system: System, v0: Vector, v: Vector, tolerance: Tolerance, atol: Array | None
) -> tuple[Iterate, Status, Float[Array, ""]]:
    """Whether somebody else's answer `v` solves the equations, and its error.

    Each unknown must be right to the tolerance by the correction that the Jacobian at
    `v` asks for. Beyond 512 unknowns no matrix is formed, unless it is a sparse one:
    each equation must hold to it, relative to what it is made of.
    """
    answer = system.evaluate(v)
    start = componentwise.sizes(v0)
    reach = componentwise.grown(start, v)
    few = tree_math.num_unknowns(v) <= EXAMINED or system.sparsity is not None
    refused = Status.not_solved
    if few and not system.reverse_only:
        seen = examine(system, answer, reach)
        error = _unless_zero(seen.correction, v, start, tolerance)
        units = tolerance.units(error, v, reach)
        solved = seen.trusted & ((units <= 1) | seen.small)
        # Where the Jacobian is singular there is no correction: each equation decides.
        made_of = tree_math.ravel(answer.residual)[1](seen.rows)
        held = tolerance.units(answer.residual, made_of, reach) <= 1
        solved = jnp.where(seen.singular, held, solved & ~seen.multiple)
        wrong = seen.wrong_sparsity
        if wrong is not None:
            solved = solved & ~wrong
            refused = Status.where(wrong, Status.wrong_sparsity, refused)
        known = relative(error, v, reach)
    else:
        size = equation_sizes(system, v, answer.residual)
        known = relative(answer.residual, size, reach)
        solved = tolerance.units(answer.residual, size, reach) <= 1
    solved, known = solved | (answer.norm == 0), jnp.where(answer.norm == 0, 0, known)
    if atol is not None:
        solved = solved | (answer.norm <= atol.astype(answer.norm.dtype))
    solved = solved & jnp.isfinite(answer.norm)
    return answer, Status.where(solved, Status.converged, refused), known


def _unless_zero(
    error: Vector, v: Vector, start: Vector, tolerance: Tolerance
) -> Vector:
    """Of an answer nothing is known but where it started: an unknown that has lost all
    the digits that are asked for is zero."""

    def keep(error: Array, v: Array, start: Array) -> Array:
        least = tolerance.of(v) * start
        zero = (jnp.abs(v) <= least) & (jnp.abs(error) <= least)
        return jnp.where(zero, 0, error)

    return jax.tree.map(keep, error, v, start)


def examinable(system: System, y: Vector, forms_jacobian: bool) -> bool:
    """Whether an exact correction at the end costs little."""
    limit = DENSE_LIMIT if forms_jacobian else CONFIRMED
    able = not (system.reverse_only or system.differentiable)
    few = tree_math.num_unknowns(y) <= limit or system.sparsity is not None
    return able and few and system.objective is None
