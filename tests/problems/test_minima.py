"""Minima of sixty and of six hundred unknowns: conjugate gradients for the derivative,
preconditioned by what the solver left; and, beyond 512, truncated ones for the minimum.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicax as ix

from ..oracles import central, relative_error

CASES = [
    ("minimum", 60),
    ("minimum", 600),
    ("fit", 60),
    ("fit by Hessian", 60),
    ("fit by Hessian", 600),
]


@functools.cache
def data(n):
    """Couplings of neighbours at two distances, stiff by a factor of a hundred, and a
    direction of arguments."""
    rng = np.random.default_rng(n)
    return 10.0 ** rng.uniform(-1, 1, n), rng.normal(size=n), rng.normal(size=(3, n))


def objective(y, a):
    stiffness, _, _ = data(y.size)
    near, far = y - jnp.roll(y, 1), y - jnp.roll(y, 7)
    return jnp.sum(stiffness * (y - a) ** 2 / 2 + near**4 / 4 + jnp.cosh(far) / 5)


def errors(y, a):
    stiffness, _, _ = data(y.size)
    near = y - jnp.roll(y, 1)
    return {
        "near": near + jnp.sin(2 * y) / 4 - 0.3,
        "own": jnp.sqrt(stiffness) * (y - a),
    }


CALLS = {
    "minimum": (ix.minimize, objective, None),
    "fit": (ix.least_squares, errors, ix.LevenbergMarquardt()),
    "fit by Hessian": (ix.least_squares, errors, ix.TrustRegion()),
}


@functools.cache
def computed(name, n):
    call, fn, solver = CALLS[name]
    _, a, directions = data(n)
    weights = jnp.asarray(directions[0])

    def loss(t):
        at = jnp.asarray(a) + t @ jnp.asarray(directions)
        solution = call(fn, jnp.zeros(n), at, solver=solver)
        y = solution.value
        return jnp.sum(weights * y + y**2 / 2), (y, solution)

    program = jax.jit(jax.value_and_grad(loss, has_aux=True))
    return program, program(jnp.zeros(3))


def gradient_of(name, a):
    """The gradient of the objective, and its Hessian, in double precision."""

    def cost(y):
        if name == "minimum":
            return objective(y, a)
        return sum(jnp.sum(e**2) for e in errors(y, a).values()) / 2

    return jax.grad(cost), jax.hessian(cost)


@pytest.mark.parametrize(("name", "n"), CASES)
def test_value_and_gradient(name, n):
    _, ((_, (y, solution)), slope) = computed(name, n)
    assert bool(solution.status == ix.Status.converged)
    # Independently: one more Newton step does not move it, and the derivative is that
    # of the linear system solved densely by NumPy.
    _, a, directions = data(n)
    gradient, hessian = gradient_of(name, jnp.asarray(a))
    H = np.asarray(hessian(y))
    assert np.linalg.eigvalsh(H).min() > 0
    step = np.linalg.solve(H, np.asarray(gradient(y)))
    assert np.linalg.norm(step) <= 1e-9 * np.linalg.norm(y)
    mixed = lambda d: jax.jvp(
        lambda a: gradient_of(name, a)[0](y), (jnp.asarray(a),), (jnp.asarray(d),)
    )[1]
    b = np.stack([mixed(d) for d in directions], axis=1)
    weights = directions[0] + np.asarray(y)
    assert relative_error(slope, -weights @ np.linalg.solve(H, b)) <= 1e-8


@pytest.mark.parametrize("name", CALLS)
def test_gradient_against_differences(name):
    program, (_, slope) = computed(name, 60)
    differences = central(lambda t: np.asarray(program(t)[0][0]), np.zeros(3), 1e-3)
    assert relative_error(slope, differences) <= 1e-8
