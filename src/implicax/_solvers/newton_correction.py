"""Newton's correction `J^-1 F`: by a matrix, by a sparse one, or by products alone."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from implicax._core import componentwise, tree_math
from implicax._core.tree_math import DENSE_LIMIT, Vector
from implicax._linear.krylov import Krylov
from implicax._linear.linear_solve import Auto, LinearSolve
from implicax._linear.lu import (
    Elimination,
    LUFactors,
    augment,
    eliminate,
    no_elimination,
)
from implicax._linear.matrix import Matrix
from implicax._linear.sparse_lu import SparseElimination, SparseLU
from implicax._problems.equations import Iterate, System
from implicax._solvers.forcing import MOST, Forcing
from implicax._solvers.residual_noise import lost_in_noise
from implicax._solvers.termination import SETTLED, STRAIGHT, Pair, Tolerance, relative


class Correction(eqx.Module):
    """What one linear system of Newton's method leaves behind."""

    correction: Vector
    matrix: Matrix | None = None
    """`J`, where it is formed; ..."""
    elimination: Elimination | SparseElimination | None = None
    factor: LUFactors | SparseLU | None = None
    """... its factors, for other right-hand sides, and ..."""
    rows: Matrix | None = None
    """... itself, both without a derivative."""
    forcing: Forcing | None = None
    reached: Float[Array, ""] | None = None
    """Of an iteration: what was asked of it, and what it got to; ..."""
    made_of: Vector | None = None
    """... what each equation is made of, ..."""
    norm: Float[Array, ""] | None = None
    """... and the Euclidean norm of the residual, relative to that."""

    def remainder(
        self, y: Vector, reach: Vector, new: Iterate, before: Array
    ) -> Vector:
        """What is left of the correction of `y` at the point that it leads to: with the
        factors at hand; or else as its rate tells, or that of all corrections, `before`
        being the size of the last."""
        residual = jax.lax.stop_gradient(new.residual)
        if self.factor is not None:
            return self.factor.solve(residual, transposed=False)
        delta = jax.lax.stop_gradient(self.correction)
        now, rate = relative(delta, y, reach), self.rate(residual)
        if rate is None:
            rate = jnp.where(jnp.isfinite(before), now / before, 1)
        rate = jnp.minimum(jnp.where(now == 0, 0, rate), 1)
        return tree_math.scaled(rate, delta)

    def bent(self, expected: Vector, y: Vector) -> Pair:
        """How the correction of `y` differs from what was left of the one before, and
        what a Jacobian that stays the same makes of it: along the corrections, which is
        where it matters. (Less than the last digits of `y` says nothing.)"""
        delta = jax.lax.stop_gradient(self.correction)
        if self.factor is None:
            return jax.tree.map(lambda d: jnp.full_like(d, jnp.inf), delta), delta

        def change(delta: Array, expected: Array, y: Array) -> tuple[Array, Array]:
            size = jnp.maximum(jnp.abs(delta), jnp.abs(expected))
            nothing = size <= componentwise.eps(y) * jnp.abs(y)
            return jnp.where(nothing, 0, delta - expected), STRAIGHT * size

        pairs = jax.tree.map(change, delta, expected, y)
        return jax.tree.transpose(jax.tree.structure(y), None, pairs)

    def rate(self, residual: Vector) -> Float[Array, ""] | None:
        """What is left of the correction at the point that it led to, as far as an
        iteration tells: by how much the residual fell, and how well it was solved."""
        if self.made_of is None or self.norm is None or self.reached is None:
            return None
        norm = _relative_norm(jax.lax.stop_gradient(residual), self.made_of)
        fell = norm / jnp.where(self.norm > 0, self.norm, 1)
        return jnp.maximum(jnp.where(jnp.isfinite(fell), fell, 1), self.reached)

    @property
    def missed(self) -> Bool[Array, ""]:
        """Whether an iteration got to less than was asked of it."""
        if self.forcing is None or self.reached is None:
            return jnp.zeros((), bool)
        return ~(self.reached <= 10 * self.forcing.rtol)

    def judged(
        self, system: System, new: Iterate, tolerance: Tolerance, idle: Array
    ) -> tuple[Forcing | None, Int[Array, ""]]:
        """What was asked of an iteration, and whether the correction may be believed at
        the point that it led to: some equations may be left to themselves. Where it is
        not the first that did not fall (`idle`), whether that is for rounding errors;
        and the evaluations that this took."""
        if self.forcing is None or self.reached is None or self.made_of is None:
            return None, jnp.zeros((), jnp.int32)
        units = tolerance.units(new.residual, self.made_of, self.made_of)
        held = (units <= 1) & self.forcing.met(self.reached)
        lost, spent = lost_in_noise(system, new, idle >= 1)
        return dataclasses.replace(self.forcing, held=held, lost=lost), spent


