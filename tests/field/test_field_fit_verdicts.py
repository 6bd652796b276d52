"""Fits and minima from bug reports and questions that have no answer, or several, or
data of other kinds: what is there is found, and the rest is said.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import implicax as ix

from .. import field_fits as of
from ..field_oracles import Best, root, root_slope

least_squares = functools.partial(ix.least_squares, on_failure="ignore")
minimize = functools.partial(ix.minimize, on_failure="ignore")


def fitted(fn, near, args):
    return Best(fn, near, args, True).near(np.asarray(near), np.asarray(args))


@pytest.mark.parametrize(
    ("fn", "data", "near"),
    [
        (of.outbreak, of.INFECTED, [1.0, -0.1, 0.0]),  # Stack Overflow 61452274
        (of.decades, np.array(of.DECADES), [1000.0, -0.02]),  # 28414012
    ],
    ids=["outbreak", "decades"],
)
def test_exponentials_from_ones(fn, data, near):
    """They overflow, or vanish and leave their parameters without a slope."""
    solve = lambda d: least_squares(fn, np.ones(len(near)), d)
    found = jax.jit(solve)(data)
    right = fitted(fn, np.array(near), data)
    assert not found.converged or np.allclose(found.value, right, rtol=1e-6)


def four_for_three(y, seen):
    """`(a / c) (1 - exp(-c x / b))^d`."""
    return of.species(jnp.stack([y[0] / y[2], y[1] / y[2], y[3]]), seen)


def shifted_power(y, seen):
    """`a + b r^(x - m) + c x`."""
    scale = y["b"] * y["r"] ** (-y["m"])
    return of.line_and_power(jnp.stack([y["a"], scale, y["r"], y["c"]]), seen)


@pytest.mark.parametrize(
    ("fn", "start", "data", "determined", "model", "near"),
    [
        (  # Stack Overflow 22376433
            four_for_three,
            np.array([100.0, 10000.0, 0.5, 0.5]),
            np.arange(1.0, 137.0),
            lambda y: [y[0] / y[2], y[1] / y[2], y[3]],
            of.species,
            np.array([140.0, 2e4, 0.6]),
        ),
        (  # R-help, singular gradient with correct starting values
            shifted_power,
            {"a": -3.0, "b": 5.0, "c": 0.5, "r": 0.7, "m": 1.0},
            of.BENT,
            lambda y: [y["a"], y["b"] * y["r"] ** -y["m"], y["r"], y["c"]],
            of.line_and_power,
            np.array([-3.0, 7.0, 0.7, 0.5]),
        ),
    ],
    ids=["species", "line and power"],
)
def test_one_parameter_too_many(fn, start, data, determined, model, near):
    """The curve is found; no standard errors, no certificate for the parameters."""
    problem = ix.LeastSquares(fn)
    loss = lambda y, a: ravel_pytree(y)[0][0]

    @jax.jit
    def run(data):
        found = least_squares(fn, start, data)
        certificate = ix.certify(loss, problem, found.value, data)
        return found, certificate, ix.covariance(problem, found.value, data)

    found, certificate, covariance = run(data)
    right = fitted(model, near, data)
    np.testing.assert_allclose(determined(found.value), right, rtol=1e-6)
    assert not certificate.ok
    assert np.all(np.isnan(covariance.matrix))  # outside jit: ValueError


def test_lives_from_poor_starts():
    """stats.stackexchange 124217: wherever it starts, converged is right."""
    starts = np.array([[1.0, 1.0], [5.0, 3000.0], [1.0, 1e5]])
    found = jax.jit(jax.vmap(lambda y: minimize(of.weibull, y, of.LIVES)))(starts)
    best = Best(of.weibull, starts[0], of.LIVES, False)
    right = best.polished(np.array([2.12, 1550.0]), of.LIVES)
    k = right[0]  # ... where the slope of the profile is zero
    log, power = np.log(of.LIVES), of.LIVES**k
    np.testing.assert_allclose(power @ log / power.sum() - log.mean(), 1 / k)
    there = np.asarray(found.converged)
    assert there.any()
    np.testing.assert_allclose(
        found.value[there], np.tile(right, (there.sum(), 1)), rtol=1e-8
    )


VOLTAGES = [-5.8, -4.8, -2.8666667, -0.8666667, -0.7333333, -1.6666667]
VOLTAGES = np.array([*VOLTAGES, -0.1333333, 1.2, 1.3333333])
HIT = np.array([0.0] * 6 + [1.0] * 3)


def separated(y, ridge):
    """R-help, September 2003: a threshold tells the last three from the others."""
    eta = y[0] + y[1] * VOLTAGES
    return jnp.sum(jnp.logaddexp(0.0, eta) - HIT * eta) + ridge / 2 * y[1] ** 2


def likelihood_slope(y, ridge, m):
    """That of `separated`."""
    wrong = 1 / (1 + m.exp(-y[0] - y[1] * VOLTAGES)) - HIT
    return [m.sum(wrong), m.sum(wrong * VOLTAGES) + ridge[0] * y[1]]


def test_what_is_separated_has_no_maximum_of_likelihood():
    ridges = np.array([0.0, 1.0, 1e-2, 1e-6, 1e-9])

    @jax.jit
    def run(ridge):
        def size(ridge):
            found = minimize(separated, np.zeros(2), ridge)
            return found.value[1], found

        (_, found), slope = jax.value_and_grad(size, has_aux=True)(ridge)
        return found, slope

    assert not run(ridges[0])[0].converged
    for ridge in ridges[1:]:
        found, slope = run(ridge)
        assert found.converged
        right = root(likelihood_slope, np.asarray(found.value), [ridge])
        np.testing.assert_allclose(found.value, right, rtol=1e-7)
        steep = root_slope(likelihood_slope, right, [ridge], [ridge])[1]
        np.testing.assert_allclose(slope * ridge, steep, rtol=1e-6)


def test_two_names_for_one_curve():
    """py4u.org 58381803: the two ends of a logistic change places."""
    data = np.array(of.ABSORBED)
    start = np.array([2.4, 0.2, 600.0, 1.0])
    found = jax.jit(lambda d: least_squares(of.immunoassay, start, d))(data)
    right = fitted(of.immunoassay, np.array([0.1, 1.3, 600.0, 3.0]), data)
    a, power, middle, b = np.asarray(found.value)
    names = np.array([[a, power, middle, b], [b, -power, middle, a]])
    same = np.any(np.all(np.abs(names / right - 1) < 1e-5, axis=1))
    assert same or not found.converged


def test_a_fringe_from_the_opposite_phase():
    """QuTech/qtt#809."""
    start = np.array([0.4, 1 / (2 * np.pi), -np.pi / 2 + 0.4, 0.5])
    found = jax.jit(lambda d: least_squares(of.ramsey, start, d))(of.FRINGE)
    assert found.converged
    best = fitted(of.ramsey, np.array([0.2, 0.16, 1.57, 0.56]), of.FRINGE)
    lowest = np.sum(np.square(of.ramsey(best, of.FRINGE))) / 2
    np.testing.assert_allclose(found.objective, lowest, rtol=1e-9)


