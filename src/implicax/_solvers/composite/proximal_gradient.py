"""Accelerated proximal gradient steps."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from implicax._core import tree_math
from implicax._solvers.base import tolerance
from implicax._solvers.composite.base import (
    LONGER,
    AbstractCompositeSolver,
    CompositeState,
    Split,
    search,
)


class _Memory(eqx.Module):
    ahead: PyTree[Array]
    """The point that the next step starts from, ..."""
    weight: Float[Array, ""]
    """... and how much of it is momentum (`theta` of the source)."""


class ProximalGradient(AbstractCompositeSolver):
    """FISTA: proximal gradient steps with momentum (Beck & Teboulle 2009).

    `y <- prox(z - t gradient(z), args, t)`, with `z` ahead of `y`. Lengths are found by
    a search that lets them grow again (Becker, Candes & Grant 2011, sec. 5.3); momentum
    is dropped when it leads uphill (O'Donoghue & Candes 2015).

    **Arguments:**

    - `acceleration`: `False` takes plain steps, without momentum.
    - `rtol`: see [`implicax.Composite`][]: the relative error that each unknown may
      have; `None` means `eps**0.8`.

    ```python
    import implicax as ix

    problem = ix.Composite(lambda y, a: (y - a) ** 2 / 2, ix.prox.lasso)
    solution = ix.solve(problem, 0.0, 3.0, solver=ix.ProximalGradient())
    print(solution.value)
    ```
    ```text
    0.0
    ```
    """

    acceleration: bool = eqx.field(static=True, default=True)
    rtol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)

    def start(self, split: Split, y: Any, length: Array) -> CompositeState:
        memory = _Memory(y, jnp.ones_like(length))
        return CompositeState(y, length, memory, jnp.zeros((), bool))

    def step(self, split: Split, state: CompositeState) -> CompositeState:
        z, weight = state.memory.ahead, state.memory.weight
        value, slope = split.value_and_gradient(z)

        def reach(length: Array) -> PyTree:
            forward = tree_math.subtract(z, tree_math.scaled(length, slope))
            return split.proximal(forward, length)

        def accept(y: PyTree, at: Array, length: Array) -> Array:
            moved = tree_math.subtract(y, z)
            model = value + tree_math.dot(slope, moved)
            model = model + tree_math.dot(moved, moved) / (2 * length)
            return at <= model + split.noise(value)

        new = search(reach, accept, split, z, state.length)
        moved = tree_math.subtract(new.y, z)
        seen = tree_math.dot(moved, moved) / new.length > 100 * split.noise(value)
        length = jnp.where(seen, LONGER * new.length, new.length)
        advance = tree_math.subtract(new.y, state.y)
        # Uphill: the step, and what momentum adds to it, look in opposite directions.
        uphill = tree_math.dot(moved, advance) < 0
        # (Of steps that grow, `theta` is that of lengths alike.)
        old = weight * jnp.sqrt(length / new.length)
        grown = 2 / (1 + jnp.sqrt(1 + 4 / old**2))
        plain = uphill | (not self.acceleration)
        share = jnp.where(plain, 0, grown * (1 / weight - 1))
        ahead = tree_math.add(new.y, tree_math.scaled(share, advance))
        memory = _Memory(ahead, jnp.where(plain, 1, grown))
        return CompositeState(new.y, length, memory, ~new.good)
