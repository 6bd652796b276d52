"""Converged means solved: each unknown, in any units, from any start."""

import functools

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import implicax as ix
from implicax._core import tree_math
from implicax._solvers.termination import Tolerance, confirm

EPS = float(np.finfo(np.float64).eps)


def diode(v, a):
    return (v - a) / 1e3 + 1e-14 * (jnp.exp(v / 0.02585) - 1)


def two_units(y, a):
    return jnp.stack([1e12 * (y[0] - 1), y[1] - jnp.cos(a * y[1])])


def carbonate(y, a):
    return jnp.stack([1e4 * (y[0] - 350.0), a - 1e11 * y[1] ** 2])


def exponential(y, a):
    return jnp.exp(y) - a


def tiny_steps(E, M):  # the equation is computed to eps |E|, and falls to eps |E|^3
    return E - (1 - 1e-12) * jnp.sin(E) - M


START = np.array([0.9, 0.2])
DOTTIE = 0.7390851332151607

#: Solver, equation, start, argument, solution: each was once said to be solved at a
#: wrong number, or refused at the right one.
ROOTS = {
    "from 40": (None, exponential, 40.0, 1.0, 0.0),
    "from 40, bracket": (ix.Chandrupatla(), exponential, 40.0, 1.0, 0.0),
    "from 40, transient": (ix.PseudoTransient(), exponential, 40.0, 1.0, 0.0),
    "from 40, fit": (ix.LevenbergMarquardt(), exponential, 40.0, 1.0, 0.0),
    "ninth power": (ix.Newton(), lambda y, a: y**9 - a, 100.0, 1.0, 1.0),
    "diode": (ix.Newton(), diode, 5.0, 5.0, 0.692490375224188),
    "small root": (ix.Newton(), lambda y, a: y**2 - a, 1.0, 1e-20, 1e-10),
    "two units": (ix.Newton(), two_units, START, 1.0, [1.0, DOTTIE]),
    "two units, Broyden": (ix.Broyden(), two_units, START, 1.0, [1.0, DOTTIE]),
    "two units, chord": (ix.Chord(), two_units, START, 1.0, [1.0, DOTTIE]),
    "mixed units": (
        ix.Newton(),
        carbonate,
        np.array([300.0, 1e-6]),
        1e-9,
        [350.0, 1e-10],
    ),
    "a matrix of lineax": (
        ix.Newton(linear_solver=lx.LU()),
        lambda y, a: y**3 + y - a,
        np.full(60, 3.0),
        2.0,
        np.ones(60),
    ),
    "singular start": (
        ix.Newton(),
        lambda y, a: jnp.stack([y[0] ** 2 + y[1] ** 2 - a, y[0] - 2 * y[1]]),
        np.zeros(2),
        1.0,
        None,
    ),
    "singular start of one": (ix.Newton(), lambda y, a: y**2 - a * y, 1.0, 2.0, None),
}


@pytest.mark.parametrize("name", ROOTS)
def test_a_root_is_right_in_each_unknown(name):
    solver, fn, y0, a, right = ROOTS[name]
    solution = jax.jit(lambda a: ix.root(fn, jnp.asarray(y0), a, solver=solver))(a)
    assert solution.converged
    value = np.asarray(solution.value)
    if right is None:  # there are two
        matrix = np.atleast_2d(jax.jacfwd(fn)(solution.value, a))
        missing = np.linalg.solve(matrix, np.atleast_1d(fn(solution.value, a)))
        np.testing.assert_allclose(missing, 0, atol=1e-12)
    else:
        np.testing.assert_allclose(value, right, rtol=1e-10, atol=1e-15)
    assert solution.stats.error <= 1e-10 or np.max(np.abs(value)) < 1e-15


def test_the_rounding_of_the_equation_is_as_far_as_it_goes():
    value = ix.root(tiny_steps, 1e-3, 1e-16).value
    np.testing.assert_allclose(value, 8.19727e-06, rtol=1e-5)


@pytest.mark.parametrize("start", [1e2, 1e3, 1e4])
def test_single_precision_from_afar(start):
    square = lambda y, a: y**2 - a
    value = ix.root(square, jnp.float32(start), jnp.float32(2)).value
    np.testing.assert_allclose(value, np.sqrt(2), rtol=3e-6)


