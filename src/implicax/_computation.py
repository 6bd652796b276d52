"""A function as a value: traced, closed, hashable.

`fn` is traced to a jaxpr and every array that it closes over becomes an explicit input
(*closure conversion*). So closed-over arrays are differentiated like any argument,
under every nesting of transformations, and a compiled program is reused for a function
that computes the same.
"""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex_core
from jaxtyping import Array, PyTree

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
        #: Equal for what computes the same.
        self.key: Hashable = (type(self), _structure(jaxpr), out_tree)
        self._hash = hash(self.key)

    def output(self, v: Vector, inputs: PyTree[Array]) -> Any:
        """What `fn` returns."""
        constants, args = inputs
        leaves = jax.tree.leaves((v, args))
        out = jax.core.eval_jaxpr(self._jaxpr, constants, *leaves)
        return jax.tree.unflatten(self._out_tree, out)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Computation) and self.key == other.key


def trace(
    kind: type[_Kind], fn: Callable[..., Any], v: Vector, arrays: PyTree[Array]
) -> tuple[_Kind, list[Array]]:
    """`fn(v, arrays)` as a `Computation`, and the arrays that it closes over."""
    jaxpr, out_shape = jax.make_jaxpr(fn, return_shape=True)(v, arrays)
    constants = [jnp.asarray(constant) for constant in jaxpr.consts]
    return kind(jaxpr.jaxpr, jax.tree.structure(out_shape)), constants


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


def contains(jaxpr: jex_core.Jaxpr, name: str) -> bool:
    """Whether a primitive of that name is in `jaxpr`, at any depth."""

    def inside(value: Any) -> bool:
        if isinstance(value, jex_core.ClosedJaxpr):
            return contains(value.jaxpr, name)
        if isinstance(value, jex_core.Jaxpr):
            return contains(value, name)
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