def method_of(choice: Any, system: System, y: Vector) -> Krylov | None:
    """The Krylov method that solves the linear systems, where it is one."""
    if isinstance(choice, Krylov):
        return choice
    many = tree_math.num_unknowns(y) > DENSE_LIMIT and system.sparsity is None
    return Krylov() if isinstance(choice, Auto) and many else None


def at_start(
    choice: Any, system: System, y: Vector
) -> tuple[Matrix | None, Elimination | SparseElimination | None]:
    """The Jacobian at the start, where it is formed, and a placeholder for what its
    elimination will leave."""
    if not isinstance(choice, Auto):
        return None, None
    if system.sparsity is not None:
        dtype = tree_math.working_dtype(y)
        placeholder = SparseElimination.none(system.sparsity, dtype)
        return system.sparse_jacobian(y), placeholder
    if tree_math.num_unknowns(y) <= DENSE_LIMIT:
        return system.jacobian(y), no_elimination(y)
    return None, None


def correct(
    choice: Any,
    system: System,
    iterate: Iterate,
    reach: Vector,
    forcing: Forcing | None,
    moved: Array,
) -> Correction:
    """`J^-1 F` at an iterate, by the linear solver that was chosen.

    `reach`: the largest that each unknown was on the way; `moved`: by what part of
    themselves the last correction moved them.
    """
    flat, unravel = tree_math.ravel(iterate.residual)
    auto = isinstance(choice, Auto)
    if auto and system.sparsity is not None:
        _refuse_derivatives(system, "a sparse factorisation", "leave sparsity= out")
        matrix = system.sparse_jacobian(iterate.y)
        elimination = SparseElimination.of(matrix, iterate.residual)
        known = elimination.factor, matrix
        return Correction(unravel(elimination.solution), matrix, elimination, *known)
    if auto and tree_math.num_unknowns(iterate.y) <= DENSE_LIMIT:
        matrix = system.jacobian(iterate.y)
        elimination = eliminate(*augment(matrix, flat))
        known = jax.lax.stop_gradient((elimination.factor, matrix))
        return Correction(unravel(elimination.solution), matrix, elimination, *known)
    if system.reverse_only:
        raise TypeError(
            "fn has a VJP only (a jax.custom_vjp), and matrix-free Newton needs "
            "Jacobian-vector products. Use ix.Anderson or ix.Broyden, or give fn a "
            "jax.custom_jvp."
        )
    _, product = jax.linearize(system.residual, iterate.y)
    method = method_of(choice, system, iterate.y)
    if method is None or forcing is None:
        solve = LinearSolve(choice, None, system.structure)
        return Correction(solve.approximately(product, iterate.residual, False))
    _refuse_derivatives(system, "a Krylov method", "have fewer unknowns")
    forcing, b = forcing.next(iterate.residual, moved), iterate.residual
    unit = jax.tree.map(lambda x: jnp.where(x == 0, 1, x), reach)
    size = jax.tree.map(_size, iterate.y, unit)
    prepared = method.prepare(product, b, system.structure, False, size, unit)
    correction, reached = prepared.solve(b, forcing.rtol)
    # A direction along which the residual does not fall is none.
    correction = tree_math.where(reached <= MOST, correction, _nan_like(correction))
    return Correction(
        correction,
        forcing=forcing,
        reached=reached,
        made_of=prepared.rows,
        norm=_relative_norm(b, prepared.rows),
    )


def _size(y: Array, unit: Array) -> Array:
    """Of an unknown: one that has fallen to that is zero."""
    settled = jnp.finfo(y.dtype).eps ** SETTLED * unit
    return jnp.where(y == 0, unit, jnp.maximum(jnp.abs(y), settled))


def _relative_norm(residual: Vector, made_of: Vector) -> Float[Array, ""]:
    return tree_math.two_norm(jax.tree.map(jnp.divide, residual, made_of))


def _refuse_derivatives(system: System, what: str, instead: str) -> None:
    if system.differentiable:
        raise TypeError(
            f"Derivatives do not flow through {what}: take ix.Implicit(), the default, "
            f"or {instead}."
        )


def _nan_like(v: Vector) -> Vector:
    return jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), v)
