"""Solvers of SciPy, on the host."""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from implicax._core import tree_math
from implicax._core.tree_math import Vector
from implicax._problems.losses import Squares
from implicax._problems.optimality_conditions import OptimalityConditions
from implicax._solvers.base import tolerance
from implicax._solvers.external.base import (
    AbstractExternalSolver,
    ExternalResult,
    written,
)
from implicax._solvers.external.host import host
from implicax._solvers.external.scipy_functions import SciPyFunctions, scipy_functions
from implicax._solvers.external.scipy_methods import (
    LEAST_SQUARES,
    MINIMIZE,
    PROGRAMS,
    ROOT,
    tolerances,
)


class SciPy(AbstractExternalSolver):
    """A method of SciPy's, on the host, with exact derivatives.

    The name decides which function is called:

    - equations and fixed points, `scipy.optimize.root`: `"hybr"`, `"lm"` (both with the
      exact Jacobian), `"broyden1"`, `"broyden2"`, `"anderson"`, `"linearmixing"`,
      `"diagbroyden"`, `"excitingmixing"`, `"krylov"`, `"df-sane"`;
    - minima and least squares, `scipy.optimize.minimize`: `"Nelder-Mead"`, `"Powell"`,
      `"COBYLA"`, `"COBYQA"` (all without derivatives), `"CG"`, `"BFGS"`, `"L-BFGS-B"`,
      `"TNC"`, `"SLSQP"` (with the exact gradient), `"Newton-CG"`, `"trust-constr"`,
      `"trust-ncg"`, `"trust-krylov"` (with exact Hessian-vector products), `"dogleg"`,
      `"trust-exact"` (with the exact Hessian);
    - least squares, `scipy.optimize.least_squares` with the exact Jacobian of the
      errors: `"trf"`, `"dogbox"` (with any of our losses), `"lm"` (plain squares);
    - linear programs, `scipy.optimize.linprog` (HiGHS): `"linprog"`.

    Works under `jit`, `vmap` (lanes take turns) and `scan`; the derivative is ours.
    Real unknowns are passed as one vector, complex ones as real and imaginary parts.

    **Arguments:**

    - `method`: one of those, in upper or lower case.
    - `tol`: SciPy's `tol`, which means something else to each method. `None` means
      `eps**(2/3)` of the dtype for equations; for minima, what lets the gradient fall
      to `eps**(2/3)` of its first value, or `y` settle to as many digits, without a
      stop where only the objective has settled.
    - `options`: the method's own, by name, as hashable values: `ix.SciPy("L-BFGS-B",
      maxcor=20)`. They come before `tol` and before `max_steps`, which is `maxiter`
      (or, where a method has none, the limit on evaluations).

    - `rtol`, `atol`: what the answer is judged by, as in [`implicax.implicit`][].

    Whatever SciPy says, each unknown must be right to `rtol`, by the correction that
    the exact Jacobian (of a minimum: Hessian) asks for, or the status is `not_solved`;
    outside `jit` the error then quotes SciPy. `solution.stats.steps` is SciPy's `nit`,
    or -1.

    Needs SciPy, which JAX brings. Raises `ValueError` for a method or an option that
    does not exist, `TypeError` for a method that does not fit the problem.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp

    def root(a):
        return ix.root(lambda y, a: y**3 - a, 1.0, a, solver=ix.SciPy("hybr")).value

    def minimum(a):
        objective = lambda y, a: jnp.sum(jnp.cosh(y - a) + y)
        return ix.minimize(objective, 0.0, a, solver=ix.SciPy("BFGS")).value

    print(f"{root(8.0):.4f} {jax.grad(root)(8.0):.4f}")
    print(f"{minimum(1.0):.4f} {jax.grad(minimum)(1.0):.4f}")
    ```
    ```text
    2.0000 0.0833
    0.1186 1.0000
    ```
    """

    method: str = eqx.field(static=True)
    tol: float | None = eqx.field(static=True)
    options: tuple[tuple[str, Any], ...] = eqx.field(static=True)
    rtol: Float[Array, ""] | None
    atol: Float[Array, ""] | None

    def __init__(
        self,
        method: str = "hybr",
        tol: float | None = None,
        *,
        rtol: Any = None,
        atol: Any = None,
        **options: Any,
    ):
        names = *ROOT, *MINIMIZE, *LEAST_SQUARES, *PROGRAMS
        known = {name.lower(): name for name in names}
        if method == "milp":
            raise ValueError(
                "SciPy's 'milp' is for integers, which move in jumps: their derivative "
                "is zero, or there is none. Of the program without integers it is "
                "ix.linear_program(..., solver=ix.SciPy('linprog'))."
            )
        if not isinstance(method, str) or method.lower() not in known:
            raise ValueError(
                f"method must be one of {', '.join(known.values())}, not {method!r}."
            )
        self.method, self.tol = known[method.lower()], tol
        self.rtol, self.atol = tolerance(rtol), tolerance(atol)
        self.options = tuple(sorted(options.items()))
        try:
            hash(self.options)
        except TypeError as error:
            raise TypeError(
                f"Options must be hashable (numbers, strings, tuples): {error}."
            ) from error

    def solve(self, conditions, v0, inputs, max_steps):
        call = self._fitting(conditions, v0, inputs)
        job = _Job(conditions, call, self.method, self.tol, self.options, max_steps)
        start = v0, jnp.zeros((), jnp.float32), jnp.asarray(written(""))
        run = host(_on_host, threads=1)
        (v, steps, said), _ = run.answer(start, (inputs, job))
        # Without an answer there are no steps either.
        failed = jnp.isnan(steps)
        steps = jnp.where(failed, -1, steps).astype(jnp.int32)
        return ExternalResult(v, steps, failed, said)

    def _fitting(
        self, conditions: OptimalityConditions, v0: Vector, inputs: PyTree[Array]
    ) -> Callable[..., Any]:
        """What to call, or an error that says which methods fit the problem."""
        what, fitting = "an equation", {"root": ROOT}
        if conditions.has_objective:
            what, fitting = "a minimum", {"minimize": MINIMIZE}
        if conditions.has_errors:
            what = "a least-squares problem"
            fitting = {"least_squares": LEAST_SQUARES, "minimize": MINIMIZE}
        function = next((key for key in fitting if self.method in fitting[key]), "")
        if not function:
            names = ", ".join(name for group in fitting.values() for name in group)
            raise TypeError(
                f"ix.SciPy({self.method!r}) is not for {what}. Use ix.SciPy(method) "
                f"with one of {names}."
            )
        _check_options(function, self.method, self.options)
        if function == "least_squares" and self.method == "lm":
            assert conditions.has_errors
            _, loss = jax.eval_shape(conditions.errors, v0, inputs)
            if not isinstance(loss, Squares):
                raise TypeError(
                    f"SciPy's 'lm' minimises plain squares, and the loss is "
                    f"{type(loss).__name__}. Use ix.SciPy('trf'), "
                    "ix.LevenbergMarquardt() or ix.TrustRegion()."
                )
        return {"root": _root, "minimize": _minimize, "least_squares": _fit}[function]


