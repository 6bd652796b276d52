"""How a solver is run: ours in our loop, others to their own end, several in turns."""

import dataclasses
import numbers
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from implicax._core import tree_math
from implicax._core.tree_math import Vector
from implicax._problems.equations import System
from implicax._problems.optimality_conditions import OptimalityConditions
from implicax._solvers.base import AbstractSolver
from implicax._solvers.external.base import AbstractExternalSolver, read
from implicax._solvers.external.dispatch import external_solver
from implicax._solvers.fallback import Fallback
from implicax._solvers.judge import judge
from implicax._solvers.loop import SolverResult, better, failed, run_loop
from implicax._solvers.progress import Listener, counter, tell, watch

#: Steps are counted in the dtype of the residual norm: float32 counts to here.
MAX_STEPS = 2**24


def run(
    conditions: OptimalityConditions,
    solver: Any,
    v0: Vector,
    inputs: PyTree[Array],
    max_steps: int,
    differentiates_loop: bool,
    listen: Listener | None = None,
) -> SolverResult:
    """What `solver`, of whatever kind, makes of the conditions."""
    if isinstance(solver, Fallback):
        return _run_in_turns(conditions, solver, v0, inputs, max_steps, listen)
    other = external_solver(solver)
    if other is not None:
        return _run_external(conditions, other, v0, inputs, max_steps, listen)
    return _run(conditions, solver, v0, inputs, max_steps, differentiates_loop, listen)


@eqx.filter_jit(inline=True)  # pyright: ignore[reportCallIssue]
def _run(
    conditions: OptimalityConditions,
    solver: AbstractSolver,
    v0: Vector,
    inputs: PyTree[Array],
    max_steps: int,
    differentiates_loop: bool,
    listen: Listener | None,
) -> SolverResult:
    system = System.of(conditions, inputs, differentiable=differentiates_loop)
    return run_loop(
        solver, system, v0, max_steps, differentiable=differentiates_loop, listen=listen
    )


@eqx.filter_jit(inline=True)  # pyright: ignore[reportCallIssue]
def _run_external(
    conditions: OptimalityConditions,
    solver: AbstractExternalSolver,
    v0: Vector,
    inputs: PyTree[Array],
    max_steps: int,
    listen: Listener | None,
) -> SolverResult:
    watched = conditions if listen is None else watch(conditions, max_steps, listen)
    found = solver.solve(watched, v0, inputs, max_steps)
    system = System.of(conditions, inputs)
    answer = v0, found.v, found.steps, found.failed
    outcome = judge(system, *answer, solver.rtol, solver.atol)
    outcome = dataclasses.replace(outcome, said=found.said)
    if listen is not None:
        norm = outcome.stats.residual_norm
        zero = jnp.zeros((), jnp.int32)
        tell(counter(listen), zero, max_steps, norm, None, done=True)
    return outcome


def _run_in_turns(
    conditions: OptimalityConditions,
    solver: Fallback,
    v0: Vector,
    inputs: PyTree[Array],
    max_steps: int,
    listen: Listener | None,
) -> SolverResult:
    """One solver after the other, each from `v0`, until one converges.

    Outside `jit` a solver that is not needed is not even compiled. Inside, it runs in a
    loop of at most one round: under `vmap` only if some lane needs it.
    """

    def attempt(other: Any) -> SolverResult:
        outcome = run(conditions, other, v0, inputs, max_steps, False, listen)
        stats = outcome.stats
        stats = dataclasses.replace(stats, residual_history=None)
        return dataclasses.replace(outcome, stats=stats)

    equations = not conditions.has_objective
    first, *others = solver.solvers
    outcome = attempt(first)
    for other in others:
        lost = failed(outcome, equations)
        if not tree_math.traced(lost):
            if not lost:
                break
            outcome = better(outcome, attempt(other))
        else:
            # What the first one knows of the inverse stays: whoever uses it checks.
            kept = outcome.approximate_inverse
            bare = SolverResult(outcome.y, outcome.status, outcome.stats, None)

            def again(carry: tuple, other: Any = other) -> tuple:
                outcome, _ = carry
                new = better(outcome, attempt(other))
                bare = SolverResult(new.y, new.status, new.stats, None)
                return bare, jnp.zeros((), bool)

            bare, _ = tree_math.while_loop(lambda carry: carry[1], again, (bare, lost))
            outcome = SolverResult(bare.y, bare.status, bare.stats, kept)
    return outcome


def message(outcome: SolverResult) -> str:
    """What an external solver that failed, outside `jit`, said of its answer."""
    said = outcome.said
    return "" if said is None or tree_math.traced(said) else read(said)


def name_of(solver: Any) -> str:
    """What error messages call a solver."""
    if isinstance(solver, Fallback):
        return ", then ".join(map(name_of, solver.solvers))
    return type(solver).__name__


def check_solver(solver: Any, *, own: bool = False) -> None:
    """An error unless it is a solver; with `own`, unless it is one of ours."""
    if own and not isinstance(solver, AbstractSolver):
        raise TypeError(
            "solver must be an ix.AbstractSolver such as ix.Newton(): its tolerance is "
            f"to be changed. It is {solver!r}."
        )
    ours = isinstance(solver, AbstractSolver | Fallback)
    if not ours and external_solver(solver) is None:
        raise TypeError(
            "solver must be an ix.AbstractSolver such as ix.Newton() (an instance, not "
            "the class), ix.SciPy(method) or an optimistix solver (an optax "
            f"transformation goes into ix.Optax), and it is {solver!r}."
        )


def check_start(y0: Any) -> None:
    """An error if it is no start, but a solver."""
    if isinstance(y0, AbstractSolver | Fallback) or external_solver(y0) is not None:
        raise TypeError(
            "y0 must be the first guess, and it is a solver. The order is (fn, y0, "
            "args), and the solver goes by name: solver=ix.Newton()."
        )


def check_max_steps(max_steps: Any) -> None:
    """An error unless it is a number of steps."""
    integral = isinstance(max_steps, numbers.Integral) and max_steps is not True
    if not integral or not 1 <= int(max_steps) <= MAX_STEPS:
        raise ValueError(
            f"max_steps must be a positive integer up to {MAX_STEPS}, not "
            f"{max_steps!r}."
        )
