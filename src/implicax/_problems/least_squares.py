"""Fits: the sum of the squares of `fn(y, args)`, or of another loss, is least."""

from typing import Any

from implicax._problems.base import FunctionProblem
from implicax._problems.constrained import within
from implicax._problems.losses import AbstractLoss
from implicax._problems.optimality_conditions import Conditions


class LeastSquares(FunctionProblem):
    """`y` minimises `1/2 sum |fn(y, args)|^2`; the conditions are that its gradient is
    zero.

    **Arguments:**

    - `fn`: takes `(y, args)`, returns the errors: any pytree of floating or complex
      arrays (or a pair of that and an auxiliary output, with `has_aux=True`).
    - `loss`: how the errors are weighed: `None` for plain squares, or
      [`implicax.Huber`][], [`implicax.SoftL1`][], [`implicax.Cauchy`][],
      [`implicax.Welsch`][], [`implicax.Tukey`][] with a scale. (Real and imaginary
      parts of a complex error are weighed by themselves.)
    - `domain`: where `y` is, if not in a vector space: an
      [`implicax.AbstractDomain`][], such as a sphere.
    - `sparsity`: where the Hessian may be other than zero: `"auto"`, or an
      [`implicax.Sparsity`][].
    - `bounds`, `constraints`: as of [`implicax.minimize`][].

    ```python
    import implicax as ix

    problem = ix.LeastSquares(lambda y, a: y - a, loss=ix.Huber(0.5))
    ```
    """

    loss: AbstractLoss | None = None
    bounds: Any = None
    constraints: Any = ()

    def __check_init__(self):
        self.constrained()
        if not isinstance(self.loss, AbstractLoss | None):
            raise TypeError(
                "loss must be None (plain squares) or one of ix.Huber(scale), "
                f"SoftL1, Cauchy, Welsch, Tukey, and it is {self.loss!r}."
            )

    def constrained(self):
        return within(self, self.bounds, self.constraints)

    def conditions(self, y, args):
        output, aux = self.evaluate(y, args)
        return Conditions(errors=output, loss=self.loss, aux=aux)
