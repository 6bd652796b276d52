"""Cone programs by Clarabel, on the host."""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float

from implicax._core.keywords import check_solver_call
from implicax._core.optional import library
from implicax._problems import cones as kinds
from implicax._solvers.base import tolerance
from implicax._solvers.cones.base import (
    INFEASIBLE,
    NOTHING,
    SOLVED,
    UNBOUNDED,
    AbstractConeSolver,
)


class Clarabel(AbstractConeSolver):
    """Clarabel, an interior point method (Goulart & Chen 2024), on the host.

    From where it ends, the last digits, the verdict and the derivative are ours. Lanes
    of a `vmap` take turns. Needs `implicax[cones]`.

    **Arguments:**

    - `options`: of `clarabel.DefaultSettings`, by name.
    - `rtol`: the relative error that each unknown may have; `None` means `eps**(2/3)`.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    cone, identity = ix.cones.Nonnegative(1), jnp.eye(1)
    engine = ix.Clarabel(options={"tol_gap_rel": 1e-9})
    solution = ix.cone_program(
        identity, jnp.ones(1), -identity, jnp.zeros(1), [cone], solver=engine
    )
    print(solution.value)
    ```
    ```text
    [0.]
    ```
    """

    options: Any = eqx.field(
        static=True, converter=lambda o: tuple((o or {}).items()), default=None
    )
    rtol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)

    def __new__(cls, *args: Any, **options: Any):
        check_solver_call(cls, args, options)
        return super().__new__(cls)

    def __check_init__(self):
        settings = _clarabel().DefaultSettings()
        for name, _ in self.options:
            if not hasattr(settings, name):
                there = ", ".join(x for x in dir(settings) if not x.startswith("_"))
                raise ValueError(f"clarabel has no option {name!r}. It has {there}.")

    def on_host(self, data, cones, max_steps):
        clarabel = _clarabel()
        sparse = library("scipy.sparse", "ix.Clarabel", "cones").csc_matrix
        P, q, A, b = data
        if not all(np.isfinite(part).all() for part in data):
            return np.full_like(q, np.nan), np.full_like(b, np.nan), NOTHING, 0
        settings = clarabel.DefaultSettings()
        settings.verbose = False
        settings.max_iter = max_steps
        for name, value in self.options:
            setattr(settings, name, value)
        taken = [_taken(clarabel, cone) for cone in cones]

        def run(P: np.ndarray, q: np.ndarray) -> Any:
            parts = sparse(np.triu(P)), q, sparse(A), b, taken, settings
            return clarabel.DefaultSolver(*parts).solve()

        found = run(P, q)
        status = str(found.status)
        x, z = np.asarray(found.x), np.asarray(found.z)
        ending = SOLVED
        if "PrimalInfeasible" in status:
            ending = INFEASIBLE
        elif "DualInfeasible" in status:
            # Unbounded, if there is a point to begin with.
            begun = str(run(np.zeros_like(P), np.zeros_like(q)).status)
            ending = UNBOUNDED if "Solved" in begun else NOTHING
        return x, z, ending, int(found.iterations)


def _clarabel() -> Any:
    return library("clarabel", "ix.Clarabel", "cones")


def _taken(clarabel: Any, cone: kinds.AbstractCone) -> Any:
    """What Clarabel calls a cone."""
    match cone:
        case kinds.Zero():
            return clarabel.ZeroConeT(cone.count)
        case kinds.Nonnegative():
            return clarabel.NonnegativeConeT(cone.count)
        case kinds.SecondOrder():
            return clarabel.SecondOrderConeT(cone.count)
        case kinds.Semidefinite():
            return clarabel.PSDTriangleConeT(cone.order)
        case kinds.Exponential():
            return clarabel.ExponentialConeT()
        case kinds.Power():
            return clarabel.PowerConeT(cone.exponent)
        case _:
            raise TypeError(f"Clarabel does not know {cone!r}.")
