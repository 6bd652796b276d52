"""Vector arithmetic on tuples of real arrays.

Solvers and linear solves see the unknown as a *real vector stored in pieces*: a
pytree of real arrays. A complex leaf is two real ones (see `real_view.py`), so one
arithmetic serves every dtype, and a map that is not holomorphic needs no special case.
Pieces keep their own shape, dtype and sharding; only dense linear algebra ravels them.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PyTree

Vector = PyTree[Float[Array, "..."]]

#: Up to so many real unknowns a Jacobian is formed where nobody asked for it.
DENSE_LIMIT = 4096


def traced(x: Any) -> bool:
    """Whether `x` is an abstract value inside a JAX transformation."""
    return isinstance(x, jax.core.Tracer)


def known(tree: Any) -> bool:
    """Whether all leaves have values: not inside a transformation, nor shapes alone."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if not callable(leaf)]
    return all(eqx.is_array_like(leaf) and not traced(leaf) for leaf in leaves)


def num_unknowns(x: Vector) -> int:
    """The number of real unknowns."""
    return sum(leaf.size for leaf in jax.tree.leaves(x))


def working_dtype(x: Vector) -> jnp.dtype:
    """The widest dtype among the leaves, and at least float32 (LAPACK's narrowest)."""
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(x)] + [jnp.dtype(jnp.float32)]
    return max(dtypes, key=lambda dtype: jnp.finfo(dtype).bits)


def coarsest_eps(x: Vector) -> float:
    """The rounding unit of the least precise leaf."""
    return max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(x))


def dot(x: Vector, y: Vector) -> Float[Array, ""]:
    """The Euclidean inner product, accumulated in the working dtype."""
    dtype = working_dtype((x, y))
    terms = jax.tree.map(lambda a, b: jnp.sum(a.astype(dtype) * b.astype(dtype)), x, y)
    return functools.reduce(operator.add, jax.tree.leaves(terms))


def max_abs(x: Array, axis: int | tuple[int, ...] | None = None) -> Array:
    """The largest `|entry|`, of all or along an axis; NaN where there is one. Without a
    derivative.

    `jnp.max` loses NaN on XLA's CPU when it reduces 4096 entries or more. The bits of
    numbers that are not negative, read as integers, have the same order, with NaN above
    infinity (IEEE 754): of integers nothing is lost, and one reduction tells all. Every
    maximum that a verdict rests on is taken by this one.
    """
    sizes = jnp.abs(x)
    bits = f"int{jnp.finfo(sizes.dtype).bits}"
    largest = jnp.max(jax.lax.bitcast_convert_type(sizes, jnp.dtype(bits)), axis)
    return jax.lax.bitcast_convert_type(largest, sizes.dtype)


def max_norm(x: Vector) -> Float[Array, ""]:
    """The maximum norm: no squares, so nothing overflows or vanishes on the way."""
    dtype = working_dtype(x)
    sizes = [max_abs(leaf).astype(dtype) for leaf in jax.tree.leaves(x)]
    return functools.reduce(jnp.maximum, sizes)


def two_norm(x: Vector) -> Float[Array, ""]:
    """The Euclidean norm, scaled by the maximum norm for the same reason."""
    size = max_norm(x)
    usable = (size > 0) & jnp.isfinite(size)
    unit = jnp.where(usable, size, 1)
    scaled = jax.tree.map(lambda a: a / unit.astype(a.dtype), x)
    return unit * jnp.sqrt(dot(scaled, scaled))


def two_norms(*vectors: Vector) -> Float[Array, " k"]:
    """That of each of several alike, in one reduction: a compiler makes a kernel or two
    of each."""
    dtype = working_dtype(vectors)
    rows = [
        jnp.stack([leaf.astype(dtype) for leaf in leaves]).reshape(len(vectors), -1)
        for leaves in zip(*map(jax.tree.leaves, vectors), strict=True)
    ]
    size = functools.reduce(jnp.maximum, [max_abs(row, 1) for row in rows])
    unit = jnp.where((size > 0) & jnp.isfinite(size), size, 1)
    squares = [jnp.sum((row / unit[:, None]) ** 2, axis=1) for row in rows]
    return unit * jnp.sqrt(functools.reduce(operator.add, squares))


