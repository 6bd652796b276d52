"""Range-only localisation: a fit whose errors at the solution are far from zero.

A position in the plane from its distances to five anchors, each measured too long by a
bias. With such errors the Gauss-Newton matrix is not the Hessian, and a derivative that
uses it in its place is wrong; the exact one is held against unrolled Newton steps.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicax as ix

from ..oracles import central, relative_error

ANGLES = 2 * np.pi * np.arange(5) / 5
ANCHORS = 6 * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
PLACE = np.array([2.0, 1.0])
DISTANCES = np.linalg.norm(PLACE - ANCHORS, axis=1)
START = jnp.asarray(PLACE)
BIASES = [0.2, 0.5, 1.0]
WEIGHTS = np.array([0.7, -1.3])
#: The error of the derivative by the Gauss-Newton matrix, which others return.
GAUSS_NEWTON = {0.2: (0.03, 0.05), 0.5: (0.08, 0.12), 1.0: (0.18, 0.23)}


def errors(y, measured):
    return jnp.sqrt(jnp.sum((y[None, :] - ANCHORS) ** 2, axis=1)) - measured


def loss(y):
    return jnp.sum(WEIGHTS * y) + y[0] * y[1] ** 2


def position(measured, solver=None, hessian="exact"):
    derivative = ix.Implicit(hessian=hessian)
    return ix.least_squares(
        errors, START, measured, solver=solver, derivative=derivative
    ).value


def unrolled(measured, steps=20):
    """Newton's method with the full Hessian, each step differentiated."""
    objective = lambda y: jnp.sum(errors(y, measured) ** 2) / 2

    def newton(y, _):
        step = jnp.linalg.solve(jax.hessian(objective)(y), jax.grad(objective)(y))
        return y - step, None

    return jax.lax.scan(newton, START, None, length=steps)[0]


@functools.cache
def oracle():
    """Position, Jacobian, and Hessian of the loss."""
    of = lambda m: loss(unrolled(m))
    return jax.jit(
        lambda m: (unrolled(m), jax.jacrev(unrolled)(m), jax.jacfwd(jax.jacrev(of))(m))
    )


@functools.cache
def ours(solver):
    solve = functools.partial(position, solver=solver and getattr(ix, solver)())
    of = lambda m: loss(solve(m))

    # (Many small programs compile faster than a large one.)
    both = (jax.jacfwd, jax.jacrev)
    value, firsts = jax.jit(solve), [jax.jit(mode(solve)) for mode in both]
    # (All four orders of the default; who solved it does not matter to the others.)
    orders = itertools.product(both, both) if solver is None else [both]
    seconds = [jax.jit(outer(inner(of))) for outer, inner in orders]

    def program(m):
        return value(m), [first(m) for first in firsts], [two(m) for two in seconds]

    return program


def biased(bias):
    return jnp.asarray(DISTANCES + bias)


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("solver", [None, "TrustRegion"])
def test_derivatives_of_a_position(solver, bias):
    value, first, second = oracle()(biased(bias))
    assert jnp.linalg.norm(errors(value, biased(bias))) > 0.1 * bias
    came, firsts, seconds = ours(solver)(biased(bias))
    assert relative_error(came, value) <= 1e-10
    for jacobian in firsts:
        assert relative_error(jacobian, first) <= 1e-8
    for hessian in seconds:
        assert relative_error(hessian, second) <= 1e-8


@pytest.mark.parametrize("bias", BIASES)
def test_the_oracle_agrees_with_differences(bias):
    at = np.asarray(biased(bias))
    of = lambda k: lambda m: np.asarray(oracle()(jnp.asarray(m))[k])
    _, jacobian, hessian = oracle()(biased(bias))
    assert relative_error(jacobian, central(of(0), at, 1e-3)) <= 1e-9
    slopes = lambda m: (of(1)(m).T @ np.asarray(jax.grad(loss)(of(0)(m)))).T
    assert relative_error(hessian, central(slopes, at, 1e-3)) <= 1e-9


@functools.cache
def by_gauss_newton():
    solve = functools.partial(position, hessian="gauss_newton")
    return jax.jit(lambda m: (jax.jacrev(solve)(m), jax.jacfwd(solve)(m)))


@pytest.mark.parametrize("bias", BIASES)
def test_what_others_return_is_off_by_percents(bias):
    _, exact, _ = oracle()(biased(bias))
    low, high = GAUSS_NEWTON[bias]
    for jacobian in by_gauss_newton()(biased(bias)):
        assert low < relative_error(jacobian, exact) < high
    # It is what its name says: -(J^T J)^-1 J^T dr/da with the Jacobian J.
    y = oracle()(biased(bias))[0]
    J = np.asarray(jax.jacfwd(errors)(y, biased(bias)))
    expected = np.linalg.solve(J.T @ J, J.T)
    assert relative_error(np.asarray(jacobian), expected) <= 1e-8


def test_without_errors_both_are_the_same():
    exact = jax.jacrev(position)(biased(0.0))
    jacobian, _ = by_gauss_newton()(biased(0.0))
    assert relative_error(jacobian, exact) <= 1e-8
