"""What every solver of composite problems is: steps by gradients and the proximal
operator. From where they lead near the solution, the library goes by itself."""

import abc
import operator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from implicax._core import tree_math
from implicax._core.traced_function import TracedFunction
from implicax._problems.composite import fitting_length, scalings

#: How often a step length may be halved in one search.
HALVINGS = 60
#: How much longer the next step is tried.
LONGER = 1.25
#: Differences of a function below so many of its rounding units tell nothing.
ROUNDING = 10.0


class Split(eqx.Module):
    """A composite problem at its arguments, as functions of the unknown.

    The unknown is `y` in units of its own, where those of its entries can differ.
    """

    smooth: TracedFunction = eqx.field(static=True)
    prox: TracedFunction = eqx.field(static=True)
    inputs: tuple[PyTree[Array], PyTree[Array]]
    """Those of both."""
    units: PyTree[Array] | None
    """Those of the unknowns."""

    def to_user(self, x: PyTree[Array]) -> PyTree[Array]:
        return x if self.units is None else jax.tree.map(operator.mul, self.units, x)

    def from_user(self, y: PyTree[Array]) -> PyTree[Array]:
        if self.units is None:
            return y
        return jax.tree.map(operator.truediv, y, self.units)

    def value(self, x: PyTree[Array]) -> Float[Array, ""]:
        return self.smooth.output(self.to_user(x), self.inputs[0])

    def value_and_gradient(self, x: PyTree[Array]) -> tuple[Array, PyTree[Array]]:
        return jax.value_and_grad(self.value)(x)

    def proximal(self, x: PyTree[Array], length: Array) -> PyTree[Array]:
        """The proximal operator for a step of that length."""
        point = self.to_user(x), scalings(length, self.units)
        return self.from_user(self.prox.output(point, self.inputs[1]))

    def first_length(self, x: PyTree[Array]) -> Float[Array, ""]:
        return fitting_length(self.value, x)

    def noise(self, value: Array) -> Array:
        """What rounding makes of a difference from `value`."""
        return ROUNDING * float(jnp.finfo(value.dtype).eps) * jnp.abs(value)


class CompositeState(eqx.Module):
    """Where a solver stands."""

    y: PyTree[Array]
    length: Float[Array, ""]
    """Of the last step."""
    memory: Any
    """The solver's own."""
    halted: Bool[Array, ""]
    """Whether the solver cannot go on from here."""


class AbstractCompositeSolver(eqx.Module):
    """A way to the solution of an [`implicax.Composite`][] problem.

    A new one needs `start` and `step`; the loop, the last digits, the verdict and the
    derivative come with the library.

    **Arguments** (of every solver):

    - `rtol`: the relative error that each unknown may have. `None` means `eps**0.8` of
      its dtype (3e-13 in float64, 3e-6 in float32).
    """

    rtol: eqx.AbstractVar[Float[Array, ""] | None]

    @abc.abstractmethod
    def start(self, split: Split, y: PyTree, length: Array) -> CompositeState:
        """The state at `y`, with steps of about that length ahead."""

    @abc.abstractmethod
    def step(self, split: Split, state: CompositeState) -> CompositeState:
        """The next state."""


class Trial(eqx.Module):
    """A step of some length, and whether it is good."""

    length: Float[Array, ""]
    y: PyTree[Array]
    value: Float[Array, ""]
    good: Bool[Array, ""]
    halvings: Array


def search(reach: Any, accept: Any, split: Split, y: PyTree, length: Array) -> Trial:
    """Halve `length` until `accept(y, value, length)` holds of `y = reach(length)`."""

    def attempt(length: Array, halvings: Array) -> Trial:
        new = reach(length)
        value = split.value(new)
        good = jnp.isfinite(value) & accept(new, value, length)
        return Trial(length, new, value, good, halvings)

    none = jnp.zeros((), jnp.int32)
    no, infinite = jnp.zeros((), bool), jnp.full_like(length, jnp.inf)
    first = Trial(2 * length, y, infinite, no, none)
    return tree_math.while_loop(
        lambda trial: ~trial.good & (trial.halvings < HALVINGS),
        lambda trial: attempt(trial.length / 2, trial.halvings + 1),
        first,
    )
