"""The derivative of a solution by the implicit function theorem: exact."""

from typing import Any, Literal

import equinox as eqx
import jax
from jaxtyping import Array, PyTree

from implicax._derivatives.base import AbstractDerivative
from implicax._derivatives.implicit_rule import Linearize, attach, attach_objective
from implicax._linear.linear_solve import LinearSolve, linear_solver
from implicax._problems.optimality_conditions import OptimalityConditions
from implicax._solvers.loop import SolverResult

Hessian = Literal["exact", "gauss_newton"]
Kinks = Literal["select", "error"]


def check_hessian(hessian: Any) -> None:
    if hessian not in ("exact", "gauss_newton"):
        raise ValueError(f"hessian must be 'exact' or 'gauss_newton', not {hessian!r}.")


def linearization(conditions: OptimalityConditions, hessian: Hessian) -> Linearize:
    """Multiplication by `dF/dy`, or by the Gauss-Newton matrix in its place."""
    if hessian == "exact":
        return conditions.linearize
    if not conditions.has_errors:
        raise TypeError(
            "hessian='gauss_newton' is for ix.least_squares and ix.LeastSquares: there "
            "are no errors here whose squares are summed. Leave it out."
        )
    return conditions.gauss_newton


class Implicit(AbstractDerivative):
    """The implicit function theorem: exact, every order, memory free of the iterations.

    Of a minimum it uses the exact Hessian; the derivative of the minimum *value*,
    `solution.objective`, takes no linear solve (the envelope theorem).

    **Arguments:**

    - `linear_solver`: `"auto"`, any `lineax.AbstractLinearSolver`, or a function
      `solve(matvec, b)` of flat vectors (what it gets wrong is refined). `"auto"`
      iterates the linearised map after Picard; forms the Jacobian and eliminates up to
      128 real unknowns; else reuses the solver's factorisation where it left one
      (Newton, Chord), or iterates the linearised map of a fixed point; and falls back
      on elimination (up to 4096 real unknowns) or GMRES. It checks the true residual
      each time, and gives NaN rather than a wrong derivative.
    - `adjoint`: where iterations for the adjoint start in reverse mode, with the
      structure of `y`: the `adjoint` of the last [`implicax.Certificate`][], say, in a
      loop whose `args` change little. It changes the time, not the derivative.
    - `hessian`: `"exact"`, or, for least squares, `"gauss_newton"`: only the part that
      holds first derivatives of the errors. That derivative is *wrong* unless the
      errors at the solution are zero (4 % to 21 % in range-only localisation);
      `ix.certify(..., hessian="gauss_newton")` says by how much.
    - `kinks`: what to do where a constraint acts with a multiplier of zero, or a
      proximal operator has a kink, so that there is no derivative (where
      `solution.degeneracy.weak` is told): `"select"` the one-sided derivative of not
      acting, or `"error"`: the status is then `kink`, a failure like others.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp

    def cosine(a):
        solver, derivative = ix.Picard(), ix.Implicit()
        return ix.fixed_point(
            lambda y, a: jnp.cos(a * y), 0.5, a, solver=solver, derivative=derivative
        ).value

    print(f"{jax.grad(cosine)(1.0):.3f}")  # exactly: -0.297
    ```
    ```text
    -0.297
    ```
    """

    linear_solver: Any = eqx.field(converter=linear_solver, default="auto")
    adjoint: PyTree[Array] | None = None
    hessian: Hessian = eqx.field(static=True, default="exact")
    kinks: Kinks = eqx.field(static=True, default="select")

    def __check_init__(self):
        check_hessian(self.hessian)
        if self.kinks not in ("select", "error"):
            raise ValueError(f"kinks must be 'select' or 'error', not {self.kinks!r}.")

    def on(self, view):
        if self.adjoint is None:
            return self
        guess = jax.lax.stop_gradient(view.to_real(self.adjoint))
        return Implicit(self.linear_solver, guess, self.hessian, self.kinks)

    def _solve(
        self, conditions: OptimalityConditions, outcome: SolverResult
    ) -> LinearSolve:
        structure = conditions.structure
        return LinearSolve(
            self.linear_solver, outcome.approximate_inverse, structure, self.adjoint
        )

    def attach(self, conditions, solver, outcome, inputs):
        return attach(
            conditions,
            self._solve(conditions, outcome),
            outcome.y,
            inputs,
            linearization(conditions, self.hessian),
        )

    def attach_objective(self, conditions, y, outcome, inputs):
        solve = self._solve(conditions, outcome)
        return attach_objective(conditions, solve, outcome.y, inputs)
