"""The chord method: Newton's, with its first Jacobian throughout."""

import dataclasses
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import _tree
from .._lu import DENSE_LIMIT, Factor, factorise
from .._solution import Status
from .._system import System
from .._termination import natural
from .._tree import Vector
from ._base import AbstractSolver, State, tolerance


class Chord(AbstractSolver):
    """Newton's method with the Jacobian of the initial guess throughout.

    One factorisation in all, then linear convergence at a rate proportional to the
    distance of the first Jacobian from the last (the simplified Newton method;
    Kelley, *Iterative Methods for Linear and Nonlinear Equations*, sec. 5.4). Up to
    4096 real unknowns.

    **Arguments:** `rtol`, `atol`, `record_history`: see [`implicax.AbstractSolver`][].
    """

    rtol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    atol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    record_history: bool = eqx.field(static=True, default=False)

    forms_jacobian: ClassVar[bool] = True

    def init(self, system: System, y: Vector) -> State:
        if _tree.size(y) > DENSE_LIMIT:
            raise ValueError(
                f"Chord forms the Jacobian, and y0 has {_tree.size(y)} real unknowns; "
                f"the limit is {DENSE_LIMIT}. Use ix.Newton (matrix-free beyond that), "
                "ix.Broyden or ix.Anderson."
            )
        state = State.start(system, y)
        factor = factorise(system.jacobian(y))
        correction = factor.solve(state.point.residual, transposed=False)
        return dataclasses.replace(state, memory=(factor, correction))

    def step(self, system: System, state: State) -> State:
        fixed = jax.lax.stop_gradient
        factor, correction = state.memory
        new = state.move(system, _tree.subtract(state.point.y, correction))
        left = factor.solve(new.point.residual, transposed=False)
        # Its own corrections are its errors, where they fall.
        old, y = state.point.y, new.point.y
        falls = natural(old, fixed(correction), y, fixed(left), new.reach)
        error = jax.tree.map(lambda c: 2 * jnp.abs(c), fixed(left))
        return dataclasses.replace(
            new,
            memory=(factor, left),
            error=error,
            moved_by=jnp.where(falls, 0, new.moved_by),
        )

    def why_stuck(self, state: State) -> Status:
        singular = state.memory[0].singular
        return Status.where(singular, Status.singular, Status.stagnated)

    def approximate_inverse(self, state: State) -> Factor:
        return state.memory[0]
