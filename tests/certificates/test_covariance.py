"""Standard errors are those of a fit, and of its observations; or there are none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicax as ix

T = jnp.arange(5.0)
DATA = jnp.asarray([1.1, 2.9, 5.2, 7.1, 8.8])
START = {"level": 0.0, "slope": 1.0}
LINE = ix.LeastSquares(lambda y, data: y["level"] + y["slope"] * T - data)


def ordinary(t, data):
    """Of a straight line, by the textbook."""
    X = np.stack([np.ones_like(t), t], 1)
    errors = data - X @ np.linalg.lstsq(X, data)[0]
    variance = errors @ errors / (t.size - 2)
    return np.sqrt(np.diag(variance * np.linalg.inv(X.T @ X)))


def test_a_fit_and_its_solution():
    fit = ix.least_squares(LINE.fn, START, DATA)
    exact = ordinary(np.asarray(T), np.asarray(DATA))
    for value in (fit, fit.value):
        found = ix.covariance(LINE, value, DATA).standard_errors
        np.testing.assert_allclose([found["level"], found["slope"]], exact, rtol=1e-9)


def test_what_is_missing_is_no_observation():
    data = DATA.at[2].set(jnp.nan)
    missing = jnp.isnan(data)

    def errors(y, data):
        return jnp.where(missing, 0, y["level"] + y["slope"] * T - data)

    problem, seen = ix.LeastSquares(errors), np.asarray(~missing)
    fit = ix.least_squares(errors, START, data)
    exact = ordinary(np.asarray(T)[seen], np.asarray(data)[seen])
    for observations in (4, seen, ~missing):
        found = ix.covariance(problem, fit, data, observations=observations)
        errors_found = [found.standard_errors[name] for name in ("level", "slope")]
        np.testing.assert_allclose(errors_found, exact, rtol=1e-9)
    traced = jax.jit(lambda seen: ix.covariance(problem, fit, data, observations=seen))
    np.testing.assert_allclose(traced(~missing).matrix, found.matrix, rtol=1e-9)
    for wrong in (0, 6, np.ones(4, bool), np.ones(5)):
        with pytest.raises(ValueError, match="observations must be"):
            ix.covariance(problem, fit, data, observations=wrong)
    with pytest.raises(ValueError, match="2 observations do not determine 2"):
        ix.covariance(problem, fit, data, observations=2)


def test_what_is_no_fit_has_no_standard_errors():
    away = {"level": 1.0, "slope": 1.9}
    with pytest.raises(ValueError, match="value is no fit"):
        ix.covariance(LINE, away, DATA)
    matrix = jax.jit(lambda value: ix.covariance(LINE, value, DATA).matrix)
    assert np.isnan(matrix(away)).all()
    assert np.isfinite(matrix(ix.least_squares(LINE.fn, START, DATA).value)).all()


def test_a_maximum_of_the_sum_of_squares_is_no_fit():
    """Between two frequencies the gradient vanishes too, and `J^T J` does not."""
    t = jnp.linspace(0, 10, 60)
    problem = ix.LeastSquares(lambda y, data: jnp.sin(y * t) - data)
    data = jnp.sin(2 * t)
    squares = lambda y, a: jnp.sum((jnp.sin(y * t) - data) ** 2)
    peak = ix.root(jax.grad(squares), 2.4463)
    with pytest.raises(ValueError, match="a saddle point or a maximum"):
        ix.covariance(problem, peak, data)


def test_exact_data_and_a_parameter_of_zero():
    """Nothing is left of the errors but rounding: that is a fit."""
    data = 2.0 * T
    fit = ix.least_squares(LINE.fn, START, data)
    errors = ix.covariance(LINE, fit, data).standard_errors
    assert float(errors["level"]) < 1e-12
    assert float(errors["slope"]) < 1e-12
