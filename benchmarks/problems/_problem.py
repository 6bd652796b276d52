"""One shape for every problem of the library."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

Args = dict[str, np.ndarray]


def array(*values: float) -> np.ndarray:
    """A 1-D array in double precision."""
    return np.asarray(values, np.float64)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Problem:
    """What must hold, where to start, and what is known of the answer.

    `fn(y, args)` takes the unknowns as one 1-D array and the problem's data as a
    dictionary of floating arrays that enter smoothly: the solution may be
    differentiated with respect to each. Where the literature has no such constant,
    the data is `shift`, zero, which is subtracted from the residual.

    Arrays are NumPy's, in double precision, so that a problem can be made before
    JAX is configured.
    """

    name: str
    #: `fn` gives a residual that must vanish (`root`), a residual whose sum of squares
    #: must be least (`least_squares`), or a number that must be least (`minimum`).
    kind: Literal["root", "least_squares", "minimum"]
    fn: Callable[[Any, Any], Any]
    y0: np.ndarray
    args: Args
    #: Where the problem is published.
    source: str
    #: A solution at which the least value below is reached; `None` if none is known.
    solution: np.ndarray | None = None
    #: Others, with the same value.
    other_solutions: tuple[np.ndarray, ...] = ()
    #: The least known value: of the sum of squares, or of `fn` if it gives a number.
    minimum: float = 0.0
    #: Further published values, at which a solver may stop: of local minima, some of
    #: them at infinity, and of a saddle.
    local_minima: tuple[float, ...] = ()
    #: Whether the Jacobian of a root, or the Hessian of a minimum, is singular at
    #: `solution`: the implicit function theorem does not hold there.
    singular: bool = False

    @property
    def zero_residual(self) -> bool:
        """Whether the residual vanishes at the solution."""
        return self.minimum == 0.0

    def objective(self, y, args):
        """What is published as the value at `y`: the sum of squares, or `fn` itself."""
        value = self.fn(y, args)
        return value if self.kind == "minimum" else jnp.sum(value**2)

    def as_root(self) -> "Problem":
        """The same residual, which must vanish: needs as many residuals as unknowns."""
        return dataclasses.replace(self, kind="root")

    def as_minimum(self) -> "Problem":
        """Half the sum of squares, which must be least."""
        residual = self.fn

        def fn(y, args):
            return 0.5 * jnp.sum(residual(y, args) ** 2)

        return dataclasses.replace(
            self,
            kind="minimum",
            fn=fn,
            minimum=0.5 * self.minimum,
            local_minima=tuple(0.5 * value for value in self.local_minima),
        )
