"""How `J t = b` and `J^T u = b` are solved, with `J = dF/dy` at the solution.

One idea serves all cases: *Richardson iteration with an approximate inverse `P`*,

    t <- t + P (b - J t),

which needs only exact products with `J`, and whose residual is the true one.

- `P` from the factorisation that the last Newton step left behind: stale but nearly
  right, so two steps of what is then called iterative refinement reach full accuracy,
  and the derivative costs next to nothing.
- `P = I` for a fixed point, where `J = I - A`: this is the Neumann series, and in
  reverse mode the fixed-point adjoint `u <- b + A^T u`. It converges at the rate of
  the map itself, and matrix-free. Likewise `P = damping` after a damped iteration.
- `P` what a user's solver knows of `J^-1` (anything with `solve(b, transposed)`), or a
  linear solver of the user's, whose own word on success is about its own stopping rule
  (a preconditioned or squared system's, maybe): one round where it is right, more where
  it is not.
- Where there is nothing better, or one of the above falls behind: elimination, at the
  places of a pattern where one is known.

Every solve checks its true residual, and answers NaN when it could not be met: a
wrong derivative never leaves this file silently.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float

from implicax._core import tree_math
from implicax._core.tree_math import DENSE_LIMIT, Vector
from implicax._linear.approximate_inverse import (
    ApproximateInverse,
    ScaledIdentityInverse,
)
from implicax._linear.equilibrated import InUnits
from implicax._linear.jacobian_structure import JacobianStructure
from implicax._linear.krylov import Krylov
from implicax._linear.lu import (
    LUFactors,
    MatVec,
    augment,
    eliminate,
    factorise,
    materialize,
)
from implicax._linear.minimum_norm import MinimumNorm
from implicax._linear.run_solver import conjugate_gradients, run_solver
from implicax._linear.sparse_lu import SparseLU
from implicax._linear.sparse_matrix import SparseMatrix
from implicax._linear.sparsity import Sparsity

#: Up to here a matrix is formed and eliminated afresh: that takes 6 % of a gradient's
#: time at 100 unknowns, and spares it a third of its program (measured on CPU), ...
SMALL = 128
#: ... and up to here one that will not. (The lanes of a `vmap` iterate as long as the
#: slowest.)
TINY = 8
#: The rate of refinements with a program's factors (they are slow where it is flat).
KKT_RATE = 0.9


class Auto(eqx.Module):
    """The choice `"auto"`, as a module: a solver that holds it passes through `jit`."""

    def __repr__(self) -> str:
        return "'auto'"


def linear_solver(choice: Any) -> Any:
    """`"auto"`, a lineax solver or a callable, or an error that says so."""
    if isinstance(choice, Auto) or (isinstance(choice, str) and choice == "auto"):
        return Auto()
    ours = isinstance(choice, MinimumNorm | Krylov)
    wanted = ours or isinstance(choice, lx.AbstractLinearSolver) or callable(choice)
    if wanted and not isinstance(choice, type):
        return choice
    raise ValueError(
        "linear_solver must be 'auto', ix.Krylov(), ix.MinimumNorm(), a "
        "lineax.AbstractLinearSolver (an instance), or a function solve(matvec, b) of "
        "flat vectors, not "
        f"{choice!r}. (Tolerances go by name: ix.Newton(rtol=1e-8, atol=1e-8).)"
    )


class _Answer(eqx.Module):
    solution: Vector
    finished: Bool[Array, ""]
    """Whether nothing more is to be gained."""
    trusted: Bool[Array, ""]
    """Whether the residual is small enough to be trusted: `|b - J t| <= sqrt(eps) |b|`,
    or that of a backward stable solve."""


class _Refinement(eqx.Module):
    solution: Vector
    remainder: Vector
    bounds: Float[Array, "3"]
    """In one array (one kernel): `|r|`, the bound it must stay below to go on, and the
    bound below which it is small enough."""


def _refine(
    product: MatVec,
    b: Vector,
    approximate_inverse: MatVec,
    *,
    rate: float,
    grace: float = 1.0,
    size: Float[Array, ""] | None = None,
    start: Vector | None = None,
) -> _Answer:
    """Richardson iteration for `product(t) = b` from `t = start` (zero by default).

    It goes on while the residual falls by `rate` per step on average, so the number of
    steps is bounded by `log(tolerance) / log(rate)`; a factor of `grace` allows for the
    transient growth of non-normal maps. It is there at `|r| <= eps^0.7 |b|`; or, where
    `size = |J|` is given, at the rounding error of the product itself, `eps |J| |t|`:
    nothing improves on that (Higham, *Accuracy and Stability of Numerical Algorithms*,
    ch. 12). All in maximum norms.
    """
    eps, norm_b = tree_math.coarsest_eps(b), tree_math.max_norm(b)
    enough = eps**0.7 * norm_b

    def promising(now: _Refinement) -> Bool[Array, ""]:
        norm, ceiling, floor = now.bounds
        return (norm > floor) & (norm <= ceiling)

    def step(now: _Refinement) -> _Refinement:
        norm, ceiling, _ = now.bounds
        solution = tree_math.add(now.solution, approximate_inverse(now.remainder))
        remainder = tree_math.subtract(b, product(solution))
        ceiling = rate * jnp.minimum(ceiling, grace * norm)
        floor = enough
        if size is not None:
            floor = jnp.maximum(enough, eps * size * tree_math.max_norm(solution))
        bounds = jnp.stack([tree_math.max_norm(remainder), ceiling, floor])
        return _Refinement(solution, remainder, bounds)

    solution, remainder, norm = tree_math.zeros_like(b), b, norm_b
    if start is not None:
        solution, remainder = start, tree_math.subtract(b, product(start))
        norm = tree_math.max_norm(remainder)
    bounds = jnp.stack([norm, grace * norm, enough])
    first = _Refinement(solution, remainder, bounds)
    last = tree_math.while_loop(promising, step, first)
    norm, _, floor = last.bounds
    finished = norm <= floor
    return _Answer(last.solution, finished, finished | (norm <= eps**0.5 * norm_b))


class LinearSolve(eqx.Module):
    """The `linear_solver=` argument, with what the forward solve left for reuse.

    - `choice`: `Auto()`, `Krylov()`, `MinimumNorm()`, a lineax solver, or
      `solve(matvec, b)`.
    - `approximate_inverse`: what the solver knows of `J^-1` near the solution (or the
      Krylov method that it took), or `None`.
    - `structure`: what is known of `J`.
    - `guess`: where iterations for `J^T u = b` start, or `None`.
    """

    choice: Any
    approximate_inverse: ApproximateInverse | Krylov | None
    structure: JacobianStructure = eqx.field(static=True, default=JacobianStructure())
    guess: Vector | None = None

    def __call__(self, product: MatVec, b: Vector) -> Vector:
        """`t` with `product(t) = b`, differentiable to any order.

        `product` is linear and may be differentiated; the solution procedure is not.
        """
        return self._bind(product, b, False)

    def transposed(self, product: MatVec, b: Vector) -> Vector:
        """`u` with `product(u) = b` where `product` multiplies by `J^T`."""
        return self._bind(product, b, True)

    def adjoint(self, product: MatVec, b: Vector) -> Vector:
        """As `transposed`, without a derivative: for products that have none."""
        return self._solve(product, b, True)

    def approximately(self, product: MatVec, b: Vector, transposed: bool) -> Vector:
        """As the others, for a `b` that a singular `J` may not reach: unchecked there,
        without a derivative."""
        if isinstance(self.choice, MinimumNorm):
            return self.choice.least_squares(product, b)[0]
        return self._solve(product, b, transposed)

    def attempt(
        self, product: MatVec, b: Vector, transposed: bool
    ) -> tuple[Vector, Bool[Array, ""]]:
        """As `approximately`, and whether the system is solved: for steps, which can
        say so."""
        if isinstance(self.choice, MinimumNorm):
            t = self.choice.least_squares(product, b)[0]
            return t, jnp.isfinite(tree_math.max_norm(t))
        answer = self._answer(product, b, transposed)
        return answer.solution, answer.trusted

    def _bind(self, product: MatVec, b: Vector, transposed: bool) -> Vector:
        if len(jax.tree.leaves(b)) > 1:
            # One vector: `custom_linear_solve` has no reverse mode where a piece of `b`
            # is a constant zero, and it is where `args` do not enter those conditions.
            flat, unravel = tree_math.ravel(b)
            guess = None if self.guess is None else _flat(self.guess)
            solve = dataclasses.replace(self, guess=guess)
            t = solve._bind(lambda t: _flat(product(unravel(t))), flat, transposed)
            return unravel(t)
        return jax.lax.custom_linear_solve(
            product,
            b,
            solve=lambda product, b: self._solve(product, b, transposed),
            transpose_solve=lambda product, b: self._solve(product, b, not transposed),
        )

    def _solve(self, product: MatVec, b: Vector, transposed: bool) -> Vector:
        answer = self._answer(product, b, transposed)
        return jax.tree.map(
            lambda x: jnp.where(answer.trusted, x, jnp.nan), answer.solution
        )

    def _answer(self, product: MatVec, b: Vector, transposed: bool) -> _Answer:
        refine = functools.partial(
            _refine, product, b, start=self.guess if transposed else None
        )
        inverse = self.approximate_inverse
        if isinstance(inverse, InUnits) and isinstance(self.choice, Auto):
            return _of_program(inverse, product, b, transposed)
        if isinstance(self.choice, MinimumNorm):
            t, norm = self.choice.least_squares(product, b)
            trusted = norm <= tree_math.coarsest_eps(b) ** 0.5 * tree_math.max_norm(b)
            return _Answer(t, trusted, trusted)
        # What the solver took, where nothing is said.
        auto = isinstance(self.choice, Auto)
        solver = inverse if auto and isinstance(inverse, Krylov) else self.choice
        if isinstance(solver, Krylov):
            start = self.guess if transposed else None
            return _krylov(solver, self.structure, transposed, product, b, start=start)
        if not isinstance(solver, Auto):
            definite = self.structure.positive_definite
            return refine(lambda r: run_solver(solver, product, r, definite), rate=0.5)
        if (
            isinstance(inverse, ScaledIdentityInverse)
            and tree_math.num_unknowns(b) > TINY
        ):
            # The forward solve has shown the rate, however slow: no last resort, whose
            # compilation costs more than most solves.
            return refine(
                lambda r: inverse.solve(r, transposed), rate=0.999, grace=10.0
            )
        # Of a Hessian it will be the preconditioner.
        ours = inverse is None or isinstance(inverse, LUFactors | ScaledIdentityInverse)
        theirs = not (ours or self.structure.positive_definite)
        if tree_math.num_unknowns(b) <= SMALL and not theirs:
            return _direct(product, b)
        last_resort: Any = _direct
        if tree_math.num_unknowns(b) > DENSE_LIMIT:
            last_resort = functools.partial(
                _krylov, Krylov(), self.structure, transposed
            )
        sparsity = self.structure.sparsity
        if sparsity is not None:
            pattern = sparsity.transposed if transposed else sparsity
            last_resort = functools.partial(_sparse, pattern)
        factorised = isinstance(inverse, LUFactors | SparseLU)
        if inverse is not None and (factorised or theirs):
            assert not isinstance(inverse, Krylov)
            size = inverse.product_size if factorised else None
            solve = functools.partial(inverse.solve, transposed=transposed)
            first = refine(solve, rate=0.5, size=size)
        elif sparsity is not None and not self.structure.fixed_point:
            return last_resort(product, b)
        elif self.structure.positive_definite:
            first = refine(lambda r: conjugate_gradients(product, r, inverse), rate=0.5)
        elif self.structure.fixed_point:
            first = refine(lambda r: r, rate=0.9, grace=10.0)
        else:
            return last_resort(product, b)

        return _or_else(first, functools.partial(last_resort, product, b))


def _or_else(first: _Answer, last_resort: Callable[[Array], _Answer]) -> _Answer:
    """`first`, or where that is not finished the other."""

    # A loop of at most one round, and not a `cond`: under `vmap` a `cond` always pays
    # for both branches, a loop only if some lane needs it.
    def fall_back(answer: _Answer) -> _Answer:
        # The compiler moves what does not change out of a loop, and would factorise
        # every time: let the matrix depend on the carry. But not on the lane: many
        # right-hand sides have one matrix.
        needed = tree_math.in_any_lane(~answer.finished)
        return last_resort(jnp.where(needed, 1, jnp.nan))

    return tree_math.while_loop(lambda answer: ~answer.finished, fall_back, first)


def _of_program(
    inverse: InUnits, product: MatVec, b: Vector, transposed: bool
) -> _Answer:
    """From the factors of a program's last system, in units that give residuals one."""
    flat, unravel = tree_math.ravel(b)
    left, right = inverse.units()[:: -1 if transposed else 1]

    def scaled(t: Vector) -> Vector:
        return left * _flat(product(unravel(right * t)))

    solve = functools.partial(inverse.solve_in_units, transposed=transposed)
    how: Any = {"rate": KKT_RATE, "size": inverse.product_size}
    first = _refine(scaled, left * flat, solve, **how)
    # (The shortest one where constraints depend on each other.)
    answer = _or_else(first, functools.partial(_shortest, scaled, left * flat))
    return dataclasses.replace(answer, solution=unravel(right * answer.solution))


