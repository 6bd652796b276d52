"""Minimisation in a trust region, by the exact Hessian."""

from typing import ClassVar

import equinox as eqx
import jax
from jaxtyping import Array, Float

from implicax._problems.equations import System
from implicax._solvers.base import tolerance
from implicax._solvers.trust_region_base import AbstractTrustRegion
from implicax._solvers.trust_region_subproblem import from_hessian, from_product


class TrustRegion(AbstractTrustRegion):
    """Newton's method for minima, in a trust region.

    Each step minimises the quadratic model with the exact Hessian inside a region in
    which the model has proved right. It leaves saddle points along negative curvature,
    takes none along exactly flat directions, and converges quadratically to a minimum
    with a positive definite Hessian (Conn, Gould & Toint, *Trust-Region Methods*,
    2000). What is not attained is told as `unbounded`, and a minimum that is not
    isolated (but for directions that stay flat for good) as `degenerate`. Up to 512
    real unknowns the Hessian is decomposed (More & Sorensen 1983) and variables are
    scaled by its diagonal; beyond, truncated conjugate gradients need Hessian-vector
    products alone (Steihaug 1983).

    **Arguments:**

    - `rtol`: the solve has converged when the estimated error of *each* unknown is
      within `rtol` of its own size, in whatever units; `None` means `eps**(2/3)` of the
      unknown's dtype. The estimate is Newton's step times what is to come at the rate
      at which Newton's steps shrink. Where they stop shrinking, at `eps**0.55` or at
      what the rounding errors of the gradient make of an unknown that is zero, it has
      converged too.
    - `atol`: ... or when no component of the gradient is larger than `atol`, in its
      units; `None` means never.
    - `record_history`: keep the largest component of the gradient of every step in
      `solution.stats.residual_history`.

    ```python
    import implicax as ix

    valley = lambda y, a: (y**2 - a) ** 2
    solution = ix.minimize(valley, 1.0, 2.0, solver=ix.TrustRegion())
    print(f"{solution.value:.4f}")
    ```
    ```text
    1.4142
    ```
    """

    rtol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    atol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    record_history: bool = eqx.field(static=True, default=False)

    exact: ClassVar[bool] = True

    def check(self, system: System) -> None:
        if system.objective is None:
            raise TypeError(
                "ix.TrustRegion minimises an objective, and this is an equation. Use "
                "ix.LevenbergMarquardt, which minimises its residual, or ix.Newton."
            )
        if system.reverse_only:
            raise TypeError(
                "fn has a VJP only (a jax.custom_vjp), and ix.TrustRegion needs its "
                "second derivatives. Use ix.Optax(optax.lbfgs()), or give fn a "
                "jax.custom_jvp."
            )

    def _objective(self, system, y):
        assert system.objective is not None
        return system.objective(y)

    def _model(self, system, state, scale, forcing):
        y, g = state.iterate.y, state.iterate.residual
        if scale is None:
            _, product = jax.linearize(system.residual, y)
            return from_product(product, g, forcing), None
        return from_hessian(system.jacobian(y), g, scale)
