"""What every solver of programs is."""

import abc
from typing import Any, ClassVar

import equinox as eqx
from jaxtyping import Array, Float, Int

from implicax._solvers.programs.scaled import Scaled
from implicax._solvers.programs.verdict import Guess


class AbstractProgramSolver(eqx.Module):
    """A way to the solution of a program: as near as its active constraints show.

    From there on the library goes by itself: to the solution on these constraints, the
    verdict, the proofs, and the derivative.
    """

    #: How often it goes on where that has led to no solution. The last one of several
    #: looks for a feasible point alone.
    attempts: ClassVar[int] = 1

    rtol: eqx.AbstractVar[Float[Array, ""] | None]

    @abc.abstractmethod
    def init(self, program: Scaled) -> Any:
        """Its state before the first attempt."""

    @abc.abstractmethod
    def attempt(
        self,
        program: Scaled,
        state: Any,
        number: Int[Array, ""],
        max_steps: Int[Array, ""],
    ) -> tuple[Any, Guess, Int[Array, ""]]:
        """The state after an attempt (they are numbered from zero), where that ended,
        and the steps that it took: at most `max_steps`, and none if that is zero."""
