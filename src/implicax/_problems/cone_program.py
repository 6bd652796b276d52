"""Cone programs: their data, and their optimality conditions."""

import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicax._core import tree_math
from implicax._linear.equilibrated import equilibrated
from implicax._problems.base import AbstractProblem
from implicax._problems.cones import AbstractCone, project
from implicax._problems.optimality_conditions import Conditions
from implicax._problems.program import Reader, symmetric

Cones = tuple[AbstractCone, ...]


class ConeData(eqx.Module):
    """Minimise `x^T P x / 2 + q^T x` where `A x + s = b` and `s` is in `cones`."""

    P: Float[Array, "n n"] | None
    q: Float[Array, " n"]
    A: Float[Array, "m n"]
    b: Float[Array, " m"]
    cones: Cones = eqx.field(static=True)

    def __init__(self, P: Any, q: Any, A: Any, b: Any, cones: Any):
        self.cones = read_cones(cones)
        rows = sum(cone.size for cone in self.cones)
        read = Reader(q)
        self.q = read.array("q", q, (read.n,))
        self.P = symmetric(read.array("P", P, (read.n, read.n)))
        if A is None or b is None:
            raise TypeError("A and b must be given: b - A x is what is in the cones.")
        self.A = read.array("A", A, (None, read.n))
        self.b = read.array("b", b, (self.A.shape[0],))
        if self.A.shape[0] != rows:
            raise ValueError(
                f"The cones take {rows} rows in all, and A has {self.A.shape[0]}."
            )

    def gradient(self, x: Float[Array, " n"]) -> Float[Array, " n"]:
        """Of the objective."""
        return self.q if self.P is None else self.P @ x + self.q

    def objective(self, x: Float[Array, " n"]) -> Float[Array, ""]:
        quadratic = 0 if self.P is None else x @ (self.P @ x) / 2
        return quadratic + self.q @ x

    def slack(self, x: Float[Array, " n"]) -> Float[Array, " m"]:
        return self.b - self.A @ x

    def split(self, rows: Float[Array, " m"]) -> tuple[Array, ...]:
        """The rows of each cone."""
        ends = list(itertools.accumulate(cone.size for cone in self.cones))
        return tuple(jnp.split(rows, ends[:-1]))

    def sizes(
        self, x: Float[Array, " n"], z: Float[Array, " m"]
    ) -> tuple[Array, Array, Array]:
        """What there is, at `x` and `z`, of the terms of the gradient, of those of each
        slack (the largest in its cone), and of the objective `f`.

        An unknown that is zero has a size, too: by which it would change the objective
        by as much as that is worth, `f` over the terms of its gradient.
        """
        x, z, data = jax.lax.stop_gradient((x, z, self))
        slopes = jnp.abs(data.q) + jnp.abs(data.A).T @ jnp.abs(z)
        if data.P is not None:
            slopes = slopes + jnp.abs(data.P) @ jnp.abs(x)
        worth = _size(jnp.concatenate([slopes * x, data.b * z]))
        # (The largest of all, where these have units in which rows and columns of `A`
        # are about one, is enough.)
        _, unit = equilibrated(data.A)
        most = unit * tree_math.max_abs(x / unit)
        moves = slopes > 0
        size = jnp.where(moves, worth / jnp.where(moves, slopes, 1), most)
        size = jnp.maximum(jnp.abs(x), jnp.minimum(size, most))
        own = jnp.abs(data.b) + jnp.abs(data.A) @ size
        alike = [
            piece if cone.splits else jnp.full_like(piece, piece.max())
            for cone, piece in zip(self.cones, self.split(own), strict=True)
        ]
        terms = jnp.concatenate(alike)
        return slopes, jnp.where(terms > 0, terms, _size(terms)), worth

    def weights(self, x: Float[Array, " n"], z: Float[Array, " m"]) -> Array:
        """How much slack a unit of each multiplier is to weigh, where the two are
        compared: with `T` the terms of the slack, `T^2 / f`."""
        _, terms, worth = self.sizes(x, z)
        return terms**2 / worth


def _size(v: Array) -> Array:
    size = tree_math.max_abs(v)
    return jnp.where((size > 0) & jnp.isfinite(size), size, 1)


class ConeProgram(AbstractProblem):
    """`x` minimises `x^T P x / 2 + q^T x` where `A x + s = b` and `s` is in cones.

    The unknown is the pair of `x` and the multipliers `z`. With the projection onto the
    cones `C`, the conditions are `P x + q + A^T z = 0` and `s = C(s - w z)`, whatever
    the weights `w > 0`: by Moreau's theorem `s` is in the cones then, `z` in the dual
    ones, and they are orthogonal.

    **Arguments:**

    - `cones`: a list of `ix.cones`, in the order of the rows.
    - `fn`: takes `args`, returns `(P, q, A, b)`. By default `args` are these.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    problem = ix.ConeProgram([ix.cones.Nonnegative(2)])
    identity = jnp.eye(2)
    args = identity, jnp.array([-1.0, 1.0]), -identity, jnp.zeros(2)
    print(ix.solve(problem, None, args).value.round(4))
    ```
    ```text
    [1. 0.]
    ```
    """

    cones: Cones = eqx.field(static=True, converter=lambda cones: read_cones(cones))
    fn: Callable[[Any], Any] | None = None

    def data(self, args: Any) -> ConeData:
        """The data that `args` make."""
        made = args if self.fn is None else self.fn(args)
        if not isinstance(made, tuple | list) or len(made) != 4:
            raise TypeError(
                "An ix.ConeProgram is made of (P, q, A, b): what fn(args) returns, or "
                f"args where there is no fn, and it is {made!r}."
            )
        P, q, A, b = made
        return ConeData(P, q, A, b, self.cones)

    def conditions(self, y, args):
        data = self.data(args)
        x, z = y
        s, weights = data.slack(x), data.weights(x, z)
        near = project(self.cones, s - weights * z)
        residual = data.gradient(x) + data.A.T @ z, s - near
        # The Lagrangian; of the constraints only their derivative is to be seen.
        term = -jnp.sum(z * s)
        value = data.objective(x) + (term - jax.lax.stop_gradient(term))
        return Conditions(residual=residual, objective=value)


def read_cones(cones: Any) -> Cones:
    """A tuple of cones, or an error."""
    cones = (cones,) if isinstance(cones, AbstractCone) else cones
    told = isinstance(cones, list | tuple) and len(cones) > 0
    if not told or not all(isinstance(cone, AbstractCone) for cone in cones):
        raise TypeError(
            "cones must be a list of cones, such as [ix.cones.Zero(1), "
            f"ix.cones.SecondOrder(3)], and it is {cones!r}."
        )
    return tuple(cones)
