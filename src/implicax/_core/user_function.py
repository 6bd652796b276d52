"""The user's functions are called here; what people get wrong in one is explained.

An error is explained only after the call has failed, and only where what it says fits:
a function that works is never refused, and an error of the user's own is passed on as
it is.
"""

import inspect
from collections.abc import Callable
from typing import Any

import jax

#: What JAX says where NumPy, SciPy, `float`, `int` or `if` get a traced value.
_NOT_TRACEABLE = (
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.ConcretizationTypeError,
)

IN_JAX = (
    "It is traced and differentiated by JAX, so it is written with jax.numpy: jnp.sin "
    "for np.sin, jnp.where for `if`, no float(). An equation that exists outside JAX "
    "only can be called by jax.pure_callback inside a jax.custom_jvp, which says its "
    "derivative; a *solver* outside JAX is ix.host(solver), under ix.custom_root(fn)"
)


def call_function(fn: Callable[..., Any], y: Any, args: Any, name: str = "fn") -> Any:
    """`fn(y, args)`, of a function that errors call `name`."""
    try:
        return fn(y, args)
    except _NOT_TRACEABLE as error:
        raise TypeError(
            f"{name} must be JAX code. {IN_JAX}. It says: {error}"
        ) from error
    except (TypeError, AttributeError, ValueError, KeyError) as error:
        mistake = _mistake(fn, y, args, name, str(error))
        if mistake is None:
            raise
        raise TypeError(f"{mistake}. It says: {error}") from error
    except Exception as error:
        # Flax NNX' own, which need not be installed.
        if type(error).__name__ != "TraceContextError":
            raise
        raise TypeError(
            f"{name} changes a state as it runs, and it must be a pure function: it is "
            "traced, and called as often as the solver likes. With Flax NNX (BatchNorm,"
            " Dropout) split the module outside, graph, state = nnx.split(module), and "
            f"use nnx.merge(graph, state) in {name}. It says: {error}"
        ) from error


def _mistake(
    fn: Callable[..., Any], y: Any, args: Any, name: str, words: str
) -> str | None:
    """What was done wrong, where it shows."""
    parameters = signature(fn)
    if parameters is not None and not _binds(parameters, y, args):
        return (
            f"{name} takes (y, args), and args is one pytree. This one takes "
            f"{parameters}. Several parameters are args=(a, b), unpacked inside by "
            "`a, b = args`; none are `lambda y, _: ...`"
        )
    if args is None and "None" in words:
        return (
            f"{name} takes (y, args), and it failed with args=None, which it gets when "
            "no args are given. Pass what it depends on as args, after y0"
        )
    if isinstance(args, tuple) and "tuple" in words and not isinstance(y, tuple):
        return (
            f"{name} takes (y, args), and args is one pytree that arrives as it was "
            f"given: here a tuple of {len(args)}. A single parameter is args=a, "
            "without a tuple; several are unpacked inside by `a, b = args`"
        )
    if isinstance(y, list | tuple) and type(y).__name__ in words:
        return (
            f"y0 is a {type(y).__name__}, so y is one too, and no array. For a vector "
            "of unknowns pass y0=jnp.array([...])"
        )
    return None


def call_solver(
    solver: Callable[..., Any], name: str, *live: Any, **options: Any
) -> Any:
    """`solver(y0, args, **options)`, of a solver that is the user's."""
    try:
        return solver(*live, **options)
    except _NOT_TRACEABLE as error:
        raise TypeError(
            f"{name} is no JAX code, and cannot be called inside jit, vmap or scan. "
            f"Wrap it in ix.host, under the decorator: ix.custom_root(F)(ix.host("
            f"{name})). It says: {error}"
        ) from error


def check_decorated(solver: Any, more: tuple[Any, ...]) -> None:
    """An error unless `solver` may be what a decorator got, and alone."""
    takes = "A solver takes (y0, args, **options), and args is one pytree"
    if more or not callable(solver):
        raise TypeError(
            "A decorator takes what holds at the solution first, then the solver: "
            "solve = ix.custom_root(F)(solver), and then solve(y0, args). It got "
            f"{(solver, *more)!r} for a solver."
        )
    parameters = signature(solver, follow=False)
    if parameters is None:
        return
    if next(iter(parameters.parameters), "") == "self":
        raise TypeError(
            f"{takes}; this one is a method, {parameters}. Decorate the method of an "
            "object: solve = ix.custom_root(F)(object.solver)."
        )
    try:
        parameters.bind_partial(None, None)
    except TypeError:
        raise TypeError(
            f"{takes}; this one takes {parameters}. y0, of the shape of the solution, "
            "is needed even where the solver does not use it."
        ) from None


def signature(
    fn: Callable[..., Any], *, follow: bool = True
) -> inspect.Signature | None:
    """The parameters of `fn`, where they can be known: with `follow` those of what it
    wraps, which the wrapper need not share."""
    try:
        return inspect.signature(fn, follow_wrapped=follow)
    except (TypeError, ValueError):
        return None


def takes(fn: Callable[..., Any], count: int) -> bool:
    """Whether `fn` can be called with so many arguments, as far as can be known."""
    parameters = signature(fn)
    return parameters is None or _binds(parameters, *(None,) * count)


def _binds(parameters: inspect.Signature, *args: Any) -> bool:
    try:
        parameters.bind(*args)
    except TypeError:
        return False
    return True
