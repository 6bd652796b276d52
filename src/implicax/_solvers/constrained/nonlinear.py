"""A nonlinear program as its solvers see it: functions of the unknowns alone."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from implicax._core import tree_math
from implicax._core.traced_function import TracedFunction

#: A start keeps this part of its own size, or of the range, from each side (Waechter &
#: Biegler, Math. Program. 106, 2006, sec. 3.6).
PUSH = 1e-2


class Derivatives(eqx.Module):
    """Of a program at one point, with multipliers of its rows."""

    objective: Float[Array, ""]
    rows: Float[Array, " m"]
    gradient: Float[Array, " n"]
    """Of the Lagrangian without bounds, ..."""
    hessian: Float[Array, "n n"]
    """... and its Hessian."""
    jacobian: Float[Array, "m n"]
    """Of the rows."""


class Nonlinear(eqx.Module):
    """Minimise `f(x)` with `lower <= (c(x), x) <= upper`."""

    num_unknowns: int = eqx.field(static=True)
    boxed: bool = eqx.field(static=True)
    """Whether there are bounds at all."""
    parts: Callable[[Float[Array, " n"]], tuple[Array, Array]]
    """The objective and the rows `c`."""
    lower: Float[Array, " m_plus_n"]
    upper: Float[Array, " m_plus_n"]
    source: tuple[TracedFunction, PyTree[Array]] | None = None
    """What computes the parts, and its inputs, where they are not scaled."""

    @property
    def num_sides(self) -> int:
        """How many multipliers there are."""
        return self.lower.size if self.boxed else self.lower.size - self.num_unknowns

    @property
    def fixed(self) -> Bool[Array, " m_plus_n"]:
        return self.lower == self.upper

    @property
    def sided(self) -> Bool[Array, "2 m_plus_n"]:
        """Whether what is not fixed has an upper and a lower side."""
        sides = jnp.stack([self.upper, self.lower])
        return jnp.isfinite(sides) & ~self.fixed[None]

    def slacks(self, w: Float[Array, " m_plus_n"]) -> Float[Array, "2 m_plus_n"]:
        """To the upper and to the lower sides; one where there is none."""
        gaps = jnp.stack([self.upper - w, w - self.lower])
        return jnp.where(self.sided, gaps, 1)

    def derivatives(
        self, x: Float[Array, " n"], y: Float[Array, " m"], weight: Array | float = 1.0
    ) -> Derivatives:
        """With the multipliers `y`, and the objective times `weight`."""

        def first(x: Array) -> tuple[tuple[Array, Array], Array]:
            (f, c), pull = jax.vjp(self.parts, x)
            return (pull((jnp.asarray(weight, f.dtype), y))[0], c), f

        (g, c), push, f = jax.linearize(first, x, has_aux=True)
        hessian, transposed = jax.vmap(push)(jnp.eye(x.size, dtype=x.dtype))
        return Derivatives(f, c, g, (hessian + hessian.T) / 2, transposed.T)

    def inside(self, w: Float[Array, " k"], part: slice) -> Float[Array, " k"]:
        """`w`, or what is near it and strictly inside of its sides."""
        lower, upper = self.lower[part], self.upper[part]
        width = upper - lower
        sizes = jnp.maximum(1, jnp.abs(lower)), jnp.maximum(1, jnp.abs(upper))
        below, above = (PUSH * jnp.minimum(size, width) for size in sizes)
        low = jnp.where(jnp.isfinite(lower), lower + below, -jnp.inf)
        high = jnp.where(jnp.isfinite(upper), upper - above, jnp.inf)
        return jnp.where(lower == upper, lower, jnp.clip(w, low, high))


class Units(eqx.Module):
    """`x = d x'`, rows times `e`, the objective times `c`: powers of two."""

    d: Float[Array, " n"]
    e: Float[Array, " m"]
    c: Float[Array, ""]

    @classmethod
    def at(cls, program: Nonlinear, x: Float[Array, " n"]) -> "Units":
        """In which first derivatives at `x` are about one."""
        m = program.lower.size - x.size
        lower, upper = program.lower[m:], program.upper[m:]
        width = jnp.where(jnp.isfinite(upper - lower), upper - lower, 0)
        d = _power_of_two(jnp.where(x == 0, width, jnp.abs(x)))
        unscaled = cls(d, jnp.ones(m, x.dtype), jnp.ones((), x.dtype))
        scaled = unscaled.of(program)
        start = scaled.inside(x / d, slice(m, None))
        zero, ones = jnp.zeros(m, x.dtype), jnp.ones_like(x)
        found = scaled.derivatives(start, zero)

        def along(x: Array) -> tuple[Array, Array]:
            return jax.jvp(scaled.parts, (x,), (ones,))[1]

        # What bends may be flat where it starts.
        _, (_, bent) = jax.jvp(along, (start,), (ones,))
        curved = jnp.diag(found.hessian)
        size = tree_math.max_abs(jnp.concatenate([found.gradient, curved]))
        rows = jnp.concatenate([found.jacobian, bent[:, None]], 1)
        rows = tree_math.max_abs(rows, 1) if m else unscaled.e
        return cls(d, 1 / _power_of_two(rows), 1 / _power_of_two(size))

    def of(self, program: Nonlinear) -> Nonlinear:
        """The program in these units."""

        def parts(x: Array) -> tuple[Array, Array]:
            f, c = program.parts(self.d * x)
            return self.c * f, self.e * c

        r = jnp.concatenate([self.e, 1 / self.d])
        return Nonlinear(
            self.d.size, program.boxed, parts, r * program.lower, r * program.upper
        )


def _power_of_two(x: Array) -> Array:
    usable = (x > 0) & jnp.isfinite(x)
    return jnp.where(usable, jnp.exp2(jnp.round(jnp.log2(jnp.where(usable, x, 1)))), 1)
