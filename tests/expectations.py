"""What the entries of the derivative matrix must be, by oracles."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from .cases import Case, make
from .derivative_matrix import ORIGIN, entries
from .oracles import ClosedForm, central, unrolled, unrolled_solution


@functools.cache
def expected(kind: str, variant: str) -> dict[str, Any]:
    case = make(kind, variant)
    closed = ClosedForm(case)
    args = closed.arguments(ORIGIN)
    z, dz = closed.solve(args), closed.jacobian(ORIGIN)
    points = np.asarray(case.points, np.float64)
    return entries(
        z,
        dz,
        closed.cotangent(z, args, case.cotangent),
        closed.hessian(ORIGIN),
        np.stack([closed.gradient(t) for t in points]),
    )


@functools.cache
def in_double(kind: str, variant: str) -> Case:
    """The case with its own numbers (which may be float32) taken as exact."""
    case = make(kind, variant)
    if variant != "float32":
        return case
    double = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float64), tree)
    return Case(kind, "float64", *double(case[2:]))


@functools.cache
def oracle(kind: str, variant: str) -> Any:
    """The loss along the directions, its gradient, and both the solution and its
    Jacobian."""
    case = in_double(kind, variant)
    loss = functools.partial(unrolled, case)
    row = lambda t: ravel_pytree(unrolled_solution(case, case.along(t)))[0]
    tangents = lambda t: jax.vmap(
        lambda d: jax.jvp(row, (t,), (d,)), out_axes=(None, -1)
    )(jnp.eye(t.size))
    return jax.jit(loss), jax.jit(jax.grad(loss)), jax.jit(tangents)


@functools.cache
def expected_of_a_minimum(kind: str, variant: str) -> dict[str, Any]:
    case = in_double(kind, variant)
    _, gradient, tangents = oracle(kind, variant)
    solve = functools.partial(unrolled_solution, case)
    vjp = jax.jit(lambda args: jax.vjp(solve, args)[1](case.cotangent)[0])(case.args)
    z, dz = map(np.asarray, tangents(jnp.asarray(ORIGIN)))
    gradients = np.stack([gradient(t) for t in case.points])
    hessian = central(lambda t: np.asarray(gradient(t)), ORIGIN, 5e-4)
    return entries(z, dz, vjp, hessian, gradients)
