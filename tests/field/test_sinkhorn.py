"""Entropic optimal transport: derivatives where the solution is free in one direction.

The plan `P = exp((f_i + g_j - C_ij) / eps)` has marginals `a` and `b`. Sinkhorn's map
`f -> T(f)` updates the potential `g`, then `f`; with `f` all `f + constant` are fixed
points, so `I - T'` is singular. Two ways out are tested against central differences of
a solver written in NumPy:

- the user fixes the gauge (a centred map, one more equation): a regular problem;
- a linear solver that finds a least-squares solution of minimum norm. It is one exactly
  where the singular system is consistent, which is so for whatever does not depend on
  the gauge; where it is not, the answer is NaN.

Marginals are masses with the sum one, so derivatives in them are along changes of sum
zero, and gradients in them are determined up to a constant.
"""

import functools

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.special
from jax.scipy.special import logsumexp

import implicax as ix

from ..oracles import relative_error

N = 64
WEIGHTS = (0.1, 0.01)
MINIMUM_NORM = ix.Implicit(linear_solver=lx.SVD(rcond=1e-8))
TIGHT = ix.Anderson(history=10, rtol=1e-13, atol=1e-14)


def data():
    """Squared distances of points in the unit square, and two marginals; a direction
    in which each of the three changes."""
    rng = np.random.default_rng(0)
    x, y = rng.uniform(size=(2, N, 2))
    a, b = rng.uniform(0.5, 1.5, (2, N))
    distances = np.sum((x[:, None] - y[None, :]) ** 2, axis=-1)
    problem = {"C": distances, "a": a / np.sum(a), "b": b / np.sum(b)}
    directions = {"C": rng.normal(size=(N, N))}
    for name in ("a", "b"):
        change = problem[name] * rng.normal(size=N)
        directions[name] = change - np.mean(change)
    return problem, directions


def centred_gradient(gradient):
    """What of a gradient is determined: the masses' up to a constant."""
    return {
        "C": gradient["C"],
        "a": gradient["a"] - np.mean(gradient["a"]),
        "b": gradient["b"] - np.mean(gradient["b"]),
    }


# What a user writes.


def potential_g(f, p):
    lifted = (f[:, None] - p["C"]) / p["eps"]
    return p["eps"] * (jnp.log(p["b"]) - logsumexp(lifted, axis=0))


def potential_f(g, p):
    lifted = (g[None, :] - p["C"]) / p["eps"]
    return p["eps"] * (jnp.log(p["a"]) - logsumexp(lifted, axis=1))


def sweep(f, p):
    """One round of Sinkhorn's iteration."""
    return potential_f(potential_g(f, p), p)


def centred_sweep(f, p):
    swept = sweep(f, p)
    return swept - jnp.mean(swept)


def mismatch(y, p):
    """Both conditions on both potentials, in the units of the potentials."""
    return {
        "f": y["f"] - potential_f(y["g"], p),
        "g": y["g"] - potential_g(y["f"], p),
    }


def pinned_mismatch(y, p):
    """The same with `mean(f) = 0` for the condition that is redundant."""
    residual = mismatch(y, p)
    return {"f": residual["f"] + jnp.mean(y["f"]), "g": residual["g"]}


def marginal_errors(y, p):
    """Both conditions as SciPy would have them: what is moved against what is there."""
    moved = jnp.exp((y["f"][:, None] + y["g"][None, :] - p["C"]) / p["eps"])
    return {"f": jnp.sum(moved, 1) - p["a"], "g": jnp.sum(moved, 0) - p["b"]}


def sinkhorn(f, p):
    """The classic loop: sweep until nothing moves."""

    def moves(carry):
        f, before, sweeps = carry
        return (sweeps < 5000) & (jnp.max(jnp.abs(f - before)) > 1e-14)

    def go(carry):
        f, _, sweeps = carry
        return centred_sweep(f, p), f, sweeps + 1

    return jax.lax.while_loop(moves, go, (centred_sweep(f, p), f, 0))[0]