def scaled(t: Array, x: Vector) -> Vector:
    """`t x`, each leaf in its own dtype."""
    return jax.tree.map(lambda a: t.astype(a.dtype) * a, x)


def add(x: PyTree[Array], y: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(operator.add, x, y)


def subtract(x: PyTree[Array], y: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(operator.sub, x, y)


def where(condition: Array, x: PyTree, y: PyTree) -> PyTree:
    """Leaf by leaf `x` where the scalar `condition` holds, else `y`."""
    return jax.tree.map(lambda a, b: a if a is b else jnp.where(condition, a, b), x, y)


def zeros_like(x: Vector) -> Vector:
    return jax.tree.map(jnp.zeros_like, x)


def ravel(x: Vector) -> tuple[Float[Array, " n"], Callable[[Array], Vector]]:
    """`x` as one vector in the working dtype, and the way back."""
    leaves, treedef = jax.tree.flatten(x)
    dtype = working_dtype(x)
    shapes = [(leaf.shape, leaf.dtype, leaf.size) for leaf in leaves]
    places = [_place(leaf) for leaf in leaves]

    def unravel(flat: Array) -> Vector:
        pieces, start = [], 0
        for (shape, piece_dtype, length), place in zip(shapes, places, strict=True):
            piece = flat[start : start + length].reshape(shape).astype(piece_dtype)
            pieces.append(_put(piece, place))
            start += length
        return jax.tree.unflatten(treedef, pieces)

    pieces = [
        _put(leaf, place and NamedSharding(place.mesh, PartitionSpec()))
        .astype(dtype)
        .reshape(-1)
        for leaf, place in zip(leaves, places, strict=True)
    ]
    return (pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces)), unravel


def _place(leaf: Array) -> NamedSharding | None:
    """How `leaf` is spread over a mesh that wants to be told of every move."""
    place: Any = jax.typeof(leaf).sharding
    explicit = isinstance(place, NamedSharding) and any(
        kind == AxisType.Explicit for kind in place.mesh.axis_types
    )
    return place if explicit else None


def _put(leaf: Array, place: NamedSharding | None) -> Array:
    return leaf if place is None else jax.sharding.reshard(leaf, place)


def while_loop(
    going: Callable[[Any], Array], step: Callable[[Any], Any], first: Any
) -> Any:
    """`jax.lax.while_loop`, inside `jax.shard_map` too.

    There a carry says over which axes of the mesh it varies, and must say the same
    after each step: so all of it varies as its most varied part does.
    """
    if not inside_shard_map():
        return jax.lax.while_loop(going, step, first)

    def like_the_first(carry: Any) -> Any:
        return varied((step(carry), carry))[0]

    return jax.lax.while_loop(going, like_the_first, varied(first))


def once(function: Callable[[Any], Any], x: Any) -> Any:
    """`function(x)`, computed once.

    A compiler copies arithmetic into each of its readers, and copies may differ in
    their rounding errors: then a number is zero for one reader, and for another it is
    not. What a loop returns it computes once, and this is a loop of one round.
    """

    def only(carry: Any) -> Any:
        return ~carry[0], function(x)

    shapes = jax.eval_shape(function, x)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return while_loop(lambda carry: carry[0], only, (jnp.ones((), bool), zeros))[1]


@jax.custom_batching.custom_vmap
def in_any_lane(flag: Array) -> Array:
    """Whether a flag holds in any lane of the `vmap`s around: one answer for all."""
    return flag


@in_any_lane.def_vmap
def _in_any_lane(axis_size: int, batched: list[bool], flags: Any) -> Any:
    del axis_size
    return in_any_lane(jnp.any(flags, axis=0) if batched[0] else flags), False


def inside_shard_map() -> bool:
    return bool(jax.sharding.get_abstract_mesh().manual_axes)


def varied(tree: PyTree[Array]) -> PyTree[Array]:
    """The same, each leaf said to vary over the mesh where any of them does."""
    same = [jnp.all(leaf == leaf) for leaf in jax.tree.leaves(tree)]
    everywhere = functools.reduce(operator.and_, same)
    # The value is the same in either case; what it depends on is not.
    return jax.tree.map(lambda leaf: jnp.where(everywhere, leaf, leaf), tree)
