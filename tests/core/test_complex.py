"""Complex unknowns: conventions, mixed dtypes, and maps that are not holomorphic.

The oracle is JAX itself on a formula for the solution, so every convention is its own.
"""

import jax
import jax.numpy as jnp
import lineax as lx
import pytest

import implicax as ix

from ..oracles import relative_error

A, B = jnp.asarray(0.3 + 0.4j), jnp.asarray(1.0 - 2.0j)


def reflected(a, b, **options):
    """The fixed point of `y = a conj(y) + b`: not holomorphic in anything."""
    fn = lambda y, args: args[0] * jnp.conj(y) + args[1]
    return ix.fixed_point(fn, jnp.asarray(0j), (a, b), **options).value


def reflected_formula(a, b):
    return (b + a * jnp.conj(b)) / (1 - jnp.abs(a) ** 2)


def both(transform, ours, formula, *point):
    return jax.jit(lambda *p: (transform(ours)(*p), transform(formula)(*p)))(*point)


def real_loss(fn):
    return lambda a, b: jnp.abs(fn(a, b) - 1j) ** 2


@pytest.mark.parametrize(
    "derivative",
    [
        ix.Implicit(),
        ix.Implicit(lx.LU()),
        ix.Implicit(lx.QR()),
        ix.Implicit(lx.GMRES(rtol=1e-12, atol=1e-12)),
        ix.Implicit(lx.BiCGStab(rtol=1e-12, atol=1e-12)),
    ],
    ids=["auto", "LU", "QR", "GMRES", "BiCGStab"],
)
def test_gradient_of_a_real_loss(derivative):
    ours = lambda a, b: reflected(a, b, derivative=derivative)
    grad = lambda fn: jax.grad(real_loss(fn), argnums=(0, 1))
    came, expected = both(grad, ours, reflected_formula, A, B)
    assert relative_error(came, expected) <= 1e-9


def test_jvp_and_vjp_without_holomorphy():
    def products(fn):
        def compute(a, b):
            value, tangent = jax.jvp(fn, (a, b), (B, A))
            return value, tangent, jax.vjp(fn, a, b)[1](A + 2j)

        return compute

    came, expected = both(products, reflected, reflected_formula, A, B)
    assert relative_error(came, expected) <= 1e-9


@pytest.mark.parametrize("jacobian", [jax.jacfwd, jax.jacrev])
def test_holomorphic_jacobian(jacobian):
    def square_root(a):
        return ix.root(lambda y, a: y**2 - a, jnp.asarray([1 + 1j, 1 - 1j]), a).value

    point = jnp.asarray([-3.0 + 4.0j, 5.0 - 12.0j])
    transform = lambda fn: jacobian(fn, holomorphic=True)
    came, expected = both(transform, square_root, jnp.sqrt, point)
    assert relative_error(came, expected) <= 1e-10


def test_real_arguments_of_a_complex_unknown_have_real_gradients():
    """`y^2 = -a` with real `a`: the solution is `i sqrt(a)`."""

    def loss(solution):
        return lambda a: jnp.imag(solution(a)) ** 3

    ours = lambda a: ix.root(lambda y, a: y**2 + a, jnp.asarray(0.1 + 1j), a).value
    formula = lambda a: 1j * jnp.sqrt(a)
    transform = lambda fn: jax.grad(loss(fn))
    came, expected = both(transform, ours, formula, jnp.asarray(2.0))
    assert came.dtype == jnp.float64
    assert relative_error(came, expected) <= 1e-10


def test_real_and_complex_leaves_together():
    """A complex `u` with `u^2 = a` and a real `v` with `v^3 = |u|^2`."""
    start = {"u": jnp.asarray(1 + 1j), "v": jnp.asarray(1.0)}

    def conditions(y, a):
        size = jnp.real(y["u"] * jnp.conj(y["u"]))
        return {"u": y["u"] ** 2 - a, "v": y["v"] ** 3 - size}

    ours = lambda a: ix.root(conditions, start, a).value
    formula = lambda a: {"u": jnp.sqrt(a), "v": jnp.abs(a) ** (1 / 3)}

    def transform(fn):
        def loss(a):
            y = fn(a)
            return y["v"] * jnp.abs(y["u"] + 1) ** 2

        def second(t):
            return jax.grad(loss)(t[0] + 1j * t[1]).real

        return lambda a: (
            fn(a),
            jax.grad(loss)(a),
            jax.jacrev(second)(jnp.stack([a.real, a.imag])),
        )

    came, expected = both(transform, ours, formula, jnp.asarray(-3.0 + 4.0j))
    assert came[0]["u"].dtype == jnp.complex128
    assert came[0]["v"].dtype == jnp.float64
    assert relative_error(came, expected) <= 1e-9


def test_single_precision_stays_single():
    a, b = A.astype(jnp.complex64), B.astype(jnp.complex64)
    fn = lambda y, args: args[0] * jnp.conj(y) + args[1]
    solve = lambda args: ix.fixed_point(fn, jnp.zeros((), jnp.complex64), args)
    loss = lambda args: jnp.abs(solve(args).value - 1j) ** 2
    solution, gradient = jax.jit(lambda args: (solve(args), jax.grad(loss)(args)))(
        (a, b)
    )
    assert solution.value.dtype == jnp.complex64
    assert solution.stats.residual_norm.dtype == jnp.float32
    assert {leaf.dtype for leaf in gradient} == {jnp.dtype(jnp.complex64)}
    expected = jax.grad(real_loss(reflected_formula), argnums=(0, 1))(A, B)
    assert relative_error(gradient, expected) <= 1e-4
