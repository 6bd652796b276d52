"""What is known of the inverse of a Jacobian: the protocol, and the simplest one."""

from typing import Protocol, runtime_checkable

import equinox as eqx
from jaxtyping import Array, Float

from implicax._core import tree_math
from implicax._core.tree_math import Vector


@runtime_checkable
class ApproximateInverse(Protocol):
    """`P`, nearly the inverse of `J = dF/dy`, for linear solves to start from.

    What a solver's `approximate_inverse(state)` returns, as an `equinox.Module`: a
    factorisation of a Jacobian close by, a preconditioner, a multigrid cycle. Linear
    systems are solved by `t <- t + P (b - J t)` with exact products, and each solution
    is checked: a poor `P` costs time, not accuracy (Higham, *Accuracy and Stability of
    Numerical Algorithms*, ch. 12). Of a minimum it preconditions conjugate gradients,
    and has to be symmetric positive definite.
    """

    def solve(self, b: Vector, transposed: bool) -> Vector:
        """`P b`, or `P^T b`: `b` and the result as the residual and the unknown on the
        real view (a tuple of real arrays)."""
        ...


class ScaledIdentityInverse(eqx.Module):
    """What a converged iteration `y <- y - damping F(y)` says of `J`: `I - damping J`
    contracts, so `damping I` will do as an approximate inverse."""

    damping: Float[Array, ""]

    def solve(self, b: Vector, transposed: bool) -> Vector:
        del transposed
        return tree_math.scaled(self.damping, b)
