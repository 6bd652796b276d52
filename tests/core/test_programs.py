"""The programs that come out: no callbacks, stored, small, and not compiled twice."""

import contextlib
import copy
import gc
import json
import logging
import os
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core as jex_core

import implicax as ix
from implicax._core.traced_function import TracedFunction

from ..cases import KINDS, SOLVERS, make


def primitives(value):
    """The names of all primitives in a jaxpr, those of its sub-jaxprs included."""
    if isinstance(value, jex_core.ClosedJaxpr):
        value = value.jaxpr
    if isinstance(value, jex_core.Jaxpr):
        for equation in value.eqns:
            yield equation.primitive.name
            yield from primitives(tuple(equation.params.values()))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from primitives(item)


def callbacks(fn, *args):
    return {name for name in primitives(jax.make_jaxpr(fn)(*args)) if "callb" in name}


#: `y = 0.3 sin(y) + a`, as a fixed point and as a root.
MAPS = {
    "fixed_point": lambda y, a: 0.3 * jnp.sin(y) + a,
    "root": lambda y, a: y - 0.3 * jnp.sin(y) - a,
}


def loss_of(kind, solver=None, size=3):
    call, start = getattr(ix, kind), jnp.zeros(size)
    return lambda a: jnp.sum(call(MAPS[kind], start, a, solver=solver).value ** 2)


CALLS = [(kind, name) for kind in KINDS for name in ("default", *SOLVERS)]
TRANSFORMATIONS = {
    "value": lambda f: f,
    "gradient": jax.grad,
    "tangent": jax.jacfwd,
    "hessian": jax.hessian,
    "vmap": lambda f: lambda a: jax.vmap(jax.grad(f))(jnp.stack([a, 2 * a])),
}


@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
@pytest.mark.parametrize(("kind", "name"), CALLS)
def test_no_callback(kind, name, transformation):
    loss = loss_of(kind, SOLVERS.get(name))
    assert callbacks(TRANSFORMATIONS[transformation](loss), jnp.ones(3)) == set()


@pytest.mark.parametrize("kind", KINDS)
def test_no_callback_beyond_the_dense_limit(kind):
    loss = loss_of(kind, size=5000)
    assert callbacks(jax.grad(loss), jnp.ones(5000)) == set()


def test_no_callback_in_a_certificate():
    problem = ix.FixedPoint(MAPS["fixed_point"])
    certify = lambda y, a: ix.certify(lambda y, a: jnp.sum(y), problem, y, a)
    assert callbacks(certify, jnp.zeros(3), jnp.ones(3)) == set()


@pytest.mark.parametrize("kind", KINDS)
def test_no_callback_in_what_the_compiler_gets(kind):
    """Whatever the jaxpr's walk might miss would be a custom call here."""
    gradient = jax.grad(loss_of(kind))
    assert "callback" not in jax.jit(gradient).lower(jnp.ones(3)).as_text()


def test_a_callback_would_be_found():
    """The same search, on a program with one deep inside."""

    def noisy(y, a):
        jax.debug.callback(lambda: None)
        return 0.3 * jnp.sin(y) + a

    loss = lambda a: jnp.sum(ix.fixed_point(noisy, jnp.zeros(3), a).value)
    assert callbacks(loss, jnp.ones(3)) != set()
    assert "callback" in jax.jit(loss).lower(jnp.ones(3)).as_text()


