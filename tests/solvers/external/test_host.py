"""`ix.host`: lanes that fail alone, messages that can be read, nothing that hangs."""

import concurrent.futures
import subprocess
import sys
import textwrap
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicax as ix

from ...oracles import relative_error

POINTS = jnp.arange(1.0, 9.0)
BAD = 2  # the lane that fails
OTHERS = np.delete(np.arange(8), BAD)


def square(y, a):
    return y**2 - a


def roots_of(solver, **options):
    """`solve(a)` by a host solver, and the host solver."""
    host = ix.host(solver)
    solve = ix.custom_root(square, **options)(host)
    return (lambda a: solve(jnp.asarray(1.0), a)), host


def raises(a):
    raise ArithmeticError("overflow in subroutine 7")


WAYS = {
    "exception": (raises, "failed", "ArithmeticError: overflow in subroutine 7"),
    "nan": (lambda a: np.nan, "non_finite", "the solver returned NaN or infinity"),
    "infinity": (lambda a: np.inf, "non_finite", "the solver returned NaN or infinity"),
    "shape": (
        lambda a: np.ones(3),
        "failed",
        "ValueError: the solver must return shape (), and returned (3,)",
    ),
    "complex": (
        lambda a: 1j * a,
        "failed",
        "TypeError: the solver returned complex numbers for a real unknown",
    ),
    "lie": (lambda a: np.sqrt(a) + 1e-3, "not_solved", None),
}


@pytest.fixture(params=WAYS)
def one_bad_lane(request):
    bad, status, message = WAYS[request.param]
    fails_at = float(POINTS[BAD])

    def solver(y0, a):
        return bad(a) if float(a) == fails_at else np.sqrt(a)

    solve, host = roots_of(solver)
    return solve, host, getattr(ix.Status, status), message


def test_one_bad_lane_of_eight(one_bad_lane):
    """It alone is NaN, in value and derivative; its status and message say why."""
    solve, host, status, message = one_bad_lane
    value = lambda a: solve(a).value
    weights = jnp.linspace(0.5, 2.0, 8)

    @jax.jit
    def program(points):
        batch = jax.vmap(solve)(points)
        total = lambda points: jnp.sum(weights * jax.vmap(value)(points))
        return batch, {
            "vmap_of_grad": jax.vmap(jax.grad(value))(points),
            "vmap_of_jvp": jax.vmap(jax.jacfwd(value))(points),
            "grad_of_vmap": jax.grad(total)(points) / weights,
        }

    batch, slopes = program(POINTS)
    assert np.array_equal(np.flatnonzero(batch.status == status), [BAD])
    assert np.isnan(batch.value[BAD])
    assert relative_error(batch.value[OTHERS], np.sqrt(POINTS)[OTHERS]) <= 1e-12
    for name, slope in slopes.items():
        expected = (0.5 / np.sqrt(POINTS))[OTHERS]
        assert np.isnan(slope[BAD]), name
        assert relative_error(slope[OTHERS], expected) <= 1e-12, name
    assert set(host.failures) == ({message} if message else set())


def test_one_bad_lane_outside_jit_says_why(one_bad_lane):
    solve, _, status, message = one_bad_lane
    with pytest.raises(ix.ConvergenceError) as caught:
        jax.grad(lambda a: solve(a).value)(POINTS[BAD])
    assert bool(caught.value.solution.status == status)
    if status == ix.Status.failed:
        assert f"It says: {message}" in str(caught.value)
    assert relative_error(solve(POINTS[0]).value, np.asarray(1.0)) <= 1e-12


def test_ignored_failures_are_in_the_status():
    solve, host = roots_of(lambda y0, a: raises(a), on_failure="ignore")
    solution = jax.jit(solve)(2.0)
    assert bool(solution.status == ix.Status.failed)
    assert list(host.failures) == ["ArithmeticError: overflow in subroutine 7"]


