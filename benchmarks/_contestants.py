"""Solvers that are compared on the library: ours by default, and peers'.

Each takes a problem and gives a `Run`. Peers get tolerances as tight as ours, twice as
many steps as ours (whose default may try two solvers), and exact derivatives.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
import optimistix as optx
import scipy.optimize

from benchmarks._error_bars import CALLS
from benchmarks.problems import Problem

TIGHT = 1e-10
STEPS = 512


class Run(NamedTuple):
    value: np.ndarray
    evaluations: int
    """Of the function, as the solver counts them; those for Jacobians apart."""
    seconds: float
    compiling: float


def clock(call: Callable, seconds: float) -> float:
    """The median time of a call, repeated for about so long."""
    times = []
    while sum(times) < seconds or len(times) < 3:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def in_jax(solve: Callable) -> Callable[[Problem, float], Run]:
    """A contestant from `solve(problem, y0, args) -> (value, evaluations)`."""

    def run(problem: Problem, seconds: float) -> Run:
        arrays = jax.device_put((problem.y0, problem.args))
        start = time.perf_counter()
        fn = jax.jit(lambda y0, args: solve(problem, y0, args))
        program = fn.lower(*arrays).compile()
        compiling = time.perf_counter() - start
        value, evaluations = jax.device_get(program(*arrays))
        spent = clock(lambda: jax.block_until_ready(program(*arrays)), seconds)
        return Run(value, int(evaluations), spent, compiling)

    return run


def ours(problem, y0, args):
    found = CALLS[problem.kind](problem.fn, y0, args, on_failure="ignore")
    return found.value, found.stats.evaluations


def optimistix(solver) -> Callable:
    """One evaluation a step: also its line searches try one point in each."""
    calls: dict[str, Any] = {
        "root": optx.root_find,
        "least_squares": optx.least_squares,
        "minimum": optx.minimise,
    }

    def solve(problem, y0, args):
        call = calls[problem.kind]
        found = call(problem.fn, solver, y0, args, max_steps=STEPS, throw=False)
        return found.value, found.stats["num_steps"]

    return in_jax(solve)


def jaxopt_solver(make: Callable) -> Callable:
    def solve(problem, y0, args):
        solver = make(problem.fn, maxiter=STEPS, tol=TIGHT)
        found, state = solver.run(y0, args)
        return found, getattr(state, "num_fun_eval", state.iter_num)

    return in_jax(solve)


def scipy_solver(call: Callable) -> Callable[[Problem, float], Run]:
    """A contestant from `call(fn, y0, derivatives)`, whose functions are compiled."""

    def run(problem: Problem, seconds: float) -> Run:
        args = jax.device_put(problem.args)
        count = 0
        start = time.perf_counter()
        compiled: list[Any] = [problem.fn]
        if problem.kind == "minimum":
            compiled += [jax.grad(problem.fn), jax.hessian(problem.fn)]
        else:
            compiled += [jax.jacfwd(problem.fn)]
        compiled = [
            jax.jit(one).lower(jnp.asarray(problem.y0), args).compile()
            for one in compiled
        ]
        compiling = time.perf_counter() - start

        def fn(y):
            nonlocal count
            count += 1
            return np.asarray(compiled[0](jnp.asarray(y), args))

        derivatives = [
            lambda y, one=one: np.asarray(one(jnp.asarray(y), args))
            for one in compiled[1:]
        ]
        with np.errstate(all="ignore"):
            value = call(fn, problem.y0, *derivatives).x
            evaluations = count
            spent = clock(lambda: call(fn, problem.y0, *derivatives), seconds)
        return Run(value, evaluations, spent, compiling)

    return run


def scipy_root(method):
    options = {"xtol": TIGHT} | ({"ftol": TIGHT} if method == "lm" else {})
    return scipy_solver(
        lambda fn, y0, jac: scipy.optimize.root(
            fn, y0, jac=jac, method=method, options=options
        )
    )


def scipy_least_squares(method):
    tight = {"ftol": TIGHT, "xtol": TIGHT, "gtol": TIGHT}
    return scipy_solver(
        lambda fn, y0, jac: scipy.optimize.least_squares(
            fn, y0, jac=jac, method=method, x_scale="jac", **tight
        )
    )


def scipy_minimize(method):
    def call(fn, y0, gradient, hessian):
        extra = {"hess": hessian} if method == "trust-exact" else {}
        options = {"gtol": TIGHT}
        return scipy.optimize.minimize(
            fn, y0, jac=gradient, method=method, options=options, **extra
        )

    return scipy_solver(call)


OURS = "implicax"
BY_KIND: dict[str, dict[str, Callable[[Problem, float], Run]]] = {
    "root": {
        OURS: in_jax(ours),
        "optimistix Newton": optimistix(optx.Newton(TIGHT, TIGHT)),
        "optimistix Dogleg": optimistix(optx.Dogleg(TIGHT, TIGHT)),
        "jaxopt Broyden": jaxopt_solver(jaxopt.Broyden),
        "SciPy hybr": scipy_root("hybr"),
        "SciPy lm": scipy_root("lm"),
    },
    "least_squares": {
        OURS: in_jax(ours),
        "optimistix LM": optimistix(optx.LevenbergMarquardt(TIGHT, TIGHT)),
        "optimistix Dogleg": optimistix(optx.Dogleg(TIGHT, TIGHT)),
        "jaxopt LM": jaxopt_solver(jaxopt.LevenbergMarquardt),
        "jaxopt GN": jaxopt_solver(jaxopt.GaussNewton),
        "SciPy lm": scipy_least_squares("lm"),
        "SciPy trf": scipy_least_squares("trf"),
    },
    "minimum": {
        OURS: in_jax(ours),
        "optimistix BFGS": optimistix(optx.BFGS(TIGHT, TIGHT)),
        "jaxopt BFGS": jaxopt_solver(jaxopt.BFGS),
        "SciPy BFGS": scipy_minimize("BFGS"),
        "SciPy trust-exact": scipy_minimize("trust-exact"),
    },
}
