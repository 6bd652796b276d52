"""Each solver: where it goes, in how many steps, and what its options do."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import implicax as ix

from ..cases import DIRECTIONS, KINDS, SIZE, SOLVERS, make, restore
from ..oracles import ClosedForm, relative_error

#: Steps that each may take on the contractions of `problems.py` (rate about 1/2, so
#: plain iteration needs about log2(1 / 4e-11) = 35).
STEPS = {
    "Picard": range(15, 51),
    "Anderson": range(6, 16),
    "Broyden": range(6, 16),
    "Newton": range(3, 7),
    "Chord": range(4, 31),
}
#: A linear map that does not contract: its eigenvalues are -1.5, 0.5 and 2.
EXPANDING = jnp.asarray([[-1.5, 1.0, 0.3], [0.0, 0.5, -0.7], [0.0, 0.0, 2.0]])
X = jnp.asarray([1.0, -2.0, 0.5])


def linear(solver, **options):
    fn = lambda y, x: EXPANDING @ y + x
    return ix.fixed_point(fn, jnp.zeros(3), X, solver=solver, **options)


def largest(y):
    """The maximum norm, in which tolerances are stated."""
    return max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(y))


def norm_of_residual(case, y):
    out = case.fn(y, case.args)
    if case.kind == "fixed_point":
        out = jax.tree.map(jnp.subtract, y, out)
    return largest(out)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SOLVERS)
def test_converges(name, kind):
    case = make(kind, "float64")
    closed = ClosedForm(case)
    z = closed.solve(closed.arguments(np.zeros(DIRECTIONS)))
    call = getattr(ix, kind)
    solution = call(case.fn, case.start(), case.args, solver=SOLVERS[name])
    assert bool(solution.status == ix.Status.converged)
    assert relative_error(solution.value, restore(z)) <= 5e-10
    assert int(solution.stats.steps) in STEPS[name]
    if name in ("Picard", "Anderson", "Broyden", "Chord"):
        assert solution.stats.evaluations == solution.stats.steps + 1
    else:
        assert solution.stats.evaluations >= solution.stats.steps + 1
    true_norm = norm_of_residual(case, solution.value)
    assert abs(float(solution.stats.residual_norm) - true_norm) <= 1e-15
    assert solution.stats.residual_history is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SOLVERS)
def test_step_by_step(name, kind):
    """By hand, as `ix.System` documents it: the same steps as the loop takes."""
    W = 0.3 * jnp.asarray([[1.0, -1.0], [0.5, 0.8]])
    start = jnp.asarray([0.3, -0.2])
    fixed_point = kind == "fixed_point"
    fn = lambda y, _: (
        jnp.tanh(W @ y + 0.5) if fixed_point else y + y**3 / 4 - W @ y - 0.5
    )
    residual = lambda y: y - fn(y, None) if fixed_point else fn(y, None)

    system = ix.System(residual, fixed_point=fixed_point)
    solver = SOLVERS[name]
    state, steps = solver.init(system, start), 0
    step = jax.jit(functools.partial(solver.step, system))
    while not solver.converged(state):
        state, steps = step(state), steps + 1
        assert steps < 60

    solution = getattr(ix, kind)(fn, start, solver=solver)
    # (The loop goes on where an exact correction does not confirm the estimate.)
    more = int(solution.stats.steps) - steps
    assert 0 <= more <= (0 if solver.exact else 2)
    assert relative_error(state.iterate.y, solution.value) <= 1e-9
    if more == 0:
        assert int(state.evaluations) == int(solution.stats.evaluations)


@pytest.mark.parametrize("name", SOLVERS)
def test_history_of_residuals(name):
    solver = type(SOLVERS[name])(record_history=True)
    case = make("fixed_point", "float64")
    solution = ix.fixed_point(
        case.fn, case.start(), case.args, solver=solver, max_steps=64
    )
    steps, history = int(solution.stats.steps), solution.stats.residual_history
    assert history.shape == (65,)
    assert abs(float(history[0]) - norm_of_residual(case, case.start())) <= 1e-15
    assert history[steps] == solution.stats.residual_norm
    assert jnp.all(jnp.isfinite(history[: steps + 1]))
    assert jnp.all(jnp.isnan(history[steps + 1 :]))


def test_picard_halves_the_error_of_a_halving_map():
    """`y <- y / 2 + 1` from 0: the residual after k steps is `2^-k`."""
    solver = ix.Picard(rtol=0, atol=1e-6, record_history=True)
    solution = ix.fixed_point(lambda y, _: y / 2 + 1, 0.0, solver=solver, max_steps=30)
    assert int(solution.stats.steps) == 20
    powers = 2.0 ** -np.arange(21)
    assert np.array_equal(solution.stats.residual_history[:21], powers)


def test_damping_tames_oscillation():
    """`y <- 1 - 1.5 y` flies apart; damped by a half, its error falls by -1/4."""
    fn = lambda y, _: 1 - 1.5 * y
    undamped = ix.fixed_point(fn, 0.0, solver=ix.Picard(), on_failure="ignore")
    assert bool(undamped.status != ix.Status.converged)
    solver = ix.Picard(damping=0.5, record_history=True)
    damped = ix.fixed_point(fn, 0.0, solver=solver, max_steps=40)
    history = damped.stats.residual_history[:10]
    assert relative_error(damped.value, 0.4) <= 1e-10
    assert np.max(np.abs(history[1:] / history[:-1] - 0.25)) <= 1e-12


def test_picard_on_a_root_is_richardson_iteration():
    """`F = 1.5 y - 1`: `y <- y - F` has rate -1/2, and damped by 2/3 it lands."""
    fn = lambda y, _: 1.5 * y - 1
    plain = ix.root(fn, 0.0, solver=ix.Picard(rtol=0, atol=1e-6))
    assert int(plain.stats.steps) == 20
    exact = ix.root(fn, 0.0, solver=ix.Picard(damping=2 / 3))
    assert int(exact.stats.steps) == 1


def test_anderson_on_a_linear_map_terminates_like_gmres():
    """At most `n + 1` steps on `n = 3` unknowns, contraction or not."""
    solution = linear(ix.Anderson(rtol=1e-8, atol=1e-8))
    assert int(solution.stats.steps) <= 4
    expected = np.linalg.solve(np.eye(3) - EXPANDING, X)
    assert relative_error(solution.value, expected) <= 1e-7


def test_anderson_mixing():
    """With one difference and an affine map of one unknown, a secant step lands:
    the plain step first (of length `mixing`), then the exact one."""
    fn = lambda y, _: 0.5 * y + 1
    solver = ix.Anderson(history=1, mixing=0.25, record_history=True, ridge=0.0)
    solution = ix.fixed_point(fn, 0.0, solver=solver, max_steps=8)
    history = solution.stats.residual_history
    assert int(solution.stats.steps) == 2
    # F = y / 2 - 1 and y_1 = mixing.
    assert abs(float(history[1]) - 0.875) <= 1e-15
    assert relative_error(solution.value, 2.0) <= 1e-14


def test_anderson_ridge_shortens_the_weights():
    """So strong a ridge that only the plain steps are left."""
    fn = lambda y, _: 0.5 * y + 1
    solver = ix.Anderson(ridge=1e12, record_history=True)
    solution = ix.fixed_point(fn, 0.0, solver=solver, max_steps=60)
    history = solution.stats.residual_history[:20]
    assert np.max(np.abs(history[1:] / history[:-1] - 0.5)) <= 1e-9


def test_broyden_on_a_linear_map_terminates():
    """In `2 n` steps (Gay 1979), contraction or not."""
    solution = linear(ix.Broyden(rtol=1e-8, atol=1e-8))
    assert int(solution.stats.steps) <= 2 * 3
    expected = np.linalg.solve(np.eye(3) - EXPANDING, X)
    assert relative_error(solution.value, expected) <= 1e-7


@pytest.mark.parametrize("solver", [ix.Broyden(history=2), ix.Anderson(history=2)])
def test_short_memory_still_converges(solver):
    case = make("fixed_point", "float64")
    solution = ix.fixed_point(case.fn, case.start(), case.args, solver=solver)
    assert int(solution.stats.steps) in range(8, 36)


@pytest.mark.parametrize("solver", [ix.Newton(), ix.Chord()])
def test_a_linear_problem_takes_one_newton_step(solver):
    solution = linear(solver)
    assert int(solution.stats.steps) == 1
    expected = np.linalg.solve(np.eye(3) - EXPANDING, X)
    assert relative_error(solution.value, expected) <= 1e-14


def test_newton_converges_quadratically():
    """`y^2 = 2`: `F_new = F^2 / (4 y^2)`, exactly."""
    solver = ix.Newton(record_history=True)
    solution = ix.root(lambda y, _: y**2 - 2, 1.5, solver=solver, max_steps=10)
    steps, y = int(solution.stats.steps), 1.5
    assert steps == 4
    for k in range(steps):
        before, after = solution.stats.residual_history[k : k + 2]
        assert abs(float(after) - float(before) ** 2 / (4 * y**2)) <= 1e-15
        y = (y + 2 / y) / 2


def test_chord_keeps_its_first_slope():
    """`y <- y - (y^2 - 2) / 3` from 1.5."""
    solver = ix.Chord(record_history=True)
    solution = ix.root(lambda y, _: y**2 - 2, 1.5, solver=solver, max_steps=40)
    y = 1.5
    for k in range(6):
        residual = float(solution.stats.residual_history[k])
        assert abs(residual - abs(y**2 - 2)) <= 1e-15
        y = y - (y**2 - 2) / 3


def test_line_search_saves_newton_from_overshooting():
    """`arctan(y) = 0` from 3: full steps go to -9.5, 124, ...; searched ones arrive."""
    fn = lambda y, _: jnp.arctan(y)
    searched = ix.root(fn, 3.0, solver=ix.Newton())
    assert abs(float(searched.value)) <= 1e-9
    assert searched.stats.evaluations > searched.stats.steps + 1
    full = ix.Newton(line_search=False)
    overshot = ix.root(fn, 3.0, solver=full, on_failure="ignore")
    assert bool(overshot.status != ix.Status.converged)
    near = ix.root(fn, 0.5, solver=full)
    assert abs(float(near.value)) <= 1e-9
    assert near.stats.evaluations == near.stats.steps + 1


@pytest.mark.parametrize("name", SOLVERS)
def test_tolerances_are_met_and_not_exceeded_by_far(name):
    """`|F| <= atol`, sooner for a looser one."""
    case, counts = make("fixed_point", "float64"), []
    for atol in (1e-2, 1e-5, 1e-9):
        solver = type(SOLVERS[name])(rtol=0.0, atol=atol)
        solution = ix.fixed_point(case.fn, case.start(), case.args, solver=solver)
        assert norm_of_residual(case, solution.value) <= atol
        counts.append(int(solution.stats.steps))
    assert counts == sorted(set(counts))


@pytest.mark.parametrize("factor", [1.0, 1e-9, 1e9])
def test_relative_tolerance_does_not_see_units(factor):
    """A residual in other units takes the same steps; `scale` is `|J y|`."""
    fn = lambda y, k: k * (y**3 - 2)
    solver = ix.Newton(rtol=1e-6, atol=0.0)
    solution = ix.root(fn, 1.0, factor, solver=solver)
    assert int(solution.stats.steps) == 4
    assert float(solution.stats.residual_norm) <= 1e-6 * factor * 3 * 2


@pytest.mark.parametrize("name", SOLVERS)
def test_float32_stops_at_its_own_tolerance(name):
    case = make("fixed_point", "float32")
    solution = ix.fixed_point(case.fn, case.start(), case.args, solver=SOLVERS[name])
    tolerance = float(jnp.finfo(jnp.float32).eps) ** (2 / 3)
    first = norm_of_residual(case, case.start())
    limit = tolerance * (first + largest(solution.value))
    assert float(solution.stats.residual_norm) <= limit
    assert {leaf.dtype for leaf in jax.tree.leaves(solution.value)} == {
        jnp.dtype(jnp.float32)
    }
    assert int(solution.stats.steps) <= STEPS[name][-1] // 2 + 2


def test_a_solution_at_the_start_takes_no_step():
    solution = ix.root(lambda y, _: y**2 - 4, 2.0)
    assert int(solution.stats.steps) == 0
    assert float(solution.value) == 2.0


def ring(y, a):
    """Each unknown is coupled with the one before it."""
    return y + 0.3 * jnp.tanh(y) + 0.3 * jnp.roll(y, 1) - a


def adjoint_residual(g, y, weights):
    """`J^T g - weights`: zero for the gradient of `weights @ y`, as `dF/da = -I`."""
    return g * (1.3 - 0.3 * np.tanh(y) ** 2) + 0.3 * np.roll(g, -1) - weights


@pytest.mark.parametrize(
    ("size", "solver", "derivative"),
    [
        (50, ix.Newton(lx.GMRES(rtol=1e-8, atol=1e-8)), ix.Implicit()),
        (50, ix.Newton(lx.BiCGStab(rtol=1e-8, atol=1e-8)), ix.Implicit()),
        (50, ix.Newton(lx.LU()), ix.Implicit()),
        (5000, ix.Newton(), ix.Implicit()),
        (5000, ix.Anderson(), ix.Implicit()),
        (
            5000,
            ix.Newton(lx.GMRES(rtol=1e-6, atol=1e-6)),
            ix.Implicit(lx.GMRES(rtol=1e-12, atol=1e-12)),
        ),
    ],
    ids=["GMRES", "BiCGStab", "LU", "large", "large-Anderson", "large-GMRES"],
)
def test_matrix_free(size, solver, derivative):
    """Krylov solvers, and more unknowns than a dense Jacobian is formed for."""
    rng = np.random.default_rng(3)
    a, weights = jnp.asarray(rng.normal(size=(2, size)))

    def loss(a):
        solution = ix.root(
            ring, jnp.zeros(size), a, solver=solver, derivative=derivative
        )
        return jnp.sum(weights * solution.value), solution

    gradient, solution = jax.jit(jax.grad(loss, has_aux=True))(a)
    y = np.asarray(solution.value)
    assert np.linalg.norm(ring(y, a)) <= 1e-8 * np.linalg.norm(a)
    left = adjoint_residual(np.asarray(gradient), y, np.asarray(weights))
    assert np.linalg.norm(left) <= 1e-9 * np.linalg.norm(weights)


def test_large_fixed_point():
    """The adjoint by the linearised map's own iteration."""
    size = 5000
    x = jnp.asarray(np.random.default_rng(3).normal(size=size))

    def loss(x):
        fn = lambda y, x: 0.4 * jnp.tanh(jnp.roll(y, 1)) + x
        y = ix.fixed_point(fn, jnp.zeros(size), x).value
        return jnp.sum(y**2) / 2, y

    g, y = map(np.asarray, jax.jit(jax.grad(loss, has_aux=True))(x))
    # (I - A)^T g = y
    left = g - 0.4 * (1 - np.tanh(y) ** 2) * np.roll(g, -1) - y
    assert np.linalg.norm(left) <= 1e-9 * np.linalg.norm(y)


