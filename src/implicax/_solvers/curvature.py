"""The exact Hessian at a point, decomposed: where it curves, and what rounding leaves
of that.

Eigenvalues that are lost in rounding belong to *null* directions. They are told from
curvatures in the scaling that makes all diagonal entries of the Hessian one, so that
units do not matter; and a sum of squares is decomposed without squaring its Jacobian.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from implicax._core import tree_math
from implicax._core.tree_math import Vector
from implicax._linear.lu import materialize
from implicax._problems.equations import Iterate, System

#: Curvatures that are no more than so many times what a slope makes of the bend of a
#: curve are none. (Of a ratio of parameters it is one, as measured.)
BENDS = 10.0


def trusted_reaction(y: Vector) -> float:
    """How many times its own scale an unknown may move by an error of the gradient, if
    it is to be called zero by what rounding errors do to it."""
    return 0.1 * float(tree_math.coarsest_eps(y)) ** -0.5


class Exact(eqx.Module):
    """The exact Hessian at a point: `X^T H X = diag(w)`, with a diagonal of ones before
    it was decomposed, and slopes `X^T g`."""

    basis: Float[Array, "n n"]
    inverse: Float[Array, "n n"]
    """Of the basis."""
    values: Float[Array, " n"]
    """`w`, zero where it is lost in rounding."""
    slopes: Float[Array, " n"]
    noise: Float[Array, ""]
    """How large the rounding errors of the slopes are."""
    unit: Float[Array, ""]
    """How far one goes, in the basis, before the objective changes by itself."""
    zero: Bool[Array, ""]
    """Whether the objective is a sum of errors that are all lost in their own."""

    @property
    def null(self) -> Bool[Array, " n"]:
        return self.values == 0

    @property
    def q(self) -> Float[Array, " n"]:
        """Newton's correction in the basis, of what has a curvature."""
        return jnp.where(
            self.null, 0, -self.slopes / jnp.where(self.null, 1, self.values)
        )

    @property
    def reaction(self) -> Float[Array, " n"]:
        """How far rounding errors of the slopes move each unknown."""
        w = jnp.where(self.null, jnp.inf, self.values)
        rows = jnp.linalg.norm(self.basis / w[None, :], axis=1)
        trusted = rows * self.own <= trusted_reaction(self.slopes)
        return self.noise * jnp.where(trusted, rows, 0)

    @property
    def own(self) -> Float[Array, " n"]:
        """The roots of the diagonal of `H`."""
        return jnp.sqrt(jnp.abs(self.values @ self.inverse**2))

    @property
    def sloping(self) -> Bool[Array, ""]:
        """Whether there is a slope where there is no curvature."""
        return jnp.any(self.null & (jnp.abs(self.slopes) > self.noise))

    @property
    def curved_down(self) -> Bool[Array, ""]:
        return jnp.any(self.values < 0)

    def level(self, p: Array, y: Array) -> tuple[Array, Array]:
        """Whether a way `p` to `y`, long beside it, led mostly along what is flat now:
        then nothing is isolated there; and whether it led outwards: then nothing is
        attained."""
        parts, y = self.inverse @ p, self.inverse @ y
        null = jnp.linalg.norm(jnp.where(self.null, parts, 0))
        size, start = jnp.linalg.norm(y), jnp.linalg.norm(y - parts)
        far = null > 0.1 * jnp.maximum(size, start)
        return far & (null > 0.5 * jnp.linalg.norm(parts)), size > start


def lost_in(values: Array) -> Float[Array, ""]:
    """Eigenvalues or singular values, in order, of this size are rounding errors, of
    the decomposition and of the entries."""
    eps = jnp.finfo(values.dtype).eps
    largest = jnp.maximum(jnp.abs(values[0]), jnp.abs(values[-1]))
    return 10 * values.size * eps * largest


def unit_diagonal(matrix: Array) -> Float[Array, " n"]:
    """The `d` with which `matrix / d_i / d_j` has a diagonal of ones (where it can)."""
    d = jnp.sqrt(jnp.abs(jnp.diagonal(matrix)))
    return jnp.where((d > 0) & jnp.isfinite(d), d, 1)


