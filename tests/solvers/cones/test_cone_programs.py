"""Cone programs: values, multipliers, their derivatives, and what has none."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicax as ix
from implicax._problems.cones import project

pytest.importorskip("clarabel")

KINDS = {
    "linear": [ix.cones.Zero(1), ix.cones.Nonnegative(4)],
    "second order": [
        ix.cones.Zero(1),
        ix.cones.SecondOrder(4),
        ix.cones.Nonnegative(2),
    ],
    "semidefinite": [ix.cones.Zero(1), ix.cones.Semidefinite(3)],
    "exponential": [*[ix.cones.Exponential()] * 2, ix.cones.Nonnegative(2)],
    "power": [ix.cones.Power(0.3), ix.cones.Nonnegative(2)],
}
N = 6


def program(cones, seed=0):
    """Data with a known solution: `(P, q, A, b)`, and `x` and `z`."""
    rng = np.random.default_rng(seed)
    rows = sum(cone.size for cone in cones)
    A, x, w = rng.normal(size=(rows, N)), rng.normal(size=N), rng.normal(size=rows)
    s = np.asarray(project(tuple(cones), jnp.array(w)))
    root = rng.normal(size=(N, N))
    P, z = root @ root.T, s - w
    data = P, -(P @ x + A.T @ z), A, A @ x + s
    return tuple(map(jnp.array, data)), x, z


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_derivatives(kind):
    cones = KINDS[kind]
    args, x, z = program(cones)
    rng = np.random.default_rng(1)
    way = jax.tree.map(lambda a: jnp.array(rng.normal(size=a.shape)), args)
    way = (way[0] + way[0].T, *way[1:])

    def loss(t):
        moved = jax.tree.map(lambda a, d: a + t * d, args, way)
        found = ix.cone_program(*moved, cones)
        dual = jnp.concatenate(found.dual)
        return jnp.sum(jnp.sin(found.value)) + jnp.sum(dual**2) + found.objective

    @jax.jit
    def everything(t):
        found = ix.cone_program(*args, cones)
        slope, bend = jax.jvp(jax.grad(loss), (t,), (1.0,))
        return found, loss(t), jax.jvp(loss, (t,), (1.0,))[1], slope, bend

    found, _, forward, reverse, second = everything(0.0)
    np.testing.assert_allclose(found.value, x, rtol=1e-9)
    np.testing.assert_allclose(jnp.concatenate(found.dual), z, rtol=1e-8, atol=1e-11)
    assert not found.degeneracy.any
    np.testing.assert_allclose(forward, reverse, rtol=1e-11)
    step = 1e-6
    above, below = everything(step), everything(-step)
    np.testing.assert_allclose(forward, (above[1] - below[1]) / (2 * step), rtol=1e-5)
    np.testing.assert_allclose(second, (above[3] - below[3]) / (2 * step), rtol=1e-4)


CONES = [ix.cones.Zero(1), ix.cones.Nonnegative(3), ix.cones.SecondOrder(3)]


def test_units_do_not_matter():
    args, x, _ = program(CONES, 3)
    solve = jax.jit(lambda args: ix.cone_program(*args, CONES, on_failure="ignore"))
    for seed in range(4):
        rng = np.random.default_rng(seed)
        whole, units = 10.0 ** rng.uniform(-6, 6), 10.0 ** rng.uniform(-4, 4, N)
        rows = 10.0 ** rng.uniform(-5, 5, 7)
        rows[4:] = rows[4]
        P, q, A, b = args
        P = P * whole * units[:, None] * units[None]
        A = A * rows[:, None] * units[None]
        found = solve((P, q * whole * units, A, b * rows))
        assert found.converged
        np.testing.assert_allclose(found.value * units, x, rtol=1e-9)


def test_lanes_fail_each_by_itself():
    (P, q, A, b), x, _ = program(CONES, 3)
    lanes = jnp.stack([q, q * jnp.nan, 2 * q])

    def solve(q, **options):
        return ix.cone_program(P, q, A, b, CONES, **options)

    found = jax.vmap(lambda q: solve(q, on_failure="ignore"))(lanes)
    assert found.status.name.tolist() == ["converged", "non_finite", "converged"]
    np.testing.assert_allclose(found.value[0], x, rtol=1e-9)
    slopes = jax.vmap(jax.grad(lambda q: jnp.sum(solve(q).value)))(lanes)
    assert np.isnan(slopes[1]).all()
    assert np.isfinite(slopes[0]).all()


def test_float32_and_certificate():
    args, x, _ = program(CONES, 3)
    narrow = jax.tree.map(lambda a: a.astype(jnp.float32), args)
    found = ix.cone_program(*narrow, CONES)
    assert found.value.dtype == jnp.float32
    np.testing.assert_allclose(found.value, x, rtol=1e-4)
    problem = ix.ConeProgram(CONES)
    found = ix.solve(problem, None, args)
    loss = lambda y, args: jnp.sum(jnp.sin(y[0]))
    assert ix.certify(loss, problem, found, args).ok


class TestNoSolution:
    EYE = jnp.eye(2)

    def solve(self, P, q, A, b, cones):
        return ix.cone_program(P, q, A, b, cones, on_failure="ignore")

    def test_infeasible(self):
        A, b = jnp.array([[1.0, 0.0], [-1.0, 0.0]]), -jnp.ones(2)
        cones = [ix.cones.Nonnegative(2)]
        for q in (jnp.ones(2), jnp.array([0.0, -1.0])):  # (whatever falls)
            found = self.solve(None, q, A, b, cones)
            assert found.status == ix.Status.infeasible
            (z,) = found.farkas
            np.testing.assert_allclose(A.T @ z, 0.0, atol=1e-8)
            assert b @ z < 0
            assert (z >= 0).all()

    def test_unbounded(self):
        q, cones = -jnp.ones(2), [ix.cones.Nonnegative(2)]
        found = self.solve(None, q, -self.EYE, jnp.zeros(2), cones)
        assert found.status == ix.Status.unbounded
        assert q @ found.ray < 0
        assert (found.ray >= -1e-8).all()
        with pytest.raises(ix.ConvergenceError, match=r"solution\.ray"):
            ix.cone_program(None, q, -self.EYE, jnp.zeros(2), cones)

    def test_not_convex(self):
        A, b = jnp.concatenate([self.EYE, -self.EYE]), jnp.ones(4)
        cones = [ix.cones.Nonnegative(4)]
        found = self.solve(-self.EYE, jnp.ones(2), A, b, cones)
        assert found.status == ix.Status.not_convex

    def test_not_attained(self):
        """The least `x` with `x y >= 1`."""
        A = -jnp.array([[0.5, 0.5], [0.0, 0.0], [0.5, -0.5]])
        q, b = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0, 0.0])
        found = self.solve(None, q, A, b, [ix.cones.SecondOrder(3)])
        assert not found.converged


class TestDegenerate:
    def test_weak(self):
        A = -jnp.concatenate([jnp.zeros((1, 2)), jnp.eye(2)])
        b, cones = jnp.array([1.0, 0.0, 0.0]), [ix.cones.SecondOrder(3)]
        for size, weak in ((0.5, False), (1.0, True), (2.0, False)):
            point = size * jnp.array([0.6, 0.8])
            found = ix.cone_program(jnp.eye(2), -point, A, b, cones)
            assert bool(found.degeneracy.weak) == weak
            right = point / max(size, 1.0)
            np.testing.assert_allclose(found.value, right, rtol=1e-7)

    def test_a_duplicated_equation(self):
        def solve(q):
            A, b = jnp.ones((2, 2)), jnp.ones(2)
            return ix.cone_program(jnp.eye(2), q, A, b, [ix.cones.Zero(2)])

        found = solve(-jnp.ones(2))
        assert found.degeneracy.dependent
        assert not found.degeneracy.not_unique
        right = [[-0.5, 0.5], [0.5, -0.5]]
        for jacobian in (jax.jacfwd, jax.jacrev):
            slopes = jacobian(lambda q: solve(q).value)(-jnp.ones(2))
            np.testing.assert_allclose(slopes, right, atol=1e-12)

    def test_an_edge_of_solutions(self):
        A = jnp.concatenate([-jnp.eye(2), -jnp.ones((1, 2))])
        b, cones = jnp.array([0.0, 0.0, -1.0]), [ix.cones.Nonnegative(3)]
        found = ix.cone_program(None, jnp.ones(2), A, b, cones)
        np.testing.assert_allclose(found.objective, 1.0, rtol=1e-12)
        assert found.degeneracy.not_unique
        assert found.free.all()
        assert "not_unique" in repr(found)
        price = jax.grad(
            lambda b: ix.cone_program(None, jnp.ones(2), A, b, cones).objective
        )
        np.testing.assert_allclose(price(b), [0.0, 0.0, -1.0], atol=1e-9)


@pytest.mark.parametrize("count", [1, 2])
def test_order_of_cones(count):
    """Blocks in any order are the same program."""
    cones = [ix.cones.Zero(1), ix.cones.SecondOrder(3), ix.cones.Nonnegative(count)]
    (P, q, A, b), x, _ = program(cones, 5)
    ends = np.cumsum([0, *(cone.size for cone in cones)])
    for order in itertools.islice(itertools.permutations(range(3)), 1, 3):
        rows = np.concatenate([np.arange(ends[k], ends[k + 1]) for k in order])
        found = ix.cone_program(P, q, A[rows], b[rows], [cones[k] for k in order])
        np.testing.assert_allclose(found.value, x, rtol=1e-9)


@pytest.mark.parametrize("units", [0, 4])
def test_unknowns_at_their_bounds(units):
    """They are zero, and so are all terms of their rows: what acts is told by what an
    unknown would have to be to matter."""
    rng, lanes = np.random.default_rng(units), 20
    root, q = rng.normal(size=(lanes, N, N)), rng.normal(size=(lanes, N)) + 0.5
    A = np.abs(rng.normal(size=(lanes, 2, N)))
    b = jnp.array(np.einsum("kij,kj->ki", A, np.abs(rng.normal(size=(lanes, N)))))
    scales = 10.0 ** rng.uniform(-units, units, (lanes, N))
    root, q, A = root * scales[:, :, None], q * scales, A * scales[:, None]
    P = jnp.array(np.einsum("kij,klj->kil", root, root))

    def by_cones(P, q, A, b):
        rows = jnp.concatenate([A, -jnp.eye(N)]), jnp.concatenate([b, jnp.zeros(N)])
        cones = [ix.cones.Zero(2), ix.cones.Nonnegative(N)]
        return ix.cone_program(P, q, *rows, cones).value

    def by_bounds(P, q, A, b):
        return ix.quadratic_program(P, q, A=A, b=b, bounds=(0.0, None)).value

    def both(solve):
        return jax.jit(jax.vmap(lambda *a: (solve(*a), jax.jacfwd(solve, 1)(*a))))(
            P, jnp.array(q), jnp.array(A), b
        )

    (x, slopes), (right, right_slopes) = both(by_cones), both(by_bounds)
    assert (right == 0).sum() > lanes
    np.testing.assert_allclose(x * scales, right * scales, atol=1e-10)
    each = scales[:, :, None] * scales[:, None]
    np.testing.assert_allclose(slopes * each, right_slopes * each, atol=1e-8)


def test_misuse_is_explained():
    cone, eye, zeros = ix.cones.Nonnegative(2), jnp.eye(2), jnp.zeros(2)
    with pytest.raises(ValueError, match="3 rows in all, and A has 2"):
        ix.cone_program(None, zeros, eye, zeros, [ix.cones.Nonnegative(3)])
    with pytest.raises(TypeError, match="cones must be a list of cones"):
        ix.cone_program(None, zeros, eye, zeros, [])
    with pytest.raises(TypeError, match="solver of a cone program"):
        ix.cone_program(None, zeros, eye, zeros, [cone], solver=ix.Newton())
    with pytest.raises(ValueError, match="not finite"):
        ix.cone_program(None, zeros * jnp.nan, eye, zeros, [cone])
    with pytest.raises(ValueError, match="no option 'tolerance'"):
        ix.Clarabel(options={"tolerance": 1})
    with pytest.raises(TypeError, match="y0 must be None"):
        ix.solve(ix.ConeProgram([cone]), zeros, (None, zeros, eye, zeros))
