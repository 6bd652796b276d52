"""The solver of nonlinear programs that runs everywhere."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicax._core.keywords import check_solver_call
from implicax._solvers.base import tolerance
from implicax._solvers.constrained.barrier import MU, Walk, interior_point
from implicax._solvers.constrained.base import AbstractConstrainedSolver, Guess
from implicax._solvers.constrained.nonlinear import Units
from implicax._solvers.programs.scaled import sides

#: Where an attempt goes on from the last one the barrier begins with this part of its
#: weight.
ONWARD = 1e-3


class NonlinearInteriorPoint(AbstractConstrainedSolver):
    """A dense primal-dual interior point method with a filter, finished on the active
    constraints.

    It runs inside `jit` and `vmap`, on every device. `fn` and constraints are evaluated
    strictly inside the bounds only, until the last steps. A step costs the exact
    Hessian of the Lagrangian and a Cholesky factorisation in the unknowns (Waechter &
    Biegler, Math. Program. 106, 2006, made dense, and regularised).

    **Arguments:**

    - `rtol`: the relative error that each unknown may have; `None` means `eps**(2/3)`
      (4e-11 in float64, 2e-5 in float32).

    ```python
    import implicax as ix
    import jax.numpy as jnp

    solver = ix.NonlinearInteriorPoint(rtol=1e-5)
    box = (-1.0, 1.0)
    objective = lambda y, a: jnp.sum(jnp.exp(y) - 8 * y)
    start = jnp.zeros(2)
    print(ix.minimize(objective, start, bounds=box, solver=solver).value)
    ```
    ```text
    [1. 1.]
    ```
    """

    attempts = 3

    rtol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)

    def __new__(cls, *args: Any, **options: Any):
        check_solver_call(cls, args, options)
        return super().__new__(cls)

    def attempt(self, program, x, number, max_steps):
        # From where the last one ended, in the units there, by turns near and far
        # from the sides.
        m = program.lower.size - x.size
        units = Units.at(program, x)
        scaled = units.of(program)
        weight = jnp.where(number % 2 == 1, ONWARD * MU, MU)
        walk = Walk.begin(scaled, x / units.d, weight.astype(x.dtype))
        walk = interior_point(scaled, walk, max_steps)
        pull, gaps = walk.z, scaled.slacks(walk.w)
        upper, lower = scaled.sided & (pull > gaps)
        t = jnp.concatenate([walk.y, (pull[0] - pull[1])[m:]])
        per = jnp.concatenate([units.e, 1 / units.d]) / units.c
        return Guess(
            x=units.d * walk.w[m:],
            t=per * t,
            side=sides(scaled.fixed | upper, lower),
            reach=units.d * walk.reach,
            steps=walk.steps,
            unbounded=walk.endless,
            infeasible=walk.infeasible,
        )
