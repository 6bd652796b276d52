"""Problems 1 to 20 of Moré, Garbow and Hillstrom: a fixed number of unknowns.

ACM TOMS 7(1), 1981, section 3; what is said of each function there is repeated only
where it is not plain from the code. The residuals shared with the 23 systems of
equations are in `_systems`. Observations are data, and so is what takes their place.
"""

import math

import jax.numpy as jnp
import numpy as np

from benchmarks.problems import _tables as tables
from benchmarks.problems._systems import counting


def rosenbrock(y, args):
    """1 (Rosenbrock 1960) and 21, in blocks of two unknowns."""
    a, b = y.reshape(-1, 2).T
    rows = [args["steepness"] * (b - a**2), args["target"] - a]
    return jnp.stack(rows, axis=1).ravel()


def brown_badly_scaled(y, args):
    """4 (Brown)."""
    return jnp.stack([y[0], y[1], y[0] * y[1]]) - args["targets"]


def beale(y, args):
    """5 (Beale 1958)."""
    return args["y"] - y[0] * (1.0 - y[1] ** counting(3))


def jennrich_sampson(y, args):
    """6 (Jennrich and Sampson 1968), 10 residuals."""
    i = counting(10)
    return args["y"] - (jnp.exp(i * y[0]) + jnp.exp(i * y[1]))


def bard(y, args):
    """8 (Bard 1970)."""
    u = counting(15)
    v = 16.0 - u
    return args["y"] - (y[0] + u / (v * y[1] + np.minimum(u, v) * y[2]))


def gaussian(y, args):
    """9: a bell curve at t = 3.5, 3, ..., -3.5."""
    t = (8.0 - counting(15)) / 2.0
    return y[0] * jnp.exp(-y[1] * (t - y[2]) ** 2 / 2.0) - args["y"]


def meyer(y, args):
    """10 (Meyer 1970): resistance of a thermistor."""
    t = 45.0 + 5.0 * counting(16)
    return y[0] * jnp.exp(y[1] / (t + y[2])) - args["y"]


def gulf(y, args):
    """11 (Cox 1969), 99 residuals.

    Printed with a product, y_i m i x2, where a difference, y_i - x2, is meant: only
    with it is (50, 25, 1.5) a solution.
    """
    t = counting(99) / 100.0
    return jnp.exp(-(jnp.abs(args["y"] - y[1]) ** y[2]) / y[0]) - t


def box(y, args):
    """12 (Box 1966), 10 residuals: the rates of two exponentials, and a factor.

    The residual also vanishes wherever x1 = x2 and x3 = 0.
    """
    t = counting(10) / 10.0
    first, second = args["rates"]
    observed = jnp.exp(-first * t) - jnp.exp(-second * t)
    return jnp.exp(-t * y[0]) - jnp.exp(-t * y[1]) - y[2] * observed


def wood(y, args):
    """14 (Colville 1968)."""
    _, e2, _, e4 = y - args["target"]
    rows = [
        10.0 * (y[1] - y[0] ** 2),
        args["target"][0] - y[0],
        math.sqrt(90.0) * (y[3] - y[2] ** 2),
        args["target"][2] - y[2],
        math.sqrt(10.0) * (e2 + e4),
        (e2 - e4) / math.sqrt(10.0),
    ]
    return jnp.stack(rows)


def kowalik_osborne(y, args):
    """15 (Kowalik and Osborne 1968): an enzyme reaction."""
    u = tables.KOWALIK_OSBORNE_U
    return args["y"] - y[0] * (u**2 + u * y[1]) / (u**2 + u * y[2] + y[3])


def brown_dennis(y, args):
    """16 (Brown and Dennis 1971), 20 residuals."""
    t = counting(20) / 5.0
    line = y[0] + t * y[1] - args["exponential"]
    wave = y[2] + y[3] * np.sin(t) - args["cosine"]
    return line**2 + wave**2


def osborne_1(y, args):
    """17 (Osborne 1972): two exponentials and a constant."""
    t = 10.0 * counting(33, first=0)
    model = y[0] + y[1] * jnp.exp(-t * y[3]) + y[2] * jnp.exp(-t * y[4])
    return args["y"] - model


def biggs(y, args):
    """18 (Biggs 1971), 13 residuals: three exponentials.

    The published least value, 5.65565e-3, belongs to a saddle, where x1 = x5 and
    x3 = x6. The standard start has these equalities, and an iteration that respects
    the symmetry keeps them.
    """
    t = counting(13) / 10.0
    first = y[2] * jnp.exp(-t * y[0]) - y[3] * jnp.exp(-t * y[1])
    return first + y[5] * jnp.exp(-t * y[4]) - args["y"]


def osborne_2(y, args):
    """19 (Osborne 1972): an exponential and three bell curves."""
    t = counting(65, first=0)[:, None] / 10.0
    shape = (t - y[None, 8:]) ** 2
    bells = jnp.exp(-shape * y[None, 5:8]) @ y[1:4]
    return args["y"] - (y[0] * jnp.exp(-t[:, 0] * y[4]) + bells)
