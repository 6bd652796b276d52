"""The classic way: a Python loop, autodiff straight through it, one JAX call at a time.

The counts, the tempting formula and the timings that tutorials quote come from loops
like these; `_timing` and `_differentiating` compare with them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._problem import Problem, residual, tanh_map

Vector = Float[Array, " n"]
Square = Float[Array, "n n"]

#: The classic rule stops when a step is no longer than this.
STEP_NORM = 1e-5
#: The classic loop has no bound and, where the map does not contract, no end.
MAX_STEPS = 1000


def iterate(step: Callable[[Vector], Vector], z0: Vector) -> tuple[Vector, int]:
    """Repeat `step` until it moves by `STEP_NORM` or less; the iterate, the count."""
    previous, z, count = z0, step(z0), 1
    while jnp.linalg.norm(previous - z) > STEP_NORM and count < MAX_STEPS:
        previous, z, count = z, step(z), count + 1
    return z, count


def newton_step(a: Problem) -> Callable[[Vector], Vector]:
    """`z -> z - J(z)^-1 F(z)`, with the Jacobian by autodiff."""

    def step(z: Vector) -> Vector:
        J = jax.jacobian(residual)(z, a)
        return z - jnp.linalg.solve(J, residual(z, a))

    return step


def newton(a: Problem) -> tuple[Vector, int]:
    return iterate(newton_step(a), jnp.zeros_like(a.x))


def picard(a: Problem) -> tuple[Vector, int]:
    return iterate(lambda z: tanh_map(z, a), jnp.zeros_like(a.x))


def through_newton(a: Problem) -> Square:
    """`dz*/dx` by reverse-mode autodiff through every Newton step."""
    return jax.jacobian(lambda x: newton(Problem(a.W, x))[0])(a.x)


def implicit(a: Problem, z: Vector) -> Square:
    """`dz*/dx = -(dF/dz)^-1 dF/dx`: one linear solve against `dF/dx`."""
    J = jax.jacobian(residual)(z, a)
    return -jnp.linalg.solve(
        J, jax.jacobian(lambda x: residual(z, Problem(a.W, x)))(a.x)
    )


def tempting(a: Problem, z: Vector) -> Square:
    """`solve(dF/dz, F(z)) * dF/dx`: looks alike, and is a multiple of the residual.

    `F(z*) = 0`, so the closer `z` is to the solution, the closer this is to zero.
    """
    J = jax.jacobian(residual)(z, a)
    by_x = jax.jacobian(lambda x: residual(z, Problem(a.W, x)))(a.x)
    return -jnp.linalg.solve(J, residual(z, a))[None, :] * by_x
