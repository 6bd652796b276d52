"""Solvers of other libraries, as they are: their steps, our conditions."""

import abc
import importlib
from typing import Any

import equinox as eqx
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
