"""Folds: where a branch of solutions turns round, and how that place moves."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from implicax._build_solution import (
    build_solution,
    check_call,
    stop_gradient,
)
from implicax._core import tree_math
from implicax._core.checks import check_unknown
from implicax._core.componentwise import eps
from implicax._core.failure import OnFailure
from implicax._core.keywords import explained
from implicax._core.solution import Solution, Status
from implicax._core.tree_math import DENSE_LIMIT, Vector
from implicax._derivatives.implicit import Implicit
from implicax._linear.lu import factorise
from implicax._problems.canonical import canonicalize
from implicax._problems.optimality_conditions import OptimalityConditions
from implicax._problems.root import Root
from implicax._solvers.base import AbstractSolver
from implicax._solvers.newton import Newton
from implicax._solvers.run import check_max_steps, check_solver, message, run

#: Points at which rounding errors are sampled (Moré & Wild 2011 take about as many).
SAMPLES = 5
#: So many times further away than these Newton's method starts; and what it must have
#: come back to after two steps: 1/8 is what linear convergence by 1/2 leaves.
CLEAR, RETURNED = 256, 1 / 64


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
    at it, has a derivative in `args`. Where folds meet (a cusp), branches cross, or a
    closed branch shrinks to a point, it is singular too: there is no such derivative,
    and the status is `degenerate`.

    **Arguments:** as [`implicax.root`][], with these differences:

    - `fn`: takes `(y, parameter, args)`.
    - `y0`, `parameter0`: a guess, best a point of a [`implicax.Branch`][] next to its
      fold. `y0` holds real numbers, up to 2047 of them. The first `v`, of unit length,
      is the direction of the branch there, and `c` goes with it.
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
    n = tree_math.num_unknowns(y0)
    if 2 * n + 1 > DENSE_LIMIT:
        raise ValueError(
            f"y0 has {n} unknowns, and ix.fold, which solves for twice as many and "
            f"one, takes up to {(DENSE_LIMIT - 1) // 2}."
        )
    if jnp.ndim(parameter0) or jnp.iscomplexobj(parameter0):
        raise TypeError(f"parameter0 must be a single real number, not {parameter0!r}.")
    parameter0 = jnp.asarray(parameter0, tree_math.working_dtype(y0))
    check_call(Implicit(), on_failure)
    solver = Newton() if solver is None else solver
    check_max_steps(max_steps)
    check_solver(solver)
    canonical = canonicalize(Root(lambda y, both: fn(y, *both)), y0, (parameter0, args))
    frozen = stop_gradient((canonical.v0, canonical.inputs))
    null, normal = map(
        canonical.view.from_real, _null_vector(canonical.conditions, *frozen)
    )

    conditions, view = canonical.conditions, canonical.view
    constants, ((_, arrays), data) = canonical.inputs

    def extended(unknown: tuple, both: tuple) -> tuple:
        (y, p, v), (c, arrays) = unknown, both
        inputs = constants, ((p, arrays), data)
        residual, along = jax.jvp(
            lambda y: view.from_real(conditions.residual(view.to_real(y), inputs)),
            (y,),
            (v,),
        )
        return residual, tree_math.dot(c, v).astype(p.dtype) - 1, along

    problem = Root(extended)
    canonical = canonicalize(problem, (y0, parameter0, null), (normal, arrays))
    v0, solver, inputs = stop_gradient((canonical.v0, solver, canonical.inputs))
    outcome = run(canonical.conditions, solver, v0, inputs, int(max_steps), False, None)
    status = _verdict(canonical.conditions, outcome.y, v0, inputs, outcome.status)
    outcome = dataclasses.replace(outcome, status=status)
    own = solver if isinstance(solver, AbstractSolver) else None
    name = type(solver).__name__
    return build_solution(
        canonical,
        own,
        Implicit(),
        outcome,
        on_failure,
        name,
        message(outcome),
    )


@eqx.filter_jit(inline=True)  # pyright: ignore[reportCallIssue]
def _null_vector(
    conditions: OptimalityConditions, y: Vector, inputs: PyTree[Array]
) -> tuple[Vector, Vector]:
    """`v`, of unit length, and `c` with `c . v = 1`.

    `v` is how `y` moves along the branch, which at a fold is the null vector: the last
    right singular vector of `[dF/dy, dF/dp]`, without its end. Columns and rows are
    scaled to a largest entry of one first, and `c` lives on the scaled ones, so that
    units do not matter.
    """
    flat, unravel = tree_math.ravel(y)
    constants, ((parameter, args), data) = inputs

    def residual(z: Array) -> Array:
        at = constants, ((z[-1].astype(parameter.dtype), args), data)
        return tree_math.ravel(conditions.residual(unravel(z[:-1]), at))[0]

    matrix = jax.jacfwd(residual)(jnp.append(flat, parameter))
    columns = _unit_or_one(tree_math.max_abs(matrix, axis=0))
    matrix = matrix / columns[None, :]
    rows = _unit_or_one(tree_math.max_abs(matrix, axis=1))
    _, _, singular = jnp.linalg.svd(matrix / rows[:, None])
    scaled = singular[-1, :-1]
    v, c = scaled / columns[:-1], scaled * columns[:-1]
    length = jnp.linalg.norm(v) * jnp.sign(v[jnp.argmax(jnp.abs(v))])
    return unravel(v / length), unravel(c * length / jnp.dot(scaled, scaled))


def _unit_or_one(x: Array) -> Array:
    return jnp.where(x > 0, x, 1)


@eqx.filter_jit(inline=True)  # pyright: ignore[reportCallIssue]
def _verdict(
    conditions: OptimalityConditions,
    z: Vector,
    z0: Vector,
    inputs: PyTree[Array],
    status: Status,
) -> Status:
    """`degenerate` in place of `converged` where the fold is not a simple one.

    With `v` and `w` the null vectors of `dF/dy` and of its transpose, it is simple if
    `w . dF/dp` and `w . F_yy[v, v]` differ from zero; just there the extended system is
    regular (Moore & Spence 1980). In floating point neither is ever zero, and how small
    is small depends on units. What does not depend on them is how Newton's method
    behaves: it converges quadratically to a regular solution and at best linearly, by a
    factor of 1/2 a step, towards a singular one (Decker, Keller & Kelley 1983). So it
    is started next to the solution, and must have come back after two steps.
    """
    flat, unravel = tree_math.ravel(z)

    def residual(u: Array) -> Array:
        return tree_math.ravel(conditions.residual(unravel(u), inputs))[0]

    def newton(u: Array, _: None) -> tuple[Array, Array]:
        step = -factorise(jax.jacfwd(residual)(u)).solve(residual(u), False)
        return u + step, jnp.abs(step)

    matrix = jax.jacfwd(residual)(flat)
    singular = factorise(matrix).singular
    inverse = jnp.linalg.inv(matrix)
    flat = flat - inverse @ residual(flat)
    # How well the solution is determined: by its rounding errors ...
    unit = _rounding_units(z)
    shape = (SAMPLES, flat.size)
    random = jax.random.uniform(jax.random.key(0), shape, flat.dtype, -1, 1)
    random = random + jnp.sign(random)
    nudges = 2 * random.at[0].set(0)

    def correction(nudge: Array) -> Array:
        return jnp.abs(inverse @ residual(flat * (1 + unit * nudge)))

    noise = tree_math.max_abs(jax.vmap(correction)(nudges), axis=0)
    terms = jnp.abs(inverse) @ (jnp.abs(matrix) @ jnp.abs(flat))
    noise = jnp.maximum(noise, 4 * unit * terms)
    # ... and how far from it Newton's method is to start, which must be near.
    reach = jnp.maximum(jnp.abs(flat), jnp.abs(tree_math.ravel(z0)[0]))
    reach = jnp.maximum(reach, unit**0.5 * terms)
    distance = jnp.maximum(unit**0.5 * reach, CLEAR * noise)
    returns = (distance <= reach).all()
    for direction in (random[1], random[2]):
        _, steps = jax.lax.scan(newton, flat + distance * direction, length=3)
        far = jnp.maximum(distance, jnp.maximum(steps[0], steps[1]))
        returns = returns & (steps[2] <= RETURNED * far).all()
    converged = status == Status.converged
    # Where it stopped at a singular Jacobian: that of the extended system (`dF/dy`
    # itself is singular at any fold).
    degenerate = converged & ~returns | singular | (status == Status.singular)
    return Status.where(degenerate, Status.degenerate, status)


def _rounding_units(z: Vector) -> Array:
    """Of each unknown, that of its leaf."""
    flat = jax.tree.map(lambda x: jnp.full_like(x, eps(x)), z)
    return tree_math.ravel(flat)[0]