TIMES = np.linspace(0, 100, 300)
WAVE = np.sin(1.759 * TIMES)


def wave(y, seen):
    return jnp.sin(y * TIMES) - seen


def test_a_sine_with_dozens_of_minima():
    """Stack Overflow 8126001: an exact fit, and others that are true minima."""
    problem = ix.LeastSquares(wave)

    def run(y0):
        found = least_squares(wave, y0, WAVE)
        certificate = ix.certify(lambda y, a: y, problem, found.value, WAVE)
        spread = ix.covariance(problem, found.value, WAVE).standard_errors
        return found, certificate.ok, spread

    found, ok, spread = jax.jit(jax.vmap(run))(np.array([1.75, 1.0, 1.5]))
    assert found.converged[0]
    np.testing.assert_allclose(found.value[0], 1.759, rtol=1e-12)
    assert ok[0]
    assert spread[0] < 1e-12
    for y, converged in zip(
        *jax.device_get((found.value, found.converged)), strict=True
    ):
        around = y + np.array([-1e-5, 0.0, 1e-5])
        sums = np.sum((np.sin(around[:, None] * TIMES) - WAVE) ** 2, 1)
        assert not converged or np.argmin(sums) == 1


# ---------------------------------------------------------------------- straight lines


def test_parameters_that_are_zero():
    """scipy/scipy#21995: an even curve with an odd error."""
    x = np.linspace(-1, 1, 20)
    X = np.stack([np.ones(20), x**2], 1)
    problem = ix.LeastSquares(lambda y, seen: y[0] + y[1] * x**2 - seen)

    def run(y0, data):
        solve = lambda data: least_squares(problem.fn, y0, data)
        found = solve(data)
        slope = jax.jacobian(lambda data: solve(data).value)(data)
        certificate = ix.certify(lambda y, d: jnp.sum(y), problem, found.value, data)
        spread = ix.covariance(problem, found.value, data).standard_errors
        return found, slope, certificate.ok, spread

    exact = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    exact = np.array([y for _ in range(3) for y in exact] + [[0.0, 0.0]] * 2)
    noise = np.repeat([1e-2, 1e-3, 1e-6, 1e-2], [3, 3, 3, 2])[:, None] * x**3
    starts = np.array([[1.0, 1.0]] * 10 + [[0.0, 0.0]])
    found, slope, ok, spread = jax.jit(jax.vmap(run))(starts, exact @ X.T + noise)
    assert np.all(found.converged)
    # (Where both are zero, what rounding leaves is taken for a kink.)
    assert np.all(ok[:9])
    np.testing.assert_allclose(found.value, exact, atol=1e-14)
    np.testing.assert_allclose(slope, np.stack([np.linalg.pinv(X)] * 11), atol=1e-12)
    variance = np.sum(noise**2, 1)[:, None] / 18
    known = np.sqrt(variance * np.diag(np.linalg.inv(X.T @ X)))
    np.testing.assert_allclose(spread, known, rtol=1e-9)


