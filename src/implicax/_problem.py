"""Problems: *what* holds at a solution, and what is known of it.

A problem owns its optimality conditions `F(y, args) = 0`. Nothing here knows how a
solution is found, nor how it is differentiated: the implicit function theorem needs
the conditions alone.
"""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx


class AbstractProblem(eqx.Module):
    """Base of the problem classes.

    `fn` is the user's function; `has_aux` says that it returns `(output, aux)`.
    """

    fn: Callable[[Any, Any], Any]
    has_aux: bool = eqx.field(static=True, default=False)

    #: Whether `dF/dy = I - A` with `A` the Jacobian of a map that one may hope
    #: contracts. Then the residual has the unit of `y`, and the linear systems can be
    #: solved by iterating the map's own linearisation.
    fixed_point: ClassVar[bool] = False
    #: What `fn` returns, as error messages call it.
    output: ClassVar[str] = "output"

    @abc.abstractmethod
    def residual(self, y: Any, output: Any) -> Any:
        """`F` for an unknown leaf `y` and the leaf of `fn`'s output that matches it."""


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

    fixed_point: ClassVar[bool] = True
    output: ClassVar[str] = "new iterate"

    def residual(self, y: Any, output: Any) -> Any:
        return y - output


class Root(AbstractProblem):
    """`fn(y, args) = 0`; the conditions are `F = fn`.

    **Arguments:**

    - `fn`: takes `(y, args)`, returns the residual: a pytree with the structure, shapes
      and dtypes of `y` (or a pair of that and an auxiliary output, with
      `has_aux=True`).

    ```python
    import implicax as ix

    problem = ix.Root(lambda y, a: y**2 - a)
    ```
    """

    output: ClassVar[str] = "residual"

    def residual(self, y: Any, output: Any) -> Any:
        return output
