"""Continuation: the solutions of `fn(y, parameter, args) = 0` along a parameter."""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from implicax._build_solution import stop_gradient
from implicax._continuation.branch import Branch, BranchError, BranchStatus
from implicax._continuation.pseudo_arclength import Trace, follow_curve, turning_points
from implicax._core import tree_math
from implicax._core.checks import check_unknown, positive
from implicax._core.failure import OnFailure, check_on_failure, raises
from implicax._core.keywords import explained
from implicax._core.solution import Status
from implicax._core.tree_math import DENSE_LIMIT, Vector
from implicax._derivatives.implicit_rule import attach
from implicax._linear.linear_solve import Auto, LinearSolve
from implicax._problems.canonical import CanonicalProblem, canonicalize
from implicax._problems.optimality_conditions import OptimalityConditions
from implicax._problems.root import Root
from implicax._solvers.newton import Newton
from implicax._solvers.run import check_solver, run

Equation = Callable[[Any, Any, Any], Any]
Method = Literal["arclength", "natural"]

#: For the first point.
MAX_STEPS = 256


@explained
def continuation(
    fn: Equation,
    y0: PyTree,
    start: Any,
    stop: Any,
    args: PyTree = None,
    *,
    method: Method = "arclength",
    step: Any = 0.05,
    max_points: int = 200,
    back_to: Any = None,
    solver: Any = None,
    on_failure: OnFailure = "raise",
) -> Branch:
    """Follow the solutions of `fn(y, parameter, args) = 0` from `start` to `stop`.

    The solution at `start` is corrected first. From there the branch is followed along
    its tangent, with steps as long as its bends, and other branches near it, allow: a
    step that might have led to another branch is refused and halved. It ends where the
    parameter is `stop`, exactly, or where it has turned back to `start`, or after
    `max_points`; and it is `lost` where another branch crosses it. Each point is
    differentiable in `args`, at its own parameter (and the last one in `stop`, where
    that was reached), by the implicit function theorem.

    **Arguments:**

    - `fn`: takes `(y, parameter, args)`, returns the residual: structure, shapes and
      dtypes of `y`.
    - `y0`: a guess of the solution at `start`.
    - `start`, `stop`: the range of the parameter, one below or above the other.
    - `args`: any pytree; its arrays are differentiated.
    - `method`: `"arclength"` goes round folds, where the branch turns and `dF/dy` is
      singular (pseudo-arclength; Keller 1977). `"natural"` only ever steps ahead in the
      parameter: it ends before a fold, with the status `lost`.
    - `step`: the longest step, as a fraction of the range (and of the size of `y`, each
      unknown by itself).
    - `max_points`: how many points there is room for.
    - `back_to`: how far a branch that turns is followed back; `None` means to `start`.
    - `solver`: what corrects `y0`, as in [`implicax.root`][]; `None` means
      [`implicax.Newton`][].
    - `on_failure`: `"raise"`: outside `jit` a [`implicax.BranchError`][] where there is
      no solution at `start`, or where the branch is lost. Under `jit`, or with
      `"ignore"`, `branch.status` tells, and what was not found is NaN.

    **Returns:** a [`implicax.Branch`][].

    **Raises:** `BranchError`, and `TypeError` or `ValueError` for bad input. Up to 4096
    real unknowns.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    def cusp(y, p, a):
        return y**3 - a * y - p

    print(ix.continuation(cusp, -1.5, -1.0, 1.0, 1.0))
    ```
    ```text
    Branch: reached stop
      points     53 of at most 200
      parameter  -1 ... 1
      folds      at about 0.384894, -0.384888
    ```
    """
    _check(method, max_points, on_failure)
    y0 = check_unknown(y0, "y0")
    dtype = jnp.finfo(tree_math.working_dtype(jax.tree.map(jnp.real, y0))).dtype
    back_to = start if back_to is None else back_to
    _check_range(start=start, stop=stop, back_to=back_to)
    start, stop, back_to = (
        jnp.asarray(x).astype(dtype) for x in (start, stop, back_to)
    )
    step = positive("step", ": a fraction of the way from start to stop")(step)

    problem = Root(lambda y, both: fn(y, *both))
    solver = Newton() if solver is None else solver
    check_solver(solver)
    canonical = canonicalize(problem, y0, (start, args))
    n = tree_math.num_unknowns(canonical.v0)
    if n > DENSE_LIMIT:
        raise ValueError(
            f"Continuation forms the Jacobian, and y0 has {n} real unknowns; the limit "
            f"is {DENSE_LIMIT}."
        )
    if canonical.conditions.structure.reverse_only:
        raise TypeError(
            "fn has a VJP only (a jax.custom_vjp), and continuation needs its Jacobian "
            "by columns. Give fn a jax.custom_jvp."
        )
    # Points are constants; what makes them differentiable is attached to them below.
    v0, inputs, solver = stop_gradient((canonical.v0, canonical.inputs, solver))
    first = run(canonical.conditions, solver, v0, inputs, MAX_STEPS, False)
    traced, rows, parameter = _follow(
        canonical.conditions,
        first.y,
        inputs,
        stop_gradient((stop, back_to, step.astype(dtype))),
        first.status == Status.converged,
        max_points,
        method == "natural",
    )
    branch = _attach(canonical, first.y, traced, rows, parameter, start, stop, args)
    failed = branch.status == BranchStatus.lost
    failed = failed | (branch.status == BranchStatus.no_start)
    if raises(on_failure, failed):
        raise BranchError(branch)
    return branch


