"""Newton's method, with a line search."""

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from implicax._core import componentwise, tree_math
from implicax._core.solution import Status
from implicax._core.tree_math import DENSE_LIMIT, Vector
from implicax._linear.linear_solve import Auto, LinearSolve, linear_solver
from implicax._linear.lu import (
    Elimination,
    LUFactors,
    augment,
    eliminate,
    no_elimination,
    row_scale,
)
from implicax._problems.equations import Iterate, System
from implicax._solvers.base import NEAR, AbstractSolver, State, tolerance
from implicax._solvers.line_search import Trial, backtrack
from implicax._solvers.termination import (
    FLOOR,
    believable,
    corrections,
    halved,
    magnitude,
    rounded,
    to_own,
)

#: Full steps taken against the line search.
MAX_LEAPS = 10
#: A leap to a residual this much above the first one (and the unknown) leads nowhere.
LONGEST_LEAP = 1e8
#: Steps shorter than an eighth in a row after which the search is overruled: it creeps.
#: (Along Rosenbrock's valley 60 of them lead to the solution.)
CREEPING = 64
#: From a point with a singular Jacobian, a move of each unknown by up to this fraction.
ESCAPE = 0.05
#: Steps in a row in which the corrections did not fall by a tenth: at the rounding of
#: `fn` itself.
IDLE = 3
#: Corrections of a regular solution fall faster and faster. These many in a row that
#: fall by no more than to `LINEAR` of the last, to the very end, are those of a
#: singular one (to a half of the last: Decker, Keller & Kelley 1983).
SLOW, LINEAR = 4, 0.4
#: There the Jacobian falls with the corrections, so that each is at least twice as long
#: as the last Jacobian had it. (With a derivative that is wrong, it does not.)
LONGER = 1.5


class _Left(eqx.Module):
    """What is left of a correction at the point that it leads to: the largest of each,
    in one array (a kernel each otherwise)."""

    numbers: Float[Array, "6"]

    @classmethod
    def entry(cls, *row: Array) -> "_Left":
        return cls(jnp.stack(jax.lax.stop_gradient(row)))

    @property
    def correction(self) -> Float[Array, ""]:
        """The correction, relative to the unknowns before or after it, ..."""
        return self.numbers[0]

    @property
    def remainder(self) -> Float[Array, ""]:
        """... and what is left of it, likewise."""
        return self.numbers[1]

    @property
    def units(self) -> Float[Array, ""]:
        """What is left, in units of what is allowed, ..."""
        return self.numbers[2]

    @property
    def error(self) -> Float[Array, ""]:
        """... and relative to the unknowns."""
        return self.numbers[3]

    @property
    def moved(self) -> Float[Array, ""]:
        """The correction, relative to the largest unknowns on the way (the solution may
        be zero), ..."""
        return self.numbers[4]

    @property
    def left(self) -> Float[Array, ""]:
        """... and what is left of it, likewise."""
        return self.numbers[5]


class _Books(eqx.Module):
    """Numbers of Newton's own, in two arrays. (Of eight a compiler makes one kernel, of
    twelve twelve.)"""

    left: _Left
    counts: Float[Array, "7"]

    @classmethod
    def entry(cls, left: _Left, *counts: Array) -> "_Books":
        dtype = left.numbers.dtype
        return cls(left, jnp.stack([count.astype(dtype) for count in counts]))

    @classmethod
    def empty(cls, dtype: Any) -> "_Books":
        inf, zero = jnp.full((), jnp.inf, dtype), jnp.zeros((), dtype)
        left = _Left.entry(inf, inf, inf, inf, inf, inf)
        return cls.entry(left, zero, zero, inf, zero, zero, zero, zero)

    @property
    def trusted(self) -> Bool[Array, ""]:
        """Whether what is left is the error, ..."""
        return self.counts[0] > 0

    @property
    def rounded(self) -> Bool[Array, ""]:
        """... or only rounding errors are left."""
        return self.counts[1] > 0

    @property
    def least(self) -> Float[Array, ""]:
        """The smallest correction, ..."""
        return self.counts[2]

    @property
    def idle(self) -> Float[Array, ""]:
        """... and the steps since then."""
        return self.counts[3]

    @property
    def slow(self) -> Float[Array, ""]:
        """Steps in a row of linear convergence."""
        return self.counts[4]

    @property
    def leaps(self) -> Float[Array, ""]:
        return self.counts[5]

    @property
    def creeping(self) -> Float[Array, ""]:
        """Short steps in a row."""
        return self.counts[6]

    @property
    def there(self) -> Bool[Array, ""]:
        """Whether the estimated error is small, or only rounding is left, ..."""
        return self.trusted & (self.left.units <= 1) | self.rounded

    @property
    def degenerate(self) -> Bool[Array, ""]:
        """... at a singular solution."""
        return self.there & (self.slow >= SLOW)


