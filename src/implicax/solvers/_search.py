"""Backtracking line search on the residual norm."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .. import _tree
from .._system import Point, System
from .._tree import Vector
from ._base import move

#: Halvings before the search gives up: a step of 2**-20 changes nothing that matters.
MAX_HALVINGS = 20


class Trial(eqx.Module):
    """The last step length tried, and where it leads."""

    length: Float[Array, ""]
    point: Point
    evaluations: Int[Array, ""]
    rejected: Bool[Array, ""]


def backtrack(
    system: System,
    point: Point,
    direction: Vector,
    meets: Callable[[Point], Bool[Array, ""]],
) -> Trial:
    """The step length `t` in `1, 1/2, 1/4, ...` at which the residual first falls.

    Accepted is `|F(y + t d)| <= (1 - 1e-4 t) |F(y)|` in Euclidean norms (Armijo 1966;
    for Newton's direction see Dennis & Schnabel 1996, ch. 6: a smooth norm lets it go
    round more corners than the maximum norm does), or any point that `meets` the
    tolerances: at the rounding level nothing falls any more. A residual that is not
    finite is not accepted. Where no length is, the last one tried is the full step, for
    the solver to take or to leave.

    The choice of a length is piecewise constant in everything. If derivatives are to
    flow (`system.differentiable`) the point chosen is evaluated once more, outside the
    search.
    """
    frozen, along = jax.lax.stop_gradient((point, direction))
    square = _tree.dot(frozen.residual, frozen.residual)

    def halve(trial: Trial) -> Trial:
        last = trial.evaluations == MAX_HALVINGS
        t = jnp.where(last, 1, trial.length / 2)
        new = jax.lax.stop_gradient(system.evaluate(move(frozen, along, t)))
        falls = _tree.dot(new.residual, new.residual) <= (1 - 1e-4 * t) ** 2 * square
        return Trial(t, new, trial.evaluations + 1, ~(falls | meets(new)))

    def searching(trial: Trial) -> Bool[Array, ""]:
        return trial.rejected & (trial.evaluations <= MAX_HALVINGS)

    # It enters at twice the full step: so the residual is compiled here only once.
    two = jnp.full((), 2, point.norm.dtype)
    trial = Trial(two, frozen, jnp.zeros((), jnp.int32), jnp.ones((), bool))
    trial = _tree.while_loop(searching, halve, trial)
    if not system.differentiable:
        return trial
    chosen = system.evaluate(move(point, direction, trial.length))
    return eqx.tree_at(lambda trial: trial.point, trial, chosen)
