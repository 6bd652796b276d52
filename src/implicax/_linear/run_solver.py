"""Linear solvers of others: lineax', or a function of the user's."""

from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import PyTree

from implicax._core import tree_math
from implicax._core.tree_math import Vector
from implicax._linear.lu import MatVec

#: Iterations of conjugate gradients: where they are many more than without rounding
#: errors, elimination is next.
CG_STEPS = 400
#: What is known of a Hessian at a minimum.
POSITIVE = frozenset({lx.symmetric_tag, lx.positive_semidefinite_tag})
#: Who names one of these says that it is so of their Jacobian too. (Where it is not,
#: the residual of the linear solve shows.)
FOR_POSITIVE: Any = lx.CG | lx.Cholesky


def run_solver(
    solver: Any,
    product: MatVec,
    b: Vector,
    symmetric: bool = False,
    options: dict[str, Any] | None = None,
) -> Vector:
    """The user's linear solver, for a right-hand side of size one: what others call
    zero, or a breakdown, has no unit.

    Of lineax, `init` and `compute`, not `lineax.linear_solve`: that one puts a host
    callback into every gradient program, for errors that are data here.
    """
    size = tree_math.max_norm(b)
    size = jnp.where((size > 0) & jnp.isfinite(size), size, 1)
    b = tree_math.scaled(1 / size, b)
    if not isinstance(solver, lx.AbstractLinearSolver):
        flat, unravel = tree_math.ravel(b)
        x = solver(lambda x: tree_math.ravel(product(unravel(x)))[0], flat)
        x = unravel(jnp.reshape(x, flat.shape).astype(flat.dtype))
        return _finite(tree_math.scaled(size, x))
    tags = POSITIVE if symmetric or isinstance(solver, FOR_POSITIVE) else ()
    operator = lx.FunctionLinearOperator(product, _structure(b), tags)
    options = {} if options is None else options
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        state = solver.init(operator, options)
        x = solver.compute(state, b, options)[0]
    return _finite(tree_math.scaled(size, x))


def _finite(correction: Vector) -> Vector:
    """A correction that is not finite (of a rounding error, say) corrects nothing."""
    return jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), x, 0), correction)


def conjugate_gradients(product: MatVec, b: Vector, inverse: Any) -> Vector:
    """Conjugate gradients, preconditioned by an approximate inverse if there is one.

    What the Gauss-Newton matrix of a fit knows of the Hessian is worth a factor of
    three to four in iterations (16 for 60 on a network with 24 parameters).
    """
    tolerance = tree_math.coarsest_eps(b) ** 0.7
    solver = lx.CG(rtol=tolerance, atol=0.0, max_steps=CG_STEPS)
    options = {}
    if inverse is not None:
        options["preconditioner"] = lx.FunctionLinearOperator(
            lambda r: inverse.solve(r, False), _structure(b), POSITIVE
        )
    return run_solver(solver, product, b, True, options)


def _structure(x: Vector) -> PyTree:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), x)
