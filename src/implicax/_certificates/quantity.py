"""What is certified: the derivative of a loss at what solves an equation."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from implicax._core.checks import split_arrays
from implicax._core.traced_function import TracedFunction, trace
from implicax._core.tree_math import Vector, dot
from implicax._core.user_function import call_function
from implicax._derivatives.implicit import Hessian
from implicax._linear.krylov import Krylov
from implicax._linear.linear_solve import Auto
from implicax._linear.minimum_norm import MinimumNorm
from implicax._problems.base import AbstractProblem
from implicax._problems.canonical import CanonicalProblem, canonicalize
from implicax._problems.optimality_conditions import OptimalityConditions


class Quantity(eqx.Module):
    """`loss(y, args)` where `y` solves the conditions; everything is an input."""

    conditions: OptimalityConditions = eqx.field(static=True)
    closed_loss: TracedFunction = eqx.field(static=True)
    constants: tuple[list[Array], list[Array]]
    fixed: PyTree[Array]
    """The arrays of `args` that are not floating."""
    data: PyTree[Array]
    """What else the conditions take (`CanonicalProblem.inputs`)."""
    choice: Auto | Krylov | MinimumNorm = eqx.field(default_factory=Auto)
    hessian: Hessian = eqx.field(static=True, default="exact")

    def loss(self, v: Vector, args: PyTree[Array]) -> Float[Array, ""]:
        return self.closed_loss.output(
            v, (self.constants[1], eqx.combine(args, self.fixed))
        )

    def inputs(self, args: PyTree[Array]) -> PyTree[Array]:
        """What the conditions take at `args`."""
        return self.constants[0], (eqx.combine(args, self.fixed), self.data)

    def residual(self, v: Vector, args: PyTree[Array]) -> Vector:
        return self.conditions.residual(v, self.inputs(args))

    def stationarity(
        self, v: Vector, args: PyTree[Array], u: Vector
    ) -> tuple[Vector, PyTree[Array]]:
        """The derivatives of the Lagrangian `l - u^T F`: in `v`, what is left of the
        adjoint equation; in `args`, the implicit gradient."""

        def lagrangian(v: Vector, args: PyTree[Array]) -> Array:
            loss = self.loss(v, args)
            return loss - dot(u, self.residual(v, args)).astype(loss.dtype)

        return jax.grad(lagrangian, argnums=(0, 1))(v, args)


def prepare(
    loss: Callable[[Any, Any], Array],
    problem: AbstractProblem,
    y: PyTree,
    args: PyTree,
    name: str,
) -> tuple[CanonicalProblem, Quantity, PyTree[Array]]:
    """The problem and the loss closed at `y` (called `name`), and what of `args` the
    gradient is in."""
    if isinstance(loss, AbstractProblem) or not callable(loss):
        raise TypeError(
            "loss must be a function of (y, args) that returns a real scalar, and it "
            f"is {loss!r}. The order is: loss, problem, {name}, args."
        )
    if not isinstance(problem, AbstractProblem):
        raise TypeError(
            "problem must be ix.Root(F), ix.FixedPoint(f), ix.Minimum(f) or "
            "ix.LeastSquares(r): the certificate needs to know what "
            f"{name} solves. It is {problem!r}."
        )
    canonical = canonicalize(problem, y, args, name)
    if canonical.conditions.structure.reverse_only:
        raise TypeError(
            "fn has a VJP only (a jax.custom_vjp), and the error bar needs "
            "Jacobian-vector products. Give fn a jax.custom_jvp to certify it."
        )
    constants, (arrays, data) = canonical.inputs
    _, others = split_arrays(args)
    floating, fixed = eqx.partition(arrays, eqx.is_inexact_array)

    if not jax.tree.leaves(floating):
        raise ValueError(
            "args holds no floating arrays, so there is no gradient to certify. Pass "
            "what the loss is to be differentiated with respect to through args."
        )

    def real_loss(v: Vector, arrays: PyTree[Array]) -> Array:
        y = canonical.view.from_real(v)
        return _check_loss(call_function(loss, y, eqx.combine(arrays, others), "loss"))

    closed_loss, loss_constants = trace(TracedFunction, real_loss, canonical.v0, arrays)
    both = (constants, loss_constants)
    quantity = Quantity(canonical.conditions, closed_loss, both, fixed, data)
    return canonical, quantity, floating


def _check_loss(value: Any) -> Array:
    value = jnp.asarray(value)
    if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(
            "loss must return a real scalar, and it returned "
            f"{value.dtype}{list(value.shape)}."
        )
    return value