FIXED_POINTS = {
    "cosine": (None, lambda y, a: jnp.cos(a * y), 1e9, 1.2, 0.6827408579),
    "Babylon": (None, lambda y, a: (y + a / y) / 2, 1e9, 1e-8, 1e-4),
    "line": (ix.Picard(), lambda y, a: y / 3 + a, 1e15, 1.0, 1.5),
    "slow line": (ix.Picard(), lambda y, a: 0.97 * y + a, 0.0, 3.0, 100.0),
}


@pytest.mark.parametrize("name", FIXED_POINTS)
def test_a_fixed_point_from_afar(name):
    solver, fn, y0, a, right = FIXED_POINTS[name]
    solution = ix.fixed_point(fn, y0, a, solver=solver, max_steps=2000)
    np.testing.assert_allclose(solution.value, right, rtol=4e-10)


NO_SOLUTION = {
    "parabola above zero, beside a large equation": (
        ix.root,
        lambda y, a: jnp.stack([1e10 * (y[0] - a), y[1] ** 2 + 1e-3]),
        np.array([0.9, 0.2]),
    ),
    "a tail": (ix.root, lambda y, a: a * jnp.exp(-y), 1.0),
    "a creeping map": (ix.fixed_point, lambda y, a: y + a * jnp.exp(-y), 1.0),
    "a double root": (ix.root, lambda y, a: (y - a) ** 2, 3.0),
    "a double root at zero": (ix.root, lambda y, a: y**2 + 0 * a, 1.0),
    "somebody's wrong number": (
        lambda fn, y0, a, **_: ix.custom_root(fn, on_failure="ignore")(
            lambda y0, a: jnp.full_like(y0, 20.0)
        )(y0, a),
        exponential,
        40.0,
    ),
}


@pytest.mark.parametrize("name", NO_SOLUTION)
def test_no_solution_is_none(name):
    solve, fn, y0 = NO_SOLUTION[name]
    solution = jax.jit(lambda a: solve(fn, jnp.asarray(y0), a, on_failure="ignore"))(
        1.0
    )
    assert not solution.converged
    assert solution.stats.error == np.inf


def test_poles_and_jumps_are_no_roots():
    solver = ix.Chandrupatla(0.5, 1.7)
    for fn in (lambda y, a: a / (y - 1), lambda y, a: jnp.sign(y - a) + 0.1 * y):
        solution = ix.root(fn, 0.0, 1.0, solver=solver, on_failure="ignore")
        assert not solution.converged


# ------------------------------------------------------------------- random problems


def polynomial(z, c):
    return z**3 + z + 0.2 * c["A"] @ z**2 - c["b"]


def exponentials(z, c):
    return jnp.exp(z) + z + 0.2 * c["A"] @ jnp.sin(z) - c["b"]


def dense(z, c):
    return c["M"] @ polynomial(z, c)


FUNCTIONS = {"polynomial": polynomial, "exponentials": exponentials, "dense": dense}
LANES, N = 60, 4


def random_problems(fn, seed, farthest, rows=12.0):
    """Lanes of systems with known solutions, in random units, from random starts."""
    rng = np.random.default_rng(seed)
    c = {
        "A": rng.normal(size=(LANES, N, N)),
        "M": rng.normal(size=(LANES, N, N)),
        "b": np.zeros((LANES, N)),
    }
    z = rng.uniform(0.5, 2, (LANES, N)) * rng.choice([-1, 1], (LANES, N))
    base = polynomial if fn is dense else fn
    c["b"] = np.asarray(jax.vmap(base)(z, c))
    units = {
        "R": 10 ** rng.uniform(-rows, rows, (LANES, N)),
        "S": 10 ** rng.uniform(-8, 8, (LANES, N)),
    }
    far = 10 ** rng.uniform(0, farthest, (LANES, 1)) * rng.uniform(0.1, 1, (LANES, N))
    y0 = units["S"] * (z + far * rng.choice([-1, 1], (LANES, N)))
    return y0, {"c": c, **units}


