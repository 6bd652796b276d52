"""What becomes of a failure: an error outside `jit`; inside, where none can be raised,
NaN in the lanes that failed; or nothing, where the caller looks at the status."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from implicax._core import tree_math

OnFailure = Literal["raise", "ignore"]


def check_on_failure(on_failure: Any) -> None:
    if on_failure not in ("raise", "ignore"):
        raise ValueError(f"on_failure must be 'raise' or 'ignore', not {on_failure!r}.")


def raises(on_failure: OnFailure, failed: Bool[Array, ""]) -> bool:
    """Whether this is to be an error: it failed, and that is known here."""
    return on_failure == "raise" and not tree_math.traced(failed) and bool(failed)


def poisons(on_failure: OnFailure, failed: Bool[Array, ""]) -> bool:
    """Whether NaN is to tell, where it failed: what did is known only later."""
    return on_failure == "raise" and tree_math.traced(failed)


def poisoned(tree: PyTree[Array], solved: Bool[Array, ""]) -> PyTree[Array]:
    """The tree, or NaN where it is not solved."""
    # A product, not a `where`: the derivative of a failed lane must be NaN too.
    factor = jnp.where(solved, 1.0, jnp.nan)

    def spoiled(leaf: Array) -> Array:
        inexact = jnp.issubdtype(leaf.dtype, jnp.inexact)
        return leaf * factor.astype(leaf.dtype) if inexact else leaf

    return jax.tree.map(spoiled, tree)