STORE = """
import json, time
import jax, jax.numpy as jnp
import implicax as ix

def silent(a):
    return jnp.sum(ix.{kind}(lambda y, a: 0.3 * y - a, jnp.zeros(3), a).value)

def gradient(a): return jax.grad(silent)(a)
def control(a): return a * float(time.time_ns() % 10**6)

a = jnp.ones(3)
print(json.dumps(jax.jit(gradient)(a).tolist()))
jax.jit(control)(a)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_is_stored_by_the_persistent_cache(kind, tmp_path):
    """And read back by a second process, which stores nothing new; but for a control,
    a program that is another one in each process."""
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }

    def run():
        process = subprocess.run(
            [sys.executable, "-c", STORE.format(kind=kind)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        stored = {file.name for file in tmp_path.iterdir()}
        return json.loads(process.stdout), {
            name for name in stored if name.endswith("-cache")
        }

    first, stored = run()
    assert any(name.startswith("jit_gradient-") for name in stored)
    second, again = run()
    assert second == first
    assert {name.partition("-")[0] for name in again - stored} == {"jit_control"}


def temporary_bytes(kind, derivative, max_steps):
    case = make(kind, "float64")
    call = getattr(ix, kind)

    def loss(args):
        solution = call(
            case.fn, case.start(), args, max_steps=max_steps, derivative=derivative
        )
        return case.loss(solution.value)

    compiled = jax.jit(jax.grad(loss)).lower(case.args).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("kind", KINDS)
def test_memory_of_the_reverse_pass_is_free_of_the_steps(kind):
    assert temporary_bytes(kind, None, 10) == temporary_bytes(kind, None, 10_000)


def test_memory_of_unrolling_is_not():
    """The same measurement, on a derivative that stores every iterate."""
    few = temporary_bytes("fixed_point", ix.Unrolled(), 10)
    assert temporary_bytes("fixed_point", ix.Unrolled(), 10_000) > 100 * few


@pytest.mark.parametrize("kind", KINDS)
def test_jit_returns_a_solution(kind):
    case = make(kind, "float64")
    call = getattr(ix, kind)
    solution = jax.jit(lambda args: call(case.fn, case.start(), args))(case.args)
    assert isinstance(solution, ix.Solution)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(solution))
    assert bool(solution.status == ix.Status.converged)
    assert ix.Status[solution.status].startswith("The estimated error of each")
    assert repr(solution).startswith("Solution: converged")


def test_vmap_returns_a_batch_of_solutions():
    solve = lambda a: ix.root(lambda y, a: y**2 - a, jnp.asarray(1.0), a)
    solution = jax.jit(jax.vmap(solve))(jnp.asarray([1.0, 4.0, 9.0]))
    assert jnp.allclose(solution.value, jnp.asarray([1.0, 2.0, 3.0]), rtol=1e-10)
    assert solution.stats.steps.shape == (3,)
    assert jnp.all(solution.status == ix.Status.converged)


TOLERANCES = [(name, key) for name in SOLVERS for key in ("rtol", "atol")]


@pytest.mark.parametrize(("name", "key"), TOLERANCES)
def test_a_new_tolerance_does_not_trace_again(name, key):
    """Inside a compiled function, where the tolerance is one of its arguments."""
    traces = []

    other = {"rtol": "atol", "atol": "rtol"}[key]

    @jax.jit
    def solve(value):
        traces.append(value)
        solver = type(SOLVERS[name])(**{key: value, other: 0.0})
        return ix.fixed_point(MAPS["fixed_point"], jnp.zeros(2), 1.0, solver=solver)

    loose, tight = solve(1e-1), solve(1e-9)
    assert len(traces) == 1
    assert loose.stats.steps < tight.stats.steps


def compilations(caplog, call):
    caplog.clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        call()
    return [r.message for r in caplog.records if r.message.startswith("Compiling ")]


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_tolerance_does_not_compile_again_outside_jit(kind, caplog):
    """Nor do a new argument and a new lambda that computes the same."""
    solver = {"fixed_point": ix.Anderson, "root": ix.Newton}[kind]

    def solve(a, **options):
        fn = lambda y, a: MAPS[kind](y, a)
        start = jnp.zeros(2)
        return getattr(ix, kind)(fn, start, a, solver=solver(**options)).value

    def gradient(a, **options):
        return jax.grad(lambda a: jnp.sum(solve(a, **options)))(a)

    first, second = jnp.asarray([1.0, 2.0]), jnp.asarray([3.0, 4.0])
    for call in (solve, gradient):
        assert compilations(caplog, lambda f=call: f(first, rtol=1e-5, atol=1e-5))
        again = lambda f=call: f(second, rtol=1e-7, atol=1e-9)
        assert compilations(caplog, again) == []
    # A static option does.
    assert compilations(caplog, lambda: solve(first, rtol=1e-5, record_history=True))


def fresh_pull():
    """`x^2`, with a VJP only, made anew at each call."""
    square = jax.custom_vjp(lambda x: x**2)
    square.defvjp(lambda x: (x**2, x), lambda x, g: (2 * x * g,))
    return square


def fresh_push(slope):
    """`x^2`, whose JVP multiplies by `slope(x)`, made anew at each call."""
    square = jax.custom_jvp(lambda x: x**2)
    square.defjvps(lambda t, out, x: slope(x) * t)
    return square


def through_a_jit(k):
    """A function that is compiled anew, and holds another array, at each call."""
    weights = jnp.full(3, 1.0 + k)
    return jax.jit(lambda y: weights * y)


#: What a function may hold; called with the number of the call.
HELD = {
    "relu": lambda k: lambda y, a: jax.nn.relu(y) + 0.5 * y - a,
    "softplus": lambda k: lambda y, a: jax.nn.softplus(y) + y - a,
    "a number": lambda k: lambda y, a: (1.5 + k) * y**3.0 - a,
    "a new custom_jvp": lambda k: lambda y, a: fresh_push(lambda x: 2 * x)(y) - a,
    "a new custom_vjp": lambda k: lambda y, a: fresh_pull()(y) - a,
    "a jit": lambda k: (lambda held: lambda y, a: held(y) - a)(through_a_jit(k)),
}


def quiet(caplog, call):
    """Whether `call(k)` compiles at its first calls alone, whatever `k`."""
    first = compilations(caplog, lambda: (call(0.25), call(0.5)))
    return first and compilations(caplog, lambda: [call(0.1 * k) for k in range(4)])


@pytest.mark.parametrize("held", HELD)
def test_nothing_compiles_twice_whatever_the_function_holds(held, caplog):
    def solve(k, a):
        return jnp.sum(ix.root(HELD[held](k), jnp.ones(3), a).value)

    a = jnp.full(3, 2.0)
    assert quiet(caplog, lambda k: jax.value_and_grad(lambda a: solve(k, a))(a)) == []


def test_equal_computations_are_one_object():
    """JAX keeps what a program was called with inside an eager `jax.grad`."""

    def gradient(scale):
        fn = lambda y, a: jax.nn.relu(a * y) / 3 + scale
        return jax.grad(lambda a: ix.fixed_point(fn, 1.0, a).value)(0.5)

    def count():
        gc.collect()
        return sum(isinstance(held, TracedFunction) for held in gc.get_objects())

    gradient(1.0)
    before = count()
    for k in range(20):
        gradient(1.0 + k / 100)
    assert count() <= before


def test_nothing_is_kept_of_an_eager_gradient():
    """JAX keeps an entry of 2 to 8 kB for each call of a program inside of one."""

    def gradient(a):
        fn = lambda y, a: a * y - jnp.cos(y)
        return jax.grad(lambda a: ix.root(fn, 1.0, a).value)(a)

    def entries():
        kind = type(jax.jit(abs))
        programs = [held for held in gc.get_objects() if type(held) is kind]
        return sum(program._cache_size() for program in programs)

    gradient(1.5)
    before = entries()
    for k in range(20):
        gradient(1.0 + k / 100)
    assert entries() < before + 20


def test_named_axes_have_a_meaning_inside_their_vmap():
    """Also where the derivative is taken eagerly, inside of it."""

    def slope(x):
        fn = lambda y, a: y**2 - jax.lax.psum(a, "lane")
        return x * jax.grad(lambda a: ix.root(fn, 1.0, a).value)(3.0)

    found = jax.vmap(slope, axis_name="lane")(jnp.arange(3.0))
    # y = sqrt(3 a), of which `psum` is the sum over lanes
    assert jnp.allclose(found, jnp.arange(3.0) * 3 / (2 * 3.0))


def test_nothing_compiles_twice_on_the_host(caplog):
    """Neither a new host solver at each call nor SciPy."""
    square = lambda y, a: y**2 - a

    def on_host(k):
        legacy = ix.host(lambda y0, a: np.sqrt(a))
        solve = ix.custom_root(square)(legacy)
        return jax.grad(lambda a: solve(1.0, a).value)(1.0 + k)

    scipy = lambda k: ix.root(square, 1.0, 1.0 + k, solver=ix.SciPy()).value
    assert quiet(caplog, on_host) == []
    assert quiet(caplog, scipy) == []


def test_the_first_gradient_takes_few_compilations(caplog):
    jax.clear_caches()
    solve = lambda a: ix.root(lambda y, a: y**2 - a, 1.0, a).value
    assert len(compilations(caplog, lambda: jax.grad(solve)(2.0))) <= 8


#: Rules for `x^2` that differ in what they say of the first or second derivative.
RULES = {
    "right": lambda x: 2 * x,
    "another slope": lambda x: 4 * x,
    "another curvature": lambda x: 2 * jax.lax.stop_gradient(x),
    "another number": lambda x: 2.5 * x,
}


def test_functions_that_differ_in_their_derivatives_are_told_apart():
    """The slope and the curvature of `sqrt(a)` at 4, by rules that are written on the
    same line, for functions of the same values."""
    a, found = 4.0, {}
    for name, slope in RULES.items():
        square = fresh_push(slope)
        root = lambda a, f=square: ix.root(lambda y, a: f(y) - a, 1.5, a).value
        found[name] = [float(jax.grad(root)(a)), float(jax.grad(jax.grad(root))(a))]
    # y' = 1 / s(y), y'' = -s'(y) y' / s(y)^2
    expected = {
        "right": [1 / 4, -1 / 32],
        "another slope": [1 / 8, -1 / 128],
        "another curvature": [1 / 4, 0.0],
        "another number": [1 / 5, -2.5 / 125],
    }
    for name, wanted in expected.items():
        assert found[name] == pytest.approx(wanted, abs=1e-7), name


def test_numbers_that_became_inputs_have_no_derivative():
    """In the exponent there is one, and it is NaN where `y < 0`."""
    root = lambda a: ix.root(lambda y, a: y**3.0 + a, -1.0, a).value
    assert float(jax.grad(root)(8.0)) == pytest.approx(-1 / 12)
    assert float(jax.grad(jax.jit(root))(8.0)) == pytest.approx(-1 / 12)


def test_gradient_descent_in_a_scan():
    """jit of scan of jit of grad: `a` with `sqrt(a) = 1.2`, found by descent."""
    solution = lambda a: ix.root(lambda y, a: y**2 - a, jnp.asarray(1.0), a).value
    gradient = jax.jit(jax.grad(lambda a: (solution(a) - 1.2) ** 2))

    @jax.jit
    def descend(a):
        return jax.lax.scan(lambda a, _: (a - gradient(a), None), a, length=60)[0]

    assert abs(float(descend(jnp.asarray(2.0))) - 1.44) <= 1e-9


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_errors_travel(copied):
    """From another process, say: with their text and what was found."""
    square = lambda y, a: y**2 + a
    problem = ix.Root(square)
    with pytest.raises(ix.ConvergenceError) as caught:
        ix.root(square, 1.0, 1.0)
    with pytest.raises(ix.AccuracyError) as inaccurate:
        ix.certified_gradient(lambda y, a: y, problem, 1.0, 1.0, gradient_rtol=1e-3)
    for error in (caught.value, inaccurate.value):
        came = copied(error)
        assert type(came) is type(error)
        assert str(came) == str(error)
        assert jnp.array_equal(came.solution.value, error.solution.value)


def test_host_solvers_are_copied():
    host = copy.deepcopy(ix.host(lambda y0, a: np.sqrt(a)))
    assert host(jnp.ones(3), jnp.full(3, 4.0)).tolist() == [2.0, 2.0, 2.0]


def test_a_solution_without_values_is_shown():
    """Inside an eager `grad` its value has none; after `eval_shape` nothing has."""
    shown = []

    def solve(a):
        solution = ix.root(lambda y, a: y**2 - a, 1.0, a)
        shown.append(repr(solution))
        return solution.value

    jax.grad(solve)(4.0)
    assert "converged" in shown[0]
    assert "float64[]" in shown[0]
    shapes = jax.eval_shape(lambda a: ix.root(lambda y, a: y**2 - a, 1.0, a), 4.0)
    assert "transformation" in repr(shapes)


#: One call of each entry point, by the function that it is given.
ENTRY_POINTS = {
    "root": lambda f: ix.root(f, 1.0, 2.0),
    "fixed_point": lambda f: ix.fixed_point(f, 1.0, 2.0),
    "minimize": lambda f: ix.minimize(f, 1.0, 2.0),
    "least_squares": lambda f: ix.least_squares(f, 1.0, 2.0),
    "solve": lambda f: ix.solve(ix.Root(f), 1.0, 2.0),
    "certify": lambda f: ix.certify(lambda y, a: y, ix.Root(f), 1.4, 2.0),
    "a decorated solver": lambda f: ix.custom_root(f)(lambda y0, a: a**0.5)(1.0, 2.0),
}
OF_THREE = {
    "continuation": lambda f: ix.continuation(f, 1.0, 0.0, 1.0, 1.0, max_points=9),
    "fold": lambda f: ix.fold(f, 0.3, 0.1, 1.0),
}


@pytest.mark.parametrize("name", [*ENTRY_POINTS, *OF_THREE])
def test_a_function_is_traced_once(name):
    """What it costs to trace a network or an integrator, it costs once a call."""
    calls = []

    def square(y, a):
        calls.append(a)
        return 0.1 * (y**2 - a)

    def arch(y, p, a):
        calls.append(a)
        return a * y - y**3 - p

    if name in OF_THREE:
        with contextlib.suppress(ix.ConvergenceError, ix.BranchError):
            OF_THREE[name](arch)
    else:
        with contextlib.suppress(ix.ConvergenceError):
            ENTRY_POINTS[name](square)
    assert len(calls) == 1


@pytest.mark.parametrize("call", [ix.root, ix.least_squares, ix.fixed_point])
def test_the_first_eager_gradient_compiles_few_programs(call, caplog):
    """The solve, the attached derivative and its transpose; the rest is `jnp.sum`'s."""
    y0, a = jnp.zeros(3), jnp.ones(3)
    total = lambda a: jnp.sum(call(lambda y, a: jnp.cos(a * y), y0, a).value)
    jax.clear_caches()
    compiled = compilations(caplog, lambda: jax.grad(total)(a))
    assert any("_run" in text for text in compiled)
    assert len(compiled) <= 6, compiled
