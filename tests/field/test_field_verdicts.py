"""Equations from bug reports and questions that have no solution, or one without a
derivative, or that need complex numbers: what is there is found, and the rest is said.
"""

import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import implicax as ix

from ..field_oracles import root, root_slope


def ignoring(fn, y0, **options):
    """Solve for lanes of arguments."""
    solve = lambda a: ix.root(fn, y0, a, on_failure="ignore", **options)
    return jax.jit(jax.vmap(solve))


# ---------------------------------------------------- Stack Overflow 57514660: complex


def quadratic(x, k):
    return jnp.stack(
        [
            k[0] * x[0] + k[1] * x[1] ** 2 - x[2],
            x[0] - 2 * x[1] + k[2] * x[2],
            x[0] + x[1] + x[2] - 1,
        ]
    )


REAL, NONE = np.array([2.0, 4.5, 0.1]), np.array([2.0, 4.5, -1.0])
FROM = np.array([1.0, 0.5, 1.0])


def test_no_real_root_is_none():
    found = ignoring(quadratic, FROM)(np.stack([REAL, NONE]))
    assert found.converged.tolist() == [True, False]
    value = np.asarray(found.value[0])
    np.testing.assert_allclose(quadratic(value, REAL), 0, atol=1e-14)


def test_the_complex_roots_of_what_has_no_real_ones():
    """`18 z^2 - 13 z + 5/2 = 0` for the first unknown."""

    def first(k, shift):
        k, y0 = k.astype(complex), jax.lax.complex(jnp.asarray(FROM), shift)
        found = ix.root(quadratic, y0, k, on_failure="ignore")
        return found.value[0].real, found

    run = jax.jit(jax.vmap(jax.value_and_grad(first, has_aux=True), (None, 0)))
    (real, found), slope = run(NONE, np.array([[0.1] * 3, [0.0] * 3]))
    assert np.all(found.converged)
    np.testing.assert_allclose(real, 13 / 36, rtol=1e-12)
    imaginary = np.abs(found.value[:, 0].imag)
    np.testing.assert_allclose(imaginary, np.sqrt(11) / 36, rtol=1e-12)
    equations = lambda x, k, m: [
        k[0] * x[0] + k[1] * x[1] ** 2 - x[2],
        x[0] - 2 * x[1] + k[2] * x[2],
        x[0] + x[1] + x[2] - 1,
    ]
    along = np.array([0.4, -0.9, 0.7])
    near = np.asarray(found.value[0])
    truth = root_slope(equations, near, NONE, along)[0].real
    np.testing.assert_allclose(np.asarray(slope) @ along, [truth, truth], rtol=1e-10)


# ------------------- Stack Overflow: the exponent 0.8 / (1 - 0.8) of a negative number


def growth(v, p, power):
    c, y, k, g, r = v
    beta, delta, alpha, gamma, lam, _ = p
    profit = (alpha - 1) * k**alpha
    return [
        (beta * (r + 1 - delta) - (1 + g)) / c,
        y - c - k * (1 + g) + k * (1 - delta),
        r - k ** (alpha - 1) * alpha**2,
        y - k**alpha,
        g - (gamma - 1) * lam * power(p[5] * lam * profit, p[5]),
    ]


GROWTH = np.array([0.96, 0.1, 0.33, 1.2, 1.0, 0.8])


def steady(v, p):
    return jnp.stack(growth(v, p, lambda base, s: base ** (s / (1 - s))))


def test_a_power_of_a_negative_number():
    real = ix.root(steady, np.ones(5), GROWTH, on_failure="ignore")
    assert real.status.name == "non_finite"

    def consumption(p):
        p = p.astype(complex)
        found = ix.root(steady, np.ones(5, complex), p, on_failure="ignore")
        return found.value[0].real, found

    run = jax.jit(jax.value_and_grad(consumption, has_aux=True))
    (value, found), slope = run(GROWTH)
    assert found.converged
    fourth = lambda v, p, m: growth(v, p, lambda base, s: base**4)
    right = root(fourth, np.asarray(found.value.real), GROWTH)
    np.testing.assert_allclose(value, right[0], rtol=1e-9)
    along = np.array([0.5, -0.8, 0.6, 0.4, -0.7, 0.0])
    truth = root_slope(fourth, right, GROWTH, along)[0]
    np.testing.assert_allclose(slope @ along, truth, rtol=1e-8)
    problem = ix.Root(lambda v, p: steady(v, p.astype(complex)))
    certify = jax.jit(lambda v, p: ix.certify(lambda y, a: y[0].real, problem, v, p))
    assert certify(found.value, GROWTH).ok


# ----------------------------------- sys-bio/roadrunner#571: a total that is conserved


def network(y, k):
    A, B, C = y
    first, second = k[0] * A - k[1] * B * C, k[2] * B - k[3] * C
    return jnp.stack([-first, first - second, second])


POOL, RATES = np.array([100.0, 1.0, 1.0]), np.full(4, 0.1)
SHARE = np.sqrt(103) - 1
SETTLED = np.array([102 - 2 * SHARE, SHARE, SHARE])


