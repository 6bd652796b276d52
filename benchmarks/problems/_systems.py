"""Residuals that the 23 systems and the set of Moré, Garbow and Hillstrom share.

"MGH" numbers are those of Moré, Garbow and Hillstrom, ACM TOMS 7(1), 1981, section 3.
In comments x stands for the unknowns and t_i = i h, h = 1/(n + 1), for a uniform mesh.
"""

import math

import jax.numpy as jnp
import numpy as np


def counting(n: int, first: int = 1) -> np.ndarray:
    """The numbers `first`, `first + 1`, ..., n of them."""
    return np.arange(first, first + n, dtype=np.float64)


def mesh(n: int) -> np.ndarray:
    """The n interior points of a uniform mesh of [0, 1]."""
    return counting(n) / (n + 1)


def freudenstein_roth(y, args):
    """MGH 2 (Freudenstein and Roth 1963): two cubics."""
    first = y[0] + ((5.0 - y[1]) * y[1] - 2.0) * y[1]
    second = y[0] + ((y[1] + 1.0) * y[1] - 14.0) * y[1]
    return jnp.stack([first, second]) - args["constants"]


def powell_badly_scaled(y, args):
    """MGH 3 (Powell 1970): 10^4 x1 x2 = 1, exp(-x1) + exp(-x2) = 1.0001."""
    values = [1e4 * y[0] * y[1], jnp.exp(-y[0]) + jnp.exp(-y[1])]
    return jnp.stack(values) - args["targets"]


def helical_valley(y, args):
    """MGH 7 (Fletcher and Powell 1963).

    The angle, in turns, is arctan(x2 / x1) / 2 pi, plus 1/2 where x1 < 0. The same
    angle, seen from the axis x2, jumps where that one jumps (x1 = 0, x2 < 0) and is
    smooth where x1 = 0 < x2.
    """
    turns = jnp.arctan2(-y[0], y[1]) / (2.0 * math.pi) + 0.25
    height = 10.0 * (y[2] - args["pitch"] * turns)
    radius = 10.0 * (jnp.hypot(y[0], y[1]) - args["radius"])
    return jnp.stack([height, radius, y[2]])


def powell_singular(y, args):
    """MGH 13 and 22 (Powell 1962), in blocks of four unknowns."""
    a, b, c, d = y.reshape(-1, 4).T
    rows = [
        a + 10.0 * b,
        math.sqrt(5.0) * (c - d),
        (b - 2.0 * c) ** 2,
        math.sqrt(10.0) * (a - d) ** 2,
    ]
    return jnp.stack(rows, axis=1).ravel() - args["shift"]


def watson_tables(n: int) -> tuple[np.ndarray, np.ndarray]:
    """t_i^(j-1) and its derivative in t, for t_i = i / 29 and j = 1, ..., n."""
    t = counting(29)[:, None] / 29.0
    order = counting(n, first=0)[None, :]
    return t**order, order * t ** np.maximum(order - 1.0, 0.0)


def watson(y, args):
    """MGH 20 (Kowalik and Osborne 1968): u' - u^2 = 1, u(0) = 0, by a polynomial."""
    values, slopes = watson_tables(y.size)
    equation = slopes @ y - (values @ y) ** 2 - args["target"]
    start = jnp.stack([y[0], y[1] - y[0] ** 2 - 1.0])
    return jnp.concatenate([equation, start])


def trigonometric(y, args):
    """MGH 26 (Spedicato 1975)."""
    n = y.size
    cosines = jnp.cos(y)
    own = counting(n) * (1.0 - cosines) - jnp.sin(y)
    return n - jnp.sum(cosines) + own - args["shift"]


def brown_almost_linear(y, args):
    """MGH 27 (Brown 1969): n - 1 linear equations and a product."""
    linear = y[:-1] + jnp.sum(y) - args["total"]
    return jnp.append(linear, jnp.prod(y) - args["product"])


def discrete_boundary_value(y, args):
    """MGH 28 (Moré and Cosnard 1979): u'' = (u + t + 1)^3 / 2, u(0) = u(1) = 0."""
    n = y.size
    left, right = jnp.pad(y, (1, 0))[:-1], jnp.pad(y, (0, 1))[1:]
    force = 0.5 * (y + mesh(n) + args["offset"]) ** 3
    return 2.0 * y - left - right + force / (n + 1) ** 2


def discrete_integral(y, args):
    """MGH 29 (Moré and Cosnard 1979): the same, through Green's function."""
    n = y.size
    t = mesh(n)
    cubes = (y + t + args["offset"]) ** 3
    below = jnp.cumsum(t * cubes)
    weighted = (1.0 - t) * cubes
    above = jnp.sum(weighted) - jnp.cumsum(weighted)
    return y + ((1.0 - t) * below + t * above) / (2.0 * (n + 1))


def broyden_tridiagonal(y, args):
    """MGH 30 (Broyden 1965)."""
    left, right = jnp.pad(y, (1, 0))[:-1], jnp.pad(y, (0, 1))[1:]
    return (3.0 - 2.0 * y) * y - left - 2.0 * right + args["constant"]


def broyden_banded(y, args):
    """MGH 31 (Broyden 1971): five neighbours to the left, one to the right."""
    n = y.size
    offset = np.arange(n)[None, :] - np.arange(n)[:, None]
    near = ((offset >= -5) & (offset <= 1) & (offset != 0)).astype(np.float64)
    return y * (2.0 + 5.0 * y**2) + args["constant"] - near @ (y * (1.0 + y))


def chebyshev(y, degree: int):
    """T_1, ..., T_degree at each unknown: one row for each degree."""
    rows = [jnp.ones_like(y), jnp.asarray(y)]
    for _ in range(degree - 1):
        rows.append(2.0 * y * rows[-1] - rows[-2])
    return jnp.stack(rows[1:])


def chebyshev_moments(degree: int) -> np.ndarray:
    """The mean of T_1, ..., T_degree over [-1, 1]: 0 if odd, -1 / (i^2 - 1) if even."""
    i = counting(degree)
    return np.where(i % 2 == 0, -1.0 / np.where(i == 1.0, 1.0, i**2 - 1.0), 0.0)
