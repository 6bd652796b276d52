"""What a trust region keeps from step to step."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicax._core import componentwise, tree_math
from implicax._core.packed import Flag, Number, Packed
from implicax._core.tree_math import Vector
from implicax._problems.equations import Iterate
from implicax._solvers.minimality import DECOMPOSED
from implicax._solvers.trust_region_subproblem import Spectral


class Numbers(Packed):
    radius = Number()
    """Negative before the first step."""
    first_slope = Number()
    slope = Number()
    """`|D^-1 g|`, at the start and now."""
    lowest = Number()
    """The lowest slope so far."""
    length = Number()
    """`|D n|` of the last Newton step `n`, infinite where there was none."""
    shortest = Number()
    """The shortest so far."""
    error = Number()
    """The largest estimated relative error of an unknown."""
    top = Number()
    """The objective at the start."""


class Flags(Packed):
    idle = Number()
    """Steps since the shortest that had no more to gain than the rounding errors of the
    objective."""
    small = Flag()
    """Whether each error is within the tolerance, ..."""
    floor = Flag()
    """... or is what rounding errors would leave of it."""
    level = Flag()
    """Whether the way led along what is flat now, ..."""
    out = Flag()
    """... outwards."""
    runs = Flag()
    """Whether it leads on and on, away from the start."""
    again = Flag()
    """Whether this is the second attempt."""


class Memory(eqx.Module):
    numbers: Numbers
    flags: Flags
    scale: Float[Array, " n"] | None
    """The diagonal of `D`, zero where nothing is known yet."""
    start: Iterate
    begun: Vector
    """`|y_i|` at the start and the first step, together."""
    last: Vector
    """The last step."""
    own: Float[Array, " n"] | None
    """The roots of the diagonal of the model's matrix."""
    inverse: Spectral | None

    @classmethod
    def fresh(cls, start: Iterate, *, again: bool = False) -> "Memory":
        y = start.y
        n, dtype = tree_math.num_unknowns(y), tree_math.working_dtype(y)
        scale = inverse = None
        if n <= DECOMPOSED:
            scale = jnp.zeros((n,), dtype)
            vector, matrix = jnp.zeros((n,), dtype), jnp.zeros((n, n), dtype)
            inverse = Spectral(vector, matrix, vector, vector, matrix, y)
        inf = jnp.inf
        return cls(
            Numbers.of(
                dtype,
                radius=-1,
                first_slope=-1,
                slope=inf,
                lowest=inf,
                length=inf,
                shortest=inf,
                error=inf,
                top=inf,
            ),
            Flags.of(
                dtype,
                idle=0,
                small=False,
                floor=False,
                level=False,
                out=False,
                runs=False,
                again=again,
            ),
            scale=scale,
            start=start,
            begun=componentwise.sizes(y),
            last=tree_math.zeros_like(y),
            own=scale,
            inverse=inverse,
        )
