"""Transformations of optax, as a solver of ours."""

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from implicax._core import componentwise, tree_math
from implicax._core.optional import library
from implicax._core.tree_math import Vector
from implicax._problems.equations import Iterate, System
from implicax._solvers.base import AbstractSolver, State, tolerance
from implicax._solvers.external.base import narrow, widen
from implicax._solvers.minimality import concluded, examine


class _Memory(eqx.Module):
    own: Any
    """The transformation's."""
    origin: Vector
    change: Float[Array, ""]
    """What a relative change of `y` makes of the gradient, at the iterate."""


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
        own = jax.tree.map(_strong, memory)
        state = State.start(system, y)
        memory = _Memory(own, y, _change(system, state.iterate))
        return dataclasses.replace(state, memory=memory)

    def converged(self, state: State) -> Bool[Array, ""]:
        """Whether the gradient is small beside the change that a relative change of `y`
        makes in it, or the objective by its own size: time for a closer look."""
        iterate, dtype = state.iterate, state.iterate.norm.dtype
        eps = tree_math.coarsest_eps(iterate.y)
        rtol = eps ** (2 / 3) if self.rtol is None else self.rtol.astype(dtype)
        size = tree_math.max_norm(iterate.y).astype(dtype)
        change = state.memory.change
        curvature = change / jnp.where(size > 0, size, 1)
        objective = jnp.abs(jnp.asarray(iterate.objective, dtype))
        unit = change + jnp.sqrt(2 * objective * curvature)
        there = (iterate.norm <= rtol * unit) | (iterate.norm == 0)
        if self.atol is not None:
            there = there | (iterate.norm <= self.atol.astype(dtype))
        return there & jnp.isfinite(iterate.norm)

    def judged(self, system: System, state: State, outcome: Any) -> Any:
        if system.differentiable:
            return outcome
        iterate, origin = state.iterate, state.memory.origin
        reach = componentwise.grown(componentwise.sizes(origin), iterate.y)
        found = examine(system, iterate, origin, reach, self.rtol)
        return concluded(outcome, found, self.atol, jnp.zeros((), bool))

    def step(self, system: System, state: State) -> State:
        optax = library("optax", "ix.Optax")
        update = optax.with_extra_args_support(self.transformation).update
        iterate, objective = state.iterate, system.objective
        assert objective is not None
        y, gradient, value = widen((iterate.y, iterate.residual, iterate.objective))
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            steps, memory = update(
                gradient,
                state.memory.own,
                y,
                value=value,
                grad=gradient,
                value_fn=lambda y: widen(objective(narrow(y, iterate.y))),
            )
            y = optax.apply_updates(y, steps)
        memory = narrow(jax.tree.map(jnp.asarray, memory), state.memory.own)
        new = state.move(system, narrow(y, iterate.y))
        change = _change(system, new.iterate)
        memory = _Memory(memory, state.memory.origin, change)
        return dataclasses.replace(new, memory=memory)


def _change(system: System, iterate: Iterate) -> Float[Array, ""]:
    """`|H y|`, the largest component; a difference where there is no forward mode."""
    y = jax.lax.stop_gradient(iterate.y)
    if system.reverse_only:
        step = tree_math.coarsest_eps(y) ** 0.5
        there = system.residual(jax.tree.map(lambda x: x * (1 + step), y))
        gradient = jax.lax.stop_gradient(iterate.residual)
        return tree_math.max_norm(tree_math.subtract(there, gradient)) / step
    return tree_math.max_norm(jax.jvp(system.residual, (y,), (y,))[1])


def _strong(leaf: Any) -> Array:
    """An array whose dtype a loop keeps."""
    leaf = jnp.asarray(leaf)
    return jax.lax.convert_element_type(leaf, leaf.dtype)
