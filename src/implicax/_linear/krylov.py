"""Systems too large to form: Krylov methods, preconditioned."""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.sparse.linalg as jssl
from jaxtyping import Array, Bool, Float

from implicax._core import tree_math
from implicax._core.forward_only import lacks_reverse_mode
from implicax._core.noise import noise
from implicax._core.tree_math import Vector
from implicax._linear.gmres import gmres
from implicax._linear.jacobian_structure import JacobianStructure
from implicax._linear.lu import MatVec
from implicax._linear.preconditioner import as_preconditioner, inverse_of

#: Directions along which an equation is looked at: that all cancel is a chance of one
#: in thousands, and costs accuracy of that equation alone.
DIRECTIONS = 3


class Krylov(eqx.Module):
    """Linear systems by GMRES, with a preconditioner: for systems too large, or with
    too much fill-in, to be factorised.

    As `linear_solver=` of [`implicax.Newton`][] each step is solved as far as it pays
    (Eisenstat & Walker 1996), and the derivative by the same method with the transposed
    preconditioner, to the last digits. The preconditioner is applied from the right, so
    that what is tested is the residual itself (Saad, *Iterative Methods for Sparse
    Linear Systems*, sec. 9.3). Where the Jacobian is positive definite (the derivative
    of a minimum), and the preconditioner symmetric for sure, by conjugate gradients.
    No iteration tells that a Jacobian is singular, unless the right-hand side is out of
    its reach: then the derivative is NaN.

    **Arguments:**

    - `preconditioner`: `None`; `"jacobi"` (the diagonal) or `"ilu"` (SuperLU's
      incomplete factorisation, through SciPy on the host), both made of the Jacobian at
      each step and for problems with `sparsity=`; a SciPy sparse matrix *near* the
      Jacobian, which is factorised once; a linear function of flat vectors, which JAX
      transposes; a SciPy `LinearOperator` (with `rmatvec`, for reverse mode); or an
      object with `solve(b, transposed)` ([`implicax.ApproximateInverse`][]). A poor one
      costs time, not accuracy.
    - `restart`: the dimension of the Krylov spaces: so many vectors are kept.
    - `max_steps`: products with the Jacobian, at most, for one system.

    **Raises:** `TypeError`, `ValueError`: what is given is no preconditioner.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    def equations(u, force):  # a chain of springs that stiffen
        ends = jnp.pad(u, 1)
        return 2 * u - ends[2:] - ends[:-2] + u**3 - force

    solver = ix.Newton(ix.Krylov("ilu"))
    force = jnp.full(50, 0.1)
    solution = ix.root(
        equations, jnp.zeros(50), force, solver=solver, sparsity="auto"
    )
    print(f"{solution.value[25]:.3f}")
    ```
    ```text
    0.464
    ```
    """

    preconditioner: Any = eqx.field(converter=as_preconditioner, default=None)
    restart: int = eqx.field(static=True, default=30)
    max_steps: int = eqx.field(static=True, default=1000)

    def __check_init__(self):
        for name in ("restart", "max_steps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, not {value!r}.")

    def prepare(
        self,
        product: MatVec,
        b: Vector,
        structure: JacobianStructure,
        transposed: bool,
        size: Vector | None = None,
        reach: Vector | None = None,
    ) -> "PreconditionedSystem":
        """The system with its preconditioner: made once, for right-hand sides like `b`.

        `product` multiplies by `J`, or by `J^T` where it is `transposed`; `size` is
        that of the unknowns, by which equations are weighed (one by default), and
        `reach` their unit, as far as is known.
        """
        inverse, there = inverse_of(
            self.preconditioner, product, b, structure, transposed
        )
        symmetric = self.preconditioner is None or self.preconditioner == "jacobi"
        conjugate = structure.positive_definite and symmetric
        rows = _row_sizes(product, b, size)
        if inverse is None and reach is not None:
            units = _units(product, b, rows, reach)
            inverse = functools.partial(jax.tree.map, jnp.multiply, units)
        return PreconditionedSystem(self, product, inverse, there, rows, conjugate)


