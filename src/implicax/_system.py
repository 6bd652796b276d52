"""The conditions as a solver sees them: functions of the unknown alone."""

from collections.abc import Callable

import equinox as eqx
import jax
from jaxtyping import Array, Float

from . import _tree
from ._tree import Vector


class Point(eqx.Module):
    """An iterate, its residual, and how large that is."""

    y: Vector
    residual: Vector
    norm: Float[Array, ""]
    """`|F(y)|`, its largest component."""
    scale: Float[Array, ""]
    """What `|F(y)|` is to be compared with: see `System.evaluate`."""


class System(eqx.Module):
    """`residual(y) = 0`, everything but `y` fixed.

    Made by hand to single-step a solver:

    ```python
    import implicax as ix
    import jax.numpy as jnp

    system = ix.System(lambda y: y - jnp.cos(y), fixed_point=True)
    solver = ix.Picard()
    state = solver.init(system, jnp.asarray(0.5))
    while not solver.converged(state):
        state = solver.step(system, state)
    print(f"{state.point.y:.4f}")
    ```
    ```text
    0.7391
    ```
    """

    residual: Callable[[Vector], Vector]
    fixed_point: bool = eqx.field(static=True, default=False)
    """Whether the residual is `y - f(y)`."""
    differentiable: bool = eqx.field(static=True, default=False)
    """Whether derivatives are to flow through a solver's steps."""

    def evaluate(self, y: Vector) -> Point:
        """The residual at `y`, its norm, and the scale of the relative test.

        A residual `y - f(y)` has the unit of `y`: its scale is `|y|`. Any other is
        compared with `|J y|`, the change that a relative change of `y` makes in it, so
        that `|F| <= rtol |J y|` means a backward error of `rtol` in whatever units `F`
        comes in (Higham, *Accuracy and Stability of Numerical Algorithms*, ch. 7).

        The sizes steer the solver; they are not differentiated.
        """
        if self.fixed_point:
            residual, reference = self.residual(y), y
        else:
            residual, reference = jax.jvp(self.residual, (y,), (y,))
        norm, scale = jax.lax.stop_gradient(
            (_tree.largest(residual), _tree.largest(reference))
        )
        return Point(y, residual, norm, scale)
