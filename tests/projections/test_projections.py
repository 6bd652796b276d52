"""Projections and proximal operators: nearest points, by independent means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import implicax as ix

jaxopt = pytest.importorskip("jaxopt", reason="the numbers of jaxopt are compared")
from jaxopt import projection as theirs  # noqa: E402
from jaxopt import prox as their_prox  # noqa: E402

P = ix.projections
x = jnp.asarray(np.random.default_rng(0).normal(size=5))
w = jnp.array([1.0, 2.0, 0.5, 1.0, 3.0])
A = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5)))
S = jnp.asarray(np.random.default_rng(2).normal(size=(3, 4)))
ROWS, COLUMNS = jnp.array([0.5, 0.3, 0.2]), jnp.array([0.4, 0.3, 0.2, 0.1])
TIGHT = {"tol": 1e-12, "maxiter": 2000}


def their_solver(fn):
    return jaxopt.LBFGS(fn, **TIGHT)


#: name: (ours, jaxopt's, argument, may it differ from a nearest point of a convex set?)
PAIRS = {
    "nonnegative": (P.nonnegative, theirs.projection_non_negative, x),
    "box": (
        lambda v: P.box(v, -0.3, 0.2),
        lambda v: theirs.projection_box(v, (-0.3, 0.2)),
        x,
    ),
    "hypercube": (P.hypercube, theirs.projection_hypercube, x),
    "simplex": (P.simplex, theirs.projection_simplex, x),
    "sparse_simplex": (
        lambda v: P.sparse_simplex(v, 2),
        lambda v: theirs.projection_sparse_simplex(v, 2),
        x,
    ),
    "l1_sphere": (P.l1_sphere, theirs.projection_l1_sphere, x),
    "l1_ball": (P.l1_ball, theirs.projection_l1_ball, x),
    "l2_sphere": (P.l2_sphere, theirs.projection_l2_sphere, x),
    "l2_ball": (
        lambda v: P.l2_ball(v, 0.5),
        lambda v: theirs.projection_l2_ball(v, 0.5),
        x,
    ),
    "linf_ball": (
        lambda v: P.linf_ball(v, 0.4),
        lambda v: theirs.projection_linf_ball(v, 0.4),
        x,
    ),
    "hyperplane": (
        lambda v: P.hyperplane(v, w, 1.0),
        lambda v: theirs.projection_hyperplane(v, (w, 1.0)),
        x,
    ),
    "halfspace": (
        lambda v: P.halfspace(v, w, -1.0),
        lambda v: theirs.projection_halfspace(v, (w, -1.0)),
        x,
    ),
    "affine_set": (
        lambda v: P.affine_set(v, A, jnp.ones(2)),
        lambda v: theirs.projection_affine_set(v, (A, jnp.ones(2))),
        x,
    ),
    "polyhedron": (
        lambda v: P.polyhedron(v, A=A[:1], b=jnp.ones(1), G=-A[1:], h=jnp.array([0.3])),
        lambda v: v + polished(v),
        x,
    ),
    "box_section": (
        lambda v: P.box_section(v, -0.5, 1.0, w, 1.5),
        lambda v: theirs.projection_box_section(
            v, (jnp.full(5, -0.5), jnp.ones(5), w, 1.5)
        ),
        x,
    ),
    "isotonic": (P.isotonic, lambda v: scipy.optimize.isotonic_regression(v).x, x),
    "transport": (
        lambda S: P.transport(S, ROWS, COLUMNS),
        lambda S: theirs.projection_transport(
            S, (ROWS, COLUMNS), make_solver=their_solver
        ),
        S,
    ),
    "birkhoff": (
        P.birkhoff,
        lambda S: theirs.projection_birkhoff(S, make_solver=their_solver),
        S[:, :3],
    ),
    "kl_transport": (
        lambda S: P.kl_transport(S, ROWS, COLUMNS),
        lambda S: theirs.kl_projection_transport(
            S, (ROWS, COLUMNS), make_solver=their_solver
        ),
        S,
    ),
    "kl_birkhoff": (
        P.kl_birkhoff,
        lambda S: theirs.kl_projection_birkhoff(S, make_solver=their_solver),
        S[:, :3],
    ),
}


def polished(v):
    """What SciPy adds to `v` (jaxopt's polyhedron is known to a few digits only)."""
    ends = [
        {"type": "eq", "fun": lambda p: A[0] @ p - 1},
        {"type": "ineq", "fun": lambda p: 0.3 + A[1] @ p},
    ]
    options = {"ftol": 1e-15, "maxiter": 500}
    found = scipy.optimize.minimize(
        lambda p: np.sum((p - v) ** 2),
        np.zeros(5),
        constraints=ends,
        method="SLSQP",
        options=options,
    )
    return found.x - v


@pytest.mark.parametrize("name", PAIRS)
def test_it_is_jaxopts_number_with_its_derivative(name):
    ours, jaxopts, at = PAIRS[name]

    def both(v):
        direction = jnp.cos(jnp.arange(v.size, dtype=v.dtype)).reshape(v.shape)
        return (
            ours(v),
            jax.jvp(ours, (v,), (direction,))[1],
            jax.vjp(ours, v)[1](direction)[0],
        )

    value, push, pull = jax.jit(both)(at)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        expected = jaxopts(at)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=2e-6)
    direction = jnp.cos(jnp.arange(at.size, dtype=at.dtype)).reshape(at.shape)
    e = 1e-6
    moved = jax.jit(ours)
    difference = (moved(at + e * direction) - moved(at - e * direction)) / (2 * e)
    np.testing.assert_allclose(push, difference, rtol=1e-5, atol=1e-7)
    # (The derivative of a nearest point is symmetric: that of a convex function.)
    if name not in ("l1_sphere",):
        np.testing.assert_allclose(pull, push, rtol=1e-7, atol=1e-8)


