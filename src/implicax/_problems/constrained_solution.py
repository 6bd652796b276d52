"""What comes back where there are bounds or constraints: a solution with
multipliers."""

import jax
import numpy as np
from jaxtyping import PyTree

from implicax._core import tree_math
from implicax._core.solution import Solution, Y
from implicax._problems.constraints import Multipliers
from implicax._problems.program_solution import Degeneracy


class ConstrainedSolution(Solution[Y]):
    """A minimum or a fit within its bounds and constraints: a [`implicax.Solution`][]
    with multipliers.

    ```python
    import implicax as ix

    solution = ix.minimize(lambda y, a: (y - a) ** 2, 0.5, 2.0, bounds=(0.0, 1.0))
    print(solution.value, solution.dual.bounds)
    ```
    ```text
    1.0 2.0
    ```
    """

    dual: Multipliers = Multipliers()
    """The multipliers (differentiable)."""
    degeneracy: Degeneracy | None = None
    """What is degenerate about the solution."""

    @property
    def kind(self) -> str:
        """What was solved."""
        return "constrained"

    @property
    def unknown(self) -> PyTree:
        """What the conditions are about: `value` and its multipliers."""
        return self.value, self.dual

    def __repr__(self) -> str:
        if not tree_math.known((self.status, self.stats)):
            return "ConstrainedSolution(<inside a JAX transformation>)"
        first, *lines = super().__repr__().split("\n")
        first = first.replace("Solution:", "ConstrainedSolution:", 1)
        kinds = {"constraints": self.dual.constraints, "bounds": self.dual.bounds}
        for kind, dual in kinds.items():
            leaves = jax.tree.leaves(dual)
            if leaves and tree_math.known(dual) and np.ndim(self.converged) == 0:
                acting = sum(int(np.sum(np.asarray(leaf) != 0)) for leaf in leaves)
                size = sum(leaf.size for leaf in leaves)
                lines.append(f"  {kind:<9} {acting} of {size} act")
        told = self.degeneracy is not None and tree_math.known(self.degeneracy)
        if told and np.any(np.asarray(jax.tree.leaves(self.degeneracy))):
            lines.append(f"  {self.degeneracy!r}")
        return "\n".join([first, *lines])
