"""Composite problems: smooth functions and proximal operators."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicax as ix

SOLVERS = {
    "ProximalGradient": ix.ProximalGradient(),
    "plain": ix.ProximalGradient(acceleration=False),
    "ADMM": ix.ADMM(),
    "BlockCoordinateDescent": ix.BlockCoordinateDescent(),
}
N = 8


def squares(y, args):
    A, b, _ = args
    return jnp.sum((A @ y - b) ** 2) / 2


def soft(x, args, scaling):
    return ix.prox.lasso(x, args[2], scaling)


LASSO = ix.Composite(squares, soft)


@functools.cache
def data(seed=0, rows=20):
    rng = np.random.default_rng(seed)
    A, noise = rng.normal(size=(rows, N)), rng.normal(size=rows)
    signal = np.where(np.arange(N) < 4, rng.normal(size=N) + 2, 0.1)
    return jnp.array(A), jnp.array(A @ signal + 0.1 * noise), jnp.array(8.0)


def lasso(args, **options):
    return ix.solve(LASSO, jnp.zeros_like(args[0][0]), args, **options)


def optimality(y, args):
    """How far minus the gradient is from the subgradients, in units of the strength."""
    A, b, strength = args
    slope = A.T @ (A @ y - b)
    away = jnp.abs(slope + strength * jnp.sign(y))
    return jnp.where(y != 0, away, jax.nn.relu(jnp.abs(slope) - strength)) / strength


class TestLasso:
    @pytest.mark.parametrize("name", SOLVERS)
    def test_all_solvers_find_it(self, name):
        solution = lasso(data(), solver=SOLVERS[name])
        assert 0 < int((solution.value == 0).sum()) < N
        assert float(optimality(solution.value, data()).max()) < 1e-13
        assert solution.stats.error < 1e-12
        assert not solution.degeneracy.any
        np.testing.assert_allclose(solution.value, lasso(data()).value, rtol=1e-11)

    def test_derivatives_to_second_order(self):
        """Against central differences, and the closed form on the support."""
        args = data()
        rng = np.random.default_rng(1)
        way = jax.tree.map(lambda a: jnp.array(rng.normal(size=a.shape)), args)
        moved = lambda s: jax.tree.map(lambda a, d: a + s * d, args, way)
        loss = jax.jit(lambda args: jnp.sum(jnp.sin(lasso(args).value)))
        both = jax.jit(
            lambda s: (
                jax.jvp(loss, (moved(s),), (way,))[1],
                jax.grad(loss)(moved(s)),
                jax.jvp(jax.grad(lambda s: loss(moved(s))), (s,), (1.0,))[1],
            )
        )
        forward, gradient, second = both(0.0)
        paired = jax.tree.map(lambda g, d: jnp.sum(g * d), gradient, way)
        slope = (loss(moved(1e-5)) - loss(moved(-1e-5))) / 2e-5
        np.testing.assert_allclose(sum(paired), slope, rtol=1e-7)
        np.testing.assert_allclose(forward, slope, rtol=1e-7)
        bend = (both(1e-5)[0] - both(-1e-5)[0]) / 2e-5
        np.testing.assert_allclose(second, bend, rtol=1e-6)
        A, _, _ = args
        y = lasso(args).value
        on = np.flatnonzero(y)
        gram = A[:, on].T @ A[:, on]
        by_strength = jax.jacfwd(lambda s: lasso((*args[:2], s)).value)(args[2])
        np.testing.assert_allclose(
            by_strength[on], -np.linalg.solve(gram, np.sign(y[on])), rtol=1e-10
        )
        assert (np.delete(by_strength, on) == 0).all()

    def test_lanes_fail_each_by_itself(self):
        A, b, strength = data()
        targets = jnp.stack([b, b * jnp.nan, 2 * b])

        def solve(b):
            return lasso((A, b, strength), on_failure="ignore")

        together = jax.vmap(solve)(targets)
        assert list(together.converged) == [True, False, True]
        np.testing.assert_allclose(together.value[0], lasso(data()).value, rtol=1e-12)
        slopes = jax.vmap(jax.grad(lambda b: jnp.sum(lasso((A, b, strength)).value)))(
            targets
        )
        assert np.isfinite(slopes[jnp.array([0, 2])]).all()
        assert np.isnan(slopes[1]).all()

    def test_float32(self):
        args = jax.tree.map(lambda a: a.astype(jnp.float32), data())
        found = lasso(args)
        assert found.value.dtype == jnp.float32
        np.testing.assert_allclose(found.value, lasso(data()).value, rtol=1e-5)

    def test_certificate(self):
        args = data()
        y = lasso(args).value
        loss = lambda y, args: jnp.sum(y**2)
        assert ix.certify(loss, LASSO, y, args).ok
        off = ix.certify(loss, LASSO, y + 0.3, args)
        assert not off.ok

    def test_zero_and_where_it_begins(self):
        A, b, _ = data()
        least = jnp.abs(A.T @ b).max()
        found = lasso((A, b, 2 * least))
        assert (found.value == 0).all()
        assert not found.degeneracy.any
        # There the first one is about to enter.
        found = lasso((A, b, least))
        np.testing.assert_allclose(found.value, 0.0, atol=1e-14)
        assert found.degeneracy.weak
        assert "weak" in repr(found)

    def test_many_solutions_are_told(self):
        args = jnp.ones((3, 2)), jnp.arange(3.0), jnp.array(0.1)
        found = lasso(args, on_failure="ignore")
        assert found.status == ix.Status.singular
        with pytest.raises(ix.ConvergenceError, match="many solutions"):
            lasso(args)

    def test_more_unknowns_than_data(self):
        rng = np.random.default_rng(3)
        A = jnp.array(rng.normal(size=(20, 60)))
        args = A, A[:, :3].sum(1), jnp.array(2.0)
        found = lasso(args)
        assert 3 <= int((found.value != 0).sum()) < 20
        assert float(optimality(found.value, args).max()) < 1e-12


class TestUnits:
    @pytest.mark.parametrize("unit", [1e-8, 1e8])
    def test_one_for_all(self, unit):
        A, b, strength = data()
        right = lasso(data()).value
        found = lasso((A * unit, b, strength * unit))
        np.testing.assert_allclose(found.value * unit, right, rtol=1e-11, atol=1e-18)
        found = lasso((A * unit, b * unit, strength * unit**2))
        np.testing.assert_allclose(found.value, right, rtol=1e-11)
        np.testing.assert_allclose(
            ix.solve(LASSO, jnp.full(N, unit), data()).value, right, rtol=1e-11
        )

    def test_each_its_own(self):
        """A single step length cannot be right for all: told, or `separable`."""
        A, b, strength = data()
        units = jnp.logspace(-4, 4, N)
        args = A * units[None], b, strength * units
        right = lasso(data()).value
        found = lasso(args, on_failure="ignore")
        assert found.status == ix.Status.singular
        apart = ix.Composite(squares, soft, separable=True)
        for solver in SOLVERS.values():
            found = ix.solve(apart, jnp.zeros(N), args, solver=solver)
            np.testing.assert_allclose(found.value * units, right, rtol=1e-10)
        slope = jax.grad(
            lambda s: jnp.sum(ix.solve(apart, jnp.zeros(N), (*args[:2], s)).value)
        )(args[2])
        plain = jax.jacobian(lambda s: lasso((A, b, s)).value)(jnp.full(N, strength))
        np.testing.assert_allclose(
            slope, (plain / units[:, None] / units[None]).sum(0), rtol=1e-8, atol=1e-14
        )


def on_simplex(x, args, scaling):
    return ix.projections.simplex(x)


class TestSimplex:
    PROBLEM = ix.Composite(lambda y, a: jnp.sum(jnp.cosh(y - a)), on_simplex)
    TARGET = jnp.array([0.9, 0.6, 0.4, -0.5])

    @pytest.mark.parametrize(
        "solver", [None, ix.ProjectedGradient(), ix.MirrorDescent(), ix.ADMM()], ids=str
    )
    def test_all_solvers_find_it(self, solver):
        start = jnp.full(4, 0.25)
        found = ix.solve(self.PROBLEM, start, self.TARGET, solver=solver)
        bounded = ix.minimize(
            lambda y, a: jnp.sum(jnp.cosh(y - a)),
            start,
            self.TARGET,
            bounds=(0.0, None),
            constraints=[ix.Equal(lambda y, a: jnp.sum(y) - 1)],
        )
        np.testing.assert_allclose(found.value, bounded.value, rtol=1e-10, atol=1e-14)

    def test_derivative(self):
        start = jnp.full(4, 0.25)
        solve = jax.jit(lambda a: ix.solve(self.PROBLEM, start, a).value)
        slopes = jax.jacrev(solve)(self.TARGET)
        steps = 1e-5 * jnp.eye(4)
        differences = [
            (solve(self.TARGET + s) - solve(self.TARGET - s)) / 2e-5 for s in steps
        ]
        np.testing.assert_allclose(slopes, np.stack(differences, 1), atol=1e-8)


class TestGroups:
    def test_group_lasso(self):
        A, b, _ = data()
        problem = ix.Composite(
            lambda y, a: jnp.sum((A @ y.reshape(-1) - b) ** 2) / 2,
            lambda x, a, t: jax.vmap(lambda row: ix.prox.group_lasso(row, a, t))(x),
        )

        @jax.jit
        def solve(strength):
            return ix.solve(problem, jnp.zeros((4, 2)), strength).value

        for solver in (None, ix.BlockCoordinateDescent(), ix.ADMM()):
            found = ix.solve(problem, jnp.zeros((4, 2)), 15.0, solver=solver).value
            np.testing.assert_allclose(found, solve(15.0), rtol=1e-11)
        assert 0 < int((solve(15.0) == 0).all(1).sum()) < 4
        slope = (solve(15.0 + 1e-4) - solve(15.0 - 1e-4)) / 2e-4
        np.testing.assert_allclose(jax.jacobian(solve)(15.0), slope, rtol=1e-6)


class TestVerdicts:
    def test_saddles(self):
        valley = ix.Composite(
            lambda y, a: y[0] ** 2 - y[1] ** 2, lambda x, a, t: jnp.clip(x, -1.0, 1.0)
        )
        found = ix.solve(valley, jnp.array([1.0, 0.0]), on_failure="ignore")
        assert found.status == ix.Status.saddle
        found = ix.solve(valley, jnp.array([1.0, 0.1]))
        np.testing.assert_allclose(found.value, [0.0, 1.0], atol=1e-14)

    @pytest.mark.parametrize(
        "smooth",
        [lambda y, a: jnp.sum(y), lambda y, a: jnp.sum(jnp.exp(-y))],
        ids=["a plane", "not attained"],
    )
    def test_no_minimum(self, smooth):
        problem = ix.Composite(smooth, ix.prox.none)
        found = ix.solve(problem, jnp.zeros(2), on_failure="ignore")
        assert found.status == ix.Status.singular

    def test_nan(self):
        A, b, strength = data()
        found = lasso((A.at[3, 2].set(jnp.nan), b, strength), on_failure="ignore")
        assert found.status == ix.Status.non_finite

    def test_a_weak_penalty_on_more_unknowns_than_data(self):
        """After many steps lengths are short: the verdict is not to rest on them."""
        rng = np.random.default_rng(3)
        A = jnp.array(rng.normal(size=(20, 60)))
        args = A, A[:, :3].sum(1), jnp.array(0.2)
        found = lasso(args)
        on = np.flatnonzero(found.value)
        gram, signs = A[:, on].T @ A[:, on], np.sign(found.value[on])
        right = np.linalg.solve(gram, A[:, on].T @ args[1] - 0.2 * signs)
        np.testing.assert_allclose(found.value[on], right, rtol=1e-12)
        assert float(optimality(found.value, args).max()) < 1e-10
        assert not lasso(args, max_steps=1, on_failure="ignore").converged

    def test_misuse_is_explained(self):
        with pytest.raises(TypeError, match=r"prox must be a function \(x, args, sca"):
            ix.Composite(squares, lambda x: x)
        with pytest.raises(TypeError, match="smooth must be a function"):
            ix.Composite(None, soft)  # pyright: ignore[reportArgumentType]
        with pytest.raises(TypeError, match="must know proximal operators"):
            lasso(data(), solver=ix.Newton())
        with pytest.raises(TypeError, match="smooth must return a real scalar"):
            ix.solve(ix.Composite(lambda y, a: y, ix.prox.none), jnp.ones(2))
        with pytest.raises(ValueError, match="prox must return a point"):
            ix.solve(
                ix.Composite(lambda y, a: y @ y, lambda x, a, t: x[:1]), jnp.ones(2)
            )
        with pytest.raises(TypeError, match="real arrays of one precision"):
            ix.solve(LASSO, jnp.array([1j]), data())
        scalar = ix.Composite(lambda y, a: y**2, ix.prox.none)
        with pytest.raises(TypeError, match="rows of one array"):
            ix.solve(scalar, 1.0, solver=ix.BlockCoordinateDescent())
        wide = ix.Composite(lambda y, a: y @ y, ix.prox.none, separable=True)
        with pytest.raises(ValueError, match="up to 4096 unknowns"):
            ix.solve(wide, jnp.ones(5000))
        with pytest.raises(TypeError, match="takes steps of a solver of equations"):
            lasso(data(), derivative=ix.Unrolled())


def test_pytrees_and_aux():
    def smooth(y, a):
        return (jnp.sum((y["w"] - a) ** 2) + (y["b"] - 3.0) ** 2) / 2, y["b"] * 2

    problem = ix.Composite(
        smooth, lambda x, a, t: ix.prox.lasso(x, 1.0, t), separable=True, has_aux=True
    )
    start = {"w": jnp.zeros(2), "b": jnp.array(0.0)}
    found = ix.solve(problem, start, jnp.array([3.0, 0.5]))
    np.testing.assert_allclose(found.value["w"], [2.0, 0.0], atol=1e-14)
    np.testing.assert_allclose(found.aux, 4.0, rtol=1e-12)


def test_many_unknowns():
    """Beyond what matrices are formed of: Newton's steps are by GMRES."""
    target = jnp.linspace(-3, 3, 5000)
    problem = ix.Composite(
        lambda y, a: jnp.sum(jnp.cosh(y - a)), lambda x, a, t: ix.prox.lasso(x, 1.0, t)
    )

    def total(target):
        return jnp.sum(ix.solve(problem, jnp.zeros(5000), target).value)

    right = jnp.sign(target) * jax.nn.relu(jnp.abs(target) - jnp.arcsinh(1.0))
    value, slope = jax.value_and_grad(total)(target)
    np.testing.assert_allclose(value, right.sum(), atol=1e-8)
    np.testing.assert_allclose(slope, right != 0, atol=1e-9)