def errors(fn, y, args):
    """The largest relative error of an unknown of each lane, by Newton's method in
    the plain units; and what rounding makes of it."""
    base = jax.jit(jax.vmap(polynomial if fn is dense else fn))
    slope = jax.jit(jax.vmap(jax.jacfwd(polynomial if fn is dense else fn)))
    found = np.asarray(y) / args["S"]
    z = found.copy()
    for _ in range(4):
        matrix = np.asarray(slope(z, args["c"]))
        correction = np.linalg.solve(matrix, np.asarray(base(z, args["c"]))[..., None])
        z = z - correction[..., 0]
    rounding = 100 * EPS * np.linalg.cond(matrix)
    if fn is dense:
        rounding = rounding * np.linalg.cond(args["c"]["M"])
    return np.max(np.abs(found / z - 1), axis=1), rounding


def test_random_systems_in_random_units():
    for seed, (name, fn) in enumerate(FUNCTIONS.items()):
        scaled = lambda y, a, fn=fn: a["R"] * fn(y / a["S"], a["c"])
        solve = functools.partial(ix.root, scaled, on_failure="ignore")
        # (From further out exponentials leave the range of numbers.)
        y0, args = random_problems(fn, seed, 1.5 if name == "exponentials" else 6)
        solution = jax.jit(jax.vmap(solve))(y0, args)
        there = np.asarray(solution.converged)
        error, rounding = errors(fn, np.where(there[:, None], solution.value, y0), args)
        assert np.all(error[there] <= 3e-12 + rounding[there]), name
        assert there.mean() >= 0.9, name


def cosines(z, c):
    return 0.4 * jnp.cos(c["A"] @ z) + c["b"]


@pytest.mark.parametrize("solver", [ix.Anderson(), ix.Picard(), ix.Broyden()])
def test_random_fixed_points_in_random_units(solver):
    rng = np.random.default_rng(3)
    c = {
        "A": 0.5 * rng.normal(size=(LANES, N, N)),
        "b": rng.uniform(0.5, 2, (LANES, N)),
    }
    z = np.ones((LANES, N))
    for _ in range(3000):
        z = 0.4 * np.cos(np.einsum("kij,kj->ki", c["A"], z)) + c["b"]
    S = 10 ** rng.uniform(-8, 8, (LANES, N))
    far = 10 ** rng.uniform(0, 6, (LANES, 1)) * rng.uniform(0.1, 1, (LANES, N))

    def solve(y0, a):
        scaled = lambda y, a: a["S"] * cosines(y / a["S"], a["c"])
        return ix.fixed_point(scaled, y0, a, solver=solver, on_failure="ignore")

    solution = jax.jit(jax.vmap(solve))(S * (z + far), {"S": S, "c": c})
    there = np.asarray(solution.converged)
    error = np.max(np.abs(np.asarray(solution.value) / S / z - 1), axis=1)
    assert np.all(error[there] <= 4e-10)
    assert there.mean() >= 0.9


def test_the_units_of_equations_change_nothing_for_newton():
    """Rows times powers of two: the same bits come out."""
    fn = lambda y, a: a["R"] * polynomial(y, a["c"])
    solve = functools.partial(ix.root, fn, solver=ix.Newton(), on_failure="ignore")
    solve = jax.jit(jax.vmap(solve))
    y0, args = random_problems(polynomial, 5, 3)
    y0 = y0 / args["S"]
    rng = np.random.default_rng(1)
    powers = 2.0 ** rng.integers(-40, 40, (LANES, N))
    plain = solve(y0, {"R": np.ones((LANES, N)), "c": args["c"]})
    other = solve(y0, {"R": powers, "c": args["c"]})
    np.testing.assert_array_equal(plain.value, other.value)
    np.testing.assert_array_equal(plain.stats.steps, other.stats.steps)
    assert np.all(np.asarray(plain.status == other.status))


