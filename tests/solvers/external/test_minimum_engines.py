"""Minima and fits by the solvers of SciPy, optimistix and optax, with our derivative.

The derivative matrix is that of our own minimisers. The rest is about two problems with
three unknowns and a positive definite Hessian; JAX's derivatives of thirty Newton steps
on the gradient are the oracle.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix as optx
import pytest

import implicax as ix

from ...cases import make
from ...derivative_matrix import ENTRIES, PER_SOLVER, transformations
from ...expectations import expected_of_a_minimum as matrix
from ...oracles import relative_error
from ...subprocesses import printed_without

W = jnp.eye(3) + 0.2 * jnp.asarray(
    [[1.0, -1.0, 0.5], [0.3, 0.8, -0.4], [0.6, 0.1, -0.9]]
)
X = jnp.asarray([1.0, -0.5, 2.0])
START = jnp.asarray([0.5, 0.5, 0.5])


def objective(y, x):
    return jnp.sum(jnp.log(jnp.cosh(W @ y - x))) + jnp.sum(y**2) / 4


def errors(y, x):
    """With a minimum where they are not zero, so that second derivatives matter."""
    return jnp.concatenate([W @ y + y**2 / 10 - x, jnp.tanh(y) / 2])


CALLS = {"minimize": objective, "least_squares": errors}
COSTS = {
    "minimize": objective,
    "least_squares": lambda y, x: jnp.sum(errors(y, x) ** 2) / 2,
}

tight = {"rtol": 1e-12, "atol": 1e-12}
ANY = {
    "SciPy BFGS": ix.SciPy("BFGS"),
    "BFGS": optx.BFGS(**tight),
    "LBFGS": optx.LBFGS(**tight),
    "NonlinearCG": optx.NonlinearCG(**tight),
    "GradientDescent": optx.GradientDescent(0.3, **tight),
    "optax lbfgs": ix.Optax(optax.lbfgs()),
    "optax adam": ix.Optax(optax.adam(0.1)),
    "optax sgd": ix.Optax(optax.sgd(0.3)),
}
ENGINES = {
    "minimize": ANY,
    "least_squares": {
        "SciPy trf": ix.SciPy("trf"),
        "SciPy lm": ix.SciPy("lm"),
        "LevenbergMarquardt": optx.LevenbergMarquardt(**tight),
        "GaussNewton": optx.GaussNewton(**tight),
        "Dogleg": optx.Dogleg(**tight),
    }
    # The rest takes the objective, whatever it is made of.
    | {name: ANY[name] for name in ("SciPy BFGS", "BFGS", "optax lbfgs")}
    | {"optax adam": ANY["optax adam"]},
}
CASES = [(kind, name) for kind in ENGINES for name in ENGINES[kind]]

#: These see objectives alone, or stop by them; and they are flat near a minimum: `y`
#: settles to about `sqrt(eps)`, which is 1.5e-8.
BY_OBJECTIVE = ("Nelder-Mead", "Powell", "COBYLA", "COBYQA", "TNC")


def allowed(name):
    return 1e-7 if name in BY_OBJECTIVE else 1e-8


def solution(kind, x, solver, **options):
    options = {"max_steps": 3000} | options
    return getattr(ix, kind)(CALLS[kind], START, x, solver=solver, **options)


def unrolled(cost, start):
    """The minimum by Newton's method, every step of it differentiated."""
    gradient = jax.grad(cost)

    def solve(x):
        def newton(y, _):
            hessian = jax.jacfwd(gradient)(y, x)
            if jnp.ndim(y) == 0:
                return y - gradient(y, x) / hessian, None
            return y - jnp.linalg.solve(hessian, gradient(y, x)), None

        return jax.lax.scan(newton, start, None, length=30)[0]

    return solve


@functools.cache
def expected(kind):
    """The minimum and its Jacobian in `x`, from next to it: plain Newton goes astray
    from further away."""
    near = solution(kind, X, ix.TrustRegion()).value.round(1)
    solve = unrolled(COSTS[kind], near)
    return jax.jit(lambda x: (solve(x), jax.jacfwd(solve)(x)))(X)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_derivative_matrix(kind, name):
    case, solver = make(kind, "float64"), ENGINES[kind][name]
    # (First-order methods take hundreds of steps.)
    came = transformations(case, solver, PER_SOLVER, max_steps=2000)
    wanted = matrix(kind, "float64")
    for entry in PER_SOLVER:
        assert relative_error(came[entry], wanted[entry]) <= 1e-8, entry