@pytest.mark.parametrize(
    "solver",
    [None, ix.Newton(linear_solver=ix.MinimumNorm()), ix.PseudoTransient()],
    ids=["default", "minimum norm", "transient"],
)
def test_what_is_conserved_leaves_the_solution_free(solver):
    transient = isinstance(solver, ix.PseudoTransient)
    fn = (lambda y, k: -network(y, k)) if transient else network

    @jax.jit
    def run(k):
        def first(k):
            found = ix.root(fn, POOL, k, solver=solver, on_failure="ignore")
            return found.value[0], found

        (_, found), slope = jax.value_and_grad(first, has_aux=True)(k)
        loss = lambda y, k: y[0]
        return found, slope, ix.certify(loss, ix.Root(fn), found.value, k)

    found, slope, certificate = run(RATES)
    assert not certificate.ok
    assert not np.any(np.isfinite(slope)) or not found.converged
    if found.converged:
        np.testing.assert_allclose(network(found.value, RATES), 0, atol=1e-7)
    if transient:  # where the system itself would go
        np.testing.assert_allclose(found.value, SETTLED, rtol=1e-8)


def test_with_its_law_it_is_determined():
    def fn(y, k):
        rates = network(y, k)
        return jnp.stack([rates[0], rates[2], jnp.sum(y) - k[4]])

    k = np.append(RATES, 102.0)
    solve = lambda k: (ix.root(fn, POOL, k).value,) * 2
    slope, value = jax.jit(jax.jacobian(solve, has_aux=True))(k)
    np.testing.assert_allclose(value, SETTLED, rtol=1e-12)
    # With equal rates `b = sqrt(1 + total) - 1`.
    free = 1 / (2 * np.sqrt(103))
    np.testing.assert_allclose(slope[:, 4], [1 - 2 * free, free, free], rtol=1e-12)
    np.testing.assert_allclose(slope[:, :4] @ RATES, 0, atol=1e-9)


# ------------------------------------- e2nIEE/pandapower#786: the nose of a power line

OHMS, REACTIVE = np.array([0.02, 0.1]), 0.4


def power_line(y, P):
    r, x = OHMS
    v, angle = y
    g, b = r / (r * r + x * x), -x / (r * r + x * x)
    active = v * v * g - v * (g * jnp.cos(angle) + b * jnp.sin(angle))
    other = -v * v * b - v * (g * jnp.sin(angle) - b * jnp.cos(angle))
    return jnp.stack([active + P, other + REACTIVE * P])


def voltage(P):
    """The higher one."""
    r, x = (mpmath.mpf(z) for z in OHMS)
    half = mpmath.mpf(1) / 2 - P * (r + REACTIVE * x)
    rest = (r * r + x * x) * (1 + mpmath.mpf(REACTIVE) ** 2) * P * P
    return mpmath.sqrt(half + mpmath.sqrt(half**2 - rest))


def largest_load():
    """Where the two voltages meet."""
    r, x = OHMS
    return 0.5 / (r + REACTIVE * x + np.sqrt((r * r + x * x) * (1 + REACTIVE**2)))


def test_a_power_line_up_to_its_nose_and_beyond():
    most = largest_load()
    part = np.array([0.1, 0.5, 0.9, 0.99, 0.999999, 1.01, 1.2, 1.5])
    flat = np.array([1.0, 0.0])

    def run(P):
        def of(P):
            found = ix.root(power_line, flat, P, on_failure="ignore")
            return found.value[0], found

        (_, found), slope = jax.value_and_grad(of, has_aux=True)(P)
        problem = ix.Root(power_line)
        return found, slope, ix.certify(lambda y, P: y[0], problem, found.value, P)

    found, slope, certificate = jax.jit(jax.vmap(run))(part * most)
    assert found.converged.tolist() == [True] * 5 + [False] * 3
    assert np.all(certificate.ok[:4])
    assert not np.any(certificate.ok[5:])
    with mpmath.workdps(50):
        for lane, P in enumerate(part[:5] * most):
            h = mpmath.mpf(10) ** -20
            right = float(voltage(mpmath.mpf(P)))
            steep = float((voltage(P + h) - voltage(P - h)) / (2 * h))
            near = part[lane] > 0.99
            value = found.value[lane, 0]
            np.testing.assert_allclose(value, right, rtol=1e-6 if near else 1e-10)
            np.testing.assert_allclose(slope[lane], steep, rtol=1e-4 if near else 1e-8)


# -------------------------- JuliaNLSolvers/NLsolve.jl#269: three equations, two angles


def pointing(y, a):
    """Of the second axis, turned: the second angle moves nothing."""
    place = jnp.stack([0 * y[1], jnp.cos(y[0]), jnp.sin(y[0])])
    return place - jnp.stack([0 * a, jnp.cos(a), jnp.sin(a)])


