"""A problem as functions of one flat vector, compiled: what codes on the host take."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from implicax._core import tree_math
from implicax._core.tree_math import Vector
from implicax._problems.losses import AbstractLoss
from implicax._problems.optimality_conditions import OptimalityConditions


class SciPyFunctions:
    """Functions of `(x, v, inputs)`: the vector, something that has its pieces' shapes,
    and the inputs of the conditions.

    What the conditions do not have (the objective of an equation) fails when called.
    """

    def __init__(self, conditions: OptimalityConditions):
        def unravel(x: Array, v: Vector) -> Vector:
            return tree_math.ravel(v)[1](x)

        def residual(x: Array, v: Vector, inputs: PyTree[Array]) -> Float[Array, " n"]:
            return tree_math.ravel(conditions.residual(unravel(x, v), inputs))[0]

        def objective(x: Array, v: Vector, inputs: PyTree[Array]) -> Float[Array, ""]:
            assert conditions.has_objective
            return conditions.objective(unravel(x, v), inputs)

        def errors(x: Array, v: Vector, inputs: PyTree[Array]) -> tuple[Array, Any]:
            assert conditions.has_errors
            found, loss = conditions.errors(unravel(x, v), inputs)
            return tree_math.ravel(found)[0], loss

        def product(x: Array, p: Array, v: Vector, inputs: PyTree[Array]) -> Array:
            def gradient(x: Array) -> Array:
                return residual(x, v, inputs)

            if conditions.structure.reverse_only:
                return jax.vjp(gradient, x)[1](p.astype(x.dtype))[0]
            return jax.jvp(gradient, (x,), (p.astype(x.dtype),))[1]

        def errors_alone(x: Array, v: Vector, inputs: PyTree[Array]) -> Array:
            return errors(x, v, inputs)[0]

        by_columns = jax.jacrev if conditions.structure.reverse_only else jax.jacfwd
        self.residual = jax.jit(residual)
        self.objective = jax.jit(objective)
        self.errors = jax.jit(errors)
        #: Objective and gradient.
        self.both = jax.jit(jax.value_and_grad(objective))
        #: Of the residual; so, of a minimum, the Hessian.
        self.jacobian = jax.jit(by_columns(residual))
        #: The Hessian times a vector.
        self.product = jax.jit(product)
        #: The Jacobian of the errors.
        self.slopes = jax.jit(by_columns(errors_alone))
        #: `rho` and its first two derivatives.
        self.rho = jax.jit(_rho)


def _rho(z: Array, loss: AbstractLoss) -> Float[Array, "3 m"]:
    ones = jnp.ones_like(z)

    def slope(z: Array) -> tuple[Array, Array]:
        value, first = jax.jvp(loss.rho, (z,), (ones,))
        return first, value

    first, second, value = jax.jvp(slope, (z,), (ones,), has_aux=True)
    return jnp.stack([value, first, second])


@functools.lru_cache(maxsize=64)
def scipy_functions(conditions: OptimalityConditions) -> SciPyFunctions:
    """The functions; compiled once per computation."""
    return SciPyFunctions(conditions)
