"""Gaussian elimination of `J t = b` with `J` formed: factors to keep, or one solve."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from implicax._core import tree_math
from implicax._core.tree_math import Vector

MatVec = Callable[[Vector], Vector]

#: A pivot below so many times its rounding error is zero.
LOST = 32.0
#: Exchanges of rows to a round of a loop.
EXCHANGES = 32


class LUFactors(eqx.Module):
    """`P D^-1 J = L U`: rows scaled to a largest entry of one, partial pivoting.

    The scaling makes pivoting, and the verdict on singularity, independent of the units
    of the equations (Golub & Van Loan, *Matrix Computations*, sec. 3.5.2).
    """

    lu: Float[Array, "n n"]
    permutation: Int[Array, " n"]
    scale: Float[Array, " n"]
    """The largest absolute entry of each row of `J`."""

    @property
    def singular(self) -> Bool[Array, ""]:
        """Whether `J` is singular to working precision."""
        return _singular(self.lu)

    @property
    def product_size(self) -> Float[Array, ""]:
        """`|J|`, as rounding errors of products see it: its largest entry."""
        return tree_math.max_abs(self.scale)

    def solve(self, b: Vector, transposed: bool) -> Vector:
        """`J^-1 b`, or `J^-T b`."""
        flat, unravel = tree_math.ravel(b)
        if flat.size == 1:
            return unravel(flat / self.scale / self.lu[0])
        lower, upper = {"lower": True, "unit_diagonal": True}, {"lower": False}
        triangular = jax.scipy.linalg.solve_triangular
        if transposed:
            half = triangular(self.lu, flat, trans=1, **upper)
            rows = triangular(self.lu, half, trans=1, **lower)
            # `P^T rows`, and not by a scatter, which is a sequential loop.
            x = _taken(rows, jnp.argsort(self.permutation)) / self.scale
        else:
            rows = _taken(flat / self.scale, self.permutation)
            x = triangular(self.lu, triangular(self.lu, rows, **lower), **upper)
        return unravel(x)


def _taken(rows: Array, places: Array) -> Array:
    # That they are places need not be looked at.
    return rows.at[places].get(mode="promise_in_bounds", wrap_negative_indices=False)


def factorise(matrix: Float[Array, "n n"]) -> LUFactors:
    """LU with scaled partial pivoting."""
    scale = row_scale(matrix)
    if scale.size == 1:
        zero = jnp.zeros((1,), jnp.int32)
        return LUFactors(matrix / scale[:, None], zero, scale)
    lu, pivots, _ = jax.lax.linalg.lu(matrix / scale[:, None])
    return LUFactors(lu, permutation_of(pivots), scale)


class Elimination(eqx.Module):
    """Gauss' elimination of one system `J t = b`: the LU of the `n x (n + 1)` matrix
    `D^-1 [J, b]`.

    Its last column is `L^-1 P D^-1 b`, so the solution takes one triangular solve and
    no permutation (which would be a loop of `n` sequential steps).
    """

    lu: Float[Array, "n n"]
    pivots: Int[Array, " n"]
    scale: Float[Array, " n"]
    solution: Float[Array, " n"]
    """`t = J^-1 b`."""

    @property
    def singular(self) -> Bool[Array, ""]:
        return _singular(self.lu)

    @property
    def factor(self) -> LUFactors:
        """For other right-hand sides."""
        return LUFactors(self.lu, permutation_of(self.pivots), self.scale)


def augment(
    matrix: Float[Array, "n n"], b: Float[Array, " n"]
) -> tuple[Float[Array, "n n+1"], Float[Array, " n"]]:
    """`D^-1 [J, b]` and the diagonal of `D`."""
    scale = row_scale(matrix)
    return jnp.concatenate([matrix, b[:, None]], axis=1) / scale[:, None], scale


def eliminate(
    augmented: Float[Array, "n n+1"], scale: Float[Array, " n"]
) -> Elimination:
    """Gauss' elimination of what `augment` returned.

    A single equation is a division: a million of them take no million calls of LAPACK.
    """
    if scale.size == 1:
        lu, half = augmented[:, :1], augmented[:, 1]
        return Elimination(lu, jnp.zeros((1,), jnp.int32), scale, half / lu[0])
    both, pivots, _ = jax.lax.linalg.lu(augmented)
    lu, half = both[:, :-1], both[:, -1]
    return Elimination(lu, pivots, scale, jax.scipy.linalg.solve_triangular(lu, half))


def row_scale(matrix: Float[Array, "n n"]) -> Float[Array, " n"]:
    """The largest absolute entry of each row."""
    # By columns, which is how the matrix was made: no transposed copy.
    largest = tree_math.max_abs(matrix.T, axis=0)
    return jnp.maximum(largest, jnp.finfo(matrix.dtype).tiny)


def permutation_of(pivots: Int[Array, " n"]) -> Int[Array, " n"]:
    """Where each row of `P J` comes from, by LAPACK's list of exchanges.

    Each place is followed through the exchanges, the last one first: arithmetic on all
    places at once, of all lanes of a `vmap`, several exchanges to a round of the loop.
    (`jax.lax.linalg.lu_pivots_to_permutation` scatters, two entries to a round.)
    """
    n, places = pivots.size, jnp.arange(pivots.size, dtype=pivots.dtype)

    def follow(places: Array, start: Array | int, exchanges: Array) -> Array:
        for k in reversed(range(exchanges.size)):
            one, other = start + k, exchanges[k]
            exchanged = jnp.where(places == other, one, places)
            places = jnp.where(places == one, other, exchanged)
        return places

    if n <= EXCHANGES:
        return follow(places, 0, pivots)
    blocks = -(-n // EXCHANGES)
    rest = jnp.arange(n, blocks * EXCHANGES, dtype=pivots.dtype)
    table = jnp.concatenate([pivots, rest]).reshape(blocks, EXCHANGES)

    def follow_block(carry: tuple) -> tuple:
        block, places = carry
        return block - 1, follow(places, block * EXCHANGES, table[block])

    first = jnp.asarray(blocks - 1, pivots.dtype), places
    return tree_math.while_loop(lambda carry: carry[0] >= 0, follow_block, first)[1]


def _singular(lu: Float[Array, "n n"]) -> Bool[Array, ""]:
    """Whether a pivot is lost in the rounding errors of its own column.

    Its error is about `eps` times the sum of its column in `U` (Higham, ch. 9). The
    rows have been scaled and the columns are compared with themselves, so a matrix that
    is only badly *scaled*, `diag(1, 1e-20)`, is not called singular.
    """
    columns = jnp.abs(jnp.triu(lu)).T @ jnp.ones((lu.shape[0],), lu.dtype)
    bound = LOST * jnp.finfo(lu.dtype).eps * columns
    return ~jnp.all(jnp.abs(jnp.diagonal(lu)) > bound)


def materialize(
    product: MatVec, like: Vector, unit: Array | float = 1.0
) -> Float[Array, "m n"]:
    """The matrix of a linear map of such vectors, column by column (times `unit`)."""
    flat, unravel = tree_math.ravel(like)

    def column(e: Array) -> Array:
        return tree_math.ravel(product(unravel(e)))[0]

    basis = jnp.asarray(unit, flat.dtype) * jnp.eye(flat.size, dtype=flat.dtype)
    if tree_math.inside_shard_map():
        # There a tangent must vary over the mesh as its primal does.
        basis = jnp.where((flat == flat)[None, :], basis, basis)
    return jax.vmap(column, out_axes=1)(basis)


def no_elimination(y: Vector) -> Elimination:
    """A placeholder of the right shape. As an approximate inverse it is infinite, so
    whoever reuses it finds out at once and factorises afresh."""
    n, dtype = tree_math.num_unknowns(y), tree_math.working_dtype(y)
    pivots = jnp.arange(n, dtype=jnp.int32)
    zeros, ones = jnp.zeros((n, n), dtype), jnp.ones((n,), dtype)
    return Elimination(zeros, pivots, ones, ones)
