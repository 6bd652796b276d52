"""Robust losses: formulas, slopes, limits, and fits that are differentiated."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicax as ix

from ..oracles import central, relative_error

SCALE = 0.7
LOSSES = {
    "Huber": ix.Huber,
    "SoftL1": ix.SoftL1,
    "Cauchy": ix.Cauchy,
    "Welsch": ix.Welsch,
    "Tukey": ix.Tukey,
}
#: `rho(z)` as the literature has it, with `rho'(0) = 1`.
FORMULAS = {
    "Huber": lambda z: np.where(z <= 1, z, 2 * np.sqrt(z) - 1),
    "SoftL1": lambda z: 2 * (np.sqrt(1 + z) - 1),
    "Cauchy": lambda z: np.log(1 + z),
    "Welsch": lambda z: 1 - np.exp(-z),
    "Tukey": lambda z: np.where(z <= 1, 1 - (1 - np.minimum(z, 1)) ** 3, 1) / 3,
}
#: Small and large, none within a difference's step of the scale.
ERRORS = np.array([-30.0, -3.0, -0.72, -0.5, -1e-3, 0.0, 0.2, 0.65, 0.75, 2.0, 1e3])


@pytest.mark.parametrize("name", LOSSES)
def test_formula(name):
    loss = LOSSES[name](SCALE)
    each = SCALE**2 * FORMULAS[name]((ERRORS / SCALE) ** 2) / 2
    np.testing.assert_allclose(loss.each(jnp.asarray(ERRORS)), each, atol=1e-15)
    np.testing.assert_allclose(loss.cost(jnp.asarray(ERRORS)), each.sum(), rtol=1e-14)
    # No cancellation where errors are small.
    tiny = jnp.asarray([1e-9, 1e-12])
    np.testing.assert_allclose(loss.each(tiny), tiny**2 / 2, rtol=1e-14)


@pytest.mark.parametrize("name", ["Huber", "SoftL1", "Cauchy"])
def test_the_objective_is_scipys(name):
    import scipy.optimize

    names = {"Huber": "huber", "SoftL1": "soft_l1", "Cauchy": "cauchy"}
    found = scipy.optimize.least_squares(
        lambda y: ERRORS, [0.0], loss=names[name], f_scale=SCALE, max_nfev=1
    )
    cost = LOSSES[name](SCALE).cost(jnp.asarray(ERRORS))
    np.testing.assert_allclose(cost, found.cost, rtol=1e-14)


@pytest.mark.parametrize("name", LOSSES)
def test_slopes_and_curvatures(name):
    loss, errors = LOSSES[name](SCALE), jnp.asarray(ERRORS)
    each = lambda e: np.asarray(loss.each(jnp.asarray(e)))
    slopes = lambda e: np.asarray(loss.slopes(jnp.asarray(e)))
    difference = lambda fn: central(lambda h: fn(ERRORS + h[0]), np.zeros(1), 2e-4)[
        :, 0
    ]
    np.testing.assert_allclose(loss.slopes(errors), difference(each), atol=1e-9)
    np.testing.assert_allclose(loss.curvatures(errors), difference(slopes), atol=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_extreme_errors_have_finite_derivatives(name):
    loss = LOSSES[name](SCALE)
    errors = jnp.asarray([0.0, 1e-200, 1e100, -1e100, SCALE])
    for of_it in (loss.each, loss.slopes, loss.curvatures):
        assert np.all(np.isfinite(of_it(errors)))


@pytest.mark.parametrize("name", LOSSES)
def test_float32_is_kept(name):
    loss, errors = LOSSES[name](SCALE), jnp.asarray(ERRORS, jnp.float32)
    for of_it in (loss.each, loss.cost, loss.slopes, loss.curvatures):
        assert of_it(errors).dtype == jnp.float32
    data = jnp.asarray([1.0, 1.1, 0.9, 1.02, 9.0], jnp.float32)
    start = jnp.asarray(1, jnp.float32)
    fit = ix.least_squares(lambda y, a: y - a, start, data, loss=loss)
    assert fit.value.dtype == fit.objective.dtype == jnp.float32


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan])
def test_the_scale_is_positive(scale):
    with pytest.raises(ValueError, match="scale must be positive"):
        ix.Huber(scale)


@pytest.mark.parametrize("scale", [True, np.ones(2), 1j])
def test_the_scale_is_a_number(scale):
    with pytest.raises(TypeError, match="scale must be a single real number"):
        ix.Cauchy(scale)


@pytest.mark.parametrize("loss", [1.0, "huber", ix.Huber])
def test_what_is_no_loss(loss):
    with pytest.raises(TypeError, match="loss"):
        ix.least_squares(lambda y, a: y, 1.0, loss=loss)


# A line through twelve points, two of them far off.

TIMES = np.linspace(-1, 1, 12)
DATA = 0.5 + 2 * TIMES + 0.05 * np.random.default_rng(5).normal(size=12)
DATA[[2, 9]] += [3.0, -2.5]
DATA = jnp.asarray(DATA)
WEIGHTS = jnp.asarray([0.3, -1.2])
START = jnp.asarray([0.5, 2.0])


def line(y, data):
    # Slightly curved: a fit whose errors are not linear in the unknowns.
    return y[0] + y[1] * TIMES + 0.1 * y[0] * y[1] * TIMES**2 - data


def fit(name, data, scale):
    return ix.least_squares(line, START, data, loss=LOSSES[name](scale))


def loss_of(name, data, scale):
    """A function of the fitted line."""
    y = fit(name, data, scale).value
    return jnp.sum(WEIGHTS * y) + y[0] * y[1] ** 2


def unrolled_loss_of(name, data, scale):
    """The same by fourteen Newton steps with the full Hessian, in plain JAX, on the
    formula of the loss."""

    def objective(y):
        z = (line(y, data) / scale) ** 2
        if name == "Huber":
            rho = jnp.where(z <= 1, z, 2 * jnp.sqrt(jnp.where(z <= 1, 1, z)) - 1)
        elif name == "Welsch":
            rho = 1 - jnp.exp(-z)
        elif name == "Tukey":
            rho = jnp.where(z <= 1, 1 - (1 - z) ** 3, 1) / 3
        elif name == "SoftL1":
            rho = 2 * (jnp.sqrt(1 + z) - 1)
        else:
            rho = jnp.log(1 + z)
        return scale**2 * jnp.sum(rho) / 2

    def newton(y, _):
        return y - jnp.linalg.solve(
            jax.hessian(objective)(y), jax.grad(objective)(y)
        ), None

    y, _ = jax.lax.scan(newton, START, None, length=14)
    return jnp.sum(WEIGHTS * y) + y[0] * y[1] ** 2


@functools.cache
def derivatives(name, oracle):
    function = functools.partial(unrolled_loss_of if oracle else loss_of, name)

    def first():
        """The value, its gradient, and its derivative by the scale in forward mode."""
        value, push = jax.linearize(function, DATA, scale)
        gradient = jax.linear_transpose(push, DATA, scale)(jnp.ones_like(value))
        return value, gradient, push(jnp.zeros_like(DATA), jnp.ones_like(scale))

    along = lambda t: function(DATA.at[:3].add(t), scale + t[0])
    scale, t = jnp.asarray(0.3), jnp.zeros(3)
    # (How second derivatives are taken does not depend on the loss: one convex one, and
    # one that is not.)
    twice = name in ("Huber", "Tukey")
    second = jax.jit(jax.jacfwd(jax.jacrev(along)))(t) if twice else None
    return *jax.jit(first)(), second


@pytest.mark.parametrize("name", LOSSES)
def test_a_fit_with_outliers_by_data_and_scale(name):
    came, expected = derivatives(name, False), derivatives(name, True)
    assert relative_error(came[:3], expected[:3]) <= 1e-8
    assert relative_error(came[1][1], expected[1][1]) <= 1e-8
    if expected[3] is not None:
        assert relative_error(came[3], expected[3]) <= 1e-8


@pytest.mark.parametrize("name", LOSSES)
def test_outliers_hardly_pull(name):
    robust = fit(name, DATA, 0.3).value
    plain = ix.least_squares(line, START, DATA).value
    off = lambda y: float(jnp.linalg.norm(y - START))
    assert off(robust) < 0.25 * off(plain)


@pytest.mark.parametrize("name", LOSSES)
def test_a_large_scale_is_plain_least_squares(name):
    plain, far = ix.least_squares(line, START, DATA), fit(name, DATA, 1e8)
    np.testing.assert_allclose(far.value, plain.value, rtol=1e-9)
    np.testing.assert_allclose(far.objective, plain.objective, rtol=1e-9)
