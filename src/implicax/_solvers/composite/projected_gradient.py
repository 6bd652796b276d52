"""Spectral projected gradient steps."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicax._core import tree_math
from implicax._solvers.base import tolerance
from implicax._solvers.composite.base import (
    AbstractCompositeSolver,
    CompositeState,
    Split,
    search,
)

#: The part of the fall that the slope promises which a step must make (Armijo).
ENOUGH = 1e-4
#: The objective must fall below the largest of so many last ones.
REMEMBERED = 10
#: Step lengths stay within these factors of the first.
SHORTEST, LONGEST = 1e-10, 1e10


class _Memory(eqx.Module):
    values: Float[Array, " k"]
    """The last ones of the objective."""
    first: Float[Array, ""]
    """The first step length."""


class ProjectedGradient(AbstractCompositeSolver):
    """Spectral projected gradients (Birgin, Martinez & Raydan 2000), for a smooth
    function on a convex set.

    `y <- y + s (project(y - t gradient) - y)`, with the step length `t` of Barzilai and
    Borwein, and `s <= 1` by a search that lets the objective rise now and then. `prox`
    is to be a projection; all iterates but `y0` are in the set.

    **Arguments:**

    - `rtol`: see [`implicax.ProximalGradient`][].

    ```python
    import implicax as ix
    import jax.numpy as jnp

    problem = ix.Composite(
        lambda y, a: jnp.sum((y - a) ** 2), lambda x, a, t: ix.projections.simplex(x)
    )
    target = jnp.array([1.0, 0.5, -1.0])
    solution = ix.solve(problem, jnp.zeros(3), target, solver=ix.ProjectedGradient())
    print(solution.value)
    ```
    ```text
    [0.75 0.25 0.  ]
    ```
    """

    rtol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)

    def start(self, split: Split, y: Any, length: Array) -> CompositeState:
        y = split.proximal(y, length)
        values = jnp.full((REMEMBERED,), -jnp.inf).astype(length.dtype)
        memory = _Memory(values.at[0].set(split.value(y)), length)
        return CompositeState(y, length, memory, jnp.zeros((), bool))

    def step(self, split: Split, state: CompositeState) -> CompositeState:
        value, slope = split.value_and_gradient(state.y)
        forward = tree_math.subtract(state.y, tree_math.scaled(state.length, slope))
        goal = split.proximal(forward, state.length)
        direction = tree_math.subtract(goal, state.y)
        fall = tree_math.dot(slope, direction)
        highest = jnp.maximum(state.memory.values.max(), value)

        def reach(part: Array) -> Any:
            return tree_math.add(state.y, tree_math.scaled(part, direction))

        def accept(y: Any, at: Array, part: Array) -> Array:
            return at <= highest + ENOUGH * part * fall + split.noise(value)

        new = search(reach, accept, split, state.y, jnp.ones_like(state.length))
        s = tree_math.subtract(new.y, state.y)
        q = tree_math.subtract(split.value_and_gradient(new.y)[1], slope)
        bend, first = tree_math.dot(s, q), state.memory.first
        length = tree_math.dot(s, s) / jnp.where(bend > 0, bend, 1)
        length = jnp.where(bend > 0, length, state.length)
        length = jnp.clip(length, SHORTEST * first, LONGEST * first)
        values = jnp.roll(state.memory.values, 1).at[0].set(new.value)
        return CompositeState(new.y, length, _Memory(values, first), ~new.good)
