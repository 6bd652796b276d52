"""Small programs of whole numbers: degenerate as often as not, and half of them without
a solution. Every verdict is checked by what it claims."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import implicax as ix

N, ROWS, EQUATIONS, COUNT = 5, 7, 2, 240


def draw(rng, quadratic):
    root = rng.integers(-2, 3, size=(rng.integers(0, N + 1), N)).astype(float)
    A = rng.integers(-1, 2, size=(EQUATIONS, N)).astype(float)
    b = rng.integers(-2, 3, size=EQUATIONS).astype(float)
    some = rng.uniform() < 0.5
    upper = rng.integers(-1, 4, size=ROWS).astype(float)
    lower = np.where(
        rng.uniform(size=ROWS) < 0.3, upper - rng.integers(0, 3, ROWS), -np.inf
    )
    least = np.where(
        rng.uniform(size=N) < 0.5, rng.integers(-2, 1, N).astype(float), -np.inf
    )
    most = np.where(rng.uniform(size=N) < 0.3, least + rng.integers(0, 4, N), np.inf)
    return {
        "P": root.T @ root * quadratic,
        "q": rng.integers(-3, 4, size=N).astype(float),
        "A": A * some,
        "b": b * some,
        "G": rng.integers(-2, 3, size=(ROWS, N)).astype(float),
        "h": (lower, np.where(rng.uniform(size=ROWS) < 0.2, np.inf, upper)),
        "bounds": (least, np.where(np.isfinite(least), most, np.inf)),
    }


def solved(data):
    data = dict(data)
    P, q = data.pop("P"), data.pop("q")
    return ix.quadratic_program(P, q, **data, on_failure="ignore")


@functools.cache
def drawn(dtype):
    rng = np.random.default_rng(0)
    programs = [draw(rng, k % 3 > 0) for k in range(COUNT)]
    batch = jax.tree.map(
        lambda *leaves: jnp.asarray(np.stack(leaves), dtype), *programs
    )
    return programs, jax.jit(jax.vmap(solved))(batch)


def least_value(data, q):
    """Of a linear objective, by HiGHS: `None` where nothing is feasible."""
    lower, upper = data["h"]
    G = np.concatenate([data["G"][np.isfinite(upper)], -data["G"][np.isfinite(lower)]])
    h = np.concatenate([upper[np.isfinite(upper)], -lower[np.isfinite(lower)]])
    bounds = list(zip(*data["bounds"], strict=True))
    found = scipy.optimize.linprog(
        q, G, h, data["A"], data["b"], bounds, method="highs"
    )
    return found.fun if found.status == 0 else None


@pytest.mark.parametrize(("dtype", "close"), [(float, 1e-7), (jnp.float32, 1e-3)])
def test_every_verdict_is_true(dtype, close):
    programs, solutions = drawn(dtype)
    names = np.asarray(solutions.status.name)
    told = ("converged", "infeasible", "unbounded")
    assert np.isin(names, told).mean() > 0.98
    for k, data in enumerate(programs):
        R = np.concatenate([data["A"], data["G"], np.eye(N)])
        lower, upper = (
            np.concatenate([data["b"], data["h"][s], data["bounds"][s]]) for s in (0, 1)
        )
        lane = jax.tree.map(lambda leaf, k=k: np.asarray(leaf[k], float), solutions)
        P, q, x = data["P"], data["q"], lane.value
        if names[k] == "converged":
            t = np.concatenate(jax.tree.leaves(lane.dual))
            size = 1 + np.abs(x).max() + np.abs(t).max()
            assert (R @ x <= upper + close * size).all()
            assert (R @ x >= lower - close * size).all()
            np.testing.assert_allclose(P @ x + q + R.T @ t, 0, atol=close * size)
            limit = np.where(t > 0, upper, lower)
            slack = np.where(t == 0, 0, R @ x - np.where(t == 0, 0, limit))
            np.testing.assert_allclose(t * slack, 0, atol=close * size**2)
            if not P.any():
                np.testing.assert_allclose(q @ x, least_value(data, q), atol=10 * close)
        if names[k] == "infeasible":
            t = np.concatenate(jax.tree.leaves(lane.farkas))
            limit = np.where(t > 0, upper, lower)
            assert np.isfinite(limit[t != 0]).all()
            np.testing.assert_allclose(R.T @ t, 0, atol=close * np.abs(t).max())
            assert t[t != 0] @ limit[t != 0] < 0
            assert least_value(data, 0 * q) is None
        if names[k] == "unbounded":
            d = lane.ray
            np.testing.assert_allclose(P @ d, 0, atol=close)
            assert (R @ d <= np.where(np.isfinite(upper), close, np.inf)).all()
            assert (R @ d >= np.where(np.isfinite(lower), -close, -np.inf)).all()
            assert q @ d < 0
            assert least_value(data, 0 * q) is not None
