"""A sparse Jacobian, formed from products."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from implicax._core import tree_math
from implicax._core.noise import noise
from implicax._core.tree_math import Vector
from implicax._linear.lu import MatVec
from implicax._linear.sparsity import Sparsity

#: A pattern leaves something out where products along a direction differ by more than
#: `eps` to this power (1.5e-8 in float64) of what a row is made of. What is smaller may
#: be rounding, and hinders neither Newton's method nor the refinement of derivatives.
MISSING = 0.5


class SparseMatrix(eqx.Module):
    """The entries of `J` at the places of a pattern."""

    values: Float[Array, " nonzeros"]
    sparsity: Sparsity = eqx.field(static=True)
    faithful: Bool[Array, ""]
    """Whether it multiplies as `J` does: whether the pattern is that of `J`."""

    @classmethod
    def of(cls, product: MatVec, y: Vector, sparsity: Sparsity) -> "SparseMatrix":
        """From products with `J` at `y`, one for each color, and with `J^T`, one for
        each full row.

        One more, along a direction in which each unknown moves by about itself, tells
        whether the pattern leaves something out that matters: what it misses, or adds
        to another place, is missing there.
        """
        flat, unravel = tree_math.ravel(jax.lax.stop_gradient(y))

        def image(x: Array) -> Array:
            return tree_math.ravel(product(unravel(x)))[0]

        color = jnp.arange(sparsity.num_colors, dtype=jnp.int32)
        seeds = (color[:, None] == sparsity.colors[None, :]).astype(flat.dtype)
        size = jnp.where(flat == 0, 1, jnp.abs(flat))
        direction = size * noise(flat.shape, flat.dtype)
        images = jax.vmap(image)(jnp.concatenate([seeds, direction[None]]))
        table = images[:-1]
        if sparsity.full_rows.size:
            pull = jax.linear_transpose(image, flat)
            full = jax.nn.one_hot(sparsity.full_rows, flat.size, dtype=flat.dtype)
            table = jnp.concatenate([table, jax.vmap(lambda u: pull(u)[0])(full)])
        values = table[sparsity.table]
        unchecked = cls(values, sparsity, jnp.ones((), bool))
        missing = jnp.abs(images[-1] - unchecked.times(direction))
        allowed = tree_math.coarsest_eps(y) ** MISSING * unchecked.magnitude(direction)
        # (What is not a number says nothing of a pattern.)
        return cls(values, sparsity, ~jnp.any(missing > allowed))

    def transposed(self) -> "SparseMatrix":
        sparsity = self.sparsity
        values = self.values[sparsity.order]
        return SparseMatrix(values, sparsity.transposed, self.faithful)

    def times(self, x: Float[Array, " n"]) -> Float[Array, " n"]:
        """`J x`."""
        return self._summed(self.values * x[self.sparsity.columns])

    def magnitude(self, x: Float[Array, " n"]) -> Float[Array, " n"]:
        """`|J| |x|`."""
        return self._summed(jnp.abs(self.values * x[self.sparsity.columns]))

    @property
    def diagonal(self) -> Float[Array, " n"]:
        places = self.sparsity.rows == self.sparsity.columns
        return self.values[np.flatnonzero(places)]

    def _summed(self, terms: Float[Array, " nonzeros"]) -> Float[Array, " n"]:
        zeros = jnp.zeros((self.sparsity.n,), terms.dtype)
        return zeros.at[self.sparsity.rows].add(terms)

    @property
    def row_scale(self) -> Float[Array, " n"]:
        """The largest absolute entry of each row."""
        return _largest(self.values, self.sparsity.rows, self.sparsity.n)

    @property
    def row_sums(self) -> Float[Array, " n"]:
        """The sum of the absolute entries of each row."""
        return self._summed(jnp.abs(self.values))

    def scaled(
        self, rows: Float[Array, " n"], columns: Float[Array, " n"]
    ) -> Float[Array, " nonzeros"]:
        """The entries, divided by a number for their row and one for their column."""
        return self.values / rows[self.sparsity.rows] / columns[self.sparsity.columns]

    def scales(self) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        """What `scaled` makes largest entries of about one with, in each row and
        column."""
        rows = self.row_scale
        sparsity = self.sparsity
        values = self.values / rows[sparsity.rows]
        return rows, _largest(values, sparsity.columns, sparsity.n)


def _largest(values: Array, places: Any, n: int) -> Float[Array, " n"]:
    """The largest `|entry|` at each place."""
    tiny = jnp.finfo(values.dtype).tiny
    return jnp.full((n,), tiny, values.dtype).at[places].max(jnp.abs(values))
