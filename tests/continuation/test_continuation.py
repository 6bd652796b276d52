"""Branches and folds: against closed forms, and what is said where they end."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import implicax as ix

from ..oracles import central, relative_error


def cusp(y, p, a):
    """Folds at `y = -+sqrt(a / 3)`, `p = +-2 (a / 3)^(3/2)`."""
    return y**3 - a * y - p


def circle(y, p, a):
    return y**2 + p**2 - a


def follow_cusp(a=1.0, **options):
    return ix.continuation(cusp, -1.5, -1.0, 1.0, a, **options)


@functools.cache
def cusp_branch():
    return follow_cusp()


def test_passes_folds_to_the_stop():
    branch = cusp_branch()
    count = int(branch.count)
    assert bool(branch.status == ix.BranchStatus.reached_stop)
    assert branch.parameter[0] == -1.0
    assert branch.parameter[count - 1] == 1.0
    y, p = branch.value[:count], branch.parameter[:count]
    assert float(jnp.max(jnp.abs(cusp(y, p, 1.0)))) <= 1e-14
    # Every value of y is passed once, and nothing is skipped.
    assert float(y[0]) == pytest.approx(-1.324717957244746, abs=1e-14)
    assert float(y[-1]) == pytest.approx(1.324717957244746, abs=1e-14)
    assert bool(jnp.all(y[1:] > y[:-1]))
    assert float(jnp.max(y[1:] - y[:-1])) <= 0.1
    assert jnp.isnan(branch.value[count:]).all()
    assert jnp.isnan(branch.parameter[count:]).all()


def test_folds_are_where_they_are():
    branch = cusp_branch()
    assert int(jnp.sum(branch.folds)) == 2
    assert jnp.array_equal(branch.folds, ~jnp.isnan(branch.fold_parameter))
    p = 2 / 3**1.5
    found = branch.fold_parameter[branch.folds]
    assert relative_error(found, np.array([p, -p])) <= 1e-4
    # The error of the interpolation falls with the fourth power of the step.
    finer = follow_cusp(step=0.02)
    found = finer.fold_parameter[finer.folds]
    assert relative_error(found, np.array([p, -p])) <= 2e-6
    # Each lies between the two points that turn.
    for k in np.flatnonzero(branch.folds):
        y = branch.value[k - 1 : k + 1]
        slopes = 3 * y**2 - 1
        assert float(slopes[0] * slopes[1]) < 0


def test_natural_stops_at_the_fold_and_says_so():
    branch = follow_cusp(method="natural", on_failure="ignore")
    last = int(branch.count) - 1
    assert bool(branch.status == ix.BranchStatus.lost)
    p = 2 / 3**1.5
    assert p - 1e-4 <= float(branch.parameter[last]) <= p
    assert float(branch.value[last]) <= -1 / 3**0.5
    assert int(jnp.sum(branch.folds)) == 0
    with pytest.raises(ix.BranchError, match="folds") as caught:
        follow_cusp(method="natural")
    assert "arclength" in str(caught.value)
    assert caught.value.branch.count == branch.count


def test_natural_follows_a_branch_without_folds():
    branch = ix.continuation(
        lambda y, p, _: y**3 + y - p, 0.0, 0.0, 10.0, method="natural"
    )
    assert bool(branch.status == ix.BranchStatus.reached_stop)
    assert float(branch.value[branch.count - 1]) == pytest.approx(2.0, abs=1e-14)
    assert bool(jnp.all(jnp.diff(branch.parameter[: int(branch.count)]) > 0))


def test_a_circle_turns_back_or_goes_round():
    once = ix.continuation(circle, 1.0, 0.0, 2.0, 1.0)
    assert bool(once.status == ix.BranchStatus.turned_back)
    last = int(once.count) - 1
    assert once.parameter[last] == 0.0
    assert float(once.value[last]) == pytest.approx(-1.0, abs=1e-14)
    assert once.fold_parameter[once.folds] == pytest.approx([1.0], abs=1e-5)

    round_ = ix.continuation(circle, 1.0, 0.0, 2.0, 1.0, back_to=-2.0)
    assert bool(round_.status == ix.BranchStatus.max_points_reached)
    assert int(round_.count) == 200
    folds = round_.fold_parameter[round_.folds]
    assert np.asarray(folds[:2]) == pytest.approx([1.0, -1.0], abs=1e-5)
    radius = round_.value**2 + round_.parameter**2
    assert float(jnp.max(jnp.abs(radius - 1))) <= 1e-14


def test_downwards():
    branch = ix.continuation(cusp, 1.5, 1.0, -1.0, 1.0)
    p = 2 / 3**1.5
    assert bool(branch.status == ix.BranchStatus.reached_stop)
    found = branch.fold_parameter[branch.folds]
    assert relative_error(found, np.array([-p, p])) <= 1e-4


def test_units_do_not_matter():
    """The same branch, with the unknown in millionths and the parameter in thousands:
    the same points, to rounding."""
    scaled = ix.continuation(
        lambda y, p, a: 1e-18 * cusp(1e6 * y, p / 1e3, a), -1.5e-6, -1e3, 1e3, 1.0
    )
    branch = cusp_branch()
    assert scaled.count == branch.count
    assert relative_error(1e6 * scaled.value[:50], branch.value[:50]) <= 1e-7


def test_each_point_is_differentiable_at_its_parameter():
    """`dy/da = y / (3 y^2 - a)`, in reverse mode, under `jit`, and in the stop."""

    def mean(a, stop):
        branch = ix.continuation(cusp, -1.5, -1.0, stop, a)
        used = jnp.arange(200, dtype=jnp.int32) < branch.count
        total = jnp.sum(jnp.where(used, branch.value, 0))
        return total, branch

    gradients = jax.grad(mean, argnums=(0, 1), has_aux=True)
    (by_a, by_stop), branch = jax.jit(gradients)(1.0, 1.0)
    y = np.asarray(branch.value[: int(branch.count)])
    assert relative_error(by_a, np.sum(y / (3 * y**2 - 1))) <= 1e-11
    assert relative_error(by_stop, 1 / (3 * y[-1] ** 2 - 1)) <= 1e-11


def test_an_interpolated_fold_has_no_derivative_and_says_so():
    k = int(jnp.argmax(cusp_branch().folds))
    of_fold = jax.jit(jax.grad(lambda a: follow_cusp(a).fold_parameter[k]))
    assert jnp.isnan(of_fold(1.0))


def test_lanes_have_their_own_branches():
    @jax.jit
    @jax.vmap
    def lanes(a, y0):
        return ix.continuation(cusp, y0, -1.0, 1.0, a, max_points=80)

    # The second has no fold; the third starts from NaN.
    branch = lanes(jnp.asarray([1.0, -1.0, jnp.nan]), jnp.full(3, -1.5))
    status = branch.status
    reached = status == ix.BranchStatus.reached_stop
    missing = status == ix.BranchStatus.no_start
    assert reached.tolist() == [True, True, False]
    assert missing.tolist() == [False, False, True]
    assert jnp.sum(branch.folds, axis=1).tolist() == [2, 0, 0]
    assert int(branch.count[2]) == 0
    assert jnp.isnan(branch.value[2]).all()
    alone = ix.continuation(cusp, -1.5, -1.0, 1.0, 1.0, max_points=80)
    assert relative_error(branch.value[0, :50], alone.value[:50]) <= 1e-12
    assert "2 reached stop, 1 no start" in repr(branch)


def test_no_start():
    fn = lambda y, p, _: y**2 + 1 - p
    with pytest.raises(ix.BranchError, match="No regular solution"):
        ix.continuation(fn, 1.0, 0.0, 2.0)
    # At the fold itself there is no direction to start in.
    with pytest.raises(ix.BranchError, match="start closer"):
        ix.continuation(fn, 0.0, 1.0, 2.0)


def test_pytrees_complex_numbers_and_float32():
    tree = ix.continuation(
        lambda y, p, _: {"a": y["a"] ** 2 - 1 - p, "b": y["b"] - y["a"].sum() * p},
        {"a": jnp.ones(2), "b": jnp.asarray(0.0)},
        0.0,
        3.0,
    )
    last = tree.count - 1
    assert tree.value["a"].shape == (200, 2)
    assert relative_error(tree.value["a"][last], np.array([2.0, 2.0])) <= 1e-14
    assert float(tree.value["b"][last]) == pytest.approx(12.0, abs=1e-13)
    # A root of unity, turned by a quarter.
    turned = ix.continuation(
        lambda y, p, _: y**2 - jax.lax.complex(jnp.cos(p), jnp.sin(p)),
        1.0 + 0.0j,
        0.0,
        np.pi,
    )
    end = turned.value[turned.count - 1]
    assert relative_error(end, np.complex128(1j)) <= 1e-14
    single = ix.continuation(
        lambda y, p, _: y**3 + y - p, jnp.float32(0), 0.0, 10.0, max_points=60
    )
    assert single.value.dtype == single.parameter.dtype == jnp.float32
    assert float(single.value[single.count - 1]) == pytest.approx(2.0, abs=1e-6)


def chebyshev(n):
    """Points on [0, 1] and the matrix of the second derivative (Trefethen 2000)."""
    x = np.cos(np.pi * np.arange(n + 1) / n)
    c = np.r_[2, np.ones(n - 1), 2] * (-1.0) ** np.arange(n + 1)
    gap = x[:, None] - x[None, :] + np.eye(n + 1)
    D = np.outer(c, 1 / c) / gap
    D = 2 * (D - np.diag(D.sum(axis=1)))
    return jnp.asarray((D @ D)[1:-1, 1:-1])


def bratu(u, parameter, a):
    """`u'' + parameter a exp(u) = 0`, with `u = 0` at both ends of [0, 1]."""
    return chebyshev(20) @ u + parameter * a * jnp.exp(u)


def bratu_fold():
    """With `x tanh x = 1`: `8 x^2 / cosh(x)^2` (Bratu 1914)."""
    x = scipy.optimize.brentq(lambda x: x * np.tanh(x) - 1, 0.5, 2.0, xtol=1e-15)
    return 8 * x**2 / np.cosh(x) ** 2


def test_bratu():
    branch = ix.continuation(bratu, jnp.zeros(19), 0.0, 4.0, 1.0)
    exact = bratu_fold()
    assert exact == pytest.approx(3.513830719125, abs=1e-12)
    assert int(jnp.sum(branch.folds)) == 1
    k = int(jnp.argmax(branch.folds))
    assert float(branch.fold_parameter[k]) == pytest.approx(exact, rel=1e-4)

    def limit(a):
        return ix.fold(bratu, branch.value[k], branch.parameter[k], a).value[1]

    # On `parameter a` alone: so the limit is inversely proportional to `a`.
    value, slope = jax.jit(jax.value_and_grad(limit))(1.0)
    assert float(value) == pytest.approx(exact, abs=2e-11)
    assert float(slope) == pytest.approx(-exact, abs=1e-10)


def test_the_fold_of_a_parabola_moves_with_it():
    """`y^2 + p - a = 0` folds at `p = a`, `y = 0`."""
    fn = lambda y, p, a: y**2 + p - a
    limit = lambda a: ix.fold(fn, 0.3, 0.5, a).value[1]
    value, slope = jax.jit(jax.value_and_grad(limit))(0.7)
    assert float(value) == pytest.approx(0.7, abs=1e-14)
    assert float(slope) == pytest.approx(1.0, abs=1e-13)


def test_derivatives_of_a_fold():
    """`p = 2 (a / 3)^(3/2)`: first, second, and central differences of both."""
    limit = lambda a: ix.fold(cusp, -0.5, 0.4, a).value[1]
    fold = jax.jit(limit)
    a = 1.3
    closed = 2 * (a / 3) ** 1.5
    assert float(fold(a)) == pytest.approx(closed, abs=1e-12)
    first = jax.jit(jax.grad(limit))
    assert float(first(a)) == pytest.approx((a / 3) ** 0.5, abs=1e-13)
    second = jax.jit(jax.grad(jax.grad(limit)))(a)
    assert float(second) == pytest.approx(1 / (6 * (a / 3) ** 0.5), abs=1e-12)
    near = lambda t: np.asarray(fold(float(t[0])))
    assert relative_error(first(a), central(near, [a], 1e-3)[0]) <= 1e-10


def test_a_fold_in_several_unknowns():
    """Null vectors, and a fold that is no coordinate's own."""
    A = jnp.asarray([[2.0, 1.0], [1.0, 3.0]])

    def fn(y, p, a):
        return {"r": A @ y["r"] + a * y["r"] ** 2 - p}

    branch = ix.continuation(fn, {"r": jnp.zeros(2)}, 0.0, -5.0, 1.0)
    k = int(jnp.argmax(branch.folds))
    near = jax.tree.map(lambda leaf: leaf[k], branch.value)
    solution = ix.fold(fn, near, branch.parameter[k], 1.0)
    y, p, v = solution.value
    J = A + 2 * jnp.diag(y["r"])
    assert float(jnp.max(jnp.abs(fn(y, p, 1.0)["r"]))) <= 1e-14
    assert float(jnp.max(jnp.abs(J @ v["r"]))) <= 1e-13
    assert float(p) == pytest.approx(float(branch.fold_parameter[k]), rel=1e-4)

    fold_parameter = lambda a: ix.fold(fn, near, branch.parameter[k], a).value[1]
    limit = jax.jit(fold_parameter)
    slope = jax.jit(jax.grad(fold_parameter))(1.0)
    differences = central(lambda t: np.asarray(limit(float(t[0]))), [1.0], 1e-3)
    assert relative_error(slope, differences[0]) <= 1e-9


