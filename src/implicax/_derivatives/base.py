"""How a solution is differentiated: exactly, or by one of the known approximations.

Only `Implicit` is exact to all orders. The others are here because the literature
compares with them; `ix.certify` tells what an approximation costs in accuracy.
"""

import abc
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
from jaxtyping import Array, Float, PyTree

from implicax._core import tree_math
from implicax._core.domain import View
from implicax._core.tree_math import Vector
from implicax._derivatives.implicit_rule import Linearize, attach, attach_objective
from implicax._linear.linear_solve import LinearSolve, linear_solver
from implicax._linear.lu import MatVec
from implicax._problems.equations import System
from implicax._problems.optimality_conditions import OptimalityConditions
from implicax._solvers.base import AbstractSolver, fraction
from implicax._solvers.loop import SolverResult
from implicax._solvers.picard import Picard

Hessian = Literal["exact", "gauss_newton"]


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


class AbstractDerivative(eqx.Module):
    """Base of the `derivative=` choices."""

    #: Whether the solver's own loop is to be differentiated.
    differentiates_loop: ClassVar[bool] = False
    #: Whether steps of the solver are taken at the solution.
    uses_solver_steps: ClassVar[bool] = False

    def on(self, view: View) -> "AbstractDerivative":
        """The same on the real view of the unknown."""
        del view
        return self

    @abc.abstractmethod
    def attach(
        self,
        conditions: OptimalityConditions,
        solver: AbstractSolver,
        outcome: SolverResult,
        inputs: PyTree[Array],
    ) -> Vector:
        """`outcome.y`, unchanged in value, with its derivative in `inputs`."""

    def attach_objective(
        self,
        conditions: OptimalityConditions,
        y: Vector,
        outcome: SolverResult,
        inputs: PyTree[Array],
    ) -> Float[Array, ""]:
        """The objective at the minimum `y`, which has been attached to."""
        del outcome
        return conditions.objective(y, inputs)


class Implicit(AbstractDerivative):
    """The implicit function theorem: exact, every order, memory free of the iterations.

    Of a minimum it uses the exact Hessian; the derivative of the minimum *value*,
    `solution.objective`, takes no linear solve (the envelope theorem).

    **Arguments:**

    - `linear_solver`: `"auto"`, any `lineax.AbstractLinearSolver`, or a function
      `solve(matvec, b)` of flat vectors (what it gets wrong is refined). `"auto"`
      iterates the linearised map after Picard; forms the Jacobian and eliminates up to
      40 real unknowns; else reuses the solver's factorisation where it left one
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
    """

    linear_solver: Any = eqx.field(converter=linear_solver, default="auto")
    adjoint: PyTree[Array] | None = None
    hessian: Hessian = eqx.field(static=True, default="exact")

    def __check_init__(self):
        check_hessian(self.hessian)

    def on(self, view):
        if self.adjoint is None:
            return self
        guess = jax.lax.stop_gradient(view.to_real(self.adjoint))
        return Implicit(self.linear_solver, guess, self.hessian)

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


class Neumann(AbstractDerivative):
    """The theorem with `J^-1` replaced by `terms` terms of its Neumann series.

    `sum_{k < terms} A^k` with `A = I - J`: cheap, and wrong by about the spectral
    radius of `A` to the power `terms` (Lorraine, Vicol & Duvenaud 2020, eq. 8).
    """

    terms: int = eqx.field(static=True)

    def __check_init__(self):
        _check_count("terms", self.terms)

    def attach(self, conditions, solver, outcome, inputs):
        return attach(conditions, _Series(self.terms), outcome.y, inputs)


class _Series(eqx.Module):
    """`sum_{k < terms} (I - J)^k b`, or the same with the transpose."""

    terms: int = eqx.field(static=True)

    def __call__(self, product: MatVec, b: Vector) -> Vector:
        def term(t: Vector, _: None) -> tuple[Vector, None]:
            # t <- b + A t
            return tree_math.add(b, tree_math.subtract(t, product(t))), None

        return jax.lax.scan(term, b, None, length=self.terms - 1)[0]

    def adjoint(self, product: MatVec, b: Vector) -> Vector:
        return self(product, b)


class Unrolled(AbstractDerivative):
    """Differentiate the iterations themselves.

    Exact for the iterate that was computed (not for the solution); memory and time grow
    with `max_steps`. First and second order, forward and reverse.
    """

    differentiates_loop: ClassVar[bool] = True

    def attach(self, conditions, solver, outcome, inputs):
        return outcome.y


class Truncated(AbstractDerivative):
    """Differentiate only the last `steps` steps of the solver (Shaban et al. 2019).

    They are taken at the solution, each from a fresh start of the solver: so Anderson
    and Broyden contribute their plain step, and Newton a full one. For Picard the error
    is about the spectral radius to the power `steps`.
    """

    uses_solver_steps: ClassVar[bool] = True

    steps: int = eqx.field(static=True)

    def __check_init__(self):
        _check_count("steps", self.steps)

    def attach(self, conditions, solver, outcome, inputs):
        return _last_steps(solver, self.steps, conditions, outcome.y, inputs)


class OneStep(AbstractDerivative):
    """Differentiate one step of the solver at the solution (Bolte et al. 2023).

    Exact, in first order, for Newton; wrong by about the rate of convergence for
    linearly convergent solvers.
    """

    uses_solver_steps: ClassVar[bool] = True

    def attach(self, conditions, solver, outcome, inputs):
        return _last_steps(solver, 1, conditions, outcome.y, inputs)


class Phantom(AbstractDerivative):
    """Differentiate `steps` damped fixed-point steps at the solution (Geng et al.
    2021).

    `y <- (1 - damping) y + damping f(y)`, whatever the solver was; for roots,
    `f(y) = y - F(y)`.
    """

    steps: int = eqx.field(static=True)
    damping: Float[Array, ""] = eqx.field(converter=fraction("damping"))

    def __check_init__(self):
        _check_count("steps", self.steps)

    def attach(self, conditions, solver, outcome, inputs):
        picard = Picard(damping=self.damping)
        return _last_steps(picard, self.steps, conditions, outcome.y, inputs)


def _last_steps(
    solver: AbstractSolver,
    steps: int,
    conditions: OptimalityConditions,
    y: Vector,
    inputs: PyTree[Array],
) -> Vector:
    """`y` with the derivative of `steps` solver steps taken from it."""
    system = System.of(conditions, inputs, differentiable=True)

    def step(v: Vector, _: None) -> tuple[Vector, None]:
        return solver.step(system, solver.init(system, v)).iterate.y, None

    last, _ = jax.lax.scan(step, y, None, length=steps)
    # Zero in value, so that the solution stays what the solver said it is.
    change = tree_math.subtract(last, jax.lax.stop_gradient(last))
    return tree_math.add(y, change)


def _check_count(name: str, count: Any) -> None:
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"{name} must be a positive integer, not {count!r}.")
