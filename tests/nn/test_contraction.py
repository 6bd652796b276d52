"""Weights with a guarantee: norms, monotone operators, Jacobians."""

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

import implicax as ix

from ..oracles import relative_error

W = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)))
ORDERS = {"spectral": 2, "frobenius": "fro", "infinity": np.inf}


@pytest.mark.parametrize("norm", ORDERS)
def test_the_norm_is_bounded(norm):
    size = np.linalg.norm(W, ORDERS[norm])
    for bound in (0.3, 0.9 * size, 1.1 * size):
        came = ix.nn.bounded(W, bound, norm)
        right = W * min(1, bound / size)
        assert relative_error(came, right) <= 1e-14
    jax.test_util.check_grads(
        lambda W: ix.nn.bounded(W, 0.3, norm), (W,), 1, rtol=1e-6, atol=1e-6
    )
    zero = jnp.zeros((3, 3))
    assert jnp.all(ix.nn.bounded(zero, 0.5, norm) == 0)
    one = jnp.eye(9).reshape(3, 3, 3, 3)
    slope, curvature = (
        jax.jacobian(lambda W: ix.nn.bounded(W, 0.5, norm))(zero),
        jax.hessian(lambda W: jnp.sum(ix.nn.bounded(W, 0.5, norm) ** 2))(zero),
    )
    assert relative_error(slope, one) == 0
    assert relative_error(curvature, 2 * one) == 0


def test_mistakes():
    with pytest.raises(ValueError, match="norm must be"):
        ix.nn.bounded(W, 0.5, "nuclear")
    with pytest.raises(ValueError, match="must be a matrix"):
        ix.nn.bounded(W[0])
    with pytest.raises(ValueError, match="real floating-point"):
        ix.nn.bounded(jnp.ones((2, 2), int))
    with pytest.raises(ValueError, match="bound must be positive"):
        ix.nn.bounded(W, -1.0)
    with pytest.raises((TypeError, ValueError), match="cell must return a state"):
        ix.nn.spectral_radius(lambda z, x: z[:2], W[0], W[0])
    with pytest.raises(ValueError, match="margin must be positive"):
        ix.nn.Monotone(3, 0.0, key=jax.random.key(0))
    with pytest.raises(ValueError, match="samples"):
        ix.nn.jacobian_penalty(
            lambda z, x: z, W[0], W[0], key=jax.random.key(0), samples=0
        )


@pytest.mark.parametrize("activation", [jax.nn.relu, jnp.tanh])
def test_monotone_layers_have_one_equilibrium(activation):
    """However large the matrix: the same from every start, and moved by at most `1 /
    margin` times what the input is moved by."""
    margin, n = 0.5, 8
    linear = ix.nn.Monotone(n, margin, key=jax.random.key(0))
    grown = jax.tree.map(lambda leaf: 4 * leaf, linear)
    assert jnp.linalg.norm(grown.weight, 2) > 4
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=n))
    layer = ix.nn.DEQ(lambda z, x: activation(grown(z) + x), solver=ix.Newton())
    starts = jnp.asarray(3 * rng.normal(size=(10, n)))
    found = jax.vmap(lambda z0: layer.solve(x, z0))(starts)
    assert jnp.all(found.converged)
    assert relative_error(found.value, jnp.tile(found.value[0], (10, 1))) <= 1e-8
    change = 1e-2 * jnp.asarray(rng.normal(size=n))
    moved = layer(x + change) - found.value[0]
    assert jnp.linalg.norm(moved) <= jnp.linalg.norm(change) / margin


Z = {"a": jnp.asarray([0.3, -0.2, 0.5]), "b": jnp.asarray([0.1, 0.7])}


def mixed(z, x):
    """A state of two leaves of different sizes."""
    return {
        "a": jnp.tanh(x * jnp.sum(z["b"]) * jnp.arange(1.0, 4.0)),
        "b": jnp.sin(z["a"][:2]) * z["b"],
    }


def jacobian(z, x):
    flat, unravel = jax.flatten_util.ravel_pytree(z)
    fn = lambda v: jax.flatten_util.ravel_pytree(mixed(unravel(v), x))[0]
    return jax.jacobian(fn)(flat)


def test_the_penalty_is_the_squared_frobenius_norm():
    """In the mean, with its gradient."""
    keys = {"key": jax.random.key(0), "samples": 20_000}

    def penalty(x):
        return ix.nn.jacobian_penalty(mixed, Z, x, **keys)

    def wanted(x):
        return jnp.sum(jacobian(Z, x) ** 2) / 5

    came = jax.jit(jax.value_and_grad(penalty))(0.4)
    right = jax.value_and_grad(wanted)(0.4)
    assert relative_error(came, right) <= 2e-2
    one = ix.nn.jacobian_penalty(mixed, Z, 0.4, key=jax.random.key(3))
    assert 0 < one < 10 * right[0]


def test_the_spectral_radius_of_complex_pairs():
    came = ix.nn.spectral_radius(mixed, Z, 0.4)
    right = np.max(np.abs(np.linalg.eigvals(jacobian(Z, 0.4))))
    assert relative_error(came, right) <= 1e-6
    turn = 0.9 * np.linalg.qr(np.random.default_rng(0).normal(size=(30, 30)))[0]
    rotating = lambda z, x: jnp.asarray(turn) @ z + x
    radius = ix.nn.spectral_radius(rotating, jnp.ones(30), jnp.zeros(30))
    assert relative_error(radius, 0.9) <= 1e-6
    slope = jax.grad(lambda x: ix.nn.spectral_radius(mixed, Z, x))(0.4)
    assert slope == 0