#: `scipy.optimize`'s methods.
MINIMIZE = [
    "Nelder-Mead",
    "Powell",
    "CG",
    "BFGS",
    "Newton-CG",
    "L-BFGS-B",
    "TNC",
    "COBYLA",
    "COBYQA",
    "SLSQP",
    "trust-constr",
    "dogleg",
    "trust-ncg",
    "trust-krylov",
    "trust-exact",
]
METHODS = [("minimize", method) for method in MINIMIZE]
METHODS += [("least_squares", method) for method in ["trf", "dogbox", "lm", *MINIMIZE]]


@pytest.mark.parametrize(("kind", "method"), METHODS)
def test_every_method_of_scipy(kind, method):
    solve = lambda x: solution(kind, x, ix.SciPy(method.lower()))
    found = solve(X)
    assert int(found.stats.steps) == -1 or 2 <= int(found.stats.steps) <= 500
    slope = jax.jacrev(lambda x: solve(x).value)(X)
    for came, wanted in zip((found.value, slope), expected(kind), strict=True):
        assert relative_error(came, wanted) <= allowed(method)


LOSSES = {
    "Huber": ix.Huber(0.3),
    "SoftL1": ix.SoftL1(0.3),
    "Cauchy": ix.Cauchy(0.5),
    "Tukey": ix.Tukey(1.0),
    "Welsch": ix.Welsch(1.0),
}


@pytest.mark.parametrize("name", LOSSES)
def test_robust_losses(name):
    """SciPy takes any of ours."""
    wanted = solution("least_squares", X, ix.TrustRegion(), loss=LOSSES[name])
    plain = expected("least_squares")[0]
    assert relative_error(wanted.value, plain) > 1e-3
    method = {"Huber": "dogbox", "Cauchy": "BFGS"}.get(name, "trf")
    came = solution("least_squares", X, ix.SciPy(method), loss=LOSSES[name])
    assert relative_error(came.value, wanted.value) <= 1e-8


ROBUST = {
    "SciPy lm": (ix.SciPy("lm"), r"'lm' minimises plain squares.*Huber.*'trf'"),
    "optimistix": (ENGINES["least_squares"]["Dogleg"], "Dogleg minimises plain.*Huber"),
}


@pytest.mark.parametrize("name", ROBUST)
def test_solvers_of_plain_squares(name):
    solver, message = ROBUST[name]
    with pytest.raises(TypeError, match=message):
        solution("least_squares", X, solver, loss=ix.Huber(0.3))


GOLDEN = optx.GoldenSearch(rtol=1e-10, atol=1e-10)
OF_ONE_NUMBER = {
    "GoldenSearch": ix.Optimistix(GOLDEN, {"lower": -1.0, "upper": 2.0}),
    "NelderMead": optx.NelderMead(**tight),
}


def of_one_number(solve):
    """The derivative matrix where the solution and its argument are numbers."""
    scan = lambda body, points: jax.lax.scan(body, None, points)[1]
    program = lambda a, points: {
        "value": solve(a),
        "jvp": jax.jvp(solve, (a,), (2.0,))[1],
        "vjp": jax.vjp(solve, a)[1](2.0)[0],
        "jacfwd": jax.jacfwd(solve)(a),
        "jacrev": jax.jacrev(solve)(a),
        "forward_over_forward": jax.jacfwd(jax.jacfwd(solve))(a),
        "forward_over_reverse": jax.jacfwd(jax.jacrev(solve))(a),
        "reverse_over_forward": jax.jacrev(jax.jacfwd(solve))(a),
        "reverse_over_reverse": jax.jacrev(jax.jacrev(solve))(a),
        "vmap_of_grad": jax.vmap(jax.grad(solve))(points),
        "grad_of_vmap": jax.grad(lambda p: jnp.sum(jax.vmap(solve)(p)))(points),
        "grad_in_scan": scan(lambda c, a: (c, jax.grad(solve)(a)), points),
        "grad_of_scan": jax.grad(
            lambda p: jnp.sum(scan(lambda c, a: (c, solve(a)), p))
        )(points),
    }
    return jax.jit(program)(1.0, jnp.asarray([0.5, 2.0]))


