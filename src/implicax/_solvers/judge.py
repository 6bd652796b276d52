"""The verdict on the answers of others."""

import jax.numpy as jnp
from jaxtyping import Array, Bool

from implicax._core.solution import Stats, Status
from implicax._core.tree_math import Vector
from implicax._problems.equations import System
from implicax._solvers.loop import SolverResult
from implicax._solvers.minimality import judge_minimum
from implicax._solvers.termination import STRANGERS, Tolerance, judge_equations


def judge(
    system: System,
    v0: Vector,
    v: Vector,
    steps: Array,
    failed: Bool[Array, ""],
    rtol: Array | None = None,
    atol: Array | None = None,
) -> SolverResult:
    """The outcome of a solve that somebody else made.

    `rtol`, `atol`: the relative error that each unknown may have, or the `|F|` that is
    small enough.
    """
    if system.objective is not None:
        last = system.evaluate(v)
        status, error = judge_minimum(system, system.evaluate(v0), last, rtol)
        if atol is not None:
            small = last.norm <= atol.astype(last.norm.dtype)
            status = Status.where(small, Status.converged, status)
    else:
        last, status, error = judge_equations(
            system, v0, v, Tolerance(rtol, STRANGERS), atol
        )
    status = Status.where(jnp.isfinite(last.norm), status, Status.non_finite)
    status = Status.where(failed, Status.failed, status)
    two = jnp.full((), 2, jnp.int32)
    error = jnp.where(status == Status.converged, error, jnp.inf)
    stats = Stats(steps.astype(jnp.int32), two, last.norm, error, None)
    return SolverResult(v, status, stats, None)
