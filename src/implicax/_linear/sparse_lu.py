"""Sparse LU factorisation: SuperLU, through SciPy, on the host.

The factors are no arrays: they stay on the host, and a program holds a *token* for them
beside the matrix. A token whose factors are gone (there is room for so many; or they
were made by another process) is no loss: they are made again from the matrix.
"""

import collections
import concurrent.futures
import dataclasses
import itertools
import os
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt32

from implicax._core import tree_math
from implicax._core.noise import noise
from implicax._core.tree_math import Vector
from implicax._linear.sparse_matrix import SparseMatrix
from implicax._linear.sparsity import Sparsity

#: So many nonzeros of factors are kept on the host (2 GiB), of so many matrices; always
#: the last ones.
ROOM, MATRICES = 2**27, 256
#: Of a pattern that is symmetric the diagonal is taken as the pivot unless another
#: entry is so many times larger: half the fill-in (measured on a five-point Laplacian).
PIVOT = 0.1
#: A matrix, its largest entries scaled to one, is singular to working precision where
#: `eps sqrt(n)` times this is no less than one over the norm of its inverse.
SINGULAR = 1.0


#: SciPy frees factors in the thread that made them, and nowhere else: one does it all.
THREAD = concurrent.futures.ThreadPoolExecutor(1, "implicax-superlu")


class _Factors:
    """What SuperLU left, or `None` where the matrix is singular."""

    def __init__(self, superlu: Any):
        self.superlu = superlu
        self.nonzeros = 0 if superlu is None else int(superlu.nnz)

    def solve(self, b: np.ndarray, transposed: bool) -> np.ndarray:
        """For each row of `b`."""
        if self.superlu is None:
            return np.full_like(b, np.nan)
        x = self.superlu.solve(np.ascontiguousarray(b.T), "T" if transposed else "N")
        return np.ascontiguousarray(x.T)


class _Store:
    """The factors that are kept, by their token."""

    def __init__(self) -> None:
        self.factors: collections.OrderedDict[bytes, _Factors] = (
            collections.OrderedDict()
        )
        self._count = itertools.count(1)
        #: A token of another process is none of this one's.
        self._process = int.from_bytes(os.urandom(4), "little")

    def new_token(self) -> np.ndarray:
        count = next(self._count) % 2**32
        return np.asarray([self._process, count], np.uint32)

    def put(self, token: np.ndarray, factors: _Factors) -> None:
        self.factors[token.tobytes()] = factors
        used = sum(kept.nonzeros for kept in self.factors.values())
        while used > ROOM or len(self.factors) > MATRICES:
            if len(self.factors) == 1:
                break
            used -= self.factors.popitem(last=False)[1].nonzeros


STORE = _Store()


