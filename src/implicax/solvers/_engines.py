"""Solvers of other libraries, as they are: their steps, our conditions."""

import abc
import importlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from .._conditions import Conditions
from .._tree import Vector


class AbstractEngine(eqx.Module):
    """A solver that runs to its end by itself."""

    @abc.abstractmethod
    def solve(
        self,
        conditions: Conditions,
        v0: Vector,
        inputs: PyTree[Array],
        max_steps: int,
    ) -> tuple[Vector, Array, Bool[Array, ""]]:
        """The answer, the steps it took (-1: not told), whether it broke."""

    def says(self, v: Vector) -> str:
        """What the engine said of its answer `v`, where it had doubts."""
        del v
        return ""


def engine(solver: Any) -> AbstractEngine | None:
    """The engine that runs a solver of another library, if there is one for it."""
    if isinstance(solver, AbstractEngine):
        return solver
    if type(solver).__module__.partition(".")[0] == "optimistix":
        # A room that this one holds up: it can be entered only when both stand.
        from ._optimistix import Optimistix, is_solver

        return Optimistix(solver) if is_solver(solver) else None
    return None


def library(name: str, user: str) -> Any:
    """An optional library, or an error that says how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"{user} needs {name}: pip install 'implicax[{name}]'."
        ) from error


def widen(x: PyTree[Array]) -> PyTree[Array]:
    """Narrow floats in JAX's default float: these libraries mix numbers of that dtype
    into what they compute, and then trip over the difference."""
    default = jnp.finfo(jnp.result_type(float))

    def wide(leaf: Array) -> Array:
        narrow = jnp.finfo(leaf.dtype).bits < default.bits
        return leaf.astype(default.dtype) if narrow else leaf

    return jax.tree.map(wide, x)


def narrow(x: PyTree[Array], like: PyTree[Array]) -> PyTree[Array]:
    """`x` in the dtypes of `like`."""
    return jax.tree.map(lambda a, b: a.astype(b.dtype), x, like)
