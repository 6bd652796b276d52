"""Complementarity problems: equations where bounds do not act."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicax as ix


def kojima_shindo(x, a):
    """Kojima & Shindo (1986): two solutions, one of them degenerate."""
    p, q, r, s = x
    return jnp.stack(
        [
            3 * p**2 + 2 * p * q + 2 * q**2 + r + 3 * s - 6,
            2 * p**2 + p + q**2 + 3 * r + 2 * s - 2,
            3 * p**2 + p * q + 2 * q**2 + 2 * r + 3 * s - 1,
            p**2 + 3 * q**2 + 2 * r + 3 * s - 3,
        ]
    )


def cournot(quantities, costs):
    return costs + quantities + jnp.sum(quantities) - 10.0


def market(costs, **options):
    return ix.complementarity(cournot, jnp.ones(2), costs, **options)


def test_a_market():
    both, one = jnp.array([1.0, 4.0]), jnp.array([1.0, 7.0])
    np.testing.assert_allclose(market(both).value, [4.0, 1.0], rtol=1e-12)
    solution = market(one)
    np.testing.assert_allclose(solution.value, [4.5, 0.0], rtol=1e-12)
    np.testing.assert_allclose(solution.dual.bounds, [0.0, -1.5], rtol=1e-12)
    assert "1 of 2 act" in repr(solution)
    for jacobian in (jax.jacfwd, jax.jacrev):
        slope = jacobian(lambda c: market(c).value)(one)
        np.testing.assert_allclose(slope, [[-0.5, 0.0], [0.0, 0.0]], atol=1e-14)
        slope = jacobian(lambda c: market(c).dual.bounds)(one)
        np.testing.assert_allclose(slope, [[0.0, 0.0], [0.5, -1.0]], atol=1e-14)
    assert not solution.degeneracy.any
    assert market(jnp.array([1.0, 5.5])).degeneracy.weak


@pytest.mark.parametrize("start", [0.0, 1.0, 10.0])
def test_several_solutions(start):
    found = ix.complementarity(kojima_shindo, jnp.full(4, start))
    x, left = found.value, kojima_shindo(found.value, None)
    assert (x >= 0).all()
    assert (left >= -1e-12).all()
    np.testing.assert_allclose(x * left, 0.0, atol=1e-12)


def test_minima_within_bounds_are_complementarity_problems():
    def energy(y, a):
        return jnp.sum(jnp.cosh(y - a)) + (jnp.sum(y) - 1) ** 2

    a, box = jnp.array([-2.0, 0.3, 4.0]), (jnp.array([0.0, -1.0, -jnp.inf]), 2.0)

    def minimum(a):
        return ix.minimize(energy, jnp.zeros(3), a, bounds=box)

    def equilibrium(a):
        return ix.complementarity(jax.grad(energy), jnp.zeros(3), a, bounds=box)

    np.testing.assert_allclose(minimum(a).value, equilibrium(a).value, rtol=1e-10)
    theirs, mine = minimum(a).dual.bounds, equilibrium(a).dual.bounds
    np.testing.assert_allclose(theirs, mine, atol=1e-10)
    one = jax.jacrev(lambda a: minimum(a).value)(a)
    other = jax.jacfwd(lambda a: equilibrium(a).value)(a)
    np.testing.assert_allclose(one, other, atol=1e-10)
    hessians = [
        jax.jit(jax.hessian(lambda a, f=f: f(a).value[1]))(a)
        for f in (minimum, equilibrium)
    ]
    np.testing.assert_allclose(*hessians, atol=1e-8)


def test_lanes_bounds_and_pytrees():
    def cube(a):
        return ix.complementarity(
            lambda y, a: y**3 - a, 0.5, a, bounds=(0.0, 1.0)
        ).value

    lanes = jnp.array([-1.0, 0.125, 3.0])
    slopes = jax.jit(jax.vmap(jax.grad(cube)))(lanes)
    np.testing.assert_allclose(slopes, [0.0, 4 / 3, 0.0], atol=1e-12)
    problem = ix.Complementarity(
        lambda y, a: {"a": y["a"] - 1, "b": y["b"] + y["a"] - a}
    )
    start = {"a": jnp.zeros(2), "b": jnp.ones(2)}
    args = jnp.asarray(0.5)
    found = ix.solve(problem, start, args)
    np.testing.assert_allclose(found.value["a"], 1.0, rtol=1e-12)
    np.testing.assert_array_equal(found.value["b"], 0.0)
    certificate = ix.certify(
        lambda y, a: y[0]["a"][0], problem, found, jnp.asarray(0.5)
    )
    assert certificate.ok


@pytest.mark.parametrize("units", [(1e5, 1e-8), (1e-6, 1.0), (1.0, 1e8)])
def test_units_do_not_matter(units):
    unknown, equation = units
    costs = jnp.array([1.0, 7.0])
    found = ix.complementarity(
        lambda q, a: equation * cournot(q / unknown, a), jnp.ones(2) * unknown, costs
    )
    np.testing.assert_allclose(found.value / unknown, [4.5, 0.0], rtol=1e-12)


def test_none_is_told():
    none = ix.complementarity(
        lambda y, a: -(y**2) - 1, 0.5, bounds=(0.0, None), on_failure="ignore"
    )
    assert not none.converged
    with pytest.raises(ix.ConvergenceError):
        ix.complementarity(lambda y, a: -(y**2) - 1, 0.5)
    with pytest.raises(ValueError, match="lower one must not be above"):
        market(jnp.ones(2), bounds=(1.0, 0.0))
    with pytest.raises(TypeError, match="no order"):
        ix.complementarity(lambda y, a: y, 1j)
    with pytest.raises(TypeError, match=r"ix\.Implicit"):
        market(jnp.ones(2), derivative=ix.Unrolled())