def polynomial(y, p, a):
    """Folds of all kinds, in any units: of the equation, the unknown, the parameter."""
    c, units = a
    y, p = y / units[1], p / units[2]
    terms = [1.0, p, y, y * p, p**2, y**2, y**3, jnp.exp(-y)]
    return units[0] * sum(c[k] * term for k, term in enumerate(terms))


#: Coefficients, a guess, and the fold, or `None` where there is no simple one.
FOLDS = {
    "pitchfork": ([0, 0, 0, 1, 0, 0, -1.3, 0], (0.3, 0.1), None),
    "pitchfork from itself": ([0, 0, 0, 1, 0, 0, -1.3, 0], (0.0, 0.0), None),
    "pitchfork elsewhere": ([1.043, -0.7, -2.47, 1, 0, 2.1, -1, 0], (0.3, 0.9), None),
    "transcritical": ([0, 0, 0, 1, 0, -1, 0, 0], (0.3, 0.1), None),
    "crossing": ([0, 0, 0, 0, -1, 1, 0, 0], (0.4, 0.1), None),
    "isola": ([0, 0, 0, 0, 1, 1, 0, 0], (0.3, 0.1), None),
    "isola elsewhere": ([1.7, -2.2, -1.4, 0, 1, 1, 0, 0], (0.6, 0.9), None),
    "cusp": ([0, -1, 0, 0, 0, 0, 1, 0], (0.3, 0.1), None),
    "cusp elsewhere": ([0.657, -1, 1.47, 0, 0, -2.1, 1, 0], (0.8, 0.9), None),
    "at infinity": ([0, -1, 0, 0, 0, 0, 0, 1.3], (0.3, 0.1), None),
    "none at all": ([0, -1, 1, 0, 0, 0, 1, 0], (0.3, 0.1), None),
    "parabola": ([-0.7, 1, 0, 0, 0, 1, 0, 0], (0.3, 0.5), (0.0, 0.7)),
    "circle": ([-1, 0, 0, 0, 1, 1, 0, 0], (0.2, 0.8), (0.0, 1.0)),
    "small circle": ([-1e-10, 0, 0, 0, 1, 1, 0, 0], (2e-6, 8e-6), (0.0, 1e-5)),
    "cubic": ([0, -1, -3, 0, 0, 0, 1, 0], (-0.8, 1.5), (-1.0, 2.0)),
    "exponential": ([0, -1, 1, 0, 0, 0, 0, 1], (0.2, 0.8), (0.0, 1.0)),
}


