"""The alternating direction method of multipliers."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
from jaxtyping import Array, Float, PyTree

from implicax._core import tree_math
from implicax._linear.lu import materialize
from implicax._solvers.base import tolerance
from implicax._solvers.composite.base import (
    AbstractCompositeSolver,
    CompositeState,
    Split,
)

#: One residual is much larger than the other from this factor on, ...
UNBALANCED = 10.0
#: ... and then the penalty changes by this one (Boyd et al., sec. 3.4.1).
CHANGE = 2.0


class _Memory(eqx.Module):
    x: PyTree[Array]
    """Where the smooth part is small, ..."""
    gap: PyTree[Array]
    """... and the sum of what it was apart from `y` (the scaled multiplier)."""


class ADMM(AbstractCompositeSolver):
    """The alternating direction method of multipliers (Boyd et al. 2011).

    A Newton step in the smooth part, which is exact where that is quadratic, then the
    proximal operator; the penalty is balanced on the way. A step forms and factorises
    the Hessian, so it suits ill-conditioned smooth parts in up to some hundreds of
    unknowns. The smooth part is to be convex.

    **Arguments:**

    - `rtol`: see [`implicax.ProximalGradient`][].

    ```python
    import implicax as ix
    import jax.numpy as jnp

    problem = ix.Composite(
        lambda y, a: jnp.sum((y - a) ** 2) / 2, lambda x, a, t: ix.prox.lasso(x, 1.0, t)
    )
    target = jnp.array([3.0, -0.5])
    print(ix.solve(problem, jnp.zeros(2), target, solver=ix.ADMM()).value + 0.0)
    ```
    ```text
    [2. 0.]
    ```
    """

    rtol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)

    def start(self, split: Split, y: Any, length: Array) -> CompositeState:
        if tree_math.num_unknowns(y) > tree_math.DENSE_LIMIT:
            raise ValueError(
                f"ix.ADMM() forms matrices of up to {tree_math.DENSE_LIMIT} unknowns, "
                f"and y0 has {tree_math.num_unknowns(y)}. Use ix.ProximalGradient()."
            )
        memory = _Memory(y, jax.tree.map(jnp.zeros_like, y))
        y = split.proximal(y, length)
        return CompositeState(y, length, memory, jnp.zeros((), bool))

    def step(self, split: Split, state: CompositeState) -> CompositeState:
        x, gap, penalty = state.memory.x, state.memory.gap, 1 / state.length
        gradient = jax.grad(split.value)
        slope, product = jax.linearize(gradient, x)
        apart = tree_math.add(tree_math.subtract(x, state.y), gap)
        slope = tree_math.add(slope, tree_math.scaled(penalty, apart))
        flat, unravel = tree_math.ravel(slope)
        matrix = materialize(product, x) + penalty * jnp.eye(
            flat.size, dtype=flat.dtype
        )
        factor = jsl.cho_factor(matrix)
        x = tree_math.subtract(x, unravel(jsl.cho_solve(factor, flat)))
        y = split.proximal(tree_math.add(x, gap), state.length)
        apart = tree_math.subtract(x, y)
        gap = tree_math.add(gap, apart)
        primal = tree_math.two_norm(apart)
        dual = tree_math.two_norm(tree_math.subtract(y, state.y))
        # (Both in units of the unknowns: the dual one is over the penalty.)
        change = jnp.where(dual > UNBALANCED * primal, CHANGE, 1)
        change = jnp.where(primal > UNBALANCED * dual, 1 / CHANGE, change)
        length = change.astype(penalty.dtype) * state.length
        gap = tree_math.scaled(length / state.length, gap)
        halted = ~jnp.isfinite(primal)
        return CompositeState(y, length, _Memory(x, gap), halted)
