"""The linear systems of programs: equality constraints, some rows of them left out.

With the rows `R` of the constraints, of which those in `active` hold with equality, the
optimality conditions in `(x, t)` have the Jacobian

    J = [ P    R^T      ]
        [ a R  a - 1    ],        a = 1 where active, else 0:

the multiplier of a row that is not active is zero. What nearly solves it is cheap to
find: with proximal terms `rho |dx|^2 / 2` and `delta |dt|^2 / 2` added, the multipliers
can be eliminated, and

    (P + rho I + R^T (a / delta) R) dx = ...

is positive definite whatever is degenerate. Refined with exact products that is the
proximal method of multipliers (Rockafellar 1976): where rows depend on each other, or
directions are free, it finds the solution that moves least, if there is one.
"""

import equinox as eqx
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, cholesky
from jaxtyping import Array, Bool, Float

from implicax._core import tree_math
from implicax._core.tree_math import Vector

#: The proximal terms in `x` and in `t`, as powers of the rounding unit (1e-9 and 1e-6).
#: Elimination loses `eps / delta`, which must be less than `rho`. (Of the programs of
#: Maros and Meszaros up to 320 unknowns, `eps**0.45` for both leaves two unsolved.)
PROXIMAL = 0.575, 0.383
#: Where a factorisation fails, the proximal term in `x` becomes larger by this, ...
STIFFER = 10.0
#: ... up to here.
STIFFEST = 1e-3


class Rows(eqx.Module):
    """The rows of all constraints: a matrix, and below it the identity, where there are
    bounds."""

    matrix: Float[Array, "m n"]
    box: bool = eqx.field(static=True)

    def __call__(self, x: Float[Array, " n"]) -> Float[Array, " rows"]:
        rows = self.matrix @ x
        return jnp.concatenate([rows, x]) if self.box else rows

    def transposed(self, t: Float[Array, " rows"]) -> Float[Array, " n"]:
        m = self.matrix.shape[0]
        x = self.matrix.T @ t[:m]
        return x + t[m:] if self.box else x

    def gram(self, weights: Float[Array, " rows"]) -> Float[Array, "n n"]:
        """`R^T diag(weights) R`."""
        m = self.matrix.shape[0]
        gram = self.matrix.T @ (weights[:m, None] * self.matrix)
        return gram + jnp.diag(weights[m:]) if self.box else gram

    def magnitude(self) -> "Rows":
        return Rows(jnp.abs(self.matrix), self.box)


class Scaling(eqx.Module):
    """A change of units in which the entries of a program are about one: `x = d x'`,
    rows times `f`, the objective times `c`. Powers of two: nothing is rounded."""

    d: Float[Array, " n"]
    f: Float[Array, " rows"]
    c: Float[Array, ""]

    def point(self, x: Array, t: Array) -> tuple[Array, Array]:
        """A point and multipliers in the units of the user's."""
        return self.d * x, self.f * t / self.c

    def scaled_point(self, x: Array, t: Array) -> tuple[Array, Array]:
        return x / self.d, self.c * t / self.f


class KKTInverse(eqx.Module):
    """Nearly the inverse of `J`: an `ApproximateInverse`."""

    factor: Float[Array, "n n"]
    """The Cholesky factor of `P + rho I + R^T (a / delta) R`, scaled."""
    rows: Rows
    active: Bool[Array, " rows"]
    scaling: Scaling
    product_size: Float[Array, ""]
    """`|J|` in the maximum norm, in units of its own: what products round."""

    @classmethod
    def of(
        cls, P: Float[Array, "n n"], rows: Rows, active: Array, scaling: Scaling
    ) -> "KKTInverse":
        """Of a program that is scaled."""
        rho, delta = proximal_terms(P)
        weights = jnp.where(active, 1 / delta, 0)

        def failed(carry: tuple[Array, Array]) -> Bool[Array, ""]:
            rho, factor = carry
            return ~jnp.isfinite(factor).all() & (rho < STIFFEST)

        def again(carry: tuple[Array, Array]) -> tuple[Array, Array]:
            rho = STIFFER * carry[0]
            return rho, factorised(P, rho, rows, weights)

        # (What rounding errors have made indefinite gets more added.)
        less = jnp.asarray(rho / STIFFER, P.dtype)
        begun = less, jnp.full_like(P, jnp.nan)
        _, factor = tree_math.while_loop(failed, again, begun)
        return cls.made(factor, P, rows, active, scaling)

    @classmethod
    def made(
        cls, factor: Array, P: Array, rows: Rows, active: Array, scaling: Scaling
    ) -> "KKTInverse":
        """Of a factor that is there."""
        sizes, one = rows.magnitude(), jnp.ones_like(scaling.f)
        bent = jnp.sum(jnp.abs(P), 1)
        sums = [bent + sizes.transposed(one), sizes(jnp.ones_like(scaling.d))]
        product_size = tree_math.max_abs(jnp.concatenate(sums))
        return cls(factor, rows, active, scaling, product_size)

    def units(
        self,
    ) -> tuple[Float[Array, " n_plus_rows"], Float[Array, " n_plus_rows"]]:
        """What rows and columns of `J` are to be multiplied by, so that its entries are
        about one: then a residual has a size."""
        d, f, c = self.scaling.d, self.scaling.f, self.scaling.c
        rows = jnp.concatenate([c * d, jnp.where(self.active, f, c / f)])
        return rows, jnp.concatenate([d, f / c])

    def scaled_solve(self, bx: Array, bt: Array) -> tuple[Array, Array]:
        """Of the rows `P x + R^T t = bx`, and `R x = bt` where active (`t = 0` where
        not)."""
        _, delta = proximal_terms(bx)
        bt = jnp.where(self.active, bt, 0)
        x = cho_solve((self.factor, True), bx + self.rows.transposed(bt / delta))
        return x, jnp.where(self.active, (self.rows(x) - bt) / delta, 0)

    def solve_in_units(self, b: Array, transposed: bool) -> Array:
        """Nearly the solution of the system in these units."""
        bx, bt = jnp.split(b, [self.factor.shape[0]])
        idle = jnp.where(self.active, 0, bt)
        if not transposed:
            # `-t = b` in the rows that are not active.
            bx = bx + self.rows.transposed(idle)
        x, t = self.scaled_solve(bx, bt)
        other = self.rows(x) - idle if transposed else -idle
        return jnp.concatenate([x, jnp.where(self.active, t, other)])

    def solve(self, b: Vector, transposed: bool) -> Vector:
        flat, unravel = tree_math.ravel(b)
        left, right = self.units()[:: -1 if transposed else 1]
        return unravel(right * self.solve_in_units(left * flat, transposed))


def proximal_terms(like: Array) -> tuple[float, float]:
    """`rho` and `delta`, for the precision of `like`."""
    eps = float(jnp.finfo(like.dtype).eps)
    return eps ** PROXIMAL[0], eps ** PROXIMAL[1]


def factorised(P: Array, rho: Array | float, rows: Rows, weights: Array) -> Array:
    """The Cholesky factor of `P + rho I + R^T diag(weights) R`."""
    n = P.shape[0]
    return cholesky(
        P + rho * jnp.eye(n, dtype=P.dtype) + rows.gram(weights), lower=True
    )
