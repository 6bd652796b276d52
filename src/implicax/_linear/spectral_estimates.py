"""Sizes of a linear map known by its products: condition number, spectral radius.

Estimates, for judging the theorem's hypotheses; nothing is differentiated through them.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from implicax._core import tree_math
from implicax._core.noise import noise
from implicax._core.tree_math import Vector
from implicax._linear.lu import MatVec

#: Rounds of (inverse) power iteration: a few per cent of accuracy on most spectra.
POWER_STEPS = 20
#: Dimension of the Krylov space for the spectral radius.
ARNOLDI_STEPS = 40
#: Squarings in Gelfand's formula: k = 2**30.
SQUARINGS = 30


def probe(like: Vector) -> Vector:
    """A fixed direction of unit length, in no special position."""
    leaves, treedef = jax.tree.flatten(like)
    entries = [noise(leaf.shape, leaf.dtype, k) for k, leaf in enumerate(leaves)]
    return _normalised(jax.tree.unflatten(treedef, entries))[0]


def largest_singular_value(
    product: MatVec, transposed: MatVec, like: Vector
) -> Float[Array, ""]:
    """`|M|_2` by power iteration on `M^T M` (Golub & Van Loan, sec. 8.2).

    A lower bound that is usually within a few per cent. With `M = J^-1` it is the
    reciprocal of the smallest singular value of `J`.
    """

    def step(_: Any, carry: tuple[Vector, Array]) -> tuple[Vector, Array]:
        x, _ = carry
        y, norm = _normalised(product(x))
        return _normalised(transposed(y))[0], norm

    zero = jnp.zeros((), tree_math.working_dtype(like))
    return jax.lax.fori_loop(0, POWER_STEPS, step, (probe(like), zero))[1]


def spectral_radius(product: MatVec, like: Vector) -> Float[Array, ""]:
    """The largest modulus of an eigenvalue, by Arnoldi's process.

    The Hessenberg matrix `H` of at most 40 Arnoldi steps has nearly the outermost
    eigenvalues of the map (exactly so if the space is that small). Its spectral radius
    is `lim |H^k|^(1/k)` (Gelfand 1941), taken at `k = 2^30` by repeated squaring: no
    eigenvalue routine, so any device will do, and complex pairs are no special case,
    as they are for a Rayleigh quotient.
    """
    return gelfand(_arnoldi(product, like)[0])


def no_descent(product: MatVec, like: Vector) -> Bool[Array, ""]:
    """Whether no direction of negative curvature is found: of a symmetric map, whether
    the smallest eigenvalue of Lanczos' process (Arnoldi's, for symmetric maps) is not
    negative, to half the digits of the largest. It lies above the map's smallest."""
    matrix, complete = _arnoldi(product, like)
    values = jnp.linalg.eigvalsh((matrix + matrix.T) / 2)
    tolerance = tree_math.coarsest_eps(like) ** 0.5
    return complete & (values[0] >= -tolerance * jnp.abs(values[-1]))


def _arnoldi(
    product: MatVec, like: Vector
) -> tuple[Float[Array, "m m"], Bool[Array, ""]]:
    """The Hessenberg matrix of `m <= 40` steps from a random start, and whether all of
    it is finite."""
    start, unravel = tree_math.ravel(probe(like))
    n, dtype = start.size, start.dtype
    m = min(n, ARNOLDI_STEPS)

    def step(j: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        basis, hessenberg = carry
        w = tree_math.ravel(product(unravel(basis[j])))[0]
        size = jnp.linalg.norm(w)
        # Gram-Schmidt, twice: once is not enough (Giraud et al. 2005).
        coefficients = basis @ w
        w = w - coefficients @ basis
        again = basis @ w
        w = w - again @ basis
        length = jnp.linalg.norm(w)
        # An invariant subspace is complete: the rest of H stays zero.
        live = length > 100 * jnp.finfo(dtype).eps * size
        w = jnp.where(live, w / jnp.where(live, length, 1), 0)
        column = (coefficients + again).at[j + 1].set(jnp.where(live, length, 0))
        return basis.at[j + 1].set(w), hessenberg.at[:, j].set(column)

    basis = jnp.zeros((m + 1, n), dtype).at[0].set(start)
    hessenberg = jnp.zeros((m + 1, m), dtype)
    _, hessenberg = jax.lax.fori_loop(0, m, step, (basis, hessenberg))
    matrix = hessenberg[:m]
    return matrix, jnp.all(jnp.isfinite(matrix))


def gelfand(matrix: Float[Array, "m m"]) -> Float[Array, ""]:
    """The spectral radius of a small matrix: `|M^k|^(1/k)` at `k = 2^SQUARINGS`,
    rescaled at each squaring (Gelfand 1941)."""

    def square(_: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        matrix, logarithm, exponent = carry
        norm = jnp.linalg.norm(matrix)
        matrix = matrix / jnp.where(norm > 0, norm, 1)
        return matrix @ matrix, logarithm + jnp.log(norm) * exponent, exponent / 2

    zero, one = jnp.zeros((), matrix.dtype), jnp.ones((), matrix.dtype)
    final, logarithm, exponent = jax.lax.fori_loop(
        0, SQUARINGS, square, (matrix, zero, one)
    )
    return jnp.exp(logarithm + jnp.log(jnp.linalg.norm(final)) * exponent)


def _normalised(x: Vector) -> tuple[Vector, Float[Array, ""]]:
    norm = tree_math.two_norm(x)
    return tree_math.scaled(1 / jnp.where(norm > 0, norm, 1), x), norm
