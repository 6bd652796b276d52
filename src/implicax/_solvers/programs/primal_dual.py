"""The solver of programs that runs everywhere."""

import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicax._core import tree_math
from implicax._core.keywords import check_solver_call
from implicax._linear.kkt import proximal_terms
from implicax._solvers.base import tolerance
from implicax._solvers.programs.base import AbstractProgramSolver
from implicax._solvers.programs.interior_point import Walk, interior_point
from implicax._solvers.programs.scaled import power_of_two, sides
from implicax._solvers.programs.verdict import Guess

#: The attempt in other units has proximal terms of `eps` to this power (1e-8) in `x`
#: and in the multipliers alike: these may then become large soon.
EQUAL = 0.51


class InteriorPoint(AbstractProgramSolver):
    """A dense primal-dual interior point method, finished on the active constraints.

    It runs inside `jit` and `vmap`, on every device, in float32 too. Its solutions are
    exact to rounding where the active constraints are found, which is nearly always. A
    step costs a Cholesky factorisation in the unknowns (Mehrotra 1992, with proximal
    terms as of Friedlander & Orban 2012).

    **Arguments:**

    - `rtol`: what may be left of each optimality condition and of each constraint, as a
      part of the sizes of its terms; `None` means `eps**(2/3)` (4e-11 in float64, 2e-5
      in float32).

    ```python
    import implicax as ix
    import jax.numpy as jnp

    solver = ix.InteriorPoint(rtol=1e-12)
    box = (-1.0, 1.0)
    solution = ix.linear_program(jnp.array([1.0, -2.0]), bounds=box, solver=solver)
    print(solution.value)
    ```
    ```text
    [-1.  1.]
    ```
    """

    attempts = 4

    rtol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)

    def __new__(cls, *args: Any, **options: Any):
        check_solver_call(cls, args, options)
        return super().__new__(cls)

    def init(self, program):
        one = jnp.ones((), program.q.dtype)
        return _Run(Walk.at_the_origin(program), one, one)

    def attempt(self, program, state, number, max_steps):
        # First to the tolerance, then as far as it goes, ...
        again = number == 2
        x, t = state.walk.point.x, state.walk.point.t
        units = (jnp.where(again, _unit(part), 1).astype(x.dtype) for part in (x, t))
        run = _Run(state.walk, *units)
        # ... then from the start in other units, with other proximal terms; and
        # without an objective.
        scaled = program.in_units(run.x, run.t).weighted(jnp.where(number == 3, 0, 1))
        usual = jnp.asarray(proximal_terms(x), x.dtype)
        terms = jnp.where(again, tree_math.coarsest_eps(x) ** EQUAL, usual)
        begin = Walk.at_the_origin(scaled)
        onward = dataclasses.replace(
            state.walk, error=begin.error, least=begin.least, idle=begin.idle
        )
        begin = tree_math.where(number == 1, onward, begin)
        proximal = terms[0], terms[1]
        walk = interior_point(scaled, begin, max_steps, proximal, number > 0)
        s, z = walk.point.sz
        upper, lower = program.sided & (z > s)
        side = sides(program.fixed | upper, lower)
        x, t = run.x * walk.point.x, run.t * walk.point.t
        guess = Guess(x, t, side, run.x * walk.reach)
        return _Run(walk, run.x, run.t), guess, walk.steps - begin.steps


class _Run(eqx.Module):
    walk: Walk
    x: Float[Array, ""]
    """The size of the unknowns that it walks in, ..."""
    t: Float[Array, ""]
    """... and of the multipliers."""


def _unit(x: Array) -> Float[Array, ""]:
    if not x.size:
        return jnp.ones((), x.dtype)
    size = tree_math.max_abs(x)
    return power_of_two(jnp.where((size > 0) & jnp.isfinite(size), size, 1))