def test_chord_says_that_it_is_too_large_for_it():
    with pytest.raises(ValueError, match="the limit is 4096"):
        ix.root(ring, jnp.zeros(5000), jnp.ones(5000), solver=ix.Chord())


def test_defaults():
    """`fixed_point` means Anderson and `root` means Newton."""
    case = make("fixed_point", "float64")
    default = ix.fixed_point(case.fn, case.start(), case.args)
    anderson = ix.fixed_point(case.fn, case.start(), case.args, solver=ix.Anderson())
    assert default.stats.steps == anderson.stats.steps
    case = make("root", "float64")
    default = ix.root(case.fn, case.start(), case.args)
    newton = ix.root(case.fn, case.start(), case.args, solver=ix.Newton())
    assert default.stats.steps == newton.stats.steps
    assert sum(leaf.size for leaf in jax.tree.leaves(default.value)) == SIZE


class Approximate(eqx.Module):
    """A stranger's knowledge of the inverse of `diag(2 y)`, rounded to two digits."""

    slope: jax.Array

    def solve(self, b, transposed):
        USED.append(transposed)
        return jax.tree.map(lambda x: x / (1.01 * self.slope), b)


class Knowing(ix.Newton):
    def approximate_inverse(self, state):
        return Approximate(2 * state.iterate.y[0])