SINGULAR = ("pitchfork", "transcritical", "crossing", "isola", "cusp")


def test_a_fold_is_a_simple_one_in_any_units():
    units = jnp.asarray(
        [(1, 1, 1), (1e8, 1e-8, 1e8), (1e-8, 1e8, 1e-8), (1, 1e8, 1), (1, 1e-8, 1)]
    )
    c = jnp.asarray([c for c, *_ in FOLDS.values()])
    guesses = jnp.asarray([guess for _, guess, _ in FOLDS.values()])

    def lane(c, guess, units):
        y, p = guess * units[1:]
        newton = ix.Newton(rtol=1e-12, atol=0.0)
        return ix.fold(polynomial, y, p, (c, units), solver=newton, on_failure="ignore")

    inner = jax.vmap(lane, in_axes=(None, None, 0))
    found = jax.jit(jax.vmap(inner, in_axes=(0, 0, None)))(c, guesses, units)
    converged = np.asarray(found.status == ix.Status.converged)
    degenerate = np.asarray(found.status == ix.Status.degenerate)
    y, p, _ = found.value
    places = np.stack([y / units[None, :, 1], p / units[None, :, 2]], axis=-1)
    for k, (name, (_, _, fold)) in enumerate(FOLDS.items()):
        if fold is None:
            assert not converged[k].any(), name
        else:
            assert converged[k].all(), name
            error = np.abs(places[k] - np.asarray(fold)) / np.max(np.abs(fold))
            assert np.max(error) <= 1e-12, name
    # Newton's method gets to the singular ones, and then it is said what they are.
    singular = [k for k, name in enumerate(FOLDS) if name.split()[0] in SINGULAR]
    assert np.mean(degenerate[singular]) >= 0.9


