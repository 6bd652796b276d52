"""A way out of points with a singular Jacobian."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from implicax._core.tree_math import Vector

#: A move of each unknown by up to this fraction.
ESCAPE = 0.05


def displaced(y: Vector, count: Array) -> Vector:
    """A point near `y`, each unknown moved differently, and each time."""

    def displace(leaf: Array) -> Array:
        index = jnp.arange(1, leaf.size + 1, dtype=leaf.dtype).reshape(leaf.shape)
        # The golden ratio's multiples spread evenly (Knuth, TAOCP 3, sec. 6.4).
        place = jnp.mod((index + count.astype(leaf.dtype)) * 0.6180339887, 1.0)
        size = jnp.where(leaf == 0, 1, jnp.abs(leaf))
        return leaf + ESCAPE * size * (2 * place - 1)

    return jax.tree.map(displace, y)
