"""The approximate derivatives: what each is exactly, and how wrong it is.

On a linear map `f(y) = A y + x` every one of them is a finite sum of powers of `A`,
where the exact derivative is the whole series `(I - A)^-1`.
"""

import functools

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import implicax as ix

from ..cases import DIRECTIONS, SOLVERS, make
from ..oracles import ClosedForm, relative_error

A = 0.5 * jnp.asarray([[0.9, 0.4, 0.0], [-0.3, 0.8, 0.2], [0.1, -0.5, 0.7]])
EXACT = np.linalg.inv(np.eye(3) - A)
X = jnp.asarray([1.0, -2.0, 0.5])
MODES = [jax.jacfwd, jax.jacrev]
ORIGIN = jnp.zeros(DIRECTIONS)


def linear(x, **options):
    return ix.fixed_point(lambda y, x: A @ y + x, jnp.zeros(3), x, **options)


def series(matrix, terms):
    return sum(np.linalg.matrix_power(matrix, k) for k in range(terms))


def jacobian(mode, **options):
    return jax.jit(mode(lambda x: linear(x, **options).value))(X)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("terms", [1, 2, 7])
def test_neumann_is_the_truncated_series(terms, mode):
    came = jacobian(mode, derivative=ix.Neumann(terms))
    assert relative_error(came, series(A, terms)) <= 1e-14


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_truncated_picard_is_the_truncated_series(steps, mode):
    came = jacobian(mode, solver=ix.Picard(), derivative=ix.Truncated(steps))
    assert relative_error(came, series(A, steps)) <= 1e-14


@pytest.mark.parametrize("mode", MODES)
def test_one_step_of_picard_is_the_identity(mode):
    came = jacobian(mode, solver=ix.Picard(), derivative=ix.OneStep())
    assert relative_error(came, np.eye(3)) <= 1e-15


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("steps", [1, 5])
def test_phantom_is_a_damped_series(steps, mode):
    """Whatever the solver: `d sum_{k < steps} ((1 - d) I + d A)^k`."""
    came = jacobian(mode, solver=ix.Newton(), derivative=ix.Phantom(steps, 0.3))
    expected = 0.3 * series(0.7 * np.eye(3) + 0.3 * A, steps)
    assert relative_error(came, expected) <= 1e-14


@pytest.mark.parametrize("mode", MODES)
def test_unrolled_picard_is_the_series_of_its_own_length(mode):
    """Exact for the iterate that was computed, and no more."""
    options = {"solver": ix.Picard(rtol=1e-3, atol=1e-3), "max_steps": 30}
    steps = int(linear(X, **options).stats.steps)
    assert 5 < steps < 20
    came = jacobian(mode, derivative=ix.Unrolled(), **options)
    assert relative_error(came, series(A, steps)) <= 1e-14
    assert relative_error(came, EXACT) >= 1e-4


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("derivative", [ix.OneStep(), ix.Truncated(2)])
def test_a_newton_step_is_exact_in_first_order(derivative, mode):
    came = jacobian(mode, solver=ix.Newton(), derivative=derivative)
    assert relative_error(came, EXACT) <= 1e-13


def test_implicit_is_the_whole_series():
    assert relative_error(jacobian(jax.jacrev), EXACT) <= 1e-12


CASE = make("fixed_point", "float64")


def gradient(solver, derivative):
    def loss(t):
        solution = ix.fixed_point(
            CASE.fn,
            CASE.start(),
            CASE.along(t),
            solver=solver,
            derivative=derivative,
            max_steps=60,
        )
        return CASE.loss(solution.value)

    return jax.jit(jax.grad(loss))(ORIGIN)


@functools.cache
def exact():
    return ClosedForm(CASE).gradient(np.zeros(DIRECTIONS))