def both(f, p):
    return {"f": f, "g": potential_g(f, p)}


def transport_cost(f, p):
    g = potential_g(f, p)
    plan = jnp.exp((f[:, None] + g[None, :] - p["C"]) / p["eps"])
    return jnp.sum(plan * p["C"])


def dual_objective(f, p):
    """Equal to the primal one at the solution, where its derivative in `f` vanishes.

    The potentials are centred first. That changes nothing in exact arithmetic; in
    floating point it makes the derivative in `f` orthogonal to the free direction to
    the last bit of *its own* size, tiny as that is.
    """
    f = f - jnp.mean(f)
    return jnp.sum(p["a"] * f) + jnp.sum(p["b"] * potential_g(f, p))


def gauge_dependent(f, p):
    """No number until somebody says which of all `f + constant` is meant."""
    del p
    return jnp.sum(f * jnp.linspace(0.0, 1.0, N))


ZERO = np.zeros(N)
TWO_ZEROS = {"f": ZERO, "g": ZERO}


def fixed_point(fn, derivative=None, solver=TIGHT):
    return lambda p: (
        ix.fixed_point(
            fn, ZERO, p, solver=solver, derivative=derivative, max_steps=2000
        ).value
    )


def root(fn, derivative=None, solver=TIGHT):
    return lambda p: ix.root(
        fn, TWO_ZEROS, p, solver=solver, derivative=derivative, max_steps=2000
    ).value["f"]


def own_fixed_point(fn, derivative=None):
    solve = ix.custom_fixed_point(fn, derivative=derivative)(sinkhorn)
    return lambda p: solve(jnp.asarray(ZERO), p).value


def own_root(fn, derivative=None):
    @ix.custom_root(fn, derivative=derivative)
    def solve(y0, p):
        return both(sinkhorn(y0["f"], p), p)

    zeros = {"f": jnp.asarray(ZERO), "g": jnp.asarray(ZERO)}
    return lambda p: solve(zeros, p).value["f"]


ROUTES = {
    "fixed_point, centred": fixed_point(centred_sweep),
    "fixed_point, free": fixed_point(sweep, MINIMUM_NORM),
    "root, pinned": root(pinned_mismatch, solver=ix.Newton(rtol=1e-13)),
    "root, free": root(mismatch, MINIMUM_NORM),
    "custom_fixed_point, centred": own_fixed_point(centred_sweep),
    "custom_fixed_point, free": own_fixed_point(sweep, MINIMUM_NORM),
    "custom_root, free": own_root(marginal_errors, MINIMUM_NORM),
}
LOSSES = {"cost": transport_cost, "dual": dual_objective}


# What it must be.


def numpy_solution(p, eps):
    """`f` (centred) and `g`, to rounding."""
    f = np.zeros(N)
    for _ in range(5000):
        lifted = (f[:, None] - p["C"]) / eps
        g = eps * (np.log(p["b"]) - scipy.special.logsumexp(lifted, axis=0))
        lifted = (g[None, :] - p["C"]) / eps
        before, f = f, eps * (np.log(p["a"]) - scipy.special.logsumexp(lifted, axis=1))
        shift = np.mean(f)
        f, g = f - shift, g + shift
        if np.max(np.abs(f - before)) < 1e-14:
            return f, g
    raise AssertionError("Sinkhorn's iteration has not converged")


def numpy_losses(p, eps):
    f, g = numpy_solution(p, eps)
    plan = np.exp((f[:, None] + g[None, :] - p["C"]) / eps)
    return {"cost": np.sum(plan * p["C"]), "dual": p["a"] @ f + p["b"] @ g}


@functools.cache
def slopes(eps):
    """The losses' derivatives when `C`, `a`, `b` move, one at a time, by differences of
    fourth order."""
    problem, directions = data()
    step = 1e-3 * eps
    found = {}
    for name, direction in directions.items():
        v = {
            k: numpy_losses(
                {**problem, name: problem[name] + k * step * direction}, eps
            )
            for k in (-2, -1, 1, 2)
        }
        found[name] = {
            loss: (8 * (v[1][loss] - v[-1][loss]) - (v[2][loss] - v[-2][loss]))
            / (12 * step)
            for loss in LOSSES
        }
    return found


