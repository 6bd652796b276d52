"""Convex cones, and the point of each that is nearest.

The nearest point `p` of a cone `K` and what is left of `v` are orthogonal, and the rest
`p - v` is in the dual cone (Moreau 1962). So one projection says all that optimality
conditions of a cone program need, and its derivative says all that theirs do (Busseti,
Moursi & Boyd, *Solution refinement at regular points of conic problems*, 2019).
"""

import abc
import functools
import itertools
import math
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicax._core import tree_math

#: Halvings of an interval that Newton's steps stay in: all digits of float64 and more.
BISECTIONS = 70
#: An entry below `eps` to this power of the others is zero.
FLAT = 1.5


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


class Zero(AbstractCone):
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

    count: int = eqx.field(static=True)

    def __check_init__(self):
        _check_count(self, self.count)

    @property
    def size(self) -> int:
        return self.count

    def project(self, v):
        return jnp.zeros_like(v)


class Nonnegative(AbstractCone):
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

    count: int = eqx.field(static=True)

    def __check_init__(self):
        _check_count(self, self.count)

    @property
    def size(self) -> int:
        return self.count

    def project(self, v):
        return jax.nn.relu(v)


class SecondOrder(AbstractCone):
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

    count: int = eqx.field(static=True)

    def __check_init__(self):
        _check_count(self, self.count)

    @property
    def size(self) -> int:
        return self.count

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
        return _onto_exponential(v)


