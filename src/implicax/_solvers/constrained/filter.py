"""Which trial points are progress: less violation, or a lower barrier function."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

#: Sufficient progress: of the violation, of the barrier function, ... (Waechter &
#: Biegler 2006, eq. 18 to 20, with the values of that paper.)
THETA, PHI = 1e-5, 1e-8
#: ... and where the barrier function falls steeply, Armijo's.
DELTA, S_THETA, S_PHI, ARMIJO = 1.0, 1.1, 2.3, 1e-4
#: A violation is small below, and too large above, these multiples of the first one.
SMALL, LARGE = 1e-4, 1e4
#: Entries that are kept.
ENTRIES = 48


class Merit(eqx.Module):
    """The two aims at one point."""

    theta: Float[Array, ""]
    """The violation, `sum |c - s|`."""
    phi: Float[Array, ""]
    """The barrier function of the program."""
    goal: Float[Array, ""]
    """What steps lower: `phi`, or in restoration the barrier function of the
    violation."""


class Filter(eqx.Module):
    """Pairs of a violation and a barrier function: one of both is to be improved."""

    pairs: Float[Array, "entries 2"]
    count: Int[Array, ""]
    first: Float[Array, ""]
    """The violation at the start."""

    @classmethod
    def empty(cls, theta: Float[Array, ""]) -> "Filter":
        pairs = jnp.full((ENTRIES, 2), jnp.inf, theta.dtype)
        return cls(pairs, jnp.zeros((), jnp.int32), theta)

    def cleared(self, where: Bool[Array, ""]) -> "Filter":
        pairs = jnp.where(where, jnp.inf, self.pairs)
        return Filter(pairs, jnp.where(where, 0, self.count), self.first)

    def with_entry(self, merit: Merit, where: Bool[Array, ""]) -> "Filter":
        entry = (1 - THETA) * merit.theta, merit.phi - PHI * merit.theta
        pairs = self.pairs.at[self.count % ENTRIES].set(jnp.stack(entry))
        pairs = jnp.where(where, pairs, self.pairs)
        return Filter(pairs, self.count + where.astype(jnp.int32), self.first)

    def admits(self, trial: Merit) -> Bool[Array, ""]:
        better = (trial.theta <= self.pairs[:, 0]) | (trial.phi <= self.pairs[:, 1])
        return better.all() & (trial.theta <= LARGE * jnp.maximum(1, self.first))

    def accepts(
        self, now: Merit, trial: Merit, slope: Array, t: Array, noise: Array
    ) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
        """Whether a step of length `t` from `now` to `trial` is one, where the goal
        falls by `slope`; and whether it is one for the barrier function's sake, which
        leaves no entry."""
        armijo = falls_enough(now, trial, slope, t, noise)
        ahead = t * jnp.abs(slope) ** S_PHI > DELTA * now.theta**S_THETA
        small = now.theta <= SMALL * jnp.maximum(1, self.first)
        descent = (slope < 0) & ahead & small
        less = trial.theta <= (1 - THETA) * now.theta
        lower = trial.phi <= now.phi - PHI * now.theta + noise
        fine = jnp.where(descent, armijo, less | lower)
        return fine & self.admits(trial), descent & armijo


def falls_enough(
    now: Merit, trial: Merit, slope: Array, t: Array, noise: Array
) -> Bool[Array, ""]:
    """Armijo's condition on the goal, up to rounding."""
    return trial.goal <= now.goal + ARMIJO * t * slope + noise
