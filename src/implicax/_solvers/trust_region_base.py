"""Minimisation in a trust region: by the Hessian, or by its Gauss-Newton part."""

import abc
import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from implicax._core import componentwise, tree_math
from implicax._core.packed import Flag, Number, Packed
from implicax._core.solution import Status
from implicax._core.tree_math import Vector
from implicax._problems.equations import Iterate, System
from implicax._problems.losses import Squares
from implicax._solvers.base import AbstractSolver, State
from implicax._solvers.curvature import flat_for_good
from implicax._solvers.minimality import (
    DECOMPOSED,
    allowed,
    relative,
    rounded,
    steady,
    to_come,
)
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


class _Numbers(Packed):
    radius = Number(0)
    """Negative before the first step."""
    first_slope = Number(1)
    slope = Number(2)
    """`|D^-1 g|`, at the start and now."""
    lowest = Number(3)
    """The lowest slope so far."""
    length = Number(4)
    """`|D n|` of the last Newton step `n`, infinite where there was none."""
    shortest = Number(5)
    """The shortest so far."""
    error = Number(6)
    """The largest estimated relative error of an unknown."""
    top = Number(7)
    """The objective at the start."""


class _Flags(Packed):
    idle = Number(0)
    """Steps since the shortest that had no more to gain than the rounding errors of the
    objective."""
    small = Flag(1)
    """Whether each error is within the tolerance, ..."""
    floor = Flag(2)
    """... or is what rounding errors would leave of it."""
    level = Flag(3)
    """Whether the way led along what is flat now, ..."""
    out = Flag(4)
    """... outwards."""
    runs = Flag(5)
    """Whether it leads on and on, away from the start."""
    again = Flag(6)
    """Whether this is the second attempt."""


class _Memory(eqx.Module):
    numbers: _Numbers
    flags: _Flags
    scale: Float[Array, " n"] | None
    """The diagonal of `D`, zero where nothing is known yet."""
    start: Iterate
    begun: Vector
    """`|y_i|` at the start and the first step, together."""
    last: Vector
    """The last step."""
    own: Float[Array, " n"] | None
    """The roots of the diagonal of the model's matrix."""
    inverse: Spectral | None

    @classmethod
    def fresh(cls, start: Iterate, *, again: bool = False) -> "_Memory":
        y = start.y
        n, dtype = tree_math.num_unknowns(y), tree_math.working_dtype(y)
        scale = inverse = None
        if n <= DECOMPOSED:
            scale = jnp.zeros((n,), dtype)
            vector, matrix = jnp.zeros((n,), dtype), jnp.zeros((n, n), dtype)
            inverse = Spectral(vector, matrix, vector, vector, matrix, y)
        inf = jnp.inf
        return cls(
            _Numbers.of(
                dtype,
                radius=-1,
                first_slope=-1,
                slope=inf,
                lowest=inf,
                length=inf,
                shortest=inf,
                error=inf,
                top=inf,
            ),
            _Flags.of(
                dtype,
                idle=0,
                small=False,
                floor=False,
                level=False,
                out=False,
                runs=False,
                again=again,
            ),
            scale=scale,
            start=start,
            begun=componentwise.sizes(y),
            last=tree_math.zeros_like(y),
            own=scale,
            inverse=inverse,
        )


