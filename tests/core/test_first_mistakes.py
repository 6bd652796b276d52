"""What people type first, from the habit of another library: each error names the
remedy, and nothing that works is refused for looking unusual."""

import functools
import pickle
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
import pytest

import implicax as ix
from implicax._problems.canonical import canonicalize

from ..users import as_users_run as as_users_run
from ..users import refuses


def squared(y, a):
    return y**2 - a


def two_parameters(y, a, b):
    return y**2 - a - b


def unpacking(y, args):
    a, b = args
    return y**2 - a - b


ONE_PYTREE = r"takes \(y, args\), and args is one pytree"
NOT_GIVEN = "failed with args=None"


ENTRIES = [ix.root, ix.fixed_point, ix.minimize, ix.least_squares]


@pytest.mark.parametrize("solve", ENTRIES)
@pytest.mark.parametrize(
    ("fn", "args", "words"),
    [
        (two_parameters, (2.0, 1.0), rf"{ONE_PYTREE}.*\(y, a, b\)"),
        (jax.jit(two_parameters), (2.0, 1.0), rf"{ONE_PYTREE}.*\(y, a, b\)"),
        (eqx.filter_jit(two_parameters), (2.0, 1.0), ONE_PYTREE),
        (jax.checkpoint(two_parameters), (2.0, 1.0), ONE_PYTREE),
        (lambda y: y**2 - 2.0, None, rf"{ONE_PYTREE}.*\(y\).*lambda y, _"),
        (lambda: 1.0, None, ONE_PYTREE),
        (squared, None, NOT_GIVEN),
        (unpacking, None, NOT_GIVEN),
        (lambda y, a: y - a["level"], None, NOT_GIVEN),
        (lambda y, a: y - a.level, None, NOT_GIVEN),
        (lambda y, a: y - jnp.sin(a), None, NOT_GIVEN),
        (squared, (2.0,), "a tuple of 1. A single parameter is args=a"),
        (lambda y, a: y - jnp.exp(a), (2.0, 1.0), "a tuple of 2"),
    ],
)
def test_how_fn_is_called(solve, fn, args, words):
    refuses(TypeError, words, solve, fn, 1.0, args)


def with_an_honest_wrapper(fn):
    @functools.wraps(fn)  # whose parameters are not those of what it wraps
    def call(y, args):
        return fn(y, *args)

    return call


class Callable:
    def __call__(self, y, args):
        return y**2 - args


@pytest.mark.parametrize(
    ("fn", "args"),
    [
        (with_an_honest_wrapper(two_parameters), (1.0, 3.0)),
        (functools.partial(two_parameters, b=1.0), 3.0),
        (lambda y, *args: y**2 - args[0], 4.0),
        (lambda y, a=4.0: y**2 - a, 4.0),
        (lambda *both: both[0] ** 2 - both[1], 4.0),
        (jax.jit(squared), 4.0),
        (eqx.filter_jit(squared), 4.0),
        (Callable(), 4.0),
        (jnp.subtract, 2.0),
    ],
)
def test_whatever_takes_y_and_args_is_a_function(fn, args):
    assert canonicalize(ix.Root(fn), 1.0, args).v0[0] == 1.0
    jax.eval_shape(lambda args: ix.root(fn, 1.0, args).value, args)


def test_errors_of_the_users_own_are_passed_on_as_they_are():
    def raises(error):
        def fn(y, a):
            raise error

        return fn

    for error in (TypeError("mine"), ValueError("mine"), KeyError("mine")):
        refuses(type(error), "^'?mine'?", ix.root, raises(error), 1.0, 2.0)


