"""Constraints of a minimum or of a fit: functions of the unknown, and bounds on it."""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from implicax._core import tree_math
from implicax._core.user_function import call_function


class AbstractConstraint(eqx.Module):
    """Something that a function of the unknown must fulfil."""

    #: Between what its numbers must lie.
    limits: ClassVar[tuple[float, float]]

    fn: Callable[[Any, Any], Any]

    def __check_init__(self):
        if not callable(self.fn):
            raise TypeError(
                f"ix.{type(self).__name__} takes a function (y, args), and it is "
                f"{self.fn!r}. (Bounds on y itself are bounds=(lower, upper).)"
            )

    def evaluate(self, y: PyTree, args: PyTree) -> PyTree[Array]:
        """What `fn` returns, checked."""
        values = jax.tree.map(jnp.asarray, call_function(self.fn, y, args))
        leaves = jax.tree.leaves(values)
        if not leaves or not all(
            jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves
        ):
            came = ", ".join(str(leaf.dtype) for leaf in leaves) or "nothing"
            raise TypeError(
                f"The function of ix.{type(self).__name__} must return real floating "
                f"numbers (any pytree of arrays), and it returned {came}."
            )
        return values


class Equal(AbstractConstraint):
    """`fn(y, args)` is zero.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    circle = ix.Equal(lambda y, a: jnp.sum(y**2) - 2.0)
    start = jnp.array([1.0, 0.5])
    print(ix.minimize(lambda y, a: jnp.sum(y), start, constraints=[circle]).value)
    ```
    ```text
    [-1. -1.]
    ```
    """

    limits = (0.0, 0.0)


class AtLeast(AbstractConstraint):
    """`fn(y, args)` is zero or more.

    ```python
    import implicax as ix

    above = ix.AtLeast(lambda y, a: y - 2.0)
    print(ix.minimize(lambda y, a: y**2, 3.0, constraints=[above]).value)
    ```
    ```text
    2.0
    ```
    """

    limits = (0.0, float("inf"))


class AtMost(AbstractConstraint):
    """`fn(y, args)` is zero or less.

    ```python
    import implicax as ix

    below = ix.AtMost(lambda y, a: y + 2.0)
    print(ix.minimize(lambda y, a: y**2, -3.0, constraints=[below]).value)
    ```
    ```text
    -2.0
    ```
    """

    limits = (-float("inf"), 0.0)


class Multipliers(eqx.Module):
    """The multipliers of constraints and bounds.

    With `L = objective + sum t_i c_i(y) + sum w_i y_i`, at a solution `dL/dy = 0`. A
    multiplier is positive where an upper side acts, negative where a lower one does,
    zero where none does; of equations it has either sign.

    ```python
    import implicax as ix

    above = ix.AtLeast(lambda y, a: y - 2.0)
    print(ix.minimize(lambda y, a: y**2, 3.0, constraints=[above]).dual.constraints)
    ```
    ```text
    (Array(-4., dtype=float32),)
    ```
    """

    constraints: tuple[PyTree[Array], ...] = ()
    """One for each constraint, as what its function returns."""
    bounds: PyTree[Array] | None = None
    """Of the bounds, as the unknown; `None` where there are none."""


def check_constraints(constraints: Any) -> tuple[AbstractConstraint, ...]:
    """A sequence of constraints, or an error."""
    if isinstance(constraints, AbstractConstraint):
        constraints = (constraints,)
    wrong = constraints
    if isinstance(constraints, list | tuple):
        others = [c for c in constraints if not isinstance(c, AbstractConstraint)]
        if not others:
            return tuple(constraints)
        wrong = others[0]
    raise TypeError(
        "constraints must be a list of ix.Equal(h), ix.AtLeast(g) and ix.AtMost(g), "
        f"each of a function (y, args), and {wrong!r} came."
    )


def strict(
    active: Array, value: Array, multiplier: Array, lower: Array, upper: Array
) -> Array:
    """What is positive as long as constraints are active as they are (1 at the upper
    side, -1 at the lower one, 0 between them): their multipliers, or the ways to the
    nearer side. (Equations always hold.)"""
    slack = jnp.minimum(upper - value, value - lower)
    kept = jnp.where(active != 0, multiplier * jnp.sign(active), slack)
    return jnp.where(lower == upper, jnp.inf, kept)


def check_bounds(bounds: Any) -> None:
    """An error unless it is a pair."""
    if bounds is not None and not (isinstance(bounds, tuple) and len(bounds) == 2):
        raise TypeError(
            "bounds must be a pair (lower, upper), each a number, None, or a pytree of "
            f"arrays like y0, and it is {bounds!r}."
        )


def read_bounds(bounds: Any, y: PyTree) -> tuple[PyTree[Array], PyTree[Array]]:
    """Both bounds as arrays like `y`; infinite where there is none."""
    lower, upper = (None, None) if bounds is None else bounds
    below = _side("bounds[0]", lower, y, -jnp.inf)
    above = _side("bounds[1]", upper, y, jnp.inf)
    for low, high in zip(jax.tree.leaves(below), jax.tree.leaves(above), strict=True):
        if tree_math.traced(low) or tree_math.traced(high):
            continue
        crossed = np.asarray(low) > np.asarray(high)
        if crossed.any():
            place = np.unravel_index(int(np.argmax(crossed)), crossed.shape)
            where = f" at {tuple(map(int, place))}" if place else ""
            raise ValueError(
                "bounds: the lower one must not be above the upper one, and"
                f"{where} it is {float(low[place])} above {float(high[place])}."
            )
    return below, above


def _side(name: str, side: Any, y: PyTree, absent: float) -> PyTree[Array]:
    if side is None:
        return jax.tree.map(lambda leaf: jnp.full_like(leaf, absent), y)
    if jax.tree.structure(side) == jax.tree.structure(0) and jnp.ndim(side) == 0:
        side = jax.tree.map(lambda leaf: side, y)
    if jax.tree.structure(side) != jax.tree.structure(y):
        raise ValueError(
            f"{name} must be a number, None, or of the structure of y0, "
            f"{jax.tree.structure(y)}, and it is {jax.tree.structure(side)}."
        )

    def read(side: Any, leaf: Array) -> Array:
        array = jnp.asarray(side)
        if jnp.iscomplexobj(array) or array.dtype == bool:
            raise TypeError(f"{name} must be real, and its dtype is {array.dtype}.")
        if array.shape not in ((), leaf.shape):
            raise ValueError(
                f"{name} must be a number or have the shape of y0, {leaf.shape}, and "
                f"its shape is {array.shape}."
            )
        if not tree_math.traced(array) and np.isnan(np.asarray(array)).any():
            raise ValueError(f"{name} holds NaN. (No bound is None, or infinity.)")
        return jnp.broadcast_to(array.astype(leaf.dtype), leaf.shape)

    return jax.tree.map(read, side, y)
