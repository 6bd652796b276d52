"""Projections onto convex cones: nearest points, and how they move."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicax as ix

CONES = [
    ix.cones.Zero(3),
    ix.cones.Nonnegative(3),
    ix.cones.SecondOrder(4),
    ix.cones.SecondOrder(1),
    ix.cones.Semidefinite(3),
    ix.cones.Exponential(),
    ix.cones.Power(0.3),
]
POINTS = 300


@pytest.mark.parametrize("cone", CONES, ids=str)
def test_nearest_points(cone):
    """By what says that a point is the nearest (Moreau): the rest is orthogonal to it,
    and in the polar cone; and the derivative is symmetric, and that of differences."""
    rng = np.random.default_rng(0)
    sizes = 10.0 ** rng.uniform(-1, 1, (POINTS, 1))
    v = jnp.array(rng.normal(size=(POINTS, cone.size)) * sizes)
    project = jax.jit(jax.vmap(cone.project))
    near, scale = project(v), jnp.abs(v).max(1, keepdims=True)
    eps = 1e-14
    assert (jnp.abs(jnp.sum(near * (v - near), 1)) <= eps * jnp.sum(v**2, 1)).all()
    assert (jnp.abs(project(near) - near) <= eps * scale).all()
    assert (jnp.abs(project(v - near)) <= eps * scale).all()
    slopes = jax.jit(jax.vmap(jax.jacfwd(cone.project)))(v)
    np.testing.assert_allclose(slopes, jnp.swapaxes(slopes, 1, 2), atol=1e-13)
    way = jnp.array(rng.normal(size=v.shape))
    change = (project(v + 1e-6 * way) - project(v - 1e-6 * way)) / 2e-6
    # (A kink between the two points is told by none.)
    off = jnp.abs(change - jnp.einsum("kij,kj->ki", slopes, way)).max(1)
    assert (off > 1e-5).mean() < 0.01
    again = jax.jit(jax.vmap(jax.jacrev(cone.project)))(v)
    np.testing.assert_allclose(again, slopes, atol=1e-13)
    bent = jax.jit(jax.vmap(jax.jacfwd(jax.jacrev(cone.project))))(v[:50])
    assert np.isfinite(bent).all()
    narrow = project(v.astype(jnp.float32))
    assert narrow.dtype == jnp.float32
    assert (jnp.abs(narrow.astype(jnp.float64) - near) <= 1e-5 * scale).all()


def test_corners_of_the_exponential_cone():
    points = jnp.array(
        [
            [-100.0, 1e-4, 1.0],
            [1e-6, -5.0, 2.0],
            [-1e6, 1.0, -3.0],
            [800.0, 1.0, 0.0],
            [1.0, 1e-300, 1.0],
            [1e8, -1e-8, 1e-8],
            [0.0, 0.0, 0.0],
            [-1.0, 0.0, 1.0],
            [0.0, -1.0, 5.0],
        ]
    )
    cone = ix.cones.Exponential()
    near = jax.vmap(cone.project)(points)
    size = jnp.abs(points).max(1) + 1e-300
    assert (jnp.abs(jnp.sum(near * (points - near), 1)) <= 1e-14 * size**2).all()
    assert np.isfinite(jax.vmap(jax.jacfwd(cone.project))(points)).all()


def test_equal_eigenvalues():
    """The projection of a matrix has a derivative where eigenvalues meet."""
    cone = ix.cones.Semidefinite(3)
    matrix = jnp.diag(jnp.array([2.0, 2.0, -1.0]))
    slopes = jax.jacfwd(cone.project)(cone.vector(matrix))
    steps = 1e-6 * jnp.eye(cone.size)
    v = cone.vector(matrix)
    change = [(cone.project(v + s) - cone.project(v - s)) / 2e-6 for s in steps]
    np.testing.assert_allclose(slopes, np.stack(change, 1), atol=1e-8)
    np.testing.assert_allclose(cone.matrix(v), matrix, atol=1e-15)


def test_misuse_is_explained():
    with pytest.raises(ValueError, match="positive whole number"):
        ix.cones.SecondOrder(0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        ix.cones.Power(1.0)
