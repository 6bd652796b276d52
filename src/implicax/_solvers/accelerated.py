"""Anderson acceleration of another solver's steps."""

import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from implicax._core import tree_math
from implicax._core.ring_buffer import check_history
from implicax._core.solution import Status
from implicax._core.tree_math import Vector
from implicax._problems.equations import System
from implicax._solvers.anderson import History
from implicax._solvers.base import AbstractSolver, State, tolerance


class _Memory(eqx.Module):
    inner: Any
    """The inner solver's memory, after its last step."""
    history: History
    y: Vector
    change: Vector
    """The last iterate, and the (negative) step that the inner solver took from it."""
    fresh: Bool[Array, ""]
    """Whether there is none yet."""


class Accelerated(AbstractSolver):
    """Anderson acceleration of any solver whose step is a map `y -> step(y)`.

    What `ix.Anderson` does for `y -> f(y)`, with a step of `solver` in its place: a
    step solves for the fixed point of the linear map that fits the last `history` steps
    best (Walker & Ni 2011). It is for solvers that creep: damped iteration, gradient
    descent, splitting methods. The step may use its memory for its own settings, but
    must not count on moving where it wanted to go (as Broyden's method and Anderson's
    own do). It converges where the residual of the *problem* meets the tolerances.

    A step costs one evaluation more than that of `solver`.

    **Arguments:**

    - `solver`: an [`implicax.AbstractSolver`][], ours or yours.
    - `history`: how many differences are kept.
    - `rtol`, `atol`, `record_history`: see [`implicax.AbstractSolver`][]; those of
      `solver` are not used.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    def f(y, a):
        return a * jnp.cos(y)

    for solver in (ix.Picard(damping=0.1), ix.Accelerated(ix.Picard(damping=0.1))):
        solution = ix.fixed_point(f, 0.5, 0.9, solver=solver, max_steps=500)
        print(f"{solution.value:.5f} {solution.stats.steps}")
    ```
    ```text
    0.69260 55
    0.69262 5
    ```
    """

    solver: AbstractSolver
    history: int = eqx.field(static=True, default=5)
    rtol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    atol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    record_history: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        check_history(self.history)
        if not isinstance(self.solver, AbstractSolver):
            raise TypeError(
                "solver must be an ix.AbstractSolver (an instance), whose steps are "
                f"accelerated, and it is {self.solver!r}."
            )

    def init(self, system: System, y: Vector) -> State:
        inner = self.solver.init(system, y)
        history = History.empty(self.history, y, inner.iterate.norm)
        nothing = tree_math.zeros_like(y)
        memory = _Memory(inner.memory, history, y, nothing, jnp.ones((), bool))
        return dataclasses.replace(inner, memory=memory)

    def step(self, system: System, state: State) -> State:
        y, memory = state.iterate.y, state.memory
        inner = self.solver.step(system, self._inner(state))
        # The residual of the map y -> step(y), and how it changed with the last move.
        residual = tree_math.subtract(y, inner.iterate.y)
        step = tree_math.subtract(y, memory.y)
        change = tree_math.subtract(residual, memory.change)
        history = memory.history.extended(step, change, state.iterate.norm)
        history = tree_math.where(memory.fresh, memory.history, history)
        one = jnp.ones((), state.iterate.norm.dtype)
        target = history.accelerate(y, residual, one, None)
        memory = _Memory(inner.memory, history, y, residual, jnp.zeros((), bool))
        new = dataclasses.replace(
            inner.move(system, target, memory), halted=inner.halted
        )
        # To where the residual is not finite no step is taken, but the inner one.
        empty = History.empty(self.history, y, inner.iterate.norm)
        fresh = _Memory(inner.memory, empty, y, residual, jnp.ones((), bool))
        nowhere = ~jnp.isfinite(new.iterate.norm) & ~state.memory.fresh
        return tree_math.where(nowhere, inner.stayed(fresh, new.evaluations), new)

    def _inner(self, state: State) -> State:
        return dataclasses.replace(state, memory=state.memory.inner)

    def failure_reason(self, state: State) -> Status:
        return self.solver.failure_reason(self._inner(state))

    def at_rounding_error(self, state: State) -> Bool[Array, ""]:
        return self.solver.at_rounding_error(self._inner(state))

    def approximate_inverse(self, state: State) -> Any:
        return self.solver.approximate_inverse(self._inner(state))