@pytest.mark.parametrize("name", OF_ONE_NUMBER)
def test_one_unknown(name):
    """The minimum of `cosh(y - a) + y^2`."""
    cost = lambda y, a: jnp.cosh(y - a) + y**2
    solve = lambda a: ix.minimize(cost, 0.5, a, solver=OF_ONE_NUMBER[name]).value
    came, wanted = of_one_number(solve), of_one_number(unrolled(cost, jnp.zeros(())))
    assert set(came) == set(ENTRIES)
    for entry in ENTRIES:
        assert relative_error(came[entry], wanted[entry]) <= 1e-7, entry


def test_nelder_mead_of_optimistix_settles_elsewhere():
    """Its first simplex is flat (optimistix 0.1.0): a wrong answer, and we say so."""
    with pytest.raises(ix.ConvergenceError, match="does not solve"):
        solution("minimize", X, optx.NelderMead(**tight))


def test_bisection():
    bisection = optx.Bisection(rtol=1e-12, atol=1e-12)
    solver = ix.Optimistix(bisection, {"lower": 0.0, "upper": jnp.asarray(9.0)})
    solve = lambda a: ix.root(lambda y, a: y**3 - a, 1.0, a, solver=solver).value
    value, slope = jax.jit(jax.value_and_grad(solve))(8.0)
    assert relative_error(value, jnp.asarray(2.0)) <= 1e-10
    assert relative_error(slope, jnp.asarray(1 / 12)) <= 1e-10


def test_bounds_have_the_structure_of_the_unknown():
    start = {"a": jnp.ones(2), "b": jnp.ones(())}
    fn = lambda y, a: {"a": y["a"] ** 2 - a, "b": y["b"] - a}
    newton = optx.Newton(rtol=1e-12, atol=1e-12)
    bounds = {"lower": {"a": 0.0, "b": 0.0}, "upper": {"a": 9.0, "b": jnp.ones(())}}
    solve = lambda options: ix.root(
        fn, start, 1.0, solver=ix.Optimistix(newton, options)
    )
    assert relative_error(solve(bounds).value, start) <= 1e-12
    with pytest.raises(TypeError, match=r"options\['lower'\].*2 real ones.*has 1"):
        solve({"lower": 0.0, "upper": 1.0})


UPDATES = {
    "backtracking": optax.chain(
        optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15)
    ),
    "zoom": optax.chain(optax.sgd(1.0), optax.scale_by_zoom_linesearch(15)),
    "momentum": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "schedule": optax.adam(optax.exponential_decay(0.3, 100, 0.5)),
}


@pytest.mark.parametrize("name", UPDATES)
def test_transformations_of_optax(name):
    # Sufficient decrease drowns in rounding errors before the gradient does.
    solver = ix.Optax(UPDATES[name], rtol=1e-7 if name == "backtracking" else None)
    found = solution("minimize", X, solver)
    wanted = expected("minimize")[0]
    limit = 1e-7 if name == "backtracking" else 1e-8
    assert relative_error(found.value, wanted) <= limit
    assert int(found.stats.steps) < 600


def test_steps_of_optax_can_be_unrolled():
    solver = ix.Optax(optax.sgd(0.3))
    options = {"derivative": ix.Unrolled(), "max_steps": 200}
    solve = lambda x: solution("minimize", x, solver, **options).value
    slope = jax.jit(jax.jacrev(solve))(X)
    assert relative_error(slope, expected("minimize")[1]) <= 1e-8


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_dtypes(kind, dtype):
    """A dict of two arrays, in single precision or complex."""
    turn = 1 + 0.5j if dtype == "complex128" else 1.0
    a = {"u": np.asarray([1.0, -0.5]) * turn, "v": np.asarray(2.0) * turn}
    a = jax.tree.map(lambda x: jnp.asarray(x, dtype), a)
    start = jax.tree.map(lambda x: 0.5 * jnp.ones_like(x), a)
    size = lambda z: jnp.real(z) ** 2 + jnp.imag(z) ** 2

    def fit(y, a):
        return jax.tree.map(lambda y, a: (y - a + y * jnp.conj(y) / 10, y / 2), y, a)

    def cost(y, a):
        return sum(jnp.sum(size(e)) for e in jax.tree.leaves(fit(y, a))) / 2

    fn = cost if kind == "minimize" else fit
    rough = {"rtol": 1e-6, "atol": 1e-6} if dtype == "float32" else tight
    engines = {
        "minimize": [ix.SciPy("L-BFGS-B"), optx.BFGS(**rough), ix.Optax(optax.lbfgs())],
        "least_squares": [ix.SciPy("trf"), optx.LevenbergMarquardt(**rough)],
    }[kind]

    def solve(a, solver):
        y = getattr(ix, kind)(fn, start, a, solver=solver).value
        return jax.tree.map(lambda z: z, y)

    def both(a, solver):
        loss = lambda a: sum(
            jnp.sum(size(z)) for z in jax.tree.leaves(solve(a, solver))
        )
        return solve(a, solver), jax.grad(loss)(a)

    wanted = jax.jit(functools.partial(both, solver=ix.TrustRegion()))(a)
    for engine in engines:
        came = jax.jit(functools.partial(both, solver=engine))(a)
        assert {leaf.dtype for leaf in jax.tree.leaves(came)} == {jnp.dtype(dtype)}
        limit = 2e-4 if dtype == "float32" else 1e-8
        assert relative_error(came, wanted) <= limit, engine


