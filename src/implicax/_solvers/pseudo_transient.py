"""Pseudo-transient continuation: follow `y' = -F(y)` to its steady state."""

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicax._core import tree_math
from implicax._core.checks import positive
from implicax._core.solution import Status
from implicax._core.tree_math import DENSE_LIMIT, Vector
from implicax._linear.linear_solve import Auto, LinearSolve, linear_solver
from implicax._linear.lu import (
    Elimination,
    LUFactors,
    augment,
    eliminate,
    no_elimination,
)
from implicax._problems.equations import System
from implicax._solvers.base import AbstractSolver, State, tolerance

#: Where a step leads to NaN it is not taken, and the next one is shorter by this.
SHRINK = 0.1


def _first_step(value: Any) -> Float[Array, ""] | None:
    return None if value is None else positive("first_step")(value)


class _Memory(eqx.Module):
    delta: Float[Array, ""]
    """The next step in (pseudo) time; negative before there is one."""
    elimination: Elimination | None


class PseudoTransient(AbstractSolver):
    """A root as the steady state of `y' = -F(y)`, by ever longer implicit Euler steps.

    Each step solves `(I / delta + J) d = -F`: short ones follow the transient, which
    leads from far away to the state that the system would really settle in, and long
    ones are Newton's. The step in time grows as the residual falls, `delta <- delta
    |F_old| / |F_new|` (*switched evolution relaxation*: Mulder & van Leer 1985; Kelley
    & Keyes 1998, which has the proof of convergence). The residual may rise on the way;
    a root that repels (an eigenvalue of `J` with a negative real part) is not found
    from afar: there, solve `-F = 0`.

    **Arguments:**

    - `first_step`: the first `delta`, in the unit of `y / F`; `None` means
      `|y0| / |F(y0)|` (1 for `|y0|` where that is zero). Shorter is safer and slower.
    - `linear_solver`: as in [`implicax.Newton`][].
    - `rtol`, `atol`, `record_history`: see [`implicax.AbstractSolver`][].

    ```python
    import implicax as ix

    cubic = lambda y, a: y**3 + y - a
    solution = ix.root(cubic, 1.0, 10.0, solver=ix.PseudoTransient())
    print(f"{solution.value:.4f}")
    ```
    ```text
    2.0000
    ```
    """

    first_step: Float[Array, ""] | None = eqx.field(converter=_first_step, default=None)
    linear_solver: Any = eqx.field(converter=linear_solver, default="auto")
    rtol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    atol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    record_history: bool = eqx.field(static=True, default=False)

    precision: ClassVar[float] = 0.8
    forms_jacobian: ClassVar[bool] = True
    # Transients may last, and the residual rise in them.
    patience: ClassVar[float] = 2**24

    def _dense(self, y: Vector) -> bool:
        auto = isinstance(self.linear_solver, Auto)
        return auto and tree_math.num_unknowns(y) <= DENSE_LIMIT

    def init(self, system: System, y: Vector) -> State:
        if system.reverse_only:
            raise TypeError(
                "fn has a VJP only (a jax.custom_vjp), and ix.PseudoTransient needs "
                "Jacobian-vector products. Give fn a jax.custom_jvp."
            )
        state = State.start(system, y)
        iterate = state.iterate
        if self.first_step is None:
            size = tree_math.max_norm(y)
            size = jnp.where(size > 0, size, 1)
            residual = jnp.where(iterate.norm > 0, iterate.norm, 1)
            delta = jax.lax.stop_gradient(size / residual)
        else:
            delta = self.first_step.astype(iterate.norm.dtype)
        elimination = no_elimination(y) if self._dense(y) else None
        return dataclasses.replace(state, memory=_Memory(delta, elimination))

    def step(self, system: System, state: State) -> State:
        iterate, delta = state.iterate, state.memory.delta
        elimination = None
        if self._dense(iterate.y):
            flat, unravel = tree_math.ravel(iterate.residual)
            matrix = system.jacobian(iterate.y)
            shift = jnp.eye(flat.size, dtype=flat.dtype) / delta.astype(flat.dtype)
            elimination = eliminate(*augment(matrix + shift, flat))
            correction = unravel(elimination.solution)
        else:
            _, product = jax.linearize(system.residual, iterate.y)

            def shifted(t: Vector) -> Vector:
                return tree_math.add(product(t), tree_math.scaled(1 / delta, t))

            solve = LinearSolve(self.linear_solver, None)
            correction = solve.approximately(shifted, iterate.residual, False)
        new = state.move(system, tree_math.subtract(iterate.y, correction))
        # |F_old| / |F_new|, Euclidean; it is a choice, and has no derivative.
        old_norm, new_norm = jax.lax.stop_gradient(
            (
                tree_math.two_norm(iterate.residual),
                tree_math.two_norm(new.iterate.residual),
            )
        )
        usable = jnp.isfinite(new_norm)
        growth = old_norm / jnp.where(new_norm > 0, new_norm, old_norm)
        longest = jnp.finfo(delta.dtype).max ** 0.5
        delta = delta * jnp.where(usable, growth, SHRINK)
        halted = ~usable & (delta <= 1 / longest)
        kept = tree_math.where(usable, new.iterate, iterate)
        memory = _Memory(jnp.minimum(delta, longest), elimination)
        return dataclasses.replace(new, iterate=kept, memory=memory, halted=halted)

    def failure_reason(self, state: State) -> Status:
        del state
        return Status.non_finite

    def approximate_inverse(self, state: State) -> LUFactors | None:
        elimination = state.memory.elimination
        return None if elimination is None else elimination.factor