def exact(system: System, iterate: Iterate) -> Exact:
    """The Hessian of the objective at a point, decomposed.

    That of a sum of squares is `J^T J + P`. It is decomposed without squaring `J`: with
    `J = U S V^T`, the matrix `S^-1 V^T H V S^-1 = I + S^-1 V^T P V S^-1`.
    """
    # (Where that is not finite, nor is its decomposition: LAPACK says so.)
    y, (g, _) = iterate.y, tree_math.ravel(iterate.residual)
    n, eps = g.size, float(jnp.finfo(g.dtype).eps)
    flat, _ = tree_math.ravel(y)
    if system.errors is None or system.errors_reverse_only:
        matrix = system.jacobian(y)
        matrix = (matrix + matrix.T) / 2
        energy = jnp.abs(flat @ (matrix @ flat))
        zero = jnp.zeros((), bool)
        basis = inverse = jnp.eye(n, dtype=g.dtype)
        slopes, kept = g, jnp.ones((n,), bool)
    else:
        J, r, P, terms = parts(system, y)
        P = (P + P.T) / 2
        energy = jnp.sum((J @ flat) ** 2)
        zero = jnp.all(jnp.abs(r) <= 10 * n * eps * (jnp.abs(J) @ jnp.abs(flat)))
        d = jnp.linalg.norm(J, axis=0)
        d = jnp.where(d > 0, d, 1)
        J, r = reduced(J / d[None, :], r)
        left, s, right = jnp.linalg.svd(J, full_matrices=True)
        s = jnp.concatenate([s, jnp.zeros((n - s.size,), s.dtype)])
        kept = s > lost_in(s)
        r = r @ left
        r = jnp.concatenate([r, jnp.zeros((n,), r.dtype)])[:n]
        unit = jnp.where(kept, s, 1)
        basis = right.T / unit[None, :] / d[:, None]
        inverse = unit[:, None] * right * d[None, :]
        # (An entry is no larger than its rounding errors where it should be zero.)
        second = basis.T @ P @ basis
        terms = jnp.abs(basis).T @ terms @ jnp.abs(basis)
        second = jnp.where(jnp.abs(second) > 10 * n * eps * terms, second, 0)
        slopes = jnp.where(kept, r, 0)
        # Along a curve on which the errors stay what they are (parameters that are
        # redundant), the curvature of a straight line is no more than the slope times
        # the bend of that curve, about one over its distance from zero.
        size = jnp.maximum(jnp.linalg.norm(inverse @ flat), jnp.linalg.norm(r))
        bend = BENDS * jnp.linalg.norm(slopes) / jnp.where(size > 0, size, 1)
        unseen = ~(kept[:, None] | kept[None, :])
        second = jnp.where(unseen & (jnp.abs(second) <= bend), 0, second)
        matrix = jnp.diag(jnp.where(kept, 1.0, 0.0)) + second
    # (What `J` does not see stays as small as it is.)
    d = jnp.where(kept, unit_diagonal(matrix), 1)
    values, vectors = jnp.linalg.eigh(matrix / d[:, None] / d[None, :])
    values = jnp.where(jnp.abs(values) > lost_in(values), values, 0)
    objective = jnp.abs(jnp.asarray(iterate.objective, g.dtype))
    root = jnp.sqrt(2 * objective) + jnp.sqrt(energy)
    rounding = 10 * float(tree_math.coarsest_eps(y)) * root
    return Exact(
        basis / d[None, :] @ vectors,
        vectors.T @ (d[:, None] * inverse),
        values,
        (slopes / d) @ vectors,
        rounding,
        jnp.sqrt(2 * objective),
        zero,
    )


class Softest(eqx.Module):
    """The direction of the least curvature that is not lost in rounding, and whether it
    may be none: no more than what a slope makes of a bend (`BENDS`)."""

    way: Float[Array, " n"]
    """Along it, from where it is looked at again: `eps^(1/3)` of what one goes before
    the objective changes by itself."""
    change: Float[Array, ""]
    """By how much the slope along it should change, from one end to the other, ..."""
    lost: Float[Array, ""]
    """... and what rounding errors make of that."""
    doubtful: Bool[Array, ""]

    @classmethod
    def of(
        cls, basis: Array, values: Array, slopes: Array, size: Array, noise: Array
    ) -> "Softest":
        null = values == 0
        place = jnp.argmin(jnp.where(null, jnp.inf, jnp.abs(values)))
        value, direction = jnp.abs(values[place]), basis[:, place]
        step = jnp.finfo(basis.dtype).eps ** (1 / 3) * size
        bend = BENDS * jnp.linalg.norm(slopes) / jnp.where(size > 0, size, 1)
        change = 2 * step**2 * value
        doubtful = (value <= bend) & ~jnp.all(null)
        return cls(step * direction, change, 2 * step * noise, doubtful)

    def gone(self, residuals: Float[Array, "2 n"]) -> Bool[Array, ""]:
        """Whether it is not there, at the end of the way and of its opposite: a slope
        that has fallen takes with it what it has made."""
        found = self.way @ (residuals[0] - residuals[1])
        seen = (found >= self.change / 2) & (self.change >= self.lost)
        return self.doubtful & ~seen


