"""Where a Jacobian may be other than zero, and which of its columns are computed at
once."""

import functools
import hashlib
from typing import Any

import numpy as np

from implicax._core.optional import library


class Sparsity:
    """The sparsity pattern of a Jacobian `dF/dy` with `n` unknowns.

    Columns that share no row are computed by one product with the Jacobian: they have
    one *color* (Curtis, Powell & Reid 1974). A row that is nearly full, which would
    give each column a color of its own, is one product with the transpose. So forming a
    Jacobian takes as many products as there are colors and full rows, not as many as
    unknowns.

    **Arguments:**

    - `rows`, `columns`: the places that may be other than zero, as integers: equations
      and unknowns in the order of the leaves of `y`, each leaf row by row; two for each
      complex number, its real and its imaginary part. Twice the same is once, and the
      diagonal is there without being named.
    - `n`: the number of (real) unknowns.

    As `sparsity=`, a matrix will do too: a SciPy sparse matrix or a
    `jax.experimental.sparse.BCOO`; its values do not matter.

    **Raises:** `TypeError` and `ValueError` for places that are none; `ImportError`
    where asdex, which colors, is missing: `pip install 'implicax[sparse]'`.

    ```python
    import implicax as ix
    import numpy as np

    row = np.arange(4)
    print(ix.Sparsity(row[1:], row[:-1], 4))
    ```
    ```text
    Sparsity(n=4, nonzeros=7, colors=2)
    ```
    """

    def __init__(self, rows: Any, columns: Any, n: int):
        if not isinstance(n, int | np.integer) or isinstance(n, bool) or n < 1:
            raise ValueError(f"n must be the number of unknowns, not {n!r}.")
        rows, columns = _places("rows", rows, n), _places("columns", columns, n)
        if rows.size != columns.size:
            raise ValueError(
                "rows and columns name the places together, and there are "
                f"{rows.size} rows and {columns.size} columns."
            )
        diagonal = np.arange(n, dtype=np.int64)
        places = np.unique(
            np.concatenate([columns * n + rows, diagonal * n + diagonal])
        )
        #: Column by column, and in each from top to bottom.
        self.columns = (places // n).astype(np.int32)
        self.rows = (places % n).astype(np.int32)
        self.n = int(n)
        #: How long it took to find it, where it was found (`ix.detect_sparsity`).
        self.seconds = 0.0
        told = self.rows.tobytes(), self.columns.tobytes()
        self._key = (self.n, *(hashlib.sha256(x).digest() for x in told))

    @classmethod
    def of(cls, given: Any, n: int) -> "Sparsity":
        """What a user gave as `sparsity=`, for `n` unknowns."""
        if not isinstance(given, cls):
            rows, columns, shape = _of_matrix(given)
            if tuple(shape) != (n, n):
                raise ValueError(
                    "sparsity must have a row for each equation and a column for each "
                    f"unknown, ({n}, {n}), and its shape is {tuple(shape)}."
                )
            return _known(cls(rows, columns, n))
        if given.n != n:
            raise ValueError(
                f"sparsity is that of {given.n} unknowns, and there are {n}."
            )
        return given

    @property
    def nonzeros(self) -> int:
        """How many places there are."""
        return self.rows.size

    @functools.cached_property
    def full_rows(self) -> np.ndarray:
        """The rows that are better computed one by one. Columns need as many colors as
        the fullest of the other rows has places, at least: `k` full rows, so that `k`
        and that are least together."""
        counts = np.bincount(self.rows, minlength=self.n)
        order = np.argsort(-counts, kind="stable")
        fullest = np.append(counts[order], 0)
        full = int(np.argmin(np.arange(self.n + 1) + fullest))
        return np.sort(order[:full]).astype(np.int32)

    @functools.cached_property
    def colors(self) -> np.ndarray:
        """The color of each column."""
        asdex = library("asdex", "sparsity=", "sparse")
        rest = ~np.isin(self.rows, self.full_rows)
        places = self.rows[rest], self.columns[rest]
        pattern = asdex.SparsityPattern(*places, (self.n, self.n))
        return np.asarray(asdex.color_cols(pattern)[0], np.int32)

    @functools.cached_property
    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """Where each entry is found among the products: which, and where in it. First
        come those of the colors, then the full rows."""
        full = np.isin(self.rows, self.full_rows)
        which = self.colors[self.columns].copy()
        which[full] = self.num_colors + np.searchsorted(self.full_rows, self.rows[full])
        return which, np.where(full, self.columns, self.rows)

    @property
    def num_colors(self) -> int:
        """How many products with the Jacobian form it, but for the full rows."""
        return int(self.colors.max()) + 1

    @functools.cached_property
    def most_in_a_row(self) -> int:
        """The largest number of places in a row."""
        return int(np.bincount(self.rows).max())

    @functools.cached_property
    def starts(self) -> np.ndarray:
        """Where each column begins among the places, and the end."""
        ends = np.cumsum(np.bincount(self.columns, minlength=self.n))
        return np.concatenate([[0], ends]).astype(np.int32)

    @functools.cached_property
    def order(self) -> np.ndarray:
        """The places in the order of `transposed`."""
        return np.lexsort((self.columns, self.rows))

    @functools.cached_property
    def symmetric(self) -> bool:
        """Whether the pattern is its own transpose."""
        return np.array_equal(self.rows[self.order], self.columns) and np.array_equal(
            self.columns[self.order], self.rows
        )

    @functools.cached_property
    def transposed(self) -> "Sparsity":
        """That of `(dF/dy)^T`."""
        return self if self.symmetric else Sparsity(self.columns, self.rows, self.n)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sparsity) and self._key == other._key

    def __repr__(self) -> str:
        full = f", full_rows={self.full_rows.size}" if self.full_rows.size else ""
        return (
            f"Sparsity(n={self.n}, nonzeros={self.nonzeros}, colors={self.num_colors}"
            f"{full})"
        )


#: Patterns that came as matrices, of late: a new call need not color again.
@functools.lru_cache(maxsize=16)
def _known(sparsity: Sparsity) -> Sparsity:
    return sparsity


def _places(name: str, given: Any, n: int) -> np.ndarray:
    given = np.asarray(given)
    if given.ndim != 1 or not (given.size == 0 or given.dtype.kind in "iu"):
        raise TypeError(
            f"{name} must be a list of integers, and it has dtype {given.dtype} and "
            f"shape {given.shape}."
        )
    outside = (given < 0) | (given >= n)
    if outside.any():
        raise ValueError(
            f"{name} must lie between 0 and {n - 1}, and {int(np.sum(outside))} of "
            f"them do not, such as {given[outside][0]}."
        )
    return given.astype(np.int64)


def _of_matrix(given: Any) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """The places of a SciPy sparse matrix or of a BCOO, and its shape."""
    if hasattr(given, "tocoo"):
        places = given.tocoo()
        return places.row, places.col, places.shape
    indices = getattr(given, "indices", None)
    if indices is not None and len(getattr(given, "shape", ())) == 2:
        rows, columns = np.asarray(indices).T
        return rows, columns, given.shape
    raise TypeError(
        "sparsity must be 'auto', an ix.Sparsity(rows, columns, n), a SciPy sparse "
        f"matrix or a BCOO, and it is {type(given).__name__}."
    )
