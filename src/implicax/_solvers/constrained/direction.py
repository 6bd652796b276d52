"""Newton's direction of a barrier problem, by one positive definite matrix."""

import equinox as eqx
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, cholesky
from jaxtyping import Array, Bool, Float

from implicax._core import tree_math
from implicax._solvers.constrained.nonlinear import Derivatives, Nonlinear

#: Shifts, as parts of the diagonal: the first, the factor to the next, and from one
#: step to the next, the last (Waechter & Biegler 2006, algorithm IC), ...
SHIFT, GROWS, EASES, LARGEST = 1e-4, 8.0, 1 / 3, 1e20
#: ... and the least, in units of `eps`.
LEAST = 100.0


class Terms(eqx.Module):
    """What a step is made of."""

    y: Float[Array, " m"]
    z: Float[Array, "2 m_plus_n"]
    slacks: Float[Array, "2 m_plus_n"]
    left: Float[Array, " m"]
    """What is left of the rows, `c - s + sigma (lam - y)`."""
    mu: Float[Array, ""]
    sigma: Float[Array, ""]
    zeta: Float[Array, " m_plus_n"]
    """The weights of a proximal term, ..."""
    away: Float[Array, " m_plus_n"]
    """... and the way from its center."""

    def repelled(self, program: Nonlinear) -> Float[Array, " m_plus_n"]:
        """The gradient of barriers and proximal term."""
        push = jnp.where(program.sided, self.mu / self.slacks, 0)
        return push[0] - push[1] + self.zeta * self.away


class Direction(eqx.Module):
    """A step in `w = (s, x)` and in the multipliers."""

    w: Float[Array, " m_plus_n"]
    y: Float[Array, " m"]
    z: Float[Array, "2 m_plus_n"]
    shift: Float[Array, ""]
    finite: Bool[Array, ""]


def direction(
    program: Nonlinear, found: Derivatives, terms: Terms, before: Array
) -> Direction:
    """The solution of the system, in which as much is added to the diagonal as makes it
    positive definite; `before`: the last such shift that was needed."""
    m, sided = terms.y.size, program.sided
    slacks, z, sigma = terms.slacks, terms.z, terms.sigma
    pull = jnp.sum(jnp.where(sided, z / slacks, 0), 0) + terms.zeta
    ts, tx = jnp.split(pull, [m])
    b, a = jnp.split(terms.repelled(program), [m])
    b, a = b - terms.y, a + found.gradient
    fixed_rows, fixed = jnp.split(program.fixed, [m])
    # Eliminated: dy = weights (J dx + left) + known.
    soft, J = 1 / (1 + sigma * ts), found.jacobian
    weights = jnp.where(fixed_rows, 1 / sigma, ts * soft)
    known = weights * terms.left + jnp.where(fixed_rows, 0, b * soft)
    matrix = found.hessian + jnp.diag(tx) + J.T @ (weights[:, None] * J)
    sizes = jnp.abs(jnp.diag(found.hessian)) + tx + weights @ J**2
    unit = jnp.where(fixed | ~(sizes > 0), 1, sizes) ** -0.5
    matrix = unit[:, None] * matrix * unit[None]
    both = fixed[:, None] | fixed[None]
    matrix = jnp.where(both, jnp.diag(fixed.astype(matrix.dtype)), matrix)
    shift, factor = _shifted(matrix, before)
    right = jnp.where(fixed, 0, -unit * (a + J.T @ known))
    dx = unit * cho_solve((factor, True), right)
    moved = J @ dx
    dy = weights * moved + known
    ds = jnp.where(fixed_rows, 0, moved + terms.left - sigma * dy)
    dw = jnp.concatenate([ds, dx])
    dz = jnp.where(sided, (terms.mu + z * jnp.stack([dw, -dw])) / slacks - z, 0)
    return Direction(dw, dy, dz, shift, jnp.isfinite(dw).all())


def _shifted(matrix: Array, before: Array) -> tuple[Array, Array]:
    """The first shift that makes a matrix positive definite, and its factor."""
    eye = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    least = LEAST * tree_math.coarsest_eps(matrix)

    def failed(carry: tuple[Array, Array]) -> Bool[Array, ""]:
        return ~jnp.isfinite(carry[1]).all() & (carry[0] < LARGEST)

    def again(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        shift = carry[0]
        first = jnp.where(before == 0, SHIFT, jnp.maximum(least, EASES * before))
        more = jnp.where(shift == 0, first, GROWS * shift)
        shift = jnp.where(shift < 0, 0, more).astype(matrix.dtype)
        return shift, cholesky(matrix + shift * eye, lower=True)

    none = -jnp.ones((), matrix.dtype), jnp.full_like(matrix, jnp.nan)
    return tree_math.while_loop(failed, again, none)
