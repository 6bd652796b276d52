"""A factorisation to start from: of a problem's Jacobian at a point near by."""

import jax
from jaxtyping import PyTree

from implicax._core import tree_math
from implicax._core.tree_math import DENSE_LIMIT
from implicax._linear.approximate_inverse import ApproximateInverse
from implicax._linear.lu import factorise as dense_factors
from implicax._linear.sparse_lu import SparseLU
from implicax._problems.base import AbstractProblem
from implicax._problems.canonical import canonicalize
from implicax._problems.equations import System


def factorise(
    problem: AbstractProblem, y: PyTree, args: PyTree = None
) -> ApproximateInverse:
    """Factorise the Jacobian `dF/dy` of a problem at `y`, once for many systems.

    As the preconditioner of [`implicax.Krylov`][] it serves every problem near by: the
    steps in time that follow, the next parameters. Where it has become too old the
    iterations are many, and one may make a new one.

    **Arguments:**

    - `problem`: [`implicax.Root`][] or another; by its `sparsity`, or else dense, up to
      4096 real unknowns.
    - `y`, `args`: where.

    **Returns:** an [`implicax.ApproximateInverse`][]: a pytree, which may be an
    argument of a compiled function. It has no derivative.

    **Raises:** `TypeError` or `ValueError` for bad input, and where the Jacobian is
    singular (outside `jit`).

    ```python
    import implicax as ix
    import jax.numpy as jnp

    problem = ix.Root(lambda y, a: y**3 + y - a)
    inverse = ix.factorise(problem, jnp.ones(3), jnp.full(3, 2.0))
    solver = ix.Newton(ix.Krylov(inverse))
    print(ix.solve(problem, jnp.ones(3), jnp.full(3, 10.0), solver=solver).value)
    ```
    ```text
    [2. 2. 2.]
    ```
    """
    if getattr(problem, "domain", None) is not None:
        raise TypeError(
            "factorise keeps the inverse in one chart, and the unknowns of this "
            "problem are on a manifold: each step has a chart of its own."
        )
    canonical = canonicalize(problem, y, args)
    v, inputs = jax.lax.stop_gradient((canonical.v0, canonical.inputs))
    system = System.of(canonical.conditions, inputs)
    n = tree_math.num_unknowns(v)
    if system.sparsity is None and n > DENSE_LIMIT:
        raise ValueError(
            f"y has {n} real unknowns, and a dense Jacobian is formed up to "
            f"{DENSE_LIMIT}. Give the problem sparsity='auto'."
        )
    if system.sparsity is not None:
        factors = SparseLU.of(system.sparse_jacobian(v))
    else:
        factors = dense_factors(system.jacobian(v))
    if not tree_math.traced(factors.singular) and bool(factors.singular):
        raise ValueError("The Jacobian is singular at y. Factorise it at another one.")
    return factors