@dataclasses.dataclass(frozen=True)
class _Job:
    """What is not an array, so that it travels as one leaf."""

    conditions: OptimalityConditions
    call: Callable[..., Any]
    method: str
    tol: float | None
    options: tuple[tuple[str, Any], ...]
    max_steps: int


def _on_host(start: PyTree, args: Any) -> PyTree:
    (v0, _, _), (inputs, job) = start, args
    v0, inputs = jax.tree.map(jnp.asarray, (v0, inputs))
    x0, unravel = tree_math.ravel(v0)
    try:
        found = job.call(
            job, scipy_functions(job.conditions), v0, inputs, np.asarray(x0)
        )
    except Exception as error:
        nothing = jax.tree.map(lambda x: np.full(x.shape, np.nan, x.dtype), v0)
        return nothing, np.float32(np.nan), written(f"{type(error).__name__}: {error}")
    v = jax.tree.map(np.asarray, unravel(jnp.asarray(found.x, x0.dtype)))
    message = "" if found.success else " ".join(str(found.message).split())
    return v, np.float32(found.get("nit", -1)), written(message)


def _root(
    job: _Job, at: SciPyFunctions, v0: Vector, inputs: Any, x0: np.ndarray
) -> Any:
    import scipy.optimize

    # SciPy's fixed steps go along +F, so it is given the step of the map, f(y) - y.
    sign = -1 if job.conditions.structure.fixed_point else 1
    exact = job.method in ("hybr", "lm")

    def jacobian(x: np.ndarray) -> np.ndarray:
        return sign * np.asarray(at.jacobian(x, v0, inputs))

    return scipy.optimize.root(
        lambda x: sign * np.asarray(at.residual(x, v0, inputs)),
        x0,
        jac=jacobian if exact else None,
        method=job.method,
        tol=tree_math.coarsest_eps(v0) ** (2 / 3) if job.tol is None else job.tol,
        options={ROOT[job.method]: job.max_steps, **dict(job.options)},
    )


