"""Which external solver runs an object of another library."""

from typing import Any

from implicax._solvers.external.base import AbstractExternalSolver
from implicax._solvers.external.optimistix import Optimistix, is_solver


def external_solver(solver: Any) -> AbstractExternalSolver | None:
    """What runs a solver of another library, if there is one for it."""
    if isinstance(solver, AbstractExternalSolver):
        return solver
    # A user's subclass lives elsewhere: its bases tell.
    homes = {base.__module__.partition(".")[0] for base in type(solver).__mro__}
    if "optimistix" in homes:
        return Optimistix(solver) if is_solver(solver) else None
    return None