@functools.cache
def contraction():
    """The spectral radius of the map's Jacobian at the solution."""
    closed = ClosedForm(CASE)
    args = closed.arguments(np.zeros(DIRECTIONS))
    z = closed.solve(args)
    eigenvalues = np.linalg.eigvals((1 - z**2)[:, None] * args["W"])
    return float(np.max(np.abs(eigenvalues)))


APPROXIMATIONS = {
    "Neumann": ix.Neumann,
    "Truncated": ix.Truncated,
    "Phantom": lambda steps: ix.Phantom(steps, 1.0),
}


@pytest.mark.parametrize("name", APPROXIMATIONS)
def test_error_falls_at_the_rate_of_the_map(name):
    """On a nonlinear map: from 10 to 30 terms by the spectral radius to the 20th."""
    few, many = (
        relative_error(gradient(ix.Picard(), APPROXIMATIONS[name](k)), exact())
        for k in (10, 30)
    )
    rate = (many / few) ** (1 / 20)
    assert few > 1e-6
    assert abs(np.log(rate / contraction())) <= 0.1


@pytest.mark.parametrize("solver", SOLVERS)
def test_unrolled_reverse_mode_tends_to_the_exact_derivative(solver):
    came = gradient(SOLVERS[solver], ix.Unrolled())
    assert relative_error(came, exact()) <= 1e-7


def test_unrolled_second_order():
    def loss(t):
        solver = ix.Picard(rtol=1e-14, atol=1e-14)
        solution = ix.fixed_point(
            CASE.fn,
            CASE.start(),
            CASE.along(t),
            solver=solver,
            derivative=ix.Unrolled(),
            max_steps=80,
        )
        return CASE.loss(solution.value)

    came = jax.jit(jax.jacfwd(jax.grad(loss)))(ORIGIN)
    expected = ClosedForm(CASE).hessian(np.zeros(DIRECTIONS))
    assert relative_error(came, expected) <= 1e-8


@pytest.mark.parametrize(
    "derivative",
    [
        ix.Unrolled(),
        ix.Truncated(3),
        ix.OneStep(),
        ix.Neumann(3),
        ix.Phantom(3, 0.5),
        ix.Implicit(lx.LU()),
    ],
    ids=lambda derivative: type(derivative).__name__,
)
def test_value_does_not_depend_on_the_derivative(derivative):
    came = linear(X, derivative=derivative).value
    assert jnp.array_equal(came, linear(X).value)


LINEAR_SOLVERS = {
    "LU": lx.LU(),
    "QR": lx.QR(),
    "GMRES": lx.GMRES(rtol=1e-12, atol=1e-12),
    "BiCGStab": lx.BiCGStab(rtol=1e-12, atol=1e-12),
    "AutoLinearSolver": lx.AutoLinearSolver(well_posed=True),
}


@pytest.mark.parametrize("name", LINEAR_SOLVERS)
def test_any_lineax_solver(name):
    """Forward, reverse and reverse over reverse."""
    derivative = ix.Implicit(LINEAR_SOLVERS[name])
    solve = lambda x: linear(x, derivative=derivative).value
    loss = lambda x: jnp.sum(solve(x) ** 3)

    def all_of(x):
        second = jax.jacrev(jax.grad(loss))(x)
        return jax.jacfwd(solve)(x), jax.jacrev(solve)(x), second

    y = EXACT @ X
    expected = (EXACT, EXACT, EXACT.T @ np.diag(6 * y) @ EXACT)
    assert relative_error(jax.jit(all_of)(X), expected) <= 1e-9


def test_neumann_and_phantom_on_a_root():
    """For roots the map is `y - F(y)`."""
    fn = lambda y, x: y - A @ y - x
    for derivative, expected in (
        (ix.Neumann(4), series(A, 4)),
        (ix.Phantom(4, 1.0), series(A, 4)),
    ):
        solve = lambda x, d=derivative: ix.root(fn, jnp.zeros(3), x, derivative=d).value
        assert relative_error(jax.jit(jax.jacrev(solve))(X), expected) <= 1e-14
