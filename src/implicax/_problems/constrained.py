"""Minima, fits and roots within bounds and constraints: what holds at them."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from implicax._core import tree_math
from implicax._core.real_view import RealView
from implicax._problems.base import AbstractProblem
from implicax._problems.check_conditions import check_conditions
from implicax._problems.constraints import (
    AbstractConstraint,
    Multipliers,
    check_bounds,
    check_constraints,
    read_bounds,
    strict,
)
from implicax._problems.losses import Squares
from implicax._problems.optimality_conditions import Conditions


class Parts(eqx.Module):
    """A nonlinear program at one point."""

    objective: Float[Array, ""]
    rows: Float[Array, " m"]
    """What the constraints' functions return, ..."""
    lower: Float[Array, " m_plus_n"]
    """... and the sides of these rows and of the unknowns."""
    upper: Float[Array, " m_plus_n"]
    errors: Float[Array, " k"] | None = None
    """Whose squares the objective sums up, if it does."""
    aux: Any = None


class Constrained(AbstractProblem):
    """A minimum or a fit, within its bounds and under its constraints.

    The unknown is the pair of `y` and its [`implicax.Multipliers`][]. What holds are
    the conditions of Karush, Kuhn and Tucker (Nocedal & Wright, *Numerical
    Optimization*, 2006, thm 12.1) on the active set, which the multipliers tell: where
    one is zero, its constraint does not act.
    """

    problem: AbstractProblem
    bounds: Any
    constraints: tuple[AbstractConstraint, ...] = ()
    equations: bool = eqx.field(static=True, default=False)
    """Whether it states equations, which hold within the bounds."""

    @property
    def has_multipliers(self) -> bool:
        """Whether its conditions are about multipliers too; those of equations are
        not."""
        return not self.equations

    def parts(self, y: PyTree, args: PyTree) -> Parts:
        """Objective, rows, and sides; of equations there is no objective, and the rows
        are these."""
        said = self.problem.conditions(y, args)
        checked = check_conditions(said, y, RealView.of(y))
        x, _ = tree_math.ravel(y)
        values = [(c.limits, c.evaluate(y, args)) for c in self.constraints]
        objective, errors = jnp.zeros((), x.dtype), None
        if checked.errors is not None:
            assert checked.loss is not None
            objective = checked.loss.cost(checked.errors)
            if isinstance(checked.loss, Squares):
                errors, _ = tree_math.ravel(checked.errors)
        elif checked.residual is not None:
            values.append(((0.0, 0.0), checked.residual))
        else:
            objective = checked.objective
        rows = [tree_math.ravel(value)[0].astype(x.dtype) for _, value in values]
        sides = [tree_math.ravel(side)[0] for side in read_bounds(self.bounds, y)]
        limits = [
            [
                jnp.full(row.shape, pair[k], x.dtype)
                for row, (pair, _) in zip(rows, values, strict=True)
            ]
            for k in range(2)
        ]
        lower, upper = (
            jnp.concatenate([*known, side])
            for known, side in zip(limits, sides, strict=True)
        )
        none = jnp.zeros(0, x.dtype)
        rows = jnp.concatenate([none, *rows])
        return Parts(objective, rows, lower, upper, errors, said.aux)

    def multipliers(self, t: Array, y: PyTree, args: PyTree) -> Multipliers:
        """One number for each row, and for each unknown that has bounds, as what they
        belong to."""
        shapes = [
            jax.eval_shape(constraint.evaluate, y, args)
            for constraint in self.constraints
        ]
        places = [
            jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape)
            for shape in shapes
        ]
        bounds = None if self.bounds is None else y
        _, unravel = tree_math.ravel(Multipliers(tuple(places), bounds))
        return unravel(t)

    def active_set(self, y0, args):
        """At which side each row and unknown is, by the signs of multipliers."""
        del args
        return jnp.sign(jax.lax.stop_gradient(self._flat(y0)))

    def conditions(self, y, args):
        return self.conditions_on(self.active_set(y, args), y, args)

    def conditions_on(self, active, y, args):
        t, (y, _) = self._flat(y), y

        def lagrangian(y: PyTree) -> tuple[Array, tuple[Parts, Array]]:
            parts = self.parts(y, args)
            values = parts.rows
            if self.bounds is not None:
                values = jnp.concatenate([values, tree_math.ravel(y)[0]])
            return parts.objective + t @ values, (parts, values)

        gradient, (parts, values) = jax.grad(lagrangian, has_aux=True)(y)
        lower, upper = parts.lower[: t.size], parts.upper[: t.size]
        above = (lower == upper) | (active > 0)
        acts = above | (active < 0)
        at = jnp.where(above, upper, jnp.where(acts, lower, 0))
        slack = jnp.where(acts, values - at, 0)
        rows = self.multipliers(jnp.where(acts, slack, -t), y, args)
        # The Lagrangian; of the constraints only their derivative is to be seen.
        term = jnp.sum(t * slack)
        value = parts.objective + (term - jax.lax.stop_gradient(term))
        positive = strict(active, values, t, lower, upper)
        residual = gradient, rows
        return Conditions(residual, value, aux=parts.aux, strict=positive)

    def _flat(self, unknown: Any) -> Array:
        """The multipliers as one vector."""
        pair = isinstance(unknown, tuple) and len(unknown) == 2
        if not pair or not isinstance(unknown[1], Multipliers):
            raise TypeError(
                "The unknown of a problem with bounds or constraints is the pair (y, "
                f"ix.Multipliers(...)) that solution.unknown is, not {unknown!r}."
            )
        return tree_math.ravel(unknown[1])[0]


def within(
    problem: AbstractProblem,
    bounds: Any,
    constraints: Any = (),
    *,
    equations: bool = False,
) -> Constrained | None:
    """`problem` within bounds and under constraints, if there are any.

    **Raises:** `TypeError` for what is none, and for what does not go with them.
    """
    check_bounds(bounds)
    found = check_constraints(constraints)
    if bounds is None and not found:
        return None
    for name in ("domain", "sparsity"):
        if getattr(problem, name, None) is not None:
            raise TypeError(
                f"bounds= and constraints= are for dense arrays, and this problem has "
                f"{name}=. Leave one of them out."
            )
    return Constrained(problem, bounds, found, equations)
