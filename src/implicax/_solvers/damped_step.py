"""A damped Newton step: what Levenberg (1944) and Marquardt (1963) do for roots.

    min |F + J p|^2 + damping |D p|^2,

each equation divided by the size of its row of `J`, so that its unit does not matter,
and `D` the largest column norms of that so far (More 1978, eq. 6.3). It is a step down
the sum of squares however singular `J` is. By a QR decomposition: nothing is squared.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicax._core import tree_math
from implicax._core.packed import Flag, Number, Packed
from implicax._core.tree_math import Vector
from implicax._problems.equations import Iterate

#: The first step `p` is as long as `|D p| <= FIRST |D y0|`, or as `|D p| <= FIRST`: a
#: second attempt may be careful. (Of 576 starts of the 36 systems in
#: `benchmarks/problems` 480 lead to a solution with these numbers, 477 with one.)
FIRST = 0.1
#: What a full step takes off it, ...
EASED = 0.1
#: ... what one that was cut short adds at most, and one that led nowhere.
RAISED, REFUSED = 10.0, 100.0


class _Numbers(Packed):
    """Whether steps are damped, and how much."""

    active = Flag()
    damping = Number()
    """Zero before the first step."""


class Damping(eqx.Module):
    """Where damped steps stand, and where they begin."""

    start: Iterate
    scale: Float[Array, " n"]
    """The diagonal of `D`, zero where nothing is known yet."""
    numbers: _Numbers

    @classmethod
    def none(cls, start: Iterate) -> "Damping":
        """Before damped steps are needed."""
        n, dtype = tree_math.num_unknowns(start.y), tree_math.working_dtype(start.y)
        numbers = _Numbers.of(dtype, active=False, damping=0)
        return cls(start, jnp.zeros((n,), dtype), numbers)

    def begun(self) -> "Damping":
        """Active from now on."""
        return self._with(self.scale, active=True, damping=0)

    def after(self, length: Array, rejected: Array) -> "Damping":
        """What the next step is damped by, after one that was cut to `length`."""
        factor = jnp.where(length < 1, jnp.minimum(1 / length, RAISED), EASED)
        factor = jnp.where(rejected, REFUSED, factor)
        active, damping = self.numbers.active, self.numbers.damping
        return self._with(self.scale, active=active, damping=damping * factor)

    def _with(self, scale: Array, **numbers: Any) -> "Damping":
        return Damping(self.start, scale, _Numbers.of(scale.dtype, **numbers))

    def step(
        self,
        matrix: Float[Array, "n n"],
        residual: Vector,
        y: Vector,
        units: Vector,
    ) -> tuple[Vector, Array, "Damping"]:
        """The correction `-p`; the share of `|F|^2` that falls along `p` at first,
        `|J p|^2 + damping |D p|^2`, of which QR has the root; and what damped it."""
        flat, unravel = tree_math.ravel(residual)
        n, unit = flat.size, tree_math.ravel(units)[0]
        upper = jnp.concatenate([matrix, flat[:, None]], axis=1) / unit[:, None]
        columns = jnp.linalg.norm(upper[:, :n], axis=0)
        grown = jnp.maximum(self.scale, jnp.where(jnp.isfinite(columns), columns, 0))
        scale = jnp.where(grown > 0, grown, 1)
        # `|D p| <= |D^-1 J^T F| / damping`.
        slopes = (upper[:, n] @ upper[:, :n]) / scale
        here = tree_math.ravel(y)[0] * scale
        slope, size = jnp.sqrt(jnp.sum(jnp.stack([slopes, here]) ** 2, axis=1))
        first = slope / (FIRST * jnp.where(size > 0, size, 1))
        damping = jnp.where(self.numbers.damping > 0, self.numbers.damping, first)
        lower = jnp.diag(jnp.sqrt(damping) * scale)
        lower = jnp.concatenate([lower, jnp.zeros((n, 1), flat.dtype)], axis=1)
        r = jnp.linalg.qr(jnp.concatenate([upper, lower]), mode="r")
        correction = jax.scipy.linalg.solve_triangular(r[:n, :n], r[:n, n])
        falls, rest = jnp.sum(r[:n, n] ** 2), r[n, n] ** 2
        damped = self._with(grown, active=self.numbers.active, damping=damping)
        return unravel(correction), falls / (falls + rest), damped