@eqx.filter_jit(inline=True)  # pyright: ignore[reportCallIssue]
def _follow(
    conditions: OptimalityConditions,
    v0: Vector,
    inputs: PyTree[Array],
    ends: tuple[Array, Array, Array],
    solved: Array,
    max_points: int,
    natural: bool,
) -> tuple[Trace, Vector, Float[Array, " max_points"]]:
    """The branch in scaled coordinates, as unknowns, and its parameters."""
    constants, ((start, args), data) = inputs
    stop, back_to, step = ends
    u0, unravel = tree_math.ravel(v0)
    span = stop - start

    def residual(u: Array, fraction: Array) -> Array:
        parameter = start + fraction * span
        output = conditions.residual(unravel(u), (constants, ((parameter, args), data)))
        return tree_math.ravel(output)[0]

    zero = jnp.zeros((), u0.dtype)
    jacobian = jax.jacfwd(residual)(u0, zero)
    force, push = jax.jvp(lambda t: residual(u0, t), (zero,), (jnp.ones_like(zero),))
    inverse = jnp.linalg.inv(jacobian)
    # One more correction, to the last digits, comes with it.
    u0, slope = u0 - inverse @ force, -(inverse @ push)
    unit = _units(u0, slope, jacobian, inverse, push)

    def curve(z: Array) -> Array:
        return residual(z[:-1] * unit, z[-1])

    first = jnp.append(u0 / unit, zero)
    first = jnp.where(solved, first, jnp.nan)
    lowest = (back_to - start) / span
    trace = follow_curve(curve, first, lowest, step, max_points, natural)
    rows = jax.vmap(lambda z: unravel(z[:-1] * unit))(trace.points)
    return trace, rows, start + trace.points[:, -1] * span


def _units(
    u: Array, slope: Array, jacobian: Array, inverse: Array, push: Array
) -> Float[Array, " n"]:
    """For each unknown a unit of length: its size and how far it moves along the range.

    Where both are rounding errors it is what they are rounding errors of: a fraction
    `sqrt(eps)` of `|J^-1| (|J| |u| + |dF/dp|)`, what the terms of the solution come to
    before they cancel (Skeel 1979). Units of equations and unknowns drop out.
    """
    terms = jnp.abs(inverse) @ (jnp.abs(jacobian) @ jnp.abs(u) + jnp.abs(push))
    unit = jnp.abs(u) + jnp.abs(slope) + jnp.finfo(u.dtype).eps ** 0.5 * terms
    return jnp.where(unit > 0, unit, 1)


