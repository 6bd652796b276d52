"""Backtracking line search for Newton's direction."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from implicax._core import tree_math
from implicax._core.tree_math import Vector
from implicax._problems.equations import Iterate, System
from implicax._solvers.base import move

#: Halvings before the search gives up: a step of 2**-20 changes nothing that matters.
MAX_HALVINGS = 20


class Trial(eqx.Module):
    """The last step length tried, and where it leads."""

    length: Float[Array, ""]
    iterate: Iterate
    found: Any
    """What is left of the correction there, as `look` sees it."""
    evaluations: Int[Array, ""]
    rejected: Bool[Array, ""]


def backtrack(
    system: System,
    iterate: Iterate,
    direction: Vector,
    units: Vector,
    look: Callable[[Iterate], tuple[Any, Bool[Array, ""]]],
    nothing: Any,
    leap: Vector,
    forced: Bool[Array, ""],
    share: Float[Array, ""] | float = 1.0,
) -> Trial:
    """The step length `t` in `1, 1/2, 1/4, ...` that leads nearer to a solution.

    Accepted is `|F(y + t d)| <= (1 - 1e-4 t share) |F(y)|` in Euclidean norms, each
    equation in its unit, where `share` of `|F|^2` falls along `d` at first: all for
    Newton's direction (Armijo 1966; Dennis & Schnabel 1996, ch. 6: a smooth norm lets
    it go round more corners than the maximum norm does). Accepted too is any
    point at which `look` finds little left of the correction: in a narrow valley, and
    at the rounding level, the residual need not fall. One that is not finite is not
    accepted. Where no length is, the last point tried is `leap`, for the solver to take
    or to leave; `forced` takes the full step if it leads to numbers.

    The choice of a length is piecewise constant in everything. If derivatives are to
    flow (`system.differentiable`) the point chosen is evaluated once more, outside the
    search.
    """
    frozen, along, leap = jax.lax.stop_gradient((iterate, direction, leap))

    def square(residual: Vector) -> Float[Array, ""]:
        scaled = jax.tree.map(lambda r, unit: r / unit, residual, units)
        return tree_math.dot(scaled, scaled)

    first = square(frozen.residual)

    def halve(trial: Trial) -> Trial:
        last = trial.evaluations == MAX_HALVINGS
        t = jnp.where(last, 1, trial.length / 2)
        y = tree_math.where(last, leap, move(frozen, along, t))
        new = jax.lax.stop_gradient(system.evaluate(y))
        found, nearer = look(new)
        falls = square(new.residual) <= (1 - 1e-4 * t * share) ** 2 * first
        finite = jnp.isfinite(new.norm)
        accepted = finite & (falls | nearer | forced) & ~last
        count = trial.evaluations + 1
        return Trial(t, new, found, count, ~accepted)

    def searching(trial: Trial) -> Bool[Array, ""]:
        return trial.rejected & (trial.evaluations <= MAX_HALVINGS)

    # It enters at twice the full step: so the residual is compiled here only once.
    two, zero = jnp.full((), 2, iterate.norm.dtype), jnp.zeros((), jnp.int32)
    trial = Trial(two, frozen, nothing, zero, jnp.ones((), bool))
    trial = tree_math.while_loop(searching, halve, trial)
    if not system.differentiable:
        return trial
    y = tree_math.where(trial.rejected, leap, move(iterate, direction, trial.length))
    return eqx.tree_at(lambda trial: trial.iterate, trial, system.evaluate(y))
