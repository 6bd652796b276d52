"""The real view: a pytree of real and complex arrays as a tuple of real ones.

Each complex leaf becomes a real leaf with a last axis of length two (real and imaginary
part). A map that is not holomorphic has a Jacobian that is linear over the reals only;
on the real view that is an ordinary matrix. JAX transposes the view itself, so its
conventions for complex cotangents carry over.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from implicax._core.tree_math import Vector


class RealView(eqx.Module):
    """Between the user's pytree and the tuple of real arrays that solvers see."""

    treedef: Any = eqx.field(static=True)
    dtypes: tuple[Any, ...] = eqx.field(static=True)

    @classmethod
    def of(cls, tree: PyTree[Array]) -> "RealView":
        leaves, treedef = jax.tree.flatten(tree)
        return cls(treedef, tuple(leaf.dtype for leaf in leaves))

    def to_real(self, y: PyTree[Array]) -> Vector:
        leaves = self.treedef.flatten_up_to(y)
        return tuple(
            jnp.stack([leaf.real, leaf.imag], -1) if jnp.iscomplexobj(leaf) else leaf
            for leaf in leaves
        )

    def from_real(self, v: Vector) -> PyTree[Array]:
        leaves = [
            jax.lax.complex(leaf[..., 0], leaf[..., 1])
            if jnp.issubdtype(dtype, jnp.complexfloating)
            else leaf
            for leaf, dtype in zip(v, self.dtypes, strict=True)
        ]
        return jax.tree.unflatten(self.treedef, leaves)
