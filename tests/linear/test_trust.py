"""Numbers that come back can be trusted: linear solves, scales, and runaways.

A wrong value or derivative without a word is the worst that this library can do. Each
test here is a way in which it could.
"""

from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import implicax as ix
from implicax._linear.linear_solve import Auto, LinearSolve
from implicax._linear.lu import augment, eliminate, factorise

LINEAR_SOLVERS = {
    "auto": "auto",
    "LU": lx.LU(),
    "QR": lx.QR(),
    "SVD": lx.SVD(),
    "GMRES": lx.GMRES(rtol=1e-10, atol=1e-10),
    "BiCGStab": lx.BiCGStab(rtol=1e-10, atol=1e-10),
    "normal CG": lx.Normal(lx.CG(rtol=1e-10, atol=1e-10)),
    "pseudo-inverse": lx.AutoLinearSolver(well_posed=False),
}

#: Consistent problems with a singular Jacobian at the start, which solves them: name to
#: (F, y0), and a loss that the free direction changes.
SINGULAR = {
    "1x1": (lambda y, a: y**2 - (a - 1), [0.0]),
    "1x1, no dependence": (lambda y, a: y**2 - (a - 1) ** 2, [0.0]),
    "diagonal": (lambda y, a: jnp.stack([y[0] - a, 0 * y[1]]), [1.0, 0.3]),
    "dense": (
        lambda y, a: jnp.asarray([[1.0, 1.0], [2.0, 2.0]]) @ y - jnp.stack([a, 2 * a]),
        [0.5, 0.5],
    ),
}


def solution(F, y0, choice):
    derivative = ix.Implicit(linear_solver=choice)
    return lambda a: ix.root(F, jnp.asarray(y0), a, derivative=derivative).value


@pytest.mark.parametrize("name", LINEAR_SOLVERS)
def test_a_regular_system_is_solved_by_any_linear_solver(name):
    # (Of two unknowns, lineax 0.1.1's BiCGStab meets the solution exactly, and 0/0.)
    M = 3 * jnp.eye(5) + jnp.sin(jnp.arange(25.0).reshape(5, 5) ** 2)
    solve = solution(lambda y, a: M @ y + y**3 - a, jnp.zeros(5), LINEAR_SOLVERS[name])
    a = jnp.linspace(1.0, 2.0, 5)
    y = np.asarray(solve(a))
    exact = np.linalg.inv(np.asarray(M) + np.diag(3 * y**2))
    np.testing.assert_allclose(jax.jacrev(solve)(a), exact, rtol=1e-8)
    np.testing.assert_allclose(jax.jacfwd(solve)(a), exact, rtol=1e-8)


@pytest.mark.parametrize("shape", SINGULAR)
@pytest.mark.parametrize("name", LINEAR_SOLVERS)
def test_trap_6_a_singular_jacobian_is_no_silent_number_in_reverse(name, shape):
    F, y0 = SINGULAR[shape]
    last = lambda a: solution(F, y0, LINEAR_SOLVERS[name])(a)[-1]
    assert np.isnan(jax.grad(last)(1.0))


@pytest.mark.parametrize("shape", SINGULAR)
def test_trap_6_a_singular_jacobian_is_no_silent_number_forward(shape):
    F, y0 = SINGULAR[shape]
    assert np.isnan(jax.jacfwd(solution(F, y0, "auto"))(1.0)).any()


@pytest.mark.parametrize("solver", [ix.Picard(), ix.Anderson(), ix.Broyden()])
def test_a_solver_without_jacobian_does_not_hide_a_singular_one(solver):
    """`y = P y + a` with a projection `P`: solvable along one direction only."""
    P = jnp.asarray([[0.0, 0.0], [0.0, 1.0]])
    fn = lambda y, a: P @ y + jnp.stack([a, 0 * a])

    def last(a):
        y = ix.fixed_point(fn, jnp.asarray([0.0, 0.7]), a, solver=solver).value
        return y[1]

    assert np.isnan(jax.grad(last)(1.0))


def test_badly_scaled_but_regular_equations_are_fine():
    """`diag(1, 1e-20)`: rows in different units."""
    scales = jnp.asarray([1.0, 1e-20])
    solve = solution(lambda y, a: scales * y - a, [0.0, 0.0], "auto")
    a = jnp.asarray([2.0, 3e-20])
    np.testing.assert_allclose(solve(a), [2, 3], rtol=1e-14)
    np.testing.assert_allclose(jax.jacrev(solve)(a), np.diag([1, 1e20]), rtol=1e-14)
    np.testing.assert_allclose(jax.jacfwd(solve)(a), np.diag([1, 1e20]), rtol=1e-14)


