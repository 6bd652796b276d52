"""On a manifold: a solve in the chart at each point that is come to, until it stays.

A chart may reach a part of its domain only, and where it ends an objective has minima
that are none: at infinity, in the chart's coordinates. So an answer counts in the chart
that it is the middle of.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from implicax._core import componentwise, tree_math
from implicax._core.solution import Status
from implicax._core.tree_math import Vector
from implicax._problems.canonical import CanonicalProblem
from implicax._solvers.loop import SolverResult
from implicax._solvers.progress import Listener
from implicax._solvers.run import run

#: How far from the middle of its chart a solution may be, relative to the point, ...
NEAR = 1e-3
#: ... and how many charts are gone through.
MAX_CHARTS = 16


def run_in_charts(
    canonical: CanonicalProblem,
    solver: Any,
    frozen: PyTree[Array],
    max_steps: int,
    listen: Listener | None,
) -> tuple[CanonicalProblem, SolverResult]:
    """What `solver` makes of a problem with a domain; the problem in the last chart.

    `frozen` are the problem's inputs without tangents.
    """

    def attempt(
        base: PyTree[Array],
    ) -> tuple[SolverResult, PyTree[Array], Bool[Array, ""]]:
        """The outcome in the chart at `base`, the point, and whether to go on there."""
        here = dataclasses.replace(canonical, inputs=frozen).at(base)
        found = run(
            here.conditions, solver, here.v0, here.inputs, max_steps, False, listen
        )
        stats = dataclasses.replace(found.stats, residual_history=None)
        found = SolverResult(found.y, found.status, stats, None, found.said)
        point = here.view.from_real(found.y)
        moved = _distance(found.y, here.v0)
        # Where nothing was found and nothing moved, nothing will.
        return found, point, jnp.isfinite(moved) & (moved > NEAR)

    _, (_, base) = frozen

    def again(carry: tuple) -> tuple:
        before, _, base, _, count = carry
        found, point, further = attempt(base)
        stats = dataclasses.replace(
            found.stats,
            steps=before.stats.steps + found.stats.steps,
            evaluations=before.stats.evaluations + found.stats.evaluations,
        )
        found = dataclasses.replace(found, stats=stats)
        return found, base, point, further, count + 1

    going, count = jnp.ones((), bool), jnp.zeros((), jnp.int32)
    if any(map(tree_math.traced, (going, *jax.tree.leaves(frozen)))):
        # It enters with nothing found: so a solve is compiled only once.
        like, *_ = jax.eval_shape(attempt, base)
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        carry = tree_math.while_loop(
            lambda carry: carry[3] & (carry[4] < MAX_CHARTS),
            again,
            (nothing, base, base, going, count),
        )
    else:
        found, point, further = attempt(base)
        carry = found, base, point, further, count + 1
        while bool(carry[3]) and int(carry[4]) < MAX_CHARTS:
            carry = again(carry)
    found, base, _, further, _ = carry
    status = Status.where(
        further & (found.status == Status.converged), Status.stagnated, found.status
    )
    return canonical.at(base), dataclasses.replace(found, status=status)


def _distance(v: Vector, origin: Vector) -> Array:
    return componentwise.ratio(tree_math.subtract(v, origin), origin)
