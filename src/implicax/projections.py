"""Projections onto convex sets (and three that are not), exact and differentiable.

`nonnegative`, `box`, `hypercube`, `l2_sphere`, `l2_ball`, `linf_ball`, `hyperplane` and
`halfspace` are optax' own, of pytrees (`optax.projections`, by `implicax[optax]`). The
others are here. (Those of optax onto the simplex and the `l1` sets fail where dtype
promotion is forbidden.)
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from implicax._core.optional import library
from implicax._shorthands import minimize, root
from implicax._solve_program import quadratic_program
from implicax._solvers.bracketing import Chandrupatla

#: What optax has, by the name that it has here.
_OPTAX = {
    "nonnegative": "projection_non_negative",
    "box": "projection_box",
    "hypercube": "projection_hypercube",
    "l2_sphere": "projection_l2_sphere",
    "l2_ball": "projection_l2_ball",
    "linf_ball": "projection_linf_ball",
    "hyperplane": "projection_hyperplane",
    "halfspace": "projection_halfspace",
}


def __getattr__(name: str) -> Any:
    if name in _OPTAX:
        optax = library("optax", f"ix.projections.{name}")
        return getattr(optax.projections, _OPTAX[name])
    there = ", ".join(__dir__())
    raise AttributeError(f"ix.projections has no {name!r}. It has {there}.")


def __dir__() -> list[str]:
    own = [name for name, x in globals().items() if getattr(x, "is_projection", False)]
    return sorted([*own, *_OPTAX])


def _projection(function: Any) -> Any:
    function.is_projection = True
    return function


@_projection
def polyhedron(
    x: Float[Array, " n"],
    *,
    A: Any = None,
    b: Any = None,
    G: Any = None,
    h: Any = None,
    bounds: Any = None,
) -> Float[Array, " n"]:
    """The point nearest to `x` where `A p = b`, `G p <= h`, in bounds.

    **Arguments:** as of [`implicax.quadratic_program`][], which it is one of: what that
    says of infeasible sets and of derivatives holds here.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    x, G = jnp.array([2.0, 0.0]), jnp.array([[1.0, 1.0]])
    print(ix.projections.polyhedron(x, G=G, h=jnp.array([1.0])))
    ```
    ```text
    [ 1.5 -0.5]
    ```
    """
    x = jnp.asarray(x)
    identity = jnp.eye(x.size, dtype=x.dtype)
    return quadratic_program(identity, -x, A=A, b=b, G=G, h=h, bounds=bounds).value


@_projection
def affine_set(x: Float[Array, " n"], A: Any, b: Any) -> Float[Array, " n"]:
    """The point nearest to `x` where `A p = b`; rows may repeat each other.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    print(ix.projections.affine_set(jnp.zeros(2), jnp.ones((1, 2)), jnp.ones(1)))
    ```
    ```text
    [0.5 0.5]
    ```
    """
    return polyhedron(x, A=A, b=b)


@_projection
def box_section(
    x: Float[Array, " n"],
    lower: ArrayLike,
    upper: ArrayLike,
    weights: Float[Array, " n"],
    total: ArrayLike,
) -> Float[Array, " n"]:
    """The point nearest to `x` where `lower <= p <= upper` and `weights . p = total`,
    for positive weights.

    By the multiplier of the equation, the one unknown of `p = clip(x - u weights)`
    (Held, Wolfe & Crowder 1974): it takes vectors of any length. NaN, or an error
    outside `jit`, where there is no such point.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    x, ones = jnp.array([3.0, 1.0, 0.0]), jnp.ones(3)
    print(ix.projections.box_section(x, 0.0, 2.0, ones, 2.5))
    ```
    ```text
    [2.  0.5 0. ]
    ```
    """
    x, weights = jnp.asarray(x), jnp.asarray(weights)

    def point(u: Array) -> Array:
        return jnp.clip(x - u * weights, lower, upper)

    start = (weights @ jnp.clip(x, lower, upper) - total) / (weights @ weights)
    u = root(lambda u, _: weights @ point(u) - total, start, solver=Chandrupatla())
    return point(u.value)


@_projection
def simplex(x: Float[Array, " n"], scale: ArrayLike = 1.0) -> Float[Array, " n"]:
    """The point nearest to `x` whose entries are not negative and have the sum `scale`.

    By sorting (Held, Wolfe & Crowder 1974); the derivative is that of the entries which
    are not zero.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    print(ix.projections.simplex(jnp.array([1.0, 0.5, -1.0])))
    ```
    ```text
    [0.75 0.25 0.  ]
    ```
    """
    x = jnp.asarray(x)
    scale = jnp.asarray(scale).astype(x.dtype)
    ranked = -jnp.sort(-jax.lax.stop_gradient(x))
    counts = jnp.arange(1.0, x.size + 1.0).astype(x.dtype)
    shifts = (jnp.cumsum(ranked) - jax.lax.stop_gradient(scale)) / counts
    kept = jnp.sum(ranked > shifts)
    support = jax.lax.stop_gradient(x) > shifts[kept - 1]
    shift = (jnp.sum(jnp.where(support, x, 0)) - scale) / kept.astype(x.dtype)
    return jnp.where(support, x - shift, 0)


@_projection
def l1_sphere(x: Float[Array, " n"], scale: ArrayLike = 1.0) -> Float[Array, " n"]:
    """The point nearest to `x` whose absolute values have the sum `scale`.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    print(ix.projections.l1_sphere(jnp.array([1.0, -0.5])))
    ```
    ```text
    [ 0.75 -0.25]
    ```
    """
    x = jnp.asarray(x)
    return jnp.where(x < 0, -1, 1).astype(x.dtype) * simplex(jnp.abs(x), scale)


@_projection
def l1_ball(x: Float[Array, " n"], scale: ArrayLike = 1.0) -> Float[Array, " n"]:
    """The point nearest to `x` whose absolute values have a sum of at most `scale`.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    print(ix.projections.l1_ball(jnp.array([0.2, -0.5])))
    ```
    ```text
    [ 0.2 -0.5]
    ```
    """
    x = jnp.asarray(x)
    return jnp.where(jnp.sum(jnp.abs(x)) <= scale, x, l1_sphere(x, scale))


@_projection
def sparse_simplex(
    x: Float[Array, " n"], max_nonzero: int, scale: ArrayLike = 1.0
) -> Float[Array, " n"]:
    """The point nearest to `x` with at most `max_nonzero` entries that are not zero,
    all positive, with the sum `scale` (Kyrillidis et al. 2013: the simplex of the
    largest entries).

    ```python
    import implicax as ix
    import jax.numpy as jnp

    x = jnp.array([0.5, 0.4, 0.3])
    print(ix.projections.sparse_simplex(x, 2).round(2))
    ```
    ```text
    [0.55 0.45 0.  ]
    ```
    """
    if not 0 < max_nonzero <= x.size:
        raise ValueError(
            f"max_nonzero must be from 1 to {x.size}, the size of x, and it is "
            f"{max_nonzero}."
        )
    values, places = jax.lax.top_k(x, max_nonzero)
    return jnp.zeros_like(x).at[places].set(simplex(values, scale))


@_projection
def isotonic(x: Float[Array, " n"], increasing: bool = True) -> Float[Array, " n"]:
    """The sequence nearest to `x` that does not fall (or, with `increasing=False`,
    does not rise): isotonic regression.

    By the formula of minima and maxima of means (Robertson, Wright & Dykstra, *Order
    Restricted Statistical Inference*, 1988, thm 1.4.4), `n^2` of them. The derivative
    is that of the means of its pieces.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    print(ix.projections.isotonic(jnp.array([1.0, 3.0, 2.0, 4.0])))
    ```
    ```text
    [1.  2.5 2.5 4. ]
    ```
    """
    x = jnp.asarray(x)
    if not increasing:
        return -isotonic(-x)
    # (About the middle, so that sums stay small.)
    middle = jax.lax.stop_gradient(jnp.mean(x))
    ends = jnp.cumsum(x - middle)
    sums = ends[None] - jnp.append(jnp.zeros((), x.dtype), ends[:-1])[:, None]
    places = jnp.arange(x.size)
    counts = places[None] - places[:, None] + 1
    means = sums / jnp.maximum(counts, 1).astype(x.dtype)
    means = jnp.where(counts > 0, means, jnp.inf)  # from j to k
    least = jax.lax.cummin(means, axis=1, reverse=True)  # over k >= i
    least = jnp.where(counts > 0, least, -jnp.inf)
    return middle + least.max(0)  # over j <= i


@_projection
def transport(
    similarity: Float[Array, "m n"], rows: Any, columns: Any
) -> Float[Array, "m n"]:
    """The matrix nearest to `similarity` whose entries are not negative and whose rows
    and columns have these sums.

    By a quadratic program in all `m n` entries (Blondel, Seguy & Rolet 2018): for a few
    hundred of them.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    S = jnp.array([[1.0, 0.0], [0.0, 0.2]])
    print(ix.projections.transport(S, jnp.ones(2) / 2, jnp.ones(2) / 2).round(3))
    ```
    ```text
    [[0.5 0. ]
     [0.  0.5]]
    ```
    """
    similarity = jnp.asarray(similarity)
    m, n = similarity.shape
    by_rows = jnp.kron(jnp.eye(m), jnp.ones((1, n))).astype(similarity.dtype)
    by_columns = jnp.kron(jnp.ones((1, m)), jnp.eye(n)).astype(similarity.dtype)
    A = jnp.concatenate([by_rows, by_columns])
    b = jnp.concatenate([jnp.asarray(rows), jnp.asarray(columns)])
    found = polyhedron(similarity.reshape(-1), A=A, b=b, bounds=(0.0, None))
    return found.reshape(m, n)


@_projection
def birkhoff(similarity: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """The doubly stochastic matrix that is nearest: `transport` with sums of one.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    print(ix.projections.birkhoff(jnp.array([[2.0, 0.0], [0.0, 1.0]])))
    ```
    ```text
    [[1. 0.]
     [0. 1.]]
    ```
    """
    ones = jnp.ones(similarity.shape[0], similarity.dtype)
    return transport(similarity, ones, ones)


@_projection
def kl_transport(
    similarity: Float[Array, "m n"], rows: Any, columns: Any
) -> Float[Array, "m n"]:
    """`exp(similarity + u_i + v_j)` with these sums of rows and columns: the nearest to
    `exp(similarity)` in the Kullback-Leibler divergence (Cuturi 2013).

    By Newton's method for the potentials `u` and `v`, in `m + n - 1` unknowns.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    rows, columns = jnp.array([0.75, 0.25]), jnp.array([0.5, 0.5])
    plan = ix.projections.kl_transport(jnp.eye(2), rows, columns)
    print(plan.sum(0).round(2), plan.sum(1).round(2))
    ```
    ```text
    [0.5 0.5] [0.75 0.25]
    ```
    """
    similarity, rows, columns = map(jnp.asarray, (similarity, rows, columns))

    def plan(potentials: Array) -> Array:
        u, v = jnp.split(potentials, [similarity.shape[0]])
        # (A constant can be moved from one to the other: the last one is zero.)
        v = jnp.append(v, jnp.zeros((), v.dtype))
        return jnp.exp(similarity + u[:, None] + v[None])

    def dual(potentials: Array, _: Any) -> Array:
        u, v = jnp.split(potentials, [similarity.shape[0]])
        return jnp.sum(plan(potentials)) - rows @ u - columns[:-1] @ v

    by_rows = jnp.log(rows) - jax.nn.logsumexp(similarity, axis=1)
    start = jnp.concatenate([by_rows, jnp.zeros_like(columns[:-1])])
    return plan(minimize(dual, start).value)


@_projection
def kl_birkhoff(similarity: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """`kl_transport` with sums of one.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    print(ix.projections.kl_birkhoff(jnp.zeros((2, 2))).round(3))
    ```
    ```text
    [[0.5 0.5]
     [0.5 0.5]]
    ```
    """
    ones = jnp.ones(similarity.shape[0], similarity.dtype)
    return kl_transport(similarity, ones, ones)
