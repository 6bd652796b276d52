"""What Newton's method keeps of its steps: numbers, in few arrays."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool

from implicax._core.packed import Flag, Number, Packed

#: Corrections of a regular solution fall faster and faster. These many in a row that
#: fall by no more than to `LINEAR` of the last, to the very end, are those of a
#: singular one (to a half of the last: Decker, Keller & Kelley 1983).
SLOW, LINEAR = 4, 0.4


class Left(Packed):
    """What is left of a correction at the point that it leads to: the largest of each
    kind over the unknowns."""

    correction = Number()
    """The correction, relative to the unknowns before or after it, ..."""
    remainder = Number()
    """... and what is left of it, likewise."""
    units = Number()
    """What is left, in units of what is allowed, ..."""
    error = Number()
    """... and relative to the unknowns."""
    moved = Number()
    """The correction, relative to the largest unknowns on the way (the solution may be
    zero), ..."""
    left = Number()
    """... and what is left of it, likewise."""
    seen = Number()
    """The larger of both, relative to the unknowns, but for those that are lost in the
    last digits of what they were on the way."""
    bent = Number()
    """How the correction differs from what was left of the one before, in units of what
    a Jacobian that stays the same makes of it."""


class Counts(Packed):
    trusted = Flag()
    """Whether what is left is the error, ..."""
    rounded = Flag()
    """... or only rounding errors are left."""
    least = Number()
    """The smallest correction, ..."""
    idle = Number()
    """... and the steps since then."""
    still = Number()
    """Steps in a row that only rounding errors make."""
    slow = Number()
    """Steps in a row of linear convergence."""
    leaps = Number()
    """Steps against the line search."""
    creeping = Number()
    """Short steps in a row."""


class Books(eqx.Module):
    left: Left
    counts: Counts

    @classmethod
    def empty(cls, dtype: Any) -> "Books":
        inf = jnp.inf
        counts = Counts.of(
            dtype,
            trusted=0,
            rounded=0,
            least=inf,
            idle=0,
            still=0,
            slow=0,
            leaps=0,
            creeping=0,
        )
        return cls(Left.filled(dtype, inf), counts)

    @property
    def there(self) -> Bool[Array, ""]:
        """Whether the estimated error is small, or only rounding is left, ..."""
        return self.counts.trusted & (self.left.units <= 1) | self.counts.rounded

    @property
    def degenerate(self) -> Bool[Array, ""]:
        """... at a singular solution."""
        return self.there & (self.counts.slow >= SLOW)