def test_where_folds_meet_there_is_none():
    """At `a = 0` the folds of the cusp are one: the system is singular there."""
    limit = lambda a: ix.fold(cusp, 0.4, 0.1, a).value[1]
    with pytest.raises(ix.ConvergenceError, match="degenerate"):
        limit(0.0)
    value, slope = jax.jit(jax.value_and_grad(limit))(0.0)
    assert jnp.isnan(value)
    assert jnp.isnan(slope)


def hidden(y, p, a):
    """Three branches side by side, at distances `gap`, in `x0`; `x1` follows. Mixed
    by a rotation, and in units of their own."""
    gap, units = a
    x = y / units[:2]
    apart = x[0] - jnp.sin(20 * p) - gap * jnp.arange(3.0)
    equations = jnp.stack([jnp.prod(apart), x[1] - jnp.sin(3 * p) - x[0] ** 2])
    mixing = jnp.asarray([[0.8, -0.6], [0.6, 0.8]])
    return (mixing @ equations) * units[2:]


def test_neighbouring_branches_are_not_mistaken():
    gaps = jnp.asarray([0.1, 0.1, 0.1, 0.03, 0.3, 0.1])
    rungs = jnp.asarray([0.0, 1.0, 2.0, 0.0, 1.0, 1.0])
    units = jnp.ones((6, 4)).at[5].set(jnp.asarray([1e6, 1e-8, 1e-8, 1e6]))

    @jax.jit
    @jax.vmap
    def lanes(gap, rung, units):
        x = rung * gap
        y0 = jnp.stack([x, x**2]) * units[:2]
        branch = ix.continuation(hidden, y0, 0.0, 1.0, (gap, units), max_points=400)
        return branch, branch.value[branch.count - 1] / units[:2]

    branch, end = lanes(gaps, rungs, units)
    assert bool((branch.status == ix.BranchStatus.reached_stop).all())
    x = np.sin(20.0) + rungs * gaps
    assert relative_error(end, np.stack([x, np.sin(3.0) + x**2], axis=1)) <= 1e-10
    # As few points as the bends ask for, where the neighbours are not near.
    assert int(branch.count[4]) <= 100


