"""The rule: a solution's derivative by the implicit function theorem.

Let `F(y*, a) = 0` with `J = dF/dy` invertible at `(y*, a)`. Then near `a` the
solution is a differentiable function of `a`, and

    J dy* = -(dF/da) da.

So the derivative needs the conditions, the solution and one linear solve; not the
solver. (Krantz & Parks, *The Implicit Function Theorem*, Birkhaeuser 2002, thm 3.3.1.)
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from implicax._core.tree_math import Vector
from implicax._linear.lu import MatVec
from implicax._problems.optimality_conditions import OptimalityConditions

Linearize = Callable[[Vector, PyTree[Array]], MatVec]


def attach(
    conditions: OptimalityConditions,
    solve: Any,
    y: Vector,
    inputs: PyTree[Array],
    linearize: Linearize | None = None,
) -> Vector:
    """`y`, with the derivative with respect to `inputs` that the theorem gives it.

    `solve(product, b)` solves `product(t) = b` and is itself differentiable
    (`LinearSolve`). The rule is linear in the tangents, so JAX transposes it
    for reverse mode; and it evaluates everything at the *attached* solution, so that
    it can be differentiated again, to any order and in any nesting.

    `linearize(y, inputs)` is multiplication by `J`, where something else than the exact
    one is wanted.
    """
    if linearize is None:
        linearize = conditions.linearize
    if conditions.structure.reverse_only:
        return _attach_reverse(conditions, solve, y, inputs)
    arrays, others = eqx.partition(solve, eqx.is_array)

    @jax.custom_jvp
    def solution(y: Vector, inputs: PyTree[Array], arrays: Any) -> Vector:
        del inputs, arrays
        return y

    @solution.defjvp
    def rule(primals: tuple, tangents: tuple) -> tuple[Vector, Vector]:
        y, inputs, arrays = primals
        y = solution(y, inputs, arrays)
        solve = eqx.combine(arrays, others)
        _, b = jax.jvp(lambda i: conditions.residual(y, i), (inputs,), (tangents[1],))
        t = solve(linearize(y, inputs), jax.tree.map(lambda x: -x, b))
        return y, t

    return solution(y, inputs, arrays)


def attach_objective(
    conditions: OptimalityConditions, solve: Any, y: Vector, inputs: PyTree[Array]
) -> Float[Array, ""]:
    """The objective at the minimum, with its derivative.

    `d min f = (df/da) da`, since `df/dy = 0`: the envelope theorem (Milgrom & Segal
    2002). No linear system is solved for it. At the *attached* minimum, so that the
    second derivative, which needs `dy*/da`, is right too.
    """
    y = jax.lax.stop_gradient(y)
    if conditions.structure.reverse_only:
        return conditions.objective(y, inputs)
    arrays, others = eqx.partition(solve, eqx.is_array)

    @jax.custom_jvp
    def minimum(y: Vector, inputs: PyTree[Array], arrays: Any) -> Float[Array, ""]:
        del arrays
        return conditions.objective(y, inputs)

    @minimum.defjvp
    def rule(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
        y, inputs, arrays = primals
        value = minimum(y, inputs, arrays)
        at = attach(conditions, eqx.combine(arrays, others), y, inputs)

        def along(inputs: PyTree[Array]) -> Float[Array, ""]:
            return conditions.objective(at, inputs)

        if conditions.traced_reverse_only:
            _, pullback = jax.vjp(along, inputs)
            return value, _paired(pullback(jnp.ones_like(value))[0], tangents[1])
        return value, jax.jvp(along, (inputs,), (tangents[1],))[1]

    return minimum(y, inputs, arrays)


def _attach_reverse(
    conditions: OptimalityConditions, solve: Any, y: Vector, inputs: PyTree[Array]
) -> Vector:
    """The rule for conditions that have a VJP only: reverse mode, first order.

    With `J^T u = g` for the cotangent `g` of `y`, that of the inputs is
    `-(dF/da)^T u`.
    """
    arrays, others = eqx.partition(solve, eqx.is_array)

    @jax.custom_vjp
    def solution_of_a_function_that_has_a_vjp_only(
        y: Vector, inputs: PyTree[Array], arrays: Any
    ) -> Vector:
        del inputs, arrays
        return y

    def forward(y: Vector, inputs: PyTree[Array], arrays: Any) -> tuple[Vector, Any]:
        y = solution_of_a_function_that_has_a_vjp_only(y, inputs, arrays)
        return y, (y, inputs, arrays)

    def backward(saved: Any, g: Vector) -> tuple:
        y, inputs, arrays = saved
        _, pullback = jax.vjp(conditions.residual, y, inputs)
        solve = eqx.combine(arrays, others)
        u = solve.adjoint(lambda u: pullback(u)[0], g)
        by_inputs = jax.tree.map(_negated, pullback(u)[1])
        return _zeros(y), by_inputs, _zeros(arrays)

    solution_of_a_function_that_has_a_vjp_only.defvjp(forward, backward)
    return solution_of_a_function_that_has_a_vjp_only(y, inputs, arrays)


def _paired(gradient: PyTree[Array], tangents: PyTree[Array]) -> Array:
    """The derivative along `tangents` of a real function with that gradient."""
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(tangents), strict=True)
    return sum(
        (jnp.sum((g * t).real) for g, t in pairs if g.dtype != jax.dtypes.float0),
        start=jnp.zeros(()),
    )


def _negated(cotangent: Any) -> Any:
    return cotangent if cotangent.dtype == jax.dtypes.float0 else -cotangent


def _zeros(tree: PyTree[Array]) -> PyTree:
    """Zero cotangents (integers have theirs in float0)."""

    def zero(leaf: Array) -> Any:
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            return jnp.zeros_like(leaf)
        return np.zeros(leaf.shape, jax.dtypes.float0)

    return jax.tree.map(zero, tree)
