"""Problems: *what* holds at a solution, and what is known of it.

A problem owns its optimality conditions `F(y, args) = 0`. Nothing here knows how a
solution is found, nor how it is differentiated: the implicit function theorem needs
the conditions alone.
"""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
from jaxtyping import PyTree

from implicax._core.domain import AbstractDomain
from implicax._core.user_function import IN_JAX, call_function
from implicax._linear.jacobian_structure import JacobianStructure
from implicax._problems.optimality_conditions import Conditions


class AbstractProblem(eqx.Module):
    """What holds at a solution: base of the problem classes, and of your own.

    A new one says by `conditions` what holds, and by `structure` what is known of the
    Jacobian of its residual. [`implicax.solve`][] and [`implicax.certify`][] take it.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp

    class Circle(ix.AbstractProblem):
        "The point of a circle whose tangent is level."

        def conditions(self, y, radius):
            on_circle = y[0] ** 2 + y[1] ** 2 - radius**2
            return ix.Conditions(residual=jnp.stack([on_circle, y[0]]))

    def top(radius):
        return ix.solve(Circle(), jnp.array([0.5, 1.0]), radius).value[1]

    print(f"{top(2.0):.3f} {jax.grad(top)(2.0):.3f}")
    ```
    ```text
    2.000 1.000
    ```
    """

    #: What is known of `dF/dy`. (Of an objective it is: it is the Hessian.)
    structure: ClassVar[JacobianStructure] = JacobianStructure()

    @abc.abstractmethod
    def conditions(self, y: PyTree, args: PyTree) -> Conditions:
        """What holds at a solution, at `y` and `args`: traced by JAX."""

    def active_set(self, y0: PyTree, args: PyTree) -> PyTree[Any]:
        """What of `y0` the conditions hold on, and do not vary with: nothing, unless
        there are constraints."""
        del y0, args
        return ()

    def conditions_on(self, active: PyTree[Any], y: PyTree, args: PyTree) -> Any:
        """As `conditions`, on that. (What a user's says is checked later.)"""
        del active
        return self.conditions(y, args)

    def constrained(self) -> Any:
        """The problem with its bounds and constraints in it, if it has any."""
        return None


class FunctionProblem(AbstractProblem):
    """A problem that one function states.

    `fn` is the user's function; `has_aux` says that it returns `(output, aux)`;
    `domain` is where the unknown is, if that is no vector space; `sparsity` where
    `dF/dy` may be other than zero.
    """

    fn: Callable[[Any, Any], Any]
    has_aux: bool = eqx.field(static=True, default=False)
    domain: Any = None
    sparsity: Any = None

    def __check_init__(self):
        # (It is higher up in the house: known by what it says of itself.)
        if getattr(self.fn, "runs_on_host", False):
            raise TypeError(
                "fn must be written in JAX, which differentiates it, and ix.host makes "
                f"a *solver* of host code. {IN_JAX}."
            )
        if not isinstance(self.domain, AbstractDomain | None):
            raise TypeError(
                "domain must be None (any pytree of arrays) or an ix.AbstractDomain, "
                f"and it is {self.domain!r}."
            )
        if self.domain is not None and self.sparsity is not None:
            raise TypeError(
                "sparsity= is that of arrays, and this problem has a domain. Leave one "
                "of them out."
            )
        if not callable(self.fn):
            raise TypeError(
                "fn must be a function (y, args), the first argument of ix.root(fn, "
                f"y0, args) and its kin, and it is {self.fn!r}."
            )

    def evaluate(self, y: PyTree, args: PyTree) -> tuple[Any, Any]:
        """What `fn` returns, and the auxiliary output."""
        output = call_function(self.fn, y, args)
        if not self.has_aux:
            # Nothing at all is a wrong answer, not one that was left out.
            return () if output is None else output, None
        if not (isinstance(output, tuple) and len(output) == 2):
            raise TypeError(
                "has_aux=True: fn must return a pair (output, aux), and it "
                f"returned {type(output).__name__}."
            )
        return output
