"""Mixed complementarity problems: equations that hold where bounds do not act."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from implicax._core import tree_math
from implicax._core.checks import match
from implicax._core.user_function import call_function
from implicax._problems.base import AbstractProblem
from implicax._problems.constraints import (
    Multipliers,
    check_bounds,
    read_bounds,
    strict,
)
from implicax._problems.optimality_conditions import Conditions


class Complementarity(AbstractProblem):
    """`fn(y, args)` is zero where `y` is between its bounds, at least zero where it is
    at the lower one, at most zero where it is at the upper one.

    The unknown is the pair of `y` and multipliers `w` of the bounds, with `fn + w = 0`;
    the conditions are equations on the active set, which the signs of `w` tell.
    (Facchinei & Pang, *Finite-Dimensional Variational Inequalities*, 2003, sec. 1.4.)

    **Arguments:** as of [`implicax.complementarity`][].

    ```python
    import implicax as ix

    problem = ix.Complementarity(lambda y, a: y - a)
    print(ix.solve(problem, 1.0, -2.0).value, ix.solve(problem, 1.0, 3.0).value)
    ```
    ```text
    0.0 3.0
    ```
    """

    fn: Callable[[Any, Any], Any]
    bounds: Any = (0.0, None)
    has_aux: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        check_bounds(self.bounds)
        if not callable(self.fn):
            raise TypeError(f"fn must be a function (y, args), and it is {self.fn!r}.")

    def evaluate(self, y: PyTree, args: PyTree) -> PyTree:
        """What `fn` returns, and the auxiliary output."""
        output = call_function(self.fn, y, args)
        output, aux = output if self.has_aux else (output, None)
        return match(output, y, "fn must return a", "residual"), aux

    def sides(self, y: PyTree) -> tuple[PyTree, PyTree]:
        """The lower and the upper bounds, like `y`."""
        return read_bounds(self.bounds, y)

    def active_set(self, y0, args):
        """At which bound each unknown is, by the signs of multipliers."""
        del args
        return jax.tree.map(jnp.sign, jax.lax.stop_gradient(_pair(y0)[1]))

    def conditions(self, y, args):
        return self.conditions_on(self.active_set(y, args), y, args)

    def conditions_on(self, active, y, args):
        y, w = _pair(y)
        values, aux = self.evaluate(y, args)
        lower, upper = self.sides(y)

        def row(active, y, w, lower, upper):
            above = (lower == upper) | (active > 0)
            acts = above | (active < 0)
            at = jnp.where(above, upper, jnp.where(acts, lower, 0))
            return jnp.where(acts, y - at, -w)

        rows = jax.tree.map(row, active, y, w, lower, upper)
        residual = tree_math.add(values, w), Multipliers(bounds=rows)
        positive = jax.tree.map(strict, active, y, w, lower, upper)
        return Conditions(residual=residual, aux=aux, strict=positive)


def _pair(unknown: Any) -> tuple[PyTree, PyTree]:
    pair = isinstance(unknown, tuple) and len(unknown) == 2
    if not pair or not isinstance(unknown[1], Multipliers):
        raise TypeError(
            "The unknown of a complementarity problem is the pair (y, "
            f"ix.Multipliers(bounds=w)) that solution.unknown is, not {unknown!r}."
        )
    return unknown[0], unknown[1].bounds
