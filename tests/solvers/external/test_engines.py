"""Solvers of SciPy and optimistix, as they are, with the library's derivative.

The derivative matrix is that of the library's own solvers. The rest is about
`y = tanh(W y + x)`; JAX's derivatives of forty Newton steps are the oracle.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest
import scipy.optimize

import implicax as ix

from ...cases import make
from ...derivative_matrix import PER_SOLVER, transformations
from ...expectations import expected as matrix
from ...oracles import relative_error
from ...subprocesses import printed_without

W = 0.2 * jnp.asarray([[1.0, -1.0, 0.5], [0.3, 0.8, -0.4], [0.6, 0.1, -0.9]])
X = jnp.asarray([1.0, -0.5, 2.0])
START = jnp.zeros(3)

tight = {"rtol": 1e-10, "atol": 1e-10}
ENGINES = {
    "SciPy hybr": ix.SciPy("hybr"),
    "Newton": optx.Newton(**tight),
    "Chord": optx.Chord(**tight),
    "LevenbergMarquardt": optx.LevenbergMarquardt(**tight),
    "Dogleg": optx.Dogleg(**tight),
    "BFGS": optx.BFGS(**tight),
    "FixedPointIteration": optx.FixedPointIteration(**tight),
}
CASES = [("root", name) for name in ENGINES if name != "FixedPointIteration"]
CASES += [("fixed_point", name) for name in ("SciPy hybr", "FixedPointIteration")]


def step(y, x):
    return jnp.tanh(W @ y + x)


def residual(y, x):
    return y - step(y, x)


def ahead(y, x):
    """The same equation, with the sign that SciPy's own fixed steps go along."""
    return step(y, x) - y


CALLS = {"root": residual, "fixed_point": step}


def solution(x, solver, kind="root", **options):
    return getattr(ix, kind)(CALLS[kind], START, x, solver=solver, **options)


@pytest.mark.parametrize(("kind", "engine"), CASES)
def test_derivative_matrix(kind, engine):
    case = make(kind, "float64")
    came = transformations(case, ENGINES[engine], PER_SOLVER)
    wanted = matrix(kind, "float64")
    for entry in PER_SOLVER:
        assert relative_error(came[entry], wanted[entry]) <= 1e-8, entry


def unrolled(x):
    def newton(y, _):
        return y - jnp.linalg.solve(jax.jacfwd(residual)(y, x), residual(y, x)), None

    return jax.lax.scan(newton, START, None, length=40)[0]


@functools.cache
def expected():
    """The solution, and its Jacobian in `x`."""
    return jax.jit(lambda x: (unrolled(x), jax.jacfwd(unrolled)(x)))(X)


#: `scipy.optimize.root`'s methods.
METHODS = [
    "hybr",
    "lm",
    "broyden1",
    "broyden2",
    "anderson",
    "linearmixing",
    "diagbroyden",
    "excitingmixing",
    "krylov",
    "df-sane",
]


@pytest.mark.filterwarnings("ignore:An ill-conditioned matrix")  # SciPy's Anderson
@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_scipy(method, kind):
    fn = {"root": ahead, "fixed_point": step}[kind]
    solver = ix.SciPy(method)
    solve = lambda x: getattr(ix, kind)(fn, START, x, solver=solver).value
    value, slope = jax.jit(lambda x: (solve(x), jax.jacrev(solve)(x)))(X)
    for came, wanted in zip((value, slope), expected(), strict=True):
        assert relative_error(came, wanted) <= 1e-9


@pytest.mark.parametrize("variant", ["float32", "conjugate"])
def test_dtypes(variant):
    """A dict of three arrays, in single precision or complex."""
    case = make("root", variant)
    rough = {"rtol": 1e-5, "atol": 1e-5}
    engines = [ix.SciPy(), optx.Newton(**rough if variant == "float32" else tight)]
    wanted = case.solve(ix.Newton(), case.args)
    allowed = 1e-4 if variant == "float32" else 1e-8
    for engine in engines:
        came = case.solve(engine, case.args)
        assert relative_error(came, wanted) <= allowed
        assert {leaf.dtype for leaf in jax.tree.leaves(came)} == {case.dtype}


def test_the_silent_zero_of_root_find_by_bfgs():
    """`y0^2 + y1 = a, y0 = y1^3`: with `b = y1`, `b^6 + b = a` and
    `d(y0 + y1)/da = (3 b^2 + 1) / (6 b^5 + 1)`: 4/7 at `a = 2`."""

    def fn(y, a):
        return jnp.stack([y[0] ** 2 + y[1] - a, y[0] - y[1] ** 3])

    start, solver = 1.2 * jnp.ones(2), optx.BFGS(**tight)
    ours = lambda a: jnp.sum(ix.root(fn, start, a, solver=solver).value)

    def theirs(a):
        with jax.numpy_dtype_promotion("standard"):
            return jnp.sum(optx.root_find(fn, solver, start, a, max_steps=256).value)

    both = jax.jit(lambda a: (jax.value_and_grad(ours)(a), theirs(a)))
    (value, slope), total = both(2.0)
    assert relative_error(value, total) <= 1e-8
    assert relative_error(slope, 4 / 7 * jnp.ones(())) <= 1e-8


