"""The 23 systems of equations of SciML's NonlinearProblemLibrary.

They are those of Burkardt's `test_nonlin`, which took most of them from Moré, Garbow
and Hillstrom, ACM TOMS 7(1), 1981 ("MGH") and from Moré and Cosnard, ACM TOMS 5(1),
1979. Dimensions and starts are SciML's.

Three of SciML's formulas differ from the literature, which is followed here: in number
6 (Watson) the factors j - 1 and k - 1 and the last two equations, in number 10 (the
integral equation) the diagonal term, which must be counted once, and in number 23
(Chandrasekhar) the nodes, which are the midpoints (i - 1/2)/n.
"""

import math

import jax.numpy as jnp
import numpy as np

from benchmarks.problems import _solutions as known
from benchmarks.problems import _systems as systems
from benchmarks.problems._problem import Problem


def rosenbrock(y, args):
    """Number 1: a chain of Rosenbrock's valleys."""
    chain = args["steepness"] * (y[1:] - y[:-1] ** 2)
    return jnp.concatenate([args["target"] - y[:1], chain])


def wood(y, args):
    """Number 4: the gradient of Wood's function (Colville 1968), scaled."""
    x1, _, x3, _ = y
    _, e2, _, e4 = y - args["targets"]
    r, s = y[1] - x1**2, y[3] - x3**2
    rows = [
        -200.0 * x1 * r - (args["targets"][0] - x1),
        200.0 * r + 20.2 * e2 + 19.8 * e4,
        -180.0 * x3 * s - (args["targets"][2] - x3),
        180.0 * s + 20.2 * e4 + 19.8 * e2,
    ]
    return jnp.stack(rows)


def watson_gradient(y, args):
    """Number 6: half the gradient of the sum of squares of MGH 20."""
    residual = systems.watson(y, args)
    equation, (first, second) = residual[:29], residual[29:]
    values, slopes = systems.watson_tables(y.size)
    inner = equation @ slopes - 2.0 * (equation * (values @ y)) @ values
    edge = jnp.stack([first - 2.0 * y[0] * second, second])
    return inner + jnp.pad(edge, (0, y.size - 2))


def chebyquad(y, args):
    """Number 7: equal-weight quadrature on [-1, 1] (MGH 35; Fletcher 1965)."""
    return jnp.mean(systems.chebyshev(y, y.size), axis=1) - args["moments"]


def variably_dimensioned(y, args):
    """Number 12: half the gradient of the sum of squares of MGH 25."""
    error = y - args["target"]
    weights = systems.counting(y.size)
    s = jnp.sum(weights * error)
    return error + weights * (s * (1.0 + 2.0 * s**2))


def square_root(y, args):
    """Numbers 15 and 16 (Hammarling): X X = A, row by row."""
    X = y.reshape(args["A"].shape)
    return (X @ X - args["A"]).ravel()


def dennis_schnabel(y, args):
    """Number 17: Dennis and Schnabel 1983, section 5.1."""
    return jnp.stack([y[0] + y[1], y[0] ** 2 + y[1] ** 2]) - args["totals"]


def bell(x):
    """(1 - exp(-x^2)) / x, which is 0 at 0."""
    safe = jnp.where(x == 0.0, 1.0, x)
    return jnp.where(x == 0.0, x, -jnp.expm1(-(safe**2)) / safe)


def sample_18(y, args):
    """Number 18."""
    return jnp.stack([y[1] ** 2 * bell(y[0]), y[0] * bell(y[1])]) - args["shift"]


def sample_19(y, args):
    """Number 19."""
    return y * jnp.sum(y**2) - args["shift"]


def scalar(y, args):
    """Number 20: a simple and a double root."""
    return (y - args["simple"]) * (y - args["double"]) ** 2


def boggs(y, args):
    """Number 22 (Boggs 1971): three roots."""
    first = y[0] ** 2 - y[1] + args["offset"]
    return jnp.stack([first, y[0] - jnp.cos(args["frequency"] * y[1])])


def chandrasekhar(y, args):
    """Number 23: the H-equation (Kelley 1995, section 5.6) by the midpoint rule."""
    n = y.size
    nodes = (systems.counting(n) - 0.5) / n
    kernel = nodes[:, None] / (nodes[:, None] + nodes[None, :])
    return y - 1.0 / (1.0 - args["albedo"] * (kernel @ y) / (2.0 * n))


