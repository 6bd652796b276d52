"""Bracketing: one real equation, between two points at which it has opposite signs."""

import abc
import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from implicax._core import tree_math
from implicax._core.solution import Status
from implicax._core.tree_math import Vector
from implicax._problems.equations import Iterate, System
from implicax._solvers.base import AbstractSolver, State, tolerance
from implicax._solvers.termination import relative

#: The search for a bracket starts this far from the guess, relative to its size.
FIRST_REACH = 0.02
#: Where an end of the search meets the end of the function's domain (NaN), its reach
#: shrinks by this. It doubles otherwise.
SHRINK = 0.25
#: The ends have met at a point that is so many times `eps` from them.
MET = 4.0


def _end(value: Any) -> Float[Array, ""] | None:
    """An end of a bracket as a scalar array, or an error."""
    if value is None:
        return None
    single = eqx.is_array_like(value) and jnp.size(value) == 1
    if not single or isinstance(value, bool) or jnp.iscomplexobj(value):
        raise TypeError(
            "lower and upper must be single real numbers, or None, and one is "
            f"{value!r}. For many equations: jax.vmap a function that makes the "
            "solver and calls ix.root."
        )
    if not tree_math.traced(value) and not np.isfinite(value).all():
        raise ValueError(f"lower and upper must be finite, and one is {value}.")
    return jnp.asarray(value, dtype=jnp.result_type(float)).reshape(())


class _Bracket(eqx.Module):
    """Two points and, once they enclose a sign change, the point before them.

    While a bracket is sought, `a` and `b` are the outermost points so far, to the left
    and to the right. From then on `a` is the newest point, `b` the one beyond the sign
    change, and `c` the one that `a` has replaced.
    """

    a: Array
    fa: Array
    b: Array
    fb: Array
    c: Array
    fc: Array
    reach: tuple[Array, Array]
    """How far the next points of the search lie beyond `a` and `b`."""
    leftwards: Bool[Array, ""]
    """Which end the search moves next."""

    @property
    def encloses(self) -> Bool[Array, ""]:
        return _opposite(self.fa, self.fb)

    def width(self, eps: float) -> Float[Array, ""]:
        """The distance of the ends, in units of the spacing of numbers around them."""
        size = jnp.maximum(jnp.abs(self.a), jnp.abs(self.b))
        spacing = jnp.maximum(eps * size, jnp.finfo(size.dtype).tiny)
        return jnp.abs(self.a - self.b) / spacing


class _Memory(eqx.Module):
    bracket: _Bracket
    correction: Vector
    """Newton's, at the best point so far: its error, ..."""
    inward: Bool[Array, ""]
    """... if it leads into the bracket. At a pole, where it is small too, it leads
    away."""


def _opposite(f: Array, g: Array) -> Bool[Array, ""]:
    return jnp.sign(f) * jnp.sign(g) < 0


