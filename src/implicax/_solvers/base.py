"""What every solver is: `init`, `step`, a convergence test, and two tolerances."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from implicax._core import componentwise, tree_math
from implicax._core.checks import positive
from implicax._core.keywords import check_solver_call
from implicax._core.solution import Status
from implicax._core.tree_math import Vector
from implicax._linear.approximate_inverse import ApproximateInverse
from implicax._linear.krylov import Krylov
from implicax._problems.equations import Iterate, System
from implicax._solvers.termination import Tolerance, relative

#: A secant tells of the place where it ends if no unknown has moved by more than
#: `eps**NEAR` of itself.
NEAR = 0.25


#: Of an equation by itself a secant is believed up to so many times the gain of all: by
#: chance, some of many equations hardly change in a step.
OWN = 100.0
#: A component that has not fallen for so many steps, ...
IDLE = 8
#: ... and is below so many rounding units of its leaf's largest, is noise.
NOISE = 10.0


class State(eqx.Module):
    """Where a solver stands: a pytree of fixed structure.

    `memory` is the solver's own; the rest is the loop's to read.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    system = ix.System(lambda y: y - jnp.cos(y), fixed_point=True)
    state = ix.Picard().init(system, jnp.asarray(0.5))
    print(state.evaluations)
    ```
    ```text
    1
    ```
    """

    iterate: Iterate
    memory: Any
    evaluations: Int[Array, ""]
    """Residual evaluations so far."""
    halted: Bool[Array, ""]
    """Whether the solver cannot go on from here."""
    first_norm: Float[Array, ""]
    """`|F(y0)|`, ..."""
    first_size: Float[Array, ""]
    """... and `|y0|`."""
    moved_by: Float[Array, ""]
    """The largest relative change of an unknown in the last step."""
    reach: Vector
    """The largest `|y_i|` on the way."""
    error: Vector
    """The estimated error of each unknown, from the last step."""
    least: Vector
    """The smallest `|F_i|` on the way, ..."""
    idle: Vector
    """... and the steps since then."""
    distrust: Float[Array, ""]
    """How many times too small the estimated errors have proved to be."""

    @classmethod
    def start(cls, system: System, y: Vector, memory: Any = None) -> "State":
        """The state at the initial guess, with one evaluation spent."""
        return cls.at(system.evaluate(y), memory, jnp.ones((), jnp.int32))

    @classmethod
    def at(cls, iterate: Iterate, memory: Any, evaluations: Int[Array, ""]) -> "State":
        """The state at an initial guess that `evaluations` have found."""
        size, residual = componentwise.sizes((iterate.y, iterate.residual))
        return cls(
            iterate,
            memory,
            evaluations,
            jnp.zeros((), bool),
            first_norm=iterate.norm,
            first_size=tree_math.max_norm(size),
            moved_by=jnp.full_like(iterate.norm, jnp.inf),
            reach=size,
            error=jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.inf), size),
            least=residual,
            idle=tree_math.zeros_like(residual),
            distrust=jnp.ones_like(iterate.norm),
        )

    def move(self, system: System, y: Vector, memory: Any = None) -> "State":
        """The state after a move to `y`, with one more evaluation spent."""
        one = jnp.ones((), jnp.int32)
        return self.moved(system.evaluate(y), memory, one, jnp.zeros((), bool))

    def stayed(self, memory: Any, evaluations: Int[Array, ""]) -> "State":
        """The state after a move that led nowhere, `evaluations` so far."""
        return dataclasses.replace(self, memory=memory, evaluations=evaluations)

    def moved(
        self,
        iterate: Iterate,
        memory: Any,
        evaluations: Int[Array, ""],
        halted: Bool[Array, ""],
    ) -> "State":
        """The state after a move to a point that `evaluations` have found."""
        reach = componentwise.grown(self.reach, iterate.y)
        residual = componentwise.sizes(iterate.residual)
        fell = jax.tree.map(lambda now, least: now < least, residual, self.least)
        error, moved_by = _secant_error(self.iterate, iterate, reach)
        return State(
            iterate,
            memory,
            self.evaluations + evaluations,
            halted,
            self.first_norm,
            self.first_size,
            moved_by,
            reach,
            error,
            jax.tree.map(jnp.minimum, self.least, residual),
            jax.tree.map(lambda f, idle: jnp.where(f, 0, idle + 1), fell, self.idle),
            self.distrust,
        )


def _secant_error(old: Iterate, new: Iterate, reach: Vector) -> tuple[Vector, Array]:
    """The error after a step of a method that knows no Jacobian, and the largest
    relative change of an unknown.

    The step has moved `y` by `s` and `F` by `q`, so what is left of `F` is worth about
    `|F| |s| / |q|` in `y`: for an iteration that contracts at the rate `rho` that is
    `|F| / (1 - rho)`. In norms relative to the unknowns, since `F` is a step in `y`;
    and for equations component by component too.
    """
    old, new = jax.lax.stop_gradient((old, new))
    step = componentwise.sizes(tree_math.subtract(new.y, old.y))
    change = componentwise.sizes(tree_math.subtract(new.residual, old.residual))

    def size(y: Array, reach: Array) -> Array:
        return jnp.maximum(jnp.abs(y), componentwise.eps(y) ** 0.5 * reach)

    unit = jax.tree.map(size, new.y, reach)
    moved, changed = componentwise.ratio(step, unit), componentwise.ratio(change, unit)
    # Nothing moved, nothing changed: it is where it was.
    gain = jnp.where(moved == 0, 1, moved / jnp.where(moved == 0, 1, changed))

    def error(residual: Array, step: Array, change: Array) -> Array:
        residual, worth = jnp.abs(residual), gain.astype(residual.dtype)
        if not new.fixed_point:
            own = jnp.where(step == 0, 0, step / jnp.where(step == 0, 1, change))
            worth = jnp.maximum(worth, jnp.minimum(own, OWN * worth))
        return jnp.where(residual == 0, 0, residual * worth)

    return jax.tree.map(error, new.residual, step, change), moved


def tolerance(value: Any) -> Float[Array, ""] | None:
    """A tolerance as an array (so that a new one does not recompile), checked."""
    if value is None:
        return None
    if (
        isinstance(value, bool)
        or not eqx.is_array_like(value)
        or jnp.ndim(value) != 0
        or jnp.iscomplexobj(value)
    ):
        raise TypeError(
            "Tolerances must be single numbers (real, or None for the default), not "
            f"{value!r}."
        )
    # Checked before conversion: under `jit` even a constant becomes a tracer by that.
    if not tree_math.traced(value) and not value >= 0:
        raise ValueError(
            f"Tolerances must not be negative, and one is {value}. Use rtol=0 to "
            "switch a test off."
        )
    return jnp.asarray(value, dtype=jnp.result_type(float))


def fraction(name: str) -> Callable[[Any], Float[Array, ""]]:
    """A converter for a positive number that is a step length called `name`."""
    return positive(name, ": less than one damps, one is the plain step")


class AbstractSolver(eqx.Module):
    """An algorithm for `F(y) = 0`, as a small immutable object.

    A new one needs `init` and `step`; the loop, the statuses, the history and the
    derivative come with the library.

    **Arguments** (of every solver):

    - `rtol`: the relative error that each unknown may have. The solve has converged
      when the estimated error of *every* unknown is below `rtol` times its own size;
      `rtol=1e-6` asks for six digits of each. `None` means `eps**(2/3)` of the dtype of
      its leaf (4e-11 in float64, 2e-5 in float32); Newton's method and
      Levenberg-Marquardt, to which the last digits cost little, have `eps**0.8` (3e-13
      and 3e-6). An unknown whose solution is zero has converged when its error is below
      `eps**1.5` (3e-24) of the largest value that it had on the way. Units and starts
      do not matter. A solve has converged too where rounding errors leave nothing to
      gain.
    - `atol`: *or* when no component of `F` is larger than `atol`, in the units of `F`.
      There is no default: only you know how small is small.
    - `record_history`: keep the residual norm of every step in
      `solution.stats.residual_history`.
    """

    #: The default tolerances are `eps` to this power.
    precision: ClassVar[float] = 2 / 3
    #: Steps without a new lowest residual (or objective) after which a solve has
    #: stagnated. Accelerated methods pause for a while before they break through;
    #: limit cycles never do.
    patience: ClassVar[float] = 50
    #: Whether steps form and factorise a Jacobian. One more at the end costs little.
    forms_jacobian: ClassVar[bool] = False
    #: Whether the solver's own estimate of the errors is that of an exact correction.
    #: Others are confirmed by one where it is cheap.
    exact: ClassVar[bool] = False

    rtol: eqx.AbstractVar[Float[Array, ""] | None]
    atol: eqx.AbstractVar[Float[Array, ""] | None]
    record_history: eqx.AbstractVar[bool]

    def __new__(cls, *args: Any, **options: Any):
        check_solver_call(cls, args, options)
        return super().__new__(cls)

    @abc.abstractmethod
    def init(self, system: System, y: Vector) -> State:
        """The state at the initial guess."""

    @abc.abstractmethod
    def step(self, system: System, state: State) -> State:
        """The next state."""

    @property
    def tolerance(self) -> Tolerance:
        """How many digits of each unknown are asked for."""
        return Tolerance(self.rtol, self.precision)

    def converged(self, state: State) -> Bool[Array, ""]:
        """Whether the estimated error of each unknown is small enough."""
        iterate = state.iterate
        error = tree_math.scaled(state.distrust, state.error)
        if iterate.fixed_point:
            error = _without_noise(error, state)
        there = self.tolerance.units(error, iterate.y, state.reach) <= 1
        there = (
            there & jnp.isfinite(iterate.norm) & (state.moved_by <= self._near(iterate))
        )
        return there | (iterate.norm == 0) | self.absolute(iterate)

    def _near(self, iterate: Iterate) -> Array | float:
        """How far a step may lead whose secant tells of where it ends."""
        near = tree_math.coarsest_eps(iterate.y) ** NEAR
        if self.rtol is None:
            return near
        return jnp.maximum(near, jnp.sqrt(self.rtol.astype(iterate.norm.dtype)))

    def absolute(self, iterate: Iterate) -> Bool[Array, ""]:
        """Whether the residual is below the `atol` of the user's."""
        if self.atol is None:
            return jnp.zeros((), bool)
        return iterate.norm <= self.atol.astype(iterate.norm.dtype)

    def error(self, state: State) -> Float[Array, ""]:
        """The largest estimated relative error of an unknown."""
        found = relative(state.error, state.iterate.y, state.reach)
        return jnp.where(state.iterate.norm == 0, 0, found)

    def measure(self, state: State) -> Float[Array, ""]:
        """The residual in one number, by which progress is judged."""
        return state.iterate.norm

    def failure_reason(self, state: State) -> Status:
        """What keeps the solver from going on, where it did not converge."""
        del state
        return Status.stagnated

    def at_rounding_error(self, state: State) -> Bool[Array, ""]:
        """Whether the residual is no larger than the rounding error of computing it, as
        far as the solver knows: then being stuck is being there."""
        del state
        return jnp.zeros((), bool)

    def restarted(self, state: State) -> State | None:
        """The start `state`, from which steps go another way than from `state` itself;
        `None` if there is no other way."""
        del state

    def judged(self, system: System, state: State, outcome: Any) -> Any:
        """The outcome, after a closer look where the solver did not see all."""
        del system, state
        return outcome

    def approximate_inverse(self, state: State) -> ApproximateInverse | Krylov | None:
        """What the solver knows of `(dF/dy)^-1` near the iterate, for the derivative to
        reuse: a factorisation, a contraction, or `None`."""
        del state
        return None


def _without_noise(error: Vector, state: State) -> Vector:
    """The error of a fixed point, without that of components which are lost in the
    rounding errors of the largest one in their leaf and have stopped falling."""

    def keep(error: Array, residual: Array, y: Array, idle: Array) -> Array:
        floor = NOISE * componentwise.eps(y) * tree_math.max_abs(y)
        return jnp.where((idle >= IDLE) & (jnp.abs(residual) <= floor), 0, error)

    iterate = jax.lax.stop_gradient(state.iterate)
    return jax.tree.map(keep, error, iterate.residual, iterate.y, state.idle)
