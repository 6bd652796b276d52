"""Steps 1 and 2: three solvers on one problem, and the Jacobian that Newton needs."""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import implicax as ix

from . import _classic
from ._exact import Exact
from ._problem import Problem, load, residual, tanh_map


@dataclass(frozen=True)
class Run:
    """One solver: its counts, its error, and how its residual fell."""

    name: str
    classic_count: int
    """Steps by the classic rule, in float32."""
    count32: int
    """Steps by the library's rule, in float32."""
    count64: int
    """Steps by the library's rule, in float64."""
    error: float
    """`|z - z*|` in float64."""
    history: list[float]
    """`|F|` after each step, in float64."""


@dataclass(frozen=True)
class Solved:
    """What steps 1 and 2 found."""

    runs: list[Run]
    z32: NDArray[np.float32]
    """Plain iteration by the classic rule, in float32."""
    difference: float
    """From there to Newton's solution by the same rule."""
    jacobian_error: float
    """Automatic against closed form, the largest entry."""


def solve(former: Problem, exact: Exact) -> Solved:
    """Run the three solvers by both rules."""
    single = load("former", jnp.float32)
    z_picard, picard_count = _classic.picard(single)
    z_newton, newton_count = _classic.newton(single)
    runs = [
        _run(ix.Picard(record_history=True), picard_count, former, single, exact),
        _run(
            ix.Anderson(history=5, record_history=True),
            _anderson_count(single),
            former,
            single,
            exact,
        ),
        _run(ix.Newton(record_history=True), newton_count, former, single, exact),
    ]
    automatic = jax.jacfwd(residual)(jnp.asarray(exact.z), former)
    return Solved(
        runs,
        np.asarray(z_picard),
        float(jnp.linalg.norm(z_newton - z_picard)),
        float(np.abs(np.asarray(automatic) - exact.jacobian).max()),
    )


def _anderson_count(single: Problem) -> int:
    """The classic rule needs single steps: `init` and `step` are public."""
    solver = ix.Anderson(history=5)
    system = ix.System(lambda z: residual(z, single), fixed_point=True)
    step = eqx.filter_jit(solver.step)
    state, moved, count = solver.init(system, jnp.zeros_like(single.x)), np.inf, 0
    while moved > _classic.STEP_NORM and count < _classic.MAX_STEPS:
        previous, state = state.iterate.y, step(system, state)
        moved, count = float(jnp.linalg.norm(state.iterate.y - previous)), count + 1
    return count


def _run(
    solver: ix.AbstractSolver,
    classic_count: int,
    former: Problem,
    single: Problem,
    exact: Exact,
) -> Run:
    in64, in32 = (
        ix.fixed_point(tanh_map, jnp.zeros_like(a.x), a, solver=solver)
        for a in (former, single)
    )
    history = np.asarray(in64.stats.residual_history)
    return Run(
        type(solver).__name__,
        classic_count,
        int(in32.stats.steps),
        int(in64.stats.steps),
        float(np.linalg.norm(np.asarray(in64.value) - exact.z)),
        history[np.isfinite(history)].tolist(),
    )
