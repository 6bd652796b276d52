"""The conditions as a solver sees them: functions of the unknown alone."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from . import _tree
from ._lu import materialise
from ._tree import Vector


class Point(eqx.Module):
    """An iterate, its residual, and how large that is."""

    y: Vector
    residual: Vector
    norm: Float[Array, ""]
    """`|F(y)|`, its largest component."""
    scale: Float[Array, ""]
    """What `|F(y)|` is to be compared with: see `System.evaluate`."""

    def meets(
        self,
        rtol: Array | float,
        atol: Array | float,
        first_norm: Array,
        first_scale: Array,
    ) -> Bool[Array, ""]:
        """Whether the residual is as small as `|F| <= atol + rtol * scale` asks.

        An iteration that runs off to infinity does not converge there: far out (than
        where `first_norm` and `first_scale` were measured), the residual must have
        fallen too, by more than what rounds away at that scale.
        """
        small = self.norm <= atol + rtol * self.scale
        real = jnp.isfinite(self.norm) & jnp.isfinite(self.scale)
        near = self.scale <= 10 * (first_scale + first_norm)
        fallen = self.norm <= 0.1 * first_norm
        visible = _tree.coarsest_eps(self.y) * self.scale < first_norm
        return small & real & (near | (fallen & visible))


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
    reverse_only: bool = eqx.field(static=True, default=False)
    """Whether the residual has a VJP but no JVP."""

    def evaluate(self, y: Vector) -> Point:
        """The residual at `y`, its norm, and the scale of the relative test.

        A residual `y - f(y)` has the unit of `y`: its scale is `|y|`. Any other is
        compared with `|J y|`, the change that a relative change of `y` makes in it, so
        that `|F| <= rtol |J y|` means a backward error of `rtol` in whatever units `F`
        comes in (Higham, *Accuracy and Stability of Numerical Algorithms*, ch. 7).
        Without a forward mode `J y` is a difference of two residuals.

        The sizes steer the solver; they are not differentiated.
        """
        if self.fixed_point:
            residual, reference = self.residual(y), y
        elif self.reverse_only:
            residual, step = self.residual(y), _tree.coarsest_eps(y) ** 0.5
            there = self.residual(jax.tree.map(lambda x: x * (1 + step), y))
            change = _tree.subtract(there, residual)
            reference = jax.tree.map(lambda x: x / step, change)
        else:
            residual, reference = jax.jvp(self.residual, (y,), (y,))
        norm, scale = jax.lax.stop_gradient(
            (_tree.largest(residual), _tree.largest(reference))
        )
        return Point(y, residual, norm, scale)

    def jacobian(self, y: Vector) -> Float[Array, "n n"]:
        """`dF/dy` as a matrix: by columns, or by rows where only a VJP is there."""
        if self.reverse_only:
            _, pullback = jax.vjp(self.residual, y)
            return materialise(lambda u: pullback(u)[0], y).T
        return materialise(jax.linearize(self.residual, y)[1], y)
