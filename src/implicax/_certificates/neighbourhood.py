"""What a function does close to a point: what rounding makes of it, and whether it is
smooth.

A few evaluations, each of the function and of its derivative along a direction `p` in
no special position, `p_i` a small part of the unit of the `i`th unknown.

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
import numpy as np
from jaxtyping import Array, Bool, PyTree

from implicax._core import tree_math
from implicax._core.componentwise import eps, every
from implicax._core.noise import noise
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
    # All unknowns as large as the largest: what one that is zero cancels against.
    largest = tree_math.max_norm(unit)
    directions = [
        _directions(leaf, near, largest, seed)
        for seed, (leaf, near) in enumerate(
            zip(*map(jax.tree.leaves, (unit, distance)), strict=True)
        )
    ]
    treedef = jax.tree.structure(unit)
    points, displacements = (
        jax.tree.unflatten(treedef, leaves) for leaves in zip(*directions, strict=True)
    )

    def at(point: tuple[Vector, Vector]) -> Any:
        displacement, p = point
        return evaluate(tree_math.add(y, displacement), p)

    # One by one: a large problem has no memory for all of them.
    values, slopes = jax.lax.map(at, (displacements, points))
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


def _directions(
    unit: Array, distance: Array, largest: Array, seed: int
) -> tuple[Array, Array]:
    """The direction of each evaluation, and the displacement along it, in the order in
    which `_smooth` takes them apart."""
    even = jnp.full_like(unit, largest)
    sizes = jnp.stack([even] + SAMPLES * [unit] + DIRECTIONS * [distance])
    random = sizes * noise(sizes.shape, sizes.dtype, seed)
    rough = range(1, 1 + SAMPLES)
    near = range(1 + SAMPLES, 1 + SAMPLES + DIRECTIONS)
    places = np.asarray([0, 1, *rough, *(4 * [*near])])
    digits = LAST_PLACES * eps(unit)
    apart = np.repeat([1.0, -1.0, FARTHER, -FARTHER], DIRECTIONS)
    times = np.asarray([0.0, 0.0, *(SAMPLES * [digits]), *apart], unit.dtype)
    directions = random[places]
    return directions, directions * times.reshape(-1, *(1,) * unit.ndim)
