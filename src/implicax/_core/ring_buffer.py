"""A ring of the last `m` vectors: the memory of Anderson's and Broyden's methods."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicax._core import tree_math
from implicax._core.tree_math import Vector


def check_history(history: int) -> None:
    if not isinstance(history, int) or isinstance(history, bool) or history < 1:
        raise ValueError(f"history must be a positive integer, not {history!r}.")


def empty_ring(m: int, like: Vector) -> Vector:
    """`m` slots of zeros, on a new leading axis of each leaf."""
    # From the leaf, so that the slots are laid out over devices as it is.
    return jax.tree.map(
        lambda leaf: jnp.broadcast_to(jnp.zeros_like(leaf)[None], (m, *leaf.shape)),
        like,
    )


def store(ring: Vector, slot: Array, x: Vector) -> Vector:
    update = jax.lax.dynamic_update_index_in_dim
    return jax.tree.map(lambda leaf, new: update(leaf, new, slot, 0), ring, x)


def project(ring: Vector, x: Vector) -> Float[Array, " m"]:
    """The inner products of the slots with one vector."""
    return jax.vmap(lambda slot: tree_math.dot(slot, x))(ring)


def combine(weights: Float[Array, " m"], ring: Vector) -> Vector:
    """The linear combination of the slots."""
    return jax.tree.map(
        lambda leaf: jnp.tensordot(weights.astype(leaf.dtype), leaf, axes=1), ring
    )
