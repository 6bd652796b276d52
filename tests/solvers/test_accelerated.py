"""Pseudo-transients, and Anderson acceleration of other solvers' steps."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicax as ix

from ..cases import DIRECTIONS, make, restore
from ..oracles import ClosedForm, relative_error

SOLVERS = {
    "PseudoTransient": ix.PseudoTransient(),
    "Accelerated": ix.Accelerated(ix.Picard(damping=0.5)),
}


class Descent(ix.AbstractSolver):
    """Gradient descent on `|F|^2 / 2`, as a user would write it."""

    rate: float
    rtol: None = None
    atol: None = None
    record_history: bool = eqx.field(static=True, default=False)

    def init(self, system, y):
        return ix.State.start(system, y)

    def step(self, system, state):
        _, pull = jax.vjp(system.residual, state.iterate.y)
        (slope,) = pull(state.iterate.residual)
        moved = jax.tree.map(lambda y, g: y - self.rate * g, state.iterate.y, slope)
        return state.move(system, moved)


@pytest.mark.parametrize(
    ("kind", "variant"),
    [("fixed_point", "float64"), ("root", "float32"), ("root", "complex128")],
)
@pytest.mark.parametrize("name", SOLVERS)
def test_value_and_derivatives(name, variant, kind):
    """A row of the derivative matrix: forward, reverse, and both of both."""
    case = make(kind, variant)
    closed = ClosedForm(case)
    origin = np.zeros(DIRECTIONS)

    def loss(t):
        y = case.solve(SOLVERS[name], case.along(t))
        return case.loss(y), y

    def first(t):
        """By one solve: compiling that is nearly all the time."""
        of, push, value = jax.linearize(loss, t, has_aux=True)
        (reverse,) = jax.linear_transpose(push, t)(jnp.ones_like(of))
        return value, reverse, jax.vmap(push)(jnp.eye(DIRECTIONS, dtype=t.dtype))

    t = jnp.zeros(DIRECTIONS, case.weights.dtype)
    value, reverse, forward = jax.jit(first)(t)
    allowed = 1e-4 if variant == "float32" else 1e-8
    z = closed.solve(closed.arguments(origin))
    assert relative_error(value, restore(z)) <= allowed
    assert relative_error(reverse, closed.gradient(origin)) <= allowed
    assert relative_error(forward, closed.gradient(origin)) <= allowed
    if variant == "float64":
        hessian = jax.jit(jax.hessian(lambda t: loss(t)[0]))(t)
        assert relative_error(hessian, closed.hessian(origin)) <= allowed
    assert {leaf.dtype for leaf in jax.tree.leaves(value)} == {case.dtype}


def test_acceleration_needs_fewer_steps():
    fn = lambda y, a: a * jnp.cos(y)
    inner = ix.Picard(damping=0.1)
    plain = ix.fixed_point(fn, 0.5, 0.9, solver=inner)
    fast = ix.fixed_point(fn, 0.5, 0.9, solver=ix.Accelerated(inner))
    assert int(plain.stats.steps) >= 100
    assert int(fast.stats.steps) <= 10
    assert relative_error(fast.value, plain.value) <= 1e-9
    assert int(fast.stats.evaluations) == 2 * int(fast.stats.steps) + 1


def test_acceleration_of_gradient_descent_on_a_linear_system_ends_like_gmres():
    A = jnp.asarray([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.5, 0.0, 1.0]])
    fn = lambda y, b: A @ y - b
    b = jnp.asarray([1.0, -2.0, 0.5])
    inner = Descent(0.08)
    plain = ix.root(fn, jnp.zeros(3), b, solver=inner, max_steps=2000)
    fast = ix.root(fn, jnp.zeros(3), b, solver=ix.Accelerated(inner))
    assert int(plain.stats.steps) >= 100
    assert int(fast.stats.steps) <= 6
    assert relative_error(fast.value, np.linalg.solve(A, b)) <= 1e-9


def test_accelerated_picard_is_anderson():
    """The very same iterates."""
    case = make("fixed_point", "float64")
    anderson, ours = (
        ix.fixed_point(case.fn, case.start(), case.args, solver=solver).stats
        for solver in (
            ix.Anderson(record_history=True),
            ix.Accelerated(ix.Picard(), record_history=True),
        )
    )
    first = slice(0, int(anderson.steps))
    assert (
        relative_error(ours.residual_history[first], anderson.residual_history[first])
        <= 1e-6
    )


def test_converged_means_the_residual_of_the_problem():
    """The inner step is tiny, and the tolerance is not met for that."""
    fn = lambda y, a: y**3 - a
    solver = ix.Accelerated(Descent(1e-12))
    solution = ix.root(fn, 3.0, 8.0, solver=solver, max_steps=1, on_failure="ignore")
    assert bool(solution.status == ix.Status.max_steps_reached)


def test_pseudo_transient_from_where_newton_flies_apart():
    fn = lambda y, _: jnp.arctan(y)
    newton = ix.Newton(line_search=False)
    apart = ix.root(fn, 10.0, solver=newton, on_failure="ignore")
    assert bool(apart.status != ix.Status.converged)
    settled = ix.root(fn, 10.0, solver=ix.PseudoTransient(first_step=1.0))
    assert abs(float(settled.value)) <= 1e-12


def test_pseudo_transient_settles_where_the_system_does():
    """`y' = y - y^3` runs from 0.1 to 1, away from the root at 0 next to it."""
    fn = lambda y, _: y**3 - y
    nearest = ix.root(fn, 0.1, solver=ix.Newton())
    settled = ix.root(fn, 0.1, solver=ix.PseudoTransient(first_step=0.5))
    assert abs(float(nearest.value)) <= 1e-9
    assert float(settled.value) == pytest.approx(1.0, abs=1e-12)


def test_pseudo_transient_steps_follow_the_residual():
    """One step of `(1 / delta + J) d = -F` by hand, and `delta |F_old| / |F_new|`."""
    system = ix.System(lambda y: y**3 - 2.0)
    solver = ix.PseudoTransient(first_step=0.25)
    state = solver.init(system, jnp.asarray(1.0))
    state = solver.step(system, state)
    y = 1 + 1 / (1 / 0.25 + 3)
    assert float(state.iterate.y) == pytest.approx(y, abs=1e-15)
    expected = 0.25 * 1 / abs(y**3 - 2)
    assert float(state.memory.delta) == pytest.approx(expected, rel=1e-14)


def test_pseudo_transient_shortens_steps_into_nan():
    fn = lambda y, _: jnp.sqrt(y) - 0.1  # from 4, the first full step leads below zero
    solution = ix.root(fn, 4.0, solver=ix.PseudoTransient(first_step=1e6))
    assert relative_error(solution.value, np.float64(0.01)) <= 1e-10


def test_units_do_not_matter():
    steps = {
        int(
            ix.root(
                lambda y, a, unit=unit: unit * (jnp.exp(y) + y - a),
                3.0,
                1.5,
                solver=ix.PseudoTransient(),
            ).stats.steps
        )
        for unit in (1.0, 1e9, 1e-9)
    }
    assert len(steps) == 1


def test_bad_input():
    with pytest.raises(TypeError, match="AbstractSolver"):
        ix.Accelerated(ix.SciPy("hybr"))
    with pytest.raises(ValueError, match="history"):
        ix.Accelerated(ix.Picard(), history=0)
    with pytest.raises(ValueError, match="first_step must be positive"):
        ix.PseudoTransient(first_step=-1.0)


def test_matrix_free():
    """A linear solver of one's own instead of the matrix."""
    import lineax as lx

    solver = ix.PseudoTransient(linear_solver=lx.GMRES(rtol=1e-8, atol=1e-8))
    fn = lambda y, a: y + y**3 - a
    a = jnp.asarray([1.0, 10.0])
    solution = ix.root(fn, jnp.zeros(2), a, solver=solver)
    dense = ix.root(
        fn, jnp.zeros(2), a, solver=dataclasses.replace(ix.PseudoTransient())
    )
    assert relative_error(solution.value, dense.value) <= 1e-11