def _flat(x: Vector) -> Vector:
    return tree_math.ravel(x)[0]


def _direct(product: MatVec, b: Vector, one: Array | float = 1.0) -> _Answer:
    """Form the matrix (times `one`), eliminate, check."""
    flat, unravel = tree_math.ravel(b)
    matrix = materialize(product, b, one)
    if flat.size > SMALL:
        # Many right-hand sides have one matrix: let it be factorised once.
        factor = factorise(matrix)
        t = tree_math.ravel(factor.solve(b, False))[0]
        small = _backward_stable(
            (flat - matrix @ t) / factor.scale, t, flat / factor.scale
        )
        return _Answer(unravel(t), jnp.ones((), bool), small & ~factor.singular)
    augmented, scale = augment(matrix, flat)
    elimination = eliminate(augmented, scale)
    t = elimination.solution
    # The residual of the very matrix that was eliminated: where `b` is a rounding
    # error, the compiler might compute it anew elsewhere, and round differently.
    remainder = augmented @ jnp.append(-t, jnp.ones((), t.dtype))
    small = _backward_stable(remainder, t, flat / scale)
    return _Answer(unravel(t), jnp.ones((), bool), small & ~elimination.singular)


def _shortest(product: MatVec, b: Vector, one: Array | float = 1.0) -> _Answer:
    """Decompose the matrix (times `one`), and take the shortest of the solutions."""
    rcond = tree_math.num_unknowns(b) * tree_math.coarsest_eps(b)
    t, left = MinimumNorm(rcond).least_squares(_times(product, one), b)
    enough = tree_math.coarsest_eps(b) ** 0.5 * tree_math.max_norm(b)
    return _Answer(t, jnp.ones((), bool), left <= enough)


