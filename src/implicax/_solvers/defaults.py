"""What `solver=None` means."""

from typing import Any

from implicax._problems.optimality_conditions import OptimalityConditions
from implicax._solvers.anderson import Anderson
from implicax._solvers.fallback import Fallback
from implicax._solvers.levenberg_marquardt import LevenbergMarquardt
from implicax._solvers.minimality import DECOMPOSED
from implicax._solvers.newton import DAMPED, Newton
from implicax._solvers.trust_region import TrustRegion


def default_solver(conditions: OptimalityConditions, unknowns: int) -> Any:
    """The solver of conditions of that kind, in so many real unknowns."""
    # What needs Jacobians by columns needs a JVP of what the user wrote.
    by_columns = not conditions.traced_reverse_only
    if conditions.has_errors and by_columns:
        if unknowns <= DECOMPOSED:
            return LevenbergMarquardt(retry=True)
        return Fallback(LevenbergMarquardt(), TrustRegion())
    if conditions.has_objective:
        return TrustRegion()
    if conditions.structure.fixed_point:
        return Anderson()
    if conditions.structure.sparsity is not None:
        return Newton()
    if unknowns <= DAMPED or not by_columns:
        return Newton(retry=True)
    return Fallback(Newton(), LevenbergMarquardt())
