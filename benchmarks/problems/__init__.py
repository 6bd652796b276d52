"""Problems of the literature, for tests and benchmarks: only JAX and NumPy are used.

`nonlinear` has the 23 systems that SciML's and Burkardt's libraries share, `mgh` the
35 problems of Moré, Garbow and Hillstrom, `nist` the 27 regressions of NIST's
reference datasets (their files are read from a folder).
"""

import pathlib

from benchmarks.problems import mgh, nist, nonlinear
from benchmarks.problems._problem import Problem
from benchmarks.problems.nist import Regression

__all__ = [
    "Problem",
    "Regression",
    "least_squares",
    "mgh",
    "minimisations",
    "nist",
    "nonlinear",
    "roots",
]


def roots() -> list[Problem]:
    """All systems of equations: the 23, then the square ones of Moré et al."""
    square = [p for p in mgh.problems() if p.zero_residual and mgh.is_square(p)]
    return nonlinear.problems() + [problem.as_root() for problem in square]


def least_squares(folder: pathlib.Path | None = None) -> list[Problem]:
    """All least-squares problems: the 35 of Moré et al., then NIST's 27 (start 1)."""
    return [*mgh.problems(), *nist.problems(folder)]


def minimisations() -> list[Problem]:
    """Half the sum of squares of each of the 35 problems of Moré et al."""
    return [problem.as_minimum() for problem in mgh.problems()]
