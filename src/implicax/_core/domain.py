"""Where an unknown lives, if not in a vector space: a manifold, by its retraction.

Near a point `p` of a manifold its points are `retract(p, d)` with `d` in a vector
space, the tangent space at `p`: a *chart*. In the chart all is as usual. (Absil, Mahony
& Sepulchre, *Optimization Algorithms on Matrix Manifolds*, Princeton 2008, ch. 4.)
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from implicax._core import tree_math
from implicax._core.checks import check_unknown
from implicax._core.real_view import RealView
from implicax._core.tree_math import Vector


class AbstractDomain(eqx.Module):
    """A set that an unknown is in, such as the unit sphere, or the rotations.

    A new one says what a tangent vector at `y` looks like, and how to go along one.
    A problem whose unknown is in it has it as its `domain`.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp

    class Sphere(ix.AbstractDomain):
        "Vectors of length one."

        def zero(self, y):
            return jnp.zeros(y.size - 1)

        def retract(self, y, tangent):
            # The columns of a reflection that takes the first axis to y, but for y.
            axis = y + jnp.where(y[0] < 0, -1.0, 1.0) * jnp.eye(y.size)[0]
            reflection = jnp.eye(y.size) - 2 * jnp.outer(axis, axis) / (axis @ axis)
            moved = y + reflection[:, 1:] @ tangent
            return moved / jnp.linalg.norm(moved)

    def direction(data):
        nearest = ix.LeastSquares(lambda y, data: y - data, domain=Sphere())
        return ix.solve(nearest, jnp.array([1.0, 0.0, 0.0]), data).value

    print(direction(jnp.array([2.0, 2.0, 1.0])).round(4))
    ```
    ```text
    [0.6667 0.6667 0.3333]
    ```
    """

    @abc.abstractmethod
    def zero(self, y: PyTree) -> PyTree:
        """The zero tangent vector at `y`, in as many real numbers as the domain has
        dimensions: any pytree of floating arrays."""

    @abc.abstractmethod
    def retract(self, y: PyTree, tangent: PyTree) -> PyTree:
        """The point in the direction `tangent` from `y`: `y` itself for zero, and
        moving at first by `tangent`. Exponential maps are retractions."""


class Chart(eqx.Module):
    """The points of a domain near `base`, as real vectors.

    `base` itself is not zero but `origin()`, of the size of its numbers: a tangent
    vector has no size of its own that its error could be compared with.
    """

    domain: AbstractDomain
    base: PyTree
    tangents: RealView

    @classmethod
    def of(cls, domain: AbstractDomain, base: PyTree) -> "Chart":
        name = type(domain).__name__
        zero = check_unknown(domain.zero(base), f"{name}.zero(y)")
        moved = jax.eval_shape(domain.retract, base, zero)
        like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), base
        )
        if moved != like:
            raise TypeError(
                f"{name}.retract(y, tangent) must return a point like y, {like}, and "
                f"it returns {moved}."
            )
        return cls(domain, base, RealView.of(zero))

    def at(self, base: PyTree) -> "Chart":
        """That of another point."""
        return Chart(self.domain, base, self.tangents)

    def origin(self) -> Vector:
        """The real vector of `base`."""
        zero = self.tangents.to_real(check_unknown(self.domain.zero(self.base), "zero"))
        leaves = jax.lax.stop_gradient(jax.tree.leaves(self.base))
        sizes = [tree_math.max_abs(leaf) for leaf in leaves]
        if len(sizes) != len(zero):
            sizes = [tree_math.max_norm(sizes)] * len(zero)
        return tuple(
            jnp.full_like(leaf, jnp.where(size == 0, 1, size).astype(leaf.dtype))
            for leaf, size in zip(zero, sizes, strict=True)
        )

    def to_real(self, tangent: PyTree) -> Vector:
        return self.tangents.to_real(tangent)

    def from_real(self, v: Vector) -> PyTree:
        tangent = self.tangents.from_real(tree_math.subtract(v, self.origin()))
        return self.domain.retract(self.base, tangent)


#: Between a user's unknown and the real vectors that solvers see.
View = RealView | Chart
