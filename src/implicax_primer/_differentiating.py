"""Step 3: `dz*/dx` in five ways, and one way in which it is not."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import implicax as ix

from . import _classic
from ._exact import Exact, Matrix, exact, relative
from ._problem import Problem, load, tanh_map

#: Central differences: error `h^2` from truncation, `eps / h` from rounding.
H = float(np.cbrt(np.finfo(np.float64).eps))
#: Iterations unrolled. Their derivative lags behind the iterate: it converges like
#: `k rho^k`, so it gets more of them than the solution takes.
UNROLLED_STEPS = 128


@dataclass(frozen=True)
class Row:
    """One way to differentiate, and its relative errors."""

    name: str
    vs_exact: float
    vs_unrolled: float
    vs_central: float


@dataclass(frozen=True)
class Differentiated:
    """What step 3 found."""

    rows: list[Row]
    derivative_norm: float
    wrong_formula_norm: float
    implicit_vs_unrolled: float
    """The largest over the three solvers."""
    implicit_vs_central: float


def solution_map(
    a: Problem, solver: ix.AbstractSolver, **options: Any
) -> Callable[[jax.Array], jax.Array]:
    """`x -> z*(x)`, ready to be differentiated."""

    def solution(x: jax.Array) -> jax.Array:
        arguments = Problem(a.W, x)
        z0 = jnp.zeros_like(x)
        return ix.fixed_point(tanh_map, z0, arguments, solver=solver, **options).value

    return solution


def differentiate(former: Problem, solution: Exact) -> Differentiated:
    """Compare every derivative with every other."""
    solvers = (ix.Picard(), ix.Anderson(history=5), ix.Newton())
    ways = {
        f"implicit, {type(solver).__name__}": jax.jacrev(solution_map(former, solver))(
            former.x
        )
        for solver in solvers
    }
    implicit = list(ways)
    tight = ix.Picard(rtol=1e-14)
    unrolled = jax.jacfwd(
        solution_map(former, tight, derivative=ix.Unrolled(), max_steps=UNROLLED_STEPS)
    )(former.x)
    central = central_differences(former)
    ways |= {"autodiff, Picard unrolled": unrolled, "central differences": central}
    rows = [
        Row(
            name,
            relative(value, solution.dz_dx),
            relative(value, unrolled),
            relative(value, central),
        )
        for name, value in ways.items()
    ]
    single = load("former", jnp.float32)
    wrong = _classic.tempting(single, _classic.newton(single)[0])
    return Differentiated(
        rows,
        float(np.linalg.norm(solution.dz_dx)),
        float(jnp.linalg.norm(wrong)),
        max(row.vs_unrolled for row in rows if row.name in implicit),
        max(row.vs_central for row in rows if row.name in implicit),
    )


def central_differences(former: Problem) -> Matrix:
    """`(z*(x + h e) - z*(x - h e)) / 2h`, column by column, from NumPy solutions."""

    def moved(step: Matrix) -> Matrix:
        return exact(Problem(former.W, former.x + jnp.asarray(step))).z

    steps = H * np.eye(former.x.size)
    return np.stack([(moved(e) - moved(-e)) / (2 * H) for e in steps], axis=1)
