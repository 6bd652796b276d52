"""Singular systems that have solutions: the shortest one."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicax._core import tree_math
from implicax._core.tree_math import DENSE_LIMIT, Vector
from implicax._linear.lu import MatVec, materialize


class MinimumNorm(eqx.Module):
    """The shortest of all solutions of a consistent *singular* linear system.

    For solutions that are determined up to a free direction (the constant in Sinkhorn's
    potentials, a duplicated equation). As `linear_solver=` of [`implicax.Newton`][] it
    takes least-squares steps; of [`implicax.Implicit`][] it gives the derivative of
    what *is* determined, and the shortest tangent. In reverse mode a loss that depends
    on the free direction makes the system inconsistent, and the derivative NaN. By a
    dense singular value decomposition, up to 4096 real unknowns (Golub & Van Loan,
    *Matrix Computations*, sec. 5.5).

    **Arguments:**

    - `rcond`: singular values below this fraction of the largest count as zero; `None`
      means `sqrt(eps)`.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp

    def difference(y, a):  # only y[0] - y[1] is determined
        return jnp.array([y[0] - y[1] - a, y[1] - y[0] + a])

    def loss(a):
        least = ix.MinimumNorm()
        y = ix.root(
            difference,
            jnp.zeros(2),
            a,
            solver=ix.Newton(least),
            derivative=ix.Implicit(least),
        ).value
        return (y[0] - y[1]) ** 2

    print(f"{jax.grad(loss)(3.0):.4f}")
    ```
    ```text
    6.0000
    ```
    """

    rcond: float | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if self.rcond is not None and not 0 < self.rcond < 1:
            raise ValueError(
                f"rcond must be a fraction between 0 and 1, not {self.rcond!r}."
            )

    def least_squares(
        self, product: MatVec, b: Vector
    ) -> tuple[Vector, Float[Array, ""]]:
        """The shortest `t` of those with the smallest `|b - J t|`, and that norm."""
        n = tree_math.num_unknowns(b)
        if n > DENSE_LIMIT:
            raise ValueError(
                f"MinimumNorm decomposes the Jacobian, and y has {n} real unknowns; "
                f"the limit is {DENSE_LIMIT}. Use lineax.LSMR beyond that."
            )
        flat, unravel = tree_math.ravel(b)
        matrix = materialize(product, b)
        left, values, right = jnp.linalg.svd(matrix)
        eps = tree_math.coarsest_eps(b)
        rcond = eps**0.5 if self.rcond is None else self.rcond
        kept = values > rcond * tree_math.max_abs(values)
        inverse = jnp.where(kept, 1 / jnp.where(kept, values, 1), 0)
        t = (inverse * (flat @ left)) @ right
        return unravel(t), tree_math.max_norm(flat - matrix @ t)
