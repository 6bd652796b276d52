"""The chord method: Newton's, with its first Jacobian throughout."""

import dataclasses
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicax._core import tree_math
from implicax._core.solution import Status
from implicax._core.tree_math import DENSE_LIMIT, Vector
from implicax._linear.lu import LUFactors, factorise
from implicax._problems.equations import System
from implicax._solvers.base import AbstractSolver, State, tolerance
from implicax._solvers.termination import natural


class Chord(AbstractSolver):
    """Newton's method with the Jacobian of the initial guess throughout.

    One factorisation in all, then linear convergence at a rate proportional to the
    distance of the first Jacobian from the last (the simplified Newton method;
    Kelley, *Iterative Methods for Linear and Nonlinear Equations*, sec. 5.4). Up to
    4096 real unknowns.

    **Arguments:** `rtol`, `atol`, `record_history`: see [`implicax.AbstractSolver`][].

    ```python
    import implicax as ix

    solution = ix.root(lambda y, a: y**3 + y - a, 2.1, 10.0, solver=ix.Chord())
    print(f"{solution.value:.4f}")
    ```
    ```text
    2.0000
    ```
    """

    rtol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    atol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    record_history: bool = eqx.field(static=True, default=False)

    forms_jacobian: ClassVar[bool] = True

    def init(self, system: System, y: Vector) -> State:
        n = tree_math.num_unknowns(y)
        if n > DENSE_LIMIT:
            raise ValueError(
                f"Chord forms the Jacobian, and y0 has {n} real unknowns; the limit is "
                f"{DENSE_LIMIT}. Use ix.Newton (matrix-free beyond that), ix.Broyden "
                "or ix.Anderson."
            )
        state = State.start(system, y)
        factor = factorise(system.jacobian(y))
        correction = factor.solve(state.iterate.residual, transposed=False)
        return dataclasses.replace(state, memory=(factor, correction))

    def step(self, system: System, state: State) -> State:
        fixed = jax.lax.stop_gradient
        factor, correction = state.memory
        new = state.move(system, tree_math.subtract(state.iterate.y, correction))
        left = factor.solve(new.iterate.residual, transposed=False)
        # Its own corrections are its errors, where they fall.
        old, y = state.iterate.y, new.iterate.y
        falls = natural(old, fixed(correction), y, fixed(left), new.reach)
        error = jax.tree.map(lambda c: 2 * jnp.abs(c), fixed(left))
        return dataclasses.replace(
            new,
            memory=(factor, left),
            error=error,
            moved_by=jnp.where(falls, 0, new.moved_by),
        )

    def failure_reason(self, state: State) -> Status:
        singular = state.memory[0].singular
        return Status.where(singular, Status.singular, Status.stagnated)

    def approximate_inverse(self, state: State) -> LUFactors:
        return state.memory[0]
