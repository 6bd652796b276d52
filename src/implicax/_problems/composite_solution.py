"""What comes back from a composite problem."""

import jax
import numpy as np

from implicax._core import tree_math
from implicax._core.solution import Solution, Y
from implicax._problems.program_solution import Degeneracy


class CompositeSolution(Solution[Y]):
    """The solution of a composite problem: a [`implicax.Solution`][] that tells where
    its derivative is one-sided.

    ```python
    import implicax as ix

    problem = ix.Composite(lambda y, a: (y - a) ** 2 / 2, lambda x, a, t: x.clip(0.0))
    print(ix.solve(problem, 1.0, 0.0).degeneracy)
    ```
    ```text
    Degeneracy: weak (a constraint acts with a multiplier of zero)
    ```
    """

    degeneracy: Degeneracy | None = None
    """`weak`: the proximal operator has a kink at the solution."""

    @property
    def kind(self) -> str:
        """What was solved."""
        return "composite"

    def __repr__(self) -> str:
        if not tree_math.known((self.status, self.stats)):
            return "CompositeSolution(<inside a JAX transformation>)"
        text = super().__repr__().replace("Solution:", "CompositeSolution:", 1)
        told = self.degeneracy is not None and tree_math.known(self.degeneracy)
        if told and np.any(np.asarray(jax.tree.leaves(self.degeneracy))):
            text = f"{text}\n  {self.degeneracy!r}"
        return text
