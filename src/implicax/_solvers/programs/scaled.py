"""A program in units in which its entries are about one."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from implicax._core import tree_math
from implicax._linear.kkt import Rows, Scaling
from implicax._problems.program import Program

#: Rounds of equilibration: a half of the distance to one is left after each, in
#: logarithms (Ruiz 2001).
ROUNDS = 8


class Scaled(eqx.Module):
    """Minimise `x^T P x / 2 + q^T x` with `lower <= R x <= upper`, scaled."""

    P: Float[Array, "n n"]
    q: Float[Array, " n"]
    rows: Rows
    lower: Float[Array, " rows"]
    upper: Float[Array, " rows"]
    scaling: Scaling

    @classmethod
    def of(cls, program: Program) -> "Scaled":
        """Scaled by Ruiz' equilibration of `[P, R^T; R, 0]`, in powers of two, so that
        nothing is rounded."""
        rows, (lower, upper) = program.rows, program.limits
        n, matrix, dtype = program.q.size, program.rows.matrix, program.q.dtype
        P = jnp.zeros((n, n), dtype) if program.P is None else program.P
        sizes = jnp.abs(P), jnp.abs(matrix)

        def round_(_: Array, both: tuple[Array, Array]) -> tuple[Array, Array]:
            d, e = both
            P, M = _between(d, sizes[0], d), _between(e, sizes[1], d)
            columns = jnp.maximum(P.max(0), M.max(0, initial=0))
            return d * _root(columns), e * _root(M.max(1, initial=0))

        ones = jnp.ones(n, dtype), jnp.ones(matrix.shape[0], dtype)
        d, e = map(power_of_two, jax.lax.fori_loop(0, ROUNDS, round_, ones))
        P, q = _between(d, P, d), d * program.q
        size = jnp.maximum(tree_math.max_abs(P), tree_math.max_abs(q))
        c = power_of_two(jnp.where(size > 0, 1 / jnp.where(size > 0, size, 1), 1))
        f = jnp.concatenate([e, 1 / d]) if rows.box else e
        matrix = _between(e, matrix, d)
        scaling = Scaling(d, f, c)
        box = Rows(matrix, rows.box)
        return cls(c * P, c * q, box, f * lower, f * upper, scaling)

    def in_units(self, x: Float[Array, ""], t: Float[Array, ""]) -> "Scaled":
        """With `x` and `t` of the unknowns and of the multipliers as one."""
        return dataclasses.replace(
            self,
            P=self.P * (x / t),
            q=self.q / t,
            lower=self.lower / x,
            upper=self.upper / x,
        )

    def weighted(self, weight: Array) -> "Scaled":
        """With the objective times `weight`."""
        weight = weight.astype(self.q.dtype)
        return dataclasses.replace(self, P=weight * self.P, q=weight * self.q)

    @property
    def fixed(self) -> Bool[Array, " rows"]:
        return self.lower == self.upper

    @property
    def bound(self) -> Float[Array, "2 rows"]:
        """The upper and the lower sides, zero where there are none."""
        sides = jnp.stack([self.upper, self.lower])
        return jnp.where(jnp.isfinite(sides), sides, 0)

    @property
    def sided(self) -> Bool[Array, "2 rows"]:
        """Whether a row that is not fixed has an upper and a lower side."""
        sides = jnp.stack([self.upper, self.lower])
        return jnp.isfinite(sides) & ~self.fixed[None]

    def gradient(self, x: Array, t: Array) -> Array:
        """Of the Lagrangian."""
        return self.P @ x + self.q + self.rows.transposed(t)


def _between(e: Array, matrix: Array, d: Array) -> Array:
    """`diag(e) matrix diag(d)`."""
    return e[:, None] * matrix * d[None]


def sides(upper: Bool[Array, " rows"], lower: Array) -> Int[Array, " rows"]:
    """One at upper sides, minus one at lower ones, zero at neither."""
    return upper.astype(jnp.int32) - (lower & ~upper).astype(jnp.int32)


def _root(x: Array) -> Array:
    return jnp.where(x > 0, jax.lax.rsqrt(jnp.where(x > 0, x, 1)), 1)


def power_of_two(x: Array) -> Array:
    """The one that is nearest."""
    return jnp.exp2(jnp.round(jnp.log2(x)))


def least(values: Array, where: Array, axis: tuple[int, ...] | None = None) -> Array:
    """The least of some values; infinite if there are none."""
    return jnp.min(jnp.where(where, values, jnp.inf), axis, initial=jnp.inf)
