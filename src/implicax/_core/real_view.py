"""The real view: a pytree of real and complex arrays as a tuple of real ones.

Each complex leaf becomes a real leaf with a last axis of length two (real and imaginary
part). A map that is not holomorphic has a Jacobian that is linear over the reals only;
on the real view that is an ordinary matrix. JAX transposes the view itself, so its
conventions for complex cotangents carry over. Functions among the leaves (those of a
module: its activation) are no unknowns and stay what they are.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from implicax._core.tree_math import Vector


class RealView(eqx.Module):
    """Between the user's pytree and the tuple of real arrays that solvers see."""

    treedef: Any = eqx.field(static=True)
    dtypes: tuple[Any, ...] = eqx.field(static=True)
    """Of the arrays, in their order."""
    functions: tuple[Any, ...] = eqx.field(static=True)
    """For each leaf `None`, or the function that it is."""

    @classmethod
    def of(cls, tree: PyTree) -> "RealView":
        leaves, treedef = jax.tree.flatten(tree)
        functions = tuple(leaf if callable(leaf) else None for leaf in leaves)
        dtypes = (leaf.dtype for leaf in leaves if not callable(leaf))
        return cls(treedef, tuple(dtypes), functions)

    def to_real(self, y: PyTree) -> Vector:
        leaves = zip(self.treedef.flatten_up_to(y), self.functions, strict=True)
        arrays = [leaf for leaf, function in leaves if function is None]
        return tuple(
            jnp.stack([leaf.real, leaf.imag], -1) if jnp.iscomplexobj(leaf) else leaf
            for leaf in arrays
        )

    def from_real(self, v: Vector) -> PyTree:
        arrays = (
            jax.lax.complex(leaf[..., 0], leaf[..., 1])
            if jnp.issubdtype(dtype, jnp.complexfloating)
            else leaf
            for leaf, dtype in zip(v, self.dtypes, strict=True)
        )
        leaves = [next(arrays) if f is None else f for f in self.functions]
        return jax.tree.unflatten(self.treedef, leaves)
