"""The minimum value: its derivative is exact, and takes no linear solve."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicax as ix

from ..oracles import central, relative_error

START = jnp.zeros(3)
POINT = np.array([0.4, -0.3, 0.8])
GRID = np.linspace(0.0, 1.0, 5)


def objective(y, a):
    return jnp.sum(jnp.cosh(y - a) + 0.1 * y**4) + a[0] * y[1] * y[2] / 4


def errors(y, a):
    curve = y[0] * jnp.exp(y[1] * GRID) + y[2] * GRID**2
    return {"fit": curve - a[0] - jnp.sin(3 * a[1] * GRID), "prior": 0.3 * (y - a)}


MINIMUM = functools.partial(ix.minimize, objective, START)
FIT = functools.partial(ix.least_squares, errors, START)
CAUCHY = functools.partial(FIT, loss=ix.Cauchy(0.2))
CALLS = {"minimum": MINIMUM, "fit": FIT, "robust fit": CAUCHY}
NESTINGS = {
    "forward over forward": lambda f: jax.jacfwd(jax.jacfwd(f)),
    "forward over reverse": lambda f: jax.jacfwd(jax.jacrev(f)),
    "reverse over forward": lambda f: jax.jacrev(jax.jacfwd(f)),
    "reverse over reverse": lambda f: jax.jacrev(jax.jacrev(f)),
}


@functools.cache
def computed(name):
    call = CALLS[name]
    value = lambda a: call(a).objective

    # (Many small programs compile faster than a large one.)
    a, modes = jnp.asarray(POINT), {"forward": jax.jacfwd, "reverse": jax.jacrev}
    gradients = {key: jax.jit(mode(value))(a) for key, mode in modes.items()}
    hessians = {key: jax.jit(nest(value))(a) for key, nest in NESTINGS.items()}
    compiled = jax.jit(value)
    return compiled, jax.jit(jax.grad(value)), (compiled(a), gradients, hessians)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.parametrize("name", CALLS)
def test_first_derivative(name, mode):
    value, _, (_, gradients, _) = computed(name)
    differences = central(lambda a: np.asarray(value(a)), POINT, 1e-3)
    assert relative_error(gradients[mode], differences) <= 1e-10


@pytest.mark.parametrize("nesting", NESTINGS)
@pytest.mark.parametrize("name", CALLS)
def test_second_derivative(name, nesting):
    _, gradient, (_, _, hessians) = computed(name)
    differences = central(lambda a: np.asarray(gradient(a)), POINT, 1e-3)
    assert relative_error(hessians[nesting], differences) <= 1e-8
    # The response of the minimum is a good part of it.
    fixed = jax.hessian(objective, 1)(MINIMUM(jnp.asarray(POINT)).value, POINT)
    assert name != "minimum" or relative_error(fixed, differences) > 0.1


def test_it_is_what_was_minimised():
    for name, fn in {"minimum": objective, "fit": errors}.items():
        solution = CALLS[name](jnp.asarray(POINT))
        out = jax.tree.leaves(fn(solution.value, jnp.asarray(POINT)))
        value = out[0] if name == "minimum" else sum(jnp.sum(e**2) for e in out) / 2
        np.testing.assert_allclose(solution.objective, value, rtol=1e-14)
    assert ix.root(lambda y, a: y - 1, 0.0).objective is None


def primitives(jaxpr):
    """The names of all primitives, those of inner programs too."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for parameter in jax.tree.leaves(
            equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from primitives(inner)