def _minimize(
    job: _Job, at: SciPyFunctions, v0: Vector, inputs: Any, x0: np.ndarray
) -> Any:
    import scipy.optimize

    method, (uses, limit) = job.method, MINIMIZE[job.method]

    def both(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = at.both(x, v0, inputs)
        return float(value), _double(gradient)

    second = {}
    if uses == "Hessian":
        second["hess"] = lambda x: _double(at.jacobian(x, v0, inputs))
    elif uses == "products":
        second["hessp"] = lambda x, p: _double(at.product(x, p, v0, inputs))
    options = {limit: job.max_steps}
    if job.tol is None:
        options |= tolerances(method, tree_math.coarsest_eps(v0), x0, both(x0)[1])
    return scipy.optimize.minimize(
        both if uses else lambda x: float(at.objective(x, v0, inputs)),
        x0,
        jac=bool(uses),
        method=method,
        tol=job.tol,
        options=options | dict(job.options),
        **second,
    )


def _fit(job: _Job, at: SciPyFunctions, v0: Vector, inputs: Any, x0: np.ndarray) -> Any:
    import scipy.optimize

    _, loss = at.errors(x0, v0, inputs)
    if job.tol is None:
        eps = tree_math.coarsest_eps(v0)
        options = tolerances(job.method, eps, x0, _double(at.residual(x0, v0, inputs)))
    else:
        options = dict.fromkeys(("ftol", "xtol", "gtol"), job.tol)

    # SciPy's definition of `rho` and of its scale is ours; it writes to the answer.
    def weigh(z: np.ndarray) -> np.ndarray:
        return np.array(at.rho(z, loss), np.float64)

    def jacobian(x: np.ndarray) -> np.ndarray:
        return _double(at.slopes(x, v0, inputs))

    how: Any = "linear" if isinstance(loss, Squares) else weigh
    take: Any = jacobian
    options = {"max_nfev": job.max_steps} | options | dict(job.options)
    return scipy.optimize.least_squares(
        lambda x: _double(at.errors(x, v0, inputs)[0]),
        x0,
        jac=take,
        method=job.method,
        loss=how,
        f_scale=float(loss.scale),
        **options,
    )


def _double(x: Array) -> np.ndarray:
    return np.asarray(x, np.float64)


@functools.cache
def _described(function: str, method: str) -> str:
    """What SciPy's documentation says of the options."""
    import scipy.optimize

    if function == "least_squares":
        return "ftol, xtol, gtol, x_scale, tr_solver, max_nfev : options"
    return scipy.optimize.show_options(function, method, disp=False) or ""


def _check_options(
    function: str, method: str, options: tuple[tuple[str, Any], ...]
) -> None:
    """An error for an option that SciPy does not have: it would only warn."""
    for name, _ in options:
        pattern = rf"^[ \w,]*\b{re.escape(name)}\b[ \w,]* : "
        if not re.search(pattern, _described(function, method), re.MULTILINE):
            raise ValueError(
                f"SciPy's {method!r} has no option {name!r}. See "
                f"scipy.optimize.show_options({function!r}, {method!r})."
                if function != "least_squares"
                else f"{name!r} is no option of scipy.optimize.least_squares that can "
                "be set here: ftol, xtol, gtol, x_scale, tr_solver, max_nfev."
            )
