"""Equations that people could not solve, from bug reports and questions: the default
finds the root from their start, its derivative is right, and the certificate says so.

Each set of equations is written once, for `jax.numpy` and for mpmath.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicax as ix

from .. import field_equations as eq
from ..field_oracles import root, root_slope


class Case(NamedTuple):
    """Equations, and the starts from which they are to be solved."""

    source: str
    #: Of unknowns, arguments (two sequences) and a module that has `exp`.
    equations: Callable[[Any, Any, Any], list[Any]]
    #: One for each lane: numbers, or rows of numbers.
    starts: Any
    #: One row for each lane, or one for all.
    args: Any
    #: Near the solution, a row likewise. `None`: whichever is found is right.
    near: Any = None
    solve: Callable[..., Any] = ix.root
    rtol: float = 1e-8
    certified: bool = True

    def fn(self, y, a):
        if y.ndim == 0:
            return self.equations([y], a, jnp)[0]
        out = self.equations(y, a, jnp)
        return jnp.stack(out) if isinstance(out, list) else out

    def lanes(self):
        starts, args = np.asarray(self.starts, float), np.asarray(self.args, float)
        return starts, np.broadcast_to(args, (len(starts), args.shape[-1]))

    def residual(self, y, a, m):
        out = np.asarray(self.equations(y, a, m))
        return out if self.solve is ix.root else y - out


PIPES = [
    *([y0, 1e5, 1e-5] for y0 in (0.02, 1.0, 1e-4, 10.0)),
    *([y0, 1e6, 1e-5] for y0 in (0.02, 1.0)),
    *([y0, 1e8, 1e-9] for y0 in (0.02, 1.0)),
    *([y0, 4e3, 0.05] for y0 in (0.02, 1.0)),
    *([0.02, Re, 1e-5] for Re in np.geomspace(3e3, 1e8, 50)),
]
MIDDLE = eq.camera((2400, 900))
BORDER = np.array([eq.camera((2898, 2)), eq.camera((2912, 4))])
POSITIVE = [0.1783, 0.1751, 0.4163, 0.0547, 0.1755]

CASES = {
    "cascade": Case(
        "SciML/NonlinearSolve.jl#52",
        eq.cascade,
        [10.0],
        eq.CASCADE,
        [240.9],
    ),
    "battery": Case(
        "scipy/scipy#4227",
        eq.battery,
        [45.0, 30.0, 0.0, 59.0, 75.0],
        [9.889, -2.403, -0.167, 4.964, -2.369, -0.125],
        [57.1],
    ),
    "Redlich-Kwong": Case(
        "Cantera/cantera#1699",
        eq.redlich_kwong,
        [eq.GAS * eq.HYDROGEN[0] / eq.HYDROGEN[1]],
        eq.HYDROGEN,
        [1.31e-4],
    ),
    "Redlich-Kwong, cubic": Case(
        "Cantera/cantera#1699",
        eq.redlich_kwong_cubic,
        [eq.GAS * eq.HYDROGEN[0] / eq.HYDROGEN[1]],
        eq.HYDROGEN,
        [1.31e-4],
        certified=False,
    ),
    "Peng-Robinson": Case(  # of three volumes the one at whose side it starts
        "Cantera/cantera#1721",
        eq.peng_robinson,
        [1.1 * eq.COVOLUME, eq.GAS * 300 / 101325],
        [300.0, 101325.0],
        [[4.8e-5], [0.024]],
    ),
    "camera": Case(
        "opencv/opencv#20736", eq.distorted, [MIDDLE[:2]], MIDDLE, [0.2036, -0.0807]
    ),
    "camera, iterated": Case(
        "opencv/opencv#20736",
        eq.undistorting,
        [MIDDLE[:2]],
        MIDDLE,
        [0.2036, -0.0807],
        ix.fixed_point,
        certified=False,
    ),
    "radial distortion": Case(
        "kornia/kornia#4285",
        eq.radial_map,
        [[3.0, -0.01]],
        [3.0, -0.01, 0.5, 0.0],
        [1.4, -0.005],
        ix.fixed_point,
    ),
    "reforming": Case(
        "Stack Overflow 64656440",
        eq.reforming,
        [[0.2] * 5],
        [1.045, 0.1759, 0.3159, 0.5],
        POSITIVE,
    ),
    "reforming, products": Case(
        "Stack Overflow 64656440",
        eq.reforming_products,
        [[0.2] * 5],
        [1.045, 0.1759, 0.3159, 0.5],
        POSITIVE,
        certified=False,
    ),
    "Lorenz": Case(
        "SciML/NonlinearSolve.jl#526", eq.lorenz, [[1.0, 0.0, 0.0]], [10.0, 26.0, 8 / 3]
    ),
    "Colebrook": Case(
        "e2nIEE/pandapipes#211",
        eq.colebrook,
        [row[0] for row in PIPES],
        [row[1:] for row in PIPES],
        [0.01],
    ),
    "p-n junction": Case(
        "scicomp.stackexchange 10177",
        eq.junction,
        [[0.0] * 10],
        eq.JUNCTION,
        eq.NEUTRAL,
    ),
    "diodes in series": Case(
        "SpiceSharp/SpiceSharp#98",
        eq.diodes,
        [[0.0] * 12],
        [24.0, 1e3, 1e-14, 0.02585, 1e-12],
        [0.02585 * math.log(0.0156 / 1e-14) * k for k in range(12, 0, -1)],
    ),
    "flash": Case(
        "jkitchin/differentiable-flowsheets#169",
        eq.flash,
        [0.5, 0.01, 0.99] * 3,
        [K for K in eq.FLASHES for _ in range(3)],
        [eq.between_poles(K) for K in eq.FLASHES for _ in range(3)],
    ),
}


def each(run, *lanes):
    """One program, lane by lane: quicker to compile than one for all of them."""
    found = [jax.device_get(run(*lane)) for lane in zip(*lanes, strict=True)]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *found)


def solved(case, weights):
    """The solution, the gradient of the weighted sum of the unknowns, and a certificate
    at the solution or, times a factor, next to it."""
    loss = lambda y, a: jnp.sum(weights * jnp.atleast_1d(y))
    problem = (ix.Root if case.solve is ix.root else ix.FixedPoint)(case.fn)

    def run(y0, a, factor):
        def total(a):
            found = case.solve(case.fn, y0, a, on_failure="ignore")
            return loss(found.value, a), found

        (_, found), slope = jax.value_and_grad(total, has_aux=True)(a)
        if not case.certified:
            return found, slope, None
        return found, slope, ix.certify(loss, problem, found.value * factor, a)

    return jax.jit(run)


def off(value, right):
    """The largest relative error of an unknown, for each lane."""
    error = np.abs(value.reshape(right.shape) - right)
    return np.max(error / np.where(right == 0, 1, np.abs(right)), axis=1)


@pytest.mark.parametrize("name", CASES)
def test_what_others_do_not_find(name):
    case = CASES[name]
    starts, args = case.lanes()
    shape = starts.reshape(len(starts), -1).shape
    unit = np.ones(shape[1]) if case.near is None else np.atleast_2d(case.near)[0]
    weights = (1 + 0.3 * np.arange(shape[1])) / np.where(unit == 0, 1, np.abs(unit))
    run, ones = solved(case, weights), np.ones(len(starts))
    found, gradient, certificate = each(run, starts, args, ones)
    assert np.all(found.converged), found

    near = found.value.reshape(shape) if case.near is None else np.asarray(case.near)
    near = np.broadcast_to(near, shape)
    rows = zip(near, args, strict=True)
    right = np.array([root(case.residual, *row) for row in rows])
    assert np.all(off(found.value, right) < case.rtol)

    rng = np.random.default_rng(0)
    along = rng.uniform(0.3, 1, args.shape) * rng.choice([-1, 1], args.shape)
    along = along * np.where(args == 0, 1.0, args)
    rows = zip(right, args, along, strict=True)
    slope = np.array([weights @ root_slope(case.residual, *row) for row in rows])
    came = np.sum(gradient * along, 1)
    np.testing.assert_allclose(came, slope, rtol=max(1e-6, case.rtol), atol=1e-12)
    if not case.certified:
        return

    assert np.all(certificate.ok), certificate
    _, _, beside = each(run, starts, args, (1 + 1e-4) * ones)
    for evidence in (certificate, beside):  # what is ok has an honest error bar
        error = np.abs(np.sum(evidence.gradient * along, 1) - slope)
        bar = np.sum(evidence.gradient_errors * np.abs(along), 1)
        assert np.all(~evidence.ok | (error <= 5 * bar + 1e-9 * np.abs(slope)))


#: Solutions that nobody meant are solutions: what is not allowed is a value that
#: leaves an equation unsolved.
HONEST = {
    "camera, at the border": Case(  # beyond the fold
        "opencv/opencv#27916", eq.distorted, BORDER[:, :2], BORDER
    ),
    "camera, at the border, iterated": Case(
        "opencv/opencv#27916",
        eq.undistorting,
        BORDER[:, :2],
        BORDER,
        None,
        ix.fixed_point,
    ),
    "carbonate": Case(  # with negative concentrations
        "Stack Overflow 69251975", eq.carbonate, [[1.0] * 9], eq.CARBONATE
    ),
    "cosine": Case(
        "", lambda y, a, m: [m.cos(a[0] * y[0])], [1e12], [1.2], None, ix.fixed_point
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_converged_is_solved(name):
    case = HONEST[name]
    solve = lambda y, a: case.solve(case.fn, y, a, on_failure="ignore", max_steps=500)
    found, args = each(jax.jit(solve), *case.lanes()), case.lanes()[1]
    assert np.any(found.converged)
    for value, a in zip(
        found.value[found.converged], args[found.converged], strict=True
    ):
        value = np.atleast_1d(value)[None]
        assert off(value, root(case.residual, value[0], a)[None]) < 1e-6
