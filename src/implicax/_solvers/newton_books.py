"""What Newton's method keeps of its steps: numbers, in few arrays."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

#: Corrections of a regular solution fall faster and faster. These many in a row that
#: fall by no more than to `LINEAR` of the last, to the very end, are those of a
#: singular one (to a half of the last: Decker, Keller & Kelley 1983).
SLOW, LINEAR = 4, 0.4


class Left(eqx.Module):
    """What is left of a correction at the point that it leads to: the largest of each,
    in one array (a kernel each otherwise)."""

    numbers: Float[Array, "6"]

    @classmethod
    def entry(cls, *row: Array) -> "Left":
        return cls(jnp.stack(jax.lax.stop_gradient(row)))

    @property
    def correction(self) -> Float[Array, ""]:
        """The correction, relative to the unknowns before or after it, ..."""
        return self.numbers[0]

    @property
    def remainder(self) -> Float[Array, ""]:
        """... and what is left of it, likewise."""
        return self.numbers[1]

    @property
    def units(self) -> Float[Array, ""]:
        """What is left, in units of what is allowed, ..."""
        return self.numbers[2]

    @property
    def error(self) -> Float[Array, ""]:
        """... and relative to the unknowns."""
        return self.numbers[3]

    @property
    def moved(self) -> Float[Array, ""]:
        """The correction, relative to the largest unknowns on the way (the solution may
        be zero), ..."""
        return self.numbers[4]

    @property
    def left(self) -> Float[Array, ""]:
        """... and what is left of it, likewise."""
        return self.numbers[5]


class Books(eqx.Module):
    """Numbers of Newton's own, in two arrays. (Of eight a compiler makes one kernel, of
    twelve twelve.)"""

    left: Left
    counts: Float[Array, "7"]

    @classmethod
    def entry(cls, left: Left, *counts: Array) -> "Books":
        dtype = left.numbers.dtype
        return cls(left, jnp.stack([count.astype(dtype) for count in counts]))

    @classmethod
    def empty(cls, dtype: Any) -> "Books":
        inf, zero = jnp.full((), jnp.inf, dtype), jnp.zeros((), dtype)
        left = Left.entry(inf, inf, inf, inf, inf, inf)
        return cls.entry(left, zero, zero, inf, zero, zero, zero, zero)

    @property
    def trusted(self) -> Bool[Array, ""]:
        """Whether what is left is the error, ..."""
        return self.counts[0] > 0

    @property
    def rounded(self) -> Bool[Array, ""]:
        """... or only rounding errors are left."""
        return self.counts[1] > 0

    @property
    def least(self) -> Float[Array, ""]:
        """The smallest correction, ..."""
        return self.counts[2]

    @property
    def idle(self) -> Float[Array, ""]:
        """... and the steps since then."""
        return self.counts[3]

    @property
    def slow(self) -> Float[Array, ""]:
        """Steps in a row of linear convergence."""
        return self.counts[4]

    @property
    def leaps(self) -> Float[Array, ""]:
        return self.counts[5]

    @property
    def creeping(self) -> Float[Array, ""]:
        """Short steps in a row."""
        return self.counts[6]

    @property
    def there(self) -> Bool[Array, ""]:
        """Whether the estimated error is small, or only rounding is left, ..."""
        return self.trusted & (self.left.units <= 1) | self.rounded

    @property
    def degenerate(self) -> Bool[Array, ""]:
        """... at a singular solution."""
        return self.there & (self.slow >= SLOW)
