"""Minimisation in a trust region: by the Hessian, or by its Gauss-Newton part."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .. import _tree
from .._solution import Status
from .._system import Point, System
from .._tree import Vector
from ._base import AbstractSolver, State, tolerance
from ._subproblem import (
    AbstractModel,
    Spectral,
    Step,
    from_hessian,
    from_product,
)

#: Up to here the matrix of the model is formed and decomposed (measured on CPU: an
#: eigendecomposition at 500 takes 0.1 s).
DECOMPOSED = 512
#: Shortenings of a step before the search gives up.
MAX_TRIALS = 30
#: Steps at the rounding level after which there is nothing more to gain.
MAX_IDLE = 3
#: The first radius, in units of `|D y0|`. (MINPACK has 100: of the NIST regressions it
#: then loses two more, in the first step.)
FIRST_RADIUS = 1.0


class _Memory(eqx.Module):
    radius: Float[Array, ""]
    """Negative before the first step."""
    scale: Float[Array, " n"] | None
    """The diagonal of `D`, zero where nothing is known yet."""
    error: Float[Array, ""]
    """The length of the last step, where it was a full Newton step, relative to `y`."""
    first_slope: Float[Array, ""]
    slope: Float[Array, ""]
    """`|D^-1 g|`, at the start and now."""
    flat: Bool[Array, ""]
    """Whether the gradient was gone, and no curvature negative, before the last
    step."""
    lowest: Float[Array, ""]
    """The lowest slope so far."""
    idle: Float[Array, ""]
    """Steps since then that had no more to gain than the rounding errors of the
    objective."""
    reach: Float[Array, ""]
    """How large `|D y|` may grow before a vanishing gradient means nothing: it vanishes
    at infinity too."""
    inverse: Spectral | None


class _Trial(eqx.Module):
    radius: Float[Array, ""]
    step: Step
    objective: Float[Array, ""]
    ratio: Float[Array, ""]
    accepted: Bool[Array, ""]
    count: Int[Array, ""]


class AbstractTrustRegion(AbstractSolver):
    """The algorithm that both methods share (Conn, Gould & Toint 2000, alg. 6.1.1)."""

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
        n, dtype = _tree.size(y), _tree.working_dtype(y)
        inf, no = jnp.full((), jnp.inf, dtype), jnp.full((), -1, dtype)
        scale = inverse = None
        if n <= DECOMPOSED:
            scale = jnp.zeros((n,), dtype)
            k = min(n, self._rank(system, y))
            empty = jnp.zeros((k,), dtype), jnp.zeros((n, k), dtype)
            inverse = Spectral(*empty, empty[0], jnp.ones((n,), dtype), y)
        false = jnp.zeros((), bool)
        zero = jnp.zeros((), dtype)
        memory = _Memory(no, scale, inf, no, inf, false, inf, zero, inf, inverse)
        return State.start(system, y, memory)

    def check(self, system: System) -> None:
        """An error unless this is a problem for the solver."""

    def _rank(self, system: System, y: Vector) -> int:
        """The most directions that the model can have."""
        return _tree.size(y)

    def _slope(self, model: AbstractModel, point: Point) -> Float[Array, ""]:
        """`|D^-1 g|`; of an equation, the residual."""
        if point.objective is None:
            return _tree.norm(point.residual)
        return model.slope(point.residual)

    def step(self, system: System, state: State) -> State:
        point, memory = state.point, state.memory
        fresh = memory.first_slope < 0
        forcing = jnp.sqrt(memory.slope / jnp.abs(memory.first_slope))
        forcing = jnp.where(fresh, 0.1, jnp.minimum(0.1, forcing))
        model, scale = self._model(system, state, memory.scale, forcing)
        size, slope = model.size(point.y), self._slope(model, point)
        first_slope = jnp.where(fresh, slope, memory.first_slope)
        start = FIRST_RADIUS * jnp.where(size > 0, size, 1)
        reach = jnp.where(fresh, 10 * start, memory.reach)
        flat = self._flat(point, slope, first_slope) & model.convex()
        flat = flat & (size <= reach)
        radius = jnp.where(memory.radius < 0, start, memory.radius)

        objective = self._objective(system, point.y)
        # Rounding errors: of the sum itself, and of terms as large as `y.B y`.
        eps, energy = _tree.coarsest_eps(point.y), model.energy(point.y)
        # (An overflow is no such error.)
        root = jnp.sqrt(jnp.abs(objective))
        noise = 10 * (eps * root * (root + jnp.sqrt(energy)) + eps**2 * energy)
        noise = jnp.where(jnp.isfinite(noise), noise, 0)
        unseen = noise + eps**0.5 * jnp.abs(objective)

        def attempt(radius: Array, count: Array) -> _Trial:
            step = model.step(radius)
            new = self._objective(system, _tree.add(point.y, step.p))
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
        none = Step(point.y, 4 * radius, jnp.ones_like(objective), no)
        entry = _Trial(4 * radius, none, objective, objective, no, zero)
        trial = _tree.while_loop(searching, shorten, entry)
        step = trial.step
        y = _tree.where(trial.accepted, _tree.add(point.y, step.p), point.y)
        new = system.evaluate(y)
        # The region follows the steps that were right (More 1978, sec. 5).
        right = (trial.ratio >= 0.75) | step.interior
        radius = jnp.where(right, 2 * step.length, trial.radius)
        radius = jnp.where(trial.ratio < 0.25, 0.5 * step.length, radius)

        newton = trial.accepted & step.interior
        error = jnp.where(newton, step.length / model.size(y), jnp.inf)
        # Where nothing is left to gain, stop when the gradient has stopped falling. (By
        # the Gauss-Newton model it may rise now and then on its way.)
        slope = self._slope(model, new)
        wide = step.interior | (trial.radius >= eps**0.5 * size)
        nothing = wide & (step.reduction <= noise)
        idle = jnp.where(
            slope < memory.lowest, 0, memory.idle + nothing.astype(slope.dtype)
        )
        # So it is where the gradient has become much larger (then that step is taken
        # back), or where no step leads down and the gradient is nearly gone.
        worse = nothing & ~(slope <= 10 * memory.lowest)
        new = _tree.where(worse, point, new)
        slope = jnp.where(worse, memory.slope, slope)
        done = ~trial.accepted & (memory.lowest <= eps**0.5 * first_slope) | worse
        memory = _Memory(
            radius,
            scale,
            error,
            first_slope,
            slope,
            flat,
            jnp.minimum(slope, memory.lowest),
            jnp.where(done, MAX_IDLE, idle),
            reach,
            model if isinstance(model, Spectral) else None,
        )
        stuck = ~trial.accepted | self._at_floor(memory)
        return state.moved(new, memory, trial.count, stuck)

    def _at_floor(self, memory: _Memory) -> Bool[Array, ""]:
        return memory.idle >= MAX_IDLE

    def converged(self, state: State) -> Bool[Array, ""]:
        if state.point.objective is None:
            return self.meets(state, state.point)
        memory, dtype = state.memory, state.point.norm.dtype
        eps = _tree.coarsest_eps(state.point.y)
        rtol = eps ** (2 / 3) if self.rtol is None else self.rtol.astype(dtype)
        flat = self._flat(state.point, memory.slope, memory.first_slope)
        flat = flat & memory.flat
        there = (memory.error <= rtol) | flat
        if self.atol is not None:
            there = there | (state.point.norm <= self.atol.astype(dtype))
        return there

    def _flat(self, point: Point, slope: Array, first_slope: Array) -> Bool[Array, ""]:
        """Whether the gradient is gone."""
        gone = slope <= _tree.coarsest_eps(point.y) * first_slope
        return gone | (point.norm == 0)

    def at_rounding_error(self, state: State) -> Bool[Array, ""]:
        # A least residual is no root, however well it is known.
        if state.point.objective is None:
            return jnp.zeros((), bool)
        return self._at_floor(state.memory)

    def why_stuck(self, state: State) -> Status:
        objective = state.point.objective
        if objective is None:
            return Status.stagnated
        known = jnp.isfinite(objective)
        return Status.where(known, Status.stagnated, Status.non_finite)


class TrustRegion(AbstractTrustRegion):
    """Newton's method for minima, in a trust region.

    Each step minimises the quadratic model with the exact Hessian inside a region in
    which the model has proved right. It leaves saddle points along negative curvature,
    and converges quadratically to a minimum with a positive definite Hessian (Conn,
    Gould & Toint, *Trust-Region Methods*, 2000). Up to 512 real unknowns the Hessian is
    decomposed (More & Sorensen 1983) and variables are scaled by its diagonal; beyond,
    truncated conjugate gradients need Hessian-vector products alone (Steihaug 1983).

    **Arguments:**

    - `rtol`: the solve has converged when the last full Newton step was no longer than
      `rtol |y|` (variables scaled); `None` means `eps**(2/3)` of the dtype. It ends
      too where the gradient has fallen by a factor of `eps`, or to what rounding errors
      leave of it.
    - `atol`: ... or when no component of the gradient is larger than `atol`; `None`
      means zero.
    - `record_history`: keep the largest component of the gradient of every step in
      `solution.stats.residual_history`.
    """

    rtol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    atol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    record_history: bool = eqx.field(static=True, default=False)

    def check(self, system: System) -> None:
        if system.objective is None:
            raise TypeError(
                "ix.TrustRegion minimises an objective, and this is an equation. Use "
                "ix.LevenbergMarquardt, which minimises its residual, or ix.Newton."
            )
        if system.reverse_only:
            raise TypeError(
                "fn has a VJP only (a jax.custom_vjp), and ix.TrustRegion needs its "
                "second derivatives. Use ix.Optax(optax.lbfgs()), or give fn a "
                "jax.custom_jvp."
            )

    def _objective(self, system, y):
        assert system.objective is not None
        return system.objective(y)

    def _model(self, system, state, scale, forcing):
        y, g = state.point.y, state.point.residual
        if scale is None:
            _, product = jax.linearize(system.residual, y)
            return from_product(product, g, forcing), None
        return from_hessian(system.jacobian(y), g, scale)
