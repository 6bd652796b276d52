"""Equations from bug reports and questions, each written once, for `jax.numpy` and for
fifty digits: functions of the unknowns and the arguments, and of the module to use.
"""

import math

import numpy as np

GAS = 8.31446261815324  # J/(mol K)


def cascade(y, a, m):
    first = a[2] + a[3] / (1 + a[4] * y[0] ** 2)
    second = a[2] + a[3] / (1 + first**2)
    return [a[0] + a[1] / (1 + second**2) - a[5] * y[0]]


CASCADE = [0.01, 10.0, 0.21640425613334457, 216.40425613334457, 6.25e-4]
CASCADE += [0.0011552453009332421]


def battery(y, a, m):
    saturating = lambda volts, size, top, below: (
        size * (1 - m.exp((y[0] / volts - 1) * top / below))
    )
    return [saturating(60, a[0], a[1], a[2]) - saturating(80, a[3], a[4], a[5])]


def redlich_kwong(y, a, m):
    T, p, attraction, b = a
    (V,) = y
    return [GAS * T / (V - b) - attraction / (m.sqrt(T) * V * (V + b)) - p]


def redlich_kwong_cubic(y, a, m):
    T, p, attraction, b = a
    (V,) = y
    c = attraction / m.sqrt(T)
    return [p * V**3 - GAS * T * V**2 + (c - b * GAS * T - p * b**2) * V - c * b]


HYDROGEN = [271.8109054527264, 19614005.835764904, 0.14470695468544512]
HYDROGEN += [1.8439567747927248e-05]
METHANOL = {"T": 512.6, "p": 8.09e6, "omega": 0.565}  # critical point, acentric factor
COVOLUME = 0.07779607 * GAS * METHANOL["T"] / METHANOL["p"]


def peng_robinson(y, a, m):
    (V,), (T, p), b = y, a, COVOLUME
    kappa = 0.37464 + 1.54226 * METHANOL["omega"] - 0.26992 * METHANOL["omega"] ** 2
    alpha = (1 + kappa * (1 - m.sqrt(T / METHANOL["T"]))) ** 2
    attraction = 0.45723553 * (GAS * METHANOL["T"]) ** 2 / METHANOL["p"] * alpha
    return [GAS * T / (V - b) - attraction / (V**2 + 2 * b * V - b**2) - p]


#: Of a lens: the rational distortion with eight coefficients.
LENS = [2.9972164630889893, -6.0928826332092285, 0.0005746248061768711]
LENS += [-4.857033854932524e-05, -1.2618762254714966, 3.5340938568115234]
LENS += [-4.270793914794922, -5.302351951599121]


def camera(pixel):
    """Arguments: the distorted place of the pixel, and the lens."""
    u, v = pixel
    place = [(u - 1919.6131591796875) / 2421.791748046875]
    return [*place, (v - 1090.346435546875) / 2421.791748046875, *LENS]


def distortion(v, a):
    x, y = v
    k1, k2, p1, p2, k3, k4, k5, k6 = a[2:]
    r2 = x * x + y * y
    radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (
        1 + r2 * (k4 + r2 * (k5 + r2 * k6))
    )
    dx = 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    return radial, dx, p1 * (r2 + 2 * y * y) + 2 * p2 * x * y


def distorted(v, a, m):
    radial, dx, dy = distortion(v, a)
    return [v[0] * radial + dx - a[0], v[1] * radial + dy - a[1]]


def undistorting(v, a, m):  # OpenCV's own iteration
    radial, dx, dy = distortion(v, a)
    return [(a[0] - dx) / radial, (a[1] - dy) / radial]


def radial_map(v, a, m):
    r2 = v[0] ** 2 + v[1] ** 2
    s = 1 + r2 * (a[2] + r2 * a[3])
    return [a[0] / s, a[1] / s]


def carbonate(q, a, m):
    q1, q2, q3, q4, q5, q6, q7, q8, q9 = q
    henry, water, c1, c2, p1, p2, p3, potassium, phosphate, pressure = a
    return [
        q1 / pressure - henry,
        q2 * q3 - water,
        q2 * q4 / q1 - c1,
        q2 * q5 / q4 - c2,
        q2 * q7 / q6 - p1,
        q2 * q8 / q7 - p2,
        q2 * q9 / q8 - p3,
        q3 + q4 + 2 * q5 + q7 + 2 * q8 + 3 * q9 - q2 - potassium,
        q6 + q7 + q8 + q9 - phosphate,
    ]