@pytest.mark.parametrize("rtol", [None, 1e-6])
def test_a_unit_of_error_is_what_was_asked_for(rtol):
    y = jnp.asarray([2.0, -3e-5])
    asked = np.finfo(y.dtype).eps ** 0.8 if rtol is None else rtol
    tolerance = Tolerance(None if rtol is None else jnp.asarray(rtol), 0.8)
    for part in (1.0, 0.25):
        error = part * asked * y * np.array([0.5, 1.0])
        np.testing.assert_allclose(tolerance.units(error, y, y), part, rtol=1e-12)


# --------------------------------------------------------------------------- NaN


@pytest.mark.parametrize("n", [4095, 4096, 5000])
def test_nan_survives_the_largest_of_many(n):
    for x in (np.ones(n), np.ones((2, n))):
        x[..., -7] = np.nan
        over = jax.jit(lambda x: tree_math.max_abs(x, -1))
        assert np.all(np.isnan(over(x)))
    assert np.isnan(jax.jit(tree_math.max_norm)((jnp.asarray(x),)))
    assert np.all(np.isnan(jax.jit(jax.vmap(tree_math.max_abs))(jnp.asarray(x))))


def test_nan_in_one_of_five_thousand_is_no_solution():
    hole = np.zeros(5000)
    hole[4321] = np.nan
    fn = lambda y, a: jnp.cos(y) + a
    for solver in (ix.Picard(), ix.Anderson(), ix.Broyden()):
        solution = ix.fixed_point(
            fn, jnp.zeros(5000), hole, solver=solver, on_failure="ignore"
        )
        assert not solution.converged
        assert solution.status.name == "non_finite"


def test_tolerances_for_what_others_find():
    square = lambda y, a: y**2 - a
    rough = lambda y0, a: jnp.asarray(1.41)
    strict = ix.custom_root(square, on_failure="ignore")(rough)
    assert strict(1.0, 2.0).status.name == "not_solved"
    solution = ix.custom_root(square, rtol=1e-2)(rough)(1.0, 2.0)
    np.testing.assert_allclose(solution.stats.error, 1 - 1.41 / np.sqrt(2), rtol=1e-2)
    assert ix.custom_root(square, atol=0.02)(rough)(1.0, 2.0).converged
    solver = ix.SciPy("hybr", tol=1e-2, rtol=1e-15)
    found = ix.root(square, 1.0, 2.0, solver=solver, on_failure="ignore")
    assert not found.converged


def test_advice_names_what_is_not_used_already():
    with pytest.raises(ix.ConvergenceError) as caught:
        ix.root(lambda y, a: y**2 + a, 1.0, 1.0, solver=ix.Newton())
    assert "use ix.Newton" not in str(caught.value)
    assert "ix.least_squares" in str(caught.value)
    with pytest.raises(ix.ConvergenceError, match="penalty") as caught:
        ix.minimize(lambda y, a: a * jnp.exp(-y), 1.0, 1.0)
    assert "TrustRegion()" not in str(caught.value)


def test_rounding_errors_are_no_singular_solution():
    """Of many lanes with errors of `fn` that no derivative sees, some fall by chance as
    corrections do at a singular solution."""
    rng = np.random.default_rng(3)
    W = jnp.asarray(0.4 * rng.normal(size=(3, 3)))
    x = jnp.asarray(rng.normal(size=(400, 3)))

    def fn(y, x):
        noise = jnp.sin(1e9 * jax.lax.stop_gradient(y))
        return jnp.tanh(W @ y + x) + 3e-14 * noise

    solve = functools.partial(ix.fixed_point, fn, jnp.zeros(3), on_failure="ignore")
    status = jax.jit(jax.vmap(lambda x: solve(x).status))(x)
    assert not (status == ix.Status.degenerate).any()


def test_a_wrong_derivative_is_no_singular_solution():
    """Newton's method converges linearly with it, as at a double root."""

    @jax.custom_jvp
    def square(y):
        return y**2

    square.defjvp(lambda y, t: (square(y[0]), 4 * y[0] * t[0]))
    found = ix.root(lambda y, a: square(y) - a, 1.5, 4.0, solver=ix.Newton())
    assert found.converged
    np.testing.assert_allclose(found.value, 2.0, rtol=1e-10)


