"""Fits that people could not make, from bug reports and questions: the default finds
the least from their start; derivative, certificate and standard errors are right.

Published numbers are facts of the data; the digits behind them are those of MINPACK and
of Newton's method on the exact gradient.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import implicax as ix

from .. import field_fits as of
from ..field_oracles import Best


class Case(NamedTuple):
    """Errors of a fit, or an objective, and where it is started."""

    source: str
    fn: Callable[[Any, Any], Any]
    starts: list[Any]
    args: Any
    #: Near the solution.
    near: Any
    #: Values, and their relative error.
    published: tuple[Any, float] | None = None
    #: Standard errors (of some of the first parameters), likewise.
    published_errors: tuple[Any, float] | None = None
    fit: bool = True
    absolute: bool = False  # whether the errors come in standard deviations
    certified: bool = True
    rtol: float = 1e-7
    slope_rtol: float = 1e-5


CASES = {
    "outbreak": Case(
        "Stack Overflow 61452274",
        of.outbreak,
        [[1.0, -0.1, 0.0]],
        of.INFECTED,
        [1.0, -0.1, 0.0],
    ),
    "decades": Case(
        "Stack Overflow 28414012",
        of.decades,
        [[1000.0, -0.02]],
        of.DECADES,
        [1000.0, -0.02],
    ),
    "a lifetime as a rate": Case(
        "scicomp.stackexchange 37584",
        of.by_rate,
        [[1.0, 1.0, 1.0]],
        of.COUNTS,
        [350.0, 1.0, 20.0],
        certified=False,
    ),
    "a lifetime": Case(
        "scicomp.stackexchange 37584",
        of.by_time,
        [[1.0, 1.0, 1.0]],
        of.COUNTS,
        [350.0, 1.0, 20.0],
    ),
    "sky": Case(
        "JuliaNLSolvers/LsqFit.jl#103",
        of.sky,
        [[0.0, 0.0]],
        of.SKY,
        [1e-6, 1e-5],
        certified=False,
    ),
    "sky, weighted": Case(
        "JuliaNLSolvers/LsqFit.jl#103",
        of.weighted_sky,
        [[0.0, 0.0]],
        (of.SKY, of.SKY_SD),
        [1e-6, 1e-5],
        absolute=True,
    ),
    "species": Case(
        "Stack Overflow 22376433",
        of.species,
        [[200.0, 20000.0, 0.5]],
        np.arange(1.0, 137.0),
        [140.0, 2e4, 0.6],
    ),
    "line and power": Case(
        "R-help, singular gradient",
        of.line_and_power,
        [[-3.0, 7.0, 0.7, 0.5]],
        of.BENT,
        [-3.0, 7.0, 0.7, 0.5],
    ),
    "ELISA": Case(
        "R, DNase run 1",
        of.elisa,
        [[3.0, 0.0, 1.0], [1.0, 1.0, 1.0]],
        of.DENSITY,
        [2.3, 1.5, 1.0],
        ([2.34518, 1.48309, 1.04146], 1e-5),
        ([0.07815, 0.08135, 0.03227], 2e-4),
    ),
    "chick": Case(
        "R, ChickWeight",
        of.chick,
        [[300.0, 15.0, 8.0], [205.0, 10.0, 1.0], [1.0, 1.0, 1.0]],
        of.CHICK,
        [937.0, 35.0, 11.4],
        ([937.03, 35.223, 11.405], 2e-5),
        ([465.86, 8.312], 6e-4),
        rtol=1e-6,
        slope_rtol=1e-4,
    ),
    "indometacin": Case(
        "R, SSbiexp",
        of.indometacin,
        [[3.0, 1.0, 0.6, -1.3], [1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.5, -1.0]],
        of.BLOOD,
        [2.0, 0.6, 0.2, -1.8],
        ([2.0293, 0.5794, 0.1916, -1.7878], 5e-4),
        ([0.1099, 0.1247, 0.1106, 0.7871], 2e-3),
        rtol=1e-6,
        slope_rtol=1e-4,
    ),
    "Weibull": Case(
        "stats.stackexchange 124217",
        of.weibull,
        [[1.0, 1000.0]],
        of.LIVES,
        [2.12, 1550.0],
        ([2.1195, 1550.559], 1e-2),
        fit=False,
    ),
    "nearly separated": Case(
        "stats.stackexchange 320661",
        of.nearly_separated,
        [[0.0, 0.0, 0.0]],
        of.COLUMNS,
        [-82.930, 1.395, 10.255],
        ([-82.930, 1.395, 10.255], 4e-4),
        fit=False,
        slope_rtol=1e-4,
    ),
    "transmitter": Case(
        "Stack Overflow 17756617",
        of.far_off,
        [of.STATIONS.mean(0)],
        of.CLEAN,
        [37.0, 91.5],
    ),
    "transmitter, disturbed": Case(
        "Stack Overflow 17756617",
        of.far_off,
        [of.STATIONS.mean(0)],
        of.ROUGH,
        [37.0, 91.5],
    ),
    "transmitter, weighted": Case(
        "Stack Overflow 17756617",
        of.relatively_far_off,
        [of.STATIONS.mean(0)],
        of.ROUGH,
        [37.0, 91.5],
        certified=False,
    ),
    "immunoassay": Case(
        "py4u.org 58381803",
        of.immunoassay,
        [[0.1, 1.3, 600.0, 3.0]],
        of.ABSORBED,
        [0.1, 1.3, 600.0, 3.0],
        rtol=1e-6,
        slope_rtol=1e-4,
    ),
    "Ramsey fringe": Case(
        "QuTech/qtt#809",
        of.ramsey,
        [[0.2, 0.16, 1.57, 0.56]],
        of.FRINGE,
        [0.2, 0.16, 1.57, 0.56],
    ),
    "circle": Case(
        "Gander, Golub & Strebel 1994",
        of.circle,
        [{"c": of.SIX.mean(0), "r": np.array(1.0)}],
        of.SIX,
        {"c": np.array([4.7, 3.0]), "r": np.array(4.7)},
        ([4.7398, 2.9835, 4.7142], 2e-5),
    ),
    "ellipse": Case(
        "Gander, Golub & Strebel 1994",
        of.ellipse,
        [of.ELLIPSE],
        of.EIGHT,
        of.ELLIPSE,
        ([6.5187, 3.0319, 2.6996, 3.8160], 4e-4),
        rtol=1e-6,
        slope_rtol=1e-4,
    ),
    "baseline": Case(
        "scikit-hep/iminuit#164",
        of.baseline,
        [[1e15, 0.0], [0.0, 0.0]],
        of.SPECTRUM,
        [1e16, -1e14],
        absolute=True,
    ),
    "baseline, minimised": Case(
        "scikit-hep/iminuit#164",
        of.baseline_objective,
        [[1e15, 0.0], [0.0, 0.0], [1.0, 1.0]],
        of.SPECTRUM,
        [1e16, -1e14],
        fit=False,
        certified=False,
    ),
    "tracer": Case(
        "R-help, Brice's model",
        of.tracer,
        [[0.8, 390e9, 1.03e-10], [1.0, 1e10, 1.1e-10]],
        np.log(of.PARTED),
        [1.2, 4e11, 1.02e-10],
    ),
    "tracer, scaled": Case(
        "R-help, Brice's model",
        of.tracer_scaled,
        [[0.8, 390.0, 1.03]],
        np.log(of.PARTED),
        [1.2, 400.0, 1.02],
        certified=False,
    ),
    "nano": Case(
        "JuliaNLSolvers/LsqFit.jl#178",
        of.nano,
        [[1e-9, 4e-10]],
        of.NANO,
        [5e-12, 4e-10],
    ),
    "nano, scaled": Case(
        "JuliaNLSolvers/LsqFit.jl#178",
        of.nano_scaled,
        [[1.0, 0.4]],
        of.NANO * 1e9,
        [5e-3, 0.4],
        certified=False,
    ),
}


def flat(tree):
    return np.asarray(ravel_pytree(tree)[0], float)


@functools.cache
def program(fn, fit, absolute, certified):
    """The solution, the gradient of a weighted sum of the parameters, the certificate
    and the standard errors."""
    solve, kind = (
        (ix.least_squares, ix.LeastSquares) if fit else (ix.minimize, ix.Minimum)
    )

    def run(y0, a, weights):
        loss = lambda y, a: weights @ ravel_pytree(y)[0]

        def total(a):
            found = solve(fn, y0, a, on_failure="ignore")
            return loss(found.value, a), found

        (_, found), slope = jax.value_and_grad(total, has_aux=True)(a)
        if not certified:
            return found, slope, None, None
        certificate = ix.certify(loss, kind(fn), found.value, a)
        if not fit:
            return found, slope, certificate, None
        spread = ix.covariance(kind(fn), found.value, a, absolute_sigma=absolute)
        return found, slope, certificate, ravel_pytree(spread.standard_errors)[0]

    return jax.jit(run)


def array(tree):
    return jax.tree.map(np.asarray, tree, is_leaf=lambda x: isinstance(x, list))


@pytest.mark.parametrize("name", CASES)
def test_what_others_do_not_fit(name):
    case = CASES[name]
    args, near = array(case.args), array(case.near)
    best, a = Best(case.fn, near, args, case.fit), flat(args)
    right = best.near(flat(near), a)
    if case.published is not None:
        values, rtol = case.published
        np.testing.assert_allclose(right[: len(values)], values, rtol=rtol)

    weights = (1 + 0.3 * np.arange(right.size)) / np.abs(right)
    run = program(case.fn, case.fit, case.absolute, case.certified)
    for start in map(array, case.starts):
        found, gradient, certificate, errors = run(start, args, weights)
        assert found.converged, found
        np.testing.assert_allclose(flat(found.value), right, rtol=case.rtol)

    direction = np.random.default_rng(0).standard_normal(a.size)
    direction = direction * np.maximum(np.abs(a), 1e-3 * np.max(np.abs(a)))
    slope = weights @ best.along(right, a, direction)
    came = flat(gradient) @ direction
    np.testing.assert_allclose(came, slope, rtol=case.slope_rtol, atol=1e-9)

    if not case.certified:
        return
    assert certificate.ok, certificate
    if case.fit:
        known = best.standard_errors(right, a, case.absolute)
        np.testing.assert_allclose(errors, known, rtol=1e-6)
    if case.published_errors is not None:
        values, rtol = case.published_errors
        np.testing.assert_allclose(errors[: len(values)], values, rtol=rtol)