def test_branches_that_nearly_cross():
    """`y^2 - p^2 = a`: hyperbolas that turn away from each other, and two lines."""
    a = jnp.asarray([1e-3, 1e-6, 1e-9, -1e-3, -1e-9, 0.0])

    @jax.jit
    @jax.vmap
    def lanes(a):
        y0 = -jnp.sqrt(1 + a)
        return ix.continuation(lambda y, p, a: y**2 - p**2 - a, y0, -1.0, 1.0, a)

    branch = lanes(a)
    status, last = branch.status, branch.count - 1
    end = jax.vmap(lambda value, last: value[last])(branch.value, last)
    reached = (status == ix.BranchStatus.reached_stop).tolist()
    assert reached == [True, True, True, False, False, False]
    back = (status == ix.BranchStatus.turned_back).tolist()
    assert back == [False, False, False, True, True, False]
    assert (status == ix.BranchStatus.lost).tolist() == [False] * 5 + [True]
    assert relative_error(end[:3], -np.sqrt(1 + a[:3])) <= 1e-14
    assert relative_error(end[3:5], np.sqrt(1 + a[3:5])) <= 1e-14
    assert "branches" in ix.BranchStatus[ix.BranchStatus.lost]
    assert abs(float(end[5])) <= 1e-5


def test_bad_input():
    with pytest.raises(ValueError, match="both 1"):
        ix.continuation(cusp, -1.5, 1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="max_points"):
        follow_cusp(max_points=1)
    with pytest.raises(ValueError, match="step must be positive"):
        follow_cusp(step=0.0)
    with pytest.raises(ValueError, match="back_to"):
        follow_cusp(back_to=0.5)
    with pytest.raises(TypeError, match="stop must be a single"):
        ix.continuation(cusp, -1.5, -1.0, jnp.ones(2), 1.0)
    with pytest.raises(ValueError, match="start must be finite"):
        ix.continuation(cusp, -1.5, float("nan"), 1.0, 1.0)
    with pytest.raises(TypeError, match="must be real"):
        ix.fold(cusp, 1.0j, 0.0, 1.0)
    with pytest.raises(TypeError, match="parameter0"):
        ix.fold(cusp, 1.0, jnp.zeros(2), 1.0)
    with pytest.raises(ValueError, match="up to 2047"):
        ix.fold(lambda y, p, _: y - p, jnp.zeros(2048), 0.0)
