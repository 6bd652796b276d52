"""Optimality conditions `F(y, args) = 0`: what a problem says of its solutions.

A problem says at one point what its function gives there (`Conditions`): a residual, an
objective, or errors whose squares are summed up. Traced, that is a function of the
unknown `v` (on the real view) and of all inputs (`OptimalityConditions`), from which
the residual `F` follows: itself, or the gradient of the objective.
"""

import dataclasses
import operator
from collections.abc import Hashable
from typing import Any

import equinox as eqx
import jax
from jax.extend import core as jex_core
from jaxtyping import Array, Float, PyTree

from implicax._core.traced_function import TracedFunction, abstract, contains, shared
from implicax._core.tree_math import Vector
from implicax._linear.jacobian_structure import JacobianStructure
from implicax._linear.lu import MatVec
from implicax._linear.sparsity import Sparsity
from implicax._problems.losses import AbstractLoss


class Conditions(eqx.Module):
    """What holds at a solution, at one `y` and `args`: one of three.

    **Arguments:**

    - `residual`: zero at a solution; as many numbers as `y` has.
    - `objective`: least at a solution; a real scalar. Beside a residual (optimality
      conditions with multipliers) it is what `solution.objective` is to be: a
      Lagrangian, whose derivative in `y` is zero at a solution.
    - `errors`: the sum of their squares is least at a solution; any pytree of arrays.
    - `loss`: how the errors are weighed, such as [`implicax.Huber`][]`(scale)`; plain
      squares by default.
    - `aux`: what else is to be returned, as `solution.aux`.
    - `strict`: what is positive as long as the constraints that act are these: the
      multipliers of those that act, the slacks of the others; any pytree of arrays. A
      certificate says how near it comes to zero, where there is no derivative.

    ```python
    import implicax as ix

    conditions = ix.Conditions(residual=0.0)
    ```
    """

    residual: Any = None
    objective: Any = None
    errors: Any = None
    loss: AbstractLoss | None = None
    aux: Any = None
    strict: Any = None

    def __check_init__(self):
        said = (self.residual, self.objective, self.errors)
        came = sum(part is not None for part in said)
        lagrangian = came == 2 and self.errors is None
        if came != 1 and not lagrangian:
            raise TypeError(
                "Conditions are one of residual=, objective= or errors= (or a residual "
                f"and an objective), and {came} of them came."
            )


class OptimalityConditions(TracedFunction):
    """Conditions as functions of `v` and `inputs`; equal for what computes the same."""

    def __init__(
        self,
        jaxpr: jex_core.Jaxpr,
        out_tree: Any,
        constants: int,
        numbers: int,
        key: Hashable,
        unknowns: int,
        structure: JacobianStructure,
    ):
        super().__init__(jaxpr, out_tree, constants, numbers, key)
        said = jax.tree.unflatten(out_tree, jaxpr.outvars)
        #: Whether something is minimised, ...
        self.has_objective: bool = said.residual is None
        #: ... and whether that is a sum of squares.
        self.has_errors: bool = said.errors is not None
        #: Whether solutions are to have an objective.
        self.reports_objective: bool = self.has_objective or said.objective is not None
        self.has_aux: bool = bool(said.aux)
        #: Whether there are constraints, which act or do not.
        self.has_strict: bool = bool(jax.tree.leaves(said.strict))
        #: Whether what is traced has a VJP but no JVP (a `jax.custom_vjp` in it).
        self.traced_reverse_only = reverse_only = _reverse_only(jaxpr)
        if self.has_objective and reverse_only:
            # A gradient is the VJP: what is left of it may well have a forward mode.
            reverse_only = _reverse_only(self._gradient(unknowns))
        #: What is known of `dF/dv`.
        self.structure = JacobianStructure(
            structure.fixed_point,
            structure.symmetric or self.has_objective,
            structure.positive_definite or self.has_objective,
            reverse_only,
            structure.sparsity,
        )
        #: How many arrays `v` has.
        self.unknowns = unknowns

    def with_sparsity(self, sparsity: Sparsity) -> "OptimalityConditions":
        """The same, with more known of it."""
        structure = dataclasses.replace(self.structure, sparsity=sparsity)
        options = {"unknowns": self.unknowns, "structure": structure}
        counts = self.constants, self.numbers
        return shared(type(self), self.jaxpr, self.out_tree, *counts, options)

    def _gradient(self, unknowns: int) -> jex_core.Jaxpr:
        first, last = self.constants, self.constants + unknowns

        def residual(leaves: list[Array]) -> Vector:
            inputs = leaves[:first], leaves[last:]
            return self.residual(tuple(leaves[first:last]), inputs)

        leaves = list(map(abstract, (*self.jaxpr.constvars, *self.jaxpr.invars)))
        return jax.make_jaxpr(residual)(leaves).jaxpr

    def __call__(self, v: Vector, inputs: PyTree[Array]) -> tuple[Vector, list[Array]]:
        """The residual, and the leaves of the auxiliary output."""
        if not self.has_objective:
            said = self.output(v, inputs)
            return said.residual, said.aux

        def objective(v: Vector) -> tuple[Array, list[Array]]:
            said = self.output(v, inputs)
            return self.value(said), said.aux

        return jax.grad(objective, has_aux=True)(v)

    def residual(self, v: Vector, inputs: PyTree[Array]) -> Vector:
        return self(v, inputs)[0]

    def linearize(self, v: Vector, inputs: PyTree[Array]) -> MatVec:
        """Multiplication by `dF/dv`."""
        return jax.linearize(lambda v: self.residual(v, inputs), v)[1]

    def value(self, said: Conditions) -> Float[Array, ""]:
        """The objective, of what is traced."""
        if said.loss is None:
            return said.objective
        return said.loss.cost(said.errors)

    def objective(self, v: Vector, inputs: PyTree[Array]) -> Float[Array, ""]:
        return self.value(self.output(v, inputs))

    def strict(self, v: Vector, inputs: PyTree[Array]) -> PyTree[Array]:
        """What is positive while the active set is what it is."""
        return self.output(v, inputs).strict

    def errors(self, v: Vector, inputs: PyTree[Array]) -> tuple[Vector, Any]:
        """The errors, and the loss that they are weighed by."""
        said = self.output(v, inputs)
        return said.errors, said.loss

    def gauss_newton(self, v: Vector, inputs: PyTree[Array]) -> MatVec:
        """Multiplication by the part of the Hessian that holds first derivatives of the
        errors alone, `J^T diag(rho'') J`."""
        errors, push, loss = jax.linearize(
            lambda v: self.errors(v, inputs), v, has_aux=True
        )
        pull = jax.linear_transpose(push, v)
        weights = loss.curvatures(errors)
        return lambda t: pull(jax.tree.map(operator.mul, weights, push(t)))[0]


def _reverse_only(jaxpr: jex_core.Jaxpr) -> bool:
    return contains(jaxpr, "custom_vjp_call")
