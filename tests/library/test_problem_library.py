"""The problems of the literature, and their answers, are the published ones."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from benchmarks import problems as library
from benchmarks.problems import _mgh_fixed, _mgh_variable, _systems, nist, nonlinear
from benchmarks.problems.mgh import is_square

EPS = np.finfo(np.float64).eps
NONLINEAR, MGH = nonlinear.problems(), library.mgh.problems()
SQUARE = [p for p in MGH if p.zero_residual and is_square(p)]
ROOTS = NONLINEAR + [problem.as_root() for problem in SQUARE]
BY_NAME = {problem.name: problem for problem in NONLINEAR + MGH}
HAVE_NIST = nist.FOLDER.is_dir()
NIST = nist.problems() if HAVE_NIST else []
needs_nist = pytest.mark.skipif(
    not HAVE_NIST, reason=f"NIST's data files are not in {nist.FOLDER}"
)

#: Unknowns and residuals, as in the paper; where they are free, as chosen.
SIZES = [
    *[(2, 2), (2, 2), (2, 2), (2, 3), (2, 3), (2, 10), (3, 3), (3, 15), (3, 15)],
    *[(3, 16), (3, 99), (3, 10), (4, 4), (4, 6), (4, 11), (4, 20), (5, 33), (6, 13)],
    *[(11, 65), (6, 31), (20, 20), (20, 20), (10, 11), (10, 20), (10, 12), (10, 10)],
    *[(10, 10), (10, 10), (10, 10), (10, 10), (10, 10), (10, 20), (10, 20), (10, 20)],
    (8, 8),
]


def each(problems):
    return pytest.mark.parametrize("problem", problems, ids=lambda p: p.name)


def unit_last_place(published, digits=6):
    """What a number that was cut after so many digits may have lost."""
    return 10.0 ** (math.floor(math.log10(published)) - digits + 1)


@functools.partial(jax.jit, static_argnums=0)
def compiled(fn, y, args):
    return fn(y, args), *jax.jacfwd(fn, argnums=(0, 1))(y, args)


def linearised(fn, y, args):
    """The residual, and its derivatives with respect to unknowns and data."""
    return jax.tree.map(np.asarray, compiled(fn, y, args))


@functools.partial(jax.jit, static_argnums=0)
def curvature(fn, y, args):
    """The Hessian of half the sum of squares."""
    return jax.hessian(lambda y: 0.5 * jnp.sum(fn(y, args) ** 2))(y)


def scaled_inverse_condition(matrix):
    """Smallest over largest singular value after scaling columns, then rows."""
    for axis in (0, 1):
        size = np.linalg.norm(matrix, axis=axis, keepdims=True)
        matrix = matrix / np.where(size == 0.0, 1.0, size)
    values = np.linalg.svd(matrix, compute_uv=False)
    return values[-1] / max(values[0], EPS)


def solutions(problem):
    return [problem.solution, *problem.other_solutions]


def test_counts_and_names():
    assert len(NONLINEAR) == 23
    assert [p.name[:4] for p in NONLINEAR] == [f"nl{i:02d}" for i in range(1, 24)]
    assert [p.name[:5] for p in MGH] == [f"mgh{i:02d}" for i in range(1, 36)]
    numbers = [int(p.name[3:5]) for p in SQUARE]
    assert numbers == [1, 2, 3, 7, 13, 21, 22, 26, 27, 28, 29, 30, 31]
    assert [p.name for p in library.roots()] == [p.name for p in ROOTS]
    assert {p.kind for p in library.roots()} == {"root"}
    assert [p.name for p in library.minimisations()] == [p.name for p in MGH]
    assert {p.kind for p in library.minimisations()} == {"minimum"}


def test_dimensions_are_the_published_ones():
    found = [(p.y0.size, jax.eval_shape(p.fn, p.y0, p.args).size) for p in MGH]
    assert found == SIZES
    sizes = [p.y0.size for p in NONLINEAR]
    assert sizes == [10, 4, 2, 4, 3, 2, 2, *[10] * 7, 4, 9, 2, 2, 2, 1, 2, 2, 10]


@each(NONLINEAR + MGH + NIST)
def test_smooth_at_the_start(problem):
    """Finite, in double precision, with a derivative for each datum."""
    value, by_y, by_args = linearised(problem.fn, problem.y0, problem.args)
    assert problem.y0.ndim == 1
    assert value.ndim == 1
    assert problem.y0.dtype == value.dtype == np.float64
    assert np.isfinite(value).all()
    assert np.isfinite(by_y).all()
    assert problem.args
    for name, datum in problem.args.items():
        assert datum.dtype == np.float64, name
        assert np.isfinite(by_args[name]).all(), name
    if problem.kind == "root":
        assert value.shape == problem.y0.shape


@each(NONLINEAR + MGH + NIST)
def test_each_datum_matters(problem):
    """Away from the start, where some constants of the literature cancel."""
    y = problem.y0 * 1.01 + 0.01
    _, _, by_args = linearised(problem.fn, y, problem.args)
    for name, derivative in by_args.items():
        assert np.any(derivative != 0.0), name


@each(MGH)
def test_minimisations_are_numbers(problem):
    half = problem.as_minimum()
    value = jax.eval_shape(half.fn, half.y0, half.args)
    assert value.shape == ()
    assert value.dtype == np.float64
    assert half.minimum == 0.5 * problem.minimum
    assert half.local_minima == tuple(0.5 * value for value in problem.local_minima)


@each(MGH[:5])
def test_a_minimisation_is_half_the_sum_of_squares(problem):
    half = problem.as_minimum()
    value = half.fn(problem.y0, problem.args)
    total = problem.objective(problem.y0, problem.args)
    np.testing.assert_allclose(2.0 * value, total, rtol=1e-15)
    assert half.objective(problem.y0, problem.args) == value


@each(ROOTS)
def test_roots(problem):
    """Each residual is what rounding the unknowns and the data leaves of it."""
    for solution in solutions(problem):
        value, by_y, _ = linearised(problem.fn, solution, problem.args)
        scale = np.abs(by_y) @ np.abs(solution) + 1.0
        assert np.all(np.abs(value) <= 4.0 * EPS * scale)
    _, by_y, _ = linearised(problem.fn, problem.solution, problem.args)
    assert (scaled_inverse_condition(by_y) < 1e-12) == problem.singular


@each([problem for problem in MGH if not is_square(problem) or problem.minimum])
def test_least_sums_of_squares(problem):
    """The published value, cut after six digits; a gradient at rounding level."""
    for solution in solutions(problem):
        value, by_y, _ = linearised(problem.fn, solution, problem.args)
        total = float(np.sum(np.square(value)))
        noise = 4.0 * EPS * (np.abs(by_y) @ np.abs(solution) + np.abs(value) + 1.0)
        if problem.zero_residual:
            assert np.all(np.abs(value) <= noise)
        else:
            lost = unit_last_place(problem.minimum)
            assert -1e-14 * total <= total - problem.minimum < lost
        gradient = by_y.T @ value
        assert np.all(np.abs(gradient) <= np.abs(by_y).T @ noise)


@each(MGH)
def test_hessians(problem):
    """Positive definite, unless the problem says that it is singular."""
    hessian = curvature(problem.fn, problem.solution, problem.args)
    diagonal = np.sqrt(np.diag(hessian))
    scale = np.where(diagonal == 0.0, 1.0, diagonal)
    values = np.linalg.eigvalsh(hessian / scale[:, None] / scale[None, :])
    assert values[0] > -1e-13 * values[-1]
    assert (values[0] < 1e-13 * values[-1]) == problem.singular


#: Starts from which the other published minima are reached.
LOCAL_STARTS = {
    "mgh02-freudenstein-roth": [11.0, -1.0],
    "mgh26-trigonometric": [0.1] * 10,
    "mgh27-brown-almost-linear": [*[0.0] * 9, 11.0],
}


@pytest.mark.parametrize("name", LOCAL_STARTS)
def test_local_minima(name):
    problem = BY_NAME[name]

    def residual(y):
        return np.asarray(problem.fn(y, problem.args))

    def jacobian(y):
        return np.asarray(linearised(problem.fn, y, problem.args)[1])

    start = np.asarray(LOCAL_STARTS[name])
    tight = {"ftol": 1e-15, "xtol": 1e-15, "gtol": 1e-15}
    found = scipy.optimize.least_squares(residual, start, jac=jacobian, **tight)
    (published,) = problem.local_minima
    total = 2.0 * found.cost
    assert abs(total - published) < unit_last_place(published)


def test_published_minimum_of_biggs_is_a_saddle():
    """It is the least value where two of the three exponentials are equal."""
    problem = BY_NAME["mgh18-biggs"]
    equal = np.eye(4)[[0, 1, 2, 3, 0, 2]]

    def residual(p):
        return np.asarray(problem.fn(equal @ p, problem.args))

    start = [1.7, 17.7, 1.2, 5.2]
    tight = {"ftol": 1e-15, "xtol": 1e-15, "gtol": 1e-15}
    found = scipy.optimize.least_squares(residual, start, jac="3-point", **tight)
    (published,) = problem.local_minima
    assert abs(2.0 * found.cost - published) < unit_last_place(published)
    saddle = equal @ found.x
    value, by_y, _ = linearised(problem.fn, saddle, problem.args)
    assert np.linalg.norm(by_y.T @ value) < 1e-9
    hessian = curvature(problem.fn, saddle, problem.args)
    assert np.linalg.eigvalsh(hessian)[0] < -4e-3


def test_minima_at_infinity():
    """Bard's and Kowalik and Osborne's, whose models become linear there."""
    bard, enzyme = BY_NAME["mgh08-bard"], BY_NAME["mgh15-kowalik-osborne"]
    mean = np.mean(bard.args["y"])
    value = bard.objective(np.asarray([mean, -1e12, -1e12]), bard.args)
    (published,) = bard.local_minima
    assert 0.0 <= value - published < unit_last_place(published)

    def limit(p):
        return np.asarray([1e12 * p[0], p[1], 1e12, 1e12 * p[2]]) * [-1, 1, -1, -1]

    def residual(p):
        return np.asarray(enzyme.fn(limit(p), enzyme.args))

    found = scipy.optimize.least_squares(residual, [-0.2, -14.0, 0.1], xtol=1e-15)
    (published,) = enzyme.local_minima
    assert 0.0 <= 2.0 * found.cost - published < unit_last_place(published)


def cubes(x, offset):
    t = [(j + 1) / (len(x) + 1) for j in range(len(x))]
    return t, [(x[j] + t[j] + offset) ** 3 for j in range(len(x))]


def boundary_value(x, args):
    _, c = cubes(x, args["offset"])
    n = len(x)
    u = [0.0, *x, 0.0]
    h = 1 / (n + 1)
    return [2 * u[i + 1] - u[i] - u[i + 2] + h**2 * c[i] / 2 for i in range(n)]


def integral(x, args):
    t, c = cubes(x, args["offset"])
    n = len(x)
    return [
        x[i]
        + (
            (1 - t[i]) * sum(t[j] * c[j] for j in range(i + 1))
            + t[i] * sum((1 - t[j]) * c[j] for j in range(i + 1, n))
        )
        / (2 * (n + 1))
        for i in range(n)
    ]


def tridiagonal(x, args):
    u = [0.0, *x, 0.0]
    c = args["constant"]
    return [
        (3 - 2 * u[i]) * u[i] - u[i - 1] - 2 * u[i + 1] + c
        for i in range(1, len(x) + 1)
    ]


def banded(x, args):
    n = len(x)
    near = [
        [j for j in range(max(0, i - 5), min(n, i + 2)) if j != i] for i in range(n)
    ]
    return [
        x[i] * (2 + 5 * x[i] ** 2)
        + args["constant"]
        - sum(x[j] * (1 + x[j]) for j in near[i])
        for i in range(n)
    ]


def h_equation(x, args):
    n = len(x)
    m = [(i + 0.5) / n for i in range(n)]
    c = args["albedo"] / (2 * n)
    sums = [sum(m[i] * x[j] / (m[i] + m[j]) for j in range(n)) for i in range(n)]
    return [x[i] - 1 / (1 - c * sums[i]) for i in range(n)]


def chebyshev_rule(x, args):
    n = len(x)
    values = [[math.cos((i + 1) * math.acos(2 * z - 1)) for z in x] for i in range(n)]
    return [sum(values[i]) / n - args["moments"][i] for i in range(n)]


@pytest.mark.parametrize(
    ("name", "written_out"),
    [
        ("nl09-discrete-boundary-value", boundary_value),
        ("nl10-discrete-integral", integral),
        ("nl13-broyden-tridiagonal", tridiagonal),
        ("nl14-broyden-banded", banded),
        ("nl23-chandrasekhar", h_equation),
        ("mgh35-chebyquad", chebyshev_rule),
    ],
)
def test_against_the_formula_written_out(name, written_out):
    problem = BY_NAME[name]
    y = np.random.default_rng(1).uniform(0.1, 0.9, problem.y0.size)
    expected = np.asarray(written_out(y.tolist(), problem.args))
    np.testing.assert_allclose(
        problem.fn(y, problem.args), expected, rtol=1e-13, atol=1e-14
    )


@pytest.mark.parametrize(
    ("name", "residual", "factors"),
    [
        ("nl04-wood", _mgh_fixed.wood, [1, 2, 1, 2]),
        ("nl06-watson-gradient", _systems.watson, [1, 1]),
        ("nl12-variably-dimensioned", _mgh_variable.variably_dimensioned, [1] * 10),
    ],
)
def test_gradients_of_sums_of_squares(name, residual, factors):
    """Three of the systems are half a gradient, up to factors."""
    problem = BY_NAME[name]
    args = {"target": next(iter(problem.args.values()))}
    y = np.random.default_rng(2).normal(size=problem.y0.size)
    value, by_y, _ = linearised(residual, y, args)
    np.testing.assert_allclose(
        problem.fn(y, problem.args), np.asarray(factors) * (by_y.T @ value), rtol=1e-12
    )


@pytest.mark.parametrize(
    ("x1", "x2", "turns"),
    [(1, 0, 0), (1, 1, 0.125), (0, 1, 0.25), (-1, 0, 0.5), (-1, -1, 0.625)],
)
def test_helical_angle(x1, x2, turns):
    """From -1/4 to 3/4 of a turn: it jumps on the axis x1 = 0 > x2."""
    problem = BY_NAME["nl05-helical-valley"]
    y = np.asarray([x1, x2, 0.0])
    height = problem.fn(y, problem.args)[0]
    np.testing.assert_allclose(height, -100.0 * turns, rtol=1e-14, atol=1e-14)


def test_sample_18_is_smooth_at_its_root():
    problem = BY_NAME["nl18-sample-18"]
    _, by_y, _ = linearised(problem.fn, np.zeros(2), problem.args)
    assert np.array_equal(by_y, np.zeros((2, 2)))
    y = np.asarray([1e-9, 0.5])
    expected = [0.25 * 1e-9, 1e-9 * (1.0 - math.exp(-0.25)) / 0.5]
    np.testing.assert_allclose(problem.fn(y, problem.args), expected, rtol=1e-14)


def test_missing_data_is_named(tmp_path):
    folder = tmp_path / "nowhere"
    with pytest.raises(FileNotFoundError, match="nowhere"):
        nist.problems(folder)


@needs_nist
def test_nist_is_complete():
    assert len(NIST) == 27
    assert len(library.least_squares()) == 35 + 27
    names = {path.stem for path in nist.FOLDER.glob("*.dat")}
    assert {problem.name for problem in NIST} == names


@needs_nist
@each(NIST or [pytest.param(None, id="none")])
def test_nist_sizes(problem):
    n = problem.y0.size
    other = problem.from_start_2()
    assert other.y0.shape == problem.solution.shape == problem.y0.shape
    assert not np.array_equal(other.y0, problem.y0)
    assert np.isfinite(other.fn(other.y0, other.args)).all()
    assert problem.standard_deviations.shape == (n,)
    assert problem.args["y"].size - n == problem.degrees_of_freedom


@needs_nist
@each(NIST or [pytest.param(None, id="none")])
def test_nist_certified_values(problem):
    """Sum of squares to 9 digits, standard deviations to 8.

    Certified parameters are rounded to 11 digits: Newton's step to the minimum is no
    larger than that. Of the residual, what a small change of the parameters removes is
    removed, else rounding is all there is in `Lanczos1`, whose residual is 1e-13:
    double precision leaves two digits there.
    """
    value, by_y, _ = linearised(problem.fn, problem.solution, problem.args)
    size = np.linalg.norm(by_y, axis=0)
    Q, R = np.linalg.qr(by_y / size)
    hessian = curvature(problem.fn, problem.solution, problem.args)
    gradient = R.T @ (Q.T @ value)
    step = np.linalg.solve(hessian / np.outer(size, size), gradient) / size
    rounding = 10.0 ** (np.floor(np.log10(np.abs(problem.solution))) - 10.0)
    assert np.all(np.abs(step) <= rounding)
    total = np.sum((value - Q @ (Q.T @ value)) ** 2)
    digits = 2e-2 if problem.name == "Lanczos1" else 1e-9
    np.testing.assert_allclose(total, problem.minimum, rtol=digits)
    deviation = problem.residual_standard_deviation
    np.testing.assert_allclose(
        math.sqrt(problem.minimum / problem.degrees_of_freedom), deviation, rtol=1e-10
    )
    inverse = np.linalg.inv(R)
    found = deviation * np.linalg.norm(inverse, axis=1) / size
    np.testing.assert_allclose(found, problem.standard_deviations, rtol=1e-8)