@pytest.mark.parametrize("solve", ENTRIES)
@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("tol rtol atol xtol ftol gtol", r"solver=ix\.\w+\(rtol=1e-8\)"),
        ("maxiter max_iter maxiters num_steps max_nfev", "max_steps="),
        ("method optimizer", "solver="),
        ("verbose disp callback", "progress=True"),
        ("jac grad fprime hess hessp value_and_grad", "jax.custom_jvp"),
        ("lb ub nonneg", r"bounds=\(lower, upper\).*ix.AtLeast"),
        ("bracket", r"ix.Chandrupatla\(lower, upper\)"),
        ("sigma weights", r"\(model - data\) / sigma"),
        ("damping history line_search step_size", "belongs to a solver"),
        ("options", r"ix.SciPy\('L-BFGS-B', maxcor=20\)"),
        ("implicit_diff unroll adjoint", "derivative=.*ix.Unrolled"),
        ("implicit_diff_solve tags", r"ix.Implicit\(linear_solver="),
        ("throw", "on_failure='ignore'"),
        ("full_output", "value, aux, status, stats"),
        ("x0 init_params", "y0, the second argument"),
        ("fun f", r"fn, the first argument; it takes \(y, args\)"),
        ("params data", "args, the third argument: one pytree"),
        ("sovler", r"did you mean solver=\?"),
        ("quux", "it takes args, .*derivative, fn"),
    ],
)
def test_keywords_of_other_libraries(solve, words, remedy):
    for word in words.split():
        refuses(
            TypeError,
            rf"has no {word}=: .*{remedy}",
            solve,
            squared,
            1.0,
            2.0,
            **{word: 1},
        )


def test_keywords_of_the_certificates_and_of_branches():
    both = (ix.Root(squared), 1.0, 2.0)
    wanted = "certified_gradient has no tol=: .* gradient_rtol="
    refuses(TypeError, wanted, ix.certified_gradient, squared, *both, tol=1e-6)
    refuses(TypeError, "certify has no solver=", ix.certify, squared, *both, solver=1)
    fit = (ix.LeastSquares(squared), jnp.ones(2), 1.0)
    refuses(TypeError, r"\(model - data\) / sigma", ix.covariance, *fit, sigma=1.0)
    for follow in (ix.continuation, ix.fold):
        refuses(TypeError, r"ix.Newton\(rtol=", follow, squared, 1.0, 0.0, tol=1e-8)
    refuses(TypeError, r"loss takes \(y, args\)", ix.certify, lambda y: y, *both)


def test_a_loss_is_for_fits():
    refuses(
        TypeError, "ix.least_squares", ix.minimize, squared, 1.0, loss=ix.Huber(1.0)
    )


@pytest.mark.parametrize("solve", ENTRIES)
def test_the_order_of_arguments(solve):
    order = r"\(fn, y0, args\)"
    refuses(TypeError, order, solve, squared, ix.Newton(), 1.0, 2.0)
    refuses(TypeError, rf"{order}.*args=\(a, b\)", solve, two_parameters, 1.0, 2.0, 3.0)
    for solver in (ix.Newton(), ix.SciPy("hybr"), optx.Newton(1e-8, 1e-8)):
        refuses(TypeError, rf"it is a solver.*{order}", solve, squared, solver, 1.0)
    refuses(TypeError, "must be a function.*it is 1.0", solve, 1.0, squared)
    refuses(TypeError, "must be a function", solve, ix.Root(squared), 1.0)


SOLVERS = [ix.Newton, ix.Chord, ix.Picard, ix.Anderson, ix.Broyden]
SOLVERS += [ix.TrustRegion, ix.LevenbergMarquardt]


@pytest.mark.parametrize("solver", SOLVERS)
def test_tolerances_of_a_solver_go_by_name(solver):
    name = solver.__name__
    right = re.escape(f"ix.{name}(rtol=1e-8, atol=1e-8)")
    refuses(TypeError, right, solver, 1e-8, 1e-8)
    refuses(TypeError, f"{name} has no tol=: tolerances are rtol=", solver, tol=1e-8)
    refuses(TypeError, "max_steps= goes to the call", solver, maxiter=10)
    refuses(TypeError, "it takes .*rtol, atol, record_history", solver, quux=1)
    assert repr(pickle.loads(pickle.dumps(solver()))) == repr(solver())


def test_a_tolerance_is_no_linear_solver():
    refuses(ValueError, r"ix.Newton\(rtol=1e-8", ix.Newton, 1e-8)


def test_a_solver_with_an_init_of_its_own_is_made_as_it_likes():
    class Mine(ix.Picard):
        def __init__(self, tol):
            super().__init__(rtol=tol)

    assert Mine(1e-3).rtol == 1e-3
    assert Mine(tol=1e-3).rtol == 1e-3