class AbstractBracketing(AbstractSolver):
    """What the methods share: the ends, the search for them, and when to stop."""

    precision: ClassVar[float] = 0.9
    # The better end may stay where it is for many steps, while the other one comes.
    patience: ClassVar[float] = 2**24
    # The error is Newton's correction.
    exact: ClassVar[bool] = True

    lower: eqx.AbstractVar[Float[Array, ""] | None]
    upper: eqx.AbstractVar[Float[Array, ""] | None]

    def __check_init__(self):
        lower, upper = self.lower, self.upper
        if (
            lower is None
            or upper is None
            or tree_math.traced(lower)
            or tree_math.traced(upper)
        ):
            return
        if not bool(lower < upper):
            raise ValueError(
                f"lower must be below upper, and they are {lower} and {upper}."
            )

    @property
    def _given(self) -> bool:
        """Whether there is nothing to search for."""
        return self.lower is not None and self.upper is not None

    @abc.abstractmethod
    def _fraction(self, bracket: _Bracket) -> Float[Array, ""]:
        """Where to look next: at `a + fraction * (b - a)`."""

    def init(self, system: System, y: Vector) -> State:
        name = type(self).__name__
        n = tree_math.num_unknowns(y)
        if n != 1:
            raise ValueError(
                f"ix.{name} solves one real equation, and y0 has {n} real unknowns. "
                "For many scalar equations, jax.vmap the solve of one; for a system, "
                "use ix.Newton."
            )
        if system.objective is not None:
            raise TypeError(
                f"ix.{name} solves an equation, and this is a minimisation. Use "
                "ix.TrustRegion, or ix.root on the derivative."
            )
        if system.differentiable:
            raise TypeError(
                f"The steps of ix.{name} depend on signs, and have no derivative. Use "
                "ix.Implicit(), Neumann(terms) or Phantom(steps, damping)."
            )
        flat, unravel = tree_math.ravel(y)
        guess, dtype = flat[0], flat.dtype

        def value(x: Array) -> Array:
            return tree_math.ravel(system.residual(unravel(x[None])))[0][0]

        first = jnp.where(guess == 0, 1, jnp.abs(guess)) * FIRST_REACH
        a = guess if self.lower is None else self.lower.astype(dtype)
        b = guess if self.upper is None else self.upper.astype(dtype)
        # With one end given, the search moves away from it, from the guess if that is
        # on the right side.
        if self.lower is not None and self.upper is None:
            b = jnp.maximum(a, guess)
        if self.upper is not None and self.lower is None:
            a = jnp.minimum(b, guess)
        fa, fb = value(a), value(b)
        better = jnp.where((jnp.abs(fb) < jnp.abs(fa)) | jnp.isnan(fa), b, a)
        state = State.start(system, unravel(better[None]))
        leftwards = jnp.asarray(self.lower is None)
        bracket = _Bracket(a, fa, b, fb, b, fb, (first, first), leftwards)
        halted = jnp.asarray(self._given) & ~bracket.encloses
        spent = state.evaluations + 2
        memory = _Memory(bracket, state.error, jnp.zeros((), bool))
        return dataclasses.replace(
            state, memory=memory, halted=halted, evaluations=spent
        )

    def step(self, system: System, state: State) -> State:
        old = state.memory.bracket
        _, unravel = tree_math.ravel(state.iterate.y)
        encloses, (left, right) = old.encloses, old.reach
        x = old.a + self._fraction(old) * (old.b - old.a)
        if not self._given:
            sought = jnp.where(old.leftwards, old.a - left, old.b + right)
            x = jnp.where(encloses, x, sought)
        iterate, correction = _evaluate(system, unravel(x[None]))
        f = tree_math.ravel(iterate.residual)[0][0]
        bracket = _narrow(old, x, f)
        if not self._given:
            bracket = tree_math.where(encloses, bracket, self._widen(old, x, f))
        # The best point so far; or a NaN between the ends, which the loop reports.
        shown = (iterate.norm < state.iterate.norm) | encloses & jnp.isnan(f)
        least = tree_math.where(shown, iterate, state.iterate)
        ahead = (bracket.b - x) * tree_math.ravel(correction)[0][0] < 0
        seen = _Memory(bracket, correction, bracket.encloses & ahead)
        memory = tree_math.where(
            shown, seen, dataclasses.replace(state.memory, bracket=bracket)
        )
        one = jnp.ones((), jnp.int32)
        eps = tree_math.coarsest_eps(state.iterate.y)
        halted = bracket.encloses & (bracket.width(eps) <= 2)
        if self._given:
            # (One end is a root, or what is there is no function.)
            halted = halted | ~bracket.encloses & ~jnp.isnan(f)
        # A search that has left the range of numbers, or cannot move, has found none.
        halted = halted | ~encloses & (~jnp.isfinite(x) | (left + right == 0))
        return state.moved(least, memory, one, halted)

    def _widen(self, old: _Bracket, x: Array, f: Array) -> _Bracket:
        """The search: the points on either side move away from the guess, in turns."""
        leftwards, (left, right) = old.leftwards, old.reach
        known = ~jnp.isnan(f)
        factor = jnp.where(known, 2, SHRINK).astype(x.dtype)
        left = jnp.where(leftwards, left * factor, left)
        right = jnp.where(leftwards, right, right * factor)
        one_sided = self.lower is not None or self.upper is not None
        turn = leftwards if one_sided else ~leftwards
        # Where the sign has changed, it did so since the last point on this side.
        near = jnp.where(leftwards, old.a, old.b)
        f_near = jnp.where(leftwards, old.fa, old.fb)
        f_near = jnp.where(jnp.isnan(f_near), f, f_near)
        found = _opposite(f, f_near)
        a, fa = _select(leftwards & known, (x, f), (old.a, old.fa))
        b, fb = _select(~leftwards & known, (x, f), (old.b, old.fb))
        searching = _Bracket(a, fa, b, fb, b, fb, (left, right), turn)
        enclosing = _Bracket(x, f, near, f_near, near, f_near, (left, right), turn)
        return tree_math.where(found, enclosing, searching)

    def error(self, state: State) -> Float[Array, ""]:
        error = relative(state.memory.correction, state.iterate.y, state.reach)
        return jnp.where(state.iterate.norm == 0, 0, error)

    def converged(self, state: State) -> Bool[Array, ""]:
        iterate, memory = state.iterate, state.memory
        units = self.tolerance.units(memory.correction, iterate.y, state.reach)
        there = (units <= 1) & memory.inward & jnp.isfinite(iterate.norm)
        return there | (iterate.norm == 0) | self.absolute(iterate)

    def at_rounding_error(self, state: State) -> Bool[Array, ""]:
        # The ends have met. Of a root, that is: at a pole the sign changes too, but the
        # least value lies elsewhere; at a jump the correction is large.
        eps = tree_math.coarsest_eps(state.iterate.y)
        bracket = state.memory.bracket
        y = tree_math.ravel(state.iterate.y)[0][0]
        best = (jnp.abs(y - bracket.a) <= MET * eps * jnp.abs(y)) | state.memory.inward
        return bracket.encloses & best & (self.error(state) <= eps**0.5)

    def failure_reason(self, state: State) -> Status:
        encloses = state.memory.bracket.encloses
        return Status.where(encloses, Status.stagnated, Status.no_sign_change)


