"""Error bars on the derivatives of decorated, host, chained and nested solves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import implicax as ix

from ..oracles import relative_error

W = np.random.default_rng(3).normal(size=(6, 6)) / np.sqrt(6)
X = jnp.asarray(np.random.default_rng(4).normal(size=6))


def residual(y, x):
    return y + y**3 / 3 - 0.5 * W @ jnp.tanh(y) - x


def residual_numpy(y, x):
    return y + y**3 / 3 - 0.5 * W @ np.tanh(y) - x


def loss(y, x):
    return jnp.sum(jnp.sin(y) * (1 + x))


def truth(solve):
    """The gradient at a solution to rounding, its adjoint solved by NumPy."""
    y, x = np.asarray(solve), np.asarray(X)
    jacobian = np.diag(1 + y**2) - 0.5 * W / np.cosh(y) ** 2
    u = np.linalg.solve(jacobian.T, np.cos(y) * (1 + x))
    return np.sin(y) + u


def by_scipy(tol, y0, x):
    return scipy.optimize.root(residual_numpy, y0, args=(x,), tol=tol).x


def by_steps(tol, y0, x):
    """Plain iteration that stops at a step of `tol`: what a legacy code may do."""
    y, step = y0, np.inf
    while np.max(np.abs(step)) > tol:
        step = -0.3 * residual_numpy(y, x)
        y = y + step
    return y


LEGACY = {"scipy": (by_scipy, [1e-1, 1e-2, 1e-3]), "steps": (by_steps, [1e-3, 1e-6])}


@pytest.mark.parametrize("legacy", LEGACY)
def test_error_bars_of_a_host_solver(legacy):
    """As loosely converged as the solver leaves it: predicted over true in [0.5, 2]."""
    solver, tolerances = LEGACY[legacy]
    y0, problem = jnp.zeros(6), ix.Root(residual)
    exact = truth(by_scipy(1e-14, np.zeros(6), np.asarray(X)))
    certify = jax.jit(lambda y, x: ix.certify(loss, problem, y, x))
    tested = 0
    for tol in tolerances:
        host = ix.host(lambda y0, x, tol=tol: solver(tol, y0, x))
        solve = ix.custom_root(residual, on_failure="ignore")(host)
        certificate = certify(solve(y0, X).value, X)
        true = np.linalg.norm(certificate.gradient - exact)
        if true > 1e-11:
            tested += 1
            assert 0.5 <= float(certificate.gradient_error) / true <= 2, tol
            better = np.linalg.norm(certificate.corrected_gradient - exact)
            assert better < true
    assert tested >= 2


#: `y1 = cos(a y1)`, then `y2^3 + y2 = y1 + a`, as one problem in `(y1, y2)`.
def chained(y, a):
    return y[0] - jnp.cos(a * y[0]), y[1] ** 3 + y[1] - y[0] - a


#: `z = inner(z, a) / 2` around `inner^2 = a + z`: the inner solve depends on the outer.
def nested(y, a):
    return y[0] ** 2 - a - y[1], y[1] - y[0] / 2


def chained_truth(a):
    y1 = scipy.optimize.brentq(lambda y: y - np.cos(a * y), 0, 2, xtol=1e-15)
    y2 = scipy.optimize.brentq(lambda y: y**3 + y - y1 - a, 0, 2, xtol=1e-15)
    s = np.sin(a * y1)
    slope1 = -y1 * s / (1 + a * s)
    slope2 = (slope1 + 1) / (3 * y2**2 + 1)
    return (y1, y2), (slope1, slope2)


def nested_truth(a):
    """`4 z^2 = a + z`."""
    z = (1 + np.sqrt(1 + 16 * a)) / 8
    slope = 1 / np.sqrt(1 + 16 * a)
    return (2 * z, z), (2 * slope, slope)


BLOCKS = {"chained": (chained, chained_truth), "nested": (nested, nested_truth)}


@pytest.mark.parametrize("error", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("block", BLOCKS)
def test_error_bars_of_two_solves_as_one_block_problem(block, error):
    """Both values are off, in different amounts; the loss sees both and `a`."""
    fn, truth = BLOCKS[block]
    a = 1.3
    (y1, y2), (slope1, slope2) = truth(a)
    loss = lambda y, a: jnp.sin(y[0]) * y[1] ** 2 + a * y[1]
    exact = np.cos(y1) * y2**2 * slope1 + (2 * np.sin(y1) * y2 + a) * slope2 + y2
    value = (jnp.asarray(y1 + error), jnp.asarray(y2 - 0.3 * error))
    certificate = ix.certify(loss, ix.Root(fn), value, a)
    true = abs(float(certificate.gradient) - exact)
    assert 0.5 <= float(certificate.gradient_error) / true <= 2
    assert abs(float(certificate.corrected_gradient) - exact) < 0.1 * true


def test_the_block_problem_has_the_gradient_of_the_chain():
    """Two decorated solves, one after the other, and the block problem agree."""
    first = ix.custom_fixed_point(lambda y, a: jnp.cos(a * y))(
        ix.host(lambda y0, a: chained_truth(float(a))[0][0])
    )
    second = ix.custom_root(lambda y, p: y**3 + y - p[0] - p[1])(
        ix.host(lambda y0, p: chained_truth(float(p[1]))[0][1])
    )

    def composite(a):
        y1 = first(1.0, a).value
        y2 = second(1.0, (y1, a)).value
        return jnp.sin(y1) * y2**2 + a * y2

    loss = lambda y, a: jnp.sin(y[0]) * y[1] ** 2 + a * y[1]
    value = tuple(jnp.asarray(y) for y in chained_truth(1.3)[0])
    certificate = ix.certify(loss, ix.Root(chained), value, 1.3)
    slope = jax.jit(jax.grad(composite))(1.3)
    assert relative_error(slope, np.asarray(certificate.gradient)) <= 1e-12
    assert bool(certificate.ok)
