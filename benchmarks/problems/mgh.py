"""The 35 problems of Moré, Garbow and Hillstrom.

"Testing unconstrained optimization software", ACM TOMS 7(1), 1981, pp. 17-41,
section 3: residuals, standard starts, least sums of squares. The published values are
cut after six digits (the local one of number 26 is rounded, and from MINPACK's tables);
what is exactly known is exact here. Where the paper has a
problem for any number of unknowns, the number is chosen among those with a published
minimum. Solutions that are not printed there are in `_solutions`.
"""

import jax
import numpy as np

from benchmarks.problems import _mgh_fixed as fixed
from benchmarks.problems import _mgh_variable as variable
from benchmarks.problems import _solutions as known
from benchmarks.problems import _systems as systems
from benchmarks.problems import _tables as tables
from benchmarks.problems._problem import Problem
from benchmarks.problems._systems import counting


def make(number, fn, y0, args, minimum, *solutions, local=(), singular=False):
    """A row of the tables below, in double precision."""
    solution, *others = (np.asarray(found, np.float64) for found in solutions)
    return Problem(
        name=f"mgh{number:02d}-{fn.__name__.replace('_', '-')}",
        kind="least_squares",
        fn=fn,
        y0=np.asarray(y0, np.float64),
        args={key: np.asarray(value, np.float64) for key, value in args.items()},
        source=f"Moré, Garbow and Hillstrom 1981, number {number}",
        solution=solution,
        other_solutions=tuple(others),
        minimum=minimum,
        local_minima=local,
        singular=singular,
    )


def is_square(problem: Problem) -> bool:
    """Whether there are as many residuals as unknowns."""
    residual = jax.eval_shape(problem.fn, problem.y0, problem.args)
    return residual.shape == problem.y0.shape


def problems() -> list[Problem]:
    """The 35, in order."""
    return fixed_dimension() + any_dimension()


def fixed_dimension() -> list[Problem]:
    """Numbers 1 to 20: number, residual, start, data, least value, solutions."""
    s, f, t, k = systems, fixed, tables, known
    cubics = {"constants": [13, 29]}
    badly = {"targets": [1, 1.0001]}
    brown = {"targets": [1e6, 2e-6, 2]}
    helix = {"pitch": 10, "radius": 1}
    shift = {"shift": np.zeros(4)}
    times = counting(20) / 5.0
    dennis = {"exponential": np.exp(times), "cosine": np.cos(times)}
    unit = {"target": np.ones(29)}
    ones = np.ones(4)
    bumps = [1.3, 0.65, 0.65, 0.7, 0.6, 3, 5, 7, 2, 4.5, 5.5]
    flipped = k.POWELL_BADLY_SCALED[::-1]
    kowalik = [0.25, 0.39, 0.415, 0.39]
    osborne = [0.5, 1.5, -1, 0.01, 0.02]
    exponents = [1, 10, 1, 5, 4, 3]

    def y(observed):
        return {"y": observed}

    return [
        make(1, f.rosenbrock, [-1.2, 1], {"steepness": 10, "target": 1}, 0.0, [1, 1]),
        make(2, s.freudenstein_roth, [0.5, -2], cubics, 0.0, [5, 4], local=(48.9842,)),
        make(
            3, s.powell_badly_scaled, [0, 1], badly, 0.0, k.POWELL_BADLY_SCALED, flipped
        ),
        make(4, f.brown_badly_scaled, [1, 1], brown, 0.0, [1e6, 2e-6]),
        make(5, f.beale, [1, 1], y(t.BEALE), 0.0, [3, 0.5]),
        make(
            6,
            f.jennrich_sampson,
            [0.3, 0.4],
            y(t.JENNRICH_SAMPSON),
            124.362,
            k.JENNRICH_SAMPSON,
        ),
        make(7, s.helical_valley, [-1, 0, 0], helix, 0.0, [1, 0, 0]),
        make(8, f.bard, [1, 1, 1], y(t.BARD), 8.21487e-3, k.BARD, local=(17.4286,)),
        make(9, f.gaussian, [0.4, 1, 0], y(t.GAUSSIAN), 1.12793e-8, k.GAUSSIAN),
        make(10, f.meyer, [0.02, 4000, 250], y(t.MEYER), 87.9458, k.MEYER),
        make(11, f.gulf, [5, 2.5, 0.15], y(t.GULF), 0.0, [50, 25, 1.5]),
        make(
            12,
            f.box,
            [0, 10, 20],
            {"rates": [1, 10]},
            0.0,
            [1, 10, 1],
            [10, 1, -1],
        ),
        make(
            13, s.powell_singular, [3, -1, 0, 1], shift, 0.0, np.zeros(4), singular=True
        ),
        make(14, f.wood, [-3, -1, -3, -1], {"target": ones}, 0.0, ones),
        make(
            15,
            f.kowalik_osborne,
            kowalik,
            y(t.KOWALIK_OSBORNE),
            3.07505e-4,
            k.KOWALIK_OSBORNE,
            local=(1.02734e-3,),
        ),
        make(16, f.brown_dennis, [25, 5, -5, -1], dennis, 85822.2, k.BROWN_DENNIS),
        make(17, f.osborne_1, osborne, y(t.OSBORNE_1), 5.46489e-5, k.OSBORNE_1),
        make(
            18,
            f.biggs,
            [1, 2, 1, 1, 1, 1],
            y(t.BIGGS),
            0.0,
            exponents,
            [4, 10, 3, 5, 1, 1],
            local=(5.65565e-3,),
        ),
        make(19, f.osborne_2, bumps, y(t.OSBORNE_2), 4.01377e-2, k.OSBORNE_2),
        make(20, s.watson, np.zeros(6), unit, 2.28767e-3, k.WATSON_6),
    ]


