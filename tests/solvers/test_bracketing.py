"""Bracketing: signs, ends, the search for them, and a great many lanes."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import implicax as ix

from ..oracles import central, relative_error

METHODS = {"Bisection": ix.Bisection, "Chandrupatla": ix.Chandrupatla}


def kepler(E, a):
    e, M = a
    return E - e * jnp.sin(E) - M


def solve(fn, y0, args=None, method="Chandrupatla", lower=None, upper=None, **options):
    solver = METHODS[method](lower, upper, **options)
    return ix.root(fn, y0, args, solver=solver, on_failure="ignore")


@pytest.mark.parametrize(
    ("fn", "start", "expected"),
    [
        (lambda y, _: jnp.exp(y) - 2, 0.0, np.log(2)),
        (lambda y, _: jnp.exp(y) - 1e-5, 0.0, np.log(1e-5)),
        # The domain ends at zero, which the search must not cross.
        (lambda y, _: jnp.log(y) + 5, 1.0, np.exp(-5)),
        (lambda y, _: y - 1e10, 1.0, 1e10),
        # No derivative at the root.
        (lambda y, _: jnp.cbrt(y - 1), 0.3, 1.0),
        (lambda y, _: 5 * jnp.arctan(y - 3), -20.0, 3.0),
    ],
)
def test_finds_a_bracket_and_the_root(fn, start, expected):
    solution = solve(fn, start)
    assert bool(solution.status == ix.Status.converged)
    assert relative_error(solution.value, expected) <= 1e-11


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ({"lower": 1.0}, 3.577152063957297),
        ({"upper": 1.0}, 0.11183255915896297),
        ({"lower": 2.0, "upper": 5.0}, 3.577152063957297),
        ({"lower": 0.0, "upper": 1.0}, 0.11183255915896297),
    ],
)
def test_ends_choose_the_root(method, ends, expected):
    """`y exp(-y) = 0.1` has two roots."""
    solution = solve(lambda y, _: y * jnp.exp(-y) - 0.1, 1.0, method=method, **ends)
    assert relative_error(solution.value, expected) <= 5e-12


def test_takes_a_fifth_of_the_steps_of_bisection():
    steps = {}
    for method in METHODS:
        found = [
            solve(kepler, M, (0.9, M), method, lower=M - 1, upper=M + 1).stats.steps
            for M in (0.1, 1.0, 2.0, 3.0)
        ]
        steps[method] = np.mean(found)
    assert 30 <= steps["Bisection"] <= 54
    assert steps["Chandrupatla"] <= steps["Bisection"] / 5


def test_needs_fewer_evaluations_than_brent():
    """On equations that interpolation finds hard: flat, steep, and far."""
    hard = [
        (lambda m, x: x**9, -1.0, 4.0),
        (lambda m, x: x**19, -1.0, 4.0),
        (lambda m, x: m.exp(-1e3 * x) - 0.2, 0.0, 1.0),
        (lambda m, x: (x - 0.3) ** 3, 0.0, 7.0),
        (lambda m, x: m.arctan(1e3 * (x - 0.123)), -2.0, 3.0),
    ]
    ours = theirs = 0
    for fn, lower, upper in hard:
        at = functools.partial(fn, np)
        _, brent = scipy.optimize.brentq(at, lower, upper, full_output=True, disp=False)
        theirs += brent.function_calls
        in_jax = lambda y, _, fn=fn: fn(jnp, y)
        solution = solve(in_jax, 0.0, lower=lower, upper=upper)
        assert bool(solution.status == ix.Status.converged)
        ours += int(solution.stats.evaluations)
    assert ours <= theirs


@pytest.mark.parametrize("method", METHODS)
def test_no_sign_change(method):
    fn = lambda y, _: y**2 + 1
    solution = solve(fn, 3.0, method=method, lower=2.0, upper=5.0)
    assert bool(solution.status == ix.Status.no_sign_change)
    assert int(solution.stats.steps) == 0
    with pytest.raises(ix.ConvergenceError, match="same sign at both ends"):
        ix.root(fn, 3.0, solver=METHODS[method](2.0, 5.0))


@pytest.mark.parametrize(
    "fn", [lambda y, _: 1 / (y - 0.7), lambda y, _: jnp.sign(y - 0.7) + 0.5]
)
def test_a_sign_change_without_a_root_is_none(fn):
    """At a pole and at a jump."""
    solution = solve(fn, 0.0, lower=0.0, upper=2.0)
    assert bool(solution.status == ix.Status.stagnated)


def test_nan_between_the_ends_is_reported():
    fn = lambda y, _: jnp.where(jnp.abs(y) < 0.5, jnp.nan, y)
    solution = solve(fn, 0.0, lower=-1.0, upper=2.0)
    assert bool(solution.status == ix.Status.non_finite)


def test_infinite_values_have_signs():
    solution = solve(lambda y, _: jnp.log(y) + 3, 1.0, lower=0.0, upper=5.0)
    assert relative_error(solution.value, np.exp(-3)) <= 1e-12


def test_shapes_and_dtypes():
    y0 = jnp.full((1, 1), 3.0, jnp.float32)
    solution = solve(lambda y, _: y**3 - 2, y0)
    assert solution.value.shape == (1, 1)
    assert solution.value.dtype == jnp.float32
    assert relative_error(solution.value, np.full((1, 1), 2 ** (1 / 3))) <= 3e-6
    as_dict = ix.root(
        lambda y, _: {"x": y["x"] ** 3 - 2}, {"x": 1.0}, solver=ix.Chandrupatla()
    )
    assert relative_error(as_dict.value, {"x": 2 ** (1 / 3)}) <= 1e-12


def test_fixed_points():
    found = ix.fixed_point(lambda y, _: jnp.cos(2 * y), 0.0, solver=ix.Chandrupatla())
    assert abs(float(found.value - jnp.cos(2 * found.value))) <= 1e-14


@pytest.mark.parametrize("method", METHODS)
def test_derivatives(method):
    """First and second, against closed form: with `d = 1 - e cos E`,
    `dE/dM = 1/d` and `d2E/dM2 = -e sin E / d^3`; and against differences in `e`."""

    def anomaly(a):
        return ix.root(kepler, 0.0, a, solver=METHODS[method](a[1] - 1, a[1] + 1)).value

    a = jnp.asarray([0.6, 1.1])
    value, gradient = jax.jit(jax.value_and_grad(anomaly))(a)
    hessian = jax.jit(jax.hessian(anomaly))(a)
    d = 1 - 0.6 * np.cos(value)
    assert relative_error(gradient, np.array([np.sin(value) / d, 1 / d])) <= 1e-11
    assert relative_error(hessian[1, 1], -0.6 * np.sin(value) / d**3) <= 1e-11
    tight = lambda a: scipy.optimize.brentq(
        lambda E: E - a[0] * np.sin(E) - a[1], a[1] - 1, a[1] + 1, xtol=1e-15
    )
    assert relative_error(gradient, central(tight, np.asarray(a), 1e-3)) <= 1e-10


@pytest.mark.parametrize("derivative", [ix.Unrolled(), ix.OneStep()])
def test_steps_that_depend_on_signs_have_no_derivative(derivative):
    with pytest.raises(TypeError, match="no derivative"):
        ix.root(
            lambda y, a: y - a, 0.0, 1.0, solver=ix.Bisection(), derivative=derivative
        )


def test_bad_input():
    with pytest.raises(ValueError, match=r"2 real unknowns.*vmap"):
        solve(lambda y, _: y, jnp.zeros(2))
    with pytest.raises(ValueError, match="2 real unknowns"):
        solve(lambda y, _: y, 1.0j)
    with pytest.raises(ValueError, match="lower must be below upper"):
        ix.Chandrupatla(2.0, 1.0)
    with pytest.raises(TypeError, match="single real numbers"):
        ix.Chandrupatla(jnp.zeros(2), 1.0)
    with pytest.raises(ValueError, match="finite"):
        ix.Bisection(lower=float("inf"))
    with pytest.raises(TypeError, match="minimisation"):
        ix.minimize(lambda y, _: y**2, 1.0, solver=ix.Bisection())


def test_each_lane_has_its_own_ends_and_fate():
    @jax.jit
    @jax.vmap
    def lanes(lower, upper):
        solver = ix.Chandrupatla(lower, upper)
        return ix.root(lambda y, _: jnp.sin(y), 0.0, solver=solver)

    solution = lanes(jnp.asarray([3.0, 6.0, 1.0]), jnp.asarray([4.0, 7.0, 2.0]))
    assert relative_error(solution.value[:2], np.pi * np.array([1.0, 2.0])) <= 1e-13
    assert jnp.isnan(solution.value[2])
    missing = solution.status == ix.Status.no_sign_change
    assert missing.tolist() == [False, False, True]


def test_two_hundred_thousand_lanes():
    """Value and derivative, within seconds."""

    @jax.jit
    @jax.vmap
    def both(e, M):
        def anomaly(e):
            solver = ix.Chandrupatla(M - 1, M + 1)
            return ix.root(kepler, M, (e, M), solver=solver).value

        return jax.value_and_grad(anomaly)(e)

    rng = np.random.default_rng(0)
    e = jnp.asarray(rng.uniform(0.0, 0.99, 200_000))
    M = jnp.asarray(rng.uniform(0.01, 3.1, 200_000))
    both(e, M)[0].block_until_ready()
    start = time.perf_counter()
    E, slope = jax.block_until_ready(both(e, M))
    assert time.perf_counter() - start <= 5
    assert float(jnp.max(jnp.abs(kepler(E, (e, M))))) <= 1e-13
    closed = np.sin(E) / (1 - np.asarray(e) * np.cos(E))
    assert relative_error(slope, closed) <= 1e-11
