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
from implicax._core.domain import Chart, View
from implicax._core.real_view import RealView
from implicax._core.traced_function import trace
from implicax._core.tree_math import Vector
from implicax._linear.jacobian_structure import JacobianStructure
from implicax._problems.base import AbstractProblem
from implicax._problems.check_conditions import check_conditions
from implicax._problems.find_sparsity import find_sparsity
from implicax._problems.optimality_conditions import Conditions, OptimalityConditions


class CanonicalProblem(eqx.Module):
    """A problem at its arguments: nothing is captured, all is input."""

    conditions: OptimalityConditions = eqx.field(static=True)
    v0: Vector
    inputs: PyTree[Array]
    """`(constants, (args, data))`: what the problem closes over, and the arrays of its
    arguments; `data` comes from the solve and is not differentiated (the base point of
    a chart, the constraints that act)."""
    view: View
    restore_aux: Callable[[list[Array]], Any] = eqx.field(static=True)

    def recentered(self, v: Vector) -> "CanonicalProblem":
        """With the point `v` as the origin of its chart, where it is in one.

        There the implicit function theorem is applied: the tangent `d(a)` is zero,
        and its derivative moves the point along its domain.
        """
        if isinstance(self.view, RealView):
            return self
        return self.at(jax.lax.stop_gradient(self.view.from_real(v)))

    def on(self, active: PyTree[Array]) -> "CanonicalProblem":
        """With these constraints active."""
        constants, (arrays, _) = self.inputs
        return dataclasses.replace(self, inputs=(constants, (arrays, active)))

    def at(self, base: PyTree[Array]) -> "CanonicalProblem":
        """In the chart at `base`."""
        assert isinstance(self.view, Chart)
        view = self.view.at(base)
        constants, (arrays, _) = self.inputs
        inputs = constants, (arrays, base)
        return dataclasses.replace(self, v0=view.origin(), inputs=inputs, view=view)


def canonicalize(
    problem: AbstractProblem, y0: PyTree, args: PyTree, name: str = "y0"
) -> CanonicalProblem:
    """Trace `problem` at `y0`, `args` (arrays are inputs; all other leaves constants).

    `name` is what error messages call `y0`.

    **Raises:** `TypeError` or `ValueError` for a `y0` that is empty, not floating, or
    not finite, and for conditions that do not match `y0`.
    """
    inside = problem.constrained()
    if inside is not None and inside.has_multipliers:
        problem = inside
    y0 = check_unknown(y0, name)
    if not isinstance(problem.structure, JacobianStructure):
        raise TypeError(
            f"{type(problem).__name__}.structure must be an ix.JacobianStructure, and "
            f"it is {problem.structure!r}."
        )
    domain = getattr(problem, "domain", None)
    view = RealView.of(y0) if domain is None else Chart.of(domain, y0)
    data = problem.active_set(y0, args) if domain is None else y0
    v0 = view.to_real(y0) if isinstance(view, RealView) else view.origin()
    arrays, others = split_arrays(args)
    aux_others: list[Any] = []

    def traced(v: Vector, both: tuple[PyTree[Array], PyTree[Array]]) -> Conditions:
        arrays, data = both
        here = view.at(data) if isinstance(view, Chart) else view
        reals = view.tangents if isinstance(view, Chart) else view
        unknown, everything = here.from_real(v), eqx.combine(arrays, others)
        said = problem.conditions_on(data, unknown, everything)
        checked = check_conditions(said, reals.from_real(v), reals)
        aux_arrays, aux_static = eqx.partition(said.aux, eqx.is_array_like)
        aux_leaves, aux_tree = jax.tree.flatten(aux_arrays)
        aux_others[:] = [aux_tree, aux_static]
        return dataclasses.replace(checked, aux=list(map(jnp.asarray, aux_leaves)))

    both = arrays, data
    options = {"unknowns": len(v0), "structure": problem.structure}
    conditions, constants = trace(OptimalityConditions, traced, v0, both, **options)
    if tree_math.inside_shard_map():
        # A solution varies over the mesh as what it depends on does.
        v0, *_ = tree_math.varied((v0, both, constants))
        conditions, constants = trace(OptimalityConditions, traced, v0, both, **options)
    sparsity = getattr(problem, "sparsity", None)
    if sparsity is not None:
        found = find_sparsity(conditions, sparsity, v0, (constants, both), y0)
        conditions = conditions if found is None else conditions.with_sparsity(found)
    aux_tree, aux_static = aux_others

    def restore_aux(leaves: list[Array]) -> Any:
        return eqx.combine(jax.tree.unflatten(aux_tree, leaves), aux_static)

    return CanonicalProblem(conditions, v0, (constants, both), view, restore_aux)
