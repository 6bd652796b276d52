"""The examples on data: what their pages claim.

The fit is checked by NIST's certified digits, by NumPy's differences and by SciPy; the
models of the second example by their normal equations and by central differences.
"""

import functools
import importlib
import pathlib
import sys
from unittest import mock

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

import implicax as ix

from ..oracles import relative_error

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
with mock.patch.object(sys, "path", [str(EXAMPLES), *sys.path]):
    rat43 = importlib.import_module("_rat43")
    nist_fit = importlib.import_module("nist_fit")
    heart = importlib.import_module("_heart")
    tuning = importlib.import_module("hyperparameters")
    sudoku = importlib.import_module("sudoku")
    decisions = importlib.import_module("decisions")


@functools.cache
def fitted():
    """The data, the compiled fit, the parameters, and all about them."""
    data = rat43.read()
    problem = nist_fit.regression(data.x)
    b = ix.least_squares(problem.fn, data.start, data.y).value
    fit, covariance = nist_fit.fitter(problem), ix.covariance(problem, b, data.y)
    return data, fit, b, nist_fit.examine(data, fit, b, covariance)


@functools.cache
def misread():
    data, fit, b, _ = fitted()
    return nist_fit.corrupt(data, fit, b)


def curve(b, x):
    return b[0] / (1 + np.exp(b[1] - b[2] * x)) ** (1 / b[3])


def test_the_excerpt_is_what_the_file_says(monkeypatch):
    data = rat43.read()
    monkeypatch.setattr(rat43, "RAT43", EXAMPLES / "nowhere")
    for of_file, of_excerpt in zip(data, rat43.read(), strict=True):
        assert np.array_equal(of_file, of_excerpt)


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "Rat42.dat"
    path.write_text(rat43.EXCERPT.replace("  b4 =", "  c4 ="))
    with pytest.raises(ValueError, match="not NIST's Rat43"):
        rat43.read(path)


def test_the_digits_are_nists():
    data, _, b, found = fitted()
    assert np.min(nist_fit.digits(b, data.certified)) > 10
    errors = found.covariance.standard_errors
    assert np.min(nist_fit.digits(errors, data.standard_errors)) > 10


def test_the_band_is_that_of_the_delta_method():
    _, _, b, found = fitted()
    b, x = np.asarray(b), np.array([1.0, 6.5, 15.0])
    h = 1e-5 * np.abs(b)
    columns = [
        (curve(b + e, x) - curve(b - e, x)) / (2 * h[k])
        for k, e in enumerate(np.diag(h))
    ]
    J, C = np.stack(columns, axis=1), np.asarray(found.covariance.matrix)
    expected = scipy.stats.t.ppf(0.975, 11) * np.sqrt(np.diag(J @ C @ J.T))
    came = nist_fit.band(jnp.asarray(b), found.covariance.matrix, jnp.asarray(x), 11)
    assert relative_error(came, expected) < 1e-8


def test_the_sensitivities_are_those_of_refitting():
    _, _, _, found = fitted()
    assert relative_error(found.by_y, found.refits) < 1e-9
    assert np.argsort(-np.abs(found.by_y[0]))[:3].tolist() == [14, 13, 12]
    assert np.all(found.by_y[0, 7:9] < 0)  # "since the curve then bends earlier"


def test_the_certificate_shows_the_bias_of_gauss_newton():
    _, _, _, found = fitted()
    c, exact = found.shortcut, found.by_y[0]
    bias = relative_error(c.gradient, exact)
    assert 0.13 < bias < 0.15
    assert float(c.relative_gradient_error) == pytest.approx(bias, rel=1e-6)
    assert relative_error(c.corrected_gradient, exact) < 1e-9
    assert not c.ok


