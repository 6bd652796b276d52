"""Does Newton's correction lead nearer to a solution?

A first-order error bar is as good as the correction `delta = -J^-1 F(y)` that it is
made of, and far from any solution that leads nowhere in particular. Whether it leads
nearer is seen at `y + delta`: by how much smaller is the next correction, with the same
Jacobian, `-J^-1 F(y + delta)`? Deuflhard's *natural monotonicity* (*Newton Methods for
Nonlinear Problems*, 2004, sec. 2.1.1 and 3.3): it does not depend on the units of the
equations, nor, each correction relative to its own unknown, on those of the unknowns.

Of a quadratic the ratio is `h / 2` with Kantorovich's `h = |J^-1| |F''| |delta|`; it is
1/4 at a double root, and at least 1/e where `F` levels off towards infinity.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from implicax._certificates.neighbourhood import MARGIN, look_around
from implicax._core import tree_math
from implicax._core.componentwise import eps, ratio, ratios, sizes
from implicax._core.tree_math import Vector

#: Displacements at which smoothness is looked at, in `eps^(2/3)` of the unknown.
NEAR = 8


class Correction(eqx.Module):
    """Newton's correction, and how far it is to be trusted."""

    contraction: Float[Array, ""]
    """The size of the next correction relative to that of this one, each entry relative
    to its own unknown; what rounding leaves counts as zero."""
    target: Vector
    """The value after both, without what in the second is rounding."""
    smooth: Bool[Array, ""]
    """Whether the equation and the loss are, around the target."""


def newton_corrections(
    residual: Callable[[Vector], Vector],
    loss: Callable[[Vector], Array],
    correct: Callable[[Vector], Vector],
    y: Vector,
    delta: Vector,
    reaction: Vector,
) -> Correction:
    """Take the correction `delta`, and look around.

    `correct(b)` is `J^-1 b`. `reaction` is how far the solution moves when the data
    change by as much as they are: the unit of an unknown whose solution is zero.
    """

    def evaluate(v: Vector, p: Vector) -> Any:
        f, slope = jax.jvp(residual, (v,), (p,))
        value, by_v = jax.value_and_grad(loss)(v)
        return (f, value), (slope, tree_math.dot(by_v, p).astype(value.dtype))

    reaction = sizes(reaction)
    unit = jax.tree.map(_unit, sizes(y), sizes(delta), reaction)
    there = tree_math.add(y, delta)
    second = correct(residual(there))
    distance = jax.tree.map(_distance, unit, sizes(second))
    around = look_around(evaluate, tree_math.subtract(there, second), unit, distance)
    # Rounding errors of `F`, as the corrections that they make.
    noise = jax.vmap(correct)(jax.tree.map(_visible, around.changes[0]))
    rounding = jax.tree.map(_rounding, noise, sizes(y), reaction)
    left = jax.tree.map(_left, second, rounding, unit)
    first, largest = ratios((delta, unit), (left, unit))
    return Correction(
        ratio(largest, first), tree_math.subtract(there, left), around.smooth
    )


def _unit(y: Array, delta: Array, reaction: Array) -> Array:
    return y + delta + eps(y) ** (1 / 3) * reaction


def _distance(unit: Array, second: Array) -> Array:
    """How far from the target the solution may be, and a little more; but not so far
    that smooth functions bend."""
    unit = jnp.maximum(unit, jnp.finfo(unit.dtype).tiny ** 0.5)
    near = NEAR * eps(unit) ** (2 / 3) * unit
    return near + jnp.minimum(second, eps(unit) ** 0.25 * unit)


def _visible(change: Array) -> Array:
    """Changes, but for those at the lower end of the floating-point numbers: a function
    that has vanished is not zero to working precision."""
    return jnp.where(jnp.abs(change) > jnp.finfo(change.dtype).tiny, change, 0)


def _rounding(noise: Array, y: Array, reaction: Array) -> Array:
    """... and those that the last digits of the unknown and of the data make."""
    return jnp.max(jnp.abs(noise), axis=0) + eps(y) * (y + reaction)


def _left(second: Array, rounding: Array, unit: Array) -> Array:
    """Of the second correction, what is no rounding error."""
    size = jnp.abs(second)
    lost = (size <= MARGIN * rounding) & (size <= eps(unit) ** 0.25 * unit)
    return jnp.where(lost, 0, second)
