"""The trust region: far starts, saddles, singular models, bad regions, bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicax as ix

from ..oracles import relative_error

Status = ix.Status
ROOT5, ROOT10 = np.sqrt(5.0), np.sqrt(10.0)


def rosenbrock(y, a):
    return jnp.stack([a - y[0], 10 * (y[1] - y[0] ** 2)])


def beale(y, a):
    return jnp.stack([c - y[0] * (1 - y[1] ** k) for k, c in enumerate(a, 1)])


def powell(y, a):
    return jnp.stack(
        [
            y[0] + 10 * y[1],
            ROOT5 * (y[2] - y[3]),
            (y[1] - 2 * y[2]) ** 2,
            ROOT10 * (y[0] - y[3]) ** 2,
        ]
    )


def squared(errors):
    return lambda y, a: jnp.sum(errors(y, a) ** 2)


def minimize(fn, y0, args=None, **options):
    return ix.minimize(fn, y0, args, on_failure="ignore", **options)


def least_squares(fn, y0, args=None, **options):
    return ix.least_squares(fn, y0, args, on_failure="ignore", **options)


def converged(solution):
    assert bool(solution.status == Status.converged), solution
    return solution


#: Name to (errors, start, args, solution, tolerance). Powell's Hessian is singular at
#: the solution: Newton's method converges linearly there, to a root of the accuracy.
CLASSICS = {
    "rosenbrock": (rosenbrock, [-1.2, 1.0], 1.0, [1.0, 1.0], 1e-9),
    "far": (rosenbrock, [-120.0, 1.0], 1.0, [1.0, 1.0], 1e-7),
    "beale": (beale, [1.0, 1.0], (1.5, 2.25, 2.625), [3.0, 0.5], 1e-9),
    "powell": (powell, [3.0, -1.0, 0.0, 1.0], None, [0.0] * 4, 1e-9),
}


@pytest.mark.parametrize("name", CLASSICS)
def test_classics(name):
    errors, start, args, solution, tolerance = CLASSICS[name]
    start = jnp.asarray(start)
    for found in (
        minimize(squared(errors), start, args),
        least_squares(errors, start, args, solver=ix.LevenbergMarquardt()),
    ):
        # (Where the Hessian is singular there is no derivative: that is said.)
        status = Status.degenerate if name == "powell" else Status.converged
        assert bool(found.status == status), found
        np.testing.assert_allclose(found.value, solution, rtol=0, atol=tolerance)


def test_from_a_thousand_away():
    # Along the floor of the valley: many steps, and each of them falls.
    start, fn = jnp.asarray([-1200.0, 1.0]), squared(rosenbrock)
    found = minimize(fn, start, 1.0, max_steps=2000)
    np.testing.assert_allclose(converged(found).value, [1.0, 1.0], rtol=1e-7)
    early = minimize(fn, start, 1.0)
    assert bool(early.status == Status.max_steps_reached)
    assert early.objective < 1e-8 * fn(start, 1.0)


def saddle(y, a):
    return y[0] ** 2 - y[1] ** 2 + y[1] ** 4


@pytest.mark.parametrize(
    "start",
    [[1.0, 0.0], [0.0, 0.0], [1e-12, 0.0], [0.0, 1e-12], [1.0, 1e-200], [-3.0, 0.1]],
)
def test_saddles_are_left(start):
    # The gradient along y1 is exactly zero at most of these: the hard case.
    found = converged(minimize(saddle, jnp.asarray(start)))
    np.testing.assert_allclose(np.abs(found.value), [0.0, 0.5**0.5], atol=1e-12)
    np.testing.assert_allclose(found.objective, -0.25, rtol=1e-12)


def test_a_saddle_hit_by_a_full_newton_step_is_left():
    # From (1, 0) the Hessian is positive definite and the Newton step exact, to (0, 0),
    # where the Hessian has the eigenvalue -1.
    fn = lambda y, a: y[0] ** 2 + y[1] ** 2 * (y[0] - 0.5) + y[1] ** 4
    found = converged(minimize(fn, jnp.asarray([1.0, 0.0])))
    assert np.linalg.eigvalsh(jax.hessian(fn)(found.value, None)).min() > 0
    assert found.objective < -0.08


def test_a_maximum_is_left():
    found = converged(minimize(lambda y, a: jnp.cos(a * y), 0.0, 1.0))
    np.testing.assert_allclose(abs(found.value), np.pi, rtol=1e-12)


def test_indefinite_starts():
    fn = lambda y, a: jnp.sum(jnp.cos(a * y) + 0.01 * y**2)
    starts = jnp.asarray(np.random.default_rng(3).normal(size=(20, 3)))
    found = jax.jit(jax.vmap(lambda y: minimize(fn, y, 1.0)))(starts)
    assert np.all(found.status == Status.converged)
    hessians = jax.vmap(lambda y: jax.hessian(fn)(y, 1.0))(found.value)
    assert np.linalg.eigvalsh(hessians).min() > 0
    assert np.max(found.stats.residual_norm) < 1e-9


GRID = np.arange(5.0)
DATA = jnp.asarray(np.exp(-0.7 * GRID) + 0.01 * np.array([1, -1, 0, 2, -1]))


def redundant(y, a):
    """Only the sum of the unknowns matters."""
    return jnp.exp(-(y[0] + y[1]) * GRID) - a


@pytest.mark.parametrize("solver", [None, ix.LevenbergMarquardt(), ix.TrustRegion()])
def test_a_rank_deficient_fit(solver):
    options = {"solver": solver, "on_failure": "ignore"}
    start = jnp.asarray([0.1, 0.1])
    fit = lambda data: ix.least_squares(redundant, start, data, **options)
    found = converged(fit(DATA))
    single = ix.least_squares(lambda y, a: jnp.exp(-y * GRID) - a, 0.2, DATA)
    np.testing.assert_allclose(jnp.sum(found.value), single.value, rtol=1e-9)
    # There is no derivative of the unknowns, and none is returned; that of the
    # objective is there all the same.
    assert np.all(np.isnan(jax.jacrev(lambda d: fit(d).value)(DATA)))
    slope = jax.grad(lambda d: fit(d).objective)(DATA)
    np.testing.assert_allclose(slope, -redundant(found.value, DATA), atol=1e-12)
    certificate = ix.certify(
        lambda y, a: y[0], ix.LeastSquares(redundant), found.value, DATA
    )
    assert not bool(certificate.ok)
    assert "singular" in str(certificate)


def test_fewer_errors_than_unknowns():
    fn = lambda y, a: jnp.stack([y[0] * y[1] - a, y[2] ** 2 - y[0]])
    start = jnp.asarray([1.0, 2.0, 3.0])
    solve = lambda a: least_squares(fn, start, a)
    found = converged(solve(2.0))
    np.testing.assert_allclose(fn(found.value, 2.0), 0, atol=1e-12)
    assert np.all(np.isnan(jax.jacfwd(lambda a: solve(a).value)(2.0)))


def test_regions_of_nan_are_backed_out_of():
    barrier = lambda y, a: y - jnp.log(y - a)  # NaN below a, minimum at a + 1
    for start in (50.0, 1.0 + 1e-6):
        np.testing.assert_allclose(
            converged(minimize(barrier, start, 1.0)).value, 2.0, rtol=1e-10
        )
    fit = least_squares(lambda y, a: jnp.sqrt(y) - a, jnp.asarray([4.0, 90.0]), 0.1)
    np.testing.assert_allclose(converged(fit).value, 0.01, rtol=1e-9)


@pytest.mark.parametrize(
    "fn",
    [
        lambda y, a: a * y,
        lambda y, a: -a * y**2,
        lambda y, a: -a * y**4,
        lambda y, a: jnp.log(a * y),
    ],
    ids=["linear", "square", "fourth", "logarithm"],
)
def test_what_has_no_minimum_does_not_converge(fn):
    for steps in (256, 3000):
        found = minimize(fn, 5.0, 1.0, max_steps=steps)
        assert not bool(found.status == Status.converged), found


def test_nan_at_the_start():
    with pytest.raises(ix.ConvergenceError, match="NaN or infinity"):
        ix.minimize(lambda y, a: jnp.log(y), -1.0)


def test_a_constant_objective():
    found = converged(minimize(lambda y, a: 0 * y + a, 5.0, 2.0))
    assert (found.value, found.objective) == (5.0, 2.0)


@pytest.mark.parametrize("offset", [0.0, 3.0, 1e6])
def test_at_the_minimum_already(offset):
    fn = lambda y, a: jnp.sum((y - a) ** 2 + (y - a) ** 4) + offset
    found = converged(minimize(fn, jnp.asarray([1.0, 1.0]), 1.0))
    assert found.stats.steps <= 1
    np.testing.assert_array_equal(found.value, 1.0)
    fit = converged(least_squares(lambda y, a: y - a, jnp.zeros(2), jnp.zeros(2)))
    np.testing.assert_array_equal(fit.value, 0.0)
    # ... to rounding.
    near = jnp.nextafter(jnp.asarray(1.0), 2.0)
    assert converged(minimize(fn, jnp.stack([near, near]), 1.0)).stats.steps <= 3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_precision_and_scalars(dtype):
    eps = float(jnp.finfo(dtype).eps)
    start, a = jnp.asarray(3, dtype), jnp.asarray(1, dtype)
    fits = (
        minimize(lambda y, a: jnp.cosh(y - a), start, a),
        least_squares(lambda y, a: jnp.stack([y**2 - a, y - a]), start, a),
    )
    for found in fits:
        assert converged(found).value.dtype == dtype
        np.testing.assert_allclose(float(found.value), 1.0, rtol=4 * eps ** (2 / 3))


def test_mixed_precision():
    y0 = {"a": jnp.full(3, 2.0), "b": jnp.full(2, 3.0, jnp.float32)}
    fit = converged(least_squares(lambda y, a: {k: v**2 - 1 for k, v in y.items()}, y0))
    assert [v.dtype for v in fit.value.values()] == ["float64", "float32"]
    np.testing.assert_allclose(fit.value["a"], 1, rtol=1e-6)
    np.testing.assert_allclose(fit.value["b"], 1, rtol=1e-6)


def test_a_failing_lane_keeps_its_trouble_to_itself():
    fn = lambda y, a: a * y**2 - y + 0 * jnp.log(a)
    solve = lambda a: ix.minimize(fn, 5.0, a)
    both = jax.jit(
        lambda a: (jax.vmap(solve)(a), jax.vmap(jax.grad(lambda a: solve(a).value))(a))
    )
    found, slope = both(jnp.asarray([1.0, -1.0, 2.0]))
    good = np.array([True, False, True])
    np.testing.assert_array_equal(found.status == Status.converged, good)
    np.testing.assert_allclose(found.value[good], [0.5, 0.25], rtol=1e-12)
    np.testing.assert_allclose(slope[good], [-0.5, -0.125], rtol=1e-12)
    for of_it in (found.value, found.objective, slope):
        np.testing.assert_array_equal(np.isnan(of_it), ~good)


def test_statuses_and_what_the_error_says():
    fn = squared(rosenbrock)
    start = jnp.asarray([-1.2, 1.0])
    with pytest.raises(ix.ConvergenceError) as caught:
        ix.minimize(fn, start, 1.0, max_steps=3)
    error = caught.value
    for words in ("TrustRegion", "max steps reached", "after 3 steps", "max_steps"):
        assert words in str(error)
    assert bool(error.solution.status == Status.max_steps_reached)
    assert error.solution.objective < fn(start, 1.0)
    with pytest.raises(ix.ConvergenceError, match="LevenbergMarquardt"):
        ix.least_squares(rosenbrock, start, 1.0, max_steps=3)


@functools.cache
def steps(solver, scale):
    """Steps to Rosenbrock's minimum with the second variable in other units."""
    unit = np.array([1.0, scale])
    start = jnp.asarray(np.array([-1.2, 1.0]) / unit)
    errors = lambda y, a: rosenbrock(y * unit, a)
    solver = getattr(ix, solver)()
    found = converged(ix.least_squares(errors, start, 1.0, solver=solver))
    np.testing.assert_allclose(found.value * unit, 1.0, rtol=1e-9)
    return int(found.stats.steps)