def test_unknown_names_and_sizes_are_told():
    with pytest.raises(AttributeError, match="box_section"):
        P.ball  # noqa: B018
    with pytest.raises(ValueError, match="from 1 to 5"):
        P.sparse_simplex(x, 6)
    assert set(PAIRS) == set(dir(P))


def test_an_empty_set_is_told():
    with pytest.raises(ix.ConvergenceError, match="infeasible"):
        P.polyhedron(x, A=jnp.ones((2, 5)), b=jnp.array([0.0, 1.0]))
    with pytest.raises(ix.ConvergenceError):
        P.box_section(x, 0.0, 1.0, jnp.ones(5), 6.0)


PROX = {
    "none": (ix.prox.none, their_prox.prox_none, 1.0),
    "lasso": (ix.prox.lasso, their_prox.prox_lasso, 0.4),
    "nonnegative_lasso": (
        ix.prox.nonnegative_lasso,
        their_prox.prox_non_negative_lasso,
        0.4,
    ),
    "elastic_net": (ix.prox.elastic_net, their_prox.prox_elastic_net, (0.4, 0.7)),
    "group_lasso": (ix.prox.group_lasso, their_prox.prox_group_lasso, 0.4),
    "ridge": (ix.prox.ridge, their_prox.prox_ridge, 0.4),
    "nonnegative_ridge": (
        ix.prox.nonnegative_ridge,
        their_prox.prox_non_negative_ridge,
        0.4,
    ),
}


@pytest.mark.parametrize("name", PROX)
def test_proximal_operators_are_jaxopts_and_least(name):
    ours, jaxopts, strength = PROX[name]
    tree = {"a": x[:3], "b": x[3:]}
    found = ours(tree, strength, 0.5)
    expected = jaxopts(tree, strength, 0.5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-14), found, expected
    )
    push = jax.jvp(lambda v: ours(v, strength, 0.5), (x,), (w,))[1]
    e = 1e-6
    difference = (ours(x + e * w, strength, 0.5) - ours(x - e * w, strength, 0.5)) / (
        2 * e
    )
    np.testing.assert_allclose(push, difference, rtol=1e-7, atol=1e-9)


def test_prox_of_zero_and_of_a_projection():
    slope = jax.jacobian(lambda v: ix.prox.group_lasso(v, 1.0))(jnp.zeros(3))
    np.testing.assert_array_equal(slope, 0)
    onto = ix.prox.from_projection(P.l2_ball)
    np.testing.assert_allclose(onto(jnp.array([3.0, 4.0]), 1.0, 0.1), [0.6, 0.8])


def test_a_lasso_is_differentiated_on_its_support():
    """By a proximal gradient step as a fixed point: exact, as the closed form on the
    entries that are not zero."""
    rng = np.random.default_rng(4)
    X, y = jnp.asarray(rng.normal(size=(30, 6))), jnp.asarray(rng.normal(size=30))
    step = 1 / jnp.linalg.norm(X, 2) ** 2

    def step_of(beta, strength):
        gradient = X.T @ (X @ beta - y)
        return ix.prox.lasso(beta - step * gradient, strength, step)

    def fit(strength):
        return ix.fixed_point(step_of, jnp.zeros(6), strength).value

    beta, slope = jax.jit(lambda s: (fit(s), jax.jacfwd(fit)(s)))(3.0)
    kept = np.asarray(beta) != 0
    assert 0 < kept.sum() < 6
    exact = np.zeros(6)
    inverse = np.linalg.inv(np.asarray(X[:, kept].T @ X[:, kept]))
    exact[kept] = -inverse @ np.sign(beta[kept])
    np.testing.assert_allclose(slope, exact, rtol=1e-8, atol=1e-12)
