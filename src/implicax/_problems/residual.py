"""A residual: as many real numbers as there are real unknowns, in any structure.

In which order equations are written does not change what solves them. So where `fn`
returns its residual in another structure than that of `y`, its numbers are dealt out in
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
from implicax._core.real_view import View
from implicax._core.tree_math import Vector


def as_residual(output: Any, y: PyTree[Array], view: View) -> Vector:
    """`output` on the real view of `y`, or an error if it is no residual for `y`."""
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
    equations = View.of(arrays).to_real(arrays)
    m, n = tree_math.size(equations), tree_math.size(v)
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


def _shapes(leaves: list[Any]) -> str:
    return ", ".join(str(jnp.shape(leaf)) for leaf in leaves) or "nothing"
