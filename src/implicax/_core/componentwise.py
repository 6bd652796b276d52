"""Sizes component by component: a number for each unknown, in its own unit.

A norm adds up metres and seconds. What decides whether an equation is solved must not:
here an error is compared with the size of *its own* unknown, and with the rounding unit
of its own leaf. Multiplying an unknown, or an equation, by a constant changes nothing.

All sizes are pytrees like the unknown, without a derivative.
"""

import functools
import operator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from implicax._core import tree_math
from implicax._core.tree_math import Vector


def sizes(x: Vector) -> Vector:
    """`|x_i|`."""
    return jax.tree.map(jnp.abs, jax.lax.stop_gradient(x))


def grown(reach: Vector, y: Vector) -> Vector:
    """The largest `|y_i|` on the way, with one more iterate. (NaN does not count.)"""

    def larger(old: Array, new: Array) -> Array:
        return jnp.maximum(old, jnp.where(jnp.isnan(new), 0, new))

    return jax.tree.map(larger, reach, sizes(y))


def eps(leaf: Array) -> float:
    """The rounding unit of a leaf."""
    return float(jnp.finfo(leaf.dtype).eps)


def quotients(d: Vector, y: Vector) -> Vector:
    """`d_i / |y_i|`, with `0 / 0 = 0`."""

    def quotient(d: Array, y: Array) -> Array:
        return d / jnp.maximum(jnp.abs(y), jnp.finfo(y.dtype).tiny)

    return jax.lax.stop_gradient(jax.tree.map(quotient, d, y))


def ratio(d: Vector, y: Vector) -> Float[Array, ""]:
    """The largest `|d_i| / |y_i|`; infinite where one is not a number."""
    return _known(tree_math.max_norm(quotients(d, y)))


def ratios(*pairs: tuple[Vector, Vector]) -> tuple[Float[Array, ""], ...]:
    """`ratio` of each pair, in one reduction: what a compiler has to make of several is
    a good part of a small program."""
    return tuple(stacked_ratios(*pairs))


def stacked_ratios(*pairs: tuple[Vector, Vector]) -> Float[Array, " k"]:
    """The same as one array."""
    dtype, largest = tree_math.working_dtype(pairs), []
    for leaves in zip(*(jax.tree.leaves(quotients(*p)) for p in pairs), strict=True):
        stacked = jnp.stack(leaves)
        axes = tuple(range(1, stacked.ndim))
        largest.append(tree_math.max_abs(stacked, axes).astype(dtype))
    return _known(functools.reduce(jnp.maximum, largest))


def _known(largest: Array) -> Array:
    return jnp.where(jnp.isnan(largest), jnp.inf, largest)


def every(x: PyTree[Bool[Array, "..."]]) -> Bool[Array, ""]:
    """Whether all entries of a pytree of truth values hold."""
    parts = [leaf.all() for leaf in jax.tree.leaves(x)]
    return functools.reduce(operator.and_, parts)
