"""How far the next change of the active set is: the certificate's margin, and what is
made of kinks.

The oracle is the solution itself: with data moved by less than the margin the same
constraints act, with data moved by more others do.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicax as ix

from ..oracles import relative_error

N = 4


def program(args):
    """(A factor of `P`, so that it stays symmetric as the data are moved.)"""
    root, q, G, h = args
    return ix.Program(root.T @ root, q, G=G, h=h, bounds=(0.0, None))


PROGRAM = ix.QuadraticProgram(program)


def objective(y, args):
    root, q, _, _ = args
    return jnp.sum((root @ y) ** 2) / 2 + q @ y


MINIMUM = ix.Minimum(
    objective,
    bounds=(0.0, None),
    constraints=[ix.AtMost(lambda y, args: args[2] @ y - args[3])],
)


def draw(seed):
    """A strictly convex program with some of its constraints active, in some units."""
    rng = np.random.default_rng(seed)
    root = np.concatenate([rng.normal(size=(N, N)), np.eye(N)])
    q, G = 3 * rng.normal(size=N), np.abs(rng.normal(size=(2, N)))
    unit = 10.0 ** rng.uniform(-3, 3, N)
    return root / unit, q / unit, G / unit, rng.uniform(1, 2, size=2)


def acting(args):
    """Which constraints act."""
    dual = ix.solve(PROGRAM, None, args).dual
    return jnp.concatenate([dual.inequality, dual.bounds]) != 0


@functools.cache
def certified(kind):
    """The solution's certificate and the active set, compiled once."""
    problem = {"program": PROGRAM, "minimum": MINIMUM}[kind]
    start = None if kind == "program" else jnp.ones(N)

    def run(args):
        found = ix.solve(problem, start, args, on_failure="ignore")
        loss = lambda y, args: jnp.sum(jnp.sin(y[0] * args[1])) + jnp.sum(args[3])
        return found.converged, ix.certify(loss, problem, found, args)

    return jax.jit(run)


def along(args):
    """The change that the margin is measured along: each datum by a part of itself."""

    def part(datum):
        return datum * (1 + np.cos(np.arange(datum.size)) / 4).reshape(datum.shape)

    return jax.tree.map(part, args)


SEEDS = range(20)


@pytest.mark.parametrize("kind", ["program", "minimum"])
def test_strictly_complementary_solutions_are_certified(kind):
    """In any units, with unknowns that are exactly zero at their bounds."""
    counts = []
    for seed in SEEDS:
        args = jax.tree.map(jnp.asarray, draw(seed))
        converged, certificate = certified(kind)(args)
        assert converged
        assert certificate.ok, certificate
        assert certificate.margin > 1e-4
        counts.append(int(acting(args).sum()))
    assert min(counts) < max(counts)


@pytest.mark.parametrize("kind", ["program", "minimum"])
def test_the_active_set_changes_at_the_margin(kind):
    """To first order: so the data are moved until it is near."""
    tried = 0
    for seed in SEEDS:
        args, before, reached = jax.tree.map(jnp.asarray, draw(seed)), None, False
        for sign in (1.0, -1.0):
            now = args
            for _ in range(6):
                _, certificate = certified(kind)(now)
                step = sign * float(certificate.margin)
                if abs(step) > 0.5:
                    break
                direction = along(now)
                moved = [
                    jax.tree.map(lambda a, d, t=t: a + t * step * d, now, direction)
                    for t in (0.9, 1.1)
                ]
                before, after, here = map(acting, (*moved, now))
                if abs(step) < 1e-3:
                    # The change may be ahead, or behind.
                    reached |= bool((before == here).all() & (after != here).any())
                    assert (before == here).all()
                    break
                now = moved[0]
        tried += reached
    assert tried >= 3


