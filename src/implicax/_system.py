"""The conditions as a solver sees them: functions of the unknown alone."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from . import _tree
from ._conditions import Conditions
from ._losses import AbstractLoss
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
    objective: Float[Array, ""] | None = None
    """What is minimised, where something is."""

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

    Where the residual is the gradient of an objective, that is there too; and where the
    objective is a sum of squares, the errors.

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
    objective: Callable[[Vector], Array] | None = None
    """What `residual` is the gradient of, if it is one."""
    errors: Callable[[Vector], tuple[Vector, AbstractLoss]] | None = None
    """What the objective sums up, by which loss, if it is a sum."""
    errors_reverse_only: bool = eqx.field(static=True, default=False)
    """Whether the errors have a VJP but no JVP."""

    @classmethod
    def of(
        cls,
        conditions: Conditions,
        inputs: PyTree[Array],
        *,
        differentiable: bool = False,
    ) -> "System":
        """The conditions at `inputs`."""

        def at(function: Callable[..., Any] | None) -> Any:
            return None if function is None else lambda v: function(v, inputs)

        return cls(
            at(conditions.residual),
            conditions.fixed_point,
            differentiable,
            conditions.reverse_only,
            at(getattr(conditions, "objective", None)),
            at(getattr(conditions, "errors", None)),
            conditions.traced_reverse_only,
        )

    def evaluate(self, y: Vector) -> Point:
        """The residual at `y`, its norm, and the scale of the relative test.

        A residual `y - f(y)` has the unit of `y`: its scale is `|y|`. Any other is
        compared with `|J y|`, the change that a relative change of `y` makes in it, so
        that `|F| <= rtol |J y|` means a backward error of `rtol` in whatever units `F`
        comes in (Higham, *Accuracy and Stability of Numerical Algorithms*, ch. 7).
        Without a forward mode `J y` is a difference of two residuals.

        The sizes steer the solver; they are not differentiated.
        """

        def both(y: Vector) -> tuple[Vector, Array | None]:
            if self.objective is None:
                return self.residual(y), None
            objective, gradient = jax.value_and_grad(self.objective)(y)
            return gradient, objective

        if self.fixed_point:
            (residual, objective), reference = both(y), y
        elif self.reverse_only:
            (residual, objective), step = both(y), _tree.coarsest_eps(y) ** 0.5
            there = self.residual(jax.tree.map(lambda x: x * (1 + step), y))
            change = _tree.subtract(there, residual)
            reference = jax.tree.map(lambda x: x / step, change)
        else:
            (residual, objective), (reference, _) = jax.jvp(both, (y,), (y,))
        norm, scale = jax.lax.stop_gradient(
            (_tree.largest(residual), _tree.largest(reference))
        )
        return Point(y, residual, norm, scale, objective)

    def jacobian(self, y: Vector) -> Float[Array, "n n"]:
        """`dF/dy` as a matrix: by columns, or by rows where only a VJP is there."""
        if self.reverse_only:
            _, pullback = jax.vjp(self.residual, y)
            return materialise(lambda u: pullback(u)[0], y).T
        return materialise(jax.linearize(self.residual, y)[1], y)
