"""What `solver=None` means."""

from typing import Any

from implicax._problems.base import AbstractProblem
from implicax._problems.conditions import (
    FixedPointConditions,
    NormalEquations,
    Stationarity,
)
from implicax._solvers.anderson import Anderson
from implicax._solvers.fallback import Fallback
from implicax._solvers.levenberg_marquardt import LevenbergMarquardt
from implicax._solvers.newton import Newton
from implicax._solvers.trust_region import TrustRegion


def default_solver(problem: AbstractProblem, reverse_only: bool = False) -> Any:
    """What `solver=None` means; `reverse_only` if `fn` has a VJP but no JVP."""
    conditions = problem.conditions
    if issubclass(conditions, NormalEquations):
        exact = TrustRegion()
        return exact if reverse_only else Fallback(LevenbergMarquardt(), exact)
    if issubclass(conditions, Stationarity):
        return TrustRegion()
    if issubclass(conditions, FixedPointConditions):
        return Anderson()
    return Newton() if reverse_only else Fallback(Newton(), LevenbergMarquardt())
