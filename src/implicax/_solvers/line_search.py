"""Backtracking line search along Newton's correction."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from implicax._core import tree_math
from implicax._core.packed import Flag, Number, Packed
from implicax._core.tree_math import Vector
from implicax._problems.equations import Iterate, System

#: Halvings before the search gives up: a step of 2**-20 changes nothing that matters.
MAX_HALVINGS = 20


class Numbers(Packed):
    length = Number()
    """Zero where the search stays."""
    norm = Number()
    """That of the residual."""
    evaluations = Number()
    rejected = Flag()


class Trial(eqx.Module):
    """The last step length tried, and where it leads."""

    iterate: Iterate
    found: Any
    """What is left of the correction there, as `look` sees it."""
    numbers: Numbers


def backtrack(
    system: System,
    iterate: Iterate,
    correction: Vector,
    units: Vector,
    look: Callable[[Iterate], tuple[Any, Bool[Array, ""]]],
    nothing: Any,
    leap: Vector,
    farthest: Float[Array, ""],
    forced: Bool[Array, ""],
    share: Float[Array, ""] | float = 1.0,
) -> Trial:
    """The step length `t` in `1, 1/2, 1/4, ...` that leads nearer to a solution.

    Accepted is `|F(y - t d)| <= (1 - 1e-4 t share) |F(y)|` in Euclidean norms, each
    equation in its unit, where `share` of `|F|^2` falls along `-d` at first: all for
    Newton's correction (Armijo 1966; Dennis & Schnabel 1996, ch. 6: a smooth norm lets
    it go round more corners than the maximum norm does). Accepted too is any
    point at which `look` finds little left of the correction: in a narrow valley, and
    at the rounding level, the residual need not fall. One that is not finite is not
    accepted. Where no length is, it goes to `leap`, unless the residual there is above
    `farthest`: then it stays. `forced` takes the full step if it leads to numbers.

    The choice of a length is piecewise constant in everything. If derivatives are to
    flow (`system.differentiable`) the point chosen is evaluated once more, outside the
    search.
    """
    frozen, along, leap = jax.lax.stop_gradient((iterate, correction, leap))

    def square(residual: Vector) -> Float[Array, ""]:
        scaled = jax.tree.map(lambda r, unit: r / unit, residual, units)
        return tree_math.dot(scaled, scaled)

    first = square(frozen.residual)

    def point(start: Iterate, along: Vector, length: Array, out: Array) -> Vector:
        """That of a length; out of the search it is `leap`, or else `start`."""
        y = tree_math.subtract(start.y, tree_math.scaled(length, along))
        y = tree_math.where(out, leap, y)
        return tree_math.where(length > 0, y, start.y)

    def halve(carry: tuple) -> tuple:
        *_, last = carry
        count = last.evaluations
        t = jnp.where(count == MAX_HALVINGS, 1, 0)
        t = jnp.where(count < MAX_HALVINGS, last.length / 2, t)
        y = point(frozen, along, t, count >= MAX_HALVINGS)
        new = jax.lax.stop_gradient(system.evaluate(y))
        found, nearer = look(new)
        falls = square(new.residual) <= (1 - 1e-4 * t * share) ** 2 * first
        accepted = jnp.isfinite(new.norm) & (falls | nearer | forced)
        accepted = accepted & (count < MAX_HALVINGS)
        numbers = Numbers.of(
            t.dtype,
            length=t,
            norm=new.norm,
            evaluations=count + 1,
            rejected=~accepted,
        )
        return new.y, new.residual, new.objective, found, numbers

    def searching(carry: tuple) -> Bool[Array, ""]:
        *_, last = carry
        # The leap follows all halvings, and that it stays (one more evaluation, which
        # costs less than to keep two points everywhere) a leap too far.
        far = (last.length == 1) & ~(last.norm <= farthest)
        tried = jnp.where(far, last.evaluations - 1, last.evaluations)
        return last.rejected & (tried <= MAX_HALVINGS)

    # It enters at twice the full step: so the residual is compiled here only once.
    entry = Numbers.of(
        iterate.norm.dtype, length=2, norm=jnp.inf, evaluations=0, rejected=True
    )
    carry = frozen.y, frozen.residual, frozen.objective, nothing, entry
    carry = tree_math.while_loop(searching, halve, carry)
    y, residual, objective, found, numbers = carry
    if system.differentiable:
        last = system.evaluate(
            point(iterate, correction, numbers.length, numbers.rejected)
        )
    else:
        kept = {"objective": objective, "fixed_point": iterate.fixed_point}
        last = Iterate(y, residual, numbers.norm, **kept)
    return Trial(last, found, numbers)
