"""Optimality conditions `F(v, inputs) = 0`, and what is known of `dF/dv`.

On the real view, closed: functions of the unknown `v` and of all inputs.
"""

import operator
from collections.abc import Hashable
from typing import Any, ClassVar

import jax
from jaxtyping import Array, Float, PyTree

from implicax._core.traced_function import Computation, contains
from implicax._core.tree_math import Vector
from implicax._linear.jacobian_structure import JacobianStructure
from implicax._linear.lu import Product


def reverse_only(jaxpr: Any) -> bool:
    """Whether what it computes has a VJP but no JVP (a `jax.custom_vjp` in it)."""
    return contains(jaxpr, "custom_vjp_call")


class Conditions(Computation):
    """Equations. Calling them returns `(residual, aux_leaves)`."""

    #: Whether `dF/dv = I - A` with `A` the Jacobian of a map that one may hope
    #: contracts. Then the residual has the unit of `v`, and the linear systems can be
    #: solved by iterating the map's own linearisation.
    fixed_point: ClassVar[bool] = False
    #: Whether `dF/dv` is a Hessian, positive definite where all is well.
    symmetric: ClassVar[bool] = False

    def __init__(self, jaxpr: Any, out_tree: Any, numbers: int, key: Hashable):
        super().__init__(jaxpr, out_tree, numbers, key)
        #: Whether what is traced has a reverse mode only, ...
        self.traced_reverse_only = reverse_only(jaxpr)
        #: ... and whether `F` has.
        self.reverse_only = self.traced_reverse_only

    @property
    def structure(self) -> JacobianStructure:
        """What is known of `dF/dv`."""
        return JacobianStructure(
            fixed_point=self.fixed_point,
            positive_definite=self.symmetric,
            reverse_only=self.reverse_only,
        )

    def __call__(self, v: Vector, inputs: PyTree[Array]) -> tuple[Vector, list[Array]]:
        return self.output(v, inputs)

    def residual(self, v: Vector, inputs: PyTree[Array]) -> Vector:
        return self(v, inputs)[0]

    def linearise(self, v: Vector, inputs: PyTree[Array]) -> Product:
        """Multiplication by `dF/dv`."""
        return jax.linearize(lambda v: self.residual(v, inputs), v)[1]


class FixedPointConditions(Conditions):
    """`v - f(v) = 0`."""

    fixed_point: ClassVar[bool] = True


class Stationarity(Conditions):
    """The gradient of an objective is zero. What is traced is the objective."""

    symmetric: ClassVar[bool] = True

    def cost(self, output: Any) -> Float[Array, ""]:
        """The objective, of what is traced."""
        return output

    def objective(self, v: Vector, inputs: PyTree[Array]) -> Float[Array, ""]:
        return self.cost(self.output(v, inputs)[0])

    def __call__(self, v: Vector, inputs: PyTree[Array]) -> tuple[Vector, list[Array]]:
        def cost(v: Vector) -> tuple[Array, list[Array]]:
            output, aux = self.output(v, inputs)
            return self.cost(output), aux

        return jax.grad(cost, has_aux=True)(v)


class NormalEquations(Stationarity):
    """The gradient of `sum(rho(errors^2)) / 2` is zero. What is traced are the errors,
    and the loss `rho` with whatever arrays it holds."""

    def cost(self, output: Any) -> Float[Array, ""]:
        errors, loss = output
        return loss.cost(errors)

    def errors(self, v: Vector, inputs: PyTree[Array]) -> tuple[Vector, Any]:
        """The errors, and the loss that they are weighed by."""
        return self.output(v, inputs)[0]

    def gauss_newton(self, v: Vector, inputs: PyTree[Array]) -> Product:
        """Multiplication by the part of the Hessian that holds first derivatives of the
        errors alone, `J^T diag(rho'') J`."""
        errors, push, loss = jax.linearize(
            lambda v: self.errors(v, inputs), v, has_aux=True
        )
        pull = jax.linear_transpose(push, v)
        weights = loss.curvatures(errors)
        return lambda t: pull(jax.tree.map(operator.mul, weights, push(t)))[0]
