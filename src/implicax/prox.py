"""Proximal operators: the `p` where `|p - x|^2 / 2 + scaling g(p)` is least.

Of pytrees, each with its strength first and a step length `scaling` last, as a proximal
gradient step `prox(y - scaling * gradient, strength, scaling)` wants them (Parikh &
Boyd, *Proximal Algorithms*, 2014, sec. 6). All but `group_lasso` treat entries one by
one, and take a strength, or a scaling, for each.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from implicax._core import tree_math


def none(x: PyTree[Array], strength: Any = None, scaling: Any = 1.0) -> PyTree[Array]:
    """Of `g = 0`: `x` itself.

    ```python
    import implicax as ix

    print(ix.prox.none(2.0))
    ```
    ```text
    2.0
    ```
    """
    del strength, scaling
    return x


def from_projection(projection: Callable[..., Any]) -> Callable[..., Any]:
    """That of the indicator of a set: its projection, with arguments of its own in
    place of a strength.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    simplex = ix.prox.from_projection(ix.projections.simplex)
    print(simplex(jnp.array([2.0, 0.0]), 1.0, 0.5))
    ```
    ```text
    [1. 0.]
    ```
    """

    def prox(x: PyTree[Array], argument: Any = None, scaling: Any = 1.0) -> Any:
        del scaling
        return projection(x) if argument is None else projection(x, argument)

    return prox


def lasso(x: PyTree[Array], strength: Any = 1.0, scaling: Any = 1.0) -> PyTree[Array]:
    """Of `strength |p|_1`, with one strength for all, or one for each.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    print(ix.prox.lasso(jnp.array([3.0, -0.5, -2.0]), 1.0))
    ```
    ```text
    [ 2. -0. -1.]
    ```
    """

    def shrink(x: Array, strength: Any, scaling: Any) -> Array:
        return jnp.sign(x) * jax.nn.relu(jnp.abs(x) - scaling * strength)

    return jax.tree.map(shrink, x, _spread(strength, x), _spread(scaling, x))


def nonnegative_lasso(
    x: PyTree[Array], strength: Any = 1.0, scaling: Any = 1.0
) -> PyTree[Array]:
    """The same of `p >= 0`.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    print(ix.prox.nonnegative_lasso(jnp.array([3.0, -2.0]), 1.0))
    ```
    ```text
    [2. 0.]
    ```
    """

    def shrink(x: Array, strength: Any, scaling: Any) -> Array:
        return jax.nn.relu(x - scaling * strength)

    return jax.tree.map(shrink, x, _spread(strength, x), _spread(scaling, x))


def elastic_net(
    x: PyTree[Array], strengths: tuple[Any, Any] = (1.0, 1.0), scaling: Any = 1.0
) -> PyTree[Array]:
    """Of `strengths[0] (|p|_1 + strengths[1] |p|^2 / 2)`.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    print(ix.prox.elastic_net(jnp.array([3.0, -0.5]), (1.0, 1.0)))
    ```
    ```text
    [ 1. -0.]
    ```
    """
    first, second = (_spread(part, x) for part in strengths)

    def damp(p: Array, first: Any, second: Any, scaling: Any) -> Array:
        return p / (1 + scaling * first * second)

    lengths = _spread(scaling, x)
    return jax.tree.map(damp, lasso(x, first, scaling), first, second, lengths)


def group_lasso(
    x: PyTree[Array], strength: Any = 1.0, scaling: Any = 1.0
) -> PyTree[Array]:
    """Of `strength |p|_2`, all of `x` as one group (`jax.vmap` for several).

    ```python
    import implicax as ix
    import jax.numpy as jnp

    print(ix.prox.group_lasso(jnp.array([3.0, 4.0]), 1.0))
    ```
    ```text
    [2.4 3.2]
    ```
    """
    size = tree_math.dot(x, x)
    # (The square root has no derivative at zero; there the result is constant.)
    norm = jnp.where(size > 0, jnp.sqrt(jnp.where(size > 0, size, 1)), 0)
    left = jax.nn.relu(1 - scaling * strength / jnp.where(norm > 0, norm, 1))
    return tree_math.scaled(jnp.where(norm > 0, left, 0), x)


def ridge(x: PyTree[Array], strength: Any = 1.0, scaling: Any = 1.0) -> PyTree[Array]:
    """Of `strength |p|^2 / 2`.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    print(ix.prox.ridge(jnp.array([3.0, -1.0]), 1.0))
    ```
    ```text
    [ 1.5 -0.5]
    ```
    """

    def damp(x: Array, strength: Any, scaling: Any) -> Array:
        return x / (1 + scaling * strength)

    return jax.tree.map(damp, x, _spread(strength, x), _spread(scaling, x))


def nonnegative_ridge(
    x: PyTree[Array], strength: Any = 1.0, scaling: Any = 1.0
) -> PyTree[Array]:
    """The same of `p >= 0`.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    print(ix.prox.nonnegative_ridge(jnp.array([3.0, -1.0]), 1.0))
    ```
    ```text
    [1.5 0. ]
    ```
    """
    return ridge(jax.tree.map(jax.nn.relu, x), strength, scaling)


def _spread(strength: Any, x: PyTree[Array]) -> PyTree:
    """One strength, or scaling, for each leaf."""
    alike = jax.tree.structure(strength) == jax.tree.structure(x)
    return strength if alike else jax.tree.map(lambda _: strength, x)