class _Memory(eqx.Module):
    elimination: Elimination | None
    units: Vector
    """What each equation is measured by: the largest entry of its row of `dF/dy` at the
    initial guess. So the units of equations do not matter."""
    books: _Books
    unsolved: Bool[Array, ""]
    """Whether the linear system of the last step could not be solved."""


class Newton(AbstractSolver):
    """Newton's method with a backtracking line search.

    Each step solves `J d = -F` with the Jacobian `J = dF/dy` and moves to `y + t d`.
    Quadratic convergence near a solution with invertible `J` (Kantorovich 1948;
    Deuflhard, *Newton Methods for Nonlinear Problems*, thm 2.1), contraction or not.
    The derivative reuses the last factorisation.

    **Arguments:**

    - `linear_solver`: `"auto"` forms `J` and factorises it up to 4096 real unknowns and
      uses matrix-free GMRES beyond; or any `lineax.AbstractLinearSolver`, for example
      `lx.GMRES(rtol=1e-6, atol=1e-6)`; or [`implicax.MinimumNorm`][], for singular
      systems.
    - `line_search`: halve `t` until the residual falls; where no length makes it fall
      (a local minimum of `|F|` that is no root), take the full step, up to ten times.
      `False` always takes `t = 1`.
    - `rtol`, `atol`, `record_history`: see [`implicax.AbstractSolver`][].

    ```python
    import implicax as ix

    solution = ix.root(lambda y, a: y**3 + y - a, 1.0, 10.0, solver=ix.Newton())
    print(f"{solution.value:.4f}")
    ```
    ```text
    2.0000
    ```
    """

    linear_solver: Any = eqx.field(converter=linear_solver, default="auto")
    line_search: bool = eqx.field(static=True, default=True)
    rtol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    atol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    record_history: bool = eqx.field(static=True, default=False)

    precision: ClassVar[float] = 0.8
    exact: ClassVar[bool] = True

    def _dense(self, y: Vector) -> bool:
        auto = isinstance(self.linear_solver, Auto)
        return auto and tree_math.num_unknowns(y) <= DENSE_LIMIT

    def init(self, system: System, y: Vector) -> State:
        dtype, elimination = tree_math.working_dtype(y), None
        units = jax.tree.map(jnp.ones_like, y)
        if self._dense(y):
            elimination = no_elimination(y)
            _, unravel = tree_math.ravel(y)
            units = unravel(_row_norms(system.jacobian(y)))
        books, solved = _Books.empty(dtype), jnp.zeros((), bool)
        return State.start(system, y, _Memory(elimination, units, books, solved))

    def step(self, system: System, state: State) -> State:
        iterate, old = state.iterate, state.memory.books
        elimination = factor = rows = None
        if self._dense(iterate.y):
            flat, unravel = tree_math.ravel(iterate.residual)
            matrix = system.jacobian(iterate.y)
            elimination = eliminate(*augment(matrix, flat))
            correction = unravel(elimination.solution)
            factor = jax.lax.stop_gradient(elimination.factor)
            rows = jax.lax.stop_gradient(matrix)
        elif system.reverse_only:
            raise TypeError(
                "fn has a VJP only (a jax.custom_vjp), and matrix-free Newton needs "
                "Jacobian-vector products. Use ix.Anderson or ix.Broyden, or give fn a "
                "jax.custom_jvp."
            )
        else:
            _, product = jax.linearize(system.residual, iterate.y)
            solve = LinearSolve(self.linear_solver, None, system.structure)
            correction = solve.approximately(product, iterate.residual, False)
        direction = jax.tree.map(jnp.negative, correction)
        delta, y = jax.lax.stop_gradient((correction, iterate.y))
        now, moved = componentwise.ratios(
            to_own(delta, y, state.reach), (delta, state.reach)
        )
        inf = jnp.full_like(now, jnp.inf)
        nothing = _Left.entry(now, now, inf, inf, moved, inf)

        def look(new: Iterate) -> tuple[_Left, Bool[Array, ""]]:
            """What is left of the correction at `new`, and whether that is little."""
            if factor is None:
                # The rate of the corrections tells.
                before = old.left.correction
                rate = jnp.where(jnp.isfinite(before), now / before, 1)
                rate = jnp.minimum(jnp.where(now == 0, 0, rate), 1)
                remainder = tree_math.scaled(rate, delta)
            else:
                residual = jax.lax.stop_gradient(new.residual)
                remainder = factor.solve(residual, transposed=False)
            reach = componentwise.grown(state.reach, new.y)
            found = componentwise.ratios(
                *corrections(y, delta, new.y, remainder, reach),
                self.tolerance.to_allowed(remainder, new.y, reach),
                to_own(remainder, new.y, reach),
                (delta, reach),
                (remainder, reach),
            )
            left = _Left.entry(*found)
            falls = halved(left.correction, left.remainder)
            little = falls | (left.units <= 1) | self.absolute(new)
            return left, little & (factor is not None)

        unsolved = ~jnp.isfinite(tree_math.max_norm(delta)) & jnp.isfinite(iterate.norm)
        singular = unsolved if elimination is None else unsolved | elimination.singular
        units, forced = state.memory.units, old.creeping >= CREEPING
        if self.line_search:
            # Out of a local minimum of |F|: by the full step, or else by a little one.
            little = singular | (jnp.mod(old.leaps, 2) == 1)
            leap = tree_math.where(
                little, _displaced(y, old.leaps), tree_math.subtract(y, delta)
            )
            if rows is not None:
                units = tree_math.ravel(iterate.residual)[1](_row_norms(rows))
            trial = backtrack(
                system, iterate, direction, units, look, nothing, leap, forced
            )
        else:
            new = system.evaluate(tree_math.add(iterate.y, direction))
            one, no = jnp.ones((), jnp.int32), jnp.zeros((), bool)
            trial = Trial(one.astype(iterate.norm.dtype), new, look(new)[0], one, no)
        rejected = trial.rejected
        # A leap that leads nowhere is not taken.
        trial = tree_math.where(
            rejected & self._too_far(state, trial.iterate),
            dataclasses.replace(trial, iterate=iterate, found=nothing),
            trial,
        )
        new = trial.iterate
        books = self._entry(old, trial, rows)
        memory = _Memory(elimination, state.memory.units, books, unsolved)
        moved = state.moved(new, memory, trial.evaluations, rejected)
        hopeless = books.leaps > MAX_LEAPS
        if elimination is None:
            hopeless = hopeless | unsolved
        halted = (rejected & hopeless) | books.degenerate
        if not self.line_search:
            halted = halted | unsolved
        return dataclasses.replace(moved, halted=halted)

    def _entry(
        self, old: _Books, trial: Trial, matrix: Float[Array, "n n"] | None
    ) -> _Books:
        """What a step has shown; `matrix` is the Jacobian where it began."""
        new, left = jax.lax.stop_gradient(trial.iterate), trial.found
        eps, exact = tree_math.coarsest_eps(new.y), new.norm == 0
        # Rounding: of each equation; or the corrections have ceased to fall.
        measure = jnp.maximum(left.correction, left.remainder)
        fell = measure < 0.9 * old.least
        idle = jnp.where(fell, 0, old.idle + 1)
        floor = (idle >= IDLE) & (measure <= eps**FLOOR)
        if matrix is not None:
            rows = magnitude(matrix, new.y)
            floor = floor | rounded(new.residual, new.y, rows)
        full = (trial.length == 1) & ~trial.rejected
        linear = (left.moved >= LINEAR * old.left.moved) & (left.moved <= eps**NEAR)
        linear = full & ~exact & linear & (left.moved >= LONGER * old.left.left)
        short = (trial.length < 1 / 8) & ~trial.rejected
        overruled = trial.rejected | (old.creeping >= CREEPING)
        return _Books.entry(
            left,
            believable(left.correction, left.remainder, eps),
            floor,
            jnp.minimum(measure, old.least),
            idle,
            jnp.where(linear, old.slow + 1, 0),
            old.leaps + overruled.astype(old.leaps.dtype),
            jnp.where(short, old.creeping + 1, 0),
        )

    def _too_far(self, state: State, iterate: Iterate) -> Bool[Array, ""]:
        start = state.first_norm + state.first_size
        return ~(iterate.norm <= LONGEST_LEAP * start)

    def converged(self, state: State) -> Bool[Array, ""]:
        iterate, books = state.iterate, state.memory.books
        there = books.there & ~books.degenerate & jnp.isfinite(iterate.norm)
        return there | (iterate.norm == 0) | self.absolute(iterate)

    def error(self, state: State) -> Float[Array, ""]:
        books, exact = state.memory.books, state.iterate.norm == 0
        error = jnp.where(books.trusted, books.left.error, jnp.inf)
        return jnp.where(exact, 0, error)

    def measure(self, state: State) -> Float[Array, ""]:
        residual = jax.lax.stop_gradient(state.iterate.residual)
        return tree_math.max_norm(
            jax.tree.map(lambda r, unit: r / unit, residual, state.memory.units)
        )

    def failure_reason(self, state: State) -> Status:
        memory = state.memory
        status = Status.stagnated
        if memory.elimination is None:
            status = Status.where(memory.unsolved, Status.linear_solve_failed, status)
        else:
            singular = memory.elimination.singular
            status = Status.where(singular, Status.singular, status)
        return Status.where(memory.books.degenerate, Status.degenerate, status)

    def approximate_inverse(self, state: State) -> LUFactors | None:
        elimination = state.memory.elimination
        return None if elimination is None else elimination.factor


def _row_norms(matrix: Float[Array, "n n"]) -> Float[Array, " n"]:
    """The Euclidean norm of each row; one where that is no unit."""
    matrix = jax.lax.stop_gradient(matrix)
    largest = row_scale(matrix)
    norms = largest * jnp.linalg.norm(matrix / largest[:, None], axis=1)
    usable = jnp.isfinite(norms) & (largest > jnp.finfo(norms.dtype).tiny)
    return jnp.where(usable, norms, 1)


def _displaced(y: Vector, count: Array) -> Vector:
    """A point near `y`, each unknown moved differently, and each time."""

    def displace(leaf: Array) -> Array:
        index = jnp.arange(1, leaf.size + 1, dtype=leaf.dtype).reshape(leaf.shape)
        # The golden ratio's multiples spread evenly (Knuth, TAOCP 3, sec. 6.4).
        place = jnp.mod((index + count.astype(leaf.dtype)) * 0.6180339887, 1.0)
        size = jnp.where(leaf == 0, 1, jnp.abs(leaf))
        return leaf + ESCAPE * size * (2 * place - 1)

    return jax.tree.map(displace, y)
