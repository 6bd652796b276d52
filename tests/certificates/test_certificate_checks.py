"""What a certificate must not call `ok`, whatever its other lines say."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicax as ix


def total(y, a):
    return jnp.sum(y)


def failed(certificate):
    return [name for name, holds in certificate.checks.items() if not bool(holds)]


class Trap(NamedTuple):
    fn: Callable[[Any, Any], Any]
    datum: float
    values: list[Any]
    check: str
    """What must refuse all of the values."""


def step(y, a):
    return 0.5 * (y - a) + 0.5 * jnp.tanh(20 * (y - 0.5))


ROOTS = {
    # Newton's correction leads nowhere: across a steep step, ...
    "step": Trap(step, 0.3, [1.0], "Newton"),
    # ... along a function that levels off before its root, or has none, ...
    "far tail": Trap(
        lambda y, a: a * jnp.exp(-y) - a**2 * jax.nn.sigmoid(y - 20),
        1.3,
        [2.0, 5.0, 6.0],
        "Newton",
    ),
    "exponential tail": Trap(
        lambda y, a: a * jnp.exp(-y), 1.3, [3.0, 30.0, 700.0], "Newton"
    ),
    "vanished": Trap(
        lambda y, a: a * jnp.exp(-y), 1.3, [740.0, 744.0, 800.0], "Jacobian"
    ),
    "power tail": Trap(lambda y, a: a / (1 + y**2), 1.3, [1e3, 1e8], "Newton"),
    "no root": Trap(lambda y, a: (y - a) ** 2 + 1e-3, 1.0, [1.2], "Newton"),
    "double root": Trap(lambda y, a: (y - a) ** 2, 1.0, [1.2, 1 + 1e-6], "Newton"),
    "root of zero": Trap(lambda y, a: y**2 - a, 0.0, [1e-3, 1e-8, 1e-12], "Newton"),
    "jump, no root": Trap(
        lambda y, a: y - a + 0.1 * jnp.sign(y - 1), 1.05, [1.0], "Newton"
    ),
    # Kinks and jumps at the solution itself, also reached from one side.
    "absolute value": Trap(
        lambda y, a: jnp.abs(y) - a, 0.0, [0.0, 1e-17, 1e-9], "smooth"
    ),
    "maximum": Trap(
        lambda y, a: jnp.maximum(y, 3 * y) - a, 0.0, [0.0, 1e-17], "smooth"
    ),
    "curved kink": Trap(
        lambda y, a: jnp.maximum(jnp.expm1(y - 1), 3 * (y - 1)) - (a - 1),
        1.0,
        [1.0, 1 + 1e-15, 1 + 1e-9, 1.001],
        "smooth",
    ),
    "jump at the root": Trap(
        lambda y, a: y - a + jnp.where(y > 1, 0.1, 0.0), 1.0, [1.0], "smooth"
    ),
    "another derivative": Trap(
        lambda y, a: y * jax.lax.stop_gradient(y) - a, 4.0, [2.0], "smooth"
    ),
    "edge of the domain": Trap(
        lambda y, a: y + jnp.sqrt(y - 1) - a, 1.0, [1.0], "smooth"
    ),
}
MINIMA = {
    "step": Trap(
        lambda y, a: 0.25 * (y - a) ** 2 + jnp.log(jnp.cosh(20 * (y - 0.5))) / 40,
        0.3,
        [1.0],
        "Newton",
    ),
    # (where the gradient of what is minimised jumps)
    "kink": Trap(
        lambda y, a: jnp.abs(y) + (y - a) ** 2 / 2,
        0.3,
        [0.0, 1e-17, -1e-17, 1e-9],
        "Newton",
    ),
    "maximum": Trap(lambda y, a: -((y - a) ** 2), 1.0, [1.0], "minimum"),
}
MINIMA_OF_TWO = {
    # (at infinity, where the curvature vanishes no less than the gradient)
    "runs off": Trap(
        lambda y, a: a * jnp.exp(-2 * y[0]) + jnp.cosh(y[1] - a),
        1.0,
        [[18.5, 1.0], [5.0, 1.0]],
        "Newton",
    ),
    "saddle": Trap(
        lambda y, a: y[0] ** 2 - y[1] ** 2 + a * y[0], 1.0, [[-0.5, 0.0]], "minimum"
    ),
    "flat": Trap(lambda y, a: (y[0] - a) ** 2 + 0 * y[1], 1.0, [[1.0, 2.0]], "minimum"),
}
FIXED_POINTS = {"step": Trap(lambda y, a: y - step(y, a), 0.3, [1.0], "Newton")}
TRAPS = {
    "roots": (ix.Root, ROOTS),
    "fixed points": (ix.FixedPoint, FIXED_POINTS),
    "minima": (ix.Minimum, MINIMA),
    "minima of two": (ix.Minimum, MINIMA_OF_TWO),
}


@functools.cache
def certificates(group):
    """Of all values of all traps, by one program, with their names and checks."""
    kind, traps = TRAPS[group]
    functions = [trap.fn for trap in traps.values()]
    rows = [
        (index, name, trap, value)
        for index, (name, trap) in enumerate(traps.items())
        for value in trap.values
    ]

    def certify(row):
        index, y, a = row
        fn = lambda y, a: jax.lax.switch(index, functions, y, a)
        return ix.certify(total, kind(fn), y, a)

    batch = jax.jit(lambda rows: jax.lax.map(certify, rows))(
        (
            jnp.asarray([index for index, *_ in rows], jnp.int32),
            jnp.asarray([value for *_, value in rows]),
            jnp.asarray([trap.datum for _, _, trap, _ in rows]),
        )
    )
    return [
        (name, trap, value, jax.tree.map(lambda leaf, k=k: leaf[k], batch))
        for k, (_, name, trap, value) in enumerate(rows)
    ]


@pytest.mark.parametrize("group", TRAPS)
def test_what_is_not_ok(group):
    for name, trap, value, one in certificates(group):
        assert trap.check in failed(one), (name, value, one)
        report = repr(one)
        assert report.startswith("Certificate: NOT ok"), (name, value, one)
        assert f"NO  {trap.check}" in report, (name, value, one)


def test_what_is_not_ok_in_single_precision():
    certify = jax.jit(
        lambda y: ix.certify(total, ix.Root(ROOTS["exponential tail"].fn), y, a)
    )
    a = jnp.float32(1.3)
    for y in (3, 30):
        assert "Newton" in failed(certify(jnp.float32(y)))


def test_a_kink_in_the_loss():
    problem = ix.Root(lambda y, a: y - a)
    certify = jax.jit(
        lambda y: ix.certify(lambda y, a: jnp.abs(y - 1), problem, y, 1.0)
    )
    assert failed(certify(1.0)) == ["smooth"]
    assert "smooth" in failed(certify(1 + 1e-13))


def test_a_singular_hessian_is_not_called_positive_definite():
    (flat,) = [c for name, *_, c in certificates("minima of two") if name == "flat"]
    assert failed(flat)[:2] == ["Jacobian", "minimum"]
    assert "positive definite is lost in rounding" in repr(flat)


def test_one_function_makes_verdict_and_report():
    """Every lane of a batch reports what its `ok` says, also where all is NaN."""
    problem = ix.Root(lambda y, a: jnp.log(y) - a)
    values = jnp.asarray([1.0, 1.001, 2.0, 0.0, -1.0, jnp.inf, jnp.nan])
    batch = jax.vmap(lambda y: ix.certify(total, problem, y, 0.0))(values)
    np.testing.assert_array_equal(batch.ok, [True, True, *5 * [False]])
    for k in range(values.size):
        report = repr(jax.tree.map(lambda leaf: leaf[k], batch))
        assert report.startswith("Certificate: ok") == bool(batch.ok[k])
        assert ("  NO " in report) != bool(batch.ok[k])


BIG = 5000


def certify_big(sign, bad):
    """A minimum in 5000 unknowns, one of them another matter."""

    def objective(y, a):
        here = jnp.arange(BIG) == 77
        curved = jnp.where(here, sign, 1.0) * (y - a) ** 2 / 2
        return jnp.sum(curved) + jnp.sum(jnp.where(here, bad, 0.0) * y)

    return ix.certify(total, ix.Minimum(objective), jnp.full(BIG, 1 + 1e-6), 1.0)


def test_one_unknown_of_five_thousand():
    """NaN in one component; and negative curvature along one, without a matrix."""
    batch = jax.jit(jax.vmap(certify_big))(
        jnp.asarray([1.0, -1.0, 1.0]), jnp.asarray([0.0, 0.0, jnp.nan])
    )
    np.testing.assert_array_equal(batch.ok, [True, False, False])
    np.testing.assert_array_equal(batch.checks["minimum"], [True, False, True])
    np.testing.assert_array_equal(batch.checks["solution"], [True, True, False])


def test_a_small_component_does_not_hide():
    """A datum of 1e9 that matters as much as one of 1 has a gradient of 1e-9."""
    args = {"c": jnp.asarray(1.0), "K": jnp.asarray(1e9)}

    def fn(y, a):
        return jnp.stack([y[0] ** 2 + 1e-9 * a["K"] * y[0] - 2, y[1] - a["c"]])

    certify = jax.jit(lambda y: ix.certify(total, ix.Root(fn), y, args))
    assert bool(certify(jnp.asarray([1.0, 1.0])).ok)
    c = certify(jnp.asarray([1.15, 1.0]))
    true = abs(1.15 / 3.3 - 1 / 3)
    assert float(c.elasticity_error) == pytest.approx(true, rel=0.02)
    assert float(c.relative_gradient_error) < 1e-10
    assert failed(c) == ["gradient"]
    assert "1.5e-02 in args['K']" in repr(c)


def test_the_worst_component_is_named_by_its_path():
    args = {"p": [jnp.asarray(1.0)], "W": jnp.asarray([[1.0, 0.0], [0.0, 2.0]])}
    problem = ix.Root(lambda y, a: a["W"] @ y + y**3 - a["p"][0])
    c = ix.certify(lambda y, a: y[1], problem, jnp.asarray([0.7, 0.5]), args)
    errors = np.abs(c.gradient_errors["W"] * args["W"])
    assert float(c.elasticity_error) == pytest.approx(
        max(errors.max(), abs(float(c.gradient_errors["p"][0])))
        / max(
            np.abs(c.corrected_gradient["W"] * args["W"]).max(),
            abs(float(c.corrected_gradient["p"][0])),
        )
    )
    names = [f"['W'][{i}, {j}]" for i in (0, 1) for j in (0, 1)] + ["['p'][0]"]
    assert f"in args{names[int(c.worst)]}" in repr(c)


def test_missing_data_coded_as_nan_are_no_reason():
    """They have no part in the equation, nor in the gradient."""
    a = jnp.asarray([1.0, jnp.nan, 3.0])

    def objective(y, a):
        missing = jnp.isnan(a)
        return jnp.sum(jnp.where(missing, 0, jnp.cosh(y - jnp.where(missing, 0, a))))

    problem = ix.Minimum(objective)
    c = ix.certify(lambda y, a: y, problem, 2.0, a)
    assert bool(c.ok), c
    np.testing.assert_allclose(c.gradient, [0.5, 0, 0.5], rtol=1e-12)


def test_a_solution_is_as_good_as_its_value():
    problem = ix.Root(lambda y, a: y**2 - a)
    solution = ix.root(problem.fn, 1.0, 2.0)
    one, other = (
        ix.certify(total, problem, y, 2.0) for y in (solution, solution.value)
    )
    assert float(one.gradient) == float(other.gradient)


def test_a_complex_unknown():
    """`z^2 = a` near a root, and near the double root at zero."""
    problem = ix.Root(lambda z, a: z**2 - a)
    loss = lambda z, a: jnp.real(z) + 2 * jnp.imag(z)
    certify = jax.jit(lambda z, a: ix.certify(loss, problem, z, a))
    good = certify(jnp.asarray(1 + 2j) * (1 + 1e-5), jnp.asarray(-3 + 4j))
    assert bool(good.ok), good
    assert not bool(certify(jnp.asarray(1e-6 + 1e-6j), jnp.asarray(0j)).ok)


def test_what_cancels_is_no_jump():
    """The rounding of an angle, where the unknown that turns it is zero but for a
    rounding error."""

    def fn(y, a):
        turns = jnp.arctan2(-y[0], y[1]) / (2 * jnp.pi) + 0.25
        return jnp.stack([y[2] - 10 * turns, jnp.hypot(y[0], y[1]) - a, y[2]])

    value = jnp.asarray([1.0, 3.258841e-17, 0.0])
    certificate = ix.certify(total, ix.Root(fn), value, 1.0)
    assert certificate.ok, certificate