@functools.cache
def programs(route, loss):
    """One compiled program: value, gradient, forward mode, two Hessian products."""
    solve, measure = ROUTES[route], LOSSES[loss]

    def derivatives(p, direction, eps):
        def value(p):
            p = {**p, "eps": eps}
            return measure(solve(p), p)

        gradient = jax.grad(value)

        def along(p):
            products = jax.tree.map(jnp.vdot, gradient(p), direction)
            return products["C"] + products["a"] + products["b"]

        _, forward = jax.jvp(value, (p,), (direction,))
        g, forward_over_reverse = jax.jvp(gradient, (p,), (direction,))
        return g, forward, forward_over_reverse, jax.grad(along)(p)

    return jax.jit(derivatives)


@pytest.mark.parametrize(
    ("route", "loss"),
    [
        *((route, "cost") for route in ROUTES),
        ("fixed_point, centred", "dual"),
        ("root, pinned", "dual"),
        ("custom_root, free", "dual"),
    ],
)
def test_derivatives_are_those_of_central_differences(route, loss):
    problem, directions = data()
    program = programs(route, loss)
    for eps in WEIGHTS:
        expected = slopes(eps)
        gradient, forward, product, product_reverse = program(problem, directions, eps)
        for name, direction in directions.items():
            came = np.vdot(gradient[name], direction)
            assert came == pytest.approx(expected[name][loss], rel=1e-7), (name, eps)
        whole = sum(expected[name][loss] for name in directions)
        assert forward == pytest.approx(whole, rel=1e-7), eps

        # Second order: the gradient, now trusted, is differenced along the directions.
        step = 1e-3 * eps

        def moved(k, step=step, eps=eps):
            there = jax.tree.map(lambda x, d: x + k * step * d, problem, directions)
            return program(there, directions, eps)[0]

        differences = jax.tree.map(
            lambda p1, m1, p2, m2, step=step: (8 * (p1 - m1) - (p2 - m2)) / (12 * step),
            *(moved(k) for k in (1, -1, 2, -2)),
        )
        for came in (product, product_reverse):
            error = relative_error(
                centred_gradient(came), centred_gradient(differences)
            )
            assert error < 1e-7, eps


def certify(fn, f, p):
    problem = ix.FixedPoint(fn)
    return jax.jit(lambda f, p: ix.certify(gauge_dependent, problem, f, p))(f, p)


def test_what_depends_on_the_gauge_is_not_determined():
    problem, _ = data()
    p = {**problem, "eps": jnp.asarray(0.05)}
    for route in ("fixed_point, free", "custom_root, free"):
        solve = ROUTES[route]
        gradient = jax.jit(jax.grad(lambda p, s=solve: gauge_dependent(s(p), p)))(p)
        assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(gradient)), route
    certificate = certify(sweep, sinkhorn(jnp.zeros(N), p), p)
    assert not certificate.ok
    assert not np.isfinite(certificate.gradient_error)
    assert "singular to working precision" in repr(certificate)


def test_once_the_gauge_is_fixed_it_is_determined_and_certified():
    problem, directions = data()
    p = {**problem, "eps": jnp.asarray(0.05)}
    value = ROUTES["fixed_point, centred"](p)
    certificate = certify(centred_sweep, value, p)
    assert certificate.ok, certificate

    def free(p):
        f = ROUTES["fixed_point, free"](p)
        return gauge_dependent(f - jnp.mean(f), p)

    came = jax.jit(jax.grad(free))(p)
    for name, direction in directions.items():
        expected = np.vdot(certificate.gradient[name], direction)
        assert np.vdot(came[name], direction) == pytest.approx(expected, rel=1e-7)


