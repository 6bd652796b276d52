"""A Jacobian in units of its own, inverted."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from implicax._core import tree_math
from implicax._core.tree_math import Vector
from implicax._linear.kkt import KKTInverse
from implicax._linear.lu import factorise

#: Rounds of equilibration (Ruiz 2001): the largest entries tend to one as fast as
#: `2^-rounds`.
ROUNDS = 10
#: Pivots below `eps` to this power of the largest hint at a singular matrix, ...
HINT = 0.5
#: ... of which singular values below this power are zero.
NULL = 0.7


def equilibrated(
    matrix: Float[Array, "m n"],
) -> tuple[Float[Array, " m"], Float[Array, " n"]]:
    """What to multiply rows and columns by, so that each has a largest entry of about
    one."""

    def root(sizes: Array) -> Array:
        # (Powers of two: no rounding errors.)
        known = (sizes > 0) & jnp.isfinite(sizes)
        half = jnp.round(jnp.log2(jnp.where(known, sizes, 1)) / 2)
        return jnp.exp2(-half)

    def balance(_: Array, units: tuple[Array, Array]) -> tuple[Array, Array]:
        left, right = units
        now = jnp.abs(matrix) * left[:, None] * right[None]
        return left * root(now.max(1)), right * root(now.max(0))

    ones = [jnp.ones(size, matrix.dtype) for size in matrix.shape]
    return jax.lax.fori_loop(0, ROUNDS, balance, tuple(ones))


class EquilibratedInverse(eqx.Module):
    """The inverse of `J = L^-1 M R^-1`, where rows and columns of `M` have a largest
    entry of one: an `ApproximateInverse`. Of a singular `M` the pseudo-inverse, which
    gives the shortest solutions (in units of `M`)."""

    inverse: Float[Array, "n n"]
    """`M^-1`."""
    null: Float[Array, "n n"]
    """An orthonormal basis of what `M` takes to zero: rows, the others are zero."""
    left: Float[Array, " n"]
    right: Float[Array, " n"]
    product_size: Float[Array, ""]
    """`|M|`, as products see it: its largest entry."""

    @classmethod
    def of(cls, matrix: Float[Array, "n n"]) -> "EquilibratedInverse":
        left, right = equilibrated(matrix)
        scaled = left[:, None] * matrix * right[None]
        eps, factor = tree_math.coarsest_eps((matrix,)), factorise(scaled)
        columns = jax.vmap(lambda e: factor.solve((e,), False)[0])
        plain = columns(jnp.eye(len(matrix), dtype=matrix.dtype)).T
        pivots = jnp.abs(jnp.diag(factor.lu))
        hint = factor.singular | (pivots.min() <= eps**HINT * pivots.max())

        def decompose(carry: tuple[Array, Array, Array]) -> tuple:
            # (It depends on the carry: else the compiler decomposes it in any case.)
            needed = jnp.where(carry[2], 1, jnp.nan).astype(scaled.dtype)
            u, values, v = jnp.linalg.svd(needed * scaled)
            null = values <= eps**NULL * values.max()
            kept = jnp.where(null, 0, 1 / jnp.where(null, 1, values))
            return (v.T * kept[None]) @ u.T, jnp.where(null[:, None], v, 0), ~carry[2]

        first = plain, jnp.zeros_like(scaled), hint
        inverse, null, _ = tree_math.while_loop(lambda c: c[2], decompose, first)
        return cls(inverse, null, left, right, tree_math.max_abs(scaled))

    @property
    def singular(self) -> Bool[Array, ""]:
        return (self.null != 0).any()

    def units(self) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """What rows and columns of `J` are multiplied by."""
        return self.left, self.right

    def solve_in_units(self, b: Array, transposed: bool) -> Array:
        """Nearly the solution of the system in these units."""
        return (self.inverse.T if transposed else self.inverse) @ b

    def solve(self, b: Vector, transposed: bool) -> Vector:
        flat, unravel = tree_math.ravel(b)
        left, right = self.units()[:: -1 if transposed else 1]
        return unravel(right * self.solve_in_units(left * flat, transposed))


#: Inverses that know units in which a residual has a size.
InUnits = KKTInverse | EquilibratedInverse
