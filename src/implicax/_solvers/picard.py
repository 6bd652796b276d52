"""Plain fixed-point iteration."""

import equinox as eqx
from jaxtyping import Array, Float

from implicax._core import tree_math
from implicax._core.tree_math import Vector
from implicax._linear.approximate_inverse import ScaledIdentityInverse
from implicax._problems.equations import System
from implicax._solvers.base import AbstractSolver, State, fraction, tolerance


class Picard(AbstractSolver):
    """`y <- y - damping * F(y)`: for `F = y - f(y)` and no damping, `y <- f(y)`.

    Converges, at the rate of the spectral radius, where the map contracts near the
    solution (Banach 1922). On a root problem it is Richardson iteration, which needs
    the eigenvalues of `dF/dy` inside the disc of radius 1 around 1.

    **Arguments:**

    - `damping`: the fraction of the full step taken, in `(0, 1]` as a rule; less than
      one tames oscillation (eigenvalues near -1).
    - `rtol`, `atol`, `record_history`: see [`implicax.AbstractSolver`][].

    ```python
    import implicax as ix
    import jax.numpy as jnp

    cosine = lambda y, a: jnp.cos(a * y)
    solution = ix.fixed_point(cosine, 0.5, 1.0, solver=ix.Picard(damping=0.7))
    print(f"{solution.value:.4f}")
    ```
    ```text
    0.7391
    ```
    """

    damping: Float[Array, ""] = eqx.field(converter=fraction("damping"), default=1.0)
    rtol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    atol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    record_history: bool = eqx.field(static=True, default=False)

    def init(self, system: System, y: Vector) -> State:
        return State.start(system, y)

    def approximate_inverse(self, state: State) -> ScaledIdentityInverse:
        return ScaledIdentityInverse(self.damping.astype(state.iterate.norm.dtype))

    def step(self, system: System, state: State) -> State:
        correction = tree_math.scaled(self.damping, state.iterate.residual)
        return state.move(system, tree_math.subtract(state.iterate.y, correction))
