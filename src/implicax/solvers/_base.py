"""What every solver is: `init`, `step`, a convergence test, and two tolerances."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .. import _tree
from .._checks import positive
from .._solution import Status
from .._system import Point, System
from .._tree import Vector


class State(eqx.Module):
    """Where a solver stands: a pytree of fixed structure.

    `memory` is the solver's own; the rest is the loop's to read.
    """

    point: Point
    memory: Any
    evaluations: Int[Array, ""]
    """Residual evaluations so far."""
    stuck: Bool[Array, ""]
    """Whether the solver cannot go on from here."""
    first_norm: Float[Array, ""]
    """`|F(y0)|`."""
    first_scale: Float[Array, ""]
    """What `|F(y0)|` is to be compared with."""

    @classmethod
    def start(cls, system: System, y: Vector, memory: Any = None) -> "State":
        """The state at the initial guess, with one evaluation spent."""
        point, one = system.evaluate(y), jnp.ones((), jnp.int32)
        return cls(point, memory, one, jnp.zeros((), bool), point.norm, point.scale)

    def move(self, system: System, y: Vector, memory: Any = None) -> "State":
        """The state after a move to `y`, with one more evaluation spent."""
        one = jnp.ones((), jnp.int32)
        return self.moved(system.evaluate(y), memory, one, jnp.zeros((), bool))

    def moved(
        self,
        point: Point,
        memory: Any,
        evaluations: Int[Array, ""],
        stuck: Bool[Array, ""],
    ) -> "State":
        """The state after a move to a point that `evaluations` have found."""
        spent = self.evaluations + evaluations
        return State(point, memory, spent, stuck, self.first_norm, self.first_scale)


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
    if not _tree.traced(value) and not value >= 0:
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

    - `rtol`, `atol`: the solve has converged when `|F(y)| <= atol + rtol * scale`, in
      maximum norms, with `scale = |y|` for fixed points and `|J y|` for roots.
      `rtol=None` means `eps**(2/3)` of the dtype (4e-11 in float64, 2e-5 in float32)
      and `atol=None` means `eps**(2/3) * |F(y0)|`, so that the units of `F` do not
      matter; give an `atol`, in those units, where you start at a solution that is
      zero. Newton's method and Levenberg-Marquardt, to which the last digits cost
      little, have `eps**0.8` (3e-13 and 3e-6). `|F(y)|` must also have fallen to a
      tenth of `|F(y0)|` if `scale` has grown tenfold: an iteration that runs off to
      infinity does not converge there.
    - `record_history`: keep the residual norm of every step in
      `solution.stats.residual_history`.
    """

    #: The default tolerances are `eps` to this power.
    precision: ClassVar[float] = 2 / 3
    #: Steps without a new lowest residual (or objective) after which a solve has
    #: stagnated. Accelerated methods pause for a while before they break through;
    #: limit cycles never do.
    patience: ClassVar[float] = 50

    rtol: eqx.AbstractVar[Float[Array, ""] | None]
    atol: eqx.AbstractVar[Float[Array, ""] | None]
    record_history: eqx.AbstractVar[bool]

    @abc.abstractmethod
    def init(self, system: System, y: Vector) -> State:
        """The state at the initial guess."""

    @abc.abstractmethod
    def step(self, system: System, state: State) -> State:
        """The next state."""

    def converged(self, state: State) -> Bool[Array, ""]:
        """Whether the residual meets the tolerances."""
        return self.meets(state, state.point)

    def meets(self, state: State, point: Point) -> Bool[Array, ""]:
        """Whether `point` meets the tolerances of the solve that `state` belongs to."""
        dtype = point.norm.dtype
        default = _tree.coarsest_eps(point.y) ** self.precision
        rtol = default if self.rtol is None else self.rtol.astype(dtype)
        atol = default * state.first_norm
        if self.atol is not None:
            atol = self.atol.astype(dtype)
        return point.meets(rtol, atol, state.first_norm, state.first_scale)

    def why_stuck(self, state: State) -> Status:
        """What keeps the solver from going on, where it did not converge."""
        del state
        return Status.stagnated

    def at_rounding_error(self, state: State) -> Bool[Array, ""]:
        """Whether the residual is no larger than the rounding error of computing it, as
        far as the solver knows: then being stuck is being there."""
        del state
        return jnp.zeros((), bool)

    def judged(self, system: System, state: State, outcome: Any) -> Any:
        """The outcome, after a closer look where the solver did not see all."""
        del system, state
        return outcome

    def approximate_inverse(self, state: State) -> Any:
        """What the solver knows of `(dF/dy)^-1` near the iterate, for the derivative to
        reuse: a factorisation, a contraction, or `None`."""
        del state
        return None


def move(point: Point, direction: Vector, length: Array) -> Vector:
    """`y + length * direction`."""
    return _tree.add(point.y, _tree.scale(length, direction))
