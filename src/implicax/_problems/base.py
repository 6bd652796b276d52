"""Problems: *what* holds at a solution, and what is known of it.

A problem owns its optimality conditions `F(y, args) = 0`. Nothing here knows how a
solution is found, nor how it is differentiated: the implicit function theorem needs
the conditions alone.
"""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from implicax._core import tree_math
from implicax._core.checks import match
from implicax._core.real_view import View
from implicax._core.user_function import IN_JAX
from implicax._problems.conditions import (
    Conditions,
    FixedPointConditions,
    NormalEquations,
    Stationarity,
)
from implicax._problems.losses import AbstractLoss, Squares
from implicax._problems.residual import as_residual


class AbstractProblem(eqx.Module):
    """Base of the problem classes.

    `fn` is the user's function; `has_aux` says that it returns `(output, aux)`.
    """

    fn: Callable[[Any, Any], Any]
    has_aux: bool = eqx.field(static=True, default=False)

    #: What becomes of what `close` returns.
    conditions: ClassVar[type[Conditions]] = Conditions

    def __check_init__(self):
        if getattr(self.fn, "runs_on_host", False):
            raise TypeError(
                "fn must be written in JAX, which differentiates it, and ix.host makes "
                f"a *solver* of host code. {IN_JAX}."
            )
        if not callable(self.fn):
            raise TypeError(
                "fn must be a function (y, args), the first argument of ix.root(fn, "
                f"y0, args) and its kin, and it is {self.fn!r}."
            )

    @abc.abstractmethod
    def close(self, y: PyTree[Array], output: Any, view: View) -> Any:
        """What `fn` returned at `y`, checked, as real arrays."""


class FixedPoint(AbstractProblem):
    """`y = fn(y, args)`; the conditions are `F(y, args) = y - fn(y, args)`.

    **Arguments:**

    - `fn`: takes `(y, args)`, returns a pytree with the structure, shapes and dtypes of
      `y` (or a pair of that and an auxiliary output, with `has_aux=True`).

    ```python
    import implicax as ix
    import jax.numpy as jnp

    problem = ix.FixedPoint(lambda y, a: jnp.cos(a * y))
    ```
    """

    conditions: ClassVar[type[Conditions]] = FixedPointConditions

    def close(self, y: PyTree[Array], output: Any, view: View) -> Any:
        output = match(output, y, "fn must return a", "new iterate")
        return view.to_real(jax.tree.map(lambda a, b: a - b, y, output))


class Root(AbstractProblem):
    """`fn(y, args) = 0`; the conditions are `F = fn`.

    **Arguments:**

    - `fn`: takes `(y, args)`, returns the residual: as many numbers as `y` has, in the
      same dtype (or a pair of that and an auxiliary output, with `has_aux=True`). The
      structure and shapes of `y` are best; in others, numbers are taken in their order.

    ```python
    import implicax as ix

    problem = ix.Root(lambda y, a: y**2 - a)
    ```
    """

    def close(self, y: PyTree[Array], output: Any, view: View) -> Any:
        return as_residual(output, y, view)


class Minimum(AbstractProblem):
    """`y` minimises `fn(y, args)`; the conditions are `F = d fn / dy`.

    **Arguments:**

    - `fn`: takes `(y, args)`, returns a real scalar (or a pair of that and an auxiliary
      output, with `has_aux=True`).

    ```python
    import implicax as ix
    import jax.numpy as jnp

    problem = ix.Minimum(lambda y, a: jnp.sum((y - a) ** 4 + y**2))
    ```
    """

    conditions: ClassVar[type[Conditions]] = Stationarity

    def close(self, y: PyTree[Array], output: Any, view: View) -> Any:
        leaves = jax.tree.leaves(output)
        output = jnp.asarray(leaves[0]) if len(leaves) == 1 else None
        floating = output is not None and jnp.issubdtype(output.dtype, jnp.floating)
        if output is None or output.shape != () or not floating:
            came = "a pytree" if output is None else f"{output.dtype}{output.shape}"
            raise TypeError(
                "fn must return the objective, a real scalar, and it returned "
                f"{came}. (For a pair with auxiliary output, pass has_aux=True; for a "
                "vector of errors whose squares are to be summed, use "
                "ix.least_squares.)"
            )
        dtypes = {leaf.dtype for leaf in view.to_real(y)}
        if output.dtype not in dtypes and not output.weak_type:
            raise TypeError(
                f"fn must return the objective in the precision of y0, and it returned "
                f"{output.dtype} for a y0 of {', '.join(map(str, dtypes))}. Pass y0 "
                "and args in one precision."
            )
        return output.astype(tree_math.working_dtype(view.to_real(y)))


class LeastSquares(AbstractProblem):
    """`y` minimises `1/2 sum |fn(y, args)|^2`; the conditions are that its gradient is
    zero.

    **Arguments:**

    - `fn`: takes `(y, args)`, returns the errors: any pytree of floating or complex
      arrays (or a pair of that and an auxiliary output, with `has_aux=True`).
    - `loss`: how the errors are weighed: `None` for plain squares, or
      [`implicax.Huber`][], [`implicax.SoftL1`][], [`implicax.Cauchy`][],
      [`implicax.Welsch`][], [`implicax.Tukey`][] with a scale. (Real and imaginary
      parts of a complex error are weighed by themselves.)

    ```python
    import implicax as ix

    problem = ix.LeastSquares(lambda y, a: y - a, loss=ix.Huber(0.5))
    ```
    """

    loss: AbstractLoss | None = None

    conditions: ClassVar[type[Conditions]] = NormalEquations

    def __check_init__(self):
        if not isinstance(self.loss, AbstractLoss | None):
            raise TypeError(
                "loss must be None (plain squares) or one of ix.Huber(scale), "
                f"SoftL1, Cauchy, Welsch, Tukey, and it is {self.loss!r}."
            )

    def close(self, y: PyTree[Array], output: Any, view: View) -> Any:
        errors = jax.tree.map(jnp.asarray, output)
        leaves = jax.tree.leaves(errors)
        if sum(leaf.size for leaf in leaves) == 0:
            raise ValueError(
                f"fn must return the errors of the fit, and it returned {output!r}, "
                "which holds no numbers."
            )
        dtypes = {leaf.dtype for leaf in view.to_real(y)}
        for leaf in leaves:
            loose = leaf.weak_type and jnp.issubdtype(leaf.dtype, jnp.inexact)
            if leaf.real.dtype not in dtypes and not loose:
                raise TypeError(
                    f"fn must return errors of the precision of y0, and it returned "
                    f"{leaf.dtype} for a y0 of {', '.join(map(str, dtypes))}. Pass y0 "
                    "and args in one precision."
                )
        loss = Squares() if self.loss is None else self.loss
        return View.of(errors).to_real(errors), loss
