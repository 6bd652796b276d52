"""Functions that have a VJP only, some of them computed on the host.

`y + y^3 = a` with the cube behind a `jax.custom_vjp`: `dy/da = 1 / (1 + 3 y^2)`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest

import implicax as ix

from ..oracles import relative_error

A = 2.0
POINTS = jnp.asarray([1.0, 2.0, 3.0])


@jax.custom_vjp
def in_jax(y):
    return y**3


in_jax.defvjp(lambda y: (y**3, y), lambda y, g: (3 * y**2 * g,))


def call(fn, y):
    shape = jax.ShapeDtypeStruct(y.shape, y.dtype)
    return jax.pure_callback(fn, shape, y, vmap_method="expand_dims")


@jax.custom_vjp
def on_host(y):
    return call(lambda y: np.asarray(y) ** 3, y)


on_host.defvjp(
    lambda y: (on_host(y), y),
    lambda y, g: (g * call(lambda y: 3 * np.asarray(y) ** 2, y),),
)

CUBES = {"in_jax": in_jax, "on_host": on_host}
SOLVERS = {
    "Newton": ix.Newton(),
    "Chord": ix.Chord(),
    "Broyden": ix.Broyden(),
    "Anderson": ix.Anderson(mixing=0.2),
    "Picard": ix.Picard(damping=0.2),
}
ENGINES = {
    "hybr": ix.SciPy("hybr"),
    "lm": ix.SciPy("lm"),
    "krylov": ix.SciPy("krylov"),
}


def exact(a):
    """The real root of `y^3 + y - a`, by Cardano, and its derivative."""
    d = np.sqrt(a**2 / 4 + 1 / 27)
    y = np.cbrt(a / 2 + d) + np.cbrt(a / 2 - d)
    return y, 1 / (1 + 3 * y**2)


def solve_with(cube, solver, kind="root"):
    start = jnp.asarray(1.0)
    if kind == "root":
        fn = lambda y, a: cube(y) + y - a
        return lambda a: ix.root(fn, start, a, solver=solver).value
    fn = lambda y, a: y - 0.2 * (cube(y) + y - a)
    return lambda a: ix.fixed_point(fn, start, a, solver=solver).value


@pytest.mark.parametrize("cube", CUBES)
@pytest.mark.parametrize("kind", ["root", "fixed_point"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_reverse_mode(solver, kind, cube):
    solve = solve_with(CUBES[cube], SOLVERS[solver], kind)
    program = jax.vmap(jax.value_and_grad(solve))
    came = jax.jit(program)(POINTS)
    assert relative_error(came, exact(np.asarray(POINTS))) <= 1e-8


@pytest.mark.parametrize("cube", CUBES)
@pytest.mark.parametrize("engine", ENGINES)
def test_reverse_mode_through_engines(engine, cube):
    """`hybr` and `lm` want a Jacobian: it is made of rows, by the VJP."""
    solve = solve_with(CUBES[cube], ENGINES[engine])
    came = jax.jit(jax.vmap(jax.value_and_grad(solve)))(POINTS)
    assert relative_error(came, exact(np.asarray(POINTS))) <= 1e-8


def test_reverse_mode_through_optimistix():
    solve = solve_with(
        in_jax, optx.FixedPointIteration(rtol=1e-10, atol=1e-10), "fixed_point"
    )
    came = jax.jit(jax.value_and_grad(solve))(A)
    assert relative_error(came, exact(A)) <= 1e-8


@pytest.mark.parametrize("cube", CUBES)
def test_reverse_mode_of_a_decorated_solver(cube):
    """Closed-over arrays too: here `b` in `y^3 + y = b`, `y` known by Cardano."""

    def solve(b):
        legacy = ix.host(lambda y0, b: exact(b)[0])
        fn = lambda y, _: CUBES[cube](y) + y - b
        return ix.custom_root(fn)(legacy)(jnp.asarray(0.5), b).value

    came = jax.jit(jax.vmap(jax.value_and_grad(solve)))(POINTS)
    assert relative_error(came, exact(np.asarray(POINTS))) <= 1e-12


def test_neumann():
    """Of `y - f(y)` with a slope of `1 - A`: `1 / (1 - A) = 1 + A + A^2 + ...`."""
    fn = lambda y, a: y - 0.2 * (in_jax(y) + y - a)
    solve = lambda a: ix.fixed_point(fn, 1.0, a, derivative=ix.Neumann(60)).value
    assert relative_error(jax.grad(solve)(A), exact(A)[1]) <= 1e-8


def test_reverse_over_reverse():
    """`y'' = -6 y / (1 + 3 y^2)^3`, where the VJP can itself be differentiated."""
    solve = solve_with(in_jax, ix.Newton())
    came = jax.jit(jax.grad(jax.grad(solve)))(A)
    y, slope = exact(A)
    assert relative_error(came, -6 * y * slope**3) <= 1e-8


def test_reverse_over_reverse_of_a_callback_is_refused():
    solve = solve_with(on_host, ix.Newton())
    with pytest.raises(ValueError, match="Pure callbacks do not support JVP"):
        jax.grad(jax.grad(lambda a: solve(a) ** 2))(A)


@pytest.mark.parametrize("kind", ["root", "fixed_point"])
@pytest.mark.parametrize(
    "transformation", [jax.jacfwd, lambda f: jax.jacfwd(jax.grad(f))]
)
def test_forward_mode_says_why_it_cannot(transformation, kind):
    solve = solve_with(in_jax, None, kind)
    with pytest.raises(
        TypeError, match=r"forward-mode autodiff .* custom_vjp function"
    ):
        transformation(solve)(A)


def test_certify_says_why_it_cannot():
    problem = ix.Root(lambda y, a: in_jax(y) + y - a)
    with pytest.raises(TypeError, match="fn has a VJP only"):
        ix.certify(lambda y, a: y, problem, 1.0, A)


def test_a_start_at_the_solution_is_no_failure():
    @jax.custom_vjp
    def cube(y):
        return y**3

    cube.defvjp(lambda y: (y**3, y), lambda y, g: (3 * y**2 * g,))
    F = lambda y, a: cube(y) + y - a
    answer = ix.custom_root(F)(lambda y0, a: 1.0 - 2e-16)
    assert bool(answer(1.0, 2.0).status == ix.Status.converged)
    assert bool(ix.root(F, 1.0 + 1e-9, 2.0).status == ix.Status.converged)


@jax.custom_vjp
def square(x):
    return x**2


square.defvjp(lambda x: (x**2, x), lambda x, g: (2 * x * g,))


class TestOfMinimaAGradientIsEnough:
    """The gradient of a function with a VJP is ordinary code: it has both modes."""

    CALLS = (
        (ix.minimize, lambda s, y, a: jnp.sum(s(y - a)) + jnp.sum(y**4)),
        (ix.least_squares, lambda s, y, a: jnp.concatenate([s(y) - a, y - 1])),
    )
    START = jnp.ones(3)
    ARGS = jnp.asarray([0.5, 2.0, 3.0])

    @pytest.mark.parametrize(("call", "fn"), CALLS)
    def test_both_modes(self, call, fn):
        def derivatives(square):
            def solve(a):
                found = call(
                    lambda y, a: fn(square, y, a),
                    self.START,
                    a,
                    solver=ix.TrustRegion(),
                )
                return found.value, found.objective

            return jax.jit(lambda a: (jax.jacfwd(solve)(a), jax.jacrev(solve)(a)))(
                self.ARGS
            )

        came, wanted = derivatives(square), derivatives(lambda x: x**2)
        assert relative_error(came, wanted) <= 1e-12

    def test_the_default_for_fits_goes_without_the_jacobian(self):
        _, fn = self.CALLS[1]
        fit = ix.least_squares(lambda y, a: fn(square, y, a), self.START, self.ARGS)
        assert bool(fit.status == ix.Status.converged)

    def test_levenberg_marquardt_says_what_it_lacks(self):
        with pytest.raises(TypeError, match=r"Use ix.TrustRegion for a fit"):
            ix.least_squares(
                lambda y, a: square(y) - a,
                self.START,
                self.ARGS,
                solver=ix.LevenbergMarquardt(),
            )
