"""The door: from a user's function to closed conditions on real vectors.

Three things happen here, once, so that no other room needs to know of them.

1. *Closure conversion.* `fn` is traced to a jaxpr and every array that it closes over
   becomes an explicit input. So closed-over arrays are differentiated like any
   argument, under every nesting of transformations.
2. *The real view.* Each complex leaf of the unknown becomes a real leaf with a last
   axis of length two (real and imaginary part). A map that is not holomorphic has a
   Jacobian that is linear over the reals only; on the real view that is an ordinary
   matrix. JAX transposes the view itself, so its conventions for complex cotangents
   carry over.
3. *Checks*, with errors that say what was expected, what came, and what to do.
"""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex_core
from jaxtyping import Array, PyTree

from . import _tree
from ._problem import AbstractProblem
from ._tree import Vector

_Kind = TypeVar("_Kind", bound="Computation")


class Computation:
    """A function of `v` (on the real view) and `inputs`, as a value.

    Two of them traced from the same computation are equal and hash equally, so that a
    `jax.jit` which takes one as a static argument compiles once per computation, not
    once per Python function.
    """

    def __init__(self, jaxpr: jex_core.Jaxpr, out_tree: Any):
        self._jaxpr = jaxpr
        self._out_tree = out_tree
        self._key = (_structure(jaxpr), out_tree)
        self._hash = hash(self._key)

    def __call__(self, v: Vector, inputs: PyTree[Array]) -> Any:
        constants, args = inputs
        leaves = jax.tree.leaves((v, args))
        out = jax.core.eval_jaxpr(self._jaxpr, constants, *leaves)
        return jax.tree.unflatten(self._out_tree, out)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Computation) and self._key == other._key


class Conditions(Computation):
    """`F(v, inputs) = 0`. Calling it returns `(residual, aux_leaves)`."""

    def __init__(self, jaxpr: jex_core.Jaxpr, out_tree: Any):
        super().__init__(jaxpr, out_tree)
        #: Whether `F` has a reverse mode only (a `jax.custom_vjp` in it).
        self.reverse_only = _contains(jaxpr, "custom_vjp_call")

    def residual(self, v: Vector, inputs: PyTree[Array]) -> Vector:
        return self(v, inputs)[0]


class View(eqx.Module):
    """Between the user's pytree and the tuple of real arrays that solvers see."""

    treedef: Any = eqx.field(static=True)
    dtypes: tuple[Any, ...] = eqx.field(static=True)

    def to_real(self, y: PyTree[Array]) -> Vector:
        leaves = self.treedef.flatten_up_to(y)
        return tuple(
            jnp.stack([leaf.real, leaf.imag], -1) if jnp.iscomplexobj(leaf) else leaf
            for leaf in leaves
        )

    def from_real(self, v: Vector) -> PyTree[Array]:
        leaves = [
            jax.lax.complex(leaf[..., 0], leaf[..., 1])
            if jnp.issubdtype(dtype, jnp.complexfloating)
            else leaf
            for leaf, dtype in zip(v, self.dtypes, strict=True)
        ]
        return jax.tree.unflatten(self.treedef, leaves)


class Closed(eqx.Module):
    """A problem at its arguments, closed: nothing is captured, all is input."""

    conditions: Conditions = eqx.field(static=True)
    v0: Vector
    inputs: PyTree[Array]
    view: View
    restore_aux: Callable[[list[Array]], Any] = eqx.field(static=True)


def trace(
    kind: type[_Kind], fn: Callable[..., Any], v: Vector, arrays: PyTree[Array]
) -> tuple[_Kind, list[Array]]:
    """`fn(v, arrays)` as a `Computation`, and the arrays that it closes over."""
    jaxpr, out_shape = jax.make_jaxpr(fn, return_shape=True)(v, arrays)
    constants = [jnp.asarray(constant) for constant in jaxpr.consts]
    return kind(jaxpr.jaxpr, jax.tree.structure(out_shape)), constants


