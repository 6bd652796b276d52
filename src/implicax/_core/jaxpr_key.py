"""A key for a traced computation: equal for what computes the same.

Every trace makes new function objects for the rules of `jax.custom_jvp` and
`jax.custom_vjp` calls, so a key that held them would be new for each trace, and what is
compiled for it could never be used again. Here the rule itself is traced, and *its*
structure is part of the key.

A rule calls what it belongs to, as a rule (that of `jax.nn.relu` does), and so on for
ever: a call of the same function, from a rule that starts on the same line of the same
file, counts as the same from the second time on. So two functions are told apart by
their values, by their first and second derivatives, and by where their rules are
written.
"""

from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex_core

#: How often a custom derivative's own rule is followed into itself.
DEPTH = 2
#: Constants up to this size are compared by value.
SMALL = 4096

_PUSHED, _PULLED = "custom_jvp_call", "custom_vjp_call"


def structure(jaxpr: jex_core.Jaxpr, above: tuple[Hashable, ...] = ()) -> Hashable:
    """A hashable key that is equal for jaxprs that compute the same thing.

    Variables are numbered in order of appearance. Whatever is not understood counts as
    itself: such jaxprs are then equal only to themselves, which costs a compilation and
    is never wrong. `above` are the custom derivatives whose rules led here.
    """
    numbers: dict[Any, int] = {}

    def number(var: Any) -> Hashable:
        if isinstance(var, jex_core.Literal):
            value = np.asarray(var.val)
            return (value.tobytes(), var.aval)
        return (numbers.setdefault(var, len(numbers)), var.aval)

    def freeze(value: Any) -> Hashable:
        if isinstance(value, jex_core.ClosedJaxpr):
            return (structure(value.jaxpr, above), tuple(map(freeze, value.consts)))
        if isinstance(value, jex_core.Jaxpr):
            return structure(value, above)
        if isinstance(value, tuple | list):
            return (type(value), tuple(map(freeze, value)))
        if isinstance(value, dict):
            return tuple((key, freeze(item)) for key, item in value.items())
        if isinstance(value, float):
            return value.hex()  # 0.0 == -0.0, and nan != nan
        if isinstance(value, np.ndarray | jax.Array):
            return _constant(value)
        try:
            hash(value)
        except TypeError:
            return _Identity(value)
        return (type(value), value)  # 1 == 1.0 == True

    def details(equation: jex_core.JaxprEqn) -> Hashable:
        if equation.primitive.name in (_PUSHED, _PULLED):
            return _rule(equation, above)
        return freeze(equation.params)

    inputs = tuple(map(number, (*jaxpr.constvars, *jaxpr.invars)))
    equations = tuple(
        (
            equation.primitive,
            tuple(map(number, equation.invars)),
            tuple(map(number, equation.outvars)),
            details(equation),
        )
        for equation in jaxpr.eqns
    )
    return (inputs, equations, tuple(map(number, jaxpr.outvars)))


def variables(equation: jex_core.JaxprEqn) -> list[jex_core.Var]:
    """The inputs that are no literals."""
    return [x for x in equation.invars if not isinstance(x, jex_core.Literal)]


def abstract(x: Any) -> jax.ShapeDtypeStruct:
    """What is known of a variable or a literal before it has a value."""
    return jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype, weak_type=x.aval.weak_type)


def alone(equation: jex_core.JaxprEqn) -> Callable[..., list[Any]]:
    """One equation as a function of its inputs (those that are variables)."""
    given_by, outputs = variables(equation), equation.outvars
    # A variable that enters twice is one input.
    distinct = list(dict.fromkeys(given_by))
    like = jax.make_jaxpr(lambda *x: [0.0] * len(outputs))(*map(abstract, distinct))
    jaxpr = like.jaxpr.replace(invars=distinct, outvars=outputs, eqns=[equation])

    def call(*values: Any) -> list[Any]:
        given = dict(zip(given_by, values, strict=True))
        return jax.core.eval_jaxpr(jaxpr, (), *(given[x] for x in distinct))

    return call


def _rule(equation: jex_core.JaxprEqn, above: tuple[Hashable, ...]) -> Hashable:
    """The key of a call with a custom derivative: its value, and its rule."""
    params = equation.params
    primal = params["call_jaxpr"]
    written = tuple(
        sorted(
            f"{name} {value.debug_info.func_src_info}"
            for name, value in params.items()
            if hasattr(value, "debug_info") and value is not primal
        )
    )
    if not written or params.get("symbolic_zeros", True):
        # Such a rule may depend on what is differentiated.
        return _Identity(params)
    call = (
        structure(primal.jaxpr, above),
        tuple(map(_constant, primal.consts)),
        written,
        params["num_consts"],
    )
    if above.count(call) == DEPTH:
        return call
    try:
        rule = _traced_rule(equation)
    except Exception:  # a rule that does not trace fails where it is needed
        return _Identity(params)
    return (
        call,
        structure(rule.jaxpr, (*above, call)),
        tuple(map(_constant, rule.consts)),
    )


def _traced_rule(equation: jex_core.JaxprEqn) -> jex_core.ClosedJaxpr:
    """The derivative of one equation, forward or (if it has no other) reverse."""
    call = alone(equation)
    inputs = [abstract(x) for x in variables(equation)]
    moving = [jnp.issubdtype(x.dtype, jnp.inexact) for x in inputs]

    def push(values: list[Any], tangents: list[Any]) -> Any:
        def along(*floating: Any) -> list[Any]:
            rest = iter(floating)
            return call(
                *(
                    next(rest) if moves else value
                    for value, moves in zip(values, moving, strict=True)
                )
            )

        floating = [x for x, moves in zip(values, moving, strict=True) if moves]
        return jax.jvp(along, floating, tangents)

    def pull(values: list[Any], cotangents: list[Any]) -> Any:
        out, pullback = jax.vjp(call, *values)
        return out, pullback(cotangents)

    if equation.primitive.name == _PULLED:
        return jax.make_jaxpr(pull)(inputs, [abstract(x) for x in equation.outvars])
    tangents = [x for x, moves in zip(inputs, moving, strict=True) if moves]
    return jax.make_jaxpr(push)(inputs, tangents)


def _constant(value: Any) -> Hashable:
    """An array that is part of a computation."""
    if isinstance(value, jax.core.Tracer) or np.size(value) > SMALL:
        return _Identity(value)
    if jnp.issubdtype(value.dtype, jax.dtypes.extended):  # random keys
        return _Identity(value)
    array = np.asarray(value)
    return (array.shape, array.dtype, array.tobytes())


class _Identity:
    """An object that is equal to itself alone (and kept alive as a key)."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)
