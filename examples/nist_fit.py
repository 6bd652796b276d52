"""A growth curve fitted: standard errors, which observation matters, an outlier.

Usage: `python examples/nist_fit.py [Rat43.dat] [--picture nist_fit.png]`. The data are
the dry weights of onions (Ratkowsky 1983) that NIST certifies a regression of: the file
beside the repository, or the same numbers from below where that is missing.
"""

import argparse
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from _nist_fit_picture import draw
from _rat43 import Regression, growth, read
from scipy.special import stdtrit

import implicax as ix

jax.config.update("jax_enable_x64", True)


def regression(x: Any, loss: ix.AbstractLoss | None = None) -> ix.LeastSquares:
    """The problem of the fit: the parameters as a function of the observations."""
    return ix.LeastSquares(lambda b, y: growth(b, x) - y, loss=loss)


def fitter(problem: ix.LeastSquares) -> Callable[[Any, Any], tuple[Any, Any]]:
    """A compiled function of the observations and a start.

    It returns the parameters and their derivatives in the observations. The trust
    region works with the exact Hessian, so its last step squares the error.
    """

    def fit(y, start):
        solver = ix.TrustRegion(rtol=1e-12)
        b = ix.least_squares(
            problem.fn, start, y, loss=problem.loss, solver=solver
        ).value
        return b, b

    by_y = jax.jit(jax.jacrev(fit, has_aux=True))
    return lambda y, start: by_y(y, start)[::-1]


def band(b: Any, covariance: Any, x: Any, freedom: int) -> Any:
    """Half the width of the 95 % confidence band of the curve at `x` (delta method).

    The curve moves by `J db` with the parameters, so its variance is `J C J^T`.
    """
    J = jax.jacfwd(growth)(b, x)
    return stdtrit(freedom, 0.975) * jnp.sqrt(jnp.sum((J @ covariance) * J, axis=1))


class Fit(NamedTuple):
    """All about the fit of the data as they are."""

    b: Any
    covariance: ix.Covariance
    by_y: Any
    """The derivatives of the parameters in the observations."""
    refits: Any
    """The same by central differences."""
    shortcut: ix.Certificate
    """Of the first row, with the Gauss-Newton matrix for the Hessian."""

    def line(self, data: Regression) -> tuple[Any, Any, Any]:
        """Times, the curve there, and half the width of its band."""
        x = jnp.linspace(0.5, 15.5, 200)
        freedom = data.x.size - self.b.size
        return x, growth(self.b, x), band(self.b, self.covariance.matrix, x, freedom)


def differences(fit: Callable, y: Any, start: Any, h: float = 0.02) -> Any:
    """Derivatives in the observations by refitting: central, of fourth order."""

    def moved(e):
        return fit(y + e, start)[0]

    columns = [
        (8 * (moved(e) - moved(-e)) - (moved(2 * e) - moved(-2 * e))) / (12 * h)
        for e in h * jnp.eye(y.size)
    ]
    return jnp.stack(columns, axis=1)


def examine(data: Regression, fit: Callable, b: Any, covariance: ix.Covariance) -> Fit:
    """What the fit `b` depends on, in three ways."""
    problem = regression(data.x)
    b, by_y = fit(data.y, b)
    refits = differences(fit, data.y, b)
    shortcut = ix.certify(lambda b, y: b[0], problem, b, data.y, hessian="gauss_newton")
    return Fit(b, covariance, by_y, refits, shortcut)


class Robust(NamedTuple):
    """Fits to data with one wrong number in them."""

    y: Any
    outlier: int
    fits: dict[str, tuple[Any, Any]]
    """By loss: parameters, and their derivatives in the observations."""


def corrupt(data: Regression, fit: Callable, b: Any, outlier: int = 14) -> Robust:
    """Swap two digits of one observation (717.41 becomes 177.41) and fit anew.

    The scale is that of the errors, from the median of their sizes; the factors are
    the usual ones, for 95 % of the efficiency of plain squares where all is normal.
    Tukey's loss has several minima, so it starts at Huber's fit.
    """
    y = data.y.at[outlier].add(-540.0)
    fits = {"squares": fit(y, b)}
    b = fits["squares"][0]
    scale = jnp.median(jnp.abs(growth(b, data.x) - y)) / 0.6745
    for loss in (ix.Huber(1.345 * scale), ix.Tukey(4.685 * scale)):
        fits[type(loss).__name__] = fitter(regression(data.x, loss))(y, b)
        b, _ = fits[type(loss).__name__]
    return Robust(y, outlier, fits)


def digits(came: Any, expected: Any) -> Any:
    """How many digits agree: NIST's log relative error."""
    return -np.log10(np.abs(came - expected) / np.abs(expected))


def main() -> None:
    """Fit, compare, differentiate, corrupt, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=pathlib.Path)
    parser.add_argument("--picture", type=pathlib.Path)
    options = parser.parse_args()
    data = read(options.file)
    problem = regression(data.x)

    solution = ix.least_squares(problem.fn, data.start, data.y)
    covariance = ix.covariance(problem, solution.value, data.y)
    print(solution)
    print("\n          fitted   digits   standard error   digits")
    for row in zip(
        solution.value,
        digits(solution.value, data.certified),
        covariance.standard_errors,
        digits(covariance.standard_errors, data.standard_errors),
        strict=True,
    ):
        print("{:16.8f}   {:6.1f}   {:14.8f}   {:6.1f}".format(*row))

    fit = fitter(problem)
    found = examine(data, fit, solution.value, covariance)
    error = jnp.linalg.norm(found.by_y - found.refits) / jnp.linalg.norm(found.refits)
    print(f"\nderivatives, {found.by_y.shape[0]} x {found.by_y.shape[1]}: relative"
          f" distance from refits {error:.0e}")  # fmt: skip
    most = jnp.argsort(-jnp.abs(found.by_y[0]))[:3]
    print("The end weight depends most on the observations at", data.x[most])
    print("\nIts derivative, with the Gauss-Newton matrix for the Hessian:")
    print(found.shortcut)

    robust = corrupt(data, fit, found.b)
    wrong = robust.outlier
    print(f"\n{data.y[wrong]:.2f} misread as {robust.y[wrong]:.2f}:\n"
          "fit         end weight   its derivative in that observation")  # fmt: skip
    for name, (b, by_y) in {"before": (found.b, found.by_y), **robust.fits}.items():
        print(f"{name:9}   {b[0]:10.2f}   {by_y[0, wrong] + 0.0:10.6f}")

    if options.picture:
        draw(data, found, robust).savefig(options.picture, dpi=150)


if __name__ == "__main__":
    main()
