"""Decorated solvers: any arguments, any options, found out when they lie, certified."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicax as ix

from ...oracles import relative_error


def square(y, a):
    return y**2 - a


def heron(y0, a):
    """A solver in JAX: fourteen steps of Heron's method."""
    return jax.lax.fori_loop(0, 14, lambda _, y: (y + a / y) / 2, y0)


def exact(y0, a):
    """A solver in NumPy, called outside `jit`, or on the host."""
    return np.sqrt(a)


ROOT_DERIVATIVES = {  # of sqrt(a) at a = 2
    "value": 2**0.5,
    "jvp": 0.5 * 2**-0.5,
    "vjp": 0.5 * 2**-0.5,
    "hessian": -0.25 * 2**-1.5,
    "third": 0.375 * 2**-2.5,
}


@pytest.mark.parametrize("solver", [heron, ix.host(exact)], ids=["jax", "host"])
def test_derivatives_of_every_order(solver):
    solve = ix.custom_root(square)(solver)
    value = lambda a: solve(1.0, a).value
    came = jax.jit(
        lambda a: {
            "value": value(a),
            "jvp": jax.jacfwd(value)(a),
            "vjp": jax.grad(value)(a),
            "hessian": jax.hessian(value)(a),
            "third": jax.grad(jax.grad(jax.grad(value)))(a),
        }
    )(jnp.asarray(2.0))
    for name, wanted in ROOT_DERIVATIVES.items():
        assert relative_error(came[name], np.asarray(wanted)) <= 1e-12, name


def test_a_solver_in_jax_is_not_differentiated():
    """Its own derivative would be an error: it has none."""

    @jax.custom_jvp
    def solver(y0, a):
        return jnp.sqrt(a)

    @solver.defjvp
    def rule(primals, tangents):
        raise AssertionError("the solver was differentiated")

    solve = ix.custom_root(square)(lambda y0, a: solver(y0, a))
    slope = jax.jit(jax.grad(lambda a: solve(1.0, a).value))(4.0)
    assert relative_error(slope, np.asarray(0.25)) <= 1e-12


@pytest.mark.parametrize("solver", [heron, ix.host(exact)], ids=["jax", "host"])
@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_initial_guess_has_exactly_zero_derivative(mode, solver):
    solve = ix.custom_root(square)(solver)
    value = lambda y0, a: solve(y0, a).value
    by_guess, by_a = jax.jit(mode(value, argnums=(0, 1)))(1.0, 4.0)
    assert float(by_guess) == 0.0
    assert relative_error(by_a, np.asarray(0.25)) <= 1e-12


def test_closed_over_arrays_are_differentiated():
    """`w y^2 = 4` where neither the solver nor `args` is asked for `w`'s derivative."""

    def value(w):
        solver = lambda y0, _: heron(y0, 4 / w)
        return ix.custom_root(lambda y, _: w * y**2 - 4)(solver)(1.0).value

    points = jnp.asarray([1.0, 2.0, 4.0])
    came = jax.jit(
        lambda w: (
            jax.vmap(jax.grad(value))(w),
            jax.vmap(jax.hessian(value))(w),
            jax.grad(lambda w: jnp.sum(jax.vmap(value)(w)))(w),
        )
    )(points)
    expected = (-(points**-1.5), 1.5 * points**-2.5, -(points**-1.5))
    assert relative_error(came, expected) <= 1e-12


NOT_ARRAYS = {"name": "heat", "none": None, "call": jnp.sqrt, "power": 2}


def general(y, args):
    assert args["name"] == "heat"
    assert args["none"] is None
    return {"z": y["z"] ** args["power"] - args["a"]}


@pytest.mark.parametrize("on_host", [False, True], ids=["jax", "host"])
def test_arguments_and_options_that_are_no_arrays(on_host):
    def solver(y0, args, *, shift=0.0, note=None):
        assert (args["name"], args["none"], args["power"]) == ("heat", None, 2)
        assert note == "n"
        sqrt = np.sqrt if on_host else args["call"]
        return {"z": sqrt(args["a"]) + 0 * shift}

    solve = ix.custom_root(general)(ix.host(solver) if on_host else solver)
    start = {"z": jnp.ones(2)}

    def value(a):
        solution = solve(start, {"a": a, **NOT_ARRAYS}, shift=1.0, note="n")
        return jnp.sum(solution.value["z"])

    a = jnp.asarray([4.0, 9.0])
    for wrap in (lambda f: f, jax.jit):
        came = wrap(jax.grad(value))(a)
        assert relative_error(came, np.asarray([1 / 4, 1 / 6])) <= 1e-12


@pytest.mark.parametrize("on_host", [False, True], ids=["jax", "host"])
def test_options_have_no_derivative(on_host):
    """The solution does not depend on how it was found."""
    solver = lambda y0, a, tol: np.sqrt(a) if on_host else heron(y0 + tol, a)
    solve = ix.custom_root(square)(ix.host(solver) if on_host else solver)
    value = lambda a, tol: solve(1.0, a, tol=tol).value
    for wrap in (lambda f: f, jax.jit):
        slopes = wrap(jax.grad(value, argnums=(0, 1)))(4.0, 1e-3)
        assert relative_error(slopes[0], np.asarray(0.25)) <= 1e-12
        assert float(slopes[1]) == 0.0


