"""The door: from a user's problem to closed conditions on real vectors.

Three things happen here, once, so that no other room needs to know of them: the problem
is traced and closed (`_core/traced_function.py`), its unknown is viewed as real numbers
(`_core/real_view.py`), and all that comes in is checked (`_core/checks.py`).
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from implicax._core import tree_math
from implicax._core.checks import check_unknown, split_arrays
from implicax._core.real_view import View
from implicax._core.traced_function import trace
from implicax._core.tree_math import Vector
from implicax._core.user_function import call
from implicax._problems.base import AbstractProblem
from implicax._problems.conditions import Conditions, reverse_only


class Closed(eqx.Module):
    """A problem at its arguments, closed: nothing is captured, all is input."""

    conditions: Conditions = eqx.field(static=True)
    v0: Vector
    inputs: PyTree[Array]
    view: View
    restore_aux: Callable[[list[Array]], Any] = eqx.field(static=True)


def close(
    problem: AbstractProblem, y0: PyTree, args: PyTree, name: str = "y0"
) -> Closed:
    """Trace `problem` at `y0`, `args` (arrays are inputs; all other leaves constants).

    `name` is what error messages call `y0`.

    **Raises:** `TypeError` or `ValueError` for a `y0` that is empty, not floating, or
    not finite, and for an output of `fn` that does not match `y0`.
    """
    y0 = check_unknown(y0, name)
    view = View.of(y0)
    arrays, others = split_arrays(args)
    aux_others: list[Any] = []

    def flat(v: Vector, arrays: PyTree[Array]) -> tuple[Any, list[Array]]:
        y = view.from_real(v)
        output = call(problem.fn, y, eqx.combine(arrays, others))
        aux = None
        if problem.has_aux:
            if not (isinstance(output, tuple) and len(output) == 2):
                raise TypeError(
                    "has_aux=True: fn must return a pair (output, aux), and it "
                    f"returned {type(output).__name__}."
                )
            output, aux = output
        aux_arrays, aux_static = eqx.partition(aux, eqx.is_array_like)
        aux_leaves, aux_tree = jax.tree.flatten(aux_arrays)
        aux_others[:] = [aux_tree, aux_static]
        return problem.close(y, output, view), [
            jnp.asarray(leaf) for leaf in aux_leaves
        ]

    v0 = view.to_real(y0)
    conditions, constants = trace(problem.conditions, flat, v0, arrays)
    if tree_math.inside_shard_map():
        # A solution varies over the mesh as what it depends on does.
        v0, *_ = tree_math.varied((v0, arrays, constants))
        conditions, constants = trace(problem.conditions, flat, v0, arrays)
    inputs = constants, arrays
    if conditions.symmetric and conditions.reverse_only:
        # A gradient is the VJP: what is left of it may well have a forward mode.
        gradient = jax.make_jaxpr(conditions.residual)(v0, inputs)
        conditions.reverse_only = reverse_only(gradient.jaxpr)
    aux_tree, aux_static = aux_others

    def restore_aux(leaves: list[Array]) -> Any:
        return eqx.combine(jax.tree.unflatten(aux_tree, leaves), aux_static)

    return Closed(conditions, v0, inputs, view, restore_aux)
