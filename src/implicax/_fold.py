"""Folds: where a branch of solutions turns round, and how that place moves."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from . import _tree
from ._checks import check_unknown, match
from ._close import close
from ._conclude import OnFailure, stop_gradient
from ._conditions import Conditions
from ._keywords import explained
from ._lu import DENSE_LIMIT
from ._problem import Root
from ._solution import Solution
from ._solve import root
from ._tree import Vector
from .solvers import Newton


@explained
def fold(
    fn: Callable[[Any, Any, Any], Any],
    y0: PyTree,
    parameter0: Any,
    args: PyTree = None,
    *,
    solver: Any = None,
    max_steps: int = 256,
    on_failure: OnFailure = "raise",
) -> Solution[Any]:
    """The fold of `fn(y, parameter, args) = 0` near `(y0, parameter0)`.

    At a fold `dF/dy` is singular, and the parameter has an extreme value: the limit
    load of a structure, the loadability of a power grid. It solves

        F(y, p) = 0,    (dF/dy) v = 0,    c . v = 1

    for `y`, `p` and the null vector `v` together (Moore & Spence 1980). This system is
    regular at a simple fold, although `F` alone is not: so the fold, unlike the branch
    at it, has a derivative in `args`. Where folds meet (a cusp) or branches cross it is
    singular too, and the status says so.

    **Arguments:** as [`implicax.root`][], with these differences:

    - `fn`: takes `(y, parameter, args)`.
    - `y0`, `parameter0`: a guess, best a point of a [`implicax.Branch`][] next to its
      fold. `y0` holds real numbers, up to 2047 of them. The right singular vector of
      `dF/dy` there with the smallest singular value is `c`, and the first `v`.
    - `solver`: `None` means [`implicax.Newton`][].

    **Returns:** a [`implicax.Solution`][] whose `value` is `(y, parameter, v)`.

    **Raises:** `ConvergenceError`, and `TypeError` or `ValueError` for bad input.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp

    def arch(y, load, stiffness):  # the shallow arch: it snaps through at a limit load
        return stiffness * (y - 3 * y**2 / 2 + y**3 / 2) - load

    def limit(stiffness):
        return ix.fold(arch, 0.3, 0.1, stiffness).value[1]

    print(f"{limit(2.0):.6f} {jax.grad(limit)(2.0):.6f}")
    ```
    ```text
    0.384900 0.192450
    ```
    """
    y0 = check_unknown(y0, "y0")
    if any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(y0)):
        raise TypeError(
            "y0 must be real for ix.fold, and it is complex. Pass real and imaginary "
            "parts as two unknowns."
        )
    n = _tree.size(y0)
    if 2 * n + 1 > DENSE_LIMIT:
        raise ValueError(
            f"y0 has {n} unknowns, and ix.fold, which solves for twice as many and "
            f"one, takes up to {(DENSE_LIMIT - 1) // 2}."
        )
    if jnp.ndim(parameter0) or jnp.iscomplexobj(parameter0):
        raise TypeError(f"parameter0 must be a single real number, not {parameter0!r}.")
    parameter0 = jnp.asarray(parameter0, _tree.working_dtype(y0))
    problem = Root(lambda y, both: fn(y, *both))
    closed = close(problem, y0, (parameter0, args))
    v0 = _null_vector(closed.conditions, *stop_gradient((closed.v0, closed.inputs)))
    v0 = closed.view.from_real(v0)

    def extended(unknown: tuple, both: tuple) -> tuple:
        (y, p, v), (c, args) = unknown, both
        residual, along = jax.jvp(
            lambda y: match(fn(y, p, args), y, "fn must return a", "residual"),
            (y,),
            (v,),
        )
        return residual, _tree.dot(c, v).astype(p.dtype) - 1, along

    return root(
        extended,
        (y0, parameter0, v0),
        (v0, args),
        solver=Newton() if solver is None else solver,
        max_steps=max_steps,
        on_failure=on_failure,
    )


@eqx.filter_jit(inline=True)  # pyright: ignore[reportCallIssue]
def _null_vector(conditions: Conditions, v: Vector, inputs: PyTree[Array]) -> Vector:
    """Of unit length, with its largest component positive."""
    flat, unravel = _tree.ravel(v)

    def residual(u: Array) -> Array:
        return _tree.ravel(conditions.residual(unravel(u), inputs))[0]

    _, _, rows = jnp.linalg.svd(jax.jacfwd(residual)(flat))
    null = rows[-1]
    return unravel(null * jnp.sign(null[jnp.argmax(jnp.abs(null))]))
