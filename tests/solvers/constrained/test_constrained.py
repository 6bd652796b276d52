"""Minima, fits and roots within bounds and under constraints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicax as ix


def hs71(y, a):
    """Problem 71 of Hock & Schittkowski (1981)."""
    return y[0] * y[3] * (y[0] + y[1] + y[2]) + y[2]


CONSTRAINTS = [
    ix.AtLeast(lambda y, a: jnp.prod(y) - a[0]),
    ix.Equal(lambda y, a: jnp.sum(y**2) - a[1]),
]
START = jnp.array([1.0, 5.0, 5.0, 1.0])
HERE = jnp.array([25.0, 40.0])


def solved(a, **options):
    bounds = (1.0, 5.0)
    return ix.minimize(
        hs71, START, a, bounds=bounds, constraints=CONSTRAINTS, **options
    )


def central(fn, a, h=1e-5):
    columns = [
        (fn(a + h * e) - fn(a - h * e)) / (2 * h)
        for e in jnp.eye(a.size, dtype=a.dtype)
    ]
    return np.stack(columns, -1)


def test_value_and_every_derivative_of_a_classic_one():
    solution = solved(HERE)
    # (Hock & Schittkowski, p. 92.)
    known = [1.0, 4.7429996, 3.8211499, 1.3794083]
    np.testing.assert_allclose(solution.value, known, rtol=1e-7)
    np.testing.assert_allclose(solution.objective, 17.0140173, rtol=1e-9)
    assert not solution.degeneracy.any

    def value(a):
        return solved(a).value

    expected = central(value, HERE)
    for jacobian in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(jacobian(value)(HERE), expected, atol=1e-8)
    dual = jax.jit(lambda a: jnp.stack(solved(a).dual.constraints))
    found = jax.jacrev(lambda a: jnp.stack(solved(a).dual.constraints))(HERE)
    np.testing.assert_allclose(found, central(dual, HERE), atol=1e-7)
    # The envelope theorem: multipliers are what the least value gains.
    slope = jax.grad(lambda a: solved(a).objective)(HERE)
    np.testing.assert_allclose(slope, -jnp.stack(solution.dual.constraints), rtol=1e-9)
    gradient = jax.jit(jax.grad(lambda a: solved(a).value[1]))
    hessian = jax.jit(jax.hessian(lambda a: solved(a).value[1]))(HERE)
    np.testing.assert_allclose(hessian, central(gradient, HERE), atol=1e-7)


@pytest.mark.parametrize("rows", [1e-6, 1e7])
@pytest.mark.parametrize("unknowns", [1e-5, 1e4])
def test_units_do_not_matter(rows, unknowns):
    units = unknowns ** jnp.array([1.0, -1.0, 0.5, 0.0])
    constraints = [
        ix.AtLeast(lambda z, a: rows * (jnp.prod(z / units) - a[0])),
        ix.Equal(lambda z, a: (jnp.sum((z / units) ** 2) - a[1]) / rows),
    ]

    def value(a):
        objective = lambda z, a: hs71(z / units, a) * rows
        box = (1.0 * units, 5.0 * units)
        start, options = START * units, {"bounds": box, "constraints": constraints}
        return ix.minimize(objective, start, a, **options).value / units

    slopes, found = jax.jit(jax.jacfwd(lambda a: (value(a),) * 2, has_aux=True))(HERE)
    np.testing.assert_allclose(found, solved(HERE).value, rtol=1e-9)
    expected = jax.jacfwd(lambda a: solved(a).value)(HERE)
    np.testing.assert_allclose(slopes, expected, atol=1e-8)


def test_lanes_that_fail_do_not_touch_the_others():
    lanes = jnp.array([[25.0, 40.0], [25.0, 1e4], [27.0, 45.0]])
    many = jax.jit(jax.vmap(solved))(lanes)
    assert many.status.name.tolist() == ["converged", "locally_infeasible", "converged"]
    assert np.isnan(many.value[1]).all()
    for lane in (0, 2):
        np.testing.assert_allclose(
            many.value[lane], solved(lanes[lane]).value, rtol=1e-10
        )
    slopes = jax.jit(jax.vmap(jax.grad(lambda a: solved(a).value[1])))(lanes)
    assert np.isnan(slopes[1, 1])
    alone = jax.grad(lambda a: solved(a).value[1])(HERE)
    np.testing.assert_allclose(slopes[0], alone, rtol=1e-8)


def test_at_a_bound_a_parameter_has_no_derivative_but_that_of_the_bound():
    args = jnp.array([0.5, 2.0, -1.0]), jnp.array([1.0, 1.5, 3.0])

    def value(args):
        point, upper = args
        box = (0.0, upper)
        squares = lambda y, p: jnp.sum((y - p) ** 2)
        return ix.minimize(squares, jnp.ones(3) * 7, point, bounds=box).value

    solution = ix.minimize(
        lambda y, p: jnp.sum((y - p) ** 2), jnp.ones(3), args[0], bounds=(0.0, args[1])
    )
    np.testing.assert_array_equal(solution.value, [0.5, 1.5, 0.0])
    np.testing.assert_allclose(solution.dual.bounds, [0.0, 1.0, -2.0], atol=1e-12)
    in_point, in_upper = jax.jacrev(value)(args)
    np.testing.assert_allclose(in_point, np.diag([1.0, 0.0, 0.0]), atol=1e-12)
    np.testing.assert_allclose(in_upper, np.diag([0.0, 1.0, 0.0]), atol=1e-12)


def test_bounds_that_meet_fix_an_unknown():
    def value(a):
        box = (jnp.stack([a, -10.0 + 0 * a]), jnp.stack([a, 10.0 + 0 * a]))
        return ix.minimize(
            lambda y, _: (y[0] * y[1] - 2) ** 2 + y[1] ** 2, jnp.ones(2), bounds=box
        ).value

    found, slope = value(jnp.asarray(3.0)), jax.jacfwd(value)(jnp.asarray(3.0))
    np.testing.assert_allclose(found, [3.0, 0.6], rtol=1e-12)
    # y1 = 2 a / (a^2 + 1)
    np.testing.assert_allclose(slope, [1.0, 2 * (1 - 9) / 100], rtol=1e-9)


def test_degeneracy_is_named():
    def least(constraints, fn=lambda y, a: jnp.sum((y - a) ** 2), a=1.0, **options):
        return ix.minimize(
            fn, jnp.array([0.3, 0.1]), a, constraints=constraints, **options
        )

    once = ix.Equal(lambda y, a: y[0] + y[1] - 1)
    twice = [once, ix.Equal(lambda y, a: 2 * y[0] + 2 * y[1] - 2)]
    assert least(twice).degeneracy.dependent
    slope = jax.grad(
        lambda a: least(twice, lambda y, a: (y[0] - a) ** 2 + y[1] ** 2, a).value[0]
    )
    np.testing.assert_allclose(slope(0.3), 0.5, rtol=1e-9)
    touched = [ix.AtMost(lambda y, a: y[0] - 1)]
    assert least(touched).degeneracy.weak
    assert not least([once]).degeneracy.any
    flat = [ix.AtLeast(lambda y, a: y[0] - 2)]
    many = least(flat, lambda y, a: y[0] ** 2, on_failure="ignore")
    assert many.degeneracy.not_unique
    assert many.status.name == "degenerate"


@pytest.mark.parametrize(
    ("objective", "constraints", "status"),
    [
        (
            lambda y, a: jnp.sum(y**2),
            [ix.AtMost(lambda y, a: y[0] + 1), ix.AtLeast(lambda y, a: y[0] - 1)],
            "locally_infeasible",
        ),
        (
            lambda y, a: jnp.sum(y**2),
            [ix.Equal(lambda y, a: jnp.sum(y**2) + 1)],
            "locally_infeasible",
        ),
        (lambda y, a: jnp.sum(y), [ix.AtMost(lambda y, a: y[0] - 1)], "unbounded"),
        (
            lambda y, a: jnp.sum(jnp.exp(-y)),
            [ix.AtLeast(lambda y, a: y[0] - 1)],
            "unbounded",
        ),
        (
            lambda y, a: jnp.nan * jnp.sum(y),
            [ix.AtMost(lambda y, a: y[0] - 1)],
            "non_finite",
        ),
    ],
)
def test_what_has_no_solution_is_told(objective, constraints, status):
    start, options = jnp.array([0.5, 2.0]), {"constraints": constraints}
    found = ix.minimize(objective, start, on_failure="ignore", **options)
    assert found.status.name == status
    with pytest.raises(ix.ConvergenceError, match=status.replace("_", " ")):
        ix.minimize(objective, start, **options)


def test_a_stationary_point_that_is_no_minimum_is_left():
    # On the circle (1, 0) and (-1, 0) are the minima, (0, +-1) the maxima.
    circle = ix.Equal(lambda y, a: jnp.sum(y**2) - 1)
    objective = lambda y, a: -(y[0] ** 2)
    start = jnp.array([0.0, 1.0])
    found = ix.minimize(objective, start, constraints=[circle], on_failure="ignore")
    right = abs(abs(float(found.value[0])) - 1) < 1e-8
    assert right if bool(found.converged) else found.status.name == "saddle"
    away = ix.minimize(objective, start + 0.1, constraints=[circle])
    np.testing.assert_allclose(jnp.abs(away.value), [1.0, 0.0], atol=1e-12)


def test_fits_within_bounds():
    t = jnp.linspace(0.0, 3.0, 12)
    data = 2.0 * jnp.exp(-0.7 * t) + 0.01 * jnp.cos(9 * t)

    def errors(y, data):
        return y["height"] * jnp.exp(-y["rate"] * t) - data

    start = {"height": jnp.asarray(1.0), "rate": jnp.asarray(0.2)}

    def fit(data, upper, **options):
        bounds = ({"height": 0.0, "rate": 0.0}, {"height": upper, "rate": jnp.inf})
        return ix.least_squares(errors, start, data, bounds=bounds, **options)

    free = ix.least_squares(errors, start, data)
    wide = fit(data, 10.0)
    for name in start:
        np.testing.assert_allclose(wide.value[name], free.value[name], rtol=1e-10)
        np.testing.assert_array_equal(wide.dual.bounds[name], 0.0)
    narrow = fit(data, 1.8)
    assert narrow.value["height"] == 1.8
    assert narrow.dual.bounds["height"] > 0
    slope = jax.grad(lambda data: fit(data, 1.8).value["rate"])(data)
    rate = jax.jit(lambda data: fit(data, 1.8).value["rate"])
    np.testing.assert_allclose(slope, central(rate, data), atol=1e-8)
    for method in ("trf", "dogbox"):
        other = fit(data, 1.8, solver=ix.SciPy(method))
        np.testing.assert_allclose(
            other.value["rate"], narrow.value["rate"], rtol=1e-10
        )


def test_roots_within_bounds():
    def both(y, a):
        return jnp.stack([y[0] ** 2 + y[1] - a, y[1] - jnp.log(y[0])])

    def value(a):
        box = (jnp.array([1e-3, -jnp.inf]), jnp.inf)
        return ix.root(both, jnp.array([40.0, 5.0]), a, bounds=box).value

    x = value(2.0)
    np.testing.assert_allclose(both(x, 2.0), 0.0, atol=1e-12)
    assert x[0] > 0
    slope = jax.jacfwd(value)(2.0)
    free = jax.jacfwd(lambda a: ix.root(both, x, a).value)(2.0)
    np.testing.assert_allclose(slope, free, rtol=1e-10)
    outside = ix.root(
        lambda y, a: y - a,
        jnp.asarray(0.5),
        2.0,
        bounds=(0.0, 1.0),
        on_failure="ignore",
    )
    assert outside.status.name == "locally_infeasible"


def test_single_precision():
    a = HERE.astype(jnp.float32)
    start = START.astype(jnp.float32)

    def value(a):
        options = {"bounds": (1.0, 5.0), "constraints": CONSTRAINTS}
        return ix.minimize(hs71, start, a, **options).value

    found, slope = value(a), jax.jacrev(value)(a)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, solved(HERE).value, rtol=1e-5)
    expected = jax.jacrev(lambda a: solved(a).value)(HERE)
    np.testing.assert_allclose(slope, expected, atol=1e-4)


@pytest.mark.parametrize("method", ["SLSQP", "trust-constr", "COBYQA"])
def test_engines_of_scipy(method):
    found = solved(HERE, solver=ix.SciPy(method), max_steps=2000)
    np.testing.assert_allclose(found.value, solved(HERE).value, rtol=1e-10)
    for mine, theirs in zip(
        solved(HERE).dual.constraints, found.dual.constraints, strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-8)


@pytest.mark.parametrize("method", ["L-BFGS-B", "TNC", "Nelder-Mead"])
def test_engines_of_scipy_within_bounds(method):
    rosenbrock = lambda y, a: (a - y[0]) ** 2 + 100 * (y[1] - y[0] ** 2) ** 2
    solver = ix.SciPy(method)

    def least(a):
        start = jnp.array([-1.2, 1.0])
        options = {"bounds": (-2.0, 0.8), "solver": solver, "max_steps": 1000}
        return ix.minimize(rosenbrock, start, a, **options).value[1]

    lanes = jax.jit(jax.vmap(jax.grad(least)))(jnp.array([0.5, 0.7, 1.0]))
    np.testing.assert_allclose(lanes, [1.0, 1.4, 0.0], atol=1e-9)


def test_certificates():
    problem = ix.Minimum(hs71, bounds=(1.0, 5.0), constraints=CONSTRAINTS)
    solution = ix.solve(problem, START, HERE)
    certificate = ix.certify(lambda y, a: y[0][1], problem, solution, HERE)
    assert certificate.ok
    expected = jax.grad(lambda a: solved(a).value[1])(HERE)
    np.testing.assert_allclose(certificate.gradient, expected, rtol=1e-9)
    assert "1 of 4 act" in repr(solution)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"bounds": (1.0, 0.0)}, ValueError, "lower one must not be above"),
        ({"bounds": 3.0}, TypeError, r"a pair \(lower, upper\)"),
        ({"bounds": (jnp.nan, 1.0)}, ValueError, "NaN"),
        ({"bounds": (jnp.zeros(3), None)}, ValueError, r"shape of y0, \(2,\)"),
        ({"bounds": ({"a": 0.0}, None)}, ValueError, "of the structure of y0"),
        ({"constraints": [3]}, TypeError, "a list of ix.Equal"),
        ({"constraints": [ix.Equal(lambda y, a: 1)]}, TypeError, "real floating"),
        ({"bounds": (0.0, 1.0), "solver": ix.Newton()}, TypeError, "must know them"),
        ({"bounds": (0.0, 1.0), "solver": ix.SciPy("BFGS")}, TypeError, "no bounds"),
        (
            {"constraints": CONSTRAINTS, "solver": ix.SciPy("L-BFGS-B")},
            TypeError,
            "no constraints",
        ),
        ({"bounds": (0.0, 1.0), "derivative": ix.Unrolled()}, TypeError, "ix.Implicit"),
        ({"bounds": (0.0, 1.0), "sparsity": "auto"}, TypeError, "dense"),
        ({"bounds": (0.0, 1.0), "progress": True}, TypeError, "Leave it out"),
    ],
)
def test_mistakes_are_explained(options, error, text):
    with pytest.raises(error, match=text):
        ix.minimize(lambda y, a: jnp.sum(y**2), jnp.ones(2), HERE, **options)


def test_complex_unknowns_are_refused():
    with pytest.raises(TypeError, match="real and imaginary parts"):
        ix.minimize(lambda y, a: jnp.abs(y) ** 2, 1.0 + 1j, bounds=(0.0, 1.0))
    with pytest.raises(TypeError, match="takes a function"):
        ix.Equal(3.0)  # pyright: ignore[reportArgumentType]