def _row_sizes(product: MatVec, b: Vector, size: Vector | None) -> Vector:
    """What each equation is made of, about: the largest of a few products along
    directions in which each unknown moves by about its size."""
    flat, unravel = tree_math.ravel(b)
    unit = jnp.ones_like(flat) if size is None else tree_math.ravel(size)[0]
    seeds = [noise(flat.shape, flat.dtype, seed) for seed in range(DIRECTIONS)]
    images = jax.vmap(lambda x: tree_math.ravel(product(unravel(unit * x)))[0])(
        jnp.stack(seeds)
    )
    rows = jnp.max(jnp.abs(images), axis=0)
    usable = jnp.isfinite(rows) & (rows > jnp.finfo(rows.dtype).tiny)
    return unravel(jnp.where(usable, rows, 1))


def _units(product: MatVec, b: Vector, rows: Vector, reach: Vector) -> Vector:
    """Without a preconditioner units matter: what takes them out, as a diagonal one.

    The equations are divided by their `rows`, and the unknowns multiplied by what their
    columns are made of then, by a few products with the transpose. Where that cannot be
    had, by their `reach`: a guess, which is wrong where a solution is zero.
    """
    leaves, structure = jax.tree.flatten(b)

    def image(leaves: list[Array]) -> list[Array]:
        return jax.tree.leaves(product(jax.tree.unflatten(structure, leaves)))

    if lacks_reverse_mode(image, leaves):
        return jax.tree.map(jnp.divide, reach, _row_sizes(product, b, reach))
    pull = jax.linear_transpose(product, b)

    def pulled(r: Vector) -> Vector:
        return pull(jax.tree.map(jnp.divide, r, rows))[0]

    columns = _row_sizes(pulled, b, None)
    return jax.tree.map(lambda row, column: 1 / row / column, rows, columns)


@dataclasses.dataclass(frozen=True)
class PreconditionedSystem:
    """`J t = b`, each equation divided by what it is made of."""

    method: Krylov
    product: MatVec
    inverse: MatVec | None
    there: Bool[Array, ""]
    """Whether there is a preconditioner: an incomplete factorisation may break down."""
    rows: Vector
    """What each equation is made of."""
    conjugate: bool
    """Whether conjugate gradients will do."""

    def solve(
        self, b: Vector, rtol: Float[Array, ""] | float
    ) -> tuple[Vector, Float[Array, ""]]:
        """`t` with `|b - J t| <= rtol |b|`, if it gets there, and how far it got
        (infinite where there is no answer). Euclidean norms, the equations weighed
        (for conjugate gradients, which need the symmetry, not)."""
        if not self.conjugate:
            b = self._weighed(b)
        size = tree_math.max_norm(b)
        size = jnp.where((size > 0) & jnp.isfinite(size), size, 1)
        b = tree_math.scaled(1 / size, b)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            t = self._conjugate(b, rtol) if self.conjugate else self._gmres(b, rtol)
        image = self.product(t)
        image = image if self.conjugate else self._weighed(image)
        remainder = tree_math.subtract(b, image)
        norm = tree_math.two_norm(b)
        reached = tree_math.two_norm(remainder) / jnp.where(norm > 0, norm, 1)
        reached = jnp.where(self.there & jnp.isfinite(reached), reached, jnp.inf)
        return tree_math.scaled(size, t), reached

    def _weighed(self, x: Vector) -> Vector:
        return jax.tree.map(jnp.divide, x, self.rows)

    def _conjugate(self, b: Vector, rtol: Any) -> Vector:
        steps = self.method.max_steps
        return jssl.cg(self.product, b, tol=rtol, maxiter=steps, M=self.inverse)[0]

    def _gmres(self, b: Vector, rtol: Any) -> Vector:
        flat, unravel = tree_math.ravel(b)

        def inverse(u: Vector) -> Vector:
            if self.inverse is None:
                return u
            # (What the equations were divided by is no business of a preconditioner.)
            return self.inverse(jax.tree.map(jnp.multiply, u, self.rows))

        def apply(u: Array) -> Array:
            image = self._weighed(self.product(inverse(unravel(u))))
            return tree_math.ravel(image)[0]

        restart = min(self.method.restart, flat.size)
        u = gmres(apply, flat, rtol, restart, self.method.max_steps)
        return inverse(unravel(u))