def test_robust_fits_do_not_feel_the_outlier_move():
    data, _, b, _ = fitted()
    robust = misread()
    assert float(robust.y[-1]) == pytest.approx(177.41, rel=1e-14)
    by = {name: float(by_y[0, -1]) for name, (_, by_y) in robust.fits.items()}
    assert by["squares"] > 0.1
    assert max(abs(by["Huber"]), abs(by["Tukey"])) <= 1e-15
    # Without the last observation, by SciPy.
    x, y = np.asarray(data.x)[:-1], np.asarray(data.y)[:-1]
    without = scipy.optimize.least_squares(
        lambda b: curve(b, x) - y, np.asarray(b), x_scale="jac"
    ).x[0]
    off = {name: float(b[0]) - without for name, (b, _) in robust.fits.items()}
    assert off["squares"] < -90 < -25 < off["Huber"] < -15
    assert abs(off["Tukey"]) < 2


@functools.cache
def tuned():
    """By model: the data, the losses at many points, the curve."""
    data = heart.split()
    models = {
        "ridge": (tuning.ridge, tuning.squared_loss),
        "logistic": (tuning.logistic, tuning.log_loss),
    }
    found = {}
    for name, (fit, loss) in models.items():
        mean_loss = tuning.cross_validation(fit, loss, data)
        losses = jax.jit(jax.vmap(jax.value_and_grad(mean_loss)))
        found[name] = mean_loss, losses, tuning.validation_curve(losses)
    return data, found


def test_the_file_is_read(tmp_path):
    path = tmp_path / "two"
    path.write_text("+1 1:0.5 13:-1 \n-1 2:0.25\n")
    name, patients = heart.read(path)
    expected = np.zeros((2, 13))
    expected[0, 0], expected[0, 12], expected[1, 1] = 0.5, -1, 0.25
    assert name == "two"
    assert np.array_equal(patients.X, expected)
    assert patients.labels.tolist() == [1, -1]


def test_no_patient_is_seen_twice():
    data, _ = tuned()
    assert data.train.X.shape == (5, 180, 13)
    for k in range(5):
        fold = np.concatenate([data.train.X[k], data.validate.X[k]])
        order = np.lexsort(fold.T)
        known = np.asarray(data.known.X)
        assert np.array_equal(fold[order], known[np.lexsort(known.T)])
    rows = np.concatenate([known, data.test.X])
    everyone = heart.read()[1].X
    assert np.array_equal(rows[np.lexsort(rows.T)], everyone[np.lexsort(everyone.T)])


def test_without_the_file_there_are_made_up_patients(monkeypatch):
    monkeypatch.setattr(heart, "HEART", EXAMPLES / "nowhere")
    data = heart.split()
    assert "made-up" in data.name
    assert data.known.X.shape == (225, 13)


@pytest.mark.parametrize("name", ["ridge", "logistic"])
def test_gradients_are_those_of_central_differences(name):
    _, found = tuned()
    _, losses, curve = found[name]
    best = jnp.full(13, curve.log_penalty[curve.best])
    expected = tuning.differences(losses, best)
    assert relative_error(curve.gradient[curve.best], expected) < 1e-7


def test_ridge_is_that_of_the_normal_equations():
    data, found = tuned()
    _, _, curve = found["ridge"]
    for k in (0, 13, 25):
        losses = []
        for X, t, V, v in zip(*data.train, *data.validate, strict=True):
            X1 = np.column_stack([np.asarray(X), np.ones(len(X))])
            D = np.diag([np.exp(float(curve.log_penalty[k]))] * 13 + [0])
            w = np.linalg.solve(X1.T @ X1 + D, X1.T @ np.asarray(t))
            losses.append(np.mean((np.asarray(V) @ w[:13] + w[13] - v) ** 2))
        assert float(curve.loss[k]) == pytest.approx(np.mean(losses), rel=1e-12)


