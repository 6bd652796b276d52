"""A damped Newton step: what Levenberg (1944) and Marquardt (1963) do for roots.

    min |F + J p|^2 + damping |D p|^2,

each equation in its unit, `D` the largest column norms of `J` so far (More 1978, eq.
6.3), so that neither units of equations nor of unknowns matter. It is a step down the
sum of squares however singular `J` is. By a QR decomposition: nothing is squared.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from implicax._core import tree_math
from implicax._core.tree_math import Vector
from implicax._problems.equations import Iterate

#: The damping of the first step, in units of `D`.
FIRST = 1.0
#: What a full step takes off it, ...
EASED = 0.1
#: ... what one that was cut short adds at most, and one that led nowhere.
RAISED, REFUSED = 10.0, 100.0


class Damping(eqx.Module):
    """Where damped steps stand, and where they begin."""

    start: Iterate
    scale: Float[Array, " n"]
    """The diagonal of `D`, zero where nothing is known yet."""
    numbers: Float[Array, "2"]

    @classmethod
    def none(cls, start: Iterate) -> "Damping":
        """Before damped steps are needed."""
        n, dtype = tree_math.num_unknowns(start.y), tree_math.working_dtype(start.y)
        numbers = jnp.asarray([0.0, FIRST], dtype)
        return cls(start, jnp.zeros((n,), dtype), numbers)

    @property
    def active(self) -> Bool[Array, ""]:
        return self.numbers[0] > 0

    @property
    def damping(self) -> Float[Array, ""]:
        return self.numbers[1]

    def begun(self, now: Bool[Array, ""]) -> "Damping":
        """Active from now on, where `now` holds."""
        numbers = self.numbers.at[0].add(now.astype(self.numbers.dtype))
        return Damping(self.start, self.scale, numbers)

    def after(self, scale: Array, length: Array, rejected: Array) -> "Damping":
        """What the next step is damped by, after one that was cut to `length`."""
        factor = jnp.where(length < 1, jnp.minimum(1 / length, RAISED), EASED)
        factor = jnp.where(rejected, REFUSED, factor)
        factor = jnp.where(self.active, factor, 1)
        scale = jnp.where(self.active, scale, self.scale)
        return Damping(
            self.start, scale, jnp.stack([self.numbers[0], self.damping * factor])
        )

    def grown(self, matrix: Float[Array, "n n"], units: Vector) -> Float[Array, " n"]:
        """`D`, with one more Jacobian."""
        rows = matrix / tree_math.ravel(units)[0][:, None]
        columns = jnp.linalg.norm(jnp.where(jnp.isfinite(rows), rows, 0), axis=0)
        return jnp.maximum(self.scale, columns)

    def step(
        self,
        matrix: Float[Array, "n n"],
        residual: Vector,
        units: Vector,
        scale: Float[Array, " n"],
    ) -> Vector:
        """The step `p`."""
        flat, unravel = tree_math.ravel(residual)
        n, unit = flat.size, tree_math.ravel(units)[0]
        upper = jnp.concatenate([matrix, flat[:, None]], axis=1) / unit[:, None]
        bound = jnp.sqrt(self.damping) * jnp.where(scale > 0, scale, 1)
        lower = jnp.concatenate([jnp.diag(bound), jnp.zeros((n, 1), flat.dtype)], 1)
        r = jnp.linalg.qr(jnp.concatenate([upper, lower]), mode="r")
        return unravel(-jax.scipy.linalg.solve_triangular(r[:n, :n], r[:n, n]))
