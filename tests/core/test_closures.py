"""What a function closes over is differentiated like its arguments, everywhere.

Two solutions with a formula serve all tests: `y^2 = w`, whose root is `sqrt(w)`, and
`y = W y + x`, whose fixed point is `(I - W)^-1 x`. JAX's transformations of the
formula are the oracle for the same transformations of the solve.
"""

import functools

import jax
import jax.numpy as jnp
import pytest

import implicax as ix

from ..oracles import relative_error

W = 0.2 * jnp.asarray([[1.0, -1.0, 0.5], [0.3, 0.8, -0.4], [0.6, 0.1, -0.9]])
X = jnp.asarray([1.0, -0.5, 2.0])
POINTS = jnp.asarray([1.5, 2.0, 3.0])


def affine(W, x):
    """Everything is closed over."""
    return ix.fixed_point(lambda y, _: W @ y + x, jnp.zeros(3)).value


def affine_formula(W, x):
    return jnp.linalg.solve(jnp.eye(3) - W, x)


def square_root(w):
    return ix.root(lambda y, _: y**2 - w, jnp.asarray(1.0)).value


def grad_of_vmap(fn):
    return jax.grad(lambda w: jnp.sum(jax.vmap(fn)(w) ** 3))


def vmap_of_grad(fn):
    return jax.vmap(jax.grad(fn))


def grad_of_scan(fn):
    def total(w):
        body = lambda carry, w: (carry * fn(w + carry), fn(w))
        return jnp.sum(jax.lax.scan(body, jnp.asarray(0.5), w)[1]) + jnp.sum(
            jax.lax.scan(body, jnp.asarray(0.5), w)[0]
        )

    return jax.grad(total)


def grad_in_scan(fn):
    return lambda w: jax.lax.scan(lambda c, w: (c, jax.grad(fn)(w)), None, w)[1]


def grad_of_nested_jit(fn):
    inner = jax.jit(fn)
    return jax.grad(lambda w: jnp.sum(jax.jit(jax.vmap(lambda v: inner(v) ** 2))(w)))


def hessian_of_vmap(fn):
    return jax.hessian(lambda w: jnp.sum(jax.vmap(fn)(w)) ** 2)


def vmap_of_grad_of_vmap(fn):
    return lambda w: jax.vmap(lambda s: grad_of_vmap(fn)(s * w))(w)


TRANSFORMATIONS = [
    grad_of_vmap,
    vmap_of_grad,
    grad_of_scan,
    grad_in_scan,
    grad_of_nested_jit,
    hessian_of_vmap,
    vmap_of_grad_of_vmap,
]


@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
def test_scalar_closure(transformation):
    came = jax.jit(transformation(square_root))(POINTS)
    expected = transformation(jnp.sqrt)(POINTS)
    assert relative_error(came, expected) <= 1e-9


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_matrix_closure(mode):
    came = jax.jit(mode(affine, argnums=(0, 1)))(W, X)
    expected = mode(affine_formula, argnums=(0, 1))(W, X)
    assert relative_error(came, expected) <= 1e-9


def test_matrix_closure_outside_jit():
    loss = lambda fn: lambda W: jnp.sum(jnp.sin(fn(W, X)))
    came = jax.grad(loss(affine))(W)
    assert relative_error(came, jax.grad(loss(affine_formula))(W)) <= 1e-9


def test_matrix_closed_over_under_vmap_of_another():
    """`W` is shared by the lanes, `x` is not: its gradient is their sum."""
    xs = jnp.stack([X, 2 * X, X[::-1]])

    def loss(fn):
        return lambda W: jnp.sum(jax.vmap(lambda x: fn(W, x))(xs) ** 3)

    came = jax.jit(jax.grad(loss(affine)))(W)
    assert relative_error(came, jax.grad(loss(affine_formula))(W)) <= 1e-9


def test_solve_inside_a_solve():
    """`z^2 = sqrt(a + z) + ...`: the outer function closes over `a` and solves."""

    solve = functools.partial(ix.root, solver=ix.Newton())

    def inner(z, a):
        return solve(lambda y, _: y**2 - a - z, jnp.asarray(1.0)).value

    def outer(a):
        return solve(lambda z, _: z**2 - inner(z, a), jnp.asarray(1.0)).value

    z = outer(2.0)
    # z^4 = a + z, so (4 z^3 - 1) z' = 1.
    assert relative_error(z**4, 2.0 + z) <= 1e-10
    came = jax.jit(jax.grad(outer))(2.0)
    assert relative_error(came, 1 / (4 * z**3 - 1)) <= 1e-9


def test_closed_over_object_with_arrays():
    class Model:
        def __init__(self, weight):
            self.weight = weight

        def __call__(self, y, x):
            return self.weight @ y + x

    def ours(W):
        return ix.fixed_point(Model(W), jnp.zeros(3), X).value

    came = jax.jit(jax.jacrev(ours))(W)
    assert relative_error(came, jax.jacrev(lambda W: affine_formula(W, X))(W)) <= 1e-9


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
@pytest.mark.parametrize("solver", [ix.Anderson(), ix.Newton()], ids=["And", "New"])
def test_initial_guess_has_exactly_zero_derivative(mode, solver):
    def ours(y0, x):
        return ix.fixed_point(lambda y, x: W @ y + x, y0, x, solver=solver).value

    by_guess, by_x = jax.jit(mode(ours, argnums=(0, 1)))(jnp.ones(3), X)
    assert jnp.all(by_guess == 0)
    assert jnp.all(jnp.diagonal(by_x) > 0.5)


def with_aux(a):
    """`y^2 = a` and, beside it, `y^3 + a` and a note."""

    def fn(y, a):
        return y**2 - a, {"volume": y**3 + a, "note": "a cube"}

    return ix.root(fn, jnp.asarray(1.0), a, has_aux=True)


def test_aux_is_evaluated_at_the_solution():
    solution = with_aux(2.0)
    assert solution.aux["note"] == "a cube"
    assert relative_error(solution.aux["volume"], 2.0**1.5 + 2.0) <= 1e-10


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_aux_is_differentiable(mode):
    """Through the solution, and directly in the arguments; to second order."""
    volume = lambda a: with_aux(a).aux["volume"]
    formula = lambda a: a**1.5 + a
    came = jax.jit(lambda a: (jax.grad(volume)(a), mode(jax.grad(volume))(a)))(2.0)
    expected = (jax.grad(formula)(2.0), mode(jax.grad(formula))(2.0))
    assert relative_error(came, expected) <= 1e-9


@pytest.mark.parametrize("leaf", ["u", "v"])
@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_arguments_that_enter_some_conditions_only(mode, leaf):
    """`u^2 = a` and `v = u^3`: the second equation does not see `a`."""
    start = {"u": jnp.asarray(1.0), "v": jnp.asarray(1.0)}

    def conditions(y, a):
        return {"u": y["u"] ** 2 - a, "v": y["v"] - y["u"] ** 3}

    came = jax.jit(mode(lambda a: ix.root(conditions, start, a).value[leaf]))(2.0)
    expected = {"u": 0.5 * 2.0**-0.5, "v": 1.5 * 2.0**0.5}[leaf]
    assert relative_error(came, expected) <= 1e-9