VECTOR = r"pass y0=jnp.array\(\[...\]\)"


def test_a_list_is_no_vector():
    for fn in (squared, lambda y, a: y - jnp.sum(y), lambda y, a: jnp.sin(y) - a):
        for solve in (ix.root, ix.minimize, ix.least_squares):
            refuses(TypeError, f"y0 is a list.*{VECTOR}", solve, fn, [1.0, 2.0], 1.0)
            refuses(TypeError, f"y0 is a tuple.*{VECTOR}", solve, fn, (1.0, 2.0), 1.0)


NOT_IN_JAX = "fn must be JAX code.*jnp.sin.*jax.custom_jvp.*ix.host"


@pytest.mark.parametrize(
    "fn",
    [
        lambda y, a: np.sin(y) - a,
        lambda y, a: np.asarray(y) - a,
        lambda y, a: float(y) - a,
        lambda y, a: y - a if y > 0 else y,
        lambda y, a: y - np.arange(3.0)[int(y)],
    ],
)
def test_a_function_that_is_no_jax_code(fn):
    refuses(TypeError, NOT_IN_JAX, ix.root, fn, 0.5, 1.0)


def test_a_host_function_is_a_solver_and_no_equation():
    host = ix.host(squared)
    for make in (ix.Root, ix.Minimum, ix.custom_root):
        refuses(TypeError, r"makes a \*solver\*.*jax.custom_jvp", make, host)


def by_numpy(y0, a):
    return np.sqrt(a)


def test_a_solver_that_is_no_jax_code():
    solve = ix.custom_root(squared)(by_numpy)
    remedy = r"by_numpy is no JAX code.*ix.host\(by_numpy\)"
    for transform in (jax.jit, jax.vmap):
        call = transform(lambda a: solve(1.0, a).value)
        refuses(TypeError, remedy, call, jnp.ones(2) if transform is jax.vmap else 1.0)


class Solver:
    def solve(self, y0, a):
        return jnp.sqrt(a)


def test_what_a_decorator_takes():
    decorate = ix.custom_root(squared)
    takes = r"takes \(y0, args, \*\*options\)"
    refuses(TypeError, rf"{takes}.*\(a\).*y0.*is needed", decorate, lambda a: a)
    refuses(TypeError, rf"{takes}.*is a method", decorate, Solver.solve)
    refuses(
        TypeError, "holds at the solution first", ix.custom_root(by_numpy), 1.0, 2.0
    )
    refuses(TypeError, "holds at the solution first", decorate, 1.0)
    solve = decorate(by_numpy)
    refuses(TypeError, rf"by_numpy {takes}, and 3 arguments", solve, 1.0, 2.0, 3.0)
    refuses(TypeError, NOT_GIVEN, solve, 2.0)
    refuses(TypeError, "'y0'", solve, args=2.0)
    result = decorate(lambda y0, a: Solver())
    refuses(TypeError, "result.x", result, 1.0, 4.0)


def test_the_method_of_an_object_is_a_solver():
    for method in (Solver().solve, jax.jit(Solver().solve)):
        assert ix.custom_root(squared)(method)(1.0, 4.0).value == 2.0


@pytest.fixture(scope="module")
def solution():
    return ix.root(squared, 1.0, 4.0)


def test_a_solution_tells_whether_it_converged(solution):
    assert bool(solution.converged)
    assert bool(solution.success)
    assert solution.status.name == "converged"
    assert repr(solution.status) == "Status.converged"
    assert "2. (float64)" in repr(solution)
    batch = jax.jit(jax.vmap(lambda a: ix.root(squared, 1.0, a, solver=ix.Newton())))
    two = batch(jnp.array([4.0, -1.0]))
    assert two.converged.tolist() == [True, False]
    assert two.status.name[0] == "converged"
    assert two.status.name[1] in ("singular", "stagnated", "not_solved")
    assert (
        pickle.loads(pickle.dumps(two)).status.name.tolist() == two.status.name.tolist()
    )


def test_what_a_solution_has_is_found_by_other_names(solution):
    for name, here in (("x", "value"), ("fun", "objective"), ("nit", "stats.steps")):
        with pytest.raises(AttributeError, match=f"It is solution.{here} here"):
            getattr(solution, name)
    assert not hasattr(solution, "quux")