@pytest.mark.parametrize("unit", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("method", [lx.GMRES, lx.BiCGStab])
def test_iterative_linear_solvers_know_no_unit(method, unit):
    """Their breakdowns are told by comparing with constants."""

    def fn(y, a):
        padded = jnp.pad(y, 1)
        return a * (4 * y + y**3 - padded[2:] - padded[:-2] - 1)

    krylov = method(rtol=1e-4, atol=0.0)
    solver = ix.Newton(linear_solver=krylov)
    found = ix.root(fn, jnp.zeros(50), unit, solver=solver, on_failure="ignore")
    assert found.converged
    assert jnp.abs(fn(found.value, 1.0)).max() <= 1e-12


def test_a_bracket_whose_residual_the_compiler_computes_anew():
    """Its copies may differ in their rounding errors: one in a hundred lanes found no
    end then."""

    def lane(e, M):
        kepler = lambda E, a: E - a[0] * jnp.sin(E) - a[1]
        solver = ix.Chandrupatla(M - 1, M + 1)
        return ix.root(kepler, M, (e, M), solver=solver, on_failure="ignore")

    rng = np.random.default_rng(0)
    e, M = (jnp.asarray(rng.uniform(*ends, 2000)) for ends in ((0, 0.99), (0.01, 3.1)))
    found = jax.jit(jax.vmap(lane))(e, M)
    assert found.converged.all()
    assert found.stats.steps.max() <= 20


@pytest.mark.parametrize(
    "solver",
    [None, ix.Newton(), ix.Newton(line_search=False), ix.Chord()],
    ids=["default", "Newton", "no search", "Chord"],
)
def test_a_zero_that_cancels_inside_fn_is_found(solver):
    """An angle that is computed as `atan2(-x, z) + pi / 2` is known to the last digits
    of `pi`. Where it should vanish it jumps by them, and the equation never holds."""

    def spiral(y, offset):
        angle = jnp.arctan2(-y[0], y[1]) / (2 * np.pi) + 0.25 + offset
        radius = jnp.hypot(y[0], y[1])
        return jnp.stack([10 * (y[2] - 10 * angle), 10 * (radius - 1), y[2]])

    offsets = jnp.asarray([-2.1e-17, -0.7e-17, 0.3e-17, 1.1e-17, 1.7e-17])
    starts = jnp.asarray([[0.9, 0.1, 0.1], [0.9, -0.2, 0.1]])

    def solve(y0, offset):
        return ix.root(spiral, y0, offset, solver=solver, on_failure="ignore")

    solve = jax.vmap(jax.vmap(solve, (0, None)), (None, 0))
    found = jax.jit(solve)(starts, offsets)
    assert found.converged.all(), found.status
    off = np.abs(np.asarray(found.value) - np.asarray([1.0, 0.0, 0.0]))
    assert off.max() <= 1e-14


@pytest.mark.parametrize("solver", [None, ix.Newton(line_search=False), ix.Broyden()])
def test_corrections_that_do_not_fall_are_no_zero(solver):
    """Down to where the smallest value is lost beside the start: steps go on as if by
    chance there, and no solution is meant."""
    gaps, starts = np.logspace(-26, -6, 6), np.logspace(-8, 6, 8)

    def status(c, y0):
        parabola = lambda y, c: y**2 + c
        found = ix.root(parabola, y0, c, solver=solver, on_failure="ignore")
        return found.status

    grid = jax.vmap(jax.vmap(status, (None, 0)), (0, None))
    came = jax.jit(grid)(gaps, starts)
    for solved in (ix.Status.converged, ix.Status.degenerate):
        assert not (came == solved).any()


@pytest.mark.parametrize("off", [0.0, 4e-15, 1e-12])
def test_what_a_correction_mends_is_no_rounding(off):
    """An unknown as small as the last digits of the way, in an equation that knows it:
    a method that gets no further has not solved that."""
    target = jnp.asarray([1.0, 5e-15])
    system = ix.System(lambda y: y - target)
    answer = system.evaluate(target + jnp.asarray([0.0, off]))
    yes = jnp.ones((), bool)
    tolerance = Tolerance(None, 0.8)
    seen = confirm(system, answer, jnp.ones(2), tolerance, ~yes, yes, yes)
    assert bool(seen.solved) == (off == 0)
