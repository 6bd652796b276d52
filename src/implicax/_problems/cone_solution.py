"""What comes back from a cone program."""

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from implicax._core import tree_math
from implicax._core.solution import Solution
from implicax._problems.program_solution import Degeneracy


class ConeSolution(Solution[Float[Array, "..."]]):
    """The solution of a cone program: a [`implicax.Solution`][] with multipliers.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    cone, identity = ix.cones.Nonnegative(1), jnp.eye(1)
    solution = ix.cone_program(identity, -jnp.ones(1), identity, jnp.zeros(1), [cone])
    print(solution.value, solution.dual)
    ```
    ```text
    [0.] (Array([1.], dtype=float32),)
    ```
    """

    dual: tuple[Float[Array, "..."], ...] = ()
    """The multipliers, those of each cone (differentiable)."""
    slack: tuple[Float[Array, "..."], ...] = ()
    """`b - A x`, of each cone (differentiable)."""
    degeneracy: Degeneracy | None = None
    """What is degenerate about the solution."""
    farkas: tuple[Float[Array, "..."], ...] = ()
    """Where the program is infeasible, the proof: multipliers `z` in the dual cones
    with `A^T z = 0` and `b^T z < 0`. NaN elsewhere."""
    ray: Float[Array, "..."] | None = None
    """Where it is unbounded, the proof: a direction `d` with `P d = 0`, `-A d` in the
    cones and `q^T d < 0`. NaN elsewhere."""

    free: Bool[Array, "..."] | None = None
    """Which unknowns are not determined, where the solution is one of many."""

    @property
    def kind(self) -> str:
        """What was solved."""
        return "cones"

    @property
    def unknown(self) -> PyTree:
        """What the conditions are about: `value` and its multipliers."""
        return self.value, jax.numpy.concatenate(self.dual, -1)

    def __repr__(self) -> str:
        if not tree_math.known((self.status, self.stats)):
            return "ConeSolution(<inside a JAX transformation>)"
        text = super().__repr__().replace("Solution:", "ConeSolution:", 1)
        told = self.degeneracy is not None and tree_math.known(self.degeneracy)
        if told and np.any(np.asarray(jax.tree.leaves(self.degeneracy))):
            text = f"{text}\n  {self.degeneracy!r}"
        return text