KINDS_OF_ENGINE = ["SciPy BFGS", "BFGS", "optax lbfgs"]


@pytest.mark.parametrize("name", KINDS_OF_ENGINE)
def test_one_bad_lane_of_minima(name):
    """`a y^2 + y` has a minimum, `-1 / (2 a)`, where `a` is positive."""
    cost = lambda y, a: a * y**2 + y
    solve = lambda a: ix.minimize(cost, 1.0, a, solver=ANY[name])
    both = lambda a: (solve(a), jax.grad(lambda a: solve(a).value)(a))
    batch, slopes = jax.jit(jax.vmap(both))(jnp.asarray([1.0, -1.0, 2.0]))
    assert (batch.status == ix.Status.converged).tolist() == [True, False, True]
    assert relative_error(batch.value[::2], jnp.asarray([-0.5, -0.25])) <= 1e-8
    assert relative_error(slopes[::2], jnp.asarray([0.5, 0.125])) <= 1e-8
    assert jnp.isnan(slopes[1])
    assert jnp.isnan(batch.value[1])


@pytest.mark.parametrize("name", ["SciPy trf", "LevenbergMarquardt", "optax lbfgs"])
def test_one_bad_lane_of_fits(name):
    fn = lambda y, a: jnp.stack([y**2 - jnp.sqrt(a), y - jnp.sqrt(a)])
    solver = ENGINES["least_squares"][name]
    solve = lambda a: ix.least_squares(fn, 2.0, a, solver=solver)
    both = lambda a: (solve(a), jax.grad(lambda a: solve(a).value)(a))
    batch, slopes = jax.jit(jax.vmap(both))(jnp.asarray([1.0, -1.0]))
    assert (batch.status == ix.Status.converged).tolist() == [True, False]
    # F = 2 y (y^2 - s) + y - s with s = sqrt(a): dy/ds = 3 / 5 at y = s = 1.
    assert relative_error(batch.value[0], jnp.asarray(1.0)) <= 1e-8
    assert relative_error(slopes[0], jnp.asarray(0.3)) <= 1e-8
    assert jnp.isnan(slopes[1])