class _Trial(eqx.Module):
    radius: Float[Array, ""]
    step: Step
    objective: Float[Array, ""]
    ratio: Float[Array, ""]
    accepted: Bool[Array, ""]
    count: Int[Array, ""]


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
        return dataclasses.replace(state, memory=_Memory.fresh(state.iterate))

    def check(self, system: System) -> None:
        """An error unless this is a problem for the solver."""

    def _slope(self, model: AbstractModel, iterate: Iterate) -> Float[Array, ""]:
        """`|D^-1 g|`; of an equation, the residual."""
        if iterate.objective is None:
            return tree_math.two_norm(iterate.residual)
        return model.slope(iterate.residual)

    def step(self, system: System, state: State) -> State:
        iterate, memory = state.iterate, state.memory
        old, start = memory.numbers, memory.start.y
        fresh = old.first_slope < 0
        forcing = jnp.sqrt(old.slope / jnp.abs(old.first_slope))
        forcing = jnp.where(fresh, 0.1, jnp.minimum(0.1, forcing))
        model, scale = self._model(system, state, memory.scale, forcing)
        size, slope = model.size(iterate.y), self._slope(model, iterate)
        first_slope = jnp.where(fresh, slope, old.first_slope)
        first = FIRST_RADIUS * jnp.where(size > 0, size, 1)
        radius = jnp.where(old.radius < 0, first, old.radius)

        objective = iterate.objective
        if objective is None:
            objective = Squares().cost(iterate.residual)
        # Rounding errors: of the sum itself, and of terms as large as `y.B y`.
        eps, energy = tree_math.coarsest_eps(iterate.y), model.energy(iterate.y)
        # (An overflow is no such error.)
        root = jnp.sqrt(jnp.abs(objective))
        noise = 10 * (eps * root * (root + jnp.sqrt(energy)) + eps**2 * energy)
        noise = jnp.where(jnp.isfinite(noise), noise, 0)
        unseen = noise + eps**0.5 * jnp.abs(objective)
        # Likewise of `D^-1 g`.
        blur = (
            10
            * eps
            * (jnp.sqrt(jnp.asarray(2.0, root.dtype)) * root + jnp.sqrt(energy))
        )
        blur = jnp.where(jnp.isfinite(blur), blur, 0)
        model = model.without(blur)

        def attempt(radius: Array, count: Array) -> _Trial:
            step = model.step(radius)
            new = self._objective(system, tree_math.add(iterate.y, step.p))
            change = objective - new
            ratio = change / jnp.where(step.reduction > 0, step.reduction, 1)
            # Below the rounding errors, whose estimate may be far too low (terms may
            # cancel inside `fn`), the objective is no judge: the gradient will be.
            lost = (step.reduction <= noise) & (jnp.abs(change) <= unseen)
            accepted = ((ratio > 1e-4) & (step.reduction > 0)) | lost
            ratio = jnp.where(lost, 1, ratio)
            return _Trial(radius, step, new, ratio, accepted, count + 1)

        def shorten(trial: _Trial) -> _Trial:
            factor = jnp.where(jnp.isfinite(trial.objective), 0.25, 0.1)
            return attempt(
                factor * jnp.minimum(trial.radius, trial.step.length), trial.count
            )

        def searching(trial: _Trial) -> Bool[Array, ""]:
            going = (trial.count < MAX_TRIALS) & jnp.isfinite(objective)
            return ~trial.accepted & going & (trial.step.reduction > 0)

        # It enters with a step that is refused: so an attempt is compiled only once.
        no, zero = jnp.zeros((), bool), jnp.zeros((), jnp.int32)
        none = Step(iterate.y, 4 * radius, jnp.ones_like(objective), no)
        entry = _Trial(4 * radius, none, objective, objective, no, zero)
        trial = tree_math.while_loop(searching, shorten, entry)
        step = trial.step
        y = tree_math.where(trial.accepted, tree_math.add(iterate.y, step.p), iterate.y)
        new = system.evaluate(y)
        # The region follows the steps that were right (More 1978, sec. 5).
        right = (trial.ratio >= 0.75) | step.interior
        radius = jnp.where(right, 2 * step.length, trial.radius)
        radius = jnp.where(trial.ratio < 0.25, 0.5 * step.length, radius)

        n = model.newton(step)
        length = model.size(n)
        # Newton steps that shrink by `theta` have `theta / (1 - theta)` of the last to
        # come. (Before the second nothing is known of that.)
        theta = length / old.length
        theta = jnp.where(old.length > 0, theta, 0)
        left = jnp.where(jnp.isfinite(old.length), to_come(theta), 1)
        full = trial.accepted & step.interior
        left = jnp.where(full | (length == 0), left, jnp.inf)
        reach = componentwise.grown(state.reach, new.y)
        expected = jax.tree.map(
            lambda n: jnp.where(n == 0, 0, left.astype(n.dtype) * n), n
        )
        small = componentwise.ratio(expected, allowed(new.y, reach, self.rtol)) <= 1
        spread = model.reaction(blur)
        floor, own = rounded(n, iterate.y, reach, spread), model.own()
        if own is not None:
            floor = floor & steady(own, memory.own)
        last = tree_math.where(trial.accepted & (step.length > 0), step.p, memory.last)
        whole = tree_math.subtract(iterate.y, start)
        level = model.levels((last, whole), iterate.y)

        begun = tree_math.where(
            fresh,
            tree_math.add(state.reach, componentwise.sizes(step.p)),
            memory.begun,
        )
        top = jnp.where(fresh, objective, old.top)
        spent = (step.reduction <= noise) | (step.reduction <= eps * (top - objective))
        easy = (trial.count == 1) & step.interior & spent
        runs = trial.accepted & outwards(step.p, new.y, start, begun, easy)

        # Where nothing is left to gain, stop when neither gradient nor Newton step
        # falls. (By the Gauss-Newton model it may rise now and then on its way.)
        slope = self._slope(model, new)
        falls = (slope < old.lowest) | (length < 0.9 * old.shortest)
        wide = step.interior | (trial.radius >= eps**0.5 * size)
        nothing = wide & (step.reduction <= noise)
        idle = jnp.where(falls, 0, memory.flags.idle + nothing.astype(slope.dtype))
        # So it is where the gradient has become much larger (then that step is taken
        # back), or where no step leads down and the Newton step is small.
        worse = nothing & ~(slope <= 10 * old.lowest)
        new = tree_math.where(worse, iterate, new)
        slope = jnp.where(worse, old.slope, slope)
        done = ~trial.accepted & floor | worse
        memory = _Memory(
            _Numbers.of(
                slope.dtype,
                radius=radius,
                first_slope=first_slope,
                slope=slope,
                lowest=jnp.minimum(slope, old.lowest),
                length=length,
                shortest=jnp.minimum(length, old.shortest),
                error=relative(expected, new.y, reach),
                top=top,
            ),
            _Flags.of(
                slope.dtype,
                idle=jnp.where(done, MAX_IDLE, idle),
                small=small,
                floor=floor,
                level=level,
                out=size > model.size(start),
                runs=runs,
                again=memory.flags.again,
            ),
            scale=scale,
            start=memory.start,
            begun=begun,
            last=last,
            own=own,
            inverse=model if isinstance(model, Spectral) else None,
        )
        halted = ~trial.accepted | self._at_floor(memory)
        return state.moved(new, memory, trial.count, halted)

    def _at_floor(self, memory: _Memory) -> Bool[Array, ""]:
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
            size = jnp.maximum(model.size(y), root)
            blur = 10 * tree_math.coarsest_eps(y) * (root + jnp.sqrt(model.energy(y)))
            basis = model.vectors / model.scale[:, None]
            good = flat_for_good(
                system, state.iterate, basis, null, size, blur, model.own()
            )
            free = known & jnp.any(null) & ~good
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