@pytest.mark.parametrize("name", ["ridge", "logistic"])
def test_the_tangents_touch_their_curve(name):
    """Cubic Hermite interpolation between every other point meets the one between."""
    _, found = tuned()
    curve = found[name][2]
    a, loss, slope = map(np.asarray, (curve.log_penalty, curve.loss, curve.slope))
    h = a[2] - a[0]
    middle = (loss[:-2] + loss[2:]) / 2 + h * (slope[:-2] - slope[2:]) / 8
    assert np.max(np.abs(middle - loss[1:-1])) < 1e-3 * np.ptp(loss)


def test_thirteen_penalties_are_better_than_one():
    _, found = tuned()
    mean_loss, _, curve = found["logistic"]
    best = jnp.full(13, curve.log_penalty[curve.best])
    with jax.numpy_dtype_promotion("standard"):  # optax counts steps in integers
        path = tuning.tune(mean_loss, best)
    assert float(path.loss[0]) == pytest.approx(float(np.min(curve.loss)), rel=1e-9)
    assert np.all(np.diff(path.loss[:6]) < 0)
    assert float(path.loss[-1]) < 0.99 * float(path.loss[0])
    assert float(path.loss[-1] - np.min(path.loss)) < 1e-4


def test_the_certificate_of_a_model_half_trained():
    data, _ = tuned()
    rough, error = tuning.certify(data, jnp.full(13, 0.6))
    assert rough.ok
    assert 1e-6 < float(error) < 1e-2
    assert float(rough.relative_gradient_error) == pytest.approx(float(error), rel=0.1)


class TestSudoku:
    def test_boards(self):
        boards = sudoku.all_boards()
        assert len({board.tobytes() for board in boards}) == 288
        asked, solved = sudoku.puzzles(boards, 10, np.random.default_rng(0))
        cells = asked.reshape(10, 16, 4)
        assert (cells.sum(2).sum(1) == 16 - sudoku.EMPTY).all()
        assert (jnp.where(asked > 0, solved, 1.0) == 1).all()

    def test_rules_are_learnt(self):
        """(All of them take 300 steps.)"""
        with jax.numpy_dtype_promotion("standard"):  # (for optax)
            _, losses, share = sudoku.train(60)
        assert losses[-1] < losses[0] / 2
        assert share > 0.05


LOSSES = {
    "portfolio": lambda: (
        lambda model: decisions.portfolio_loss(model, *decisions.market(0)),
        {"weight": jnp.eye(4)[:, :2], "bias": jnp.zeros(4)},
    ),
    "machine": lambda: (
        decisions.machine_loss,
        {"log_width": jnp.asarray(0.1), "log_price": jnp.asarray(-0.5)},
    ),
    "controller": lambda: (
        decisions.control_loss,
        jnp.log(jnp.asarray([1.0, 0.1, 0.3])),
    ),
    "lasso": lambda: (decisions.lasso_loss, jnp.asarray(0.5)),
}


class TestDecisions:
    """The gradients that train them are those of central differences, and lead down."""

    @pytest.mark.parametrize("name", LOSSES)
    def test_the_gradient(self, name):
        loss, params = LOSSES[name]()
        flat, unravel = jax.flatten_util.ravel_pytree(params)
        run = jax.jit(jax.value_and_grad(lambda flat: loss(unravel(flat))))
        value, slope = run(flat)
        direction = jnp.cos(jnp.arange(flat.size, dtype=float) + 0.3)
        ahead, behind = (float(run(flat + h * direction)[0]) for h in (1e-5, -1e-5))
        difference = (ahead - behind) / 2e-5
        assert float(slope @ direction) == pytest.approx(difference, rel=1e-5)
        down = flat - 1e-2 * slope / jnp.linalg.norm(slope)
        assert float(run(down)[0]) < float(value)

    def test_a_decision_is_better_than_a_forecast(self):
        with jax.numpy_dtype_promotion("standard"):  # (for optax)
            losses, fitted, trained = decisions.portfolio(60)
        assert losses[-1] < 0.7 * losses[0]
        assert trained < 0.7 * fitted
