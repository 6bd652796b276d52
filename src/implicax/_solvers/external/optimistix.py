"""Solvers of optimistix."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicax._core import tree_math
from implicax._core.optional import library
from implicax._core.tree_math import Vector
from implicax._problems.equations import System
from implicax._problems.losses import Squares
from implicax._problems.optimality_conditions import OptimalityConditions
from implicax._solvers.base import tolerance
from implicax._solvers.external.base import (
    AbstractExternalSolver,
    ExternalResult,
    narrow,
    widen,
)


class Optimistix(AbstractExternalSolver):
    """A solver of [optimistix](https://docs.kidger.site/optimistix/), with its options.

    A solver that takes no options is passed as it is: `solver=optx.BFGS(rtol, atol)`.
    Each is given what it is made for: root finders and fixed-point solvers the
    equation (of a minimum: that its gradient is zero, which a maximum fulfils too),
    least-squares solvers the errors, minimisers the objective; of an equation,
    the last two are given the squares of its residual. The derivative is ours.

    **Arguments:**

    - `solver`: an optimistix root finder, fixed-point, least-squares or minimising
      solver.
    - `options`: as optimistix has them. `lower` and `upper`, the bounds that
      `optx.Bisection`, `optx.GoldenSearch` and a bounded `optx.Newton` take, have the
      structure of `y0` (which is real).

    - `rtol`, `atol`: what the answer is judged by, as in [`implicax.implicit`][].

    Its own tolerances decide when it stops; then each unknown must be right to `rtol`,
    by the correction that the exact Jacobian (of a minimum: Hessian) asks for, or the
    status is `not_solved`: so it often is for `optx.NelderMead` of optimistix 0.1.0
    with several unknowns, which settles elsewhere (`ix.SciPy("Nelder-Mead")` does not).
    Needs `pip install 'implicax[optimistix]'`. Raises `TypeError` where the solver is
    not made for the problem.

    ```python
    import implicax as ix
    import jax.numpy as jnp
    import optimistix as optx

    bisection = optx.Bisection(rtol=1e-6, atol=1e-6)
    solver = ix.Optimistix(bisection, options={"lower": 0.0, "upper": 2.0})

    def F(y, a):
        return jnp.cos(a * y) - y

    print(f"{ix.root(F, 1.0, 1.0, solver=solver).value:.4f}")
    ```
    ```text
    0.7391
    ```
    """

    solver: Any
    options: dict[str, Any]
    rtol: Float[Array, ""] | None
    atol: Float[Array, ""] | None

    def __init__(
        self, solver: Any, options: Any = None, *, rtol: Any = None, atol: Any = None
    ):
        if not is_solver(solver):
            raise TypeError(
                "ix.Optimistix takes an optimistix solver such as "
                f"optx.BFGS(rtol=1e-8, atol=1e-8), an instance, not {solver!r}."
            )
        if not isinstance(options, dict | None):
            raise TypeError(f"options must be a dict or None, not {options!r}.")
        self.solver = solver
        self.rtol, self.atol = tolerance(rtol), tolerance(atol)

        # As arrays, so that new bounds do not recompile.
        def bound(value: Any) -> Any:
            return jax.tree.map(jnp.asarray, value)

        self.options = {
            name: bound(value) if name in _BOUNDS else value
            for name, value in (options or {}).items()
        }

    def solve(self, conditions, v0, inputs, max_steps):
        find, fn = self._problem(conditions, System.of(conditions, inputs), v0)
        # Solvers of one number want it bare.
        leaves, treedef = jax.tree.flatten(v0)
        bare = len(leaves) == 1

        def outside(y: Any) -> Vector:
            return narrow(jax.tree.unflatten(treedef, jax.tree.leaves(y)), v0)

        def inside(v: Any) -> Any:
            v = widen(v)
            return jax.tree.leaves(v)[0] if bare and _same(v, v0) else v

        y0 = inside(v0)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            found = find(
                lambda y, _: inside(fn(outside(y))),
                self.solver,
                y0,
                options={
                    name: _like(value, y0, name) if name in _BOUNDS else value
                    for name, value in self.options.items()
                },
                max_steps=max_steps,
                throw=False,
            )
        steps = jnp.asarray(found.stats["num_steps"], jnp.int32)
        return ExternalResult(outside(found.value), steps, jnp.zeros((), bool))

    def _problem(
        self, conditions: OptimalityConditions, system: System, v0: Vector
    ) -> Any:
        """Which of optimistix' functions to call, and with what."""
        optx, name = library("optimistix", "This solver"), type(self.solver).__name__
        if conditions.has_objective:
            assert system.objective is not None
            if isinstance(self.solver, optx.AbstractMinimiser):
                return optx.minimise, system.objective
            if isinstance(self.solver, optx.AbstractLeastSquaresSolver):
                if not conditions.has_errors:
                    raise TypeError(
                        f"optimistix' {name} needs the errors whose squares are "
                        "summed, and this objective is a scalar. Use "
                        "ix.least_squares, ix.TrustRegion() or a minimiser such as "
                        "optx.BFGS."
                    )
                assert system.errors is not None
                errors = system.errors
                _, loss = jax.eval_shape(errors, v0)
                if not isinstance(loss, Squares):
                    raise TypeError(
                        f"optimistix' {name} minimises plain squares, and the loss is "
                        f"{type(loss).__name__}. Use ix.LevenbergMarquardt(), "
                        "ix.TrustRegion() or a minimiser such as optx.BFGS."
                    )
                return optx.least_squares, lambda v: errors(v)[0]

        def step(v: Vector) -> Vector:
            return tree_math.subtract(v, system.residual(v))

        fixed = isinstance(self.solver, optx.AbstractFixedPointSolver)
        if conditions.structure.fixed_point or fixed:
            return optx.fixed_point, step
        return optx.root_find, system.residual


_BOUNDS = ("lower", "upper")


def is_solver(solver: Any) -> bool:
    """Whether optimistix has a function that runs it."""
    optx = library("optimistix", "This solver")
    kinds = (
        optx.AbstractRootFinder,
        optx.AbstractFixedPointSolver,
        optx.AbstractLeastSquaresSolver,
        optx.AbstractMinimiser,
    )
    return isinstance(solver, kinds)


def _same(v: Any, v0: Vector) -> bool:
    return jax.tree.structure(v) == jax.tree.structure(v0)


def _like(bound: Any, y0: Any, name: str) -> Any:
    """A bound with the structure, shapes and dtypes of the unknown."""
    came, leaves = jax.tree.leaves(bound), jax.tree.leaves(y0)
    if len(came) != len(leaves):
        raise TypeError(
            f"options[{name!r}] must have the structure of y0, one array for each of "
            f"its {len(leaves)} real ones (complex numbers have no order), and it has "
            f"{len(came)}."
        )

    def fit(value: Array, leaf: Array) -> Array:
        return jnp.broadcast_to(value, leaf.shape).astype(leaf.dtype)

    fitted = [fit(*pair) for pair in zip(came, leaves, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(y0), fitted)
