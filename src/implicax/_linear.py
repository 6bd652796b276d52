"""How `J t = b` and `J^T u = b` are solved, with `J = dF/dy` at the solution.

One idea serves all cases: *Richardson iteration with an approximate inverse `P`*,

    t <- t + P (b - J t),

which needs only exact products with `J`, and whose residual is the true one.

- `P` from the factorisation that the last Newton step left behind: stale but nearly
  right, so two steps of what is then called iterative refinement reach full accuracy,
  and the derivative costs next to nothing.
- `P = I` for a fixed point, where `J = I - A`: this is the Neumann series, and in
  reverse mode the fixed-point adjoint `u <- b + A^T u`. It converges at the rate of
  the map itself, and matrix-free.
- `P` from a fresh LU factorisation when there is nothing better, or when one of the
  above falls behind.

Every solve checks its true residual, and answers NaN when it could not be met: a
wrong derivative never leaves this file silently.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, Int

from . import _tree
from ._tree import Vector

Product = Callable[[Vector], Vector]

#: Largest number of real unknowns for which `auto` forms the Jacobian.
DENSE_LIMIT = 4096
#: Below this a dense factorisation beats any iteration (measured on CPU).
SMALL = 40


class Factor(eqx.Module):
    """`J = P^T L U`, with the rows' permutation kept as a permutation.

    (`jax.scipy.linalg.lu_solve` rebuilds it from the pivots on each call, one
    sequential step per row.)
    """

    lu: Float[Array, "n n"]
    permutation: Int[Array, " n"]
    singular: Bool[Array, ""]

    def solve(self, b: Vector, transposed: bool) -> Vector:
        """`J^-1 b`, or `J^-T b`."""
        flat, unravel = _tree.ravel(b)
        lower, upper = {"lower": True, "unit_diagonal": True}, {"lower": False}
        triangular = jax.scipy.linalg.solve_triangular
        if transposed:
            half = triangular(self.lu, flat, trans=1, **upper)
            rows = triangular(self.lu, half, trans=1, **lower)
            x = jnp.zeros_like(rows).at[self.permutation].set(rows, unique_indices=True)
        else:
            half = triangular(self.lu, flat[self.permutation], **lower)
            x = triangular(self.lu, half, **upper)
        return unravel(x)


def factorise(matrix: Float[Array, "n n"]) -> Factor:
    """LU with partial pivoting, and a verdict on singularity.

    A pivot that is lost in the rounding errors of its own row (`<= 4 n eps` times the
    row's largest entry) makes the matrix singular to working precision. The comparison
    is by row, so a badly *scaled* matrix, `diag(1, 1e-20)`, is not called singular.
    """
    lu, _, permutation = jax.lax.linalg.lu(matrix)
    rows = jnp.max(jnp.abs(matrix), axis=1)[permutation]
    threshold = 4 * matrix.shape[0] * jnp.finfo(matrix.dtype).eps
    singular = ~jnp.all(jnp.abs(jnp.diagonal(lu)) > threshold * rows)
    return Factor(lu, permutation, singular)


def materialise(
    product: Product, like: Vector, unit: Array | float = 1.0
) -> Float[Array, "n n"]:
    """The matrix of a linear map, column by column (times `unit`)."""
    flat, unravel = _tree.ravel(like)

    def column(e: Array) -> Array:
        return _tree.ravel(product(unravel(e)))[0]

    unit = jnp.asarray(unit, flat.dtype)
    return jax.vmap(column, out_axes=1)(unit * jnp.eye(flat.size, dtype=flat.dtype))


class _Progress(eqx.Module):
    solution: Vector
    remainder: Vector
    norm: Float[Array, ""]


def _refine(
    product: Product, b: Vector, approximate_inverse: Product, rate: float
) -> _Progress:
    """Richardson iteration for `product(t) = b` from `t = 0`.

    It goes on while the residual has fallen by `rate` per step on average (with a
    factor of ten of grace for the transient growth of non-normal maps) and is above
    the tolerance: so the number of steps is bounded by `log(tolerance) / log(rate)`.
    """
    norm_b = _tree.norm(b)
    tolerance = jnp.finfo(norm_b.dtype).eps ** 0.7

    def promising(carry: tuple[_Progress, Array]) -> Bool[Array, ""]:
        p, envelope = carry
        return (p.norm > tolerance * norm_b) & (p.norm <= envelope)

    def step(carry: tuple[_Progress, Array]) -> tuple[_Progress, Array]:
        p, envelope = carry
        solution = _tree.add(p.solution, approximate_inverse(p.remainder))
        remainder = _tree.subtract(b, product(solution))
        return _Progress(solution, remainder, _tree.norm(remainder)), rate * envelope

    start = _Progress(_tree.zeros_like(b), b, norm_b)
    return jax.lax.while_loop(promising, step, (start, 10 * norm_b))[0]


class LinearSolve(eqx.Module):
    """The `linear_solver=` argument, with what the forward solve left for reuse.

    - `choice`: `"auto"` or a `lineax.AbstractLinearSolver`.
    - `factor`: a factorisation of `J` near the solution, or `None`.
    - `fixed_point`: whether `J = I - A` with `A` hoped to contract.
    """

    choice: Any
    factor: Factor | None
    fixed_point: bool = eqx.field(static=True)

    def __call__(self, product: Product, b: Vector) -> Vector:
        """`t` with `product(t) = b`, differentiable to any order.

        `product` is linear and may be differentiated; the solution procedure is not.
        """
        return jax.lax.custom_linear_solve(
            product,
            b,
            solve=lambda product, b: self._solve(product, b, False),
            transpose_solve=lambda product, b: self._solve(product, b, True),
        )

    def transposed(self, product: Product, b: Vector) -> Vector:
        """`u` with `product(u) = b` where `product` multiplies by `J^T`."""
        return jax.lax.custom_linear_solve(
            product,
            b,
            solve=lambda product, b: self._solve(product, b, True),
            transpose_solve=lambda product, b: self._solve(product, b, False),
        )

    def _solve(self, product: Product, b: Vector, transposed: bool) -> Vector:
        if self.choice != "auto":
            return _solve_by_lineax(self.choice, product, b)
        eps = jnp.finfo(_tree.working_dtype(b)).eps
        dense = _tree.size(b) <= DENSE_LIMIT
        first: _Progress | None = None
        if self.factor is not None:
            factor = self.factor
            first = _refine(product, b, lambda r: factor.solve(r, transposed), 0.1)
        elif self.fixed_point and _tree.size(b) > SMALL:
            first = _refine(product, b, lambda r: r, 0.9)
        if first is None:
            last = _direct(product, b) if dense else _krylov(product, b)
        else:
            # A loop of at most one round, and not a `cond`: under `vmap` a `cond`
            # always pays for both branches, a loop only if some lane needs it.
            def unmet(carry: tuple[_Progress, Array]) -> Bool[Array, ""]:
                p, tried = carry
                return ~(p.norm <= jnp.sqrt(eps) * _tree.norm(b)) & ~tried

            def fall_back(carry: tuple[_Progress, Array]) -> tuple[_Progress, Array]:
                # The compiler moves what does not change out of a loop, and would
                # factorise every time: let the matrix depend on the carry.
                one = jnp.where(carry[1], jnp.nan, 1)
                p = _direct(product, b, one) if dense else _krylov(product, b)
                return p, jnp.ones((), bool)

            start = (first, jnp.zeros((), bool))
            last, _ = jax.lax.while_loop(unmet, fall_back, start)
        return _trusted(last.solution, last.norm <= eps**0.25 * _tree.norm(b))


def _direct(product: Product, b: Vector, one: Array | float = 1.0) -> _Progress:
    """Form the matrix, factorise, refine. NaN where it is singular."""
    factor = factorise(materialise(product, b, one))
    p = _refine(product, b, lambda r: factor.solve(r, False), 0.1)
    norm = jnp.where(factor.singular & (_tree.norm(b) > 0), jnp.inf, p.norm)
    return eqx.tree_at(lambda p: p.norm, p, norm)


def _krylov(product: Product, b: Vector) -> _Progress:
    """Restarted GMRES, for systems too large to form."""
    tolerance = float(jnp.finfo(_tree.working_dtype(b)).eps ** 0.7)
    solver = lx.GMRES(rtol=tolerance, atol=0.0, restart=50, max_steps=100)
    solution, _ = _run_lineax(solver, product, b)
    remainder = _tree.subtract(b, product(solution))
    return _Progress(solution, remainder, _tree.norm(remainder))


def _solve_by_lineax(solver: Any, product: Product, b: Vector) -> Vector:
    solution, successful = _run_lineax(solver, product, b)
    remainder = _tree.subtract(b, product(solution))
    # A solver's own "success" may be about a preconditioned or squared system.
    return _trusted(
        solution, successful & (_tree.norm(remainder) <= 0.1 * _tree.norm(b))
    )


def _run_lineax(solver: Any, product: Product, b: Vector) -> tuple[Vector, Array]:
    """`init` and `compute`, not `lineax.linear_solve`: that one puts a host callback
    into every gradient program, for errors that are data here."""
    structure = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), b
    )
    operator = lx.FunctionLinearOperator(product, structure)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        state = solver.init(operator, {})
        solution, result, _ = solver.compute(state, b, {})
    return solution, result == lx.RESULTS.successful


def _trusted(solution: Vector, trusted: Bool[Array, ""]) -> Vector:
    return _tree.where(trusted, solution, jax.tree.map(lambda x: x * jnp.nan, solution))