USED = []


@pytest.mark.parametrize("size", [3, 60])
def test_what_a_users_solver_knows_of_the_inverse_is_used(size):
    """And refined: what is wrong by a percent gives a derivative that is right."""
    a = jnp.linspace(1.0, 2.0, size)
    start = jnp.ones(size)
    USED.clear()
    solve = lambda a: ix.root(lambda y, a: y**2 - a, start, a, solver=Knowing()).value
    slope = jax.jit(jax.grad(lambda a: jnp.sum(solve(a))))(a)
    assert True in USED
    assert jnp.allclose(slope, 0.5 / jnp.sqrt(a), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    "solver",
    [ix.Anderson(), ix.Broyden(), ix.Accelerated(ix.Picard())],
    ids=lambda solver: type(solver).__name__,
)
def test_extrapolation_out_of_the_domain_is_not_followed(solver):
    """Plain steps come down to `a` from above. A secant leads below it, where `f` is
    not defined."""

    def f(y, a):
        left = y - a
        return jnp.where(left < -1e-3, jnp.nan, y - 0.3 * (1 - jnp.exp(-left)))

    def solve(a, above):
        return ix.fixed_point(f, a + above, a, solver=solver, max_steps=200)

    a, above = jnp.array([0.5, 1.0, 2.0]), jnp.array([3.0, 2.0, 1.0])
    together = jax.jit(solve)(a, above)
    assert together.converged
    np.testing.assert_allclose(together.value, a, rtol=1e-10)
    lanes = jax.jit(jax.vmap(lambda a, above: solve(a, above).value))(a, above)
    np.testing.assert_allclose(lanes, a, rtol=1e-10)
