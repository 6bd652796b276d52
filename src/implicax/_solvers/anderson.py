"""Anderson acceleration of the fixed-point iteration."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicax._core import tree_math
from implicax._core.ring_buffer import (
    check_history,
    combine,
    empty_ring,
    project,
    store,
)
from implicax._core.tree_math import Vector
from implicax._problems.equations import System
from implicax._solvers.base import AbstractSolver, State, fraction, tolerance

#: A residual this much above the best since the last restart forgets the history.
RESTART_GROWTH = 10.0


class History(eqx.Module):
    """The last differences of iterates and residuals, in a ring of `m` slots."""

    steps: Vector
    changes: Vector
    slot: Array
    best: Float[Array, ""]
    """The lowest residual norm since the last restart."""

    @classmethod
    def empty(cls, m: int, like: Vector, norm: Array) -> "History":
        ring = empty_ring(m, like)
        return cls(ring, ring, jnp.zeros((), jnp.int32), norm)

    def accelerate(
        self, y: Vector, residual: Vector, mixing: Array, ridge: Array | None
    ) -> Vector:
        """`y - mixing r - (S - mixing Q) g`, where `g` minimises `|r - Q g|`."""
        dtype = self.best.dtype
        # The normal equations, on columns of unit length. An empty slot has length
        # zero; its equation becomes g_i = 0.
        gram = jax.vmap(lambda slot: project(self.changes, slot))(self.changes)
        squares = jnp.diagonal(gram)
        used = squares > 0
        inverse_length = jnp.where(used, 1 / jnp.sqrt(jnp.where(used, squares, 1)), 0)
        gram = gram * inverse_length[:, None] * inverse_length[None, :]
        eps = jnp.finfo(dtype).eps
        small = 10 * eps if ridge is None else ridge.astype(dtype)
        gram = gram + jnp.diag(jnp.where(used, small, 1).astype(dtype))
        right = project(self.changes, residual) * inverse_length
        weights = jnp.linalg.solve(gram, right) * inverse_length

        remainder = tree_math.subtract(residual, combine(weights, self.changes))
        y = tree_math.subtract(y, combine(weights, self.steps))
        return tree_math.subtract(y, tree_math.scaled(mixing.astype(dtype), remainder))

    def extended(self, step: Vector, change: Vector, norm: Array) -> "History":
        """With one more difference; or forgotten, where the residual has grown."""
        m = jax.tree.leaves(self.steps)[0].shape[0]
        slot = self.slot % m
        kept = History(
            store(self.steps, slot, step),
            store(self.changes, slot, change),
            slot + 1,
            jnp.minimum(self.best, norm),
        )
        grown = norm > RESTART_GROWTH * self.best
        return tree_math.where(grown, History.empty(m, step, norm), kept)


class Anderson(AbstractSolver):
    """Anderson acceleration, type II, restarted and safeguarded.

    With the last `m` differences `S = [dy]`, `Q = [dF]` as columns, a step solves
    `min |F - Q g|` and moves to `y - mixing * F - (S - mixing * Q) g` (Walker & Ni
    2011, eq. 2.2; Anderson 1965). For linear maps it is equivalent to GMRES, so it
    converges on many maps that do not contract, and in a fraction of the steps of plain
    iteration on those that do.

    Safeguards: the columns are scaled to unit length before the small system is
    regularised, so `ridge` means the same for every problem; when the residual grows
    tenfold the history is forgotten; and a step to where `f` is not finite is not
    taken, but a plain one.

    **Arguments:**

    - `history`: the number `m` of differences kept.
    - `mixing`: the step along the residual (1 is the undamped map).
    - `ridge`: Tikhonov regularisation of the scaled normal equations; `None` means
      `10 eps`.
    - `rtol`, `atol`, `record_history`: see [`implicax.AbstractSolver`][].

    ```python
    import implicax as ix
    import jax.numpy as jnp

    cosine = lambda y, a: jnp.cos(a * y)
    solution = ix.fixed_point(cosine, 0.5, 1.0, solver=ix.Anderson(history=3))
    print(f"{solution.value:.4f}")
    ```
    ```text
    0.7391
    ```
    """

    history: int = eqx.field(static=True, default=5)
    mixing: Float[Array, ""] = eqx.field(converter=fraction("mixing"), default=1.0)
    ridge: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    rtol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    atol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    record_history: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        check_history(self.history)

    def init(self, system: System, y: Vector) -> State:
        state = State.start(system, y)
        memory = History.empty(self.history, y, state.iterate.norm)
        return dataclasses.replace(state, memory=memory)

    def step(self, system: System, state: State) -> State:
        iterate, memory = state.iterate, state.memory
        y = memory.accelerate(iterate.y, iterate.residual, self.mixing, self.ridge)
        new = state.move(system, y)
        change = tree_math.subtract(new.iterate.residual, iterate.residual)
        memory = memory.extended(
            tree_math.subtract(y, iterate.y), change, new.iterate.norm
        )
        empty = History.empty(self.history, y, iterate.norm)
        nowhere = ~jnp.isfinite(new.iterate.norm) & (state.memory.slot > 0)
        new = dataclasses.replace(new, memory=memory)
        return tree_math.where(nowhere, state.stayed(empty, new.evaluations), new)
