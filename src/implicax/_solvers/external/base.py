"""Solvers of other libraries, as they are: their steps, our conditions."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from implicax._core.tree_math import Vector
from implicax._problems.optimality_conditions import OptimalityConditions

#: Bytes of what a solver says that are kept.
LENGTH = 256


class ExternalResult(eqx.Module):
    """What an external solver found."""

    v: Vector
    steps: Array
    """-1 where it does not tell."""
    failed: Bool[Array, ""]
    """Whether there is no answer."""
    said: Array | None = None
    """What it said of its answer, where it had doubts: text as data (`written`), so
    that it stays with the answer that it is about."""


def written(text: str) -> np.ndarray:
    """A text as an array of numbers."""
    codes = np.frombuffer(text.encode()[:LENGTH], np.uint8)
    return np.pad(codes, (0, LENGTH - codes.size)).astype(np.float32)


def read(said: Array) -> str:
    """The text again."""
    codes = np.asarray(said).astype(np.uint8).tobytes()
    return codes.rstrip(b"\0").decode(errors="ignore")


class AbstractExternalSolver(eqx.Module):
    """A solver that runs to its end by itself.

    `rtol` and `atol` are what its answer is judged by, not what it stops at.
    """

    rtol: eqx.AbstractVar[Float[Array, ""] | None]
    atol: eqx.AbstractVar[Float[Array, ""] | None]

    @abc.abstractmethod
    def solve(
        self,
        conditions: OptimalityConditions,
        v0: Vector,
        inputs: PyTree[Array],
        max_steps: int,
    ) -> ExternalResult:
        """What it finds from `v0`."""


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