THREE = np.arange(3.0)


@jax.jit
def through_three(y0, data):
    problem = ix.LeastSquares(lambda y, seen: y[0] + y[1] * THREE - seen)
    found = least_squares(problem.fn, y0, data)
    certificate = ix.certify(lambda y, d: y[1], problem, found.value, data)
    spread = ix.covariance(problem, found.value, data, absolute_sigma=True)
    return found, certificate.ok, spread.standard_errors


@pytest.mark.parametrize("start", [(0.0, 0.0), (0.0, 1.0), (5.0, -3.0)])
@pytest.mark.parametrize("noise", [1e-1, 1e-4, 1e-8, 1e-12, 1e-15, 0.0])
def test_errors_of_known_size_do_not_depend_on_the_noise(noise, start):
    """lmfit/lmfit-py#720: a line through three points, nearly or exactly."""
    X = np.stack([np.ones(3), THREE], 1)
    data = THREE + noise * np.array([0.3, -0.7, 0.4])
    found, ok, spread = through_three(np.array(start), data)
    np.testing.assert_allclose(found.value, np.linalg.pinv(X) @ data, atol=1e-13)
    known = np.sqrt(np.diag(np.linalg.inv(X.T @ X)))
    np.testing.assert_allclose(spread, known, rtol=1e-9)
    assert ok
    assert found.converged


ABSCISSAE = np.arange(0, 100.0)


def line(y, a):
    return y[0] + y[1] * a[0] - a[1]


@pytest.mark.parametrize(
    "types",
    [
        "f4 i4 f8",
        "f4 f8 f8",
        "f4 f4 f8",
        "i4 i4 f8",
        "f4 f4 f4",
        "f8 f8 f4",
        "i8 i8 f4",
    ],
)
def test_types_are_mixed_or_refused(types):
    """scipy/scipy#9581, #12991, #7117, lmfit/lmfit-py#617: parameters that stayed where
    they were, and nobody said so."""
    x, y, p = types.split()
    args = ABSCISSAE.astype(x), (2 * ABSCISSAE).astype(y)
    with jax.numpy_dtype_promotion("standard"):
        try:
            found = ix.least_squares(line, np.array([3.0, 5.0], p), args)
        except TypeError:
            return
    np.testing.assert_allclose(found.value, [0, 2], atol=1e-4 if p == "f4" else 1e-9)


def test_single_precision():
    rng = np.random.default_rng(0)
    t, seen = np.linspace(0, 1, 100).astype("f4"), rng.random(100).astype("f4")
    start, problem = np.array([-1.0, -1.0], "f4"), ix.LeastSquares(line)

    @jax.jit
    def run(seen):
        solve = lambda seen: least_squares(line, start, (t, seen)).value
        value = solve(seen)
        certificate = ix.certify(lambda y, a: y[1], problem, value, (t, seen))
        return value, jax.jacobian(solve)(seen), certificate.ok

    value, slope, ok = run(seen)
    inverse = np.linalg.pinv(np.stack([np.ones(100), t.astype(float)], 1))
    np.testing.assert_allclose(value, inverse @ seen, rtol=1e-4)
    np.testing.assert_allclose(slope, inverse, atol=1e-5)
    assert ok


def test_missing_data():
    """lmfit/lmfit-py#480: told where it is NaN; without influence where masked."""
    place = np.arange(60.0)
    gain = np.where(place < 30, 0.0, place)
    gone = (place >= 25) & (place < 35)
    data = np.where(gone, np.nan, gain + np.sin(13 * np.linspace(-1, 1, 60)))
    with pytest.raises(ix.ConvergenceError, match="NaN"):
        ix.least_squares(lambda y, seen: y * gain - seen, 1.0, data)

    def masked(y, seen):
        there = ~jnp.isnan(seen)
        return jnp.where(there, y * gain - jnp.where(there, seen, 0.0), 0.0)

    problem = ix.LeastSquares(masked)

    @jax.jit
    def run(data):
        solve = lambda data: least_squares(masked, 1.0, data).value
        value, slope = jax.value_and_grad(solve)(data)
        certificate = ix.certify(lambda y, d: y, problem, value, data)
        spread = ix.covariance(problem, value, data, observations=~jnp.isnan(data))
        return value, slope, certificate.ok, spread.standard_errors

    value, slope, ok, spread = run(data)
    g, d = gain[~gone], data[~gone]
    right = g @ d / (g @ g)
    np.testing.assert_allclose(value, right, rtol=1e-12)
    np.testing.assert_allclose(slope[~gone], g / (g @ g), atol=1e-12)
    assert np.all(slope[gone] == 0)
    assert ok
    left = right * g - d
    known = np.sqrt(left @ left / (g.size - 1) / (g @ g))
    np.testing.assert_allclose(spread, known, rtol=1e-9)