def _attach(
    canonical: CanonicalProblem,
    first: Vector,
    trace: Trace,
    rows: Vector,
    parameter: Array,
    start: Array,
    stop: Array,
    args: PyTree,
) -> Branch:
    """The points with their derivatives: each is the solution at its own parameter."""
    index = jnp.arange(parameter.size, dtype=jnp.int32)
    used = index < trace.count
    reached = trace.status == BranchStatus.reached_stop
    parameter = jnp.where(reached & (index == trace.count - 1), stop, parameter)
    parameter = jnp.where(index == 0, start, parameter)

    def fill(leaf: Array, filling: Array) -> Array:
        shape = (-1,) + (1,) * (leaf.ndim - 1)
        return jnp.where(used.reshape(shape), leaf, filling)

    # Unused rows repeat the start while the rule is attached: NaN there would reach the
    # derivative of all others, since in reverse mode zero times NaN is NaN.
    safe_parameter = fill(parameter, start)
    safe_rows = jax.tree.map(lambda leaf, v: fill(leaf, v[None]), rows, first)
    conditions = canonical.conditions
    solve = LinearSolve(Auto(), None, conditions.structure)
    constants, ((_, arrays), data) = canonical.inputs

    def attached(v: Vector, p: Array) -> PyTree[Array]:
        inputs = constants, ((p, arrays), data)
        return canonical.view.from_real(attach(conditions, solve, v, inputs))

    values = jax.vmap(attached)(safe_rows, safe_parameter)
    folds, fractions = turning_points(trace)
    nan = jnp.full((), jnp.nan, parameter.dtype)
    return Branch(
        fill(parameter, nan),
        jax.tree.map(lambda leaf: fill(leaf, nan.astype(leaf.dtype)), values),
        trace.count,
        folds,
        _without_derivative(start + fractions * (stop - start), (start, stop, args)),
        trace.status,
    )


def _without_derivative(x: Array, inputs: PyTree) -> Array:
    """`x`, whose derivative with respect to `inputs` is NaN: unknown, but not zero."""
    leaves = [
        jnp.asarray(leaf)
        for leaf in jax.tree.leaves(inputs)
        if isinstance(leaf, float | complex) or eqx.is_inexact_array(leaf)
    ]

    @jax.custom_jvp
    def value(x: Array, leaves: Any) -> Array:
        del leaves
        return x

    @value.defjvp
    def rule(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
        x, total = primals[0], jnp.zeros((), primals[0].dtype)
        for tangent in tangents[1]:
            total = total + jnp.sum(tangent.real).astype(x.dtype)
        return value(*primals), jnp.full_like(x, jnp.nan) * total

    return value(jax.lax.stop_gradient(x), leaves)


def _check_range(**ends: Any) -> None:
    for name, value in ends.items():
        if not eqx.is_array_like(value) or jnp.ndim(value) or jnp.iscomplexobj(value):
            raise TypeError(f"{name} must be a single real number, not {value!r}.")
        if not tree_math.traced(value) and not np.isfinite(value):
            raise ValueError(f"{name} must be finite, and it is {value}.")
    start, stop, back_to = ends.values()
    if any(map(tree_math.traced, ends.values())):
        return
    if start == stop:
        raise ValueError(
            f"start and stop are both {start}: there is nothing to follow. For one "
            "solution, use ix.root."
        )
    if (back_to - start) * (stop - start) > 0:
        raise ValueError(
            f"back_to must not lie between start and stop, and it is {back_to}, "
            f"between {start} and {stop}."
        )


def _check(method: Any, max_points: Any, on_failure: Any) -> None:
    if method not in ("arclength", "natural"):
        raise ValueError(f"method must be 'arclength' or 'natural', not {method!r}.")
    integral = isinstance(max_points, int) and not isinstance(max_points, bool)
    if not integral or max_points < 2:
        raise ValueError(
            f"max_points must be an integer from 2 on, not {max_points!r}."
        )
    check_on_failure(on_failure)
