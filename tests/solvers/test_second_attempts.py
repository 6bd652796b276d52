"""What `retry=True` does: a second way from the same start, in the same program."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmarks import problems
from hypothesis import given, settings
from hypothesis import strategies as st

import implicax as ix
from implicax._problems.equations import Iterate
from implicax._solvers.damped_step import Damping

#: From ten times its start Newton's method does not find a root of this.
HARD = next(p for p in problems.roots() if p.name == "nl08-brown-almost-linear")
START = 10 * HARD.y0
#: ... and from here it does.
NEAR = np.full_like(START, 0.9)
N = 5


def solve(y0, rows, columns, solver):
    """... with its equations and unknowns in other units."""
    fn = lambda y, args: rows * HARD.fn(columns * y, args)
    return ix.root(fn, y0 / columns, HARD.args, solver=solver, on_failure="ignore")


@functools.cache
def program(retry):
    solver = ix.Newton(retry=retry)
    return jax.jit(lambda *args: solve(*args, solver))


def test_it_finds_what_newton_alone_does_not():
    one = np.ones_like(START)
    alone, both = (program(retry)(START, one, one) for retry in (False, True))
    assert not alone.converged
    assert both.converged
    assert np.max(np.abs(HARD.fn(both.value, HARD.args))) <= 1e-13
    # Steps and evaluations of both ways count.
    assert both.stats.steps > alone.stats.steps
    assert both.stats.evaluations > alone.stats.evaluations


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_units_do_not_matter(seed):
    """Those of equations, by powers of two, not in a single bit."""
    rng, one = np.random.default_rng(seed), np.ones_like(START)
    rows, columns = 2.0 ** rng.integers(-30, 30, (2, START.size))
    plain, other = (program(True)(START, u, one) for u in (one, rows))
    np.testing.assert_array_equal(other.value, plain.value)
    assert other.stats.steps == plain.stats.steps
    assert program(True)(START, rows, columns).converged


def test_lanes_that_need_none_have_none():
    one = np.ones_like(START)
    starts = np.stack([NEAR, START])
    many = jax.jit(jax.vmap(lambda y: solve(y, one, one, ix.Newton(retry=True))))
    found, first = many(starts), program(False)(NEAR, one, one)
    assert np.all(found.converged)
    assert found.stats.steps[0] == first.stats.steps
    np.testing.assert_allclose(found.value[0], first.value, rtol=1e-12)


def test_the_derivative_is_right_after_either():
    one = np.ones_like(START)

    def total(args, y0):
        found = ix.root(HARD.fn, y0, args, solver=ix.Newton(retry=True))
        return jnp.sum(found.value**2)

    for y0 in (NEAR, START):
        value = program(True)(y0, one, one).value
        J = np.asarray(jax.jacfwd(HARD.fn)(value, HARD.args))
        by_args = jax.jacfwd(HARD.fn, argnums=1)(value, HARD.args)
        u = np.linalg.solve(J.T, 2 * np.asarray(value))
        exact = jax.tree.map(lambda d, u=u: -np.tensordot(u, d, 1), by_args)
        got = jax.jit(jax.grad(total))(HARD.args, y0)
        jax.tree.map(
            lambda g, e: np.testing.assert_allclose(g, e, rtol=1e-9), got, exact
        )


def test_a_fit_goes_on_by_the_exact_hessian():
    """From the top of `(y^2 - a)^2` the Gauss-Newton model sees no way down."""
    fn = lambda y, a: jnp.stack([y[0] ** 2 - a, y[1] - a])
    starts = np.array([[0.0, 0.0], [0.5, 0.0], [0.0, 3.0]])
    top = starts[:, 0] == 0

    def fits(solver):
        fit = lambda y: ix.least_squares(fn, y, 2.0, solver=solver, on_failure="ignore")
        return jax.jit(jax.vmap(fit))(starts)

    alone, both = fits(ix.LevenbergMarquardt()), fits(ix.LevenbergMarquardt(retry=True))
    np.testing.assert_array_equal(alone.status == ix.Status.saddle, top)
    assert np.all(both.converged)
    found = np.abs(both.value) - [np.sqrt(2), 2.0]
    np.testing.assert_allclose(found, 0, atol=1e-10)
    assert np.all((both.stats.steps > alone.stats.steps) == top)
    np.testing.assert_array_equal(both.value[~top], alone.value[~top])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), damping=st.sampled_from([1e-6, 1e-2, 1.0, 1e3]))
def test_a_damped_step_is_least_squares(seed, damping):
    rng = np.random.default_rng(seed)
    J, F = rng.normal(size=(N, N)), rng.normal(size=N)
    if seed % 3 == 0:
        J[:, -1] = J[:, 0]  # singular
    units = rng.uniform(0.1, 10, N)
    correction, share, state = damped(J, F, units, damping)
    p = -correction
    scale = np.linalg.norm(J / units[:, None], axis=0)
    np.testing.assert_allclose(state.scale, scale, rtol=1e-12)
    assert state.numbers.damping == damping
    upper = np.concatenate([J / units[:, None], np.sqrt(damping) * np.diag(scale)])
    right = np.concatenate([-F / units, np.zeros(N)])
    wanted = np.linalg.lstsq(upper, right, rcond=None)[0]
    np.testing.assert_allclose(p, wanted, rtol=1e-7, atol=1e-9 * np.max(np.abs(wanted)))
    falls = -(F / units) @ (J / units[:, None] @ p) / np.sum((F / units) ** 2)
    np.testing.assert_allclose(share, falls, rtol=1e-8)


@jax.jit
def damped(J, F, units, damping):
    state = Damping.none(Iterate(F, F, jnp.max(jnp.abs(F)))).begun()
    state = state._with(state.scale, active=True, damping=damping)
    return state.step(J, F, F, units)


def test_what_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match="retry=True searches along its steps"):
        ix.Newton(retry=True, line_search=False)