def test_masses_that_do_not_balance_have_no_derivative():
    problem, _ = data()
    p = {**problem, "eps": jnp.asarray(0.05)}
    more = {**jax.tree.map(jnp.zeros_like, p), "a": jnp.ones(N)}

    def cost(p):
        return transport_cost(ROUTES["custom_fixed_point, free"](p), p)

    _, tangent = jax.jit(lambda p, more: jax.jvp(cost, (p,), (more,)))(p, more)
    assert np.isnan(tangent)


def test_a_duplicated_equation():
    """`y_0 + y_1^3 = a`, twice: a curve of solutions, whose direction turns."""

    def twice(y, a):
        r = y[0] + y[1] ** 3 - a
        return jnp.stack([r, 2 * r])

    @ix.custom_root(twice, derivative=MINIMUM_NORM)
    def solve(y0, a):
        return y0.at[0].set(a - y0[1] ** 3)

    def determined(a):
        y = solve(jnp.array([0.0, 1.2]), a).value
        return (y[0] + y[1] ** 3) ** 2

    def undetermined(a):
        return solve(jnp.array([0.0, 1.2]), a).value[0]

    a = 3.0
    assert jax.grad(determined)(a) == pytest.approx(2 * a, rel=1e-12)
    assert jax.hessian(determined)(a) == pytest.approx(2, rel=1e-12)
    assert np.isnan(jax.grad(undetermined)(a))
    # Forward mode cannot know what will be made of the solution: it answers with the
    # tangent of minimum norm, a multiple of the gradient of the equation.
    normal = np.array([1.0, 3 * 1.2**2])
    tangent = jax.jacfwd(lambda a: solve(jnp.array([0.0, 1.2]), a).value)(a)
    np.testing.assert_allclose(tangent, normal / (normal @ normal), rtol=1e-12)


def test_minimum_norm_solves_differentiates_and_certifies_the_free_map():
    """Newton on the free map, its derivative, and the certificate's word on both kinds
    of loss; n = 64, eps = 0.05."""
    n, eps = 64, 0.05
    x, y = np.random.default_rng(0).uniform(size=(2, n, 2))
    C = jnp.asarray(((x[:, None] - y[None]) ** 2).sum(-1))
    lse, log_n = jax.scipy.special.logsumexp, np.log(n)

    def column(f, C):
        return eps * (-log_n - lse((f[:, None] - C) / eps, axis=0))

    def free_map(f, C):
        return eps * (-log_n - lse((column(f, C)[None] - C) / eps, axis=1))

    def cost(f, C):
        return jnp.sum(jnp.exp((f[:, None] + column(f, C)[None] - C) / eps) * C)

    least = ix.MinimumNorm()

    @jax.jit
    def solve(C):
        return ix.fixed_point(
            free_map,
            jnp.zeros(n),
            C,
            solver=ix.Newton(least),
            derivative=ix.Implicit(least),
        )

    value = lambda C: cost(solve(C).value, C)
    f = solve(C).value
    problem = ix.FixedPoint(free_map)
    determined = ix.certify(cost, problem, f, C, linear_solver=least)
    assert bool(determined.ok)
    assert float(determined.relative_gradient_error) < 1e-10
    D = jnp.asarray(np.random.default_rng(1).normal(size=(n, n)))
    h = 1e-5
    differences = (value(C + h * D) - value(C - h * D)) / (2 * h)
    gradient = jax.jit(jax.grad(value))(C)
    np.testing.assert_allclose(jnp.sum(gradient * D), differences, rtol=1e-6)
    np.testing.assert_allclose(determined.gradient, gradient, rtol=1e-9, atol=1e-14)
    tangent = jax.jit(lambda C: jax.jvp(value, (C,), (D,))[1])(C)
    np.testing.assert_allclose(tangent, jnp.sum(gradient * D), rtol=1e-9)

    gauge = ix.certify(lambda f, C: f[0], problem, f, C, linear_solver=least)
    assert not bool(gauge.ok)
    assert "the loss depends on what it leaves free" in repr(gauge)
    assert np.isnan(jax.grad(lambda C: solve(C).value[0])(C)).all()