def test_badly_scaled_unknowns_are_fine():
    """Columns in different units: an unknown of the size 1e-20 beside one of size 1."""
    M = jnp.asarray([[1.0, 1e20], [1.0, -1e20]])
    solve = solution(lambda y, a: M @ y - a, [0.0, 0.0], "auto")
    a = jnp.asarray([3.0, 1.0])
    np.testing.assert_allclose(solve(a), [2, 1e-20], rtol=1e-12)
    exact = np.array([[0.5, 0.5], [0.5e-20, -0.5e-20]])
    np.testing.assert_allclose(jax.jacrev(solve)(a), exact, rtol=1e-12)


class Liar(lx.AbstractLinearSolver):
    """Solves, multiplies by a factor, and reports success."""

    factor: float

    def init(self, operator: Any, options: Any) -> Any:
        return operator

    def compute(self, state: Any, vector: Any, options: Any) -> Any:
        x = lx.linear_solve(state, vector, lx.LU()).value
        return (
            jax.tree.map(lambda leaf: self.factor * leaf, x),
            lx.RESULTS.successful,
            {},
        )

    def transpose(self, state: Any, options: Any) -> Any:
        return state.transpose(), options

    def conj(self, state: Any, options: Any) -> Any:
        return state.conj(), options

    def assume_full_rank(self) -> bool:
        return True


def test_a_linear_solver_that_is_five_per_cent_wrong_is_corrected():
    M = jnp.asarray([[3.0, 1.0], [0.5, 2.0]])
    solve = solution(lambda y, a: M @ y - a, [0.0, 0.0], Liar(1.05))
    gradient = jax.grad(lambda a: jnp.sum(solve(a)))(jnp.ones(2))
    exact = np.linalg.solve(np.asarray(M).T, np.ones(2))
    np.testing.assert_allclose(gradient, exact, rtol=1e-9)


@pytest.mark.parametrize("factor", [0.0, 0.4, 2.5, float("nan")])
def test_a_linear_solver_that_succeeds_wrongly_is_found_out(factor):
    M = jnp.asarray([[3.0, 1.0], [0.5, 2.0]])
    solve = solution(lambda y, a: M @ y - a, [0.0, 0.0], Liar(factor))
    one = lambda a: jnp.sum(solve(a))
    assert np.isnan(jax.grad(one)(jnp.ones(2))).all()


@pytest.mark.parametrize("solver", [ix.Newton(), ix.Chord(), ix.Anderson()])
def test_at_condition_number_1e8_the_gradient_is_as_good_as_it_can_be(solver):
    """Both the forward solve and a reused factorisation are ill-conditioned here."""
    J = np.array([[1.0, 1.0], [1.0, 1.0 + 4e-8]])
    y = np.array([1.0, 2.0])
    slope = J @ np.diag(1 + 0.2 * y)
    exact = np.linalg.solve(slope.T, [1.0, 0.0])
    # The inverse in closed form, for numpy's would be a solve of the same kind.
    (p, q), (r, s) = slope
    exact = np.array([s, -q]) / (p * s - q * r)
    matrix = jnp.asarray(J)
    fn = lambda z, a: matrix @ (z + 0.1 * z**2) - a

    def first(a):
        return ix.root(fn, jnp.asarray(y), a, solver=solver).value[0]

    a = jnp.asarray(J @ (y + 0.1 * y**2))
    np.testing.assert_allclose(jax.grad(first)(a), exact, rtol=1e-6)


@pytest.mark.parametrize("name", ["Picard", "Anderson", "Broyden", "Newton", "Chord"])
@pytest.mark.parametrize("form", ["fixed_point", "root"])
def test_running_off_to_infinity_is_not_convergence(name, form):
    """`y = y + 0.3` has no solution; the residual, 0.3 everywhere, is no smaller for
    being small beside an iterate of 1e14."""
    solver = getattr(ix, name)()
    y0 = jnp.asarray([0.5, 0.5])
    if form == "fixed_point":
        s = ix.fixed_point(
            lambda y, a: y + a, y0, 0.3, solver=solver, on_failure="ignore"
        )
    else:
        s = ix.root(lambda y, a: 0 * y - a, y0, 0.3, solver=solver, on_failure="ignore")
    assert not bool(s.status == ix.Status.converged)


