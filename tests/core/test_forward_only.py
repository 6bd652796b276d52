"""Functions with a `lax.while_loop` in them: JAX gives those a forward mode only.

The cube of `y` by a loop of unknown length, against `y**3`: the same problems, solved
and differentiated in both modes, to second order.
"""

import jax
import jax.numpy as jnp
import pytest

import implicax as ix

from ..oracles import relative_error


def by_a_loop(y):
    def multiply(carry):
        power, count = carry
        return power * y, count + 1

    return jax.lax.while_loop(
        lambda carry: carry[1] < 3, multiply, (jnp.ones_like(y), jnp.asarray(0))
    )[0]


def by_a_power(y):
    return y**3


def root(cube):
    """A dict, an array that is closed over, complex numbers in the arguments."""

    def solve(a):
        turn = jnp.asarray(1.0 + 0.5j) * a

        def fn(y, args):
            u, v = y["u"], y["v"]
            return {
                "u": cube(u) + u - a - jnp.mean(v),
                "v": cube(v * a) + v - jnp.abs(args) * jnp.arange(1.0, 3.0),
            }

        start = {"u": jnp.asarray(1.0), "v": jnp.ones(2)}
        found = ix.root(fn, start, turn, solver=ix.Newton()).value
        return found["u"] + jnp.sum(found["v"] ** 2)

    return solve


def fixed_point(cube):
    fn = lambda y, a: a - 0.1 * cube(y)
    return lambda a: jnp.sum(ix.fixed_point(fn, jnp.full(3, 0.5), a).value)


def minimum(cube):
    fn = lambda y, a: jnp.sum(cube(y - a) * (y - a) + y**2)
    return lambda a: jnp.sum(ix.minimize(fn, jnp.ones(2), a).value)


def fit(cube):
    """With the value of the objective: the envelope theorem."""
    times = jnp.arange(1.0, 4.0)

    def solve(a):
        data = jnp.sqrt(times) * a
        fn = lambda y, data: cube(y[0] * times) + y[1] - data
        solver = ix.LevenbergMarquardt()
        found = ix.least_squares(fn, jnp.asarray([0.5, 1.0]), data, solver=solver)
        return jnp.sum(found.value) + found.objective

    return solve


@pytest.mark.parametrize("problem", [root, fixed_point, minimum, fit])
def test_both_modes_to_second_order(problem):
    def everything(cube, a):
        solve = problem(cube)
        slope = jax.grad(solve)
        return slope(a), jax.jacfwd(solve)(a), jax.grad(slope)(a), jax.jacfwd(slope)(a)

    came, wanted = jax.jit(
        lambda a: (everything(by_a_loop, a), everything(by_a_power, a))
    )(1.3)
    assert relative_error(came, wanted) <= 1e-7


def test_certificate():
    def certify(cube):
        problem = ix.Root(lambda y, a: cube(y) + y - a)
        certificate = ix.certify(lambda y, a: cube(y) * a, problem, 0.9, 1.3)
        return certificate.gradient, certificate.gradient_error

    assert relative_error(certify(by_a_loop), certify(by_a_power)) <= 1e-10


def test_forward_mode_has_no_limit():
    """Beyond 4096 numbers no Jacobian is formed: what is left is forward mode."""
    weights = jnp.full(5000, 1 / 5000)

    def solve(cube, s):
        fn = lambda y, w: cube(y * jnp.sum(w)) + y - 1.3
        return ix.root(fn, 1.0, s * weights, solver=ix.Newton()).value

    came, wanted = (
        jax.jacfwd(lambda s, cube=cube: solve(cube, s))(1.3)
        for cube in (by_a_loop, by_a_power)
    )
    assert relative_error(came, wanted) <= 1e-10
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        jax.grad(lambda s: solve(by_a_loop, s))(1.3)
