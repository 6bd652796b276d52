"""An equilibrium layer in Flax NNX (`implicax[flax]`)."""

import functools
from collections.abc import Callable
from typing import Any

from flax import nnx
from jaxtyping import Array, PyTree

from implicax._core.failure import OnFailure
from implicax._core.solution import Solution
from implicax._derivatives.base import AbstractDerivative
from implicax._shorthands import fixed_point
from implicax._solvers.base import AbstractSolver
from implicax.nn.deq import zeros_like


class DEQ(nnx.Module):
    """A layer whose output is an equilibrium, `z = cell(z, x)`, of an NNX module.

    As [`implicax.nn.DEQ`][], with these differences. Modules of NNX take batches: so
    the batch is *one* system, with one status and one convergence test (or `nnx.vmap`
    the layer: then each sample is one). A cell may hold a state (dropout, batch
    normalisation): it is frozen while the equation is solved, since an equation is one
    for all steps; then the cell is called once more, at the solution, so that
    statistics and random numbers follow.

    **Arguments:** as of [`implicax.nn.DEQ`][]; `cell` is an NNX module that takes
    `(z, x)`.

    ```python
    import implicax as ix
    import jax.numpy as jnp
    from flax import nnx

    class Cell(nnx.Module):
        def __init__(self, width, rngs):
            self.mix = nnx.Linear(width, width, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, z, x):
            return jnp.tanh(0.3 * self.drop(self.mix(z)) + x)

    layer = ix.nn.flax.DEQ(Cell(3, nnx.Rngs(0)))
    x = jnp.ones((2, 3))
    print(layer(x).shape, layer.solve(x).status.name)
    ```
    ```text
    (2, 3) converged
    ```
    """

    def __init__(
        self,
        cell: nnx.Module,
        initial: Callable[[Any], Any] = zeros_like,
        *,
        solver: AbstractSolver | None = None,
        derivative: AbstractDerivative | None = None,
        max_steps: int = 256,
        on_failure: OnFailure = "raise",
    ):
        if not isinstance(cell, nnx.Module):
            raise TypeError(
                "cell must be a module of flax.nnx, made with its parameters, and it "
                f"is {cell!r}. (Of functions and Equinox modules there is ix.nn.DEQ; "
                "modules of Linen are applied to parameters made outside.)"
            )
        self.cell = cell
        self.initial = initial
        # One object, equal to itself alone: no part of what NNX traces.
        self.fixed_point = functools.partial(
            fixed_point,
            solver=solver,
            derivative=derivative,
            max_steps=max_steps,
            on_failure=on_failure,
        )

    def __call__(self, x: PyTree, z0: PyTree = None) -> PyTree[Array]:
        """The equilibrium."""
        return self.solve(x, z0).value

    def solve(self, x: PyTree, z0: PyTree = None) -> Solution[Any]:
        """The equilibrium with its status: an [`implicax.Solution`][]."""
        graph, state = nnx.split(self.cell)

        def fn(z: PyTree, args: tuple[Any, PyTree]) -> PyTree:
            state, x = args
            return nnx.merge(graph, state)(z, x)

        start = self.initial(x) if z0 is None else z0
        solution = self.fixed_point(fn, start, (state, x))
        self.cell(solution.value, x)
        return solution
