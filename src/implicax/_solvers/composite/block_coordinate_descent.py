"""Block coordinate descent."""

from typing import Any

import equinox as eqx
import jax
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


class BlockCoordinateDescent(AbstractCompositeSolver):
    """Proximal steps in one row of `y` after the other, each with a length of its own
    (Tseng 2001; Wright, *Coordinate descent algorithms*, 2015).

    A step is a sweep through all rows, the entries of the first axis of `y`, which is
    one array. `prox` must treat them one by one, as those of `ix.prox` do where `y` is
    a vector. In which units the rows are does not matter. A sweep costs as many
    gradients as there are rows: this is for tens to hundreds of them.

    **Arguments:**

    - `rtol`: see [`implicax.ProximalGradient`][].

    ```python
    import implicax as ix
    import jax.numpy as jnp

    problem = ix.Composite(
        lambda y, a: jnp.sum((a * y - 1.0) ** 2) / 2,
        lambda x, a, t: ix.prox.lasso(x, 1.0, t),
    )
    scales, solver = jnp.array([4.0, 2.0, 0.5]), ix.BlockCoordinateDescent()
    print(ix.solve(problem, jnp.zeros(3), scales, solver=solver).value.round(4) + 0.0)
    ```
    ```text
    [0.1875 0.25   0.    ]
    ```
    """

    rtol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)

    def start(self, split: Split, y: Any, length: Array) -> CompositeState:
        if not (isinstance(y, jax.Array) and y.ndim > 0):
            raise TypeError(
                "ix.BlockCoordinateDescent() takes the rows of one array in turns, and "
                f"y0 is {y!r}. Pass one array, or use ix.ProximalGradient()."
            )
        return CompositeState(y, length, None, jnp.zeros((), bool))

    def step(self, split: Split, state: CompositeState) -> CompositeState:
        def in_row(row: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
            y, halted = now

            def with_row(part: Array) -> Array:
                return y.at[row].set(part)

            def value(part: Array) -> Array:
                return split.value(with_row(part))

            old = y[row]
            at, slope = jax.value_and_grad(value)(old)
            matrix = jax.hessian(value)(old).reshape(old.size, old.size)
            curvature = jnp.abs(matrix).sum(1).max()
            known = jnp.isfinite(curvature) & (curvature > 0)
            length = jnp.where(known, 1 / jnp.where(known, curvature, 1), state.length)

            def reach(length: Array) -> Array:
                return with_row(
                    split.proximal(with_row(old - length * slope), length)[row]
                )

            def accept(y: Array, new: Array, length: Array) -> Array:
                moved = y[row] - old
                model = at + tree_math.dot(slope, moved)
                model = model + tree_math.dot(moved, moved) / (2 * length)
                return new <= model + split.noise(at)

            new = search(reach, accept, split, y, length)
            return tree_math.where(new.good, new.y, y), halted | ~new.good

        y, halted = jax.lax.fori_loop(0, len(state.y), in_row, (state.y, state.halted))
        return CompositeState(y, state.length, None, halted)
