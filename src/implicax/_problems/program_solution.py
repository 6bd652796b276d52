"""What comes back from a program: a solution with its multipliers, and what is
degenerate about it."""

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from implicax._core import tree_math
from implicax._core.solution import Solution
from implicax._problems.program import Dual


class Degeneracy(eqx.Module):
    """What keeps a program's solution from being differentiable, or its multipliers.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    twice = jnp.ones((2, 2))
    solution = ix.quadratic_program(jnp.eye(2), -jnp.ones(2), A=twice, b=jnp.ones(2))
    print(solution.degeneracy)
    ```
    ```text
    Degeneracy: dependent (active constraints depend on each other)
    ```
    """

    weak: Bool[Array, "..."]
    """A constraint holds with equality, and its multiplier is zero: for data to one
    side it acts, to the other not. The derivative is that of not acting."""
    dependent: Bool[Array, "..."]
    """Active constraints depend on each other: multipliers are not unique (these are
    the ones nearest to where the solver came from), and their derivative is the least
    of many. That of `value` exists where the constraints stay consistent."""
    not_unique: Bool[Array, "..."]
    """`value` is one of many solutions: it has no derivative, `objective` has."""

    @property
    def any(self) -> Bool[Array, "..."]:
        """Whether there is any."""
        return self.weak | self.dependent | self.not_unique

    def __repr__(self) -> str:
        if not tree_math.known(self):
            return "Degeneracy(<inside a JAX transformation>)"
        texts = {
            "weak": "a constraint acts with a multiplier of zero",
            "dependent": "active constraints depend on each other",
            "not_unique": "one solution of many",
        }
        flags = {name: np.asarray(getattr(self, name)) for name in texts}
        if flags["weak"].ndim:
            found = [f"{int(f.sum())} {name}" for name, f in flags.items() if f.any()]
        else:
            found = [f"{name} ({texts[name]})" for name, f in flags.items() if f]
        return "Degeneracy: " + (", ".join(found) or "none")


class ProgramSolution(Solution[Float[Array, "..."]]):
    """The solution of a program: a [`implicax.Solution`][] with multipliers.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    solution = ix.quadratic_program(jnp.eye(2), -jnp.ones(2), bounds=(None, 0.5))
    print(solution.value, solution.dual.bounds > 0, solution.objective)
    ```
    ```text
    [0.5 0.5] [ True  True] -0.75
    ```
    """

    dual: Dual = Dual()
    """The multipliers, by kind of constraint (differentiable)."""
    degeneracy: Degeneracy | None = None
    """What is degenerate about the solution."""
    farkas: Dual = Dual()
    """Where the program is infeasible, the proof (Farkas): multipliers `u`, `z`, `w` of
    the right signs with `A^T u + G^T z + w = 0`, of which the sides of the constraints
    make a negative sum. NaN elsewhere."""
    ray: Float[Array, "..."] | None = None
    """Where it is unbounded, the proof: a direction that stays feasible, and along
    which the objective falls without end. NaN elsewhere."""

    @property
    def kind(self) -> str:
        """What was solved."""
        return "program"

    @property
    def unknown(self) -> PyTree:
        """What the conditions are about: `value` and its multipliers."""
        return self.value, self.dual

    def __repr__(self) -> str:
        if not tree_math.known((self.status, self.stats)):
            return "ProgramSolution(<inside a JAX transformation>)"
        first, *lines = super().__repr__().split("\n")
        first = first.replace("Solution:", "ProgramSolution:", 1)
        kinds = ("equality", "inequality", "bounds")
        for kind in kinds:
            dual = getattr(self.dual, kind)
            if dual is not None and tree_math.known(dual) and np.ndim(dual) == 1:
                acting = f"{int(np.sum(np.asarray(dual) != 0))} of {dual.size} act"
                lines.append(f"  {kind:<10}{acting}")
        told = self.degeneracy is not None and tree_math.known(self.degeneracy)
        if told and np.any(np.asarray(jax.tree.leaves(self.degeneracy))):
            lines.append(f"  {self.degeneracy!r}")
        return "\n".join([first, *lines])
