"""Transformations of optax, as a solver of ours."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._system import System
from .._tree import Vector
from ._base import AbstractSolver, State, tolerance
from ._engines import library, narrow, widen


class Optax(AbstractSolver):
    """Any [optax](https://optax.readthedocs.io) transformation, for minima and least
    squares.

    Each step is one `update`, given the gradient and, for those that search along a
    line (`optax.lbfgs`, `optax.scale_by_backtracking_linesearch`,
    `optax.scale_by_zoom_linesearch`) or watch the objective (`optax.polyak_sgd`,
    `optax.contrib.reduce_on_plateau`), `value`, `grad` and `value_fn`. It stops on the
    gradient, as every solver does, and gives up after 1000 steps that have lowered
    neither gradient nor objective. Most transformations take thousands of steps: raise
    `max_steps`. A constant step length that is too large for the problem never gets
    there.

    **Arguments:**

    - `transformation`: such as `optax.lbfgs()` or `optax.adam(1e-2)`. Make it once:
      outside `jit` a new one compiles anew.
    - `rtol`, `atol`, `record_history`: see [`implicax.AbstractSolver`][].

    Needs `pip install 'implicax[optax]'`. Raises `TypeError` for what is no
    transformation, and where an equation is to be solved.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp
    import optax

    solver = ix.Optax(optax.lbfgs())

    def objective(y, a):
        return jnp.sum(jnp.cosh(y - a) + y**2)

    def minimum(a):
        return ix.minimize(objective, 0.0, a, solver=solver).value

    print(f"{minimum(1.0):.4f} {jax.grad(minimum)(1.0):.4f}")
    ```
    ```text
    0.3490 0.3788
    ```
    """

    transformation: Any
    rtol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    atol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    record_history: bool = eqx.field(static=True, default=False)

    #: Momentum and schedules go uphill for long.
    patience: ClassVar[float] = 1000

    def __check_init__(self):
        optax = library("optax", "ix.Optax")
        if not isinstance(self.transformation, optax.GradientTransformation):
            raise TypeError(
                "ix.Optax takes an optax transformation such as optax.adam(1e-2), and "
                f"it was given {self.transformation!r}."
            )

    def init(self, system: System, y: Vector) -> State:
        if system.objective is None:
            raise TypeError(
                "ix.Optax minimises an objective, and this is an equation. Use "
                "ix.Newton(), or ix.LevenbergMarquardt(), which minimises its residual."
            )
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            memory = self.transformation.init(widen(y))
        return State.start(system, y, jax.tree.map(_strong, memory))

    def step(self, system: System, state: State) -> State:
        optax = library("optax", "ix.Optax")
        update = optax.with_extra_args_support(self.transformation).update
        point, objective = state.point, system.objective
        assert objective is not None
        y, gradient, value = widen((point.y, point.residual, point.objective))
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            steps, memory = update(
                gradient,
                state.memory,
                y,
                value=value,
                grad=gradient,
                value_fn=lambda y: widen(objective(narrow(y, point.y))),
            )
            y = optax.apply_updates(y, steps)
        memory = narrow(jax.tree.map(jnp.asarray, memory), state.memory)
        return state.move(system, narrow(y, point.y), memory)


def _strong(leaf: Any) -> Array:
    """An array whose dtype a loop keeps."""
    leaf = jnp.asarray(leaf)
    return jax.lax.convert_element_type(leaf, leaf.dtype)
