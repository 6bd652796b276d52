"""An equilibrium layer in Equinox."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from implicax._core.failure import OnFailure
from implicax._core.solution import Solution
from implicax._core.user_function import signature
from implicax._derivatives.approximate import Phantom
from implicax._derivatives.base import AbstractDerivative
from implicax._shorthands import fixed_point
from implicax._solvers.base import AbstractSolver

#: Damped steps through which a state on the way is differentiated (Geng et al. 2021
#: find five at a damping of one half as good as the exact gradient in training).
PHANTOM_STEPS, PHANTOM_DAMPING = 5, 0.5


def zeros_like(x: PyTree[Array]) -> PyTree[Array]:
    """A state like the input, to begin with."""
    return jax.tree.map(jnp.zeros_like, x)


class DEQ(eqx.Module):
    """A layer whose output is an equilibrium, `z = cell(z, x)` (Bai, Kolter & Koltun
    2019).

    As deep as it needs to be, and nothing of the way is stored: the reverse pass solves
    one linear system. Apply it to one sample, and `jax.vmap` it over a batch: then each
    sample is a system of its own, with its own status, steps and verdict.

    **Arguments:**

    - `cell`: takes `(z, x)` (and `key=`, if the layer is called with one) and returns
      the next state: any Equinox module or function. Its arrays are parameters.
    - `initial`: takes `x`, returns the state to begin with, which says the structure,
      shapes and dtypes of `z`: by default zeros like `x`.
    - `solver`, `derivative`, `max_steps`, `on_failure`: as of
      [`implicax.fixed_point`][]. Forward and backward are two: `ix.Anderson(rtol=1e-4)`
      is how right `z` is, `ix.Implicit(linear_solver=ix.Krylov(rtol=1e-4))` how right
      the adjoint is. `ix.Phantom`, `ix.OneStep` (Jacobian-free), `ix.Neumann` and
      `ix.Unrolled` are the approximations of the literature.

    A call `layer(x, z0=None, *, key=None)` returns `z`. `z0` is where to begin, for
    example the `z` of the step before: it changes the time and not the result. A `key`
    is passed on to the cell as it is, at each of its calls, as an equation must have
    it: so dropout has one mask per solve (variational dropout; Gal & Ghahramani 2016).

    ```python
    import equinox as eqx
    import implicax as ix
    import jax
    import jax.numpy as jnp

    class Cell(eqx.Module):
        mix: eqx.nn.Linear

        def __call__(self, z, x):
            return jnp.tanh(ix.nn.bounded(self.mix.weight, 0.9) @ z + x)

    layer = ix.nn.DEQ(Cell(eqx.nn.Linear(3, 3, key=jax.random.key(0))))
    x = jnp.array([[1.0, 0.0, -1.0], [0.5, 0.5, 0.5]])
    z = jax.vmap(layer)(x)
    print(jnp.allclose(jax.vmap(layer.cell)(z, x), z, atol=1e-4))
    print(jax.vmap(layer.solve)(x).status.name)
    ```
    ```text
    True
    ['converged' 'converged']
    ```
    """

    cell: Callable[..., Any]
    initial: Callable[[Any], Any] = zeros_like
    solver: AbstractSolver | None = None
    derivative: AbstractDerivative | None = None
    max_steps: int = eqx.field(static=True, default=256)
    on_failure: OnFailure = eqx.field(static=True, default="raise")

    def __check_init__(self):
        if not callable(self.cell):
            raise TypeError(
                "cell must be a function or module of (z, x) that returns the next "
                f"state, and it is {self.cell!r}."
            )

    def __call__(
        self, x: PyTree, z0: PyTree = None, *, key: Array | None = None
    ) -> PyTree[Array]:
        """The equilibrium."""
        return self.solve(x, z0, key=key).value

    def solve(
        self, x: PyTree, z0: PyTree = None, *, key: Array | None = None
    ) -> Solution[Any]:
        """The equilibrium with its status: an [`implicax.Solution`][]."""
        _check_cell(self.cell, key)
        start = self.initial(x) if z0 is None else z0
        return fixed_point(
            _state,
            start,
            (self.cell, x, key),
            solver=self.solver,
            derivative=self.derivative,
            max_steps=self.max_steps,
            on_failure=self.on_failure,
        )

    def states(
        self, x: PyTree, steps: Sequence[int], *, key: Array | None = None
    ) -> list[PyTree[Array]]:
        """The states after so many steps of the solver, counted from the start, for
        losses along the way ("fixed-point correction"; Bai, Geng, Savani & Kolter
        2022).

        No equilibria: each is differentiated through a few damped steps taken from it
        ([`implicax.Phantom`][]).
        """
        _check_steps(steps)
        phantom = Phantom(PHANTOM_STEPS, PHANTOM_DAMPING)
        z, states = self.initial(x), []
        for more in (b - a for a, b in zip([0, *steps], steps, strict=False)):
            changed = {"max_steps": more, "on_failure": "ignore"}
            layer = dataclasses.replace(self, derivative=phantom, **changed)
            z = layer(x, z, key=key)
            states.append(z)
        return states


def _state(z: PyTree, args: tuple[Callable[..., Any], PyTree, Array | None]) -> PyTree:
    cell, x, key = args
    return cell(z, x) if key is None else cell(z, x, key=key)


def _check_cell(cell: Callable[..., Any], key: Array | None) -> None:
    """An error where the cell cannot be called so, as far as can be known."""
    parameters = signature(cell)
    if parameters is None:
        return
    named = {} if key is None else {"key": key}
    try:
        parameters.bind(None, None, **named)
    except TypeError:
        how = "(z, x)" if key is None else "(z, x, *, key), since a key was given"
        raise TypeError(
            f"cell must take the state and the input, {how}; this one takes "
            f"{parameters}."
        ) from None


def _check_steps(steps: Sequence[int]) -> None:
    rising = all(a < b for a, b in zip([0, *steps], steps, strict=False))
    whole = all(isinstance(step, int) for step in steps)
    if not steps or not rising or not whole:
        raise ValueError(
            "steps must be positive whole numbers that rise, such as (4, 8, 16), and "
            f"they are {tuple(steps)!r}."
        )
