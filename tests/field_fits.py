"""Fits from bug reports and questions: the data, and the errors of the model, functions
of the parameters and of the data.
"""

import jax.numpy as jnp
import numpy as np


def exponential(t, levelled=True):
    """A curve with a rate."""

    def errors(y, seen):
        curve = y[0] * jnp.exp(y[1] * t)
        return curve + y[2] - seen if levelled else curve - seen

    return errors


DAYS = np.arange(36.0, 73.0)
INFECTED = [4, 4, 4, 6, 6, 13, 22, 22, 26, 28, 38, 48, 55, 65, 65, 92, 112, 134, 171]
INFECTED += [210, 267, 307, 353, 436, 669, 669, 818, 1029, 1219, 1405, 1617, 1791]
INFECTED = np.array([*INFECTED, 2032, 2032, 2182, 2298, 2389], float)
outbreak = exponential(-DAYS)

DOSES = np.arange(62.5, 300.0, 25.0)
DECADES = [211.94, 139.30, 80.09, 48.29, 26.94, 12.12, 3.99, 1.02, 0.09, 0.02]
decades = exponential(DOSES, levelled=False)

TAUS = np.array([0.05, 0.1, 0.2, 0.5, 0.7, 1.0, 2.0])
COUNTS = [365.104, 331.764, 299.508, 241.281, 188.579, 144.728, 73.2627]
by_rate = exponential(-TAUS)


def by_time(y, seen):
    return y[0] * jnp.exp(-TAUS / y[1]) + y[2] - seen


AIR = 1 / np.cos(np.deg2rad(np.arange(0.0, 51.0, 5.0)))
SKY = [1.54378, 1.54341, 1.55381, 1.54877, 1.55381, 1.56225, 1.56568, 1.56822, 1.58282]
SKY = np.array([*SKY, 1.60016, 1.62545]) * 1e-5
SKY_SD = [1.0376, 1.05538, 1.82407, 2.07246, 1.65643, 1.76996, 1.75132, 2.05185]
SKY_SD = np.array([*SKY_SD, 1.28095, 1.07386, 1.9007]) * 1e-7


def weighted_sky(y, a):
    return (y[0] * AIR + y[1] - a[0]) / a[1]


def sky(y, seen):
    return y[0] * AIR + y[1] - seen


SAMPLED = """3 33 146 227 342 351 353 444 556 571 709 759 836 860 968 1056 1726 1846
1872 1986 2311 2366 2608 2676 3098 3278 3288 4434 5034 5049 5085 5089 5089 5097 5324
5389 5565 5623 6080 6380 6477 6740 7192 7447 7644 7837 7843 7922 8738 10089 10237 10258
10491 10625 10982 11175 11411 11442 11811 12559 12559 12791 13121 13486 14708 15251
15261 15277 15806 16185 16229 16358 17168 17458 17758 18287 18568 18728 19556 20567
21012 21308 23063 24127 25910 26770 27753 28460 28493 29361 30085 32408 35338 36799
37642 37654 37915 39715 40580 42015 42045 42188 42296 42296 45406 46653 47596 48296
49171 49416 50145 52042 52489 52875 53321 53443 54433 55381 56463 56485 56560 57042
62551 62651 62661 63732 64103 64893 71043 74364 75409 76057 81542 82702 84566 88682"""
SAMPLED = np.array(SAMPLED.split(), float)


def species(y, seen):
    return y[0] * (1 - jnp.exp(-SAMPLED / y[1])) ** y[2] - seen


STEPS = np.arange(1.0, 12.0)
NOISE = [0.11, -0.07, 0.16, -0.19, 0.02, 0.08, -0.13, 0.05, -0.02, 0.14, -0.09]
BENT = -3 + 5 * 0.7 ** (STEPS - 1) + 0.5 * STEPS + np.array(NOISE)


def line_and_power(y, seen):
    return y[0] + y[1] * y[2] ** STEPS + y[3] * STEPS - seen


