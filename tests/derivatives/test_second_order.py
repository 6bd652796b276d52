"""Beyond the matrix: third order, whole pytrees, and maps that do not contract."""

import itertools

import jax
import jax.numpy as jnp
import pytest

import implicax as ix

from ..oracles import relative_error

MODES = {"forward": jax.jacfwd, "reverse": jax.jacrev}


def square_root(a):
    return ix.root(lambda y, a: y**2 - a, jnp.asarray(1.0), a).value


@pytest.mark.parametrize("modes", [*itertools.product(MODES, repeat=3)], ids="-".join)
def test_third_derivative(modes):
    """`d^3 sqrt(a) / da^3 = 3/8 a^(-5/2)`, in all eight nestings."""
    derivative = square_root
    for mode in modes:
        derivative = MODES[mode](derivative)
    came = jax.jit(derivative)(jnp.asarray(2.0))
    assert relative_error(came, 3 / 8 * 2.0**-2.5) <= 1e-9


def test_hessian_over_a_pytree():
    """`y = sqrt(a b)` has the Hessian that the formula has, block by block."""
    args = {"a": jnp.asarray([2.0, 3.0]), "b": jnp.asarray(0.5)}

    def ours(args):
        start = jnp.ones(2)
        return ix.root(lambda y, p: y**2 - p["a"] * p["b"], start, args).value

    def formula(args):
        return jnp.sqrt(args["a"] * args["b"])

    came, expected = jax.jit(lambda a: (jax.hessian(ours)(a), jax.hessian(formula)(a)))(
        args
    )
    assert relative_error(came, expected) <= 1e-9


@pytest.mark.parametrize("outer", MODES)
def test_hessian_vector_product_where_plain_iteration_diverges(outer):
    """`y = tanh(3 y) + x` has `y'' = -18 t s / (1 - 3 s)^3`, `t = tanh(3 y)`,
    `s = 1 - t^2`; at `y = -0.1` the map has slope 2.7, and Newton does not care."""
    y = jnp.asarray(-0.1)
    x = y - jnp.tanh(3 * y)

    def solution(x):
        solver = ix.Newton()
        fn = lambda y, x: jnp.tanh(3 * y) + x
        return ix.fixed_point(fn, jnp.asarray(-0.12), x, solver=solver).value

    t = jnp.tanh(3 * y)
    s = 1 - t**2
    # y' (1 - 3 s) = 1 and s' = -6 t s y', so y'' = 3 s' y' / (1 - 3 s).
    expected = -18 * t * s / (1 - 3 * s) ** 3
    came = jax.jit(MODES[outer](jax.grad(solution)))(x)
    assert relative_error(came, expected) <= 1e-9