@pytest.mark.parametrize("name", ["Picard", "Anderson", "Broyden", "Newton", "Chord"])
def test_a_pole_is_not_a_root(name):
    """At `y0 = 1/2` the residual is infinite, and so is its scale."""
    s = ix.root(
        lambda y, a: a / (y - 0.5),
        jnp.asarray(0.5),
        1.0,
        solver=getattr(ix, name)(),
        on_failure="ignore",
    )
    assert bool(s.status == ix.Status.non_finite)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_equations_in_huge_units_are_solved_or_refused(dtype):
    """The squares in a norm overflow at 1e19 in float32 and 1e154 in float64."""
    unit = {"float32": 1e25, "float64": 1e200}[dtype]
    one, two = jnp.ones(2, dtype), jnp.full(2, 2, dtype)
    s = ix.root(lambda y, a: unit * (y - a), one, two, on_failure="ignore")
    if bool(s.status == ix.Status.converged):
        np.testing.assert_allclose(s.value, 2, rtol=1e-6)


@pytest.mark.parametrize("unit", [1e-12, 1e-60, 1e-170])
def test_equations_in_tiny_units_are_solved_or_refused(unit):
    s = ix.root(lambda y, a: unit * (y - a), jnp.asarray(1.0), 2.0, on_failure="ignore")
    if bool(s.status == ix.Status.converged):
        assert float(s.value) == pytest.approx(2, rel=1e-6)


def test_unknowns_in_tiny_units_are_solved_or_refused():
    s = ix.fixed_point(
        lambda y, a: 0.5 * y + a, jnp.asarray(0.0), 1e-12, on_failure="ignore"
    )
    if bool(s.status == ix.Status.converged):
        assert float(s.value) == pytest.approx(2e-12, rel=1e-6)


@pytest.mark.parametrize("y0", [jnp.inf, -jnp.inf, jnp.nan])
@pytest.mark.parametrize("solve", [ix.root, ix.fixed_point])
def test_a_start_that_is_not_finite_is_caught_inside_jit(solve, y0):
    s = jax.jit(lambda y: solve(lambda y, a: 0.5 * y - 1, y))(jnp.asarray(y0))
    assert bool(s.status == ix.Status.non_finite)
    assert np.isnan(s.value)


@pytest.mark.parametrize(
    ("F", "y"),
    [
        (lambda y, a: y + y**3 / 3 - a, 0.0),
        (lambda y, a: y + jnp.sin(y) ** 3 - a, 0.0),
        (lambda y, a: y + jnp.sin(y - 1) ** 2 * 0.9 - a - 0.6, jnp.pi / 4 + 1),
    ],
    ids=["cubic", "sine", "inflection"],
)
def test_a_certificate_is_not_ok_where_only_the_first_order_vanishes(F, y):
    """Where `g'(y) delta = 0` the error bar is zero, however far the solution is."""
    a = jnp.asarray(1.0)
    solve = lambda a: ix.root(F, jnp.asarray(y), a).value
    true = jax.grad(solve)(a)
    c = ix.certify(lambda y, a: y, ix.Root(F), jnp.asarray(y), a)
    error = abs(float(c.gradient - true)) / abs(float(true))
    assert error > 0.1
    assert not bool(c.ok)


def test_a_solution_at_the_start_takes_no_step_and_has_its_derivatives():
    """Newton then leaves no factorisation behind."""

    def solve(a):
        return ix.root(lambda y, a: y**2 - a, jnp.asarray(2.0), a).value

    assert int(ix.root(lambda y, a: y**2 - a, jnp.asarray(2.0), 4.0).stats.steps) == 0
    assert float(jax.grad(solve)(4.0)) == pytest.approx(1 / 4, rel=1e-12)
    assert float(jax.hessian(solve)(4.0)) == pytest.approx(-1 / 32, rel=1e-10)


def test_a_map_that_does_not_depend_on_y():
    solve = lambda a: ix.fixed_point(lambda y, a: a**2, jnp.asarray(1.0), a).value
    assert float(solve(3.0)) == 9
    assert float(jax.grad(solve)(3.0)) == pytest.approx(6, rel=1e-14)


def test_functions_that_differ_in_their_derivative_only_are_told_apart():
    """The cache of compiled programs must not take one for the other."""

    def scaled(k):
        g = jax.custom_jvp(lambda x: x)
        g.defjvp(lambda primals, tangents: (primals[0], k * tangents[0]))
        return g

    for k in (1.0, 2.0, 1.0):
        g = scaled(k)
        solve = lambda a, g=g: ix.root(lambda y, a: y - g(a), jnp.asarray(0.5), a).value
        assert float(jax.grad(solve)(1.0)) == k


