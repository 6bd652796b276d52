"""Fixed points: `y = fn(y, args)`."""

from typing import Any, ClassVar

import jax

from implicax._core.checks import match
from implicax._linear.jacobian_structure import JacobianStructure
from implicax._problems.base import FunctionProblem
from implicax._problems.optimality_conditions import Conditions


class FixedPoint(FunctionProblem):
    """`y = fn(y, args)`; the conditions are `F(y, args) = y - fn(y, args)`.

    **Arguments:**

    - `fn`: takes `(y, args)`, returns a pytree with the structure, shapes and dtypes of
      `y` (or a pair of that and an auxiliary output, with `has_aux=True`).
    - `sparsity`: where `I - dfn/dy` may be other than zero: `"auto"`, or an
      [`implicax.Sparsity`][].

    ```python
    import implicax as ix
    import jax.numpy as jnp

    problem = ix.FixedPoint(lambda y, a: jnp.cos(a * y))
    ```
    """

    structure: ClassVar[JacobianStructure] = JacobianStructure(fixed_point=True)

    def conditions(self, y, args):
        output, aux = self.evaluate(y, args)
        output = match(output, y, "fn must return a", "new iterate")
        return Conditions(jax.tree.map(_minus, y, output), aux=aux)


def _minus(y: Any, f: Any) -> Any:
    return y if callable(y) else y - f
