"""Quadratic and linear programs: their optimality conditions."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from implicax._problems.base import AbstractProblem
from implicax._problems.constraints import strict
from implicax._problems.optimality_conditions import Conditions
from implicax._problems.program import Program


class QuadraticProgram(AbstractProblem):
    """`x` minimises `x^T P x / 2 + q^T x` where `A x = b`, `G x <= h`, in bounds.

    The unknown is the pair of `x` and the multipliers, an [`implicax.Dual`][]. The
    conditions are those of Karush, Kuhn and Tucker (Nocedal & Wright, *Numerical
    Optimization*, 2006, thm 12.1) on the active set, which `x` and the multipliers
    tell: a constraint whose multiplier is zero does not act.

    **Arguments:**

    - `fn`: takes `args`, returns the [`implicax.Program`][]. By default `args` is one.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    problem = ix.QuadraticProgram(lambda a: ix.Program(jnp.eye(2), -a, bounds=(0, 1)))
    solution = ix.solve(problem, None, jnp.array([2.0, 0.5]))
    print(solution.value, solution.dual.bounds > 0)
    ```
    ```text
    [1.  0.5] [ True False]
    ```
    """

    fn: Callable[[Any], Program] | None = None

    def program(self, args: Any) -> Program:
        """The program that `args` make."""
        program = args if self.fn is None else self.fn(args)
        if not isinstance(program, Program):
            raise TypeError(
                "fn(args) of an ix.QuadraticProgram must return an ix.Program(P, q, "
                f"...), and it returned {type(program).__name__}. (Without fn, args is "
                "that.)"
            )
        return program

    def active_set(self, y0, args):
        """At which side each row is."""
        program = self.program(args)
        x, dual = y0
        below, above = program.sides(x, program.join(dual))
        return above.astype(x.dtype) - below.astype(x.dtype)

    def conditions(self, y, args):
        return self.conditions_on(self.active_set(y, args), y, args)

    def conditions_on(self, active, y, args):
        program = self.program(args)
        x, dual = y
        t, rows, (lower, upper) = program.join(dual), program.rows, program.limits
        below, above = active < 0, active > 0
        at = jnp.where(above, upper, jnp.where(below, lower, 0))
        slack = jnp.where(above | below, rows(x) - at, 0)
        residual = (
            program.gradient(x) + rows.transposed(t),
            program.split(jnp.where(above | below, slack, -t)),
        )
        # The Lagrangian; of the constraints only their derivative is to be seen.
        term = jnp.sum(t * slack)
        value = program.objective(x) + (term - jax.lax.stop_gradient(term))
        positive = strict(active, rows(x), t, lower, upper)
        return Conditions(residual, value, strict=positive)