def _backward_stable(remainder: Array, t: Array, b: Array) -> Bool[Array, ""]:
    """Whether a residual is that of a good elimination, in a system whose rows are
    scaled to one: `|r| ~ n eps |t|` (Higham, ch. 9)."""
    eps = tree_math.coarsest_eps(t)
    bound = t.size * eps * tree_math.max_norm(t)
    bound = jnp.maximum(eps**0.5 * tree_math.max_norm(b), bound)
    return tree_math.max_norm(remainder) <= bound


def _times(product: MatVec, one: Array | float) -> MatVec:
    return lambda t: jax.tree.map(lambda x: x * jnp.asarray(one, x.dtype), product(t))


def _sparse(
    sparsity: Sparsity, product: MatVec, b: Vector, one: Array | float = 1.0
) -> _Answer:
    """Form the matrix at the places of its pattern (times `one`), factorise, refine."""
    # (Many right-hand sides have one matrix: no sizes are taken from theirs.)
    matrix = SparseMatrix.of(_times(product, one), tree_math.zeros_like(b), sparsity)
    factor = SparseLU.of(matrix)
    size = factor.product_size
    answer = _refine(product, b, lambda r: factor.solve(r, False), rate=0.5, size=size)
    trusted = answer.trusted & ~factor.singular
    return _Answer(answer.solution, jnp.ones((), bool), trusted)


def _krylov(
    method: Krylov,
    structure: JacobianStructure,
    transposed: bool,
    product: MatVec,
    b: Vector,
    one: Array | float = 1.0,
    start: Vector | None = None,
) -> _Answer:
    """By iteration alone, for systems too large to form."""
    system = method.prepare(product, b, structure, transposed)
    tolerance = tree_math.coarsest_eps(b) ** 0.7
    b = jax.tree.map(lambda x: x * jnp.asarray(one, x.dtype), b)
    answer = _refine(
        product, b, lambda r: system.solve(r, tolerance)[0], rate=0.5, start=start
    )
    return _Answer(answer.solution, jnp.ones((), bool), answer.trusted & system.there)