@dataclasses.dataclass(frozen=True)
class _Host:
    """What JAX calls back: for matrices of one pattern. Lanes of a `vmap` are leading
    axes."""

    sparsity: Sparsity
    incomplete: bool = False

    def _factors(self, values: np.ndarray) -> _Factors:
        import scipy.sparse
        import scipy.sparse.linalg

        if not np.isfinite(values).all():
            return _Factors(None)
        pattern = self.sparsity
        matrix = scipy.sparse.csc_matrix(
            (values, pattern.rows, pattern.starts), (pattern.n, pattern.n)
        )
        options: dict[str, Any] = {"permc_spec": "COLAMD"}
        if pattern.symmetric:
            options = {
                "permc_spec": "MMD_AT_PLUS_A",
                "diag_pivot_thresh": PIVOT,
                "options": {"SymmetricMode": True},
            }
        factorise = scipy.sparse.linalg.splu
        if self.incomplete:
            factorise = scipy.sparse.linalg.spilu
        try:
            return _Factors(factorise(matrix, **options))
        except RuntimeError as error:
            if "singular" not in str(error):
                raise
            return _Factors(None)

    def factorise(self, values: Array, probe: Array) -> tuple[np.ndarray, np.ndarray]:
        """A token for each lane, and the size of the inverse as `probe` sees it."""
        given = np.asarray(values), np.asarray(probe)
        return THREAD.submit(self._factorise, *given).result()

    def forward(self, token: Array, values: Array, b: Array) -> np.ndarray:
        """`J^-1 b`."""
        given = np.asarray(token), np.asarray(values), np.asarray(b)
        return THREAD.submit(self._solve, *given, False).result()

    def backward(self, token: Array, values: Array, b: Array) -> np.ndarray:
        """`J^-T b`."""
        given = np.asarray(token), np.asarray(values), np.asarray(b)
        return THREAD.submit(self._solve, *given, True).result()

    def _factorise(
        self, matrices: np.ndarray, probe: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        lead, n = matrices.shape[:-1], self.sparsity.n
        right = probe.reshape(-1, n)[:1]
        tokens, sizes = [], []
        for matrix in matrices.reshape(-1, matrices.shape[-1]):
            factors = self._factors(matrix)
            found = np.abs(factors.solve(right, False)).max()
            token = STORE.new_token()
            STORE.put(token, factors)
            tokens.append(token)
            sizes.append(found if np.isfinite(found) else np.inf)
        found = np.asarray(sizes, matrices.dtype).reshape(lead)
        return np.stack(tokens).reshape((*lead, 2)), found

    def _solve(
        self,
        tokens: np.ndarray,
        matrices: np.ndarray,
        rows: np.ndarray,
        transposed: bool,
    ) -> np.ndarray:
        lead = np.broadcast_shapes(*(x.shape[:-1] for x in (tokens, matrices, rows)))
        if tokens.size == 2 and matrices.size == self.sparsity.nonzeros:
            # One matrix, and as many right-hand sides as there are.
            rows = np.broadcast_to(rows, (*lead, rows.shape[-1]))
            flat = rows.reshape(-1, rows.shape[-1])
            one = self._one(tokens.reshape(2), matrices.reshape(-1), flat, transposed)
            return one.reshape(rows.shape)
        lanes = [
            np.broadcast_to(x, (*lead, x.shape[-1])).reshape(-1, x.shape[-1])
            for x in (tokens, matrices, rows)
        ]
        found = [
            self._one(token, matrix, row[None], transposed)[0]
            for token, matrix, row in zip(*lanes, strict=True)
        ]
        return np.stack(found).reshape((*lead, rows.shape[-1]))

    def _one(
        self, token: np.ndarray, values: np.ndarray, b: np.ndarray, transposed: bool
    ) -> np.ndarray:
        factors = STORE.factors.get(token.tobytes())
        if factors is None:
            factors = self._factors(values)
            STORE.put(token, factors)
        return factors.solve(b, transposed)


class SparseLU(eqx.Module):
    """`D^-1 J C^-1 = L U`, with rows and columns scaled to a largest entry of one: so
    that units of equations and unknowns matter to no pivot."""

    matrix: SparseMatrix
    row_scale: Float[Array, " n"]
    column_scale: Float[Array, " n"]
    token: UInt32[Array, "2"]
    inverse_size: Float[Array, ""]
    """The largest entry of what the inverse of the scaled matrix makes of a vector of
    entries of about one."""
    incomplete: bool = eqx.field(static=True, default=False)
    """Whether small entries of the factors are left out."""

    @classmethod
    def of(cls, matrix: SparseMatrix, incomplete: bool = False) -> "SparseLU":
        matrix = jax.lax.stop_gradient(matrix)
        rows, columns = matrix.scales()
        values = matrix.scaled(rows, columns)
        template = (
            jax.ShapeDtypeStruct((2,), jnp.uint32),
            jax.ShapeDtypeStruct((), values.dtype),
        )
        token, size = jax.pure_callback(
            _Host(matrix.sparsity, incomplete).factorise,
            template,
            values,
            noise(rows.shape, values.dtype),
            vmap_method="expand_dims",
        )
        return cls(matrix, rows, columns, token, size, incomplete)

    @classmethod
    def none(cls, sparsity: Sparsity, dtype: Any) -> "SparseLU":
        """A placeholder: of a matrix that is zero."""
        values = jnp.zeros((sparsity.nonzeros,), dtype)
        ones, inf = jnp.ones((sparsity.n,), dtype), jnp.full((), jnp.inf, dtype)
        matrix = SparseMatrix(values, sparsity, jnp.ones((), bool))
        return cls(matrix, ones, ones, jnp.zeros((2,), jnp.uint32), inf)

    @property
    def singular(self) -> Bool[Array, ""]:
        """Whether `J` is singular to working precision."""
        eps = jnp.finfo(self.inverse_size.dtype).eps
        lost = SINGULAR * eps * self.matrix.sparsity.n**0.5
        return ~(lost * self.inverse_size < 1)

    @property
    def product_size(self) -> Float[Array, ""]:
        """`|J|`, as rounding errors of products see it: no row adds up to more."""
        most = self.matrix.sparsity.most_in_a_row
        return most * tree_math.max_abs(self.matrix.values)

    def solve(self, b: Vector, transposed: bool) -> Vector:
        """`J^-1 b`, or `J^-T b`; NaN where the pattern is not that of `J`."""
        flat, unravel = tree_math.ravel(b)
        before, after = self.row_scale, self.column_scale
        if transposed:
            before, after = after, before
        host = _Host(self.matrix.sparsity, self.incomplete)
        values = self.matrix.scaled(self.row_scale, self.column_scale)
        x = jax.pure_callback(
            host.backward if transposed else host.forward,
            jax.ShapeDtypeStruct(flat.shape, flat.dtype),
            self.token,
            values,
            (flat / before).astype(values.dtype),
            vmap_method="expand_dims",
        )
        return unravel(jnp.where(self.matrix.faithful, x / after, jnp.nan))


class SparseElimination(eqx.Module):
    """The solution of one sparse system, and the factors that gave it."""

    factor: SparseLU
    solution: Float[Array, " n"]

    @classmethod
    def of(cls, matrix: SparseMatrix, b: Vector) -> "SparseElimination":
        factor = SparseLU.of(matrix)
        return cls(factor, tree_math.ravel(factor.solve(b, False))[0])

    @classmethod
    def none(cls, sparsity: Sparsity, dtype: Any) -> "SparseElimination":
        """A placeholder of the right shape."""
        factor = SparseLU.none(sparsity, dtype)
        return cls(factor, jnp.ones((sparsity.n,), dtype))

    @property
    def singular(self) -> Bool[Array, ""]:
        return self.factor.singular
