"""GMRES (Saad & Schultz 1986), restarted, on flat vectors.

By hand, since those at hand will not do for the steps of Newton's method, which ask for
few digits, and of good preconditioners, which take few steps: `jax.scipy`'s
"incremental" one ends with residuals above its tolerance (2.3 where 0.5 was asked for,
on a Laplacian of 64 x 64 points) and its "batched" one loses all digits where the space
is exhausted before a restart; lineax' takes whole cycles, two at least, and measures
each component by that of the right-hand side (JAX 0.10, lineax 0.1).
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from implicax._core import tree_math

Apply = Callable[[Float[Array, " n"]], Float[Array, " n"]]

#: A cycle that takes less than this part off the residual is the last one.
STAGNATED = 1e-3


class _Cycle(eqx.Module):
    """`A V_k = V_(k+1) H_k`, with `Q H = R` upper triangular."""

    basis: Float[Array, "m_plus_1 n"]
    """`V`, by rows; what is not there yet is zero."""
    rotations: Float[Array, "m_plus_1 m_plus_1"]
    """`Q`, the product of Givens' rotations."""
    triangle: Float[Array, "m m"]
    """`R`; what is not there yet is the identity."""
    size: Int[Array, ""]
    norm: Float[Array, ""]
    """That of the residual."""
    exhausted: Bool[Array, ""]
    """Whether the space cannot grow: it holds the solution, or `A` is singular."""


def gmres(
    apply: Apply,
    b: Float[Array, " n"],
    rtol: Float[Array, ""] | float,
    restart: int,
    max_steps: int,
) -> Float[Array, " n"]:
    """`x` with `|b - A x| <= rtol |b|` (Euclidean), or as near as it gets.

    A cycle ends as soon as its own recurrence says so; what counts is the true
    residual, which is computed after each.
    """
    target = jnp.asarray(rtol, b.dtype) * _norm(b)

    def going(now: tuple) -> Bool[Array, ""]:
        _, _, norm, before, steps = now
        falls = norm < (1 - STAGNATED) * before
        return (norm > target) & (steps < max_steps) & falls

    def cycle(now: tuple) -> tuple:
        x, remainder, norm, _, steps = now
        end = _arnoldi(apply, remainder, norm, target, restart)
        new = x + _least_squares(end, norm)
        remainder = b - apply(new)
        return new, remainder, _norm(remainder), norm, steps + end.size

    inf, none = jnp.full((), jnp.inf, b.dtype), jnp.zeros((), jnp.int32)
    start = jnp.zeros_like(b), b, _norm(b), inf, none
    return tree_math.while_loop(going, cycle, start)[0]


def _arnoldi(apply: Apply, r: Array, norm: Array, target: Array, m: int) -> _Cycle:
    """An orthonormal basis of the Krylov space of `r`, until the residual in it is
    small enough (Saad, *Iterative Methods for Sparse Linear Systems*, sec. 6.5)."""
    eps, places = jnp.finfo(r.dtype).eps, jnp.arange(m + 1, dtype=jnp.int32)

    def going(now: _Cycle) -> Bool[Array, ""]:
        return (now.size < m) & (now.norm > target) & ~now.exhausted

    def extend(now: _Cycle) -> _Cycle:
        k = now.size
        w = apply(now.basis[k])
        # Gram and Schmidt, twice: that is enough (Giraud et al. 2005).
        first = now.basis @ w
        left = w - first @ now.basis
        second = now.basis @ left
        left = left - second @ now.basis
        length = _norm(left)
        exhausted = ~(length > 10 * eps * _norm(w))
        column = jnp.where(places == k + 1, length, first + second)
        column = now.rotations @ column
        a, b = column[k], column[k + 1]
        rho = jnp.hypot(a, b)
        exhausted = exhausted | ~(rho > 0)
        c, s = jnp.where(rho > 0, jnp.stack([a, b]) / rho, jnp.array([1, 0], r.dtype))
        upper, lower = now.rotations[k], now.rotations[k + 1]
        rotations = now.rotations.at[k].set(c * upper + s * lower)
        rotations = rotations.at[k + 1].set(c * lower - s * upper)
        kept = jnp.where(places[:m] < k, column[:m], 0)
        kept = jnp.where(places[:m] == k, jnp.where(rho > 0, rho, 1), kept)
        unit = left / jnp.where(exhausted, 1, length)
        unit = jnp.where(exhausted, 0, unit)
        return _Cycle(
            now.basis.at[k + 1].set(unit),
            rotations,
            now.triangle.at[:, k].set(kept),
            k + 1,
            norm * jnp.abs(rotations[k + 1, 0]),
            exhausted,
        )

    basis = jnp.zeros((m + 1, r.size), r.dtype).at[0].set(r / norm)
    start = _Cycle(
        basis,
        jnp.eye(m + 1, dtype=r.dtype),
        jnp.eye(m, dtype=r.dtype),
        jnp.zeros((), jnp.int32),
        norm,
        jnp.zeros((), bool),
    )
    return tree_math.while_loop(going, extend, start)


def _least_squares(cycle: _Cycle, norm: Array) -> Array:
    """The member of the space with the least residual."""
    m = cycle.triangle.shape[0]
    right = norm * cycle.rotations[:m, 0]
    right = jnp.where(jnp.arange(m, dtype=jnp.int32) < cycle.size, right, 0)
    y = jax.scipy.linalg.solve_triangular(cycle.triangle, right)
    return y @ cycle.basis[:m]


def _norm(x: Array) -> Float[Array, ""]:
    return jnp.sqrt(jnp.sum(x**2))
