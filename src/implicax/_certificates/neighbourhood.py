"""What a function does close to a point: what rounding makes of it, and whether it is
smooth.

A few evaluations, each of the function and of its derivative along a direction `p` of
random entries, `p_i` a small part of the unit of the `i`th unknown.

*Rounding.* A value is zero to working precision where it is no larger than what it
changes by when the unknown changes in its last digits. That holds both what the digits
of the unknown leave, `eps |J| |y|`, and the rounding errors of the function itself.

*Smoothness.* From one side of `y` to the other, the derivative along `p` changes by
`2 f''(y) p^2` if `f` is smooth: next to nothing, and four times that over four times
the distance. At a kink it changes by a part of itself, whatever the distance. And `f`
changes by the integral of its derivative, to rounding errors, unless it jumps; or the
derivative is not that of `f` (a `stop_gradient` in it, a rule that is wrong).
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from implicax._core import tree_math
from implicax._core.componentwise import eps, every
from implicax._core.tree_math import Vector

#: `f` and its derivative along `p`, as a function of `y` and `p`.
Evaluate = Callable[[Vector, Vector], tuple[PyTree[Array], PyTree[Array]]]

#: Directions along which smoothness is looked at.
DIRECTIONS = 2
#: Evaluations that measure rounding.
SAMPLES = 4
#: A change of a few units in the last place is a change, whatever the number.
LAST_PLACES = 4
#: How far rounding errors may exceed those measured by that.
MARGIN = 16.0
#: At a kink the derivative changes by more than this part of itself, ...
KINK = 1e-3
#: ... by nearly as much over one distance as over this multiple of it.
FARTHER = 4


class Neighbourhood(eqx.Module):
    """What was seen around a point."""

    changes: PyTree[Array]
    """By how much `f` changes in the last digits: a few times, on a leading axis."""
    smooth: Bool[Array, ""]
    """Whether neither a kink nor a jump was seen."""


def look_around(
    evaluate: Evaluate, y: Vector, unit: Vector, distance: Vector
) -> Neighbourhood:
    """Of `f` around `y`: rounding, in the last digits of the `unit` of each unknown,
    and smoothness, within about `distance`."""
    rough = [_direction(unit, k) for k in range(SAMPLES)]
    near = [_direction(distance, SAMPLES + k) for k in range(DIRECTIONS)]
    # All unknowns as large as the largest: what one that is zero cancels against.
    largest = tree_math.max_norm(unit)
    even = jax.tree.map(lambda u: jnp.full_like(u, largest), unit)
    # Displacement and direction, in the order in which `_smooth` takes them apart.
    points = [(tree_math.zeros_like(y), p) for p in (even, rough[0])]
    points += [(jax.tree.map(lambda p: LAST_PLACES * eps(p) * p, p), p) for p in rough]
    for times in (1, -1, FARTHER, -FARTHER):
        points += [(jax.tree.map(lambda p, t=times: t * p, p), p) for p in near]

    def at(point: tuple[Vector, Vector]) -> Any:
        displacement, p = point
        return evaluate(tree_math.add(y, displacement), p)

    # One by one: a large problem has no memory for all of them.
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *points)
    values, slopes = jax.lax.map(at, stacked)
    changes = jax.tree.map(lambda f: f[2 : 2 + SAMPLES] - f[:1], values)
    return Neighbourhood(changes, every(jax.tree.map(_smooth, values, slopes, changes)))


def _smooth(f: Array, slope: Array, changes: Array) -> Bool[Array, "..."]:
    """Entry by entry, of what was evaluated at all points."""
    unit, shape = eps(f), (4, DIRECTIONS, *f.shape[1:])
    right, left, _, _ = f[2 + SAMPLES :].reshape(shape)
    ahead, behind, far_ahead, far_behind = slope[2 + SAMPLES :].reshape(shape)
    bend, far_bend = jnp.abs(ahead - behind), jnp.abs(far_ahead - far_behind)
    most = jnp.maximum(jnp.abs(ahead), jnp.abs(behind))
    kink = (bend > max(KINK, unit ** (1 / 3)) * most) & (2 * bend > far_bend)
    # So large a change in the last digits is a jump, and no rounding error. (But one
    # cannot tell where all that an equation depends on is zero, and has no unit.)
    size = _largest(slope[1 : 2 + SAMPLES])
    known = size > jnp.finfo(size.dtype).tiny ** 0.25
    most_rounding = jnp.where(known, unit**0.25 * size, jnp.inf)
    rounding = jnp.minimum(_largest(changes), most_rounding)
    even = jnp.where(jnp.isfinite(slope[0]), jnp.abs(slope[0]), 0)
    rounding = MARGIN * jnp.maximum(rounding, unit * even)
    excess = jnp.abs(right - left - ahead - behind)
    jump = excess > (jnp.abs(ahead) + jnp.abs(behind)) / 2 + rounding[None]
    return jnp.isfinite(excess) & jnp.isfinite(far_bend) & ~kink & ~jump


def _largest(x: Array) -> Array:
    """Over the leading axis, a short one."""
    return jnp.max(jnp.abs(x), axis=0)


def _direction(size: Vector, seed: int) -> Vector:
    """Entries between a half and one times `size`, with random signs."""
    leaves, treedef = jax.tree.flatten(size)
    keys = jax.random.split(jax.random.key(seed), len(leaves))

    def entries(key: Array, leaf: Array) -> Array:
        x = jax.random.uniform(key, leaf.shape, leaf.dtype, -1.0, 1.0)
        return leaf * (x + jnp.where(x < 0, -1, 1)) / 2

    return jax.tree.unflatten(treedef, list(map(entries, keys, leaves)))