def test_more_equations_than_unknowns():
    y0, a = np.array([np.pi / 4, 0.0]), np.array(np.pi / 3)
    with pytest.raises(ValueError, match="least_squares"):
        ix.root(pointing, y0, a)
    least = ix.MinimumNorm()

    @jax.jit
    def run(a):
        def of(a):
            found = ix.least_squares(
                pointing,
                y0,
                a,
                derivative=ix.Implicit(linear_solver=least),
                on_failure="ignore",
            )
            return found.value[0], found

        (_, found), slope = jax.value_and_grad(of, has_aux=True)(a)
        loss, problem = (lambda y, a: y[0]), ix.LeastSquares(pointing)
        plain = ix.certify(loss, problem, found.value, a)
        return (
            found,
            slope,
            plain,
            ix.certify(loss, problem, found.value, a, linear_solver=least),
        )

    found, slope, plain, determined = run(a)
    assert found.converged
    np.testing.assert_allclose(found.value[0], np.pi / 3, rtol=1e-9)
    np.testing.assert_allclose(slope, 1, rtol=1e-8)
    assert not plain.ok
    assert determined.ok


# -------------------------------------- google/jaxopt#141: the inverse, differentiated

INVERTERS = {
    "default": None,
    "Bisection": ix.Bisection(0.0, 1.0),
    "Chandrupatla": ix.Chandrupatla(0.0, 1.0),
    "Broyden": ix.Broyden(),
    "Chord": ix.Chord(),
}


def map_(x, q):
    return (q[0] * x**2 + q[1] * x) / (q[0] + q[1])


def inverse(y, q):
    return (jnp.sqrt(q[1] ** 2 + 4 * q[0] * (q[0] + q[1]) * y) - q[1]) / (2 * q[0])


@pytest.mark.parametrize("name", INVERTERS)
def test_an_inverse_and_its_slope_are_differentiable(name):
    q = np.array([2.0, 3.0])
    fn = lambda x, a: map_(x, a[1]) - a[0]
    solve = lambda y, q: ix.root(fn, 0.3, (y, q), solver=INVERTERS[name]).value

    def both(inverse):
        pair = lambda q: jnp.stack(jax.value_and_grad(inverse)(0.5, q))
        return jax.jit(jax.jacrev(pair))(q)

    np.testing.assert_allclose(both(solve), both(inverse), rtol=1e-7)


# ---------------------------------------- erc-automatix/jaxmat#12: norms that are zero

SHEAR, HARDENING, YIELD = 80.0, 10.0, 0.25


def plastic(y, strain, safe=True):
    """A stress: elastic up to the yield stress, and flowing beyond."""
    square = jnp.sum(y**2)
    norm = jnp.sqrt(jnp.where(square > 0, square, 1.0) if safe else square)
    flow = jnp.maximum(norm - YIELD, 0.0) / (2 * SHEAR + HARDENING)
    flow = jnp.where(square > 0, flow, 0.0) if safe else flow
    return y - 2 * SHEAR * strain + 2 * SHEAR * flow * y / norm


def stress(strain):
    elastic = 2 * SHEAR * strain
    norm = np.linalg.norm(elastic)
    soft = 2 * SHEAR / (2 * SHEAR + HARDENING)
    return (
        elastic if norm <= YIELD else elastic * (1 + soft * YIELD / norm) / (1 + soft)
    )


LOADED = np.array([1e-3, -2e-3, 1e-3])


@functools.cache
def stressed(safe):
    """The stress, and its derivative in the strain."""
    fn = lambda y, e: plastic(y, e, safe)
    solve = lambda e, y0: (ix.root(fn, y0, e).value,) * 2
    return jax.jit(jax.jacobian(solve, has_aux=True))


@pytest.mark.parametrize(
    ("safe", "strain", "y0"),
    [
        (True, 0 * LOADED, 0 * LOADED),
        (True, LOADED, 0 * LOADED),
        (True, LOADED, stress(LOADED)),
        (False, LOADED, np.full(3, 1e-3)),
    ],
    ids=["nothing", "loaded", "from the solution", "without care"],
)
def test_a_start_without_stress(safe, strain, y0):
    slope, value = stressed(safe)(strain, y0)
    np.testing.assert_allclose(value, stress(strain), atol=1e-12)
    step = 1e-8
    moved = [
        (stress(strain + e) - stress(strain - e)) / (2 * step) for e in step * np.eye(3)
    ]
    np.testing.assert_allclose(slope, np.stack(moved, 1), atol=1e-4)


@jax.jit
def complementary(a, y0):
    """Fischer and Burmeister: `y >= 0`, `y + a >= 0`, and one of them is zero."""
    fn = lambda y, a: jnp.sqrt(y**2 + (y + a) ** 2) - y - (y + a)
    return jax.value_and_grad(lambda a: ix.root(fn, y0, a).value)(a)


@pytest.mark.parametrize(
    ("a", "y0", "right", "slope"),
    [(1.0, 0.5, 0.0, 0.0), (-1.0, 0.0, 1.0, -1.0), (1.0, 0.0, 0.0, 0.0)],
)
def test_complementarity(a, y0, right, slope):
    np.testing.assert_allclose(complementary(a, y0), [right, slope], atol=1e-9)