def test_the_last_messages_are_kept():
    def solver(y0, a):
        raise ValueError(f"{int(a)}")

    solve, host = roots_of(solver, on_failure="ignore")
    jax.block_until_ready(jax.jit(jax.vmap(solve))(jnp.arange(1.0, 101.0)))
    assert len(host.failures) == 64
    assert all(message.startswith("ValueError: ") for message in host.failures)


def test_structure_of_the_answer():
    """A pytree unlike `y0` is a failure of its lane, and the message says it."""
    host = ix.host(lambda y0, a: {"u": y0["u"]})
    fn = lambda y, a: {"u": y["u"] - a, "v": y["v"] - a}
    start = {"u": jnp.asarray(1.0), "v": jnp.asarray(1.0)}
    solution = ix.custom_root(fn, on_failure="ignore")(host)(start, 1.0)
    assert bool(solution.status == ix.Status.failed)
    assert "ValueError" in host.failures[-1]


def test_what_the_solver_sees():
    """NumPy arrays in the shapes of one lane, also where some are shared by all."""
    seen = []

    def solver(y0, args, scale, note):
        leaves = (y0["z"], args["a"], args["shared"], scale)
        seen.append([(type(x), x.shape, x.dtype) for x in leaves])
        assert args["name"] == "heat"
        assert args["none"] is None
        assert args["call"](2) == 4
        assert note == "n"
        return {"z": np.full(2, args["a"])}

    solve = ix.custom_root(lambda y, args: {"z": y["z"] - args["a"]})(ix.host(solver))
    others = {"name": "heat", "none": None, "call": lambda x: 2 * x}

    @jax.jit
    def program(points):
        def value(a):
            args = {"a": a, "shared": jnp.ones((2, 3), jnp.float32), **others}
            start = {"z": jnp.zeros(2)}
            return jnp.sum(
                solve(start, args, scale=jnp.asarray(3), note="n").value["z"]
            )

        return jax.vmap(jax.value_and_grad(value))(points)

    values, slopes = program(POINTS)
    assert np.array_equal(values, 2 * POINTS)
    assert np.array_equal(slopes, np.full(8, 2.0))
    assert len(seen) == 8
    for lane in seen:
        assert [kind for kind, _, _ in lane] == [np.ndarray] * 4
        assert [shape for _, shape, _ in lane] == [(2,), (), (2, 3), ()]
        assert [str(d) for _, _, d in lane[:3]] == ["float64", "float64", "float32"]


def test_lanes_run_side_by_side_on_as_many_threads_as_asked():
    """A barrier for four opens only if four lanes wait at it at the same time."""
    barrier = threading.Barrier(4, timeout=30)
    names = set()

    def solver(y0, a):
        names.add(threading.current_thread().name)
        barrier.wait()
        return np.sqrt(a)

    solve = ix.custom_root(square)(ix.host(solver, threads=4))
    came = jax.jit(jax.vmap(lambda a: solve(1.0, a).value))(POINTS)
    assert relative_error(came, np.sqrt(POINTS)) <= 1e-12
    assert len(names) == 4


def test_one_thread_means_one_at_a_time():
    lock = threading.Lock()

    def solver(y0, a):
        assert lock.acquire(blocking=False)
        time.sleep(0.002)
        lock.release()
        return np.sqrt(a)

    host = ix.host(solver, threads=1)
    solve = ix.custom_root(square)(host)
    came = jax.jit(jax.vmap(lambda a: solve(1.0, a).value))(POINTS)
    assert relative_error(came, np.sqrt(POINTS)) <= 1e-12
    assert not host.failures


def test_nested_vmap():
    """Two batch axes, each on one of the inputs, with the gradient inside."""
    solve = ix.custom_root(lambda y, p: y**2 - p[0] * p[1])(
        ix.host(lambda y0, p: np.sqrt(p[0] * p[1]))
    )
    slope = jax.grad(lambda a, b: solve(1.0, (a, b)).value)
    inner = jax.vmap(slope, in_axes=(None, 0))
    came = jax.jit(jax.vmap(inner, in_axes=(0, None)))(POINTS, 2 * POINTS[:3])
    expected = 0.5 * np.sqrt(2 * POINTS[None, :3] / POINTS[:, None])
    assert relative_error(came, expected) <= 1e-12


