"""What each equation is made of, where no matrix is formed."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from implicax._core import componentwise, tree_math
from implicax._core.tree_math import Vector
from implicax._problems.equations import System


def equation_sizes(system: System, y: Vector, residual: Vector) -> Vector:
    """What each equation is made of, from products alone.

    `|y|` for a fixed point. Otherwise the largest of `|J S |y||` over a few patterns
    `S` of signs, one for each bit of an index: any two unknowns differ in one of them,
    so that they do not cancel in all. Without a forward mode, a difference of
    residuals.
    """
    y = jax.lax.stop_gradient(y)
    if system.fixed_point:
        return componentwise.sizes(y)
    if system.reverse_only:
        step = tree_math.coarsest_eps(y) ** 0.5
        there = system.residual(jax.tree.map(lambda x: x * (1 + step), y))
        change = tree_math.subtract(there, residual)
        return jax.tree.map(lambda x: jnp.abs(x) / step, change)
    _, push = jax.linearize(system.residual, y)
    leaves, treedef = jax.tree.flatten(y)
    starts = [sum(leaf.size for leaf in leaves[:k]) for k in range(len(leaves))]

    def pattern(bit: Array) -> Vector:
        def signed(leaf: Array, start: int) -> Array:
            index = jnp.arange(leaf.size, dtype=jnp.int32).reshape(leaf.shape) + start
            return jnp.where((index >> bit) & 1 == 1, -jnp.abs(leaf), jnp.abs(leaf))

        return treedef.unflatten(map(signed, leaves, starts))

    def larger(carry: tuple[Array, Vector]) -> tuple[Array, Vector]:
        bit, largest = carry
        changes = componentwise.sizes(push(pattern(bit)))
        return bit + 1, jax.tree.map(jnp.maximum, largest, changes)

    # (The bit above the highest one gives equal signs.)
    bits = tree_math.num_unknowns(y).bit_length()
    first = jnp.zeros((), jnp.int32), tree_math.zeros_like(residual)
    return tree_math.while_loop(lambda carry: carry[0] <= bits, larger, first)[1]
