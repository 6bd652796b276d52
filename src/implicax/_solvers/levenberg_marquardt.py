"""Least squares, and roots as the least squares of their residual."""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicax._core import tree_math
from implicax._core.solution import Status
from implicax._core.tree_math import Vector
from implicax._problems.equations import Iterate, System
from implicax._problems.losses import Squares
from implicax._solvers.base import State, tolerance
from implicax._solvers.curvature import gauss_newton
from implicax._solvers.minimality import DECOMPOSED, concluded, examine
from implicax._solvers.trust_region_base import AbstractTrustRegion
from implicax._solvers.trust_region_memory import Memory
from implicax._solvers.trust_region_subproblem import (
    Spectral,
    from_hessian,
    from_jacobian,
    from_product,
)


class LevenbergMarquardt(AbstractTrustRegion):
    """Least squares by the Gauss-Newton model, in a trust region; and roots, as the
    least squares of their residual.

    Levenberg (1944), Marquardt (1963), in More's form: a radius instead of a damping
    parameter, and variables scaled by the columns of the Jacobian (More 1978, *The
    Levenberg-Marquardt algorithm: implementation and theory*), which is decomposed
    (so nothing is squared) up to 512 real unknowns; beyond that by truncated conjugate
    gradients. A fit is examined at the end, by at most four Newton steps with the exact
    Hessian: what looks settled to the Gauss-Newton model may be a `saddle`, or the way
    to infinity (`unbounded`). Converges fast where the errors at the solution are
    small. A robust loss enters with its second derivative, where that is at least a
    tenth of its first (Triggs et al. 2000, sec. 4.3).

    **Arguments:**

    - `retry`: where a fit fails, once more from the start with the exact Hessian, as
      [`implicax.TrustRegion`][] does; counts and histories as of
      [`implicax.Newton`][]. Up to 512 real unknowns.
    - `rtol`: as of [`implicax.TrustRegion`][] for least squares, as of
      [`implicax.AbstractSolver`][] for roots; `atol`, `record_history`: likewise.

    ```python
    import implicax as ix

    cubic = lambda y, a: y**3 + y - a
    solution = ix.root(cubic, 1.0, 10.0, solver=ix.LevenbergMarquardt())
    print(f"{solution.value:.4f}")
    ```
    ```text
    2.0000
    ```
    """

    retry: bool = eqx.field(static=True, default=False)
    rtol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    atol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    record_history: bool = eqx.field(static=True, default=False)

    precision: ClassVar[float] = 0.8
    forms_jacobian: ClassVar[bool] = True

    def check(self, system: System) -> None:
        if system.objective is not None and system.errors is None:
            raise TypeError(
                "ix.LevenbergMarquardt needs the errors whose squares are summed, and "
                "this objective is a scalar. Use ix.TrustRegion, or ix.least_squares."
            )
        if system.errors_reverse_only:
            raise TypeError(
                "fn has a VJP only (a jax.custom_vjp), and ix.LevenbergMarquardt needs "
                "Jacobian-vector products. Use ix.TrustRegion for a fit, ix.Broyden "
                "for a root, or give fn a jax.custom_jvp."
            )

    def _errors(self, system, y):
        if system.errors is None:
            return system.residual(y), Squares()
        return system.errors(y)

    def _objective(self, system, y):
        errors, loss = self._errors(system, y)
        return loss.cost(errors)

    def _model(self, system, state, scale, forcing):
        if scale is None:
            y = state.iterate.y
            errors, push, loss = self._linearize(system, y)
            pull, weights = jax.linear_transpose(push, y), loss.weights(errors)

            def product(t: Vector) -> Vector:
                return pull(jax.tree.map(jnp.multiply, weights, push(t)))[0]

            return from_product(product, pull(loss.slopes(errors))[0], forcing), None

        def gauss_newton_at(y: Vector) -> tuple[Spectral, Array]:
            errors, push, loss = self._linearize(system, y)
            jacobian, r, *_ = gauss_newton(push, errors, loss, y)
            return from_jacobian(jacobian, r, y, scale)

        def exact_at(y: Vector) -> tuple[Spectral, Array]:
            return from_hessian(system.jacobian(y), state.iterate.residual, scale)

        if not self._retries(state.iterate):
            return gauss_newton_at(state.iterate.y)
        again, last = state.memory.flags.again, (state.memory.inverse, scale)
        model = self._one_of(~again, gauss_newton_at, state.iterate.y, last)
        return self._one_of(again, exact_at, state.iterate.y, model)

    def _linearize(self, system, y):
        return jax.linearize(lambda y: self._errors(system, y), y, has_aux=True)

    def _one_of(
        self, needed: Any, model: Callable[[Vector], Any], y: Vector, otherwise: Any
    ) -> Any:
        """The model at `y` where it is needed: a loop of at most one round, since under
        `vmap` a `cond` takes both its ways. (The point depends on the carry, or the
        compiler would move all out of the loop, and always compute it.)"""

        def once(carry: tuple) -> tuple:
            needed, _ = carry
            here = jax.tree.map(lambda leaf: jnp.where(needed, leaf, jnp.nan), y)
            return jnp.zeros((), bool), model(here)

        return tree_math.while_loop(lambda carry: carry[0], once, (needed, otherwise))[
            1
        ]

    def _retries(self, start: Iterate) -> bool:
        few = tree_math.num_unknowns(start.y) <= DECOMPOSED
        return self.retry and few and start.objective is not None

    def restarted(self, state: State) -> State | None:
        start = state.memory.start
        if not self._retries(start):
            return None
        memory = Memory.fresh(start, again=True)
        return State.at(start, memory, jnp.zeros((), jnp.int32))

    def judged(self, system: System, state: State, outcome: Any) -> Any:
        outcome = super().judged(system, state, outcome)
        if state.iterate.objective is None or state.memory.inverse is None:
            return outcome
        memory = state.memory
        found = examine(system, state.iterate, memory.start.y, state.reach, self.rtol)
        return concluded(outcome, found, self.atol, memory.flags.again)

    def failure_reason(self, state: State) -> Status:
        why, inverse = super().failure_reason(state), state.memory.inverse
        if state.iterate.objective is not None or inverse is None:
            return why
        # As of Newton's method: a root at which dF/dy is singular is one of many.
        lost = ~jnp.all(inverse.values > 0) & (state.memory.numbers.first_slope >= 0)
        return Status.where(lost, Status.singular, why)

    def approximate_inverse(self, state: State) -> Spectral | None:
        return state.memory.inverse if state.iterate.objective is not None else None
