"""The verdict on a solution of a composite problem, and whether it has a kink there."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from implicax._core import componentwise, tree_math
from implicax._core.domain import View
from implicax._core.solution import Status
from implicax._core.tree_math import DENSE_LIMIT, Vector
from implicax._linear.lu import factorise, materialize
from implicax._linear.matrix import magnitude
from implicax._problems.composite import ahead, scalings
from implicax._problems.equations import System
from implicax._solvers.composite.base import Split
from implicax._solvers.loop import SolverResult
from implicax._solvers.termination import Tolerance, believable

#: Digits of each unknown, as a power of `eps`.
PRECISION = 0.8
#: A kink nearer than `eps` to this power of the point is one at the solution.
KINK = 0.5
#: Below so many `eps` of what it is made of a number may be zero.
LOST = 100.0
#: A kink changes a derivative by more than this part.
BENT = 0.1
#: A direction is one of descent where the curvature is below minus `eps` to this power.
DOWNHILL = 0.5
#: Rounding errors may make errors up to `eps` to this power (5e-7 in float64).
ROUNDED = 0.4


def examined(
    split: Split,
    system: System,
    view: View,
    found: SolverResult,
    length: Array,
    rtol: Array | None,
) -> tuple[Status, Float[Array, ""]]:
    """Whether `found` solves the equation, and the largest relative error.

    By the correction that the Jacobian asks for, per unknown. What the equation is made
    of is `y` and a step along the gradient, and it knows neither better than to its
    rounding errors: an unknown that is lost in them is zero; and where they leave
    unknowns undetermined (directions that nothing sees, or units so far apart that one
    step length is too short for some) it decides nothing.
    """
    v = found.y
    if tree_math.num_unknowns(v) > DENSE_LIMIT:
        return found.status, found.stats.error
    point, tolerance = _point(split, view, v, length), Tolerance(rtol, PRECISION)
    made_of = jax.tree.map(
        lambda y, x: jnp.maximum(jnp.abs(y), jnp.abs(x - y)), *(v, point)
    )
    matrix = system.jacobian(v)
    factor = factorise(matrix)

    def solve(residual: Vector) -> Vector:
        return factor.solve(residual, transposed=False)

    correction = solve(system.residual(v))
    remainder = solve(system.residual(tree_math.subtract(v, correction)))
    vague = solve(_noise(matrix, v, made_of))

    def allowed(digits: Callable[[Array], Any]) -> Vector:
        def of(y: Array, made_of: Array) -> Array:
            lost = LOST * componentwise.eps(y) * made_of
            return jnp.maximum(digits(y) * jnp.abs(y), lost)

        return jax.tree.map(of, v, made_of)

    def seen(d: Array, made_of: Array) -> Array:
        lost = jnp.abs(d) <= LOST * componentwise.eps(d) * made_of
        return jnp.where(lost, 0, d)

    units, unknown, first, second, error, rounded = componentwise.ratios(
        (correction, allowed(tolerance.of)),
        (vague, allowed(lambda y: componentwise.eps(y) ** ROUNDED)),
        (correction, made_of),
        (remainder, made_of),
        (jax.tree.map(seen, correction, made_of), v),
        (jax.tree.map(seen, vague, made_of), v),
    )
    falls = believable(first, second, tree_math.coarsest_eps(v))
    solved = (units <= 1) & falls & jnp.isfinite(found.stats.residual_norm)
    lost = factor.singular | ~(unknown <= 1)
    downhill = _has_descent(split, view, matrix, point, length)
    status = Status.where(solved, Status.converged, Status.stagnated)
    status = Status.where(solved & downhill, Status.saddle, status)
    status = Status.where(lost, Status.singular, status)
    error = jnp.maximum(error, rounded)
    return status, jnp.where(status == Status.converged, error, jnp.inf)


def _noise(matrix: Array, v: Vector, made_of: Vector) -> Vector:
    """Rounding errors of the equation, with signs as they may come."""
    signs = jax.random.rademacher(jax.random.key(1), (len(matrix),), matrix.dtype)
    rows = tree_math.ravel(v)[1](signs * magnitude(matrix, v))

    def noise(rows: Array, made_of: Array) -> Array:
        return componentwise.eps(rows) * (rows + jnp.sign(rows) * made_of)

    return jax.tree.map(noise, rows, made_of)


def _point(split: Split, view: View, v: Vector, length: Array) -> Vector:
    """What the proximal operator is taken of."""
    y = view.from_real(v)
    slope = jax.grad(lambda y: split.smooth.output(y, split.inputs[0]))(y)
    return view.to_real(ahead(y, slope, length, split.units))


def _proximal(split: Split, view: View, length: Array, x: Vector) -> Vector:
    point = view.from_real(x), scalings(length, split.units)
    return view.to_real(split.prox.output(point, split.inputs[1]))


def _has_descent(
    split: Split, view: View, jacobian: Array, point: Vector, length: Array
) -> Bool[Array, ""]:
    """Whether the objective falls to the sides of a solution of the equation.

    With `D` the derivative of the proximal operator, symmetric and between zero and
    one, and `J = I - D (I - t H)` that of the equation, `J D = (I - D) D + t D H D` is
    symmetric, and has a negative eigenvalue if and only if there is a direction of
    negative curvature that the operator lets through. (With a length for each unknown,
    so in their units.)
    """
    product = jax.linearize(lambda x: _proximal(split, view, length, x), point)[1]
    matrix = jacobian @ materialize(product, point)
    if split.units is not None:
        units, _ = tree_math.ravel(view.to_real(split.units))
        matrix = matrix * units[None] / units[:, None]
    matrix = (matrix + matrix.T) / 2
    size = jnp.abs(matrix).max()
    # Positive definite, with that much on the diagonal, if it can be factorised.
    shift = tree_math.coarsest_eps(point) ** DOWNHILL * jnp.where(size > 0, size, 1)
    factor = jnp.linalg.cholesky(
        matrix + shift * jnp.eye(len(matrix), dtype=size.dtype)
    )
    return ~jnp.isfinite(factor).all()


def has_kink(split: Split, view: View, v: Vector, length: Array) -> Bool[Array, ""]:
    """Whether the proximal operator has another derivative on both sides of its point.

    A kink is along a surface through it; so two points on a line through it, in a
    direction that nothing is known of, are on two sides.
    """
    point = _point(split, view, v, length)
    eps = tree_math.coarsest_eps(v)
    size = tree_math.max_norm(point)
    size = jnp.where(size > 0, size, 1)
    keys = iter(jax.random.split(jax.random.key(0), 4 * len(point)))

    def anything(leaf: Array) -> Array:
        signs = jax.random.rademacher(next(keys), leaf.shape, leaf.dtype)
        return signs * jax.random.uniform(next(keys), leaf.shape, leaf.dtype, 0.5, 1.0)

    def toward(leaf: Array) -> Array:
        near = eps**KINK * jnp.abs(leaf)
        return anything(leaf) * jnp.maximum(near, LOST * eps * size.astype(leaf.dtype))

    move, along = jax.tree.map(toward, point), jax.tree.map(anything, point)

    def derivative(x: Vector) -> Vector:
        return jax.jvp(lambda x: _proximal(split, view, length, x), (x,), (along,))[1]

    above = derivative(tree_math.add(point, move))
    below = derivative(tree_math.subtract(point, move))
    return tree_math.max_norm(tree_math.subtract(above, below)) > BENT
