"""What every solver of cone programs is."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from implicax._problems.cone_program import ConeData, Cones

#: How an attempt ended: with a solution, or what may be proofs that there is none (to
#: each of which a last look is due), or nothing.
SOLVED, INFEASIBLE, UNBOUNDED, NOTHING = range(4)


class ConeGuess(eqx.Module):
    """Where a solver ended."""

    x: Float[Array, " n"]
    """The point, or the ray."""
    z: Float[Array, " m"]
    """The multipliers, or the proof of infeasibility."""
    ending: Int[Array, ""]
    steps: Int[Array, ""]


class AbstractConeSolver(eqx.Module):
    """A way to the solution of a cone program, on the host: as near as the last digits
    can be found from. These, the verdict and the derivative are the library's."""

    rtol: eqx.AbstractVar[Float[Array, ""] | None]

    @abc.abstractmethod
    def on_host(
        self, data: Any, cones: Cones, max_steps: int
    ) -> tuple[np.ndarray, np.ndarray, int, int]:
        """`x`, `z`, how it ended, and the steps taken, of `(P, q, A, b)` in float64."""

    def solve(self, data: ConeData, max_steps: int) -> ConeGuess:
        kind = data.q.dtype
        n, m = data.q.size, data.b.size
        shapes = (
            jax.ShapeDtypeStruct((n,), kind),
            jax.ShapeDtypeStruct((m,), kind),
            jax.ShapeDtypeStruct((), jnp.int32),
            jax.ShapeDtypeStruct((), jnp.int32),
        )

        def call(*arrays: Any) -> tuple:
            P, q, A, b = (np.asarray(a, float) for a in arrays)
            x, z, ending, steps = self.on_host((P, q, A, b), data.cones, max_steps)
            counts = np.int32(ending), np.int32(steps)
            return x.astype(kind), z.astype(kind), *counts

        P = jnp.zeros((n, n), kind) if data.P is None else data.P
        found = jax.pure_callback(
            call, shapes, P, data.q, data.A, data.b, vmap_method="sequential"
        )
        return ConeGuess(*found)
