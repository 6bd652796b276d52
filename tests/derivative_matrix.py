"""What is asked of every derivative: the entries of the matrix.

A program each where all are asked for: the compiler takes longer for one program with
thirteen solves than for thirteen with one.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from .cases import DIRECTIONS, Case, restore

ORIGIN = np.zeros(DIRECTIONS)
SCAN_WEIGHTS = np.array([1.0, -0.5])

ENTRIES = (
    "value",
    "jvp",
    "vjp",
    "jacfwd",
    "jacrev",
    "forward_over_forward",
    "forward_over_reverse",
    "reverse_over_forward",
    "reverse_over_reverse",
    "vmap_of_grad",
    "grad_of_vmap",
    "grad_in_scan",
    "grad_of_scan",
)
#: What tells one solver from another: how a derivative is taken does not depend on who
#: found the solution, and the whole matrix is that of each way to solve `J t = b`
#: (`test_linear_paths.py`).
PER_SOLVER = ("value", "jvp", "vjp")


def transformations(
    case: Case, solver: Any, names: tuple[str, ...] = ENTRIES, **options: Any
) -> dict[str, Any]:
    """Entries of the matrix, compiled and computed."""
    if names == PER_SOLVER:
        return jax.jit(lambda: first_order(case, solver, **options))()
    every = functions(case, solver, **options)
    return {name: jax.jit(every[name])() for name in names}


def first_order(case: Case, solver: Any, **options: Any) -> dict[str, Any]:
    """The entries of `PER_SOLVER` by one solve: compiling that is nearly all the time.

    (`jax.linearize` and its transpose are what `jax.vjp` is made of; `jax.jvp` by
    itself is in the whole matrix.)
    """
    z, push = jax.linearize(lambda a: case.solve(solver, a, None, **options), case.args)
    pull = jax.linear_transpose(push, case.args)
    first = jax.tree.map(lambda leaf: leaf[0], case.directions)
    return {"value": z, "jvp": push(first), "vjp": pull(case.cotangent)[0]}


def functions(case: Case, solver: Any, **options: Any) -> dict[str, Callable[[], Any]]:
    """The entries as functions without arguments."""
    solve = lambda args, y0=None: case.solve(solver, args, y0, **options)
    solution = lambda t: solve(case.along(t))
    loss = lambda t: case.loss(solution(t))

    def row(t: Any) -> Any:
        """The solution as one real vector: what a real Jacobian is taken of."""
        z, _ = ravel_pytree(solution(t))
        return jnp.stack([z.real, z.imag]) if case.dtype.kind == "c" else z

    def weigh(losses: Any) -> Any:
        return jnp.sum(jnp.asarray(SCAN_WEIGHTS, losses.dtype) * losses)

    def grad_in_scan(points: Any) -> Any:
        grad = jax.jit(jax.grad(loss))
        return jax.lax.scan(lambda carry, t: (carry, grad(t)), None, points)[1]

    def scan(points: Any) -> Any:
        """Continuation: each solve starts at the solution before it."""

        def body(y: Any, t: Any) -> tuple[Any, Any]:
            y = solve(case.along(t), y)
            return y, case.loss(y)

        return weigh(jax.lax.scan(body, case.start(), points)[1])

    t = jnp.zeros(DIRECTIONS, case.weights.dtype)
    first = jax.tree.map(lambda leaf: leaf[0], case.directions)
    along = jax.grad(lambda ts: weigh(jax.vmap(loss)(ts)))
    return {
        "value": lambda: solve(case.args),
        "jvp": lambda: jax.jvp(solve, (case.args,), (first,))[1],
        "vjp": lambda: jax.vjp(solve, case.args)[1](case.cotangent)[0],
        "jacfwd": lambda: jax.jacfwd(row)(t),
        "jacrev": lambda: jax.jacrev(row)(t),
        "forward_over_forward": lambda: jax.jacfwd(jax.jacfwd(loss))(t),
        "forward_over_reverse": lambda: jax.jacfwd(jax.jacrev(loss))(t),
        "reverse_over_forward": lambda: jax.jacrev(jax.jacfwd(loss))(t),
        "reverse_over_reverse": lambda: jax.jacrev(jax.jacrev(loss))(t),
        "vmap_of_grad": lambda: jax.vmap(jax.grad(loss))(case.points),
        "grad_of_vmap": lambda: along(case.points),
        "grad_in_scan": lambda: grad_in_scan(case.points),
        "grad_of_scan": lambda: jax.grad(scan)(case.points),
    }


def entries(
    z: np.ndarray, dz: np.ndarray, vjp: Any, hessian: np.ndarray, gradients: np.ndarray
) -> dict[str, Any]:
    """What all entries must be: from the solution `z`, its Jacobian along the
    directions, its product with the cotangent, the Hessian of the loss, and the
    gradients of that at the points."""
    rows = np.stack([dz.real, dz.imag]) if dz.dtype.kind == "c" else dz
    weighted = SCAN_WEIGHTS[:, None] * gradients
    return {
        "value": restore(z),
        "jvp": restore(dz[:, 0]),
        "vjp": vjp,
        "jacfwd": rows,
        "jacrev": rows,
        "forward_over_forward": hessian,
        "forward_over_reverse": hessian,
        "reverse_over_forward": hessian,
        "reverse_over_reverse": hessian,
        "vmap_of_grad": gradients,
        "grad_of_vmap": weighted,
        "grad_in_scan": gradients,
        "grad_of_scan": weighted,
    }


def allowed(variant: str) -> float:
    """The relative error that default tolerances (`eps**(2/3)`) and rounding permit."""
    return 1e-4 if variant == "float32" else 1e-8
