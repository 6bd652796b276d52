"""A gradient as accurate as asked for: solve, certify, tighten, until it is."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from implicax._build_solution import check_call
from implicax._certificates.certificate import Certificate
from implicax._certificates.certify import certificate
from implicax._certificates.quantity import Quantity, prepare
from implicax._core import tree_math
from implicax._core.domain import View
from implicax._core.failure import OnFailure, poisoned, poisons, raises
from implicax._core.keywords import explained
from implicax._core.solution import ConvergenceError, Solution, Status
from implicax._core.tree_math import Vector
from implicax._derivatives.implicit import Implicit
from implicax._problems.base import AbstractProblem
from implicax._problems.equations import System
from implicax._solvers.defaults import default_solver
from implicax._solvers.fallback import Fallback
from implicax._solvers.loop import SolverResult, run_loop
from implicax._solvers.run import check_max_steps, check_solver

#: Solves at most; each is at least three times as tight as the one before.
MAX_ROUNDS = 8
#: The error bar must be this far below what was asked for.
SAFETY = 2.0
#: The first tolerance of the solve, as a part of what is asked of the gradient.
FIRST = 0.3


class CertifiedGradient(eqx.Module):
    """A gradient and the evidence for it. All leaves are arrays.

    ```python
    import implicax as ix

    square = ix.Root(lambda y, a: y**2 - a)
    result = ix.certified_gradient(
        lambda y, a: y, square, 1.0, 2.0, gradient_rtol=1e-3
    )
    print(result.met, f"{result.gradient:.3f}")
    ```
    ```text
    True 0.354
    ```
    """

    gradient: PyTree[Array]
    """The implicit gradient in the floating arrays of `args`; NaN under `jit` where
    `met` is false."""
    certificate: Certificate
    """Its error bar, and the rest of the evidence."""
    solution: Solution[Any]
    """The solution it was evaluated at, NaN under `jit` where the solve failed; `stats`
    add up all rounds."""
    met: Bool[Array, ""]
    """Whether the solve converged, its certificate is `ok`, and the error bar, and what
    rounding errors may make of the gradient, are below what was asked for."""
    rounds: Int[Array, ""]
    """Solves made."""


class AccuracyError(ConvergenceError):
    """The gradient is not known as accurately as was asked for, outside `jax.jit`: the
    error bar is too large, or not to be trusted, or the solve did not converge.

    The text says how far it came and why no further. `error.result` is the
    [`implicax.CertifiedGradient`][] that was reached.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp

    kink = ix.FixedPoint(lambda y, a: jnp.abs(y) / 2 + a)
    try:
        ix.certified_gradient(lambda y, a: y, kink, 1.0, 0.0, gradient_rtol=1e-3)
    except ix.AccuracyError as error:
        print(error.result.met)
    ```
    ```text
    False
    ```
    """

    def __init__(self, result: CertifiedGradient, asked: float, solver: str):
        self.result = result
        self.solution = result.solution
        reached = float(result.certificate.relative_gradient_error)
        RuntimeError.__init__(
            self,
            f"The gradient's relative error bar is {reached:.1e}"
            f"{'' if bool(result.certificate.ok) else ' (not to be trusted)'}, and "
            f"gradient_rtol={asked:.1e} was asked for (with a factor of {SAFETY:g} to "
            f"spare).{_lost(result.certificate, asked)}\n"
            f"  {solver} ended: {Status[result.solution.status]}\n"
            f"  {result.certificate!r}\n"
            "  What to try: what the certificate says; raise max_steps; a faster "
            "solver (ix.Newton); float64; or ask for less.",
        )


def _lost(certificate: Certificate, asked: float) -> str:
    """Where it is rounding errors that are in the way."""
    rounding = certificate.rounding_error
    if rounding is None or float(rounding) <= asked:
        return ""
    size = f"{float(rounding):.1e}"
    return f" Rounding errors alone make about {size}, which no tolerance mends."


class _Round(eqx.Module):
    outcome: SolverResult
    certificate: Certificate
    rtol: Float[Array, ""]
    steps: Int[Array, ""]
    evaluations: Int[Array, ""]
    rounds: Int[Array, ""]
    met: Bool[Array, ""]


@explained
def certified_gradient(
    loss: Callable[[Any, Any], Array],
    problem: AbstractProblem,
    y0: PyTree,
    args: PyTree,
    *,
    gradient_rtol: float,
    solver: Any = None,
    max_steps: int = 256,
    on_failure: OnFailure = "raise",
) -> CertifiedGradient:
    """The gradient of `loss(y*(args), args)` to a relative accuracy that *you* state.

    Solves to a first tolerance, certifies the gradient, and goes on from there with a
    tighter one until it has converged, the certificate is `ok`, and its error bar,
    twice over, is below `gradient_rtol`. (What rounding errors leave unknown in an
    ill-conditioned problem no tolerance mends: that must be below it, too.)

    **Arguments:**

    - `loss`: takes `(y, args)`, returns a real scalar.
    - `problem`: [`implicax.Root`][], [`implicax.FixedPoint`][],
      [`implicax.Minimum`][] or [`implicax.LeastSquares`][].
    - `y0`, `args`, `solver`, `on_failure`: as in [`implicax.root`][]; the solver is one
      of ix's own, and its `rtol` is chosen here.
    - `gradient_rtol`: the relative (Euclidean) error that the gradient may have.
    - `max_steps`: the bound on the steps of each round (of at most 8).

    **Returns:** a [`implicax.CertifiedGradient`][]. Works under `jit` and `vmap`.

    **Raises:** [`implicax.AccuracyError`][] where that is not met (outside `jit`;
    inside, the gradient is NaN); and as [`implicax.certify`][].

    ```python
    import implicax as ix
    import jax.numpy as jnp

    result = ix.certified_gradient(
        lambda y, a: y**2,
        ix.FixedPoint(lambda y, a: jnp.cos(a * y)),
        jnp.asarray(0.5),
        jnp.asarray(1.0),
        gradient_rtol=1e-3,
    )
    print(f"{result.gradient:.3f}")
    ```
    ```text
    -0.440
    ```
    """
    if not isinstance(gradient_rtol, float | int) or not 0 < gradient_rtol < 1:
        raise ValueError(
            "gradient_rtol must be a number between 0 and 1 (1e-6: six digits of the "
            f"gradient), not {gradient_rtol!r}."
        )
    if getattr(problem, "domain", None) is not None:
        raise TypeError(
            "certified_gradient tightens a solve in a vector space, and this problem "
            "has a domain. Use ix.solve(problem, y0, args), then ix.certify."
        )
    canonical, quantity, floating = prepare(loss, problem, y0, args, "y0")
    if solver is None:
        unknowns = tree_math.num_unknowns(canonical.v0)
        solver = default_solver(canonical.conditions, unknowns)
        solver = solver.solvers[0] if isinstance(solver, Fallback) else solver
    check_max_steps(max_steps)
    check_solver(solver, own=True)
    check_call(Implicit(), on_failure)
    last = _tighten(
        quantity,
        canonical.view,
        canonical.v0,
        floating,
        solver,
        jnp.asarray(gradient_rtol, tree_math.working_dtype(canonical.v0)),
        int(max_steps),
    )
    outcome = last.outcome
    stats = dataclasses.replace(
        outcome.stats, steps=last.steps, evaluations=last.evaluations
    )
    conditions, objective = canonical.conditions, None
    if conditions.has_objective:
        objective = conditions.objective(outcome.y, canonical.inputs)
    aux = canonical.restore_aux(conditions(outcome.y, canonical.inputs)[1])
    gradient, y = last.certificate.gradient, outcome.y
    if poisons(on_failure, ~last.met):
        gradient = poisoned(gradient, last.met)
        solved = outcome.status == Status.converged
        y, objective = poisoned((y, objective), solved)
    solution = Solution(
        canonical.view.from_real(y), aux, outcome.status, stats, objective
    )
    result = CertifiedGradient(
        gradient, last.certificate, solution, last.met, last.rounds
    )
    if raises(on_failure, ~last.met):
        raise AccuracyError(result, gradient_rtol, type(solver).__name__)
    return result


@eqx.filter_jit(inline=True)  # pyright: ignore[reportCallIssue]
def _tighten(
    quantity: Quantity,
    view: View,
    v0: Vector,
    args: PyTree[Array],
    solver: Any,
    asked: Float[Array, ""],
    max_steps: int,
) -> _Round:
    system = System.of(quantity.conditions, quantity.inputs(args))

    def attempt(v: Vector, rtol: Array) -> tuple[SolverResult, Certificate, Array]:
        tight = eqx.tree_at(
            lambda s: s.rtol, solver, rtol, is_leaf=lambda leaf: leaf is None
        )
        outcome = run_loop(tight, system, v, max_steps)
        outcome = eqx.tree_at(
            lambda o: (o.approximate_inverse, o.stats.residual_history),
            outcome,
            (None, None),
            is_leaf=lambda leaf: leaf is None,
        )
        evidence = certificate(quantity, outcome.y, args, view)
        solved = outcome.status == Status.converged
        bar = SAFETY * evidence.relative_gradient_error
        met = solved & evidence.ok & (bar <= asked)
        if evidence.rounding_error is not None:
            met = met & (evidence.rounding_error <= asked)
        return outcome, evidence, met

    def going(last: _Round) -> Bool[Array, ""]:
        able = last.outcome.status == Status.converged
        return (last.rounds == 0) | (~last.met & able & (last.rounds < MAX_ROUNDS))

    def again(last: _Round) -> _Round:
        # The error is proportional to the tolerance: aim at it, a little below.
        shortfall = asked / (SAFETY * last.certificate.relative_gradient_error)
        tighter = last.rtol * jnp.clip(0.5 * shortfall, 1e-6, 0.3)
        rtol = jnp.where(last.rounds == 0, FIRST * asked, tighter)
        outcome, evidence, met = attempt(last.outcome.y, rtol)
        return _Round(
            outcome,
            evidence,
            rtol,
            last.steps + outcome.stats.steps,
            last.evaluations + outcome.stats.evaluations,
            last.rounds + 1,
            met,
        )

    # The first round is one of the loop: a solver and a certificate in the program,
    # not two.
    shapes = jax.eval_shape(attempt, v0, asked)
    outcome, evidence, met = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes
    )
    outcome = eqx.tree_at(lambda o: o.y, outcome, v0)
    steps, evaluations = outcome.stats.steps, outcome.stats.evaluations
    none = jnp.zeros((), jnp.int32)
    first = _Round(outcome, evidence, asked, steps, evaluations, none, met)
    return tree_math.while_loop(going, again, first)