CONC = np.log(np.repeat(12.5 / 2.0 ** np.array([8, 6, 5, 4, 3, 2, 1, 0]), 2))
DENSITY = [0.017, 0.018, 0.121, 0.124, 0.206, 0.215, 0.377, 0.374, 0.614, 0.609]
DENSITY = np.array([*DENSITY, 1.019, 1.001, 1.334, 1.364, 1.730, 1.710])
CHICK_DAYS = np.array([0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 21.0])
CHICK = np.array([42, 51, 59, 64, 76, 93, 106, 125, 149, 171, 199, 205.0])


def logistic(x):
    return lambda y, seen: y[0] / (1 + jnp.exp((y[1] - x) / y[2])) - seen


elisa, chick = logistic(CONC), logistic(CHICK_DAYS)

HOURS = np.array([0.25, 0.5, 0.75, 1, 1.25, 2, 3, 4, 5, 6, 8])
BLOOD = np.array([1.5, 0.94, 0.78, 0.48, 0.37, 0.19, 0.12, 0.11, 0.08, 0.07, 0.05])


def indometacin(y, seen):
    decay = lambda log_rate: jnp.exp(-jnp.exp(log_rate) * HOURS)
    return y[0] * decay(y[1]) + y[2] * decay(y[3]) - seen


LIVES = """1468 1872 475 1372 3830 1849 978 1389 909 701 1227 962 1781 580 584 2675 841
1544 452 955 556 1737 747 1565 1331 1188 2649 1800 2718 808 1138 909 1359 846 1334 1397
719 1715 681 2002 994 2543 1564 1717 1106 1859"""
LIVES = np.array(LIVES.split(), float)


def weibull(y, life):
    k, s = y
    return -jnp.sum(jnp.log(k / s) + (k - 1) * jnp.log(life / s) - (life / s) ** k)


RESPONSES = np.array([0, 1, 1, 0, 0, 0, 1, 0, 1, 0, 0, 1, 0, 1, 1, 0.0])
FIRST = [66.06402, 58.40813, 58.58011, 59.05929, 55.81817, 58.00018, 69.53926]
FIRST += [55.73621, 79.80170, 55.40042, 57.42124, 78.22012, 53.54296, 56.14096]
SECOND = [-1.0264739, 0.2887934, 0.2626232, -0.5286438, -1.3184894, -0.8445602]
SECOND += [-1.1018149, -0.9000901, 0.6690657, 0.6600415, -0.7237973, -0.8121816]
COLUMNS = (
    np.array([*FIRST, 66.90146, 50.40008]),
    np.array([*SECOND, 0.2265636, 0.4216436, 0.6189839, 0.4311339]),
)


def nearly_separated(y, a):
    eta = y[0] + y[1] * a[0] + y[2] * a[1]
    return jnp.sum(jnp.logaddexp(0.0, eta) - RESPONSES * eta)


STATIONS = np.array(
    [[31.2297, 121.4734], [34.539, 69.171], [47.907, 106.91], [50.43, 80.25]]
)
CLEAN = np.array([3335.65, 2477.17, 1719.65, 1242.27])
ROUGH = np.array([4699.15, 2211.97, 1439.75, 1222.07])


def far_off(y, seen):
    """Kilometres on the sphere."""
    a, b = np.deg2rad(STATIONS), jnp.deg2rad(y)
    h = jnp.sin((a[:, 0] - b[0]) / 2) ** 2
    h = h + np.cos(a[:, 0]) * jnp.cos(b[0]) * jnp.sin((a[:, 1] - b[1]) / 2) ** 2
    return 2 * 6371.0 * jnp.arcsin(jnp.sqrt(h)) - seen


def relatively_far_off(y, seen):
    return far_off(y, seen) / seen


ASSAY = np.array([40, 100, 250, 400, 600, 800, 1150, 1400.0])
ABSORBED = [0.1879, 0.4257, 0.80975, 1.3038, 1.64305, 1.94055, 2.21605, 2.3917]


def immunoassay(y, seen):
    return (y[0] - y[3]) / (1 + (ASSAY / y[2]) ** y[1]) + y[3] - seen


