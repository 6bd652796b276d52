"""Nothing fails silently: outside `jit`, inside `jit`, and on request.

Each failure is one row: the problem, the solver, and the status it must end with. It
is then read three ways: as an exception whose text says what to try and which keeps the
best iterate; as NaN in value *and* derivative under `jit`; and with
`on_failure="ignore"` as a best effort whose status tells.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicax as ix


class Failure(NamedTuple):
    solve: Callable[..., ix.Solution]
    fn: Callable[[Any, Any], Any]
    y0: Any
    solver: ix.AbstractSolver
    statuses: tuple[str, ...]
    max_steps: int = 256


def singular(matrix: list) -> Callable[[Any, Any], Any]:
    """`M y = a (1, 2, ...)`, inconsistent for the singular matrices below."""
    M = jnp.asarray(matrix)
    right = jnp.arange(1.0, M.shape[0] + 1)
    return lambda y, a: M @ y - a * right


def logistic(y, a):
    return 3.9 * a * y * (1 - y)


NAMES = (
    "converged", "max_steps_reached", "diverged", "stagnated", "non_finite", "singular"
)  # fmt: skip
ONE = jnp.asarray(0.5)
MATRICES = {
    "1x1": [[0.0]],
    "diagonal": [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 2.0]],
    "dense": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]],
    "zero": [[0.0, 0.0], [0.0, 0.0]],
}
SOLVERS = {
    "Picard": ix.Picard(),
    "Anderson": ix.Anderson(),
    "Broyden": ix.Broyden(),
    "Newton": ix.Newton(),
    "Chord": ix.Chord(),
}

FAILURES = {
    "repelling map": Failure(
        ix.fixed_point, lambda y, a: 2.5 * y + a, ONE, ix.Picard(), ("diverged",)
    ),
    "chaotic map": Failure(ix.fixed_point, logistic, ONE, ix.Picard(), ("stagnated",)),
    "2-cycle": Failure(
        ix.fixed_point, lambda y, a: 3 * a - y, ONE, ix.Picard(), ("stagnated",)
    ),
    "NaN at once": Failure(
        ix.root, lambda y, a: jnp.log(-y) - a, ONE, ix.Newton(), ("non_finite",)
    ),
    "NaN later": Failure(
        ix.fixed_point, lambda y, a: a * jnp.log(y), ONE, ix.Picard(), ("non_finite",)
    ),
    "infinity": Failure(
        ix.root, lambda y, a: a / (y - 0.5), ONE, ix.Broyden(), ("non_finite",)
    ),
    "no root": Failure(
        ix.root, lambda y, a: y**2 + a, ONE, ix.Newton(), ("stagnated", "singular")
    ),
    "too few steps": Failure(
        ix.root, lambda y, a: y**3 - 8 * a, ONE, ix.Newton(), ("max_steps_reached",), 3
    ),
    "one step": Failure(
        ix.fixed_point,
        lambda y, a: jnp.cos(a * y),
        ONE,
        ix.Anderson(),
        ("max_steps_reached",),
        1,
    ),
}
for shape, matrix in MATRICES.items():
    start = jnp.ones(len(matrix))
    for name in ("Newton", "Chord"):
        FAILURES[f"singular {shape}, {name}"] = Failure(
            ix.root, singular(matrix), start, SOLVERS[name], ("singular",)
        )
for name in ("Picard", "Anderson", "Broyden"):
    FAILURES[f"constant residual, {name}"] = Failure(
        ix.root, lambda y, a: 0 * y - a, ONE, SOLVERS[name], ("stagnated",)
    )


def status_name(solution: ix.Solution) -> str:
    (name,) = [n for n in NAMES if bool(solution.status == getattr(ix.Status, n))]
    return name


@pytest.mark.parametrize("name", FAILURES)
def test_outside_jit_it_raises_and_keeps_the_work(name):
    f = FAILURES[name]
    with pytest.raises(ix.ConvergenceError) as caught:
        f.solve(f.fn, f.y0, 1.0, solver=f.solver, max_steps=f.max_steps)
    solution, text = caught.value.solution, str(caught.value)
    status = status_name(solution)
    assert status in f.statuses
    assert status.replace("_", " ") in text
    assert type(f.solver).__name__ in text
    assert "Residual norm" in text
    assert "What to try" in text
    assert np.isfinite(solution.value).all()
    assert int(solution.stats.steps) <= f.max_steps
    assert status.replace("_", " ") in repr(solution)


@pytest.mark.parametrize("name", FAILURES)
def test_inside_jit_value_and_derivatives_are_nan(name):
    """Trap 10: a `where` would leave a derivative of zero behind."""
    f = FAILURES[name]

    @jax.jit
    def run(a):
        def solve(a):
            solution = f.solve(f.fn, f.y0, a, solver=f.solver, max_steps=f.max_steps)
            return solution.value, solution

        value, tangent, solution = jax.jvp(solve, (a,), (1.0,), has_aux=True)
        gradient = jax.grad(lambda a: jnp.sum(solve(a)[0]))(a)
        return value, tangent, gradient, solution

    value, tangent, gradient, solution = run(1.0)
    assert np.isnan(value).all()
    assert np.isnan(tangent).all()
    assert np.isnan(gradient).all()
    assert status_name(solution) in f.statuses


@pytest.mark.parametrize("name", FAILURES)
def test_ignored_it_is_a_best_effort_whose_status_tells(name):
    f = FAILURES[name]
    solution = f.solve(
        f.fn, f.y0, 1.0, solver=f.solver, max_steps=f.max_steps, on_failure="ignore"
    )
    assert status_name(solution) in f.statuses
    assert np.isfinite(solution.value).all()


def test_it_raises_under_grad_outside_jit_too():
    def solve(a):
        return ix.root(lambda y, a: y**2 + a, ONE, a).value

    with pytest.raises(ix.ConvergenceError):
        jax.grad(solve)(1.0)
    with pytest.raises(ix.ConvergenceError):
        jax.jacfwd(solve)(1.0)


@pytest.mark.parametrize("a", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_args_that_are_not_finite(solver, a):
    with pytest.raises(ix.ConvergenceError, match="NaN or infinity"):
        ix.fixed_point(lambda y, a: 0.5 * jnp.cos(y) + a, ONE, a, solver=solver)


def test_trap_2_every_loop_is_bounded():
    """A map that neither contracts nor diverges, with the tolerances switched off."""
    for solver in (ix.Picard(rtol=0, atol=0), ix.Broyden(rtol=0, atol=0)):
        solution = ix.fixed_point(
            logistic, ONE, 1.0, solver=solver, max_steps=1000, on_failure="ignore"
        )
        assert int(solution.stats.steps) <= 1000
        # Broyden may hit the fixed point to its rounding: then it has converged.
        if status_name(solution) == "converged":
            assert float(solution.stats.residual_norm) <= np.finfo(float).eps
        else:
            assert status_name(solution) in ("stagnated", "max_steps_reached")


@pytest.mark.parametrize("history", [1, 5, 10])
def test_trap_3_anderson_survives_repeating_residuals(history):
    """Two copies of one unknown: all differences are parallel, and the small system has
    rank one. Where the residual repeats exactly, the differences are zero."""
    solver = ix.Anderson(history=history)
    fn = lambda y, a: jnp.cos(a * y[::-1])
    value = ix.fixed_point(fn, jnp.asarray([0.5, 0.5]), 1.0, solver=solver).value
    np.testing.assert_allclose(value, 0.7390851332151607, rtol=1e-10)
    reflected = ix.fixed_point(lambda y, a: a - y, ONE, 3.0, solver=solver)
    np.testing.assert_allclose(reflected.value, 1.5, rtol=1e-14)
    with pytest.raises(ix.ConvergenceError) as caught:
        ix.fixed_point(lambda y, a: y + a, ONE, 1.0, solver=solver)
    assert np.isfinite(caught.value.solution.value)


def test_trap_3_the_point_returned_is_the_point_evaluated():
    for name, solver in SOLVERS.items():
        fn = lambda y, a: jnp.cos(a * y)
        s = ix.fixed_point(
            fn, ONE, 1.0, solver=solver, max_steps=2, on_failure="ignore"
        )
        residual = abs(float(s.value - jnp.cos(s.value)))
        assert residual == pytest.approx(float(s.stats.residual_norm), abs=1e-16), name


def test_trap_4_a_short_step_is_not_convergence():
    """Damped to a millionth, each step is tiny, and the residual is not."""
    with pytest.raises(ix.ConvergenceError, match="max steps"):
        ix.fixed_point(
            lambda y, a: jnp.cos(a * y),
            ONE,
            1.0,
            solver=ix.Picard(damping=1e-12),
            max_steps=40,
        )


class Lane(NamedTuple):
    """`f(y) = wave * cos(y) / 2 + slope * y + bend * y^2 + shift`, one lane of a batch.

    With `slope = bend = 0` a contraction; with `bend = 10` no fixed point exists; with
    `slope = 1` alone, `dF/dy = 0` and nothing solves `shift = 0`.
    """

    wave: Any = 1.0
    slope: Any = 0.0
    bend: Any = 0.0
    shift: Any = 0.3

    def __call__(self, y):
        curve = self.wave * jnp.cos(y) / 2 + self.bend * y**2
        return curve + self.slope * y + self.shift


BAD_LANES = {
    "NaN": Lane(shift=float("nan")),
    "divergence": Lane(bend=10.0, shift=1.0),
    "singularity": Lane(wave=0.0, slope=1.0),
}
BAD, LANES = 3, 8


def batch_with(bad: Lane) -> Lane:
    lanes = [Lane(shift=0.1 * k) for k in range(LANES)]
    lanes[BAD] = bad
    return jax.tree.map(lambda *leaves: jnp.asarray(leaves), *lanes)


@pytest.mark.parametrize("kind", ["fixed_point", "root"])
@pytest.mark.parametrize("name", SOLVERS)
def test_trap_7_a_bad_lane_of_eight_leaves_seven_right(name, kind):
    def solve(lane, y0):
        if kind == "fixed_point":
            fn = lambda y, lane: lane(y)
            return ix.fixed_point(fn, y0, lane, solver=SOLVERS[name])
        fn = lambda y, lane: y - lane(y)
        return ix.root(fn, y0, lane, solver=SOLVERS[name])

    def value(lane, y0):
        solution = solve(lane, y0)
        return jnp.sum(solution.value), solution

    y0 = jnp.full((LANES, 2), 0.5)
    one = jax.value_and_grad(value, has_aux=True)
    run = jax.jit(jax.vmap(one))

    good = np.arange(LANES) != BAD
    shift = 0.1 * np.arange(LANES)[good]
    y = np.full_like(shift, 0.5)
    for _ in range(200):
        y = np.cos(y) / 2 + shift
    by_shift = 1 / (1 + np.sin(y) / 2)
    gradient = Lane(np.cos(y) / 2, y, y**2, np.ones_like(y))

    for case, bad in BAD_LANES.items():
        (total, solution), found = run(batch_with(bad), y0)
        if case == "singularity" and kind == "root" and name in ("Anderson", "Broyden"):
            # Without a Jacobian they run off to 1e15, where `y - (y + 0.3)` *is* zero
            # in float64. The derivative knows.
            for got in found:
                assert np.isnan(got[BAD])
            continue
        assert (np.asarray(solution.status == ix.Status.converged) == good).all()
        np.testing.assert_allclose(total[good], 2 * y, rtol=1e-9)
        for got, factor in zip(found, gradient, strict=True):
            np.testing.assert_allclose(got[good], 2 * factor * by_shift, rtol=1e-8)
            assert np.isnan(got[BAD])
        assert np.isnan(total[BAD])
        assert np.isnan(solution.value[BAD]).all()
        assert "7 converged" in repr(solution)


def test_a_bad_lane_does_not_raise_outside_jit():
    fn = lambda y, a: y**2 - a
    value = jax.vmap(lambda a: ix.root(fn, ONE, a).value)(jnp.asarray([4.0, -1.0, 9.0]))
    np.testing.assert_allclose(value, [2, np.nan, 3])


def test_ignored_bad_lanes_keep_their_best_effort():
    fn = lambda y, a: y**2 - a
    s = jax.vmap(lambda a: ix.root(fn, ONE, a, on_failure="ignore"))(
        jnp.asarray([4.0, -1.0, 9.0])
    )
    assert np.isfinite(s.value).all()
    assert (s.status == ix.Status.converged).tolist() == [True, False, True]