def make(number, fn, y0, args, *solutions, singular=False):
    """A row of the table below, in double precision."""
    solution, *others = (np.asarray(found, np.float64) for found in solutions)
    return Problem(
        name=f"nl{number:02d}-{fn.__name__.replace('_', '-')}",
        kind="root",
        fn=fn,
        y0=np.asarray(y0, np.float64),
        args={key: np.asarray(value, np.float64) for key, value in args.items()},
        source=f"SciML NonlinearProblemLibrary / Burkardt test_nonlin, number {number}",
        solution=solution,
        other_solutions=tuple(others),
        singular=singular,
    )


def problems() -> list[Problem]:
    """The 23, in order: number, residual, start, data, solutions."""
    ones, zeros = np.ones(10), np.zeros(10)
    s = systems
    t = s.mesh(10)
    bowl, falling = t * (t - 1.0), 1.0 - s.counting(10) / 10.0
    third, half = math.sqrt(1.0 / 3.0), math.sqrt(0.5)
    quarter_turn = 0.5 * math.pi
    jordan = np.diag([1e-4] * 3) + np.diag([1.0, 0.0], 1)
    root = np.diag([1e-2] * 3) + np.diag([50.0, 0.0], 1)
    badly_scaled = known.POWELL_BADLY_SCALED
    # Data.
    valley = {"steepness": 10.0, "target": 1.0}
    shift_2, shift_4, shift_10 = ({"shift": zeros[:n]} for n in (2, 4, 10))
    targets = {"targets": [1.0, 1.0001]}
    helix = {"pitch": 10.0, "radius": 1.0}
    moments = {"moments": s.chebyshev_moments(2)}
    brown = {"total": 11.0, "product": 1.0}
    offset, constant, albedo = {"offset": 1.0}, {"constant": 1.0}, {"albedo": 0.9}
    square = {"A": jordan[:2, :2]}
    cubics = {"constants": [13.0, 29.0]}
    wave = {"offset": 1.0, "frequency": quarter_turn}
    return [
        make(1, rosenbrock, [-1.2, *ones[1:]], valley, ones),
        make(2, s.powell_singular, [3, -1, 0, 1], shift_4, zeros[:4], singular=True),
        make(
            3, s.powell_badly_scaled, [0, 1], targets, badly_scaled, badly_scaled[::-1]
        ),
        make(4, wood, [-3, -1, -3, -1], {"targets": ones[:4]}, ones[:4]),
        make(5, s.helical_valley, [-1, 0, 0], helix, [1, 0, 0]),
        make(6, watson_gradient, [0, 0], {"target": np.ones(29)}, known.WATSON_2),
        make(7, chebyquad, [0, 2 / 3], moments, [-third, third], [third, -third]),
        make(8, s.brown_almost_linear, 0.5 * ones, brown, ones, known.BROWN_10),
        make(9, s.discrete_boundary_value, bowl, offset, known.BOUNDARY_VALUE),
        make(10, s.discrete_integral, bowl, offset, known.INTEGRAL),
        make(11, s.trigonometric, 0.1 * ones, shift_10, zeros),
        make(12, variably_dimensioned, falling, {"target": ones}, ones),
        make(13, s.broyden_tridiagonal, -ones, constant, known.TRIDIAGONAL),
        make(14, s.broyden_banded, -ones, constant, known.BANDED),
        make(15, square_root, [1, 0, 0, 1], square, root[:2, :2].ravel()),
        make(16, square_root, np.eye(3).ravel(), {"A": jordan}, root.ravel()),
        make(17, dennis_schnabel, [1, 5], {"totals": [3, 9]}, [0, 3], [3, 0]),
        make(18, sample_18, [2, 2], shift_2, zeros[:2], singular=True),
        make(19, sample_19, [3, 3], shift_2, zeros[:2], singular=True),
        make(20, scalar, [1], {"simple": 0, "double": 5}, [5], [0], singular=True),
        make(21, s.freudenstein_roth, [0.5, -2], cubics, [5, 4]),
        make(22, boggs, [1, 0], wave, [0, 1], [-1, 2], [-half, 1.5]),
        make(23, chandrasekhar, ones, albedo, known.CHANDRASEKHAR),
    ]