PHASES = np.linspace(-np.pi, np.pi, 21)
FRINGE = [0.36166668, 0.37, 0.38499999, 0.435, 0.51666665, 0.58999997, 0.61166668]
FRINGE += [0.66500002, 0.75, 0.77999997, 0.78333336, 0.80500001, 0.74166667, 0.7183333]
FRINGE += [0.64833331, 0.57999998, 0.47333333, 0.43666667, 0.36500001, 0.34833333]
FRINGE = np.array([*FRINGE, 0.34])


def ramsey(y, seen):
    return y[0] * jnp.sin(2 * jnp.pi * y[1] * PHASES + y[2]) + y[3] - seen


SIX = np.array([[1, 7], [2, 6], [5, 8], [7, 7], [9, 5], [3, 7.0]])
EIGHT = np.array([*SIX, [6, 2], [8, 4]])


def circle(y, p):
    return jnp.hypot(p[:, 0] - y["c"][0], p[:, 1] - y["c"][1]) - y["r"]


def ellipse(y, p):
    c, s = jnp.cos(y["turn"]), jnp.sin(y["turn"])
    u, v = y["axes"][0] * jnp.cos(y["phi"]), y["axes"][1] * jnp.sin(y["phi"])
    return jnp.stack([y["c"][0] + c * u - s * v, y["c"][1] + s * u + c * v], 1) - p


AROUND = EIGHT - np.array([2.7, 3.8])
ELLIPSE = {
    "axes": np.array([6.0, 3.0]),
    "c": np.array([2.7, 3.8]),
    "phi": np.arctan2(AROUND[:, 1], AROUND[:, 0]) - 0.36,
    "turn": np.array(0.36),
}

CHANNELS = np.arange(26.0)
SPECTRUM = [5.47148124, 12.7641199, 10.5520335, 7.81368905, 10.8701392, 10.8787227]
SPECTRUM += [10.0332326, 8.15249647, 8.61988394, 8.52443419, 7.53936841, 10.0318872]
SPECTRUM += [7.65710259, 8.95254204, 10.6524348, 11.2790265, 8.19661276, 8.18792780]
SPECTRUM += [7.15575965, 8.63303942, 11.7185659, 9.48732399, 8.40356576, 6.44936477]
SPECTRUM = np.array([*SPECTRUM, 5.83580185, 7.23526272]) * 1e15


def baseline(y, seen):
    return (y[0] + y[1] * CHANNELS - seen) / (0.1 * seen)


def baseline_objective(y, seen):
    return jnp.sum(baseline(y, seen) ** 2)


RADII = [1.16, 1.143, 1.109, 1.093, 1.079, 1.066, 1.053, 1.040, 1.027, 1.015, 1.004]
RADII = np.array([*RADII, 0.994, 0.985, 0.977])
PARTED = [0.1806551, 0.2703113, 0.3757225, 0.5271811, 0.8665835, 1.0812568, 1.0612762]
PARTED += [1.0726612, 1.167927, 1.191092, 1.1336938, 1.1215107, 0.9619603, 0.8315467]


def tracer(y, seen):  # a strain modulus in Pa and radii in m
    d = RADII * 1e-10 - y[2]
    stiffness = 4 * jnp.pi * 6.0221415e23 * y[1] / (8.3144 * 1010.0)
    return jnp.log(y[0]) - stiffness * (y[2] / 2 * d**2 + d**3 / 3) - seen


def tracer_scaled(y, seen):
    return tracer(y * np.array([1.0, 1e9, 1e-10]), seen)


BENDS = np.linspace(0.1, 5, 20)
UNIT = [0.55, 0.72, 0.60, 0.54, 0.42, 0.65, 0.44, 0.89, 0.96, 0.38, 0.79, 0.53, 0.57]
UNIT += [0.93, 0.07, 0.09, 0.02, 0.83, 0.78, 0.87]
NANO = 1e-11 * np.array(UNIT) * np.exp(BENDS)


def nano(y, seen):
    return y[0] * jnp.exp(y[1] * BENDS / 4e-10) - seen


def nano_scaled(y, seen):
    return y[0] * jnp.exp(y[1] * BENDS / 0.4) - seen
