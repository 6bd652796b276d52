"""The sparsity of a problem's Jacobian: what a user says of it, or what its trace
tells."""

import functools
import time
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from implicax._core import tree_math
from implicax._core.optional import library
from implicax._core.tree_math import Vector
from implicax._linear.sparsity import Sparsity
from implicax._problems.optimality_conditions import OptimalityConditions


def find_sparsity(
    conditions: OptimalityConditions,
    given: Any,
    v0: Vector,
    inputs: PyTree[Array],
    y0: PyTree,
) -> Sparsity | None:
    """The pattern that `given` means for these conditions; `None`, with a warning,
    where it should be found and cannot."""
    n = tree_math.num_unknowns(v0)
    if isinstance(given, str):
        if given != "auto":
            raise ValueError(
                "sparsity must be 'auto', an ix.Sparsity(rows, columns, n), a SciPy "
                f"sparse matrix or a BCOO, not {given!r}."
            )
        try:
            return detect(conditions, v0, inputs)
        except DetectionError as error:
            warnings.warn(
                f"sparsity='auto': {error} It goes on without. Give the pattern, "
                "sparsity=ix.Sparsity(rows, columns, n), where you know it.",
                stacklevel=2,
            )
            return None
    if not isinstance(given, Sparsity) and any(
        jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(y0)
    ):
        raise TypeError(
            "A matrix as sparsity= has a row and a column for each real unknown, and "
            "y0 is complex: give ix.Sparsity(rows, columns, n), with two for each "
            "complex number, or 'auto'."
        )
    return Sparsity.of(given, n)


class DetectionError(RuntimeError):
    """No sparsity pattern was found."""


def detect(
    conditions: OptimalityConditions, v0: Vector, inputs: PyTree[Array]
) -> Sparsity:
    """The pattern of `dF/dv`, for every `v`: by following which numbers each operation
    of the trace depends on (asdex: Hill & Dalle, *Sparser, Better, Faster, Stronger:
    Sparsity Detection for Efficient Automatic Differentiation*, 2025).

    Integers among the inputs that have values, such as the ends of edges, count with
    these; floating numbers may be any.
    """
    leaves, treedef = jax.tree.flatten((v0, inputs))
    return _detected(conditions, treedef, tuple(map(_Leaf, leaves)))


class _Leaf:
    """What detection may know of an input; equal where that is the same."""

    def __init__(self, leaf: Array):
        self.shape, self.dtype = leaf.shape, leaf.dtype
        self.integers = None
        discrete = not jnp.issubdtype(leaf.dtype, jnp.inexact)
        if discrete and tree_math.known(leaf):
            self.integers = np.asarray(leaf)
        told = None if self.integers is None else self.integers.tobytes()
        self._key = (self.shape, self.dtype, told)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Leaf) and self._key == other._key


#: Once for each computation, of late.
@functools.lru_cache(maxsize=16)
def _detected(
    conditions: OptimalityConditions, treedef: Any, leaves: tuple[_Leaf, ...]
) -> Sparsity:
    asdex = library("asdex", "sparsity=", "sparse")
    start = time.perf_counter()
    zeros = [np.zeros(leaf.shape, leaf.dtype) for leaf in leaves]
    free = [leaf.integers is None for leaf in leaves]
    with jax.ensure_compile_time_eval():
        v0, _ = jax.tree.unflatten(treedef, list(map(jnp.asarray, zeros)))
        flat, unravel = tree_math.ravel(v0)

    def residual(flat: Array, numbers: list[Array]) -> Array:
        rest = iter(numbers)
        both = [
            next(rest) if leaf.integers is None else leaf.integers for leaf in leaves
        ]
        _, inputs = jax.tree.unflatten(treedef, both)
        return tree_math.ravel(conditions.residual(unravel(flat), inputs))[0]

    numbers = [zero for zero, is_free in zip(zeros, free, strict=True) if is_free]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = asdex.jacobian_sparsity(residual, flat, numbers)
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        raise DetectionError(
            "asdex does not see which unknowns each equation depends on "
            f"({type(error).__name__}: {said})."
        ) from error
    pattern = Sparsity(found.rows, found.cols, flat.size)
    _ = pattern.colors  # (a part of what it takes)
    pattern.seconds = time.perf_counter() - start
    return pattern