def test_steps_are_counted_where_they_are_told():
    assert int(solution(X, ENGINES["Newton"]).stats.steps) in range(2, 10)
    assert int(solution(X, ENGINES["SciPy hybr"]).stats.steps) == -1


@pytest.mark.parametrize("engine", ["SciPy hybr", "Newton"])
def test_where_there_is_no_solution(engine):
    with pytest.raises(ix.ConvergenceError, match="does not solve the equation"):
        ix.root(lambda y, a: y**2 + a, 1.0, 1.0, solver=ENGINES[engine])


@pytest.mark.parametrize("engine", ["SciPy hybr", "Newton"])
def test_one_bad_lane(engine):
    solve = lambda a: ix.root(lambda y, a: y**2 - a, 1.0, a, solver=ENGINES[engine])
    program = jax.jit(
        jax.vmap(lambda a: (solve(a), jax.grad(lambda a: solve(a).value)(a)))
    )
    batch, slopes = program(jnp.asarray([1.0, -1.0, 4.0]))
    assert (batch.status == ix.Status.converged).tolist() == [True, False, True]
    assert relative_error(batch.value[::2], jnp.asarray([1.0, 2.0])) <= 1e-9
    assert relative_error(slopes[::2], jnp.asarray([0.5, 0.25])) <= 1e-9
    assert jnp.isnan(slopes[1])


@pytest.mark.parametrize("engine", ["SciPy hybr", "Newton"])
@pytest.mark.parametrize("derivative", [ix.Unrolled(), ix.Truncated(2), ix.OneStep()])
def test_derivatives_that_take_the_solvers_steps(engine, derivative):
    name = type(derivative).__name__
    with pytest.raises(TypeError, match=f"{name} takes steps of one of ix's own"):
        solution(X, ENGINES[engine], derivative=derivative)


@pytest.mark.parametrize("derivative", [ix.Neumann(60), ix.Phantom(60, 1.0)])
def test_derivatives_that_do_not(derivative):
    solver = ENGINES["SciPy hybr"]
    solve = lambda x: solution(x, solver, "fixed_point", derivative=derivative).value
    came = jax.jit(jax.jacrev(solve))(X)
    assert relative_error(came, expected()[1]) <= 1e-8


class Mine(optx.Newton):
    """A user's own, by inheritance."""


def test_a_subclass_of_a_solver_of_optimistix():
    came = ix.root(lambda y, a: y**2 - a, 1.0, 4.0, solver=Mine(**tight))
    assert relative_error(came.value, jnp.asarray(2.0)) <= 1e-8


def test_scipy_is_quoted_on_its_own_answer_alone(monkeypatch):
    """Two problems with one (wrong) answer: it has doubts about the first only."""
    message = {}

    def root(fun, x0, **options):
        return scipy.optimize.OptimizeResult(x=np.full(1, 0.5), nit=1, **message)

    monkeypatch.setattr(scipy.optimize, "root", root)
    solve = lambda a: ix.root(lambda y, a: y**2 - a, 1.0, a, solver=ix.SciPy())
    message.update(success=False, message="in doubt")
    with pytest.raises(ix.ConvergenceError, match="It says: in doubt"):
        solve(2.0)
    message.update(success=True)
    with pytest.raises(ix.ConvergenceError) as caught:
        solve(3.0)
    assert "It says" not in str(caught.value)


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match=r"hybr, lm, .* not 'newton'"):
        ix.SciPy("newton")


@pytest.mark.parametrize("solver", [optx.Newton, "hybr", object()])
def test_what_is_no_solver(solver):
    with pytest.raises(TypeError, match=r"ix.SciPy\(method\) or an optimistix solver"):
        solution(X, solver)


BLOCKED = """
    import jax.numpy as jnp
    import implicax as ix

    class Newton:
        "What is left of a solver that was unpickled, say."

    Newton.__module__ = "optimistix._solver.newton_chord"
    print(float(ix.root(lambda y, a: y**2 - a, 1.0, 4.0, solver=ix.SciPy()).value))
    try:
        ix.root(lambda y, a: y**2 - a, 1.0, 4.0, solver=Newton())
    except ImportError as error:
        print(error)
"""


def test_without_optimistix():
    value, message = printed_without(("optimistix",), BLOCKED)
    assert abs(float(value) - 2) < 1e-5
    assert message == (
        "This solver needs optimistix: pip install 'implicax[optimistix]'."
    )
