"""Canonical form: from a user's problem to conditions on real vectors, all inputs open.

Three things happen here, once, so that nothing else needs to know of them: the problem
is traced, and what it closes over becomes an input (`_core/traced_function.py`); its
unknown is viewed as real numbers (`_core/real_view.py`); and all that comes in is
checked (`_core/checks.py`, `check_conditions.py`).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from implicax._core import tree_math
from implicax._core.checks import check_unknown, split_arrays
from implicax._core.real_view import RealView
from implicax._core.traced_function import trace
from implicax._core.tree_math import Vector
from implicax._problems.base import AbstractProblem
from implicax._problems.check_conditions import check_conditions
from implicax._problems.optimality_conditions import Conditions, OptimalityConditions


class CanonicalProblem(eqx.Module):
    """A problem at its arguments: nothing is captured, all is input."""

    conditions: OptimalityConditions = eqx.field(static=True)
    v0: Vector
    inputs: PyTree[Array]
    view: RealView
    restore_aux: Callable[[list[Array]], Any] = eqx.field(static=True)


def canonicalize(
    problem: AbstractProblem, y0: PyTree, args: PyTree, name: str = "y0"
) -> CanonicalProblem:
    """Trace `problem` at `y0`, `args` (arrays are inputs; all other leaves constants).

    `name` is what error messages call `y0`.

    **Raises:** `TypeError` or `ValueError` for a `y0` that is empty, not floating, or
    not finite, and for conditions that do not match `y0`.
    """
    y0 = check_unknown(y0, name)
    view = RealView.of(y0)
    arrays, others = split_arrays(args)
    aux_others: list[Any] = []

    def traced(v: Vector, arrays: PyTree[Array]) -> Conditions:
        y = view.from_real(v)
        said = problem.conditions(y, eqx.combine(arrays, others))
        checked = check_conditions(said, y, view)
        aux_arrays, aux_static = eqx.partition(said.aux, eqx.is_array_like)
        aux_leaves, aux_tree = jax.tree.flatten(aux_arrays)
        aux_others[:] = [aux_tree, aux_static]
        return dataclasses.replace(checked, aux=list(map(jnp.asarray, aux_leaves)))

    v0 = view.to_real(y0)
    options = {"unknowns": len(v0), "structure": problem.structure}
    conditions, constants = trace(OptimalityConditions, traced, v0, arrays, **options)
    if tree_math.inside_shard_map():
        # A solution varies over the mesh as what it depends on does.
        v0, *_ = tree_math.varied((v0, arrays, constants))
        conditions, constants = trace(
            OptimalityConditions, traced, v0, arrays, **options
        )
    aux_tree, aux_static = aux_others

    def restore_aux(leaves: list[Array]) -> Any:
        return eqx.combine(jax.tree.unflatten(aux_tree, leaves), aux_static)

    return CanonicalProblem(conditions, v0, (constants, arrays), view, restore_aux)
