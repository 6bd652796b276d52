"""Checks of what comes in, with errors that say what was expected, what came, and what
to do."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from implicax._core import tree_math
from implicax._core.solution import Solution


def split_arrays(args: PyTree) -> tuple[PyTree, PyTree]:
    """`args` as (arrays, everything else), each with `None` in the other's places.

    Python floats and complex numbers count as arrays (weakly typed, as in JAX): they
    are differentiable, and a new one does not recompile. Integers, booleans, strings
    and callables are constants.
    """

    def promote(leaf: Any) -> Any:
        numeric = isinstance(leaf, float | complex | np.ndarray | np.generic)
        return jnp.asarray(leaf) if numeric else leaf

    return eqx.partition(jax.tree.map(promote, args), eqx.is_array)


def check_unknown(y0: PyTree, name: str) -> PyTree:
    """`y0`, called `name`, with its leaves as arrays, or an error that says why not.

    A [`implicax.Solution`][] stands for its value.
    """
    if isinstance(y0, Solution):
        y0 = y0.unknown
    if not jax.tree.leaves(y0):
        raise ValueError(
            f"{name} is empty: {y0!r} has no array leaves, so there is nothing to "
            "solve for. Pass at least one number."
        )
    module = not all(map(callable, jax.tree.leaves(y0)))

    def check(path: Any, leaf: Any) -> Any:
        if callable(leaf) and module:  # its activation
            return leaf
        where = f"{name}{jax.tree_util.keystr(path)}"
        if not eqx.is_array_like(leaf):
            raise TypeError(
                f"{where} must be an array of floats, and it is a "
                f"{type(leaf).__name__}. Pass what is not unknown through args."
            )
        leaf = jnp.asarray(leaf)
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(
                f"{where} must have a floating or complex dtype, and it has "
                f"{leaf.dtype}. Solutions are real numbers: pass for example "
                f"jnp.asarray({name}, dtype=float)."
            )
        if leaf.size == 0:
            raise ValueError(
                f"{where} is empty: its shape is {leaf.shape}. Pass at least "
                "one number."
            )
        if not tree_math.traced(leaf) and not np.isfinite(np.asarray(leaf)).all():
            raise ValueError(
                f"{where} is not finite: it holds NaN or infinity. Pass finite numbers."
            )
        return jax.lax.convert_element_type(leaf, leaf.dtype)  # drops weak types

    return jax.tree_util.tree_map_with_path(check, y0)


def check_real(y0: PyTree, when: str) -> PyTree:
    """`y0` as `check_unknown` has it, or an error unless it is real arrays of one
    precision, as it must be `when` there are constraints, say."""
    y0 = check_unknown(y0, "y0")
    leaves = jax.tree.leaves(y0)
    kinds = sorted({"a function" if callable(x) else str(x.dtype) for x in leaves})
    if len(kinds) > 1 or any(map(jnp.iscomplexobj, leaves)):
        raise TypeError(
            f"{when} y0 must be real arrays of one precision, and it holds "
            f"{', '.join(kinds)}. (Of a complex unknown, take real and imaginary "
            "parts.)"
        )
    return y0


def match(output: Any, y: PyTree, must: str, name: str) -> PyTree:
    """`output` with the dtypes of `y`, or an error if it does not match `y`.

    Errors begin with what `must` be returned, called `name`.
    """
    expected, came = jax.tree.structure(y), jax.tree.structure(output)
    if expected != came:
        raise TypeError(
            f"{must} {name} with the pytree structure of y0, {expected}, and "
            f"it returned {came}. {hint(output, y)}".rstrip()
        )

    def check(path: Any, leaf: Any, out: Any) -> Any:
        if callable(leaf):
            return leaf
        where = jax.tree_util.keystr(path)
        if not eqx.is_array_like(out):
            raise TypeError(
                f"{must} {name} of numbers at y{where}, as y0 has, and it returned a "
                f"{type(out).__name__}. (Of a result object return the value: SciPy's "
                "is result.x, ours solution.value.)"
            )
        out = jnp.asarray(out)
        if out.shape != leaf.shape:
            raise ValueError(
                f"{must} {name} of shape {leaf.shape} at y{where}, as y0 "
                f"has, and it returned shape {out.shape}."
            )
        if out.dtype != leaf.dtype and not out.weak_type:
            raise TypeError(
                f"{must} {name} of dtype {leaf.dtype} at y{where}, as y0 "
                f"has, and it returned {out.dtype}. Pass y0 and args in one precision."
            )
        if jnp.iscomplexobj(out) and not jnp.iscomplexobj(leaf):
            raise TypeError(
                f"{must} {name} that is real for the real unknown y{where}. Pass a "
                "complex y0."
            )
        return out.astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(check, y, output)


def hint(output: Any, y: PyTree) -> str:
    """What may have been meant by an output that is unlike `y`."""
    if output is None or (isinstance(output, tuple) and not output):
        return "(Is a `return` missing?)"
    if isinstance(y, list | tuple) and eqx.is_array_like(output):
        return "(For a vector of unknowns pass y0=jnp.array([...]).)"
    if isinstance(output, tuple) and len(output) == 2:
        return "(For a pair with auxiliary output, pass has_aux=True.)"
    return ""


def positive(name: str, hint: str = "") -> Callable[[Any], Float[Array, ""]]:
    """A converter to an array for a positive number called `name`."""

    def convert(value: Any) -> Float[Array, ""]:
        number = eqx.is_array_like(value) and not isinstance(value, bool)
        if not number or jnp.ndim(value) != 0 or jnp.iscomplexobj(value):
            raise TypeError(f"{name} must be a single real number, not {value!r}.")
        if not tree_math.traced(value) and not value > 0:
            raise ValueError(f"{name} must be positive, and it is {value}{hint}.")
        return jnp.asarray(value, dtype=jnp.result_type(float))

    return convert
