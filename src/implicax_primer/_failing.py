"""Step 6: the same lines of code today, and a map that does not contract."""

from dataclasses import dataclass

import jax.numpy as jnp

import implicax as ix

from ._certifying import certificate
from ._exact import exact, relative
from ._problem import load, tanh_map


@dataclass(frozen=True)
class Failed:
    """What step 6 found."""

    message: str
    """What `Picard` says."""
    status: str
    spectral_radius: float
    """Of the map's Jacobian at the solution."""
    newton_count: int
    newton_error: float
    """Relative, of the solution."""
    report: str
    """The certificate at Newton's solution, in words."""


def fail() -> Failed:
    """Let plain iteration fail, ask why, and solve the problem all the same."""
    current = load("current")
    z0 = jnp.zeros_like(current.x)
    try:
        ix.fixed_point(tanh_map, z0, current, solver=ix.Picard())
    except ix.ConvergenceError as error:
        message, status = str(error), error.solution.status
    else:
        raise AssertionError("plain iteration converged where the map expands")
    solution = ix.fixed_point(tanh_map, z0, current, solver=ix.Newton())
    found = certificate(solution.value, current)
    assert found.spectral_radius is not None
    return Failed(
        message,
        ix.Status[status],
        float(found.spectral_radius),
        int(solution.stats.steps),
        relative(solution.value, exact(current).z),
        repr(found),
    )