KINKS = {
    "program": lambda x, how: ix.quadratic_program(
        jnp.eye(2), -x, bounds=(0.0, None), derivative=how
    ),
    "minimum": lambda x, how: ix.minimize(
        lambda y, x: jnp.sum((y - x) ** 2),
        jnp.ones(2),
        x,
        bounds=(0.0, None),
        derivative=how,
    ),
    "complementarity": lambda x, how: ix.complementarity(
        lambda y, x: y - x, jnp.ones(2), x, derivative=how
    ),
    "cone": lambda x, how: ix.cone_program(
        jnp.eye(2),
        -x,
        -jnp.eye(2),
        jnp.zeros(2),
        [ix.cones.Nonnegative(2)],
        derivative=how,
    ),
    "composite": lambda x, how: ix.solve(
        ix.Composite(
            lambda y, x: jnp.sum((y - x - 1) ** 2) / 2,
            lambda v, x, s: jnp.sign(v) * jnp.maximum(jnp.abs(v) - s, 0),
        ),
        jnp.ones(2),
        x,
        derivative=how,
    ),
}
AT, BESIDE = jnp.asarray([1.0, 0.0]), jnp.asarray([1.0, 0.5])
ERROR = ix.Implicit(kinks="error")


@pytest.mark.parametrize("kind", KINKS)
def test_a_kink_is_selected_or_an_error(kind):
    """The nearest point of the quadrant, and its likes: at a kink, and beside it."""
    solve = KINKS[kind]
    assert solve(AT, ix.Implicit()).degeneracy.weak
    slope = jax.jacobian(lambda x: solve(x, ix.Implicit()).value)(BESIDE)
    same = jax.jacobian(lambda x: solve(x, ERROR).value)(BESIDE)
    assert relative_error(slope, jnp.eye(2)) <= 1e-9
    assert relative_error(same, slope) <= 1e-12
    with pytest.raises(
        ix.ConvergenceError, match=r"(?s)kink.*multiplier of zero"
    ) as told:
        solve(AT, ERROR)
    assert told.value.solution.status.name == "kink"
    assert relative_error(told.value.solution.value, AT) <= 1e-7
    lanes = jax.vmap(jax.value_and_grad(lambda x: jnp.sum(solve(x, ERROR).value)))
    values, slopes = lanes(jnp.stack([AT, BESIDE]))
    assert jnp.isnan(values).tolist() == [True, False]
    assert jnp.isnan(slopes).all(axis=1).tolist() == [True, False]


def test_no_certificate_at_a_kink():
    problems = {
        "program": ix.QuadraticProgram(
            lambda x: ix.Program(jnp.eye(2), -x, bounds=(0.0, None))
        ),
        "minimum": ix.Minimum(lambda y, x: jnp.sum((y - x) ** 2), bounds=(0.0, None)),
        "complementarity": ix.Complementarity(lambda y, x: y - x),
    }
    for name, problem in problems.items():
        start = None if name == "program" else jnp.ones(2)

        def judged(x, problem=problem, start=start):
            found = ix.solve(problem, start, x)
            return ix.certify(lambda y, x: y[0][0], problem, found, x)

        at, beside = judged(AT), judged(BESIDE)
        assert not at.ok
        assert [k for k, holds in at.checks.items() if not holds] == ["active"], name
        assert "acts with a multiplier of zero" in repr(at)
        assert beside.ok
        assert 0.1 < beside.margin < 10


def test_kinks_are_known_where_there_are_constraints():
    with pytest.raises(TypeError, match=r"kinks='error' is for bounds.*certify"):
        ix.root(lambda y, a: y - a, 1.0, 2.0, derivative=ERROR)
    with pytest.raises(ValueError, match="kinks must be 'select' or 'error'"):
        ix.Implicit(kinks="smooth")
    assert (
        ix.certify(lambda y, a: y, ix.Root(lambda y, a: y - a), 2.0, 2.0).margin is None
    )


def test_conditions_of_ones_own_may_have_a_margin():
    """The positive part of `a`: `y - a - t = 0`, and one of both is zero."""

    class Positive(ix.AbstractProblem):
        def conditions(self, y, args):
            value, t = y
            acts = jax.lax.stop_gradient(t > value)
            return ix.Conditions(
                residual=(value - args - t, jnp.where(acts, value, t)),
                strict=jnp.where(acts, t, value),
            )

    def margin(y, a):
        loss = lambda y, a: y[0]
        return ix.certify(loss, Positive(), jax.tree.map(jnp.asarray, y), a).margin

    assert relative_error(margin((2.0, 0.0), jnp.asarray(2.0)), 0.8) <= 1e-6
    assert relative_error(margin((0.0, 3.0), jnp.asarray(-3.0)), 0.8) <= 1e-6
