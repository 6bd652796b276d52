"""Mirror descent."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicax._core import tree_math
from implicax._solvers.base import tolerance
from implicax._solvers.composite.base import (
    LONGER,
    AbstractCompositeSolver,
    CompositeState,
    Split,
    search,
)

#: The part of the fall that the slope promises which a step must make.
ENOUGH = 0.5


class MirrorDescent(AbstractCompositeSolver):
    """Mirror descent (Nemirovski & Yudin 1983; Beck & Teboulle 2003).

    `y <- project(mirror(y) - t gradient)` on each array of `y`: by default in the
    geometry of the entropy, where steps multiply, and rows of `y` stay on the simplex.
    Step lengths `t` are found by a search. The problem's `prox` says what is solved;
    these say how steps are taken.

    **Arguments:**

    - `mirror`: the gradient of the generating function: `jnp.log` of the entropy.
    - `project`: from the mirrored point back to the set, as near as that function
      measures: `jax.nn.softmax` for the simplex.
    - `rtol`: see [`implicax.ProximalGradient`][].

    ```python
    import implicax as ix
    import jax.numpy as jnp

    problem = ix.Composite(
        lambda y, a: jnp.sum((y - a) ** 2), lambda x, a, t: ix.projections.simplex(x)
    )
    start, target = jnp.ones(3) / 3, jnp.array([1.0, 0.5, -1.0])
    solution = ix.solve(problem, start, target, solver=ix.MirrorDescent())
    print(solution.value.round(4))
    ```
    ```text
    [0.75 0.25 0.  ]
    ```
    """

    mirror: Callable[[Any], Any] = eqx.field(static=True, default=jnp.log)
    project: Callable[[Any], Any] = eqx.field(static=True, default=jax.nn.softmax)
    rtol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)

    def start(self, split: Split, y: Any, length: Array) -> CompositeState:
        return CompositeState(y, length, None, jnp.zeros((), bool))

    def step(self, split: Split, state: CompositeState) -> CompositeState:
        value, slope = split.value_and_gradient(state.y)
        mirrored = jax.tree.map(self.mirror, state.y)

        def reach(length: Array) -> Any:
            forward = tree_math.subtract(mirrored, tree_math.scaled(length, slope))
            return jax.tree.map(self.project, forward)

        def accept(y: Any, at: Array, length: Array) -> Array:
            fall = tree_math.dot(slope, tree_math.subtract(y, state.y))
            return at <= value + ENOUGH * fall + split.noise(value)

        new = search(reach, accept, split, state.y, state.length)
        seen = jnp.abs(new.value - value) > 100 * split.noise(value)
        length = jnp.where(seen, LONGER * new.length, new.length)
        return CompositeState(new.y, length, None, ~new.good)
