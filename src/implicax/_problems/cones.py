"""Convex cones, and the point of each that is nearest.

The nearest point `p` of a cone `K` and what is left of `v` are orthogonal, and the rest
`p - v` is in the dual cone (Moreau 1962). So one projection says all that optimality
conditions of a cone program need, and its derivative says all that theirs do (Busseti,
Moursi & Boyd, *Solution refinement at regular points of conic problems*, 2019).
"""

import abc
import itertools
import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicax._core import tree_math
from implicax._problems.curved_cones import onto_exponential, onto_power


class AbstractCone(eqx.Module):
    """A closed convex cone of vectors of length `size`."""

    #: Whether it is a product of cones of one entry each.
    splits: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """How many numbers its points have."""

    @abc.abstractmethod
    def project(self, v: Float[Array, " size"]) -> Float[Array, " size"]:
        """The point of the cone that is nearest to `v`."""


class _Counted(AbstractCone):
    """A cone of vectors of any length."""

    count: int = eqx.field(static=True)

    def __check_init__(self):
        _check_count(self, self.count)

    @property
    def size(self) -> int:
        return self.count


class Zero(_Counted):
    """`s = 0`: equations.

    ```python
    import implicax as ix

    print(ix.cones.Zero(2).size)
    ```
    ```text
    2
    ```
    """

    splits = True

    def project(self, v):
        return jnp.zeros_like(v)


class Nonnegative(_Counted):
    """`s >= 0`, entry by entry.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    print(ix.cones.Nonnegative(2).project(jnp.array([1.0, -1.0])))
    ```
    ```text
    [1. 0.]
    ```
    """

    splits = True

    def project(self, v):
        return jax.nn.relu(v)


class SecondOrder(_Counted):
    """`|s[1:]| <= s[0]`, in the Euclidean norm.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    print(ix.cones.SecondOrder(3).project(jnp.array([0.0, 3.0, 4.0])))
    ```
    ```text
    [2.5 1.5 2. ]
    ```
    """

    def project(self, v):
        top, rest = v[0], v[1:]
        if not rest.size:
            return jax.nn.relu(v)
        largest = jax.lax.stop_gradient(tree_math.max_abs(rest))
        known = largest > 0
        unit = jnp.where(known, largest, 1)
        scaled = jnp.where(known, rest / unit, 1)
        norm = jnp.where(known, unit * jnp.sqrt(jnp.sum(scaled**2)), 0)
        share = (1 + top / jnp.where(known, norm, 1)) / 2
        outside = share * jnp.append(norm, rest)
        return jnp.where(norm <= top, v, jnp.where(norm <= -top, 0, outside))


class Semidefinite(AbstractCone):
    """Symmetric matrices of that order without negative eigenvalues, as the upper
    triangle column by column, entries off the diagonal times `sqrt(2)` (so that inner
    products are those of the matrices).

    ```python
    import implicax as ix
    import jax.numpy as jnp

    cone = ix.cones.Semidefinite(2)
    print(cone.project(cone.vector(jnp.diag(jnp.array([1.0, -1.0])))))
    ```
    ```text
    [1. 0. 0.]
    ```
    """

    order: int = eqx.field(static=True)

    def __check_init__(self):
        _check_count(self, self.order)

    @property
    def size(self) -> int:
        return self.order * (self.order + 1) // 2

    def vector(self, matrix: Float[Array, "k k"]) -> Float[Array, " size"]:
        """Of a symmetric matrix."""
        columns, rows = jnp.tril_indices(self.order)
        weights = jnp.where(rows == columns, 1, math.sqrt(2)).astype(matrix.dtype)
        return weights * matrix[rows, columns]

    def matrix(self, vector: Float[Array, " size"]) -> Float[Array, "k k"]:
        """The symmetric matrix of such a vector."""
        columns, rows = jnp.tril_indices(self.order)
        weights = jnp.where(rows == columns, 0.5, 1 / math.sqrt(2)).astype(vector.dtype)
        half = jnp.zeros((self.order, self.order), vector.dtype)
        half = half.at[rows, columns].set(weights * vector)
        return half + half.T

    def project(self, v):
        return self.vector(_positive_part(self.matrix(v)))


class Exponential(AbstractCone):
    """The closure of `y exp(x / y) <= z` with `y > 0`, of `(x, y, z)`.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    print(ix.cones.Exponential().project(jnp.array([0.0, 1.0, 1.0])).round(4))
    ```
    ```text
    [0. 1. 1.]
    ```
    """

    @property
    def size(self) -> int:
        return 3

    def project(self, v):
        return onto_exponential(v)


class Power(AbstractCone):
    """`x^exponent y^(1 - exponent) >= |z|` with `x, y >= 0`, of `(x, y, z)`.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    print(ix.cones.Power(0.5).project(jnp.array([0.0, 0.0, 2.0])).round(4))
    ```
    ```text
    [0.6667 0.6667 0.6667]
    ```
    """

    exponent: float = eqx.field(static=True)

    def __check_init__(self):
        if not 0 < self.exponent < 1:
            raise ValueError(
                "The exponent of a power cone is between 0 and 1, not "
                f"{self.exponent!r}."
            )

    @property
    def size(self) -> int:
        return 3

    def project(self, v):
        return onto_power(self.exponent, v)


def _check_count(cone: AbstractCone, count: int) -> None:
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(
            f"ix.cones.{type(cone).__name__} takes a positive whole number, and got "
            f"{count!r}."
        )


@jax.custom_jvp
def _positive_part(matrix: Float[Array, "k k"]) -> Float[Array, "k k"]:
    values, vectors = jnp.linalg.eigh(matrix)
    return (vectors * jax.nn.relu(values)[None]) @ vectors.T


@_positive_part.defjvp
def _positive_part_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """In the eigenbasis every entry by a difference quotient, which stays what it is
    where eigenvalues meet (Bhatia, *Matrix Analysis*, thm V.3.3)."""
    (matrix,), (tangent,) = primals, tangents
    values, vectors = jnp.linalg.eigh(matrix)
    positive = jax.nn.relu(values)
    apart = values[:, None] - values[None]
    same = apart == 0
    slopes = jnp.where(values > 0, 1, 0)[:, None].astype(values.dtype)
    quotients = (positive[:, None] - positive[None]) / jnp.where(same, 1, apart)
    inner = jnp.where(same, slopes, quotients) * (vectors.T @ tangent @ vectors)
    value = (vectors * positive[None]) @ vectors.T
    return value, vectors @ inner @ vectors.T


def project(cones: tuple[AbstractCone, ...], v: Float[Array, " m"]) -> Array:
    """Onto the product of cones. (Equal ones in a row are one program.)"""
    parts, start = [], 0
    for cone, equal in itertools.groupby(cones):
        count = len(list(equal))
        end = start + count * cone.size
        piece = v[start:end].reshape(count, cone.size)
        parts.append(jax.vmap(cone.project)(piece).reshape(-1))
        start = end
    return jnp.concatenate(parts) if parts else v