def test_aux_of_the_solver_is_passed_on():
    @ix.custom_root(square, has_aux=True)
    def solve(y0, a, *, label):
        y = heron(y0, a)
        return y, {"twice": 2 * y, "label": label}

    solution = solve(1.0, 4.0, label="l")
    assert solution.aux["label"] == "l"
    assert float(solution.aux["twice"]) == 4.0
    by_value, by_aux = jax.jit(
        lambda a: (
            jax.grad(lambda a: solve(1.0, a, label="l").value)(a),
            jax.grad(lambda a: solve(1.0, a, label="l").aux["twice"])(a),
        )
    )(4.0)
    assert relative_error(by_value, np.asarray(0.25)) <= 1e-12
    assert float(by_aux) == 0.0


def test_aux_of_the_problem_is_differentiable():
    problem = ix.Root(lambda y, a: (y**2 - a, {"cube": y**3 + a}), has_aux=True)
    solve = ix.implicit(problem)(ix.host(exact))
    cube = lambda a: solve(1.0, a).aux["cube"]
    value, slope = jax.jit(jax.value_and_grad(cube))(4.0)
    assert relative_error((value, slope), (np.asarray(12.0), np.asarray(4.0))) <= 1e-12


LIARS = {
    "rough": lambda y0, a: np.sqrt(a) + 1e-4,
    "another root": lambda y0, a: -np.sqrt(a) * 1.001,
    "the guess": lambda y0, a: y0,
}


@pytest.mark.parametrize("on_host", [False, True], ids=["eager", "host"])
@pytest.mark.parametrize("liar", LIARS)
def test_a_solver_that_lies_is_found_out(liar, on_host):
    solver = ix.host(LIARS[liar]) if on_host else LIARS[liar]
    solve = ix.custom_root(square)(solver)
    with pytest.raises(ix.ConvergenceError) as caught:
        solve(jnp.asarray(1.0), 2.0)
    text = str(caught.value)
    assert bool(caught.value.solution.status == ix.Status.not_solved)
    assert "did not converge (not solved)" in text
    assert "does not solve the equation" in text
    assert "tighten the solver's own tolerance" in text
    assert f"{abs(float(caught.value.solution.value) ** 2 - 2):.3e}" in text


def test_inside_jit_a_lie_is_nan_and_ignored_it_is_a_status():
    liar = ix.host(LIARS["rough"])
    value = lambda a: ix.custom_root(square)(liar)(1.0, a).value
    assert np.isnan(jax.jit(jax.value_and_grad(value))(2.0)).all()
    solution = jax.jit(
        lambda a: ix.custom_root(square, on_failure="ignore")(liar)(1.0, a)
    )(2.0)
    assert bool(solution.status == ix.Status.not_solved)
    assert relative_error(solution.value, np.sqrt(2) + 1e-4) <= 1e-12


def test_an_accurate_answer_from_any_start():
    """Large and small scales, and the solution itself as the guess."""
    solve = ix.custom_root(square)(ix.host(exact))
    for a in (1e-20, 1.0, 1e20):
        for y0 in (1.0, np.sqrt(a)):
            assert bool(solve(y0, a).status == ix.Status.converged)


BAD_ANSWERS = {
    "shape": (lambda y0, a: jnp.ones(2), ValueError, "solution of shape .* as y0 has"),
    "structure": (lambda y0, a: (y0, a), TypeError, "pytree structure of y0"),
    "dtype": (lambda y0, a: jnp.float32(2), TypeError, "solution of dtype float64"),
    "complex": (lambda y0, a: 2j, TypeError, "real for the real unknown"),
}


@pytest.mark.parametrize("bad", BAD_ANSWERS)
def test_answers_unlike_the_guess(bad):
    solver, error, match = BAD_ANSWERS[bad]
    with pytest.raises(error, match=match):
        ix.custom_root(square)(solver)(1.0, 4.0)


def test_an_exception_outside_the_host_is_the_users_own():
    def solver(y0, a):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        ix.custom_root(square)(solver)(1.0, 4.0)


def test_bad_decorations():
    with pytest.raises(ValueError, match="one place"):
        ix.implicit(ix.Root(square, has_aux=True), has_aux=True)
    with pytest.raises(TypeError, match="this solver is yours"):
        ix.custom_root(square, derivative=ix.OneStep())
    with pytest.raises(TypeError, match="must return a pair"):
        ix.custom_root(square, has_aux=True)(heron)(1.0, 4.0)


def test_unrolled_differentiates_the_solver():
    """Two steps of Heron's method from one: `y2 = (y1 + a/y1)/2`, `y1 = (1 + a)/2`."""
    two = lambda y0, a: jax.lax.fori_loop(0, 2, lambda _, y: (y + a / y) / 2, y0)
    options = {"derivative": ix.Unrolled(), "on_failure": "ignore"}
    solve = ix.custom_root(square, **options)(two)
    came = jax.jit(jax.grad(lambda a: solve(1.0, a).value))(4.0)
    y1 = 2.5
    assert relative_error(came, (0.5 + 1 / y1 - 4 / y1**2 * 0.5) / 2) <= 1e-12


@pytest.mark.parametrize("derivative", [ix.Neumann(60), ix.Phantom(60, 1.0)])
def test_approximations_do_without_the_solver(derivative):
    fn = lambda y, a: 0.5 * jnp.cos(y) + a
    solver = lambda y0, a: jax.lax.fori_loop(0, 80, lambda _, y: fn(y, a), y0)
    solve = ix.custom_fixed_point(fn, derivative=derivative)(solver)
    value, slope = jax.jit(jax.value_and_grad(lambda a: solve(0.0, a).value))(0.3)
    assert relative_error(slope, 1 / (1 + 0.5 * np.sin(value))) <= 1e-10


def test_names_and_documentation_are_kept():
    solve = ix.custom_root(square)(heron)
    assert solve.__name__ == "heron"
    assert solve.__doc__ == heron.__doc__
