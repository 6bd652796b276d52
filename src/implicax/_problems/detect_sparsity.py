"""A look at the sparsity of a problem, before it is solved."""

import dataclasses

from jaxtyping import PyTree

from implicax._linear.sparsity import Sparsity
from implicax._problems.base import FunctionProblem
from implicax._problems.canonical import canonicalize
from implicax._problems.find_sparsity import detect


def detect_sparsity(
    problem: FunctionProblem, y0: PyTree, args: PyTree = None
) -> Sparsity:
    """The sparsity pattern of `dF/dy`, as `sparsity="auto"` finds it.

    It is that of every `y` and `args` of these shapes; integers outside of `jit` count
    with their values.

    **Arguments:**

    - `problem`: such as [`implicax.Root`][]`(fn)`; of a minimum or a fit the pattern is
      that of the Hessian.
    - `y0`, `args`: as of [`implicax.solve`][].

    **Returns:** an [`implicax.Sparsity`][], to look at (`.nonzeros`, `.num_colors`,
    `.seconds`) or to pass as `sparsity=`.

    **Raises:** `RuntimeError` where asdex does not see it (an inner solve in `fn`,
    say); `ImportError` where asdex is missing: `pip install 'implicax[sparse]'`.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    def heat(u, source):
        padded = jnp.pad(u, 1)
        return 2 * u - padded[2:] - padded[:-2] - source

    print(ix.detect_sparsity(ix.Root(heat), jnp.zeros(100), 1.0))
    ```
    ```text
    Sparsity(n=100, nonzeros=298, colors=3)
    ```
    """
    if not isinstance(problem, FunctionProblem):
        raise TypeError(
            "problem must be ix.Root(fn), ix.FixedPoint(fn), ix.Minimum(fn) or "
            f"ix.LeastSquares(fn), and it is {problem!r}."
        )
    problem = dataclasses.replace(problem, sparsity=None)
    canonical = canonicalize(problem, y0, args)
    return detect(canonical.conditions, canonical.v0, canonical.inputs)
