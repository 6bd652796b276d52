"""Bad input: each is refused, by an error that says what to do about it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicax as ix

from ..users import as_users_run as as_users_run
from ..users import refuses


def difference(y, a):
    return y - a


def cubic(y, a):
    return y + y**3 - a


@pytest.mark.parametrize("solve", [ix.root, ix.fixed_point])
@pytest.mark.parametrize(
    ("y0", "error", "words"),
    [
        (1, TypeError, "floating or complex dtype, and it has int"),
        (True, TypeError, "floating or complex dtype, and it has bool"),
        (np.zeros(3, "int32"), TypeError, "has int32"),
        ({"a": 1.0, "b": jnp.arange(2)}, TypeError, r"y0\['b'\]"),
        ((1.0, "two"), TypeError, r"y0\[1\] must be an array of floats.*str"),
        (len, TypeError, "must be an array of floats"),
        (None, ValueError, "y0 is empty: None"),
        ((), ValueError, "y0 is empty"),
        ({}, ValueError, "y0 is empty"),
        (jnp.zeros(0), ValueError, r"empty: its shape is \(0,\)"),
        ({"a": 1.0, "b": jnp.zeros((2, 0))}, ValueError, r"y0\['b'\] is empty"),
        (float("nan"), ValueError, "y0 is not finite"),
        (jnp.asarray([1.0, jnp.inf]), ValueError, "y0 is not finite"),
        (complex(0, float("inf")), ValueError, "y0 is not finite"),
    ],
    ids=repr,
)
def test_unknowns_that_are_not_unknowns(solve, y0, error, words):
    refuses(error, words, solve, lambda y, a: y, y0)


def test_integer_y0_is_refused_inside_jit_too():
    solve = jax.jit(lambda y0: ix.root(difference, y0, 1.0).value)
    refuses(TypeError, "int", solve, jnp.asarray(1))


UNLIKE_THE_UNKNOWN = [
    (1.0, lambda y, a: (y, y), TypeError, "has_aux=True"),
    (1.0, lambda y, a: None, TypeError, "Is a `return` missing"),
    (jnp.ones(2), lambda y, a: y[:1], ValueError, r"shape \(2,\).*shape \(1,\)"),
    (jnp.ones(2), lambda y, a: jnp.sum(y), ValueError, r"shape \(\)"),
    (
        jnp.ones(2, "float32"),
        lambda y, a: y.astype("float64"),
        TypeError,
        "dtype float32.*float64.*one precision",
    ),
    (1.0, lambda y, a: jnp.asarray(y > 0), TypeError, "returned bool"),
    (1.0, lambda y, a: y.astype(int), TypeError, "returned int"),
    (1.0, lambda y, a: y * 1j, TypeError, "complex"),
    (1j, lambda y, a: jnp.abs(y), TypeError, "dtype complex128.*float64"),
    (1.0, lambda y, a: "one", TypeError, "one|str"),
]


@pytest.mark.parametrize("solve", [ix.root, ix.fixed_point])
@pytest.mark.parametrize(("y0", "fn", "error", "words"), UNLIKE_THE_UNKNOWN)
def test_outputs_that_do_not_match_the_unknown(solve, y0, fn, error, words):
    refuses(error, words, solve, fn, y0)


@pytest.mark.parametrize(
    ("y0", "fn", "error", "words"),
    [
        ({"a": 1.0}, lambda y, a: y["a"], TypeError, "structure of y0"),
        ((1.0, 2.0), lambda y, a: list(y), TypeError, "structure of y0"),
        ({"a": 1.0}, lambda y, a: {"b": y["a"]}, TypeError, "structure of y0"),
        ([1.0, 2.0], lambda y, a: jnp.stack(y), TypeError, r"y0=jnp.array\(\[...\]\)"),
        (1.0, lambda y, a: y[None], ValueError, r"shape \(1,\)"),
        (
            {"a": 1.0, "b": jnp.ones(2)},
            lambda y, a: {"a": y["a"], "b": y["a"]},
            ValueError,
            r"y\['b'\]",
        ),
    ],
)
def test_iterates_that_do_not_match_the_unknown(y0, fn, error, words):
    refuses(error, words, ix.fixed_point, fn, y0)


PAIR = {"a": jnp.float64(1.0), "b": jnp.float32(1.0)}


@pytest.mark.parametrize(
    ("y0", "fn", "words"),
    [
        (
            jnp.ones(2),
            lambda y, a: jnp.stack([y[0], y[1], y[0]]),
            r"shape \(2,\), 2 in all.*\(3,\), 3 in all.*ix.least_squares",
        ),
        (jnp.ones(3), lambda y, a: (y[0], y[1]), "3 in all.*2 in all.*Add equations"),
        (1j, lambda y, a: (y.real,), "2 in all.*1 in all"),
        (jnp.ones(2), lambda y, a: y[:1] > 0, "returned bool"),
        (jnp.ones(2), lambda y, a: y.astype("float32")[:, None], "one precision"),
        (PAIR, lambda y, a: (y["a"], y["b"]), "in the structure of y0"),
    ],
)
def test_residuals_that_are_not_as_many_as_the_unknowns(y0, fn, words):
    refuses((TypeError, ValueError), words, ix.root, fn, y0)


def test_has_aux_without_a_pair():
    refuses(TypeError, "pair", ix.root, difference, 1.0, 2.0, has_aux=True)
    fn = lambda y, a: (y, 1, 2)
    refuses(TypeError, "pair", ix.root, fn, 1.0, has_aux=True)


SOLVERS = [ix.Picard, ix.Anderson, ix.Broyden, ix.Newton, ix.Chord]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ["rtol", "atol"])
def test_tolerances(solver, name):
    refuses(ValueError, "must not be negative", solver, **{name: -1e-3})
    refuses(ValueError, "must not be negative", solver, **{name: float("nan")})
    refuses(TypeError, "single numbers", solver, **{name: "1e-3"})
    refuses(TypeError, "single numbers", solver, **{name: [1e-3, 1e-3]})
    refuses(TypeError, "single numbers", solver, **{name: True})


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_unknown_option_of_a_solver(solver):
    refuses(TypeError, "tolerance", solver, tolerance=1e-3)


def test_options_of_solvers():
    for history in (0, -1, 2.5, True):
        refuses(ValueError, "history must be a positive", ix.Anderson, history=history)
        refuses(ValueError, "history must be a positive", ix.Broyden, history=history)
    refuses(ValueError, "lineax.AbstractLinearSolver", ix.Newton, linear_solver="lu")
    refuses(ValueError, "lineax.AbstractLinearSolver", ix.Implicit, linear_solver=3)
    refuses(ValueError, "must not be negative", ix.Anderson, ridge=-1.0)


def test_counts_of_derivatives():
    for count in (0, -1, 1.5, True):
        refuses(ValueError, "steps must be a positive", ix.Truncated, count)
        refuses(ValueError, "terms must be a positive", ix.Neumann, count)
        refuses(ValueError, "steps must be a positive", ix.Phantom, count, 0.5)


@pytest.mark.parametrize("solve", [ix.root, ix.fixed_point])
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"tol": 1e-3}, TypeError, "tol"),
        ({"max_iter": 10}, TypeError, "max_iter"),
        ({"solver": "newton"}, TypeError, "ix.AbstractSolver"),
        ({"solver": ix.Newton}, TypeError, "an instance, not the class"),
        ({"derivative": "implicit"}, TypeError, "ix.Implicit"),
        ({"derivative": ix.Unrolled}, TypeError, "ix.Implicit"),
        ({"max_steps": 0}, ValueError, "positive integer"),
        ({"max_steps": -3}, ValueError, "positive integer"),
        ({"max_steps": 2.5}, ValueError, "positive integer"),
        ({"max_steps": None}, ValueError, "positive integer"),
        ({"max_steps": True}, ValueError, "positive integer"),
        ({"on_failure": "warn"}, ValueError, "'raise' or 'ignore'"),
        ({"on_failure": None}, ValueError, "'raise' or 'ignore'"),
    ],
    ids=repr,
)
def test_options_of_calls(solve, options, error, words):
    refuses(error, words, solve, difference, 1.0, 2.0, **options)


def test_a_function_that_raises_is_not_swallowed():
    def fn(y, a):
        raise RuntimeError("the user's own words")

    refuses(RuntimeError, "the user's own words", ix.root, fn, 1.0)


@pytest.mark.parametrize(
    ("problem", "loss", "value", "args", "words"),
    [
        (cubic, difference, 1.0, 2.0, "ix.Root"),
        (ix.Root, difference, 1.0, 2.0, "ix.Root"),
        (difference, ix.Root(cubic), 1.0, 2.0, "The order is: loss, problem"),
        (ix.Root(cubic), lambda y, a: y * 1j, 1.0, 2.0, "real scalar"),
        (ix.Root(cubic), lambda y, a: jnp.stack([y]), 1.0, 2.0, "real scalar"),
        (ix.Root(cubic), lambda y, a: 3, 1.0, 2.0, "real scalar"),
        (ix.Root(cubic), difference, 1, 2.0, "floating or complex dtype"),
        (ix.Root(cubic), difference, None, 2.0, "empty"),
        (ix.Root(cubic), difference, float("nan"), 2.0, "not finite"),
        (ix.Root(cubic), difference, 1.0, 2, "no floating arrays"),
        (ix.Root(lambda y, a: y - 1), lambda y, a: y, 1.0, None, "no floating arrays"),
    ],
)
def test_certify(problem, loss, value, args, words):
    refuses((TypeError, ValueError), words, ix.certify, loss, problem, value, args)


@pytest.mark.parametrize("asked", [0, 1, -1e-3, "fine", None, True, jnp.nan])
def test_the_accuracy_asked_for(asked):
    refuses(
        ValueError,
        "gradient_rtol must be a number between 0 and 1",
        ix.certified_gradient,
        lambda y, a: y,
        ix.Root(cubic),
        0.5,
        1.0,
        gradient_rtol=asked,
    )


def test_what_is_no_listener():
    with pytest.raises(TypeError, match=r"True \(a bar\), False, or a function"):
        ix.root(difference, jnp.ones(3), 1.0, progress="yes")
