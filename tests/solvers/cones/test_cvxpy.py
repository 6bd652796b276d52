"""CVXPY problems as layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicax as ix

cp = pytest.importorskip("cvxpy")


class Regression:
    """Robust, with a norm, a semidefinite and an exponential constraint."""

    def __init__(self):
        self.x, self.S = cp.Variable(3), cp.Variable((2, 2), PSD=True)
        self.a, self.F = cp.Parameter(3), cp.Parameter((4, 3))
        self.level = cp.Parameter(nonneg=True)
        cost = cp.sum_squares(self.F @ self.x - 1) + self.level * cp.norm1(self.x)
        cost = cost + cp.trace(self.S) + self.a @ self.x + self.level
        constraints = [
            cp.norm(self.x) <= 2,
            self.S[0, 1] == self.x[0],
            cp.exp(self.x[1]) <= 3,
            cp.sum(self.x) >= 0.1,
        ]
        self.problem = cp.Problem(cp.Minimize(cost), constraints)
        self.parameters = [self.a, self.F, self.level]
        rng = np.random.default_rng(0)
        shapes = (3,), (4, 3)
        self.values = (*(jnp.array(rng.normal(size=s)) for s in shapes), jnp.array(0.3))


@pytest.fixture(scope="module")
def regression():
    made = Regression()
    layer = ix.cvxpy_layer(made.problem, made.parameters, [made.x, made.S])
    return made, layer


def test_values_and_multipliers_are_those_of_cvxpy(regression):
    made, layer = regression
    found = layer(*made.values)
    for parameter, value in zip(made.parameters, made.values, strict=True):
        parameter.value = np.asarray(value)
    made.problem.solve(solver=cp.CLARABEL)
    np.testing.assert_allclose(found.value[0], made.x.value, atol=1e-7)
    np.testing.assert_allclose(found.value[1], made.S.value, atol=1e-7)
    np.testing.assert_allclose(found.objective, made.problem.value, rtol=1e-8)
    for constraint, dual in zip(made.problem.constraints, found.dual, strict=True):
        np.testing.assert_allclose(dual, constraint.dual_value, atol=1e-6)
    # (What CVXPY has put in for `exp(x[1])` is free, the variables are not.)
    assert found.free.any()
    assert not found.degeneracy.not_unique


def test_derivatives(regression):
    made, layer = regression
    rng = np.random.default_rng(1)
    way = jax.tree.map(lambda a: jnp.array(rng.normal(size=a.shape)), made.values)

    def loss(t):
        moved = jax.tree.map(lambda a, d: a + t * d, made.values, way)
        found = layer(*moved)
        x, S = found.value
        return jnp.sum(jnp.sin(x)) + jnp.sum(S**2) + found.objective

    both = jax.jit(
        jax.vmap(lambda t: (loss(t), jax.grad(loss)(t), jax.jvp(loss, (t,), (1.0,))[1]))
    )
    values, reverse, forward = both(jnp.array([-1e-6, 0.0, 1e-6]))
    np.testing.assert_allclose(forward, reverse, rtol=1e-10)
    np.testing.assert_allclose(forward[1], (values[2] - values[0]) / 2e-6, rtol=1e-6)
    certificate = layer.certify(lambda v, args: jnp.sum(jnp.sin(v[0])), *made.values)
    assert certificate.ok


def test_maximise():
    y, price = cp.Variable(), cp.Parameter(pos=True)
    objective = cp.Maximize(cp.log(y) - price * y + 2 * price)
    layer = ix.cvxpy_layer(cp.Problem(objective), [price], [y])
    value, slope = jax.value_and_grad(lambda p: layer(p).objective)(2.0)
    np.testing.assert_allclose(value, np.log(0.5) + 3, rtol=1e-10)
    np.testing.assert_allclose(slope, 1.5, rtol=1e-10)
    np.testing.assert_allclose(jax.grad(lambda p: layer(p).value[0])(2.0), -0.25)


def test_infeasible_lanes():
    y, least = cp.Variable(2), cp.Parameter()
    problem = cp.Problem(cp.Minimize(cp.sum_squares(y)), [y <= 1, cp.sum(y) >= least])
    layer = ix.cvxpy_layer(problem, [least], [y])
    found = jax.vmap(layer)(jnp.array([1.0, 3.0]))
    assert found.status.name.tolist() == ["converged", "infeasible"]
    assert np.isnan(found.value[0][1]).all()
    np.testing.assert_allclose(found.value[0][0], 0.5, rtol=1e-10)


def test_misuse_is_explained(regression):
    made, layer = regression
    p, y = cp.Parameter(), cp.Variable()
    with pytest.raises(TypeError, match=r"must be a cvxpy\.Problem"):
        ix.cvxpy_layer(3, [], [])
    with pytest.raises(ValueError, match="Missing"):
        ix.cvxpy_layer(made.problem, [made.a], [made.x])
    with pytest.raises(ValueError, match="Not in the problem"):
        ix.cvxpy_layer(made.problem, [*made.parameters, p], [made.x])
    with pytest.raises(ValueError, match="Not variables of the problem"):
        ix.cvxpy_layer(made.problem, made.parameters, [y])
    squared = cp.Problem(cp.Minimize(cp.square(p * p * y - 1)))
    with pytest.raises(ValueError, match="disciplined parametrised"):
        ix.cvxpy_layer(squared, [p], [y])
    k = cp.Variable(integer=True)
    with pytest.raises(ValueError, match="integer variables"):
        ix.cvxpy_layer(cp.Problem(cp.Minimize(cp.square(k - p))), [p], [k])
    with pytest.raises(TypeError, match="3 parameters, and 1 values"):
        layer(1.0)
    with pytest.raises(ValueError, match=r"Parameter 0 has shape \(3,\)"):
        layer(jnp.ones(2), *made.values[1:])
