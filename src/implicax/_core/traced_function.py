"""A function as a value: traced, closed, hashable.

`fn` is traced to a jaxpr and every array that it closes over becomes an explicit input
(*closure conversion*). So closed-over arrays are differentiated like any argument,
under every nesting of transformations, and a compiled program is reused for a function
that computes the same. Outside `jit` the floating numbers written into it become inputs
too: it is then the same computation with other numbers.
"""

import functools
import itertools
import weakref
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex_core
from jaxtyping import Array, PyTree

from implicax._core import tree_math
from implicax._core.forward_only import lacks_reverse_mode, transposable
from implicax._core.jaxpr_key import abstract, alone, structure, variables
from implicax._core.tree_math import Vector

_Kind = TypeVar("_Kind", bound="TracedFunction")


class TracedFunction:
    """A function of `v` (on the real view) and `inputs`, as a value.

    Two of them traced from the same computation are equal and hash equally, so that a
    `jax.jit` which takes one as a static argument compiles once per computation, not
    once per Python function.
    """

    def __init__(
        self,
        jaxpr: jex_core.Jaxpr,
        out_tree: Any,
        constants: int,
        numbers: int,
        key: Hashable,
    ):
        self.jaxpr = jaxpr
        self.out_tree = out_tree
        #: How many of the inputs, the first ones, are constants. (From JAX 0.12 a jaxpr
        #: does not tell.)
        self.constants = constants
        #: How many of the constants, the last ones, were numbers in the code.
        self.numbers = numbers
        #: Whether JAX has no reverse mode for it.
        self.forward_only = contains(jaxpr, "while") and lacks_reverse_mode(
            self._flat, list(map(abstract, (*jaxpr.constvars, *jaxpr.invars)))
        )
        #: What it does beside computing: named axes that it reduces over, say.
        self.effects = jaxpr.effects
        #: Equal for what computes the same.
        self.key = key
        self._hash = hash(key)

    def output(self, v: Vector, inputs: PyTree[Array]) -> Any:
        """What `fn` returns."""
        constants, args = inputs
        arrays = len(constants) - self.numbers
        # No derivative: in `y**3.0` the exponent has one that is NaN for `y < 0`.
        numbers = jax.lax.stop_gradient(constants[arrays:])
        leaves = [*constants[:arrays], *numbers, *jax.tree.leaves((v, args))]
        function = transposable(self._flat) if self.forward_only else self._flat
        return jax.tree.unflatten(self.out_tree, function(leaves))

    def _flat(self, leaves: list[Array]) -> list[Array]:
        count = len(self.jaxpr.constvars)
        out = jax.core.eval_jaxpr(self.jaxpr, leaves[:count], *leaves[count:])
        return list(map(jnp.asarray, out))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TracedFunction) and self.key == other.key


def trace(
    kind: type[_Kind],
    fn: Callable[..., Any],
    v: Vector,
    arrays: PyTree[Array],
    **options: Hashable,
) -> tuple[_Kind, list[Array]]:
    """`fn(v, arrays)` as a traced function, and its constants: the arrays that it
    closes over, and the numbers in it. `options` are what its `kind` takes besides."""
    closed, out_shape = jax.make_jaxpr(fn, return_shape=True)(v, arrays)
    if any(map(_closes_over_arrays, closed.eqns)):
        leaves = jax.tree.leaves((v, arrays))
        closed = jax.make_jaxpr(functools.partial(_inlined, closed))(*leaves)
    jaxpr, numbers = closed.jaxpr, []
    with jax.ensure_compile_time_eval():  # what has a value keeps it, inside `jit` too
        constants = [jnp.asarray(constant) for constant in closed.consts]
    # Under `jit` a number is better left where the compiler sees it.
    known = jax.lax.stop_gradient(jax.tree.leaves((v, arrays, constants)))
    if not any(map(tree_math.traced, known)):
        jaxpr, numbers = _numbers_as_inputs(jaxpr)
    out_tree = jax.tree.structure(out_shape)
    constants = [*constants, *numbers]
    found = shared(kind, jaxpr, out_tree, len(constants), len(numbers), options)
    return found, constants


#: JAX keeps the static arguments of each call inside an eager `jax.grad`, thousands of
#: them: let those of equal computations be one object.
_KNOWN: weakref.WeakValueDictionary[Hashable, Any] = weakref.WeakValueDictionary()


def shared(
    kind: type[_Kind],
    jaxpr: jex_core.Jaxpr,
    out_tree: Any,
    constants: int,
    numbers: int,
    options: dict[str, Hashable],
) -> _Kind:
    """The computation, or one that is equal to it."""
    counts = constants, numbers
    key = (kind, structure(jaxpr), out_tree, counts, *options.items())
    found = _KNOWN.get(key)
    if found is None:
        found = _KNOWN[key] = kind(jaxpr, out_tree, *counts, key, **options)
    return found


def _numbers_as_inputs(jaxpr: Any) -> tuple[jex_core.Jaxpr, list[Array]]:
    """The same with an input in the place of each floating number, and the numbers."""

    def is_number(x: Any) -> bool:
        literal = isinstance(x, jex_core.Literal)
        return literal and jnp.issubdtype(abstract(x).dtype, jnp.inexact)

    everything = itertools.chain(*(equation.invars for equation in jaxpr.eqns))
    found: list[Any] = [x for x in everything if is_number(x)]
    if not found:
        return jaxpr, []
    values = [np.asarray(x.val, x.aval.dtype) for x in found]
    new = jax.make_jaxpr(lambda *x: x)(*map(abstract, found)).jaxpr.invars
    rest = iter(new)
    equations = [
        equation.replace(
            invars=[next(rest) if is_number(x) else x for x in equation.invars]
        )
        for equation in jaxpr.eqns
    ]
    jaxpr = jaxpr.replace(constvars=[*jaxpr.constvars, *new], eqns=equations)
    return jaxpr, jax.device_put(values)


def _closes_over_arrays(equation: jex_core.JaxprEqn) -> bool:
    """Whether it is a call of a `jax.jit` that holds arrays."""
    if equation.primitive.name not in ("jit", "pjit"):
        return False
    called = equation.params["jaxpr"]
    return bool(called.consts) or any(map(_closes_over_arrays, called.eqns))


def _inlined(closed: jex_core.ClosedJaxpr, *inputs: Array) -> list[Array]:
    """Evaluated without those calls: then what they hold are constants like others."""
    names = (*closed.jaxpr.constvars, *closed.jaxpr.invars)
    known = dict(zip(names, (*closed.consts, *inputs), strict=True))

    def read(x: Any) -> Any:
        return x.val if isinstance(x, jex_core.Literal) else known[x]

    for equation in closed.eqns:
        if _closes_over_arrays(equation):
            out = _inlined(equation.params["jaxpr"], *map(read, equation.invars))
        else:
            out = alone(equation)(*map(read, variables(equation)))
        known |= zip(equation.outvars, out, strict=True)
    return [read(x) for x in closed.jaxpr.outvars]


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