FAILURES = {
    "SciPy BFGS": ("not_solved", "It says: Maximum number of iterations"),
    "SciPy trf": ("not_solved", "It says: The maximum number of function evaluations"),
    "BFGS": ("not_solved", "BFGS did not converge"),
    "optax adam": ("max_steps_reached", "Optax did not converge"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures_are_told(name):
    status, message = FAILURES[name]
    solver = ENGINES["least_squares"][name]
    with pytest.raises(ix.ConvergenceError, match=message) as caught:
        solution("least_squares", X, solver, max_steps=3)
    assert caught.value.solution.status == getattr(ix.Status, status)
    found = solution("least_squares", X, solver, max_steps=3, on_failure="ignore")
    assert found.status == getattr(ix.Status, status)
    assert jnp.all(jnp.isfinite(found.value))


def test_too_long_steps_diverge():
    solver = ix.Optax(optax.sgd(5.0))
    with pytest.raises(ix.ConvergenceError, match="grew beyond 1e8"):
        ix.minimize(lambda y, a: a * y**2, 1.0, 1.0, solver=solver)


def test_scipys_own_error_is_quoted():
    with pytest.raises(ix.ConvergenceError, match=r"It says: ValueError: Method 'lm'"):
        ix.least_squares(lambda y, a: y[:1] - a, START, 1.0, solver=ix.SciPy("lm"))


def test_all_that_were_tried_are_quoted():
    solver = ix.Fallback(ix.SciPy("trf"), ix.SciPy("dogbox"))
    with pytest.raises(
        ix.ConvergenceError, match=r"SciPy, then SciPy.*\n.*\n.*It says"
    ):
        solution("least_squares", X, solver, max_steps=2)


def test_options_of_scipy():
    few = ix.SciPy("L-BFGS-B", maxcor=1, ftol=0.0, gtol=1e-9)
    more = solution("minimize", X, ix.SciPy("L-BFGS-B"))
    found = solution("minimize", X, few)
    assert int(found.stats.steps) != int(more.stats.steps)
    assert relative_error(found.value, expected("minimize")[0]) <= 1e-8
    loose = ix.SciPy("BFGS", tol=1e-1)
    with pytest.raises(ix.ConvergenceError, match="does not solve"):
        solution("minimize", X, loose)


EQUATION = lambda y, a: y**3 - a
MISUSE = {
    "an equation by BFGS": (
        lambda: ix.root(EQUATION, 1.0, 1.0, solver=ix.SciPy("BFGS")),
        r"'BFGS'\) is not for an equation.*hybr, lm",
    ),
    "a minimum by hybr": (
        lambda: solution("minimize", X, ix.SciPy("hybr")),
        r"'hybr'\) is not for a minimum.*Nelder-Mead, Powell",
    ),
    "a minimum by lm": (
        lambda: solution("minimize", X, ix.SciPy("lm")),
        r"'lm'\) is not for a minimum.*BFGS",
    ),
    "a fit by krylov": (
        lambda: solution("least_squares", X, ix.SciPy("krylov")),
        r"'krylov'\) is not for a least-squares problem.*trf, dogbox, lm.*BFGS",
    ),
    "unhashable options": (
        lambda: ix.SciPy("BFGS", hess_inv0=[1.0]),
        "Options must be hashable",
    ),
    "a minimum by Gauss-Newton": (
        lambda: solution("minimize", X, ENGINES["least_squares"]["GaussNewton"]),
        "GaussNewton needs the errors.*ix.least_squares",
    ),
    "an equation by optax": (
        lambda: ix.root(EQUATION, 1.0, 1.0, solver=ANY["optax lbfgs"]),
        "ix.Optax minimises an objective, and this is an equation. Use ix.Newton",
    ),
    "no transformation": (
        lambda: ix.Optax(0.1),
        r"ix.Optax takes an optax transformation.*given 0.1",
    ),
    "a bare transformation": (
        lambda: solution("minimize", X, optax.adam(0.1)),
        "an optax transformation goes into ix.Optax",
    ),
    "no optimistix solver": (
        lambda: ix.Optimistix(optx.BFGS),
        "takes an optimistix solver such as .* an instance",
    ),
    "options that are no dict": (
        lambda: ix.Optimistix(optx.BFGS(**tight), ("lower", 0.0)),
        "options must be a dict or None",
    ),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse_is_explained(name):
    call, message = MISUSE[name]
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize(
    ("kind", "method", "option"),
    [("minimize", "BFGS", "maxcor"), ("least_squares", "trf", "loss")],
)
def test_an_option_that_does_not_exist(kind, method, option):
    with pytest.raises(ValueError, match=f"{option!r}.*"):
        solution(kind, X, ix.SciPy(method, **{option: 3}))


BLOCKED = """
    import jax.numpy as jnp
    import implicax as ix

    cost = lambda y, a: jnp.cosh(y - a)
    print(float(ix.minimize(cost, 1.0, 2.0, solver=ix.SciPy("BFGS")).value))
    for wrapper in (ix.Optax, ix.Optimistix):
        try:
            wrapper(object())
        except ImportError as error:
            print(error)
"""


def test_without_extras():
    value, *messages = printed_without(("optimistix", "optax"), BLOCKED)
    assert abs(float(value) - 2) < 1e-4
    assert messages == [
        "ix.Optax needs optax: pip install 'implicax[optax]'.",
        "This solver needs optimistix: pip install 'implicax[optimistix]'.",
    ]