@pytest.mark.parametrize("n", [1, 7, 60])
def test_a_factorisation_solves_both_ways(n):
    """A wrong one would be corrected by refinement, slowly: only this would notice."""
    rng = np.random.default_rng(n)
    M = rng.normal(size=(n, n)) * np.logspace(-3, 3, n)[:, None]
    b = rng.normal(size=n)
    kept = eliminate(*augment(jnp.asarray(M), jnp.asarray(b)))
    np.testing.assert_allclose(kept.solution, np.linalg.solve(M, b), rtol=1e-9)
    for factor in (factorise(jnp.asarray(M)), kept.factor):
        for transposed, exact in ((False, M), (True, M.T)):
            got = factor.solve(jnp.asarray(b), transposed)
            np.testing.assert_allclose(got, np.linalg.solve(exact, b), rtol=1e-8)


def test_an_adjoint_to_start_from_saves_products_and_changes_nothing():
    W = np.random.default_rng(0).normal(size=(150, 150)) * 0.9 / np.sqrt(150)
    args = jnp.asarray(W), jnp.ones(150)
    fn = lambda z, a: jnp.tanh(a[0] @ z + a[1])
    z = ix.fixed_point(fn, jnp.zeros(150), args, solver=ix.Newton()).value
    loss = lambda z, a: jnp.sum(z**2)
    certificate = ix.certify(loss, ix.FixedPoint(fn), z, args)
    _, pull = jax.vjp(lambda z: z - fn(z, args), z)
    products = []

    def product(u):
        jax.debug.callback(lambda: products.append(1))
        return pull(u)[0]

    spent, structure = [], ix.JacobianStructure(fixed_point=True)
    for guess in (None, certificate.adjoint * (1 + 1e-6), certificate.adjoint):
        products.clear()
        solve = LinearSolve(Auto(), None, structure, guess)
        u = solve.adjoint(product, 2 * z)
        jax.effects_barrier()
        spent.append(len(products))
        np.testing.assert_allclose(u, certificate.adjoint, rtol=1e-8)
    assert spent[0] > 1.5 * spent[1] > 1.5 * spent[2] == 1.5

    def gradient(derivative):
        solve = lambda a: ix.fixed_point(fn, jnp.zeros(150), a, derivative=derivative)
        return jax.grad(lambda a: loss(solve(a).value, a))(args)

    for guess in (certificate.adjoint, jnp.ones(150)):
        for got, exact in zip(
            gradient(ix.Implicit(adjoint=guess)), certificate.gradient, strict=True
        ):
            np.testing.assert_allclose(got, exact, rtol=1e-7, atol=1e-9)


def test_a_function_may_solve_the_linear_systems():
    M = jnp.asarray([[3.0, 1.0], [0.5, 2.0]])
    gmres = lambda matvec, b: jax.scipy.sparse.linalg.gmres(matvec, b, tol=1e-3)[0]
    solve = solution(lambda y, a: M @ y - a, [0.0, 0.0], gmres)
    gradient = jax.grad(lambda a: jnp.sum(solve(a)))(jnp.ones(2))
    exact = np.linalg.solve(np.asarray(M).T, np.ones(2))
    np.testing.assert_allclose(gradient, exact, rtol=1e-9)


def test_the_default_is_within_a_hundred_times_of_dense_lu():
    """Whatever the condition number, up to 1e12; singular vectors at random."""
    rng = np.random.default_rng(0)
    n = 50
    left, right = (np.linalg.qr(rng.normal(size=(n, n)))[0] for _ in range(2))
    b, g = rng.normal(size=(2, n))

    @jax.jit
    def gradient(A):
        solve = lambda b: ix.root(lambda y, a: A @ y - a, jnp.zeros(n), b).value
        return jax.grad(lambda b: jnp.sum(g * solve(b)))(jnp.asarray(b))

    for exponent in (2, 4, 6, 8, 10, 12):
        A = left @ np.diag(np.logspace(0, -exponent, n)) @ right
        exact = left @ (np.logspace(0, exponent, n) * (right @ g))
        size = np.linalg.norm(exact)
        attained = np.linalg.norm(np.linalg.solve(A.T, g) - exact) / size
        ours = np.linalg.norm(gradient(jnp.asarray(A)) - exact) / size
        assert ours <= 100 * attained