def test_many_calls_in_a_row():
    solve, _ = roots_of(lambda y0, a: np.sqrt(a))
    step = jax.jit(jax.value_and_grad(lambda a: solve(a).value))
    scanned = jax.jit(
        lambda a: jax.lax.scan(lambda a, _: (solve(a + 1).value, None), a, None, 500)[0]
    )
    for k in range(500):
        value, slope = step(1.0 + k)
    assert relative_error(value, np.sqrt(500.0)) <= 1e-12
    assert relative_error(slope, 0.5 / np.sqrt(500.0)) <= 1e-12
    # a = sqrt(a + 1) at the golden ratio
    assert relative_error(scanned(1.0), (1 + np.sqrt(5.0)) / 2) <= 1e-12


def test_calls_from_many_threads():
    solve, _ = roots_of(lambda y0, a: np.sqrt(a))
    step = jax.jit(jax.vmap(jax.grad(lambda a: solve(a).value)))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        came = [*pool.map(lambda k: step(POINTS * k), range(1, 33))]
    expected = [0.5 / np.sqrt(POINTS * k) for k in range(1, 33)]
    assert relative_error(np.stack(came), np.stack(expected)) <= 1e-12


def test_a_solver_with_threads_of_its_own():
    """Each lane splits its work over a pool, as BLAS or OpenMP would."""
    pool = concurrent.futures.ThreadPoolExecutor(4)

    def solver(y0, a):
        return np.concatenate([*pool.map(np.sqrt, np.split(a, 4))])

    solve = ix.custom_root(square)(ix.host(solver))
    a = jnp.linspace(1.0, 2.0, 64).reshape(8, 8)
    value = lambda a: jnp.sum(solve(jnp.ones(8), a).value)
    came = jax.jit(jax.vmap(jax.grad(value)))(a)
    assert relative_error(came, 0.5 / np.sqrt(a)) <= 1e-12


#: What could wait for itself: large arrays, whose conversion to NumPy needs the device
#: that waits for the callback, and solvers that call JAX; on one processor.
ONE_PROCESSOR = """
    import os
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import jax, jax.numpy as jnp, numpy as np
    import implicax as ix

    square = lambda y, a: y**2 - a
    legacy = ix.custom_fixed_point(lambda y, a: 0.5 * y + a)(
        ix.host(lambda y0, a: 2 * a)
    )
    large = jax.value_and_grad(lambda a: jnp.mean(legacy(jnp.ones_like(a), a).value))
    engine = lambda a: jnp.sum(
        ix.root(square, jnp.ones(200), a, solver=ix.SciPy()).value
    )
    programs = [
        (jax.jit(large), (100_000,)),
        (jax.jit(jax.vmap(large)), (3, 100_000)),
        (jax.jit(jax.vmap(engine)), (3, 200)),
    ]
    for program, shape in programs:
        for _ in range(3):
            answer = program(jnp.full(shape, 4.0))
        print(float(jnp.max(jax.tree.leaves(answer)[0])))
"""


def test_no_hang_on_one_processor():
    finished = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ONE_PROCESSOR)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == ["8.0", "8.0", "400.0"]


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_must_be_a_count(threads):
    with pytest.raises(ValueError, match="threads must be a positive integer"):
        ix.host(raises, threads=threads)


def test_by_itself_it_has_no_derivative_and_answers():
    host = ix.host(lambda y0, a: np.sqrt(a))
    assert float(host(1.0, 4.0)) == 2.0
    assert float(jax.jit(host)(1.0, 4.0)) == 2.0


@pytest.mark.parametrize("answer", [lambda y0, a: None, lambda y0, a: exit(3)])
def test_no_answer_at_all_is_a_failure_too(answer):
    legacy = ix.host(answer)
    solve = ix.custom_root(lambda y, a: y - a, on_failure="ignore")(legacy)
    assert bool(jax.jit(solve)(1.0, 2.0).status == ix.Status.failed)
    assert len(legacy.failures) == 1
