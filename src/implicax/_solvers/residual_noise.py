"""How large the rounding errors of a residual are: tried, not derived.

Terms may cancel inside `fn` that no derivative shows: a stress is `mu F - mu F^-T`, of
the order of `mu` each, however small the displacements. What `F` makes of a change in
the last digits of the unknowns has such errors in it, and nobody evaluates `F` better
(More & Wild 2011, *Estimating computational noise*, have the statistics of it).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from implicax._core import componentwise, tree_math
from implicax._core.noise import noise
from implicax._problems.equations import Iterate, System

#: So many changes are tried, each by so many units in the last place.
SAMPLES, DIGITS = 4, 2
#: By chance an equation changes little each time: one of ten millions, about, by less
#: than this part of what is usual, all four times.
CHANCE = 100.0


def lost_in_noise(
    system: System, iterate: Iterate, needed: Bool[Array, ""]
) -> tuple[Bool[Array, ""], Int[Array, ""]]:
    """Whether every equation is at its rounding error, by trial; and how many
    evaluations that took: none where it is not `needed`."""
    flat, unravel = tree_math.ravel(jax.lax.stop_gradient(iterate.y))
    here, _ = tree_math.ravel(jax.lax.stop_gradient(iterate.residual))
    last = jax.tree.map(lambda y: DIGITS * componentwise.eps(y) * jnp.abs(y), iterate.y)
    last, _ = tree_math.ravel(jax.lax.stop_gradient(last))
    ways = [last * noise(flat.shape, flat.dtype, seed) for seed in range(SAMPLES)]

    def image(v: Array) -> Array:
        return tree_math.ravel(system.residual(unravel(v)))[0]

    # A loop of one round, whose point depends on the carry: see ARCHITECTURE.md.
    def look(carry: tuple) -> tuple:
        point = jnp.where(carry[0], flat, jnp.nan)
        found = jax.vmap(image)(point[None, :] + jnp.stack(ways))
        changes = jnp.max(jnp.abs(found - here[None, :]), axis=0)
        return jnp.zeros((), bool), jnp.all(jnp.abs(here) <= CHANCE * changes)

    entry = needed, jnp.zeros((), bool)
    _, lost = tree_math.while_loop(lambda carry: carry[0], look, entry)
    return lost, jnp.where(needed, SAMPLES, 0).astype(jnp.int32)
