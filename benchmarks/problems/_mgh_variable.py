"""Problems 23 to 25 and 32 to 35 of Moré, Garbow and Hillstrom: any dimension.

ACM TOMS 7(1), 1981, section 3. Numbers 21 and 22 extend 1 and 13, and numbers 26 to
31 are in `_systems`.
"""

import math

import jax.numpy as jnp
import numpy as np

from benchmarks.problems._systems import chebyshev, counting


def penalty_1(y, args):
    """23 (Gill, Murray and Pitfield 1972)."""
    small = jnp.sqrt(args["weight"]) * (y - 1.0)
    return jnp.append(small, jnp.sum(y**2) - args["total"])


def penalty_2(y, args):
    """24 (Gill, Murray and Pitfield 1972)."""
    n = y.size
    tenth = jnp.exp(y / 10.0)
    i = counting(n)[1:] / 10.0
    pairs = tenth[1:] + tenth[:-1] - (np.exp(i) + np.exp(i - 0.1))
    singles = tenth[1:] - math.exp(-0.1)
    small = jnp.sqrt(args["weight"]) * jnp.concatenate([pairs, singles])
    total = jnp.sum(counting(n)[::-1] * y**2) - args["total"]
    return jnp.concatenate([y[:1] - args["first"], small, total[None]])


def variably_dimensioned(y, args):
    """25."""
    error = y - args["target"]
    total = jnp.sum(counting(y.size) * error)
    return jnp.concatenate([error, jnp.stack([total, total**2])])


def linear_full_rank(y, args):
    """32, as many residuals as there are targets."""
    m = args["targets"].size
    padded = jnp.pad(y, (0, m - y.size))
    return padded - 2.0 * jnp.sum(y) / m - args["targets"]


def linear_rank_1(y, args):
    """33: the solutions form a plane."""
    weighted = jnp.sum(counting(y.size) * y)
    return counting(args["targets"].size) * weighted - args["targets"]


def linear_rank_1_zeros(y, args):
    """34: the same, with a first and last column and row of zeros."""
    m = args["targets"].size
    weighted = jnp.sum(counting(y.size)[1:-1] * y[1:-1])
    factors = np.pad(counting(m - 2), 1)
    return factors * weighted - args["targets"]


def chebyquad(y, args):
    """35 (Fletcher 1965): equal-weight quadrature on [0, 1]."""
    degree = args["moments"].size
    return jnp.mean(chebyshev(2.0 * y - 1.0, degree), axis=1) - args["moments"]
