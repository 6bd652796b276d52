"""The nearest points of the exponential and the power cone: each by the root of one
function, and differentiated by the implicit function theorem."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicax._core import tree_math

#: Halvings of an interval that Newton's steps stay in: all digits of float64 and more.
BISECTIONS = 70
#: An entry below `eps` to this power of the others is zero.
FLAT = 1.5


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
def onto_exponential(v: Float[Array, "3"]) -> Float[Array, "3"]:
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


@onto_exponential.defjvp
def onto_exponential_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (v,), (tangent,) = primals, tangents
    p, region = onto_exponential(v), _exponential_region(v)
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
def onto_power(exponent: float, v: Float[Array, "3"]) -> Float[Array, "3"]:
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


@onto_power.defjvp
def onto_power_jvp(
    exponent: float, primals: tuple, tangents: tuple
) -> tuple[Array, Array]:
    (v,), (tangent,) = primals, tangents
    p, region = onto_power(exponent, v), _power_region(exponent, v)
    on = jnp.where(region == 3, p, jnp.array([1, 1, 1], v.dtype))
    off = jnp.where(region == 3, v, jnp.array([1, 1, 2], v.dtype))
    sign = jnp.sign(on[2])

    def surface(p: Array) -> Array:
        return sign * p[2] - p[0] ** exponent * p[1] ** (1 - exponent)

    curved = _nearest_jvp(on, off, tangent, surface)
    face = jnp.where(v > 0, tangent, 0) * jnp.array([1, 1, 0], v.dtype)
    return p, _by_region(region, tangent, face, curved)
