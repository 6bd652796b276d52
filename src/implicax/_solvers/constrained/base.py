"""What every solver of nonlinear programs is."""

import abc
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from implicax._core import tree_math
from implicax._solvers.constrained.nonlinear import Nonlinear
from implicax._solvers.programs.scaled import sides

#: An answer of others is at a side from `eps` to this power of it on.
NEAR = 0.25


class Guess(eqx.Module):
    """Where an attempt ended, in the user's units."""

    x: Float[Array, " n"]
    t: Float[Array, " m_plus_n"]
    """Multipliers of the rows and of the bounds, positive at upper sides."""
    side: Int[Array, " m_plus_n"]
    """At which side each seems to be: 1, -1, or 0 for neither."""
    reach: Float[Array, " n"]
    """The largest `|x_i|` on the way."""
    steps: Int[Array, ""]
    unbounded: Bool[Array, ""]
    """Whether the objective falls without end."""
    infeasible: Bool[Array, ""]
    """Whether the violation of the constraints has a minimum here."""

    @classmethod
    def at(cls, program: Nonlinear, x: Float[Array, " n"]) -> "Guess":
        """That `x` is the solution: what is within rounding of a side acts."""
        _, rows = program.parts(x)
        w = jnp.concatenate([rows, x])
        gaps = jnp.where(program.sided, program.slacks(w), jnp.inf)
        near = (
            gaps <= tree_math.coarsest_eps(x) ** NEAR * jnp.maximum(1, jnp.abs(w))[None]
        )
        side = sides(program.fixed | near[0], near[1])
        none = jnp.zeros((), jnp.int32)
        t, no = jnp.zeros_like(w), jnp.zeros((), bool)
        return cls(x, t, side, jnp.abs(x), none, no, no)


class AbstractConstrainedSolver(eqx.Module):
    """A way to the solution of a nonlinear program: as near as its active constraints
    show. From there on the library goes by itself."""

    #: How often it goes on where that has led to no solution.
    attempts: ClassVar[int] = 1

    rtol: eqx.AbstractVar[Float[Array, ""] | None]

    @abc.abstractmethod
    def attempt(
        self,
        program: Nonlinear,
        x: Float[Array, " n"],
        number: Int[Array, ""],
        max_steps: Int[Array, ""],
    ) -> Guess:
        """Where an attempt from `x` ends (they are numbered from zero), in at most
        `max_steps` steps."""