SOLVES = {
    "custom_linear_solve", "lu", "lu_pivots_to_permutation", "triangular_solve",
    "cholesky", "qr", "svd", "eigh", "while", "scan",
}  # fmt: skip
PROBLEMS = {
    "minimum": ix.Minimum(objective),
    "fit": ix.LeastSquares(errors),
    "robust fit": ix.LeastSquares(errors, loss=ix.Cauchy(0.2)),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_no_linear_solve_in_the_first_derivative(name):
    found = CALLS[name](jnp.asarray(POINT))
    at = np.asarray(found.value)
    # A one-line solver, so that all there is in the program is the derivative.
    solve = ix.implicit(PROBLEMS[name], on_failure="ignore")(lambda y0, a: at)

    a = jnp.asarray(POINT)

    def compiled(function, argument):
        text = jax.jit(function).lower(argument).compile().as_text()
        return set(re.findall(r"\bwhile\(|lapack_\w+", text))

    # What is linear in the (co)tangent: the verdict on the answer is not part of it.
    value = lambda a: solve(START, a).objective
    _, forward = jax.linearize(value, a)
    _, reverse = jax.vjp(value, a)
    one = jnp.ones(())
    assert not set(primitives(jax.make_jaxpr(reverse)(one).jaxpr)) & SOLVES
    assert not compiled(reverse, one)
    assert not compiled(forward, a)
    np.testing.assert_allclose(
        jax.grad(value)(jnp.asarray(POINT)), computed(name)[2][1]["reverse"], rtol=1e-9
    )
    # The derivative of the minimum itself has one: the test can see it.
    _, of_value = jax.vjp(lambda a: jnp.sum(solve(START, a).value), a)
    assert set(primitives(jax.make_jaxpr(of_value)(one).jaxpr)) & SOLVES
    assert compiled(of_value, one)


def gradient_descent(gradient):
    def solve(y0, a):
        step = lambda y, _: (y - 0.2 * gradient(y, a), None)
        return jax.lax.scan(step, y0, None, length=400)[0]

    return solve


def half_squares(y, a):
    return sum(jnp.sum(e**2) for e in jax.tree.leaves(errors(y, a))) / 2


@pytest.mark.parametrize("name", ["minimum", "fit"])
def test_a_hand_written_solver_gets_derivatives(name):
    fn = objective if name == "minimum" else half_squares
    descend = gradient_descent(jax.grad(fn))
    if name == "fit":  # badly conditioned: Newton's method does it
        descend = lambda y, a: jax.lax.fori_loop(
            0,
            20,
            lambda _, y: (
                y - jnp.linalg.solve(jax.hessian(fn)(y, a), jax.grad(fn)(y, a))
            ),
            jnp.asarray(CALLS[name](jnp.asarray(POINT)).value),
        )
    solve = ix.implicit(PROBLEMS[name])(descend)
    ours = CALLS[name]

    @jax.jit
    def both(a):
        solution = solve(START, a)
        jacobian = jax.jacrev(lambda a: solve(START, a).value)(a)
        slope = jax.grad(lambda a: solve(START, a).objective)(a)
        return solution, jacobian, slope, jax.jacfwd(lambda a: ours(a).value)(a)

    solution, jacobian, slope, expected = both(jnp.asarray(POINT))
    assert bool(solution.status == ix.Status.converged)
    assert relative_error(jacobian, expected) <= 1e-8
    assert relative_error(slope, computed(name)[2][1]["reverse"]) <= 1e-8
    np.testing.assert_allclose(solution.objective, computed(name)[2][0], rtol=1e-12)


@pytest.mark.parametrize("name", ["minimum", "fit"])
def test_a_solver_that_lies_is_found_out(name):
    lie = lambda y0, a: y0 + 0.01
    solve = ix.implicit(PROBLEMS[name], on_failure="ignore")(lie)
    found = solve(START, jnp.asarray(POINT))
    assert bool(found.status == ix.Status.not_solved)
    raising = ix.implicit(PROBLEMS[name])(lie)
    with pytest.raises(ix.ConvergenceError, match="not solved"):
        raising(START, jnp.asarray(POINT))
    value, slope = jax.jit(jax.value_and_grad(lambda a: raising(START, a).objective))(
        jnp.asarray(POINT)
    )
    assert np.isnan(value)
    assert np.all(np.isnan(slope))
