"""Newton's method, with a line search."""

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from implicax._core import componentwise, tree_math
from implicax._core.solution import Status
from implicax._core.tree_math import Vector
from implicax._linear.krylov import Krylov
from implicax._linear.linear_solve import linear_solver
from implicax._linear.lu import Elimination, LUFactors
from implicax._linear.matrix import magnitude, num_terms, row_units
from implicax._linear.sparse_lu import SparseElimination, SparseLU
from implicax._problems.equations import Iterate, System
from implicax._solvers.base import NEAR, AbstractSolver, State, tolerance
from implicax._solvers.damped_step import Damping
from implicax._solvers.escape import displaced
from implicax._solvers.forcing import Forcing
from implicax._solvers.line_search import Numbers, Trial, backtrack
from implicax._solvers.newton_books import LINEAR, Books, Counts, Left
from implicax._solvers.newton_correction import (
    Correction,
    at_start,
    correct,
    method_of,
)
from implicax._solvers.termination import (
    FLOOR,
    believable,
    corrections,
    halved,
    rounded,
    to_own,
    visible,
)

#: Full steps taken against the line search.
MAX_LEAPS = 10
#: A leap to a residual this much above the first one (and the unknown) leads nowhere.
LONGEST_LEAP = 1e8
#: Steps shorter than an eighth in a row after which the search is overruled: it creeps.
#: (Along Rosenbrock's valley 60 of them lead to the solution.)
CREEPING = 64
#: Up to so many real unknowns there are damped steps.
DAMPED = 512
#: Steps in a row in which the corrections did not fall by a tenth: at the rounding of
#: `fn` itself.
IDLE = 3
#: Terms of an equation, at least, whose sizes are not known one by one.
FEW = 4
#: There the Jacobian falls with the corrections, so that each is at least twice as long
#: as the last Jacobian had it. (With a derivative that is wrong, it does not.)
LONGER = 1.5


class _Memory(eqx.Module):
    elimination: Elimination | SparseElimination | None
    remainder: Vector
    """What the last step has left of its correction."""
    units: Vector
    """What each equation is measured by: the size of its row of `dF/dy` at the initial
    guess. So the units of equations do not matter."""
    books: Books
    unsolved: Bool[Array, ""]
    """Whether the linear system of the last step could not be solved, by an iteration,
    or has a singular matrix."""
    damping: Damping | None
    """Of the second attempt."""
    forcing: Forcing | None
    """How well linear systems are solved, where that is by iteration."""

    @property
    def held(self) -> Bool[Array, ""]:
        """Whether the last one was solved well enough for a verdict."""
        return jnp.ones((), bool) if self.forcing is None else self.forcing.held