def _narrow(old: _Bracket, x: Array, f: Array) -> _Bracket:
    """The bracket with `x` as its newest end."""
    same = jnp.sign(f) == jnp.sign(old.fa)
    b, fb = _select(same, (old.b, old.fb), (old.a, old.fa))
    c, fc = _select(same, (old.a, old.fa), (old.b, old.fb))
    return _Bracket(x, f, b, fb, c, fc, old.reach, old.leftwards)


def _select(condition: Array, x: tuple, y: tuple) -> tuple[Array, Array]:
    a, b = tree_math.where(condition, x, y)
    return a, b


def _evaluate(system: System, y: Vector) -> tuple[Iterate, Vector]:
    """The residual, and Newton's correction, from one pass."""

    def both(y: Vector) -> tuple[Vector, Vector]:
        one = jax.tree.map(jnp.ones_like, y)
        if system.reverse_only:
            residual, pullback = jax.vjp(system.residual, y)
            return residual, pullback(one)[0]
        return jax.jvp(system.residual, (y,), (one,))

    # One value for signs and norms alike: a bracket whose ends agree in sign is none.
    residual, slope = tree_math.once(both, y)
    iterate = Iterate(
        y, residual, tree_math.max_norm(residual), fixed_point=system.fixed_point
    )
    return iterate, jax.tree.map(lambda f, slope: f / slope, residual, slope)


