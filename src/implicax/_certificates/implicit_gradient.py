"""The implicit gradient at a point, and its error by two accounts of it.

To first order the error is `g'(y) delta` with Newton's correction `delta`. With the
adjoint `u` fixed, the Lagrangian's derivatives `(l_y - J^T u, l_a - F_a^T u)` change
along `delta` by `(s, c)`; the adjoint changes by `J^-T s`, and the gradient by
`c - F_a^T J^-T s`. What the adjoint equation is off by, `r`, is worth `-F_a^T J^-T r`
more: both are one linear solve. The other account is the gradient after two
corrections, less this one.

Rounding errors of `y`, and of the adjoint equation, make errors of the gradient in the
same way. No correction shows them, which has its own: they are tried.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from implicax._certificates.linearised import Linearised
from implicax._certificates.quantity import Quantity
from implicax._core import tree_math
from implicax._core.tree_math import Vector
from implicax._derivatives.implicit import linearization


class ImplicitGradient(eqx.Module):
    """`g` at `v`, and what is known of its error."""

    value: PyTree[Array]
    adjoint: Vector
    adjoint_equation: tuple[Vector, Vector]
    """What is left of it, `dl/dy - J^T u`, and its right-hand side `dl/dy`."""
    change: PyTree[Array]
    """The error to first order, ..."""
    moved: PyTree[Array]
    """... and as two corrections show it."""
    rounding: PyTree[Array] | None
    """What rounding errors make of it, as far as is known: root mean squares."""

    @property
    def corrected(self) -> PyTree[Array]:
        return tree_math.add(self.value, self.change)

    @property
    def errors(self) -> PyTree[Array]:
        """The larger of the two, number by number."""
        return jax.tree.map(
            lambda x, y: jnp.maximum(jnp.abs(x), jnp.abs(y)), self.change, self.moved
        )


def implicit_gradient(
    quantity: Quantity,
    jacobian: Linearised,
    args: PyTree[Array],
    delta: Vector,
    target: Vector,
) -> ImplicitGradient:
    """At `jacobian.v`, from where `delta` is the first correction, and `target` is
    where both lead."""
    v, solve = jacobian.v, jacobian.solve

    def adjoint(v: Vector) -> tuple[Vector, Vector]:
        """`dl/dy` and `u`."""
        by_y = jax.grad(quantity.loss)(v, args)
        _, pullback = jax.vjp(lambda v: quantity.residual(v, args), v)
        return by_y, solve.transposed(lambda u: pullback(u)[0], by_y)

    by_y, u = adjoint(v)
    left, g = quantity.stationarity(v, args, u)
    _, pullback = jax.vjp(lambda args: quantity.residual(v, args), args)

    def to_first_order(delta: Vector, left: Vector) -> PyTree[Array]:
        _, (slope, change) = jax.jvp(
            lambda v: quantity.stationarity(v, args, u), (v,), (delta,)
        )
        return tree_math.subtract(change, pullback(jacobian.adjoint(slope, left))[0])

    samples, rounding = jacobian.rounding_errors(u, by_y), None
    if samples is None:
        change = to_first_order(delta, left)
    else:
        together = jax.tree.map(_before, (delta, left), samples)
        changes = jax.vmap(to_first_order)(*together)
        change = jax.tree.map(lambda x: x[0], changes)
        rounding = jax.tree.map(_root_mean_square, changes)
    _, there = adjoint(target)
    moved = tree_math.subtract(quantity.stationarity(target, args, there)[1], g)
    if quantity.hessian == "gauss_newton":
        # The gradient in question is another one, and its bias is part of its error.
        part = linearization(quantity.conditions, quantity.hessian)
        biased = dataclasses.replace(solve, approximate_inverse=None)
        u = biased.transposed(part(v, quantity.inputs(args)), by_y)
        exact, (left, g) = g, quantity.stationarity(v, args, u)
        bias = tree_math.subtract(exact, g)
        change, moved = tree_math.add(change, bias), tree_math.add(moved, bias)
    return ImplicitGradient(g, u, (left, by_y), change, moved, rounding)


def _before(x: Array, samples: Array) -> Array:
    return jnp.concatenate([x[None], samples])


def _root_mean_square(changes: Array) -> Array:
    """Of all but the first."""
    return jnp.sqrt(jnp.mean(jnp.abs(changes[1:]) ** 2, axis=0))