def test_what_a_status_is_not(solution):
    with pytest.raises(TypeError, match="neither true nor false"):
        bool(solution.status)
    with pytest.raises(TypeError, match=r"status\.name"):
        assert solution.status == "converged"
    with pytest.raises(TypeError, match="is none"):
        ix.Status["converged"]
    with pytest.raises(TypeError, match="read its name from what jit returns"):
        jax.eval_shape(
            lambda: jnp.zeros(len(jax.jit(lambda s: s.name)(solution.status)))
        )


def test_a_solution_shows_itself_everywhere(solution):
    inside = "inside a JAX transformation"
    shapes = jax.eval_shape(lambda a: ix.root(squared, 1.0, a), 4.0)
    assert inside in repr(shapes)

    def value(a):
        found = ix.root(squared, 1.0, a)
        assert "converged" in repr(found)
        assert "value     float64[]\n" in repr(found)
        return found.value

    jax.grad(value)(4.0)


def test_a_solution_stands_for_its_value(solution):
    again = ix.root(squared, solution, 9.0)
    np.testing.assert_allclose(again.value, 3.0, rtol=1e-12)
    known = ix.custom_root(squared)(lambda y0, a: y0)
    assert known(solution, 4.0).value == solution.value


def residual(y, a):
    u, v = y["u"], y["v"]
    return u**2 - a - v[0], v[0] * u - 1.0, v[1] + u


@pytest.mark.parametrize(
    "shaped",
    [jnp.stack, lambda r: {"z": r[0], "b": jnp.stack(r[1:])[:, None]}],
)
def test_a_residual_in_another_structure(shaped):
    """The same root and the same derivative as in the structure of y0."""
    y0 = {"u": 1.5, "v": jnp.array([0.5, -1.0])}

    def solve(fn):
        return jax.value_and_grad(lambda a: jnp.sum(ix.root(fn, y0, a).value["v"]))(2.0)

    def alike(y, a):
        r = residual(y, a)
        return {"u": r[0], "v": jnp.stack(r[1:])}

    found = solve(lambda y, a: shaped(residual(y, a)))
    np.testing.assert_allclose(found, solve(alike), rtol=1e-12)


def test_a_residual_of_real_equations_for_a_complex_unknown():
    def both(y, a):
        r = y**2 - a * jnp.conj(y) + 1j
        return jnp.stack([r.imag, r.real])

    def value(a):
        return ix.root(both, 0.5 + 1j, a).value

    def alike(a):
        return ix.root(lambda y, a: y**2 - a * jnp.conj(y) + 1j, 0.5 + 1j, a).value

    for tangent in (1.0, 1j):
        direction = jnp.asarray(tangent, complex)
        found, slope = jax.jvp(value, (0.3 + 0.1j,), (direction,))
        expected = jax.jvp(alike, (0.3 + 0.1j,), (direction,))
        np.testing.assert_allclose((found, slope), expected, rtol=1e-11)


def test_naming_a_solver_of_definite_systems_says_that_the_jacobian_is_one():
    """The gradient of `sum(y)` is `J^-T 1`, as by LU; NaN where that is indefinite."""
    definite = jnp.array([[4.0, 1.0], [1.0, 3.0]])
    turned = jnp.array([[1.0, 5.0], [-5.0, 1.0]])

    def gradient(solver):
        def value(a, matrix):
            fn = lambda y, a: matrix @ y + y**3 - a
            by = {"derivative": ix.Implicit(linear_solver=solver)}
            return jnp.sum(ix.root(fn, jnp.zeros(2), a, solver=ix.Newton(), **by).value)

        both = jnp.stack([definite, turned])
        slope = jax.jit(jax.vmap(jax.grad(value), (None, 0)))
        return slope(jnp.array([1.0, 2.0]), both)

    exact = gradient(lx.LU())
    for solver in (lx.CG(rtol=1e-12, atol=1e-12), lx.Cholesky()):
        found = gradient(solver)
        np.testing.assert_allclose(found[0], exact[0], rtol=1e-9)
        assert jnp.isnan(found[1]).all()


def test_the_version_is_the_packages():
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", ix.__version__)