def flat_for_good(
    system: System,
    iterate: Iterate,
    basis: Array,
    null: Array,
    size: Array,
    noise: Array,
    own: Array,
    softest: Softest,
) -> Bool[Array, ""]:
    """Whether the gradient is the same far out along null directions, and the softest
    of the others is one.

    Where a curvature is lost in rounding the objective may be exactly flat, as where a
    variable is redundant: then it stays so. Or it is the floor of a valley, and where
    that is lowest cannot be seen. `basis` takes directions to unknowns, as in `Exact`;
    the way is as long as `y` is, `size`. (Its rounding errors are those of the terms
    that it changes, by the roots of the curvatures, `own`.)
    """
    flat, unravel = tree_math.ravel(iterate.y)
    way = null_way(basis, null, size)
    residuals = jax.vmap(lambda v: tree_math.ravel(system.residual(unravel(v)))[0])(
        flat[None, :] + jnp.concatenate([both_ways(way), both_ways(softest.way)])
    )
    good = ~jnp.any(null) | unchanged(iterate, residuals[:2], basis, way, noise, own)
    return good & ~softest.gone(residuals[2:])


def null_way(basis: Array, null: Array, size: Array) -> Float[Array, " n"]:
    """A way of that length along all null directions, none weighed like another."""
    places = jnp.arange(null.size, dtype=basis.dtype)
    weights = jnp.where(null, jnp.cos(1.0 + places), 0)
    length = jnp.linalg.norm(weights)
    return basis @ (size / jnp.where(length > 0, length, 1) * weights)


def both_ways(way: Array) -> Float[Array, "2 n"]:
    """One may lead further up a plateau, where nothing is seen any more."""
    return jnp.stack([way, -way])


def unchanged(
    iterate: Iterate,
    residuals: Float[Array, "2 n"],
    basis: Array,
    way: Array,
    noise: Array,
    own: Array,
) -> Bool[Array, ""]:
    """Whether the gradient is the same at the end of either way, see above."""
    here, _ = tree_math.ravel(iterate.residual)
    changes = jnp.abs((residuals - here[None, :]) @ basis)
    terms = jnp.linalg.norm(own * way)
    lost = 10 * (noise + 10 * float(tree_math.coarsest_eps(iterate.y)) * terms)
    return jnp.all(changes <= lost)


def reduced(
    jacobian: Float[Array, "m n"], errors: Float[Array, " m"]
) -> tuple[Array, Array]:
    """No more rows than columns, with the same `J^T J` and `J^T r`."""
    m, n = jacobian.shape
    if m <= n:
        return jacobian, errors
    both = jnp.linalg.qr(jnp.concatenate([jacobian, errors[:, None]], axis=1), mode="r")
    return both[:n, :n], both[:n, n]


def parts(system: System, y: Vector) -> tuple[Array, Array, Array, Array]:
    """`J`, `r` and `P` with a gradient `J^T r` and a Hessian `J^T J + P`, and the size
    of the terms that `P` sums up.

    Of a sum `rho(e)` with the Jacobian `A` of the errors, the gradient is
    `A^T rho'(e)` and the Hessian `A^T diag(rho''(e)) A`, plus the second derivatives of
    the errors weighed by `rho'(e)`. (At a fit these cancel, and are summed up without
    the signs of the errors too, to see their size.)
    """
    function = system.errors
    assert function is not None
    errors, push, loss = jax.linearize(function, y, has_aux=True)
    slopes, curvatures = loss.slopes(errors), loss.curvatures(errors)
    J, r, A, root = gauss_newton(push, errors, loss, y)
    negative = tree_math.ravel(curvatures)[0] - root**2

    def second(slopes: Vector) -> Array:
        def along(t: Vector) -> Vector:
            def pulled(y: Vector) -> Vector:
                _, pull, _ = jax.vjp(function, y, has_aux=True)
                return pull(slopes)[0]

            return jax.jvp(pulled, (y,), (t,))[1]

        return materialize(along, y)

    both = jax.tree.map(lambda s: jnp.stack([s, jnp.abs(s)]), slopes)
    P, unsigned = jax.vmap(second)(both)
    P = P + A.T @ (negative[:, None] * A)
    return J, r, P, jnp.maximum(jnp.abs(P), jnp.abs(unsigned))


def gauss_newton(
    push: Any, errors: Vector, loss: Any, y: Vector
) -> tuple[Array, Array, Array, Array]:
    """`J` and `r` of the Gauss-Newton model, the Jacobian `A` of the errors, and what
    its rows were multiplied by."""
    root = jnp.sqrt(tree_math.ravel(loss.weights(errors))[0])
    slopes, _ = tree_math.ravel(loss.slopes(errors))
    A = materialize(push, y)
    used = root > 0
    r = jnp.where(used, slopes / jnp.where(used, root, 1), 0)
    return root[:, None] * A, r, A, root
