"""What a problem says holds at a solution, checked, and on the real view.

In which order equations are written does not change what solves them. So where a
residual comes in another structure than that of `y`, its numbers are dealt out in
theirs: the residual of a dict of unknowns may be one array, that of a complex unknown
two real equations.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from implicax._core import tree_math
from implicax._core.checks import hint, match
from implicax._core.real_view import RealView
from implicax._core.tree_math import Vector
from implicax._problems.losses import Squares
from implicax._problems.optimality_conditions import Conditions


def check_conditions(said: Any, y: PyTree, view: RealView) -> Conditions:
    """`said` at `y`, on the real view; an error if these are no conditions for `y`."""
    if not isinstance(said, Conditions):
        raise TypeError(
            "conditions(y, args) of a problem must return ix.Conditions(residual=...), "
            f"objective= or errors=, and it returned {type(said).__name__}."
        )
    if said.residual is not None:
        residual, value = _residual(said.residual, y, view), said.objective
        value = None if value is None else _objective(value, y, view)
        strict = jax.tree.map(jnp.asarray, said.strict)
        return Conditions(residual=residual, objective=value, strict=strict)
    if said.objective is not None:
        return Conditions(objective=_objective(said.objective, y, view))
    errors = _errors(said.errors, y, view)
    return Conditions(errors=errors, loss=said.loss or Squares())


def _residual(output: Any, y: PyTree, view: RealView) -> Vector:
    leaves, structure = jax.tree.flatten(output)
    alike = structure == jax.tree.structure(y)
    if alike and _shapes(leaves) == _shapes(jax.tree.leaves(y)):
        return view.to_real(match(output, y, "fn must return a", "residual"))
    for leaf in leaves:
        if not eqx.is_array_like(leaf):
            raise TypeError(
                "fn must return a residual, and it returned something that holds "
                f"{leaf!r}, which is no number."
            )
    arrays, v = [jnp.asarray(leaf) for leaf in leaves], view.to_real(y)
    dtypes = {leaf.dtype for leaf in v}
    for leaf in arrays:
        floating = jnp.issubdtype(leaf.dtype, jnp.inexact)
        if not floating or not ({leaf.real.dtype} == dtypes or leaf.weak_type):
            raise TypeError(
                "fn must return a residual of the precision of y0, and it returned "
                f"{leaf.dtype} for a y0 of {', '.join(sorted(map(str, dtypes)))}. Pass "
                "y0 and args in one precision (or, where y0 has several, return the "
                "residual in the structure of y0)."
            )
    equations = RealView.of(arrays).to_real(arrays)
    m, n = tree_math.num_unknowns(equations), tree_math.num_unknowns(v)
    if m != n:
        more = (
            "For more equations than unknowns, that hold as nearly as they can, use "
            "ix.least_squares"
            if m > n
            else "Add equations, or fix some of the unknowns"
        )
        raise (ValueError if alike else TypeError)(
            "fn must return a residual with as many numbers as the unknown has: y0 has "
            f"shape {_shapes(jax.tree.leaves(y))}, {n} in all, and fn returned shape "
            f"{_shapes(leaves)}, {m} in all. {more}. {hint(output, y)}".rstrip()
        )
    _, unravel = tree_math.ravel(v)
    return unravel(tree_math.ravel(equations)[0])


def _objective(output: Any, y: PyTree, view: RealView) -> Array:
    leaves = jax.tree.leaves(output)
    objective = jnp.asarray(leaves[0]) if len(leaves) == 1 else None
    floating = objective is not None and jnp.issubdtype(objective.dtype, jnp.floating)
    if objective is None or objective.shape != () or not floating:
        came = (
            "a pytree" if objective is None else f"{objective.dtype}{objective.shape}"
        )
        raise TypeError(
            "fn must return the objective, a real scalar, and it returned "
            f"{came}. (For a pair with auxiliary output, pass has_aux=True; for a "
            "vector of errors whose squares are to be summed, use "
            "ix.least_squares.)"
        )
    dtypes = {leaf.dtype for leaf in view.to_real(y)}
    if objective.dtype not in dtypes and not objective.weak_type:
        raise TypeError(
            f"fn must return the objective in the precision of y0, and it returned "
            f"{objective.dtype} for a y0 of {', '.join(map(str, dtypes))}. Pass y0 "
            "and args in one precision."
        )
    return objective.astype(tree_math.working_dtype(view.to_real(y)))


def _errors(output: Any, y: PyTree, view: RealView) -> Vector:
    errors = jax.tree.map(jnp.asarray, output)
    leaves = jax.tree.leaves(errors)
    if sum(leaf.size for leaf in leaves) == 0:
        raise ValueError(
            f"fn must return the errors of the fit, and it returned {output!r}, "
            "which holds no numbers."
        )
    dtypes = {leaf.dtype for leaf in view.to_real(y)}
    for leaf in leaves:
        loose = leaf.weak_type and jnp.issubdtype(leaf.dtype, jnp.inexact)
        if leaf.real.dtype not in dtypes and not loose:
            raise TypeError(
                f"fn must return errors of the precision of y0, and it returned "
                f"{leaf.dtype} for a y0 of {', '.join(map(str, dtypes))}. Pass y0 "
                "and args in one precision."
            )
    return RealView.of(errors).to_real(errors)


def _shapes(leaves: list[Any]) -> str:
    shapes = (str(jnp.shape(leaf)) for leaf in leaves if not callable(leaf))
    return ", ".join(shapes) or "nothing"
