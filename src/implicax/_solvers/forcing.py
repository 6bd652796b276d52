"""How well Newton's linear systems are solved, where that is by iteration.

No better than the step is worth.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from implicax._core import tree_math
from implicax._core.tree_math import Vector

#: Eisenstat & Walker 1996, sec. 4: the first forcing term, the largest, the factor of
#: their choice 2 (whose exponent is two), and from where on a term may not fall faster
#: than its own square.
FIRST, MOST, FACTOR, SAFEGUARD = 0.5, 0.9, 0.9, 0.1
#: A residual tells less of a correction than the condition number lets it: the one that
#: the verdict is about is solved to `eps` to this power. It is asked for where the last
#: correction was as small as `eps` to the power `NEAR`, or where the residual is lost
#: in its own rounding errors (of an unknown that is zero no correction is small).
VERDICT, NEAR = 0.5, 0.25


class Forcing(eqx.Module):
    """`|F + J d| <= rtol |F|` is asked of a step `d`."""

    rtol: Float[Array, ""]
    norm: Float[Array, ""]
    """`|F|` where the last step began, Euclidean."""
    held: Bool[Array, ""]
    """Whether a verdict may rest on that step."""
    lost: Bool[Array, ""]
    """Whether the residual that it left is what rounding errors make."""

    @classmethod
    def first(cls, residual: Vector) -> "Forcing":
        dtype: Any = tree_math.working_dtype(residual)
        inf, no = jnp.full((), jnp.inf, dtype), jnp.zeros((), bool)
        return cls(jnp.full((), FIRST, dtype), inf, no, no)

    def next(self, residual: Vector, moved: Array) -> "Forcing":
        """Of the step from here: the square of what the last step left of `|F|`.

        `moved`: by what part of themselves that step moved the unknowns.
        """
        norm = tree_math.two_norm(jax.lax.stop_gradient(residual))
        fell = jnp.where(jnp.isfinite(self.norm), norm / self.norm, 1)
        least = FACTOR * self.rtol**2
        rtol = FACTOR * fell**2
        rtol = jnp.where(least > SAFEGUARD, jnp.maximum(rtol, least), rtol)
        rtol = jnp.where(jnp.isfinite(self.norm), rtol, self.rtol)
        rtol = jnp.where(jnp.isfinite(rtol), rtol, MOST)
        eps = tree_math.coarsest_eps(residual)
        near = (moved <= eps**NEAR) | self.lost
        rtol = jnp.where(near, jnp.minimum(rtol, eps**VERDICT), rtol)
        return Forcing(jnp.clip(rtol, eps**0.7, MOST), norm, self.held, self.lost)

    @property
    def floor(self) -> Bool[Array, ""]:
        """Whether nothing is left but rounding errors, by a step that is good enough to
        say so."""
        return self.lost & self.met(self.rtol)

    def met(self, reached: Array) -> Bool[Array, ""]:
        """Whether a verdict may rest on the step."""
        return reached <= jnp.finfo(reached.dtype).eps ** VERDICT