def any_dimension() -> list[Problem]:
    """Numbers 21 to 35: n = 20 for the two chains, 8 for Chebyquad, else 10."""
    s, v, k = systems, variable, known
    ones, zeros = np.ones(10), np.zeros(10)
    ten = counting(10)
    nodes = s.mesh(10)
    bowl = nodes * (nodes - 1.0)
    valley = {"steepness": 10, "target": 1}
    targets = {"targets": np.ones(20)}
    offset, constant = {"offset": 1}, {"constant": 1}
    # Of the plane of solutions the point next to the origin.
    plane = ten * (3.0 / 41.0) / np.sum(ten**2)
    inner = np.pad(ten[1:-1], 1)
    inner *= (3.0 / 37.0) / np.sum(inner**2)
    return [
        make(21, fixed.rosenbrock, np.tile([-1.2, 1], 10), valley, 0.0, np.ones(20)),
        make(
            22,
            s.powell_singular,
            np.tile([3, -1, 0, 1], 5),
            {"shift": np.zeros(20)},
            0.0,
            np.zeros(20),
            singular=True,
        ),
        make(
            23,
            v.penalty_1,
            ten,
            {"weight": 1e-5, "total": 0.25},
            7.08765e-5,
            k.PENALTY_1,
        ),
        make(
            24,
            v.penalty_2,
            0.5 * ones,
            {"weight": 1e-5, "first": 0.2, "total": 1},
            2.93660e-4,
            k.PENALTY_2,
        ),
        make(25, v.variably_dimensioned, 1 - ten / 10, {"target": ones}, 0.0, ones),
        make(
            26,
            s.trigonometric,
            ones / 10,
            {"shift": zeros},
            0.0,
            zeros,
            local=(2.79506e-5,),
        ),
        make(
            27,
            s.brown_almost_linear,
            ones / 2,
            {"total": 11, "product": 1},
            0.0,
            ones,
            k.BROWN_10,
            local=(1.0,),
        ),
        make(28, s.discrete_boundary_value, bowl, offset, 0.0, k.BOUNDARY_VALUE),
        make(29, s.discrete_integral, bowl, offset, 0.0, k.INTEGRAL),
        make(30, s.broyden_tridiagonal, -ones, constant, 0.0, k.TRIDIAGONAL),
        make(31, s.broyden_banded, -ones, constant, 0.0, k.BANDED),
        make(32, v.linear_full_rank, ones, targets, 10.0, -ones),
        make(33, v.linear_rank_1, ones, targets, 190.0 / 41.0, plane, singular=True),
        make(
            34,
            v.linear_rank_1_zeros,
            ones,
            targets,
            227.0 / 37.0,
            inner,
            singular=True,
        ),
        make(
            35,
            v.chebyquad,
            counting(8) / 9.0,
            {"moments": s.chebyshev_moments(8)},
            3.51687e-3,
            k.CHEBYQUAD_8,
        ),
    ]
