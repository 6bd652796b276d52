"""Backtracking line search on the residual norm."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .. import _tree
from .._system import Point, System
from .._tree import Vector
from ._base import move

#: Halvings before the search gives up: a step of 2**-20 changes nothing that matters.
MAX_HALVINGS = 20


def backtrack(
    system: System, point: Point, direction: Vector, target: Array
) -> tuple[Float[Array, ""], Int[Array, ""], Bool[Array, ""]]:
    """The step length `t` in `1, 1/2, 1/4, ...` at which the residual first falls.

    Accepted is `|F(y + t d)| <= (1 - 1e-4 t) |F(y)|` (Armijo 1966; for Newton's
    direction see Dennis & Schnabel 1996, ch. 6), or any residual that already meets
    `target`: at the rounding level nothing falls any more. A residual that is not
    finite is not accepted.

    Returns the length, the evaluations spent, and whether a length was accepted.
    """
    # The choice of a length is piecewise constant in everything: no derivative.
    point, direction, target = jax.lax.stop_gradient((point, direction, target))

    def rejected(t: Array) -> Bool[Array, ""]:
        trial = _tree.norm(system.residual(move(point, direction, t)))
        return ~(trial <= jnp.maximum((1 - 1e-4 * t) * point.norm, target))

    def halve(carry: tuple) -> tuple:
        t, count, _ = carry
        t = t / 2
        return t, count + 1, rejected(t)

    one = jnp.ones((), point.norm.dtype)
    t, count, failed = jax.lax.while_loop(
        lambda carry: carry[2] & (carry[1] <= MAX_HALVINGS),
        halve,
        (one, jnp.ones((), jnp.int32), rejected(one)),
    )
    return t, count, ~failed
