"""How near a layer is to having no equilibrium: its Jacobian, without forming it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from implicax._core import tree_math
from implicax._core.checks import check_unknown, match
from implicax._core.real_view import RealView
from implicax._core.tree_math import Vector
from implicax._linear.spectral_estimates import spectral_radius as _arnoldi


def jacobian_penalty(
    cell: Callable[[Any, Any], Any],
    z: PyTree[Array],
    x: PyTree,
    *,
    key: Array,
    samples: int = 1,
) -> Float[Array, ""]:
    """An estimate of `|J|_F^2 / n`, `J = d cell / dz`: add a little of it to the loss,
    and the layer stays solvable (Bai, Koltun & Kolter 2021, eq. 5).

    Hutchinson's: the mean of `|J'v|^2 / n` over random `v`, without bias. It can be
    differentiated, in the cell and in `z`.

    **Arguments:**

    - `cell`: takes `(z, x)`, returns the next state.
    - `z`, `x`: a state (the equilibrium) and the input.
    - `key`: a random key, a new one at each step.
    - `samples`: how many `v`: one is enough in training.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp

    cell = lambda z, x: 0.5 * z + x
    z = jnp.ones(3)
    penalty = ix.nn.jacobian_penalty(cell, z, z, key=jax.random.key(0), samples=1000)
    print(f"{penalty:.2f}")  # 0.5^2
    ```
    ```text
    0.25
    ```
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, not {samples!r}.")
    fn, v = _real(cell, z, x)
    flat, unravel = tree_math.ravel(v)
    pullback = jax.vjp(fn, v)[1]

    def size(key: Array) -> Float[Array, ""]:
        direction = jax.random.rademacher(key, flat.shape, flat.dtype)
        pulled = tree_math.ravel(pullback(unravel(direction))[0])[0]
        return pulled @ pulled

    sizes = jax.vmap(size)(jax.random.split(key, samples))
    return jnp.mean(sizes) / flat.size


def spectral_radius(
    cell: Callable[[Any, Any], Any], z: PyTree[Array], x: PyTree
) -> Float[Array, ""]:
    """The largest modulus of an eigenvalue of `d cell / dz`, by Arnoldi's process of at
    most 40 products.

    Below one, plain iteration converges, at this rate; as it nears one, the layer takes
    ever longer. A complex pair is no special case, as it is for power iteration, whose
    Rayleigh quotient then says nothing. Not differentiated: that is what
    [`implicax.nn.jacobian_penalty`][] is for.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    turn = jnp.array([[0.0, -0.9], [0.9, 0.0]])  # eigenvalues 0.9 i and -0.9 i
    radius = ix.nn.spectral_radius(lambda z, x: turn @ z + x, jnp.ones(2), jnp.ones(2))
    print(f"{radius:.3f}")
    ```
    ```text
    0.900
    ```
    """
    z, x = jax.lax.stop_gradient((z, x))
    fn, v = _real(cell, z, x)
    return jax.lax.stop_gradient(_arnoldi(jax.linearize(fn, v)[1], v))


def _real(
    cell: Callable[[Any, Any], Any], z: PyTree[Array], x: PyTree
) -> tuple[Callable[[Vector], Vector], Vector]:
    """The cell as a function of real vectors, and the one of `z`."""
    z = check_unknown(z, "z")
    view = RealView.of(z)

    def fn(v: Vector) -> Vector:
        state = view.from_real(v)
        new = match(cell(state, x), state, "cell must return a", "state")
        return view.to_real(new)

    return fn, view.to_real(z)