CARBONATE = [3.39e-2, 1e-14, 4.47e-7, 4.69e-11, 6.92e-3, 6.17e-8, 4.79e-13]
CARBONATE += [1.0, 0.1, 4e-4]


def reforming(y, a, m):
    w, d, h, c, o = y
    return [
        w + d + h + c + o - 1,
        a[0] - w**2 / (o * h**2),
        a[1] - o**2 / d,
        a[2] - c / h**2,
        a[3] - (2 * d + o + w) / (2 * w + 2 * h + 4 * c),
    ]


def reforming_products(y, a, m):
    w, d, h, c, o = y
    return [
        w + d + h + c + o - 1,
        a[0] * o * h**2 - w**2,
        a[1] * d - o**2,
        a[2] * h**2 - c,
        a[3] * (2 * w + 2 * h + 4 * c) - (2 * d + o + w),
    ]


def lorenz(y, a, m):
    x, y, z = y
    return [a[0] * (y - x), x * (a[1] - z) - y, x * y - a[2] * z]


def colebrook(y, a, m):
    root = m.sqrt(y[0])
    inner = 2.51 / (a[0] * root) + a[1] / 3.71
    return [1 / root + 2 / math.log(10) * m.log(inner)]


def junction(y, a, m):
    """Poisson's equation of a p-n junction, in SI units, at ten points."""
    volt, intrinsic, donors, acceptors, length = a
    h, charge = length / (len(y) + 1), 1.602176634e-19 / (11.7 * 8.8541878128e-12)
    doping = m.stack([-acceptors] * (len(y) // 2) + [donors] * (len(y) // 2))
    ends = [volt * m.asinh(d / (2 * intrinsic)) for d in (-acceptors, donors)]
    y = m.concatenate([m.stack(ends[:1]), y, m.stack(ends[1:])])
    holes, electrons = m.exp(-y[1:-1] / volt), m.exp(y[1:-1] / volt)
    bent = (y[:-2] - 2 * y[1:-1] + y[2:]) / h**2
    return bent + charge * (doping + intrinsic * (holes - electrons))


JUNCTION = [0.02585, 1e16, 1e22, 3e21, 1e-6]
NEUTRAL = [0.02585 * math.asinh(d / 2e16) for d in (-3e21, 1e22) for _ in range(5)]


def diodes(y, a, m):
    """Twelve in series behind a resistor."""
    supply, ohms, saturation, volt, leak = a
    y = m.concatenate([y, m.stack([0 * supply])])
    drops = y[:-1] - y[1:]
    currents = saturation * (m.exp(drops / volt) - 1) + leak * drops
    return m.concatenate([m.stack([(y[0] - supply) / ohms]), -currents[:-1]]) + currents


FEED = np.array([5.0, 7, 860, 70, 30, 5, 10, 3, 5, 5]) / 1000


def flash(y, a, m):
    """Rachford and Rice, of ten components."""
    excess = a - 1
    return [m.sum(FEED * excess / (1 + y[0] * excess))]


def wilson(T=233.15, p=50e5):
    Tc = [126.2, 304.21, 190.56, 305.32, 369.83, 407.8, 425.12, 460.4, 469.7, 507.6]
    pc = [33.98, 73.83, 45.99, 48.72, 42.48, 36.4, 37.96, 33.8, 33.7, 30.25]
    omega = [0.038, 0.224, 0.012, 0.1, 0.152, 0.184, 0.2, 0.228, 0.252, 0.301]
    rows = zip(Tc, pc, omega, strict=True)
    return [q * 1e5 / p * math.exp(5.373 * (1 + w) * (1 - t / T)) for t, q, w in rows]


HEAVY = [0.35, 0.09, 0.05, 0.03, 0.012, 0.010, 0.003]
FLASHES = [[9.0, 1.1, 2.9, *HEAVY], [9.0, 0.9, 1.06, *HEAVY], wilson()]


def between_poles(K):
    """The one root there, by bisection."""
    low, high = 1 / (1 - max(K)), 1 / (1 - min(K))
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if flash([middle], np.array(K), np)[0] > 0 else (low, middle)
        )
    return [low]
