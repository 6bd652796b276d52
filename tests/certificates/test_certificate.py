"""The certificate's fields, verdict and report."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicax as ix


def total(y, a):
    return jnp.sum(y)


def linear_map(M):
    """The certificate of `y = M y + a` at zero."""
    n = M.shape[0]
    problem = ix.FixedPoint(lambda y, a: M @ y + a)
    return ix.certify(total, problem, jnp.zeros(n), jnp.ones(n))


compiled_linear_map = jax.jit(linear_map)


def cubic(y, a):
    return y + y**3 - a


def rotation(angle):
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])


def test_every_field_against_its_definition():
    y, a = jnp.asarray(0.9), jnp.asarray(2.0)
    c = ix.certify(lambda y, a: a * y**2, ix.Root(cubic), y, a)
    J, F = 1 + 3 * 0.81, 0.9 + 0.729 - 2
    assert float(c.gradient) == pytest.approx(0.81 + 2 * 2 * 0.9 / J, rel=1e-14)
    assert float(c.residual) == pytest.approx(-F, rel=1e-14)
    assert float(c.solution_error) == pytest.approx(-F / J, rel=1e-14)
    # The gradient map is y^2 + 4 y / (1 + 3 y^2); the step to the solution is -F / J.
    slope = 1.8 + 4 * (1 - 3 * 0.81) / J**2
    change = slope * -F / J
    corrected = float(c.gradient) + change
    assert float(c.corrected_gradient) == pytest.approx(corrected, rel=1e-14)
    # The bar is the larger of that change and the one that two whole steps make.
    there = 0.9 - F / J
    second = -(there + there**3 - 2) / J
    z = there + second
    step = z**2 + 4 * z / (1 + 3 * z**2) - float(c.gradient)
    assert change > step > 0
    assert float(c.gradient_error) == pytest.approx(change, rel=1e-13)
    assert float(c.gradient_errors) == pytest.approx(change, rel=1e-13)
    relative = change / corrected
    assert float(c.elasticity_error) == pytest.approx(relative, rel=1e-13)
    assert int(c.worst) == 0
    # Each correction relative to the unknown, `|y| + |delta|`: that cancels.
    assert float(c.contraction) == pytest.approx(second / (F / J), rel=1e-12)
    assert bool(c.smooth)
    assert float(c.eps) == np.finfo(float).eps
    assert float(c.relative_gradient_error) == pytest.approx(relative, rel=1e-13)
    assert float(c.condition_number) == pytest.approx(1, rel=1e-14)
    assert float(c.adjoint_residual) < 1e-15
    assert c.spectral_radius is None
    assert not bool(c.ok)


def test_gradient_has_the_structure_of_args():
    args = {"a": jnp.ones(2), "n": 3, "mask": jnp.asarray([True, False]), "f": len}
    problem = ix.Root(lambda y, b: y - b["n"] * jnp.where(b["mask"], b["a"], 0.0))
    c = ix.certify(total, problem, 3 * jnp.ones(2), args)
    np.testing.assert_allclose(c.gradient["a"], [3, 0])
    assert c.gradient["n"] is None
    assert c.gradient["mask"] is None
    assert c.gradient["f"] is None
    assert jax.tree.structure(c.gradient) == jax.tree.structure(c.corrected_gradient)


@pytest.mark.parametrize("n", [1, 5, 60])
def test_condition_number_and_spectral_radius_against_numpy(n):
    """60 is more than the Krylov space holds; a random map's eigenvalues are mostly
    complex."""
    for seed in range(3):
        M = np.random.default_rng(seed).normal(size=(n, n)) / np.sqrt(n)
        c = compiled_linear_map(jnp.asarray(M))
        condition = np.linalg.cond(np.eye(n) - M)
        radius = np.abs(np.linalg.eigvals(M)).max()
        assert float(c.condition_number) == pytest.approx(condition, rel=0.05)
        assert float(c.spectral_radius) == pytest.approx(radius, rel=1e-2)


@pytest.mark.parametrize(
    ("M", "radius"),
    [
        (1.3 * rotation(0.3), 1.3),
        (np.array([[0.0, 4.0], [-0.25, 0.0]]), 1.0),
        (np.array([[0.0, 1e3], [0.0, 0.0]]), 0.0),
        (np.zeros((2, 2)), 0.0),
        (np.array([[-0.9, 0.0], [0.0, 0.9]]), 0.9),
        (np.array([[0.5, 1.0], [0.0, 0.5]]), 0.5),
        (1e80 * np.eye(2), 1e80),
    ],
    ids=["rotation", "skewed", "nilpotent", "zero", "opposite", "defective", "huge"],
)
def test_spectral_radius_where_a_rayleigh_quotient_is_wrong(M, radius):
    # A defective eigenvalue is known to the square root of the rounding error only.
    c = compiled_linear_map(jnp.asarray(M))
    tolerance = 1e-2 if radius == 0 else 1e-3 * radius
    assert float(c.spectral_radius) == pytest.approx(radius, abs=tolerance)


def test_condition_number_does_not_depend_on_units():
    """`cond(s J) = cond(J)`, tiny and large units alike."""
    J = jnp.asarray([[2.0, 1.0], [1.0, 3.0]])

    @jax.jit
    def certify(s):
        problem = ix.Root(lambda y, a: s * (J @ y - a))
        return ix.certify(total, problem, jnp.zeros(2), jnp.ones(2))

    for s in (1e-100, 1e-10, 1.0, 1e100):
        c = certify(s)
        assert float(c.condition_number) == pytest.approx(np.linalg.cond(J), rel=1e-3)
        assert bool(c.ok)


def test_a_good_one_reads_ok():
    y = ix.root(cubic, jnp.asarray(0.5), jnp.asarray(2.0)).value
    report = repr(ix.certify(total, ix.Root(cubic), y, jnp.asarray(2.0)))
    assert report.startswith("Certificate: ok")
    assert "NO" not in report
    assert "->" not in report
    assert "spectral radius" not in report


def test_a_singular_jacobian_is_named():
    M = jnp.asarray([[1.0, 1.0], [2.0, 2.0]])
    problem = ix.Root(lambda y, a: M @ y - a)
    c = ix.certify(lambda y, a: y[0], problem, jnp.ones(2), jnp.asarray([2.0, 4.0]))
    assert not bool(c.ok)
    assert float(c.condition_number) > 1e15
    assert not np.isfinite(c.gradient).any()
    assert "singular to working precision" in repr(c)
    assert "NO  Jacobian" in repr(c)


def test_an_unconverged_value_is_named_and_its_distance_too():
    fn = lambda y, a: jnp.tanh(a * y) + 0.3
    c = ix.certify(total, ix.FixedPoint(fn), jnp.asarray(0.1), jnp.asarray(0.5))
    assert not bool(c.ok)
    assert "NO  gradient" in repr(c)
    assert "tighten" in repr(c)
    assert "contracts" in repr(c)
    assert float(c.solution_error) > 0.1


def test_a_map_that_does_not_contract_is_named_but_is_no_failure():
    """At its repelling fixed point `y = tanh(3 y)` has a perfectly good derivative."""
    problem = ix.FixedPoint(lambda y, a: jnp.tanh(3.0 * y + a))
    c = ix.certify(total, problem, jnp.asarray(0.0), jnp.asarray(0.0))
    assert bool(c.ok)
    assert float(c.spectral_radius) == pytest.approx(3.0)
    assert float(c.gradient) == pytest.approx(-0.5)
    assert "does NOT contract" in repr(c)


def test_float32_with_condition_number_1e6_is_not_ok():
    scales = jnp.asarray([1.0, 1e-6], "float32")
    one = jnp.ones(2, "float32")
    problem = ix.Root(lambda y, a: scales * y - a)
    c = ix.certify(total, problem, one, scales)
    assert c.condition_number.dtype == jnp.float32
    assert float(c.condition_number) == pytest.approx(1e6, rel=1e-3)
    assert not bool(c.ok)
    assert "float64" in repr(c)


@pytest.mark.parametrize("value", [-1.0, 0.0], ids=["NaN residual", "infinite"])
def test_a_value_outside_the_domain_is_not_ok(value):
    problem = ix.Root(lambda y, a: jnp.log(y) - a)
    c = ix.certify(total, problem, jnp.asarray(value), jnp.asarray(0.5))
    assert not bool(c.ok)
    assert "NO " in repr(c)


def test_a_gradient_that_is_exactly_zero_is_ok():
    c = ix.certify(
        lambda y, a: (y - 1) ** 2, ix.Root(cubic), jnp.asarray(1.0), jnp.asarray(2.0)
    )
    assert float(c.gradient) == float(c.relative_gradient_error) == 0
    assert bool(c.ok)


def test_jit_and_vmap_give_the_same():
    a = jnp.asarray(2.0)
    values = jnp.asarray([0.9, 0.99, 1.0])

    def certify(y):
        return ix.certify(lambda y, a: a * y**2, ix.Root(cubic), y, a)

    batch = jax.jit(jax.vmap(certify))(values)
    assert batch.ok.shape == (3,)
    assert "batch of (3,)" in repr(batch)
    for k in range(3):
        one, lane = certify(values[k]), jax.tree.map(lambda leaf: leaf[k], batch)
        for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(lane), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-15)


def test_repr_inside_jit_does_not_fail():
    def certify(y):
        c = ix.certify(total, ix.Root(cubic), y, jnp.asarray(2.0))
        assert "inside a JAX transformation" in repr(c)
        return c.ok

    jax.jit(certify)(jnp.asarray(1.0))