class Newton(AbstractSolver):
    """Newton's method with a backtracking line search.

    Each step solves `J d = -F` with the Jacobian `J = dF/dy` and moves to `y + t d`.
    Quadratic convergence near a solution with invertible `J` (Kantorovich 1948;
    Deuflhard, *Newton Methods for Nonlinear Problems*, thm 2.1), contraction or not.
    The derivative reuses the last factorisation (beyond 128 real unknowns; below that
    a new one costs next to nothing).

    **Arguments:**

    - `linear_solver`: `"auto"` forms `J` and factorises it up to 4096 real unknowns, or
      as many as there are where the problem's `sparsity` is known, and uses matrix-free
      GMRES else; or [`implicax.Krylov`][], with a preconditioner; or any
      `lineax.AbstractLinearSolver`, for example `lx.GMRES(rtol=1e-6, atol=1e-6)`; or
      [`implicax.MinimumNorm`][], for singular systems.
    - `line_search`: halve `t` until the residual falls; where no length makes it fall
      (a local minimum of `|F|` that is no root), take the full step, up to ten times.
      `False` always takes `t = 1`.
    - `retry`: where that fails, once more from the start, with steps damped as by
      Levenberg and Marquardt (More 1978): down the sum of squares, however singular
      `J` is. Another `max_steps` steps, in the counts; a history is that of the
      attempt whose answer is returned. Up to 512 real unknowns, and with
      `linear_solver="auto"`.
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
    retry: bool = eqx.field(static=True, default=False)
    rtol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    atol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    record_history: bool = eqx.field(static=True, default=False)

    precision: ClassVar[float] = 0.8
    exact: ClassVar[bool] = True

    def __check_init__(self):
        if self.retry and not self.line_search:
            raise ValueError(
                "retry=True searches along its steps, and line_search=False forbids "
                "that. Leave one of them out."
            )

    def init(self, system: System, y: Vector) -> State:
        matrix, elimination = at_start(self.linear_solver, system, y)
        units = jax.tree.map(jnp.ones_like, y)
        if matrix is not None:
            units = tree_math.ravel(y)[1](row_units(matrix))
        dtype = tree_math.working_dtype(y)
        books, solved = Books.empty(dtype), jnp.zeros((), bool)
        state = State.start(system, y)
        able = tree_math.num_unknowns(y) <= DAMPED
        able = able and isinstance(elimination, Elimination)
        damping = None
        if self.retry and able and not system.differentiable:
            damping = Damping.none(state.iterate)
        forcing = None
        if method_of(self.linear_solver, system, y) is not None:
            forcing = Forcing.first(state.iterate.residual)
        left = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.inf), y)
        memory = _Memory(elimination, left, units, books, solved, damping, forcing)
        return dataclasses.replace(state, memory=memory)

    def step(self, system: System, state: State) -> State:
        iterate, old = state.iterate, state.memory.books
        context = state.reach, state.memory.forcing, old.left.correction
        found = correct(self.linear_solver, system, iterate, *context)
        delta, y = jax.lax.stop_gradient((found.correction, iterate.y))
        if found.elimination is None:
            unsolved = ~jnp.isfinite(tree_math.max_norm(delta))
            unsolved = unsolved & jnp.isfinite(iterate.norm)
        else:
            unsolved = found.elimination.singular

        def look(new: Iterate) -> tuple[tuple[Left, Vector], Bool[Array, ""]]:
            """What is left of the correction at `new`, and whether that is little."""
            remainder = found.remainder(y, state.reach, new, old.left.correction)
            reach = componentwise.grown(state.reach, new.y)
            both = map(componentwise.sizes, (delta, remainder))
            larger = jax.tree.map(jnp.maximum, *both)
            ratios = componentwise.stacked_ratios(
                *corrections(y, delta, new.y, remainder, reach),
                self.tolerance.to_allowed(remainder, new.y, reach),
                to_own(remainder, new.y, reach),
                (delta, reach),
                (remainder, reach),
                (visible(larger, new.y, reach), new.y),
                found.bent(state.memory.remainder, y),
            )
            left = Left(ratios)
            falls = halved(left.correction, left.remainder)
            little = falls | (left.units <= 1) | self.absolute(new)
            little = little | (left.bent <= 1) & self._invisible(left, y)
            return (left, remainder), little & (found.factor is not None)

        correction = found.correction
        units, damping = state.memory.units, state.memory.damping
        if found.rows is not None:
            units = tree_math.ravel(iterate.residual)[1](row_units(found.rows))
        elif found.made_of is not None:
            units = found.made_of
        active, share = jnp.zeros((), bool), 1.0
        if damping is not None:
            active = damping.numbers.active
            moved = componentwise.ratio(delta, state.reach)
            correction, share, damping = self._damped(
                iterate, damping, found, units, moved
            )
        if self.line_search:
            leap = self._leap(found, unsolved, old, y)
            leap = tree_math.where(active, y, leap)
            forced = (old.counts.creeping >= CREEPING) & ~active
            unknown = jnp.full_like(old.left.numbers, jnp.inf)
            nothing = Left(unknown), tree_math.zeros_like(delta)
            farthest = LONGEST_LEAP * (state.first_norm + state.first_size)
            search = look, nothing, leap, farthest, forced, share
            trial = backtrack(system, iterate, correction, units, *search)
        else:
            new = system.evaluate(tree_math.subtract(iterate.y, correction))
            numbers = {"length": 1, "norm": new.norm, "evaluations": 1}
            numbers = Numbers.of(iterate.norm.dtype, **numbers, rejected=False)
            trial = Trial(new, look(new)[0], numbers)
        (left, remainder), rejected = trial.found, trial.numbers.rejected
        spent_here = trial.numbers.evaluations.astype(jnp.int32)
        idle = old.counts.idle
        forcing, spent = found.judged(system, trial.iterate, self.tolerance, idle)
        books = self._entry(old, trial, left, found, active, forcing)
        if damping is not None:
            damping = damping.after(trial.numbers.length, rejected)
        kept, unsolved = state.memory.units, unsolved | found.missed
        solved = found.elimination, remainder
        memory = _Memory(*solved, kept, books, unsolved, damping, forcing)
        hopeless = books.counts.leaps > MAX_LEAPS
        if found.elimination is None:
            hopeless = hopeless | unsolved
        halted = (rejected & hopeless) | books.degenerate | self._wrong(memory)
        # Only rounding is left, and the linear solver cannot confirm it.
        halted = halted | (books.counts.rounded & ~memory.held)
        if not self.line_search:
            halted = halted | ~jnp.isfinite(tree_math.max_norm(delta))
        return state.moved(trial.iterate, memory, spent_here + spent, halted)

    def _leap(
        self, found: Correction, unsolved: Array, old: Books, y: Vector
    ) -> Vector:
        """Where to go from a local minimum of `|F|`: by the full step, or else by a
        little one."""
        count = old.counts.leaps
        little = unsolved | (count / 2 != jnp.floor(count / 2))
        delta = jax.lax.stop_gradient(found.correction)
        full = tree_math.subtract(y, delta)
        return tree_math.where(little, displaced(y, count), full)

    def _damped(
        self,
        iterate: Iterate,
        damping: Damping,
        found: Correction,
        units: Vector,
        moved: Array,
    ) -> tuple[Vector, Array, Damping]:
        """Newton's correction, or a damped one where such are made and Newton's, which
        `moved` by so much, is not small yet; the share of `|F|^2` that falls along it;
        and what damped it."""
        correction, J = found.correction, found.matrix
        assert isinstance(J, jax.Array)
        far = ~(moved <= tree_math.coarsest_eps(correction) ** NEAR)

        # A loop of one round, whose matrix depends on the carry: see ARCHITECTURE.md.
        def damp(carry: tuple) -> tuple:
            matrix = jnp.where(carry[0], J, jnp.nan)
            step = damping.step(matrix, iterate.residual, iterate.y, units)
            return jnp.zeros((), bool), *step

        first = damping.numbers.active & far, correction, jnp.ones_like(moved), damping
        return tree_math.while_loop(lambda carry: carry[0], damp, first)[1:]

    def restarted(self, state: State) -> State | None:
        memory, damping = state.memory, state.memory.damping
        if damping is None:
            return None
        books, start = Books.empty(state.iterate.norm.dtype), damping.start
        memory = dataclasses.replace(memory, books=books, damping=damping.begun())
        return State.at(start, memory, jnp.zeros((), jnp.int32))

    def _entry(
        self,
        old: Books,
        trial: Trial,
        left: Left,
        found: Correction,
        damped: Bool[Array, ""],
        forcing: Forcing | None,
    ) -> Books:
        """What a step has shown, along the correction that was `found`."""
        new = jax.lax.stop_gradient(trial.iterate)
        eps, exact = tree_math.coarsest_eps(new.y), new.norm == 0
        # Rounding: of each equation; or the corrections have ceased to fall.
        measure = jnp.maximum(left.correction, left.remainder)
        fell = measure < 0.9 * old.counts.least
        idle = jnp.where(fell, 0, old.counts.idle + 1)
        still = (left.bent <= 1) & self._invisible(left, new.y)
        still = jnp.where(still, old.counts.still + 1, 0)
        floor = (idle >= IDLE) & ((measure <= eps**FLOOR) | (still >= IDLE))
        if found.rows is not None:
            rows = magnitude(found.rows, new.y)
            floor = floor | rounded(new.residual, new.y, rows, num_terms(found.rows))
        if found.made_of is not None:
            rows = tree_math.ravel(found.made_of)[0]
            floor = floor | rounded(new.residual, new.y, rows, FEW)
        if forcing is not None:
            floor = floor | ((idle >= IDLE) & forcing.floor)
        length, rejected = trial.numbers.length, trial.numbers.rejected
        full = (length == 1) & ~rejected
        linear = (left.moved >= LINEAR * old.left.moved) & (left.moved <= eps**NEAR)
        linear = full & ~exact & linear & (left.moved >= LONGER * old.left.left)
        short = (length < 1 / 8) & ~rejected & ~damped
        overruled = rejected | (old.counts.creeping >= CREEPING)
        # (Of damped steps none is taken against the search: those in a row count.)
        leaps = jnp.where(damped & ~overruled, 0, old.counts.leaps)
        counts = Counts.of(
            measure.dtype,
            trusted=believable(left.correction, left.remainder, eps),
            rounded=floor,
            least=jnp.minimum(measure, old.counts.least),
            idle=idle,
            still=still,
            slow=jnp.where(linear, old.counts.slow + 1, 0),
            leaps=leaps + overruled.astype(leaps.dtype),
            creeping=jnp.where(short, old.counts.creeping + 1, 0),
        )
        return Books(left, counts)

    def _invisible(self, left: Left, y: Vector) -> Bool[Array, ""]:
        """Whether a correction may be no more than the rounding of `fn` itself."""
        return left.seen <= tree_math.coarsest_eps(y) ** FLOOR

    def converged(self, state: State) -> Bool[Array, ""]:
        iterate, books = state.iterate, state.memory.books
        there = books.there & ~books.degenerate & jnp.isfinite(iterate.norm)
        there = there & state.memory.held
        return there | (iterate.norm == 0) | self.absolute(iterate)

    def error(self, state: State) -> Float[Array, ""]:
        books, exact = state.memory.books, state.iterate.norm == 0
        trusted, forcing = (
            books.counts.trusted & state.memory.held,
            state.memory.forcing,
        )
        if forcing is not None:  # (Rounding errors fall at no rate.)
            trusted = trusted & (~forcing.lost | (books.left.units <= 1))
        error = jnp.where(trusted, books.left.error, jnp.inf)
        error = jnp.where(books.counts.still >= IDLE, books.left.seen, error)
        return jnp.where(exact, 0, error)

    def measure(self, state: State) -> Float[Array, ""]:
        residual = jax.lax.stop_gradient(state.iterate.residual)
        return tree_math.max_norm(
            jax.tree.map(lambda r, unit: r / unit, residual, state.memory.units)
        )

    def failure_reason(self, state: State) -> Status:
        memory = state.memory
        formed = memory.elimination is not None
        why = Status.singular if formed else Status.linear_solve_failed
        status = Status.where(memory.unsolved, why, Status.stagnated)
        status = Status.where(self._wrong(memory), Status.wrong_sparsity, status)
        return Status.where(memory.books.degenerate, Status.degenerate, status)

    def _wrong(self, memory: _Memory) -> Bool[Array, ""]:
        """Whether the Jacobian has other places than its pattern says."""
        if not isinstance(memory.elimination, SparseElimination):
            return jnp.zeros((), bool)
        return ~memory.elimination.factor.matrix.faithful

    def approximate_inverse(self, state: State) -> LUFactors | SparseLU | Krylov | None:
        if isinstance(self.linear_solver, Krylov):
            return self.linear_solver
        elimination = state.memory.elimination
        return None if elimination is None else elimination.factor
