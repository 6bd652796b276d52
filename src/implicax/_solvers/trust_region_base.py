"""Minimisation in a trust region: by the Hessian, or by its Gauss-Newton part.

What rounding errors decide, with `eps` that of the coarsest leaf and `B` the model's
matrix:

- `noise` is what they make of the objective `f`: of the sum, `eps |f|`, and of its
  terms, which are as large as `y.B y` and may cancel. A fall below it cannot be seen.
- `unseen` is `sqrt(eps) |f|` more. Where both what a step promises is lost in `noise`
  and what it does is lost in `unseen` (terms may cancel inside `fn`, of which nothing
  is known here), the objective is no judge: the step is taken, and the gradient will be
  one.
- `blur` is what they make of `D^-1 g`. A slope below it along a direction whose
  curvature is lost, too, deserves no step: that direction is flat.
- A step that had nothing to gain, and after which neither the gradient nor Newton's
  step was the smallest so far, was idle. After `MAX_IDLE` of them the search is over;
  and at once where the gradient has grown tenfold (then that step is taken back), or
  where no step leads down and Newton's is no larger than rounding makes it (`floor`).
- An infinite estimate is an overflow, and counts as none.
"""

import abc
import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from implicax._core import componentwise, tree_math
from implicax._core.solution import Status
from implicax._core.tree_math import Vector
from implicax._problems.equations import Iterate, System
from implicax._problems.losses import Squares
from implicax._solvers.base import AbstractSolver, State
from implicax._solvers.curvature import Softest, flat_for_good
from implicax._solvers.minimality import (
    allowed,
    relative,
    rounded,
    steady,
    to_come,
)
from implicax._solvers.trust_region_memory import Flags, Memory, Numbers
from implicax._solvers.trust_region_subproblem import (
    AbstractModel,
    Spectral,
    Step,
)

#: Shortenings of a step before the search gives up.
MAX_TRIALS = 30
#: Steps at the rounding level after which there is nothing more to gain.
MAX_IDLE = 3
#: The first radius, in units of `|D y0|`. (MINPACK has 100: of the NIST regressions it
#: then loses two more, in the first step.)
FIRST_RADIUS = 1.0


class Rounding(eqx.Module):
    """What rounding errors decide, see above."""

    noise: Float[Array, ""]
    unseen: Float[Array, ""]
    blur: Float[Array, ""]

    @classmethod
    def of(cls, objective: Array, energy: Array, eps: float) -> "Rounding":
        root, terms = jnp.sqrt(jnp.abs(objective)), jnp.sqrt(energy)
        noise = 10 * (eps * root * (root + terms) + eps**2 * energy)
        # (As `|g|` of `f = e^2 / 2` is `sqrt(2 f)`.)
        blur = 10 * eps * (2**0.5 * root + terms)
        noise, blur = (jnp.where(jnp.isfinite(x), x, 0) for x in (noise, blur))
        return cls(noise, noise + eps**0.5 * jnp.abs(objective), blur)


class _Trial(eqx.Module):
    radius: Float[Array, ""]
    step: Step
    objective: Float[Array, ""]
    ratio: Float[Array, ""]
    accepted: Bool[Array, ""]
    count: Int[Array, ""]


class _NewtonStep(eqx.Module):
    """Of Newton's step `n`, without the bound."""

    length: Float[Array, ""]
    """`|D n|`."""
    error: Float[Array, ""]
    """The largest relative error of an unknown that is left, ..."""
    small: Bool[Array, ""]
    """... whether each is within the tolerance, ..."""
    floor: Bool[Array, ""]
    """... or is what rounding errors would leave of it."""
    own: Float[Array, " n"] | None
    """The roots of the diagonal of the model's matrix."""


