"""Functions that have a forward mode only (a `lax.while_loop` in them, as in an
adaptive integrator): given a reverse mode.

A product with the Jacobian is linear in the tangent, and JAX transposes it for reverse
mode: but not where a loop of unknown length is differentiated. Here the Jacobian is
formed first, column by column in forward mode, of what moves and of nothing else; a
product with a matrix can be transposed. The matrix is itself such a function, so the
same holds of derivatives of every order.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array

from implicax._core.tree_math import DENSE_LIMIT

Function = Callable[[list[Array]], list[Array]]


def lacks_reverse_mode(function: Function, leaves: Sequence[Any]) -> bool:
    """Whether JAX cannot transpose its derivative."""

    def total(leaves: list[Array]) -> Array:
        parts = [x.real.sum() for x in function(leaves) if _moves(x)]
        return sum((x.astype(float) for x in parts), start=jnp.zeros(()))

    try:
        jax.eval_shape(jax.grad(total, allow_int=True), list(leaves))
    except ValueError as error:
        if "while_loop" not in str(error):
            raise
        return True
    return False


def transposable(function: Function) -> Function:
    """`function`, with both modes, up to 4096 numbers that move; forward beyond."""

    @jax.custom_jvp
    def wrapped(leaves: list[Array]) -> list[Array]:
        return function(leaves)

    @functools.partial(wrapped.defjvp, symbolic_zeros=True)
    def rule(primals: tuple, tangents: tuple) -> tuple[list[Array], list[Any]]:
        (leaves,), (tangents,) = primals, tangents
        out = wrapped(leaves)
        moving = [k for k, t in enumerate(tangents) if not isinstance(t, SymbolicZero)]
        if sum(leaves[k].size for k in moving) > DENSE_LIMIT:
            changes = _along(function, moving, leaves, [tangents[k] for k in moving])
        else:
            matrices = transposable(functools.partial(_jacobian, function, moving))
            blocks = iter(matrices(leaves))
            changes = [jnp.zeros_like(x) for x in out if _moves(x)]
            for k, row in itertools.product(moving, range(len(changes))):
                for part in _parts(tangents[k]):
                    product = jnp.tensordot(next(blocks), part, part.ndim)
                    changes[row] = changes[row] + product
        rest = iter(changes)
        return out, [next(rest) if _moves(x) else _still(x) for x in out]

    return wrapped


def _jacobian(
    function: Function, moving: Sequence[int], leaves: list[Array]
) -> list[Array]:
    """For each leaf that moves and each output that can, the block of the Jacobian (of
    a complex leaf two, for its real and its imaginary part)."""
    blocks = []
    for k in moving:
        leaf = leaves[k]
        basis = jnp.eye(leaf.size, dtype=leaf.real.dtype).reshape((-1, *leaf.shape))
        units = [1, 1j] if jnp.iscomplexobj(leaf) else [1]
        parts = []
        for unit in units:
            directions = basis.astype(leaf.dtype) * jnp.asarray(unit, leaf.dtype)
            columns = jax.vmap(
                lambda e, k=k: _along(function, [k], leaves, [e]), out_axes=-1
            )(directions)
            parts.append([x.reshape((*x.shape[:-1], *leaf.shape)) for x in columns])
        blocks += [block for row in zip(*parts, strict=True) for block in row]
    return blocks


def _along(
    function: Function,
    moving: Sequence[int],
    leaves: list[Array],
    tangents: list[Array],
) -> list[Array]:
    """The derivative along those tangents, of the outputs that can move."""

    def moved(values: list[Array]) -> list[Array]:
        changed = dict(zip(moving, values, strict=True))
        found = function([changed.get(k, leaf) for k, leaf in enumerate(leaves)])
        return [x for x in found if _moves(x)]

    return jax.jvp(moved, ([leaves[k] for k in moving],), (tangents,))[1]


def _parts(tangent: Array) -> list[Array]:
    if jnp.iscomplexobj(tangent):
        return [tangent.real, tangent.imag]
    return [tangent]


def _moves(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)


def _still(x: Array) -> np.ndarray:
    return np.zeros(x.shape, jax.dtypes.float0)
