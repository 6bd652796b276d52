"""Broyden's method with limited memory."""

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
from implicax._solvers.base import AbstractSolver, State, tolerance

#: A residual this much above the best since the last restart forgets the history.
RESTART_GROWTH = 1e3


class _Inverse(eqx.Module):
    """`H = alpha I + sum_i u_i v_i^T`, an approximation of the inverse Jacobian."""

    alpha: Float[Array, ""]
    left: Vector
    right: Vector
    slot: Array
    best: Float[Array, ""]

    def apply(self, x: Vector) -> Vector:
        """`H x`."""
        low_rank = combine(project(self.right, x), self.left)
        return tree_math.add(tree_math.scaled(self.alpha, x), low_rank)

    def apply_transposed(self, x: Vector) -> Vector:
        """`H^T x`."""
        low_rank = combine(project(self.left, x), self.right)
        return tree_math.add(tree_math.scaled(self.alpha, x), low_rank)


class _Memory(eqx.Module):
    inverse: _Inverse
    correction: Vector
    """`H F`, the (negative) next step."""


class Broyden(AbstractSolver):
    """Broyden's "good" method on the inverse Jacobian, with limited memory.

    Steps `s = -H F` with a secant approximation `H` that is updated by
    `H += (s - H q) (s^T H) / (s^T H q)`, `q` the change of `F` (Broyden 1965; Kelley,
    *Iterative Methods for Linear and Nonlinear Equations*, ch. 7). Superlinear, one
    evaluation per step, no Jacobian. When `history` updates are stored, or the residual
    has grown a thousandfold, it starts afresh.

    `H` begins as `alpha I` with `alpha = min(1, max(|y|, 1) / |F|)`: a plain
    fixed-point step, unless that would be longer than the iterate itself. And so it
    begins again where a step would lead to where `F` is not finite.

    **Arguments:**

    - `history`: the number of updates stored (two vectors each).
    - `rtol`, `atol`, `record_history`: see [`implicax.AbstractSolver`][].

    ```python
    import implicax as ix
    import jax.numpy as jnp

    cosine = lambda y, a: jnp.cos(a * y)
    solution = ix.fixed_point(cosine, 0.5, 1.0, solver=ix.Broyden())
    print(f"{solution.value:.4f}")
    ```
    ```text
    0.7391
    ```
    """

    history: int = eqx.field(static=True, default=20)
    rtol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    atol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    record_history: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        check_history(self.history)

    def init(self, system: System, y: Vector) -> State:
        state = State.start(system, y)
        norm = state.iterate.norm
        length = jax.lax.stop_gradient(jnp.maximum(tree_math.max_norm(y), 1))
        alpha = jnp.minimum(1, length / jnp.where(norm > 0, norm, 1))
        empty, slot = empty_ring(self.history, y), jnp.zeros((), jnp.int32)
        inverse = _Inverse(alpha, empty, empty, slot, norm)
        memory = _Memory(inverse, inverse.apply(state.iterate.residual))
        return dataclasses.replace(state, memory=memory)

    def step(self, system: System, state: State) -> State:
        iterate, inverse = state.iterate, state.memory.inverse
        s = jax.tree.map(jnp.negative, state.memory.correction)
        new = state.move(system, tree_math.add(iterate.y, s))

        q = tree_math.subtract(new.iterate.residual, iterate.residual)
        remainder = tree_math.subtract(s, inverse.apply(q))
        right = inverse.apply_transposed(s)
        curvature = tree_math.dot(right, q)
        usable = curvature != 0
        weight = jnp.where(usable, 1 / jnp.where(usable, curvature, 1), 0)
        left = tree_math.scaled(weight, remainder)

        slot = inverse.slot
        updated = _Inverse(
            inverse.alpha,
            store(inverse.left, slot, left),
            store(inverse.right, slot, right),
            slot + 1,
            jnp.minimum(inverse.best, new.iterate.norm),
        )
        empty = empty_ring(self.history, iterate.y)
        fresh = _Inverse(
            inverse.alpha, empty, empty, jnp.zeros_like(slot), new.iterate.norm
        )
        grown = new.iterate.norm > RESTART_GROWTH * inverse.best
        restart = grown | (updated.slot == self.history)
        inverse = tree_math.where(restart, fresh, updated)
        correction = inverse.apply(new.iterate.residual)
        # Its own correction is its estimate of the error, but for what was just learnt.
        error = jax.tree.map(
            lambda c, e: jnp.maximum(jnp.abs(c), jnp.where(restart, e, 0)),
            jax.lax.stop_gradient(correction),
            new.error,
        )
        new = dataclasses.replace(new, memory=_Memory(inverse, correction), error=error)
        # To where the residual is not finite no step is taken, but a plain one.
        plain = _Inverse(fresh.alpha, empty, empty, fresh.slot, iterate.norm)
        memory = _Memory(plain, plain.apply(iterate.residual))
        nowhere = ~jnp.isfinite(new.iterate.norm) & (slot > 0)
        return tree_math.where(nowhere, state.stayed(memory, new.evaluations), new)
