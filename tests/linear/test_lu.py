"""Gaussian elimination: what it leaves, and what it says of itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicax._linear.lu import EXCHANGES, factorise, permutation_of


def matrix(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, n))


@pytest.mark.parametrize("n", [1, 2, 5, EXCHANGES, EXCHANGES + 1, 3 * EXCHANGES])
def test_exchanges_make_a_permutation(n):
    matrices = jnp.asarray(np.stack([matrix(n, seed) for seed in range(3)]))
    _, pivots, wanted = jax.lax.linalg.lu(matrices)
    np.testing.assert_array_equal(jax.jit(jax.vmap(permutation_of))(pivots), wanted)
    np.testing.assert_array_equal(permutation_of(pivots[1]), wanted[1])


@jax.jit
def looked_at(J, b):
    factor = factorise(J)
    solved = [factor.solve(b, transposed) for transposed in (False, True)]
    return factor.singular, *solved


@pytest.mark.parametrize("n", [1, 6, 40])
@pytest.mark.parametrize("units", [0, 60])
def test_solutions_and_the_verdict_in_any_units(n, units):
    """Powers of two change nothing."""
    rng = np.random.default_rng(n)
    J, b = matrix(n), rng.normal(size=n)
    scale = 2.0 ** rng.integers(-units, units + 1, n)
    singular, forward, transposed = looked_at(scale[:, None] * J, scale * b)
    assert not singular
    np.testing.assert_allclose(forward, np.linalg.solve(J, b), rtol=1e-9)
    wanted = np.linalg.solve(J.T, scale * b) / scale
    np.testing.assert_allclose(transposed, wanted, rtol=1e-9)


@pytest.mark.parametrize("n", [6, 40, 150])
@pytest.mark.parametrize("units", [0, 8])
def test_a_singular_matrix_is_told(n, units):
    rng = np.random.default_rng(n)
    J = matrix(n)
    J[:, -1] = J[:, :-1] @ rng.normal(size=n - 1)
    rows, columns = 10.0 ** rng.uniform(-units, units, (2, n))
    assert looked_at(rows[:, None] * J * columns, rng.normal(size=n))[0]


def test_bad_units_are_not_called_singular():
    J = np.diag(10.0 ** np.linspace(-150, 150, 6)) @ (np.eye(6) + 0.1)
    assert not looked_at(J @ np.diag(10.0 ** np.linspace(100, -100, 6)), np.ones(6))[0]


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_a_row_that_is_nothing_is_told(bad):
    J = matrix(5)
    J[2] = bad
    assert looked_at(J, np.ones(5))[0]
