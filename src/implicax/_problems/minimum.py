"""Minima: `fn(y, args)` is least."""

from typing import Any

from implicax._problems.base import FunctionProblem
from implicax._problems.constrained import within
from implicax._problems.optimality_conditions import Conditions


class Minimum(FunctionProblem):
    """`y` minimises `fn(y, args)`; the conditions are `F = d fn / dy`.

    **Arguments:**

    - `fn`: takes `(y, args)`, returns a real scalar (or a pair of that and an auxiliary
      output, with `has_aux=True`).
    - `domain`: where `y` is, if not in a vector space: an
      [`implicax.AbstractDomain`][], such as a sphere.
    - `sparsity`: where the Hessian may be other than zero: `"auto"`, or an
      [`implicax.Sparsity`][].
    - `bounds`, `constraints`: as of [`implicax.minimize`][].

    ```python
    import implicax as ix
    import jax.numpy as jnp

    problem = ix.Minimum(lambda y, a: jnp.sum((y - a) ** 4 + y**2))
    ```
    """

    bounds: Any = None
    constraints: Any = ()

    def __check_init__(self):
        self.constrained()

    def constrained(self):
        return within(self, self.bounds, self.constraints)

    def conditions(self, y, args):
        output, aux = self.evaluate(y, args)
        return Conditions(objective=output, aux=aux)