class AbstractTrustRegion(AbstractSolver):
    """The algorithm that both methods share (Conn, Gould & Toint 2000, alg. 6.1.1)."""

    #: Whether the model is the Hessian.
    exact: ClassVar[bool] = False

    @abc.abstractmethod
    def _objective(self, system: System, y: Vector) -> Float[Array, ""]:
        """What is minimised."""

    @abc.abstractmethod
    def _model(
        self, system: System, state: State, scale: Array | None, forcing: Array
    ) -> tuple[AbstractModel, Array | None]:
        """The quadratic model at the iterate, and the scale so far."""

    def init(self, system: System, y: Vector) -> State:
        self.check(system)
        if system.differentiable:
            raise TypeError(
                f"{type(self).__name__} searches for the length of each step, and that "
                "search has no derivative. Use derivative=ix.Implicit(), or another "
                "solver, ix.Newton() for example."
            )
        state = State.start(system, y)
        return dataclasses.replace(state, memory=Memory.fresh(state.iterate))

    def check(self, system: System) -> None:
        """An error unless this is a problem for the solver."""

    def _norms(
        self, model: AbstractModel, points: tuple[Vector, ...], iterate: Iterate
    ) -> list[Array]:
        """`|D y|` of the points, and `|D^-1 g|` at the iterate; of an equation, the
        residual."""
        if iterate.objective is None:
            return [*model.norms(points, ()), tree_math.two_norm(iterate.residual)]
        return list(model.norms(points, (iterate.residual,)))

    def step(self, system: System, state: State) -> State:
        iterate, memory, start = state.iterate, state.memory, state.memory.start.y
        old, fresh = memory.numbers, memory.numbers.first_slope < 0
        forcing = jnp.sqrt(old.slope / jnp.abs(old.first_slope))
        forcing = jnp.where(fresh, 0.1, jnp.minimum(0.1, forcing))
        model, scale = self._model(system, state, memory.scale, forcing)
        size, before, slope = self._norms(model, (iterate.y, start), iterate)
        first = FIRST_RADIUS * jnp.where(size > 0, size, 1)
        radius = jnp.where(old.radius < 0, first, old.radius)
        objective, eps = iterate.objective, tree_math.coarsest_eps(iterate.y)
        if objective is None:
            objective = Squares().cost(iterate.residual)
        rounding = Rounding.of(objective, model.energy(iterate.y), eps)
        model = model.without(rounding.blur)
        first_slope = jnp.where(fresh, slope, old.first_slope)
        top = jnp.where(fresh, objective, old.top)

        trial = self._search(system, iterate, model, radius, objective, rounding)
        step = trial.step
        y = tree_math.where(trial.accepted, tree_math.add(iterate.y, step.p), iterate.y)
        new = system.evaluate(y)
        # The region follows the steps that were right (More 1978, sec. 5).
        right = (trial.ratio >= 0.75) | step.interior
        radius = jnp.where(right, 2 * step.length, trial.radius)
        radius = jnp.where(trial.ratio < 0.25, 0.5 * step.length, radius)
        n = model.newton(step)
        length, slope = self._norms(model, (n,), new)
        seen = self._newton_step(state, model, trial, new, rounding, n, length)

        last = tree_math.where(trial.accepted & (step.length > 0), step.p, memory.last)
        whole = tree_math.subtract(iterate.y, start)
        began = tree_math.add(state.reach, componentwise.sizes(step.p))
        began = tree_math.where(fresh, began, memory.begun)
        spent = step.reduction <= eps * (top - objective)
        spent = spent | (step.reduction <= rounding.noise)
        easy = (trial.count == 1) & step.interior & spent
        runs = outwards(step.p, new.y, start, began, easy)

        # Where nothing is left to gain, stop when neither gradient nor Newton step
        # falls. (By the Gauss-Newton model it may rise now and then on its way.)
        falls = (slope < old.lowest) | (seen.length < 0.9 * old.shortest)
        wide = step.interior | (trial.radius >= eps**0.5 * size)
        nothing = wide & (step.reduction <= rounding.noise)
        idle = jnp.where(falls, 0, memory.flags.idle + nothing.astype(slope.dtype))
        # So it is where the gradient has become much larger (then that step is taken
        # back), or where no step leads down and the Newton step is small.
        worse = nothing & ~(slope <= 10 * old.lowest)
        new = tree_math.where(worse, iterate, new)
        slope = jnp.where(worse, old.slope, slope)
        done = ~trial.accepted & seen.floor | worse
        memory = Memory(
            Numbers.of(
                slope.dtype,
                radius=radius,
                first_slope=first_slope,
                slope=slope,
                lowest=jnp.minimum(slope, old.lowest),
                length=seen.length,
                shortest=jnp.minimum(seen.length, old.shortest),
                error=seen.error,
                top=top,
            ),
            Flags.of(
                slope.dtype,
                idle=jnp.where(done, MAX_IDLE, idle),
                small=seen.small,
                floor=seen.floor,
                level=model.levels((last, whole), iterate.y),
                out=size > before,
                runs=trial.accepted & runs,
                again=memory.flags.again,
            ),
            scale=scale,
            start=memory.start,
            begun=began,
            last=last,
            own=seen.own,
            inverse=model if isinstance(model, Spectral) else None,
        )
        halted = ~trial.accepted | self._at_floor(memory)
        return state.moved(new, memory, trial.count, halted)

    def _search(
        self,
        system: System,
        iterate: Iterate,
        model: AbstractModel,
        radius: Array,
        objective: Array,
        rounding: Rounding,
    ) -> _Trial:
        """The first step that is right, in smaller and smaller regions."""

        def attempt(radius: Array, count: Array) -> _Trial:
            step = model.step(radius)
            new = self._objective(system, tree_math.add(iterate.y, step.p))
            change = objective - new
            ratio = change / jnp.where(step.reduction > 0, step.reduction, 1)
            lost = step.reduction <= rounding.noise
            lost = lost & (jnp.abs(change) <= rounding.unseen)
            accepted = ((ratio > 1e-4) & (step.reduction > 0)) | lost
            ratio = jnp.where(lost, 1, ratio)
            return _Trial(radius, step, new, ratio, accepted, count + 1)

        def shorten(trial: _Trial) -> _Trial:
            factor = jnp.where(jnp.isfinite(trial.objective), 0.25, 0.1)
            radius = factor * jnp.minimum(trial.radius, trial.step.length)
            return attempt(radius, trial.count)

        def searching(trial: _Trial) -> Bool[Array, ""]:
            going = (trial.count < MAX_TRIALS) & jnp.isfinite(objective)
            return ~trial.accepted & going & (trial.step.reduction > 0)

        # It enters with a step that is refused: so an attempt is compiled only once.
        no, zero = jnp.zeros((), bool), jnp.zeros((), jnp.int32)
        none = Step(iterate.y, 4 * radius, jnp.ones_like(objective), no)
        entry = _Trial(4 * radius, none, objective, objective, no, zero)
        return tree_math.while_loop(searching, shorten, entry)

    def _newton_step(
        self,
        state: State,
        model: AbstractModel,
        trial: _Trial,
        new: Iterate,
        rounding: Rounding,
        n: Vector,
        length: Array,
    ) -> "_NewtonStep":
        """What Newton's step `n` from the old iterate says of the `new` one."""
        y, before = state.iterate.y, state.memory.numbers.length
        # Newton steps that shrink by `theta` have `theta / (1 - theta)` of the last to
        # come. (Before the second nothing is known of that.)
        theta = jnp.where(before > 0, length / before, 0)
        left = jnp.where(jnp.isfinite(before), to_come(theta), 1)
        full = trial.accepted & trial.step.interior
        left = jnp.where(full | (length == 0), left, jnp.inf)
        reach = componentwise.grown(state.reach, new.y)

        def to_go(n: Array) -> Array:
            return jnp.where(n == 0, 0, left.astype(n.dtype) * n)

        expected = jax.tree.map(to_go, n)
        small = componentwise.ratio(expected, allowed(new.y, reach, self.rtol)) <= 1
        floor = rounded(n, y, reach, model.reaction(rounding.blur))
        own = model.own()
        if own is not None:
            floor = floor & steady(own, state.memory.own)
        error = relative(expected, new.y, reach)
        return _NewtonStep(length, error, small, floor, own)

    def _at_floor(self, memory: Memory) -> Bool[Array, ""]:
        return memory.flags.idle >= MAX_IDLE

    def converged(self, state: State) -> Bool[Array, ""]:
        if state.iterate.objective is None:
            return super().converged(state)
        there = state.memory.flags.small & ~state.memory.flags.level
        if self.atol is not None:
            there = there | (
                state.iterate.norm <= self.atol.astype(state.iterate.norm.dtype)
            )
        return there

    def at_rounding_error(self, state: State) -> Bool[Array, ""]:
        # A least residual is no root, however well it is known.
        if state.iterate.objective is None:
            return jnp.zeros((), bool)
        memory = state.memory
        return self._at_floor(memory) & memory.flags.floor & ~memory.flags.level

    def judged(self, system: System, state: State, outcome: Any) -> Any:
        if system.objective is None:
            return outcome
        known = outcome.status == Status.converged
        memory, status, model = state.memory, outcome.status, state.memory.inverse
        if model is not None and type(self).exact:
            y, null = state.iterate.y, model.null
            root = jnp.sqrt(2 * jnp.abs(jnp.asarray(state.iterate.objective)))
            size = jnp.maximum(model.norms((y,), ())[0], root)
            blur = 10 * tree_math.coarsest_eps(y) * (root + jnp.sqrt(model.energy(y)))
            basis = model.vectors / model.scale[:, None]
            softest = Softest.of(basis, model.values, model.slopes, size, blur)
            good = flat_for_good(
                system, state.iterate, basis, null, size, blur, model.own(), softest
            )
            free = known & ~good
            status = Status.where(free, Status.degenerate, status)
        level = Status.where(memory.flags.out, Status.unbounded, Status.degenerate)
        status = Status.where(~known & memory.flags.level, level, status)
        status = Status.where(~known & memory.flags.runs, Status.unbounded, status)
        return eqx.tree_at(lambda outcome: outcome.status, outcome, status)

    def failure_reason(self, state: State) -> Status:
        objective = state.iterate.objective
        if objective is None:
            return Status.stagnated
        known = jnp.isfinite(objective)
        return Status.where(known, Status.stagnated, Status.non_finite)


def outwards(
    p: Vector, y: Vector, origin: Vector, begun: Vector, idle: Array
) -> Bool[Array, ""]:
    """Whether a step leads some unknown on and on, away from the start: at a good pace
    still, though there is nothing left to gain (`idle`), or though it has come a
    million times further than where it had `begun`."""

    def on(p: Array, y: Array, origin: Array, begun: Array) -> Array:
        way = y - origin
        further = (p * way > 1e-3 * way**2) & (jnp.abs(y) > jnp.abs(origin))
        return (further & (idle | (begun < 1e-6 * jnp.abs(y)))).any()

    found = jax.tree.map(on, p, y, origin, begun)
    return jax.tree.reduce(jnp.logical_or, found)