class Bisection(AbstractBracketing):
    """Halve a bracket of one real root: slow, and sure.

    One more bit each step, whatever the function does, as long as it is continuous:
    about 50 steps in float64.

    **Arguments:** as [`implicax.Chandrupatla`][], which needs a fifth of the steps.

    ```python
    import implicax as ix

    cubic = lambda y, a: y**3 + y - a
    solution = ix.root(cubic, 1.0, 10.0, solver=ix.Bisection(0.0, 5.0))
    print(f"{solution.value:.4f}")
    ```
    ```text
    2.0000
    ```
    """

    lower: Float[Array, ""] | None = eqx.field(converter=_end, default=None)
    upper: Float[Array, ""] | None = eqx.field(converter=_end, default=None)
    rtol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    atol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    record_history: bool = eqx.field(static=True, default=False)

    def _fraction(self, bracket: _Bracket) -> Float[Array, ""]:
        return jnp.full_like(bracket.a, 0.5)


class Chandrupatla(AbstractBracketing):
    """One real root between two signs: inverse quadratic interpolation where that can
    be trusted, bisection where not.

    The parabola `x(f)` through the last three points is taken where it is monotone
    between the ends (Chandrupatla 1997, *A new hybrid quadratic/bisection algorithm*,
    Advances in Engineering Software 28, 145-149): fewer evaluations than Brent's method
    on hard functions, and as sure as bisection. It ends at the usual test, or when the
    bracket is down to neighbouring numbers. A sign change that is none of a root (a
    pole, a jump) is not taken for one: the status is `stagnated`.

    **Arguments:**

    - `lower`, `upper`: points at which the function has opposite signs (if not, the
      status is `no_sign_change`). `None` means that this end is sought from `y0`, which
      is not used otherwise, by doubling the distance; an end of the domain (NaN) is
      approached. They are arrays: new ones do not compile anew, and each lane of a
      `vmap` may have its own.
    - `rtol`, `atol`, `record_history`: see [`implicax.AbstractSolver`][], but
      `rtol=None` means `eps**0.9`.

    **Raises:** `ValueError` for more than one unknown: `jax.vmap` the solve of one.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp

    def kepler(E, a):
        return E - a["e"] * jnp.sin(E) - a["M"]

    @jax.vmap
    def anomaly(M):
        solver = ix.Chandrupatla(M - 1, M + 1)
        return ix.root(kepler, M, {"e": 0.9, "M": M}, solver=solver).value

    print(anomaly(jnp.array([0.1, 1.0, 3.0])).round(4))
    ```
    ```text
    [0.6308 1.8621 3.067 ]
    ```
    """

    lower: Float[Array, ""] | None = eqx.field(converter=_end, default=None)
    upper: Float[Array, ""] | None = eqx.field(converter=_end, default=None)
    rtol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    atol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)
    record_history: bool = eqx.field(static=True, default=False)

    def _fraction(self, bracket: _Bracket) -> Float[Array, ""]:
        a, fa, b, fb = bracket.a, bracket.fa, bracket.b, bracket.fb
        c, fc = bracket.c, bracket.fc
        # With xi and phi the places of the newest point between the two others, in x
        # and in f, the parabola is monotone where 1 - sqrt(1 - xi) < phi < sqrt(xi).
        xi, phi = _ratio(a - b, c - b), _ratio(fa - fb, fc - fb)
        trusted = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
        # Lagrange's interpolation of (x - a) / (b - a) at f = 0.
        by_b = _ratio(fa, fb - fa) * _ratio(fc, fb - fc)
        by_c = _ratio(c - a, b - a) * _ratio(fa, fc - fa) * _ratio(fb, fc - fb)
        t = by_b + by_c
        t = jnp.where(trusted & jnp.isfinite(t), t, 0.5)
        # Not onto an end again.
        least = 1 / bracket.width(float(jnp.finfo(a.dtype).eps))
        least = jnp.minimum(least, 0.5)
        return jnp.clip(t, least, 1 - least)


def _ratio(x: Array, y: Array) -> Array:
    return x / jnp.where(y == 0, jnp.nan, y)