def close(
    problem: AbstractProblem, y0: PyTree, args: PyTree, name: str = "y0"
) -> Closed:
    """Trace `problem` at `y0`, `args` (arrays are inputs; all other leaves constants).

    `name` is what error messages call `y0`.

    **Raises:** `TypeError` or `ValueError` for a `y0` that is empty, not floating, or
    not finite, and for an output of `fn` that does not match `y0`.
    """
    y0 = check_unknown(y0, name)
    leaves, treedef = jax.tree.flatten(y0)
    view = View(treedef, tuple(leaf.dtype for leaf in leaves))
    arrays, others = split_arrays(args)
    aux_others: list[Any] = []

    def flat(v: Vector, arrays: PyTree[Array]) -> tuple[Vector, list[Array]]:
        y = view.from_real(v)
        output = problem.fn(y, eqx.combine(arrays, others))
        aux = None
        if problem.has_aux:
            if not (isinstance(output, tuple) and len(output) == 2):
                raise TypeError(
                    "has_aux=True: fn must return a pair (output, aux), and it "
                    f"returned {type(output).__name__}."
                )
            output, aux = output
        output = match(output, y, "fn must return a", problem.output)
        residual = jax.tree.map(problem.residual, y, output)
        aux_arrays, aux_static = eqx.partition(aux, eqx.is_array_like)
        aux_leaves, aux_tree = jax.tree.flatten(aux_arrays)
        aux_others[:] = [aux_tree, aux_static]
        return view.to_real(residual), [jnp.asarray(leaf) for leaf in aux_leaves]

    v0 = view.to_real(y0)
    conditions, constants = trace(Conditions, flat, v0, arrays)
    aux_tree, aux_static = aux_others

    def restore_aux(leaves: list[Array]) -> Any:
        return eqx.combine(jax.tree.unflatten(aux_tree, leaves), aux_static)

    return Closed(conditions, v0, (constants, arrays), view, restore_aux)


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


def check_unknown(y0: PyTree, name: str) -> PyTree[Array]:
    """`y0`, called `name`, with its leaves as arrays, or an error that says why not."""
    if not jax.tree.leaves(y0):
        raise ValueError(
            f"{name} is empty: {y0!r} has no array leaves, so there is nothing to "
            "solve for. Pass at least one number."
        )

    def check(path: Any, leaf: Any) -> Array:
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
        if not _tree.traced(leaf) and not np.isfinite(np.asarray(leaf)).all():
            raise ValueError(
                f"{where} is not finite: it holds NaN or infinity. Pass finite numbers."
            )
        return jax.lax.convert_element_type(leaf, leaf.dtype)  # drops weak types

    return jax.tree_util.tree_map_with_path(check, y0)


def match(output: Any, y: PyTree[Array], must: str, name: str) -> PyTree[Array]:
    """`output` with the dtypes of `y`, or an error if it does not match `y`.

    Errors begin with what `must` be returned, called `name`.
    """
    expected, came = jax.tree.structure(y), jax.tree.structure(output)
    if expected != came:
        raise TypeError(
            f"{must} {name} with the pytree structure of y0, {expected}, and "
            f"it returned {came}. (For a pair with auxiliary output, pass "
            "has_aux=True.)"
        )

    def check(path: Any, leaf: Array, out: Any) -> Array:
        where = jax.tree_util.keystr(path)
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


def _structure(jaxpr: jex_core.Jaxpr) -> Hashable:
    """A hashable key that is equal for jaxprs that compute the same thing.

    Variables are numbered in order of appearance. Whatever is not understood (a
    function held by a custom derivative rule, say) counts as itself: such jaxprs are
    then equal only to themselves, which costs a compilation and is never wrong.
    """
    numbers: dict[Any, int] = {}

    def number(var: Any) -> Hashable:
        if isinstance(var, jex_core.Literal):
            value = np.asarray(var.val)
            return (value.tobytes(), var.aval)
        return (numbers.setdefault(var, len(numbers)), var.aval)

    def freeze(value: Any) -> Hashable:
        if isinstance(value, jex_core.ClosedJaxpr):
            return (_structure(value.jaxpr), tuple(map(freeze, value.consts)))
        if isinstance(value, jex_core.Jaxpr):
            return _structure(value)
        if isinstance(value, tuple | list):
            return (type(value), tuple(map(freeze, value)))
        if isinstance(value, dict):
            return tuple((key, freeze(item)) for key, item in value.items())
        try:
            hash(value)
        except TypeError:
            return _Identity(value)
        return value

    inputs = tuple(map(number, (*jaxpr.constvars, *jaxpr.invars)))
    equations = tuple(
        (
            equation.primitive,
            tuple(map(number, equation.invars)),
            tuple(map(number, equation.outvars)),
            freeze(equation.params),
        )
        for equation in jaxpr.eqns
    )
    return (inputs, equations, tuple(map(number, jaxpr.outvars)))


def _contains(jaxpr: jex_core.Jaxpr, name: str) -> bool:
    """Whether a primitive of that name is in `jaxpr`, at any depth."""

    def inside(value: Any) -> bool:
        if isinstance(value, jex_core.ClosedJaxpr):
            return _contains(value.jaxpr, name)
        if isinstance(value, jex_core.Jaxpr):
            return _contains(value, name)
        return isinstance(value, tuple | list) and any(map(inside, value))

    return any(
        equation.primitive.name.startswith(name)
        or any(map(inside, equation.params.values()))
        for equation in jaxpr.eqns
    )


class _Identity:
    """An unhashable object that is equal to itself alone (and kept alive as a key)."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)
