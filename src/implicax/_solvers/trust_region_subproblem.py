"""The trust-region subproblem: the best step of at most a given length.

    min  g.p + 1/2 p.B p   subject to   |D p| <= radius

for the gradient `g`, a symmetric `B` (a Hessian, or its Gauss-Newton part) and a
diagonal `D` that makes the components of `p` comparable.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from implicax._core import tree_math
from implicax._core.packed import Flag, Number, Packed
from implicax._core.tree_math import Vector
from implicax._linear.lu import MatVec
from implicax._solvers.curvature import lost_in, reduced, trusted_reaction

#: Improvements of the shift: it converges in two or three (More 1978, sec. 5), and 40
#: halvings are enough where it is bisected.
MAX_SHIFTS = 40
#: `|D p|` may miss the radius by this fraction (More 1978, eq. 5.5).
SLACK = 0.1


class Step(eqx.Module):
    """A solution of the subproblem."""

    p: Vector
    length: Float[Array, ""]
    """`|D p|`."""
    reduction: Float[Array, ""]
    """How far the quadratic falls."""
    interior: Bool[Array, ""]
    """Whether the bound does not matter: `p` is the Newton step."""


class AbstractModel(eqx.Module):
    """`g`, `B` and `D` in the form that the subproblem needs."""

    @abc.abstractmethod
    def step(self, radius: Array) -> Step:
        """The step of at most that length."""

    @abc.abstractmethod
    def newton(self, step: Step) -> Vector:
        """The step without the bound, infinite where it leads nowhere; `step` is what
        the bound has left of it."""

    def without(self, noise: Array) -> "AbstractModel":
        """No slope along a null direction where it is no larger than `noise`: an
        exactly flat direction deserves no step."""
        del noise
        return self

    def levels(self, ways: tuple[Vector, ...], y: Vector) -> Bool[Array, ""]:
        """Whether one of the ways to `y`, long beside it, led along null directions."""
        del ways, y
        return jnp.zeros((), bool)

    def own(self) -> Float[Array, " n"] | None:
        """The roots of the diagonal of `B`, if they are known."""

    def reaction(self, noise: Array) -> Vector | None:
        """How far each unknown moves where every component of `D^-1 g` is wrong by
        `noise`, if that is known."""
        del noise

    @abc.abstractmethod
    def convex(self) -> Bool[Array, ""]:
        """Whether no curvature is negative, as far as is known."""

    @abc.abstractmethod
    def norms(
        self, points: tuple[Vector, ...], gradients: tuple[Vector, ...]
    ) -> Float[Array, " k"]:
        """`|D y|` of points, and then `|D^-1 g|` of gradients."""

    @abc.abstractmethod
    def energy(self, y: Vector) -> Float[Array, ""]:
        """`|y.B y|`."""


class _Bracket(Packed):
    """Of the shift at which a step is as long as the radius."""

    shift = Number()
    low = Number()
    high = Number()
    count = Number()
    far = Flag()


class Spectral(AbstractModel):
    """`D^-1 B D^-1 = V diag(w) V^T`: then every radius costs a few vector operations
    (More & Sorensen 1983)."""

    values: Float[Array, " n"]
    """`w`, in ascending order, or in descending order where none is negative."""
    vectors: Float[Array, "n n"]
    slopes: Float[Array, " n"]
    """`V^T D^-1 g`."""
    scale: Float[Array, " n"]
    """The diagonal of `D`."""
    basis: Float[Array, "n n"]
    """`p = basis q`: `D^-1 V`, but without what that has along exactly flat
    directions."""
    like: Vector
    """The shape of a step."""

    @property
    def smallest(self) -> Float[Array, ""]:
        return jnp.minimum(self.values[0], self.values[-1])

    @property
    def null(self) -> Bool[Array, " k"]:
        """The directions whose curvature is lost in rounding."""
        return self.values == 0

    def without(self, noise: Array) -> "Spectral":
        flat = self.null & (jnp.abs(self.slopes) <= noise)
        slopes = jnp.where(flat, 0, self.slopes)
        # `D p` has nothing along a flat direction `z`, but `p` may: `D z` is at right
        # angles to the others, and `z` is not. In the units of the unknowns the
        # shortest of all these steps is.
        z = self.vectors / self.scale[:, None]
        z = jnp.where(flat[None, :], z / jnp.linalg.norm(z, axis=0)[None, :], 0)
        gram = z.T @ z + jnp.diag(jnp.where(flat, 0, 1).astype(z.dtype))
        basis = jnp.where(flat[None, :], 0, self.basis)
        parts = jax.scipy.linalg.solve(gram, z.T @ basis, assume_a="pos")
        return Spectral(
            self.values, self.vectors, slopes, self.scale, basis - z @ parts, self.like
        )

    def levels(self, ways: tuple[Vector, ...], y: Vector) -> Bool[Array, ""]:
        steps = jnp.stack([tree_math.ravel(way)[0] for way in ways])
        scale, null = self.scale[None, :], self.null[None, :]
        scaled, here = scale * steps, self.scale * tree_math.ravel(y)[0]
        # (What the shortest step has along them it needs.)
        curved = jnp.where(null, 0, scaled @ self.vectors) @ self.basis.T
        beyond = scale * (steps - curved)
        flat = jnp.where(null, beyond @ self.vectors, 0)
        there = jnp.broadcast_to(here[None, :], scaled.shape)
        rows = jnp.stack([flat, scaled, there - scaled, there])
        flat, length, before, size = jnp.sqrt(jnp.sum(rows**2, axis=-1))
        size = jnp.maximum(size, before)
        return jnp.any((flat > 0.1 * size) & (flat > 0.5 * length))

    def own(self) -> Float[Array, " n"]:
        return self.scale * jnp.sqrt(jnp.abs(self.vectors**2 @ self.values))

    def reaction(self, noise: Array) -> Vector:
        w = jnp.where(self.null, jnp.inf, self.values)
        rows = jnp.linalg.norm(self.vectors / w[None, :], axis=1)
        rows = jnp.where(rows <= trusted_reaction(self.like), rows, 0)
        _, unravel = tree_math.ravel(self.like)
        return unravel(noise * rows / self.scale)

    def _step(self, shift: Array) -> Array:
        """`-(w + shift)^-1 V^T D^-1 g`."""
        used = self.slopes != 0
        return jnp.where(
            used, -self.slopes / jnp.where(used, self.values + shift, 1), 0
        )

    def step(self, radius: Array) -> Step:
        # `|q(shift)| = radius` for `shift > max(0, -w_min)`: Newton's method on
        # `1 / |q|`, which is nearly linear in the shift, kept inside a bracket.
        smallest = self.smallest
        low = jnp.maximum(0, -smallest)
        newton = self._step(jnp.zeros((), low.dtype))
        gradient, unbound = jnp.sum(jnp.stack([self.slopes, newton]) ** 2, axis=1)
        high = low + jnp.sqrt(gradient) / radius
        interior = (smallest > 0) | ~jnp.any((self.values <= 0) & (self.slopes != 0))
        interior = interior & (smallest >= 0) & (jnp.sqrt(unbound) <= radius)

        def far(at: _Bracket) -> Array:
            return at.far & (at.count < MAX_SHIFTS)

        def improve(at: _Bracket) -> _Bracket:
            shift, q = at.shift, self._step(at.shift)
            slope = jnp.where(q != 0, q**2 / (self.values + shift), 0)
            square, slope = jnp.sum(jnp.stack([q**2, slope]), axis=1)
            length = jnp.sqrt(square)
            near = jnp.abs(length - radius) <= SLACK * radius
            low = jnp.where(length > radius, shift, at.low)
            high = jnp.where(length > radius, at.high, shift)
            new = shift + (length / radius - 1) * square / slope
            new = jnp.where((new > low) & (new < high), new, (low + high) / 2)
            return _Bracket.of(
                shift.dtype,
                shift=jnp.where(near, shift, new),
                low=low,
                high=high,
                count=at.count + 1,
                far=~near,
            )

        start = _Bracket.of(
            low.dtype,
            shift=jnp.where(low > 0, (low + high) / 2, 0.001 * high),
            low=low,
            high=high,
            count=0,
            far=~interior,
        )
        shift = tree_math.while_loop(far, improve, start).shift
        q = jnp.where(interior, newton, self._step(shift))
        # The hard case: the gradient has no part along the direction of the most
        # negative curvature. Go along it, either way, as far as the radius allows.
        rows = jnp.stack([q**2, q * (self.slopes + self.values * q / 2)])
        square, change = jnp.sum(rows, axis=1)
        left = jnp.sqrt(jnp.maximum(radius**2 - square, 0))
        hard = (smallest < 0) & (left > (1 - SLACK) * radius)
        way = jnp.where(self.slopes[0] > 0, -left, left)
        way = jnp.where(hard, way, 0)
        change = change + way * (self.slopes[0] + self.values[0] * (q[0] + way / 2))
        square = square + way * (2 * q[0] + way)
        first = jnp.arange(q.size, dtype=jnp.int32) == 0
        _, unravel = tree_math.ravel(self.like)
        p = unravel(self.basis @ jnp.where(first, q + way, q))
        return Step(p, jnp.sqrt(square), -change, interior)

    def newton(self, step: Step) -> Vector:
        del step
        q = self._step(jnp.zeros((), self.values.dtype))
        nowhere = ~self.convex() | jnp.any(self.null & (self.slopes != 0))
        _, unravel = tree_math.ravel(self.like)
        p = unravel(self.basis @ q)
        return jax.tree.map(lambda leaf: jnp.where(nowhere, jnp.inf, leaf), p)

    def convex(self) -> Bool[Array, ""]:
        return self.smallest >= 0

    def norms(
        self, points: tuple[Vector, ...], gradients: tuple[Vector, ...]
    ) -> Float[Array, " k"]:
        rows = [tree_math.ravel(y)[0] * self.scale for y in points]
        rows += [tree_math.ravel(g)[0] / self.scale for g in gradients]
        return jnp.sqrt(jnp.sum(jnp.stack(rows) ** 2, axis=1))

    def energy(self, y: Vector) -> Float[Array, ""]:
        scaled = (tree_math.ravel(y)[0] * self.scale) @ self.vectors
        return jnp.abs(jnp.sum(self.values * scaled**2))

    def solve(self, b: Vector, transposed: bool) -> Vector:
        """`B^-1 b`: what a derivative may reuse."""
        del transposed
        flat, unravel = tree_math.ravel(b)
        w = jnp.where(self.values == 0, jnp.inf, self.values)
        half = ((flat / self.scale) @ self.vectors) / w
        return unravel(self.vectors @ half / self.scale)


class MatrixFree(AbstractModel):
    """`B` by products alone, `D = I`: conjugate gradients until they leave the region
    or meet negative curvature (Steihaug 1983; Toint 1981)."""

    product: MatVec
    g: Vector
    tolerance: Float[Array, ""]
    """The relative residual at which the iteration stops."""

    def step(self, radius: Array) -> Step:
        g, norm = self.g, tree_math.two_norm(self.g)
        limit = 2 * tree_math.num_unknowns(g)

        def body(carry: tuple) -> tuple:
            p, r, d, rr, _, count = carry
            Bd = self.product(d)
            curvature = tree_math.dot(d, Bd)
            positive = curvature > 0
            alpha = rr / jnp.where(positive, curvature, 1)
            ahead = tree_math.add(p, tree_math.scaled(alpha, d))
            stop = ~positive | (tree_math.two_norm(ahead) >= radius)
            # To the boundary: |p + t d| = radius.
            dd, pd, pp = tree_math.dot(d, d), tree_math.dot(p, d), tree_math.dot(p, p)
            root = jnp.sqrt(jnp.maximum(pd**2 + dd * (radius**2 - pp), 0))
            t = jnp.where(stop, (root - pd) / dd, alpha)
            p = tree_math.add(p, tree_math.scaled(t, d))
            r = tree_math.add(r, tree_math.scaled(t, Bd))
            rr_new = tree_math.dot(r, r)
            d = tree_math.subtract(tree_math.scaled(rr_new / rr, d), r)
            return p, r, d, rr_new, stop, count + 1

        def going(carry: tuple) -> Array:
            _, _, _, rr, stop, count = carry
            enough = jnp.sqrt(rr) <= self.tolerance * norm
            return ~stop & ~enough & (rr > 0) & (count < limit)

        zero = tree_math.zeros_like(g)
        d = jax.tree.map(jnp.negative, g)
        first = zero, g, d, norm**2, jnp.zeros((), bool), jnp.zeros((), jnp.int32)
        p, r, *_, stop, _ = tree_math.while_loop(going, body, first)
        # With the residual `r = B p + g`, the quadratic is `(g + r).p / 2`.
        reduction = -(tree_math.dot(p, g) + tree_math.dot(p, r)) / 2
        return Step(p, tree_math.two_norm(p), reduction, ~stop)

    def newton(self, step: Step) -> Vector:
        return jax.tree.map(lambda p: jnp.where(step.interior, p, jnp.inf), step.p)

    def convex(self) -> Bool[Array, ""]:
        return jnp.ones((), bool)

    def norms(
        self, points: tuple[Vector, ...], gradients: tuple[Vector, ...]
    ) -> Float[Array, " k"]:
        return tree_math.two_norms(*points, *gradients)

    def energy(self, y: Vector) -> Float[Array, ""]:
        return jnp.abs(tree_math.dot(y, self.product(y)))


def running_scale(scale: Array, new: Array, power: float) -> Float[Array, " n"]:
    """The largest scale so far of each component (More 1978, eq. 6.3), but at most
    `eps**-power` of the new one: what is scaled down further gets lost in the rounding
    errors of the decomposition, and with it the component."""
    new = jnp.where(jnp.isfinite(new), new, 0)
    most = float(jnp.finfo(new.dtype).eps) ** -power
    limit = jnp.where(new > 0, most * new, jnp.inf)
    return jnp.minimum(jnp.maximum(scale, new), limit)


def usable(scale: Array) -> Float[Array, " n"]:
    """A component without a scale has scale one."""
    return jnp.where(scale > 0, scale, 1)


def from_hessian(
    hessian: Float[Array, "n n"], g: Vector, scale: Float[Array, " n"]
) -> tuple[Spectral, Float[Array, " n"]]:
    """The model of a Hessian, and the scale so far."""
    scale = running_scale(scale, jnp.sqrt(jnp.abs(jnp.diagonal(hessian))), 0.25)
    d = usable(scale)
    matrix = hessian / d[:, None] / d[None, :]
    finite = jnp.all(jnp.isfinite(matrix))
    matrix = jnp.where(finite, (matrix + matrix.T) / 2, jnp.eye(d.size, dtype=d.dtype))
    values, vectors = jnp.linalg.eigh(matrix)
    values = jnp.where(jnp.abs(values) > lost_in(values), values, 0)
    flat, _ = tree_math.ravel(g)
    basis = vectors / d[:, None]
    return Spectral(values, vectors, flat @ basis, d, basis, g), scale


def from_jacobian(
    jacobian: Float[Array, "m n"],
    errors: Float[Array, " m"],
    like: Vector,
    scale: Float[Array, " n"],
) -> tuple[Spectral, Float[Array, " n"]]:
    """The model `B = J^T J`, `g = J^T errors`; no condition number is squared."""
    scale = running_scale(scale, jnp.linalg.norm(jacobian, axis=0), 0.75)
    d, n = usable(scale), jacobian.shape[1]
    matrix = jacobian / d[None, :]
    matrix = jnp.where(jnp.all(jnp.isfinite(matrix)), matrix, 0)
    matrix, errors = reduced(matrix, errors)
    left, values, right = jnp.linalg.svd(matrix)
    rest = jnp.zeros((n - values.size,), values.dtype)
    kept = values > lost_in(values)
    slopes = jnp.concatenate([jnp.where(kept, values * (errors @ left), 0), rest])
    squares = jnp.concatenate([jnp.where(kept, values**2, 0), rest])
    basis = right.T / d[:, None]
    return Spectral(squares, right.T, slopes, d, basis, like), scale


def from_product(product: MatVec, g: Vector, tolerance: Any) -> MatrixFree:
    return MatrixFree(product, g, jnp.asarray(tolerance, tree_math.working_dtype(g)))
