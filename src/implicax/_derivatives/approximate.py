"""Approximate derivatives, which the literature compares with the exact one.

`ix.certify` tells what an approximation costs in accuracy.
"""

from typing import Any, ClassVar

import equinox as eqx
import jax
from jaxtyping import Array, Float, PyTree

from implicax._core import tree_math
from implicax._core.tree_math import Vector
from implicax._derivatives.base import AbstractDerivative
from implicax._derivatives.implicit_rule import attach
from implicax._linear.lu import MatVec
from implicax._problems.equations import System
from implicax._problems.optimality_conditions import OptimalityConditions
from implicax._solvers.base import AbstractSolver, fraction
from implicax._solvers.picard import Picard


class Neumann(AbstractDerivative):
    """The theorem with `J^-1` replaced by `terms` terms of its Neumann series.

    `sum_{k < terms} A^k` with `A = I - J`: cheap, and wrong by about the spectral
    radius of `A` to the power `terms` (Lorraine, Vicol & Duvenaud 2020, eq. 8).

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp

    def cosine(a):
        solver, derivative = ix.Picard(), ix.Neumann(terms=3)
        return ix.fixed_point(
            lambda y, a: jnp.cos(a * y), 0.5, a, solver=solver, derivative=derivative
        ).value

    print(f"{jax.grad(cosine)(1.0):.3f}")  # exactly: -0.297
    ```
    ```text
    -0.388
    ```
    """

    terms: int = eqx.field(static=True)

    def __check_init__(self):
        _check_count("terms", self.terms)

    def attach(self, conditions, solver, outcome, inputs):
        return attach(conditions, _Series(self.terms), outcome.y, inputs)


class _Series(eqx.Module):
    """`sum_{k < terms} (I - J)^k b`, or the same with the transpose."""

    terms: int = eqx.field(static=True)

    def __call__(self, product: MatVec, b: Vector) -> Vector:
        def term(t: Vector, _: None) -> tuple[Vector, None]:
            # t <- b + A t
            return tree_math.add(b, tree_math.subtract(t, product(t))), None

        return jax.lax.scan(term, b, None, length=self.terms - 1)[0]

    def adjoint(self, product: MatVec, b: Vector) -> Vector:
        return self(product, b)


class Unrolled(AbstractDerivative):
    """Differentiate the iterations themselves.

    Exact for the iterate that was computed (not for the solution); memory and time grow
    with `max_steps`. First and second order, forward and reverse.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp

    def cosine(a):
        solver, derivative = ix.Picard(), ix.Unrolled()
        return ix.fixed_point(
            lambda y, a: jnp.cos(a * y), 0.5, a, solver=solver, derivative=derivative
        ).value

    print(f"{jax.grad(cosine)(1.0):.3f}")  # exactly: -0.297
    ```
    ```text
    -0.298
    ```
    """

    differentiates_loop: ClassVar[bool] = True

    def attach(self, conditions, solver, outcome, inputs):
        return outcome.y


class Truncated(AbstractDerivative):
    """Differentiate only the last `steps` steps of the solver (Shaban et al. 2019).

    They are taken at the solution, each from a fresh start of the solver: so Anderson
    and Broyden contribute their plain step, and Newton a full one. For Picard the error
    is about the spectral radius to the power `steps`.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp

    def cosine(a):
        solver, derivative = ix.Picard(), ix.Truncated(steps=3)
        return ix.fixed_point(
            lambda y, a: jnp.cos(a * y), 0.5, a, solver=solver, derivative=derivative
        ).value

    print(f"{jax.grad(cosine)(1.0):.3f}")  # exactly: -0.297
    ```
    ```text
    -0.388
    ```
    """

    uses_solver_steps: ClassVar[bool] = True

    steps: int = eqx.field(static=True)

    def __check_init__(self):
        _check_count("steps", self.steps)

    def attach(self, conditions, solver, outcome, inputs):
        return _last_steps(solver, self.steps, conditions, outcome.y, inputs)


class OneStep(AbstractDerivative):
    """Differentiate one step of the solver at the solution (Bolte et al. 2023).

    Exact, in first order, for Newton; wrong by about the rate of convergence for
    linearly convergent solvers.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp

    def cosine(a):
        solver, derivative = ix.Picard(), ix.OneStep()
        return ix.fixed_point(
            lambda y, a: jnp.cos(a * y), 0.5, a, solver=solver, derivative=derivative
        ).value

    print(f"{jax.grad(cosine)(1.0):.3f}")  # exactly: -0.297
    ```
    ```text
    -0.498
    ```
    """

    uses_solver_steps: ClassVar[bool] = True

    def attach(self, conditions, solver, outcome, inputs):
        return _last_steps(solver, 1, conditions, outcome.y, inputs)


class Phantom(AbstractDerivative):
    """Differentiate `steps` damped fixed-point steps at the solution (Geng et al.
    2021).

    `y <- (1 - damping) y + damping f(y)`, whatever the solver was; for roots,
    `f(y) = y - F(y)`.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp

    def cosine(a):
        solver, derivative = ix.Picard(), ix.Phantom(steps=3, damping=0.5)
        return ix.fixed_point(
            lambda y, a: jnp.cos(a * y), 0.5, a, solver=solver, derivative=derivative
        ).value

    print(f"{jax.grad(cosine)(1.0):.3f}")  # exactly: -0.297
    ```
    ```text
    -0.296
    ```
    """

    steps: int = eqx.field(static=True)
    damping: Float[Array, ""] = eqx.field(converter=fraction("damping"))

    def __check_init__(self):
        _check_count("steps", self.steps)

    def attach(self, conditions, solver, outcome, inputs):
        picard = Picard(damping=self.damping)
        return _last_steps(picard, self.steps, conditions, outcome.y, inputs)


def _last_steps(
    solver: AbstractSolver,
    steps: int,
    conditions: OptimalityConditions,
    y: Vector,
    inputs: PyTree[Array],
) -> Vector:
    """`y` with the derivative of `steps` solver steps taken from it."""
    system = System.of(conditions, inputs, differentiable=True)

    def step(v: Vector, _: None) -> tuple[Vector, None]:
        return solver.step(system, solver.init(system, v)).iterate.y, None

    last, _ = jax.lax.scan(step, y, None, length=steps)
    # Zero in value, so that the solution stays what the solver said it is.
    change = tree_math.subtract(last, jax.lax.stop_gradient(last))
    return tree_math.add(y, change)


def _check_count(name: str, count: Any) -> None:
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"{name} must be a positive integer, not {count!r}.")