class Power(AbstractCone):
    """`x^exponent y^(1 - exponent) >= |z|` with `x, y >= 0`, of `(x, y, z)`.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    print(ix.cones.Power(0.5).project(jnp.array([0.0, 0.0, 2.0])).round(4))
    ```
    ```text
    [0.7071 0.7071 1.    ]
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
        return _onto_power(self.exponent, v)


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


def _root(function: Callable[[Array], Array], lower: Array, upper: Array) -> Array:
    """Where an increasing function is zero, in an interval."""

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        lower, upper = ends
        middle = (lower + upper) / 2
        above = function(middle) > 0
        return jnp.where(above, lower, middle), jnp.where(above, middle, upper)

    lower, upper = jax.lax.fori_loop(0, BISECTIONS, halve, (lower, upper))
    return (lower + upper) / 2


def _nearest_jvp(
    p: Array, v: Array, tangent: Array, surface: Callable[[Array], Array]
) -> Array:
    """How the nearest point `p` on `surface(p) = 0` moves with `v`: from `p - v + m g =
    0` with the gradient `g` of the surface and a multiplier `m`, by the implicit
    function theorem."""
    slope = jax.grad(surface)(p)
    multiplier = (v - p) @ slope / (slope @ slope)
    bent = jnp.eye(3, dtype=p.dtype) + multiplier * jax.hessian(surface)(p)
    matrix = jnp.zeros((4, 4), p.dtype).at[:3, :3].set(bent)
    matrix = matrix.at[:3, 3].set(slope).at[3, :3].set(slope)
    right = jnp.append(tangent, jnp.zeros((), p.dtype))
    return jnp.linalg.solve(matrix, right)[:3]


#: Where `p` is: in the cone already, at its tip, on a face, or on its curved surface.
INSIDE, TIP, FACE = 0, 1, 2


def _exponential_region(v: Array) -> Array:
    x, y, z = v
    ratio = x / jnp.where(y > 0, y, 1)
    inside = (y > 0) & (y * jnp.exp(ratio) <= z) | (y == 0) & (x <= 0) & (z >= 0)
    # The polar cone: minus the dual one, `-u exp(v / u) <= e w` with `u < 0`.
    ratio = y / jnp.where(x > 0, x, 1)
    polar = (x > 0) & (x * jnp.exp(ratio) <= -math.e * z)
    polar = polar | (x == 0) & (y <= 0) & (z <= 0)
    face = (x <= 0) & (y <= 0)
    return jnp.where(inside, 0, jnp.where(polar, 1, jnp.where(face, 2, 3)))


@jax.custom_jvp
def _onto_exponential(v: Float[Array, "3"]) -> Float[Array, "3"]:
    """By the root of one function (Friberg, *Projection onto the exponential cone: a
    univariate root-finding problem*, 2023, thm 3)."""
    region = _exponential_region(v)
    x, y, z = jnp.where(region == 3, v, jnp.array([1, 1, -1], v.dtype))

    def parts(rho: Array) -> tuple[Array, Array, Array]:
        return (rho - 1) * x + y, x - rho * y, rho * (rho - 1) + 1

    def balance(rho: Array) -> Array:
        # (Times `exp(-|rho|)`: nothing overflows.)
        primal, dual, q = parts(rho)
        small = jnp.exp(-jnp.abs(rho))
        up = primal - dual * small**2 - q * z * small
        down = primal * small**2 - dual - q * z * small
        return jnp.where(rho > 0, up, down)

    # Both parts are positive at the root.
    least = jnp.where(x > 0, 1 - y / jnp.where(x > 0, x, 1), -jnp.inf)
    least = jnp.maximum(least, jnp.where(y < 0, x / jnp.where(y < 0, y, 1), -jnp.inf))
    most = jnp.where(x < 0, 1 - y / jnp.where(x < 0, x, 1), jnp.inf)
    most = jnp.minimum(most, jnp.where(y > 0, x / jnp.where(y > 0, y, 1), jnp.inf))
    far = jnp.log(jnp.finfo(v.dtype).max)
    bounded = jnp.where(jnp.isfinite(most), most, 0)
    lower = jnp.where(jnp.isfinite(least), least, bounded - far - jnp.abs(bounded))
    upper = jnp.where(jnp.isfinite(most), most, lower + far + jnp.abs(lower))
    # (Where `exp(-|rho|)` is zero there is no root any more.)
    lower, upper = (
        jnp.maximum(lower, 2 * jnp.minimum(upper, 0) - 4 * far),
        jnp.minimum(upper, 2 * jnp.maximum(lower, 0) + 4 * far),
    )
    rho = _root(balance, lower, upper)
    primal, dual, q = parts(rho)
    small = jnp.exp(-jnp.abs(rho))
    height = jnp.where(rho > 0, z + dual / q * small, primal / q * small)
    primal = jax.nn.relu(primal)
    curved = jnp.stack([rho * primal / q, primal / q, height])
    face = jnp.stack([v[0], jnp.zeros_like(z), jnp.maximum(v[2], 0)])
    return _by_region(region, v, face, curved)


def _by_region(region: Array, v: Array, face: Array, curved: Array) -> Array:
    flat = jnp.where(region == FACE, face, curved)
    return jnp.where(region == INSIDE, v, jnp.where(region == TIP, 0, flat))


def _exponential_surface(p: Array) -> Array:
    return p[1] * jnp.exp(p[0] / p[1]) - p[2]


@_onto_exponential.defjvp
def _onto_exponential_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (v,), (tangent,) = primals, tangents
    p, region = _onto_exponential(v), _exponential_region(v)
    # (So near its edge the surface is the face to all digits.)
    small = jnp.finfo(v.dtype).eps ** FLAT * tree_math.max_abs(v)
    region = jnp.where((region == 3) & (p[1] <= small), FACE, region)
    on = jnp.where(region == 3, p, jnp.array([0, 1, 1], v.dtype))
    off = jnp.where(region == 3, v, jnp.array([1, 1, 0], v.dtype))
    curved = _nearest_jvp(on, off, tangent, _exponential_surface)
    kept = jnp.stack([v[0] <= 0, jnp.zeros((), bool), v[2] > 0])
    face = jnp.where(kept, tangent, 0)
    return p, _by_region(region, tangent, face, curved)


def _power_region(exponent: float, v: Array) -> Array:
    x, y, z = v
    other, size = 1 - exponent, jnp.abs(z)

    def height(x: Array, y: Array) -> Array:
        return jax.nn.relu(x) ** exponent * jax.nn.relu(y) ** other

    inside = (x >= 0) & (y >= 0) & (height(x, y) >= size)
    polar = (x <= 0) & (y <= 0) & (height(-x / exponent, -y / other) >= size)
    return jnp.where(inside, 0, jnp.where(polar, 1, jnp.where(z == 0, 2, 3)))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _onto_power(exponent: float, v: Float[Array, "3"]) -> Float[Array, "3"]:
    """By the root of one function (Hien, *Differential properties of Euclidean
    projection onto power cone*, 2015, prop. 2.2)."""
    region = _power_region(exponent, v)
    x, y, z = jnp.where(region == 3, v, jnp.array([0, 0, 1], v.dtype))
    size, other = jnp.abs(z), 1 - exponent

    def along(x: Array, share: float, r: Array) -> Array:
        # (The positive root of `p (p - x) = share r (size - r)`, without cancellation.)
        product = share * r * (size - r)
        root = jnp.sqrt(x**2 + 4 * product)
        less = 2 * product / jnp.where(x < 0, root - x, 1)
        return jnp.where(x < 0, less, (x + root) / 2)

    def excess(r: Array) -> Array:
        return r - along(x, exponent, r) ** exponent * along(y, other, r) ** other

    r = _root(excess, jnp.zeros_like(size), size)
    curved = jnp.stack([along(x, exponent, r), along(y, other, r), jnp.sign(z) * r])
    face = jnp.stack([jax.nn.relu(v[0]), jax.nn.relu(v[1]), jnp.zeros_like(z)])
    return _by_region(region, v, face, curved)


@_onto_power.defjvp
def _onto_power_jvp(
    exponent: float, primals: tuple, tangents: tuple
) -> tuple[Array, Array]:
    (v,), (tangent,) = primals, tangents
    p, region = _onto_power(exponent, v), _power_region(exponent, v)
    on = jnp.where(region == 3, p, jnp.array([1, 1, 1], v.dtype))
    off = jnp.where(region == 3, v, jnp.array([1, 1, 2], v.dtype))
    sign = jnp.sign(on[2])

    def surface(p: Array) -> Array:
        return sign * p[2] - p[0] ** exponent * p[1] ** (1 - exponent)

    curved = _nearest_jvp(on, off, tangent, surface)
    face = jnp.where(v > 0, tangent, 0) * jnp.array([1, 1, 0], v.dtype)
    return p, _by_region(region, tangent, face, curved)


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
