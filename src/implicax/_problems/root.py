"""Roots: `fn(y, args) = 0`."""

from typing import Any

from implicax._problems.base import FunctionProblem
from implicax._problems.constrained import within
from implicax._problems.optimality_conditions import Conditions


class Root(FunctionProblem):
    """`fn(y, args) = 0`; the conditions are `F = fn`.

    **Arguments:**

    - `fn`: takes `(y, args)`, returns the residual: as many numbers as `y` has, in the
      same dtype (or a pair of that and an auxiliary output, with `has_aux=True`). The
      structure and shapes of `y` are best; in others, numbers are taken in their order.
    - `domain`: where `y` is, if not in a vector space: an
      [`implicax.AbstractDomain`][], such as a sphere.
    - `sparsity`: where `dF/dy` may be other than zero: `"auto"`, or an
      [`implicax.Sparsity`][].
    - `bounds`: as of [`implicax.minimize`][]: where `y` is while solving.

    ```python
    import implicax as ix

    problem = ix.Root(lambda y, a: y**2 - a)
    ```
    """

    bounds: Any = None

    def __check_init__(self):
        self.constrained()

    def constrained(self):
        return within(self, self.bounds, equations=True)

    def conditions(self, y, args):
        output, aux = self.evaluate(y, args)
        return Conditions(residual=output, aux=aux)