@pytest.mark.parametrize("scale", [1e6, 1e-6])
@pytest.mark.parametrize("solver", ["TrustRegion", "LevenbergMarquardt"])
def test_units_of_the_variables_do_not_matter(solver, scale):
    assert abs(steps(solver, scale) - steps(solver, 1.0)) <= 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ix.root(lambda y, a: y, 1.0, solver=ix.TrustRegion()), "an equation"),
        (
            lambda: ix.fixed_point(lambda y, a: y / 2, 1.0, solver=ix.TrustRegion()),
            "an equation",
        ),
        (
            lambda: ix.minimize(lambda y, a: y**2, 1.0, solver=ix.LevenbergMarquardt()),
            "needs the errors",
        ),
        (
            lambda: ix.minimize(lambda y, a: y**2, 1.0, derivative=ix.Unrolled()),
            "no derivative",
        ),
        (
            lambda: ix.least_squares(lambda y, a: y, 1.0, derivative=ix.OneStep()),
            "no derivative",
        ),
        (lambda: ix.minimize(lambda y, a: y**2, jnp.ones(2)), "a real scalar"),
        (lambda: ix.minimize(lambda y, a: 3, 1.0), "a real scalar"),
        (lambda: ix.minimize(lambda y, a: None, 1.0), "a real scalar"),
        (lambda: ix.minimize(lambda y, a: (y, y), 1.0), "has_aux=True"),
        (lambda: ix.minimize(lambda y, a: 1j * a, 1.0, 1j), "a real scalar"),
        (
            lambda: ix.minimize(lambda y, a: y.astype(jnp.float32), 1.0),
            "precision of y0",
        ),
        (
            lambda: ix.least_squares(lambda y, a: jnp.zeros(3, jnp.float32), 1.0),
            "precision of y0",
        ),
        (
            lambda: ix.least_squares(lambda y, a: jnp.arange(3), 1.0),
            "precision of y0",
        ),
        (
            lambda: ix.minimize(
                lambda y, a: y**2, 1.0, derivative=ix.Implicit(hessian="gauss_newton")
            ),
            "gauss_newton",
        ),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize("output", [jnp.zeros(0), {}, None])
def test_no_errors_at_all(output):
    with pytest.raises(ValueError, match="holds no numbers"):
        ix.least_squares(lambda y, a: output, 1.0)


def test_terms_that_cancel_hide_no_minimum():
    """`|y| = 1e6` where `H y = 1`: the terms of the objective are far larger than what
    they add up to, and so are their rounding errors."""
    basis = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (10, 10)))[0]
    curvatures = jnp.logspace(0, -6, 10)
    H = basis @ jnp.diag(curvatures) @ basis.T
    ones = jnp.ones(10)
    found = ix.minimize(lambda y, a: y @ H @ y / 2 - a @ y, jnp.zeros(10), ones)
    exact = basis @ (basis.T @ ones / curvatures)
    assert relative_error(found.value, exact) <= 1e-9
    assert int(found.stats.steps) <= 25
