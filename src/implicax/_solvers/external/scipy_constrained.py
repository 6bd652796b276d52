"""SciPy's methods that know bounds, or constraints too."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from implicax._core.traced_function import TracedFunction
from implicax._solvers.constrained.base import AbstractConstrainedSolver, Guess
from implicax._solvers.external.host import host
from implicax._solvers.external.scipy import SciPy
from implicax._solvers.external.scipy_methods import (
    BOUNDED,
    BOUNDED_FITS,
    CONSTRAINED,
    MINIMIZE,
    tolerances,
)


class SciPyConstrained(AbstractConstrainedSolver):
    """An [`implicax.SciPy`][] within bounds or under constraints: its answer, led to
    the solution on its active constraints."""

    method: str = eqx.field(static=True)
    tol: float | None = eqx.field(static=True)
    options: tuple[tuple[str, Any], ...] = eqx.field(static=True)
    rtol: Float[Array, ""] | None = None

    @classmethod
    def of(cls, solver: SciPy, constraints: bool) -> "SciPyConstrained":
        """**Raises:** `TypeError` for a method that does not know what there is."""
        known = CONSTRAINED if constraints else (*BOUNDED, *BOUNDED_FITS)
        if solver.method not in known:
            what = "constraints" if constraints else "bounds"
            raise TypeError(
                f"SciPy's {solver.method!r} knows no {what}. Use ix.SciPy(method) with "
                f"one of {', '.join(known)}, or ix.NonlinearInteriorPoint()."
            )
        return cls(
            rtol=solver.rtol,
            method=solver.method,
            tol=solver.tol,
            options=solver.options,
        )

    def attempt(self, program, x, number, max_steps):
        assert program.source is not None
        functions, inputs = program.source
        fixed = self.method, self.tol, self.options, functions
        run = host(functools.partial(_on_host, _Call(*fixed)), threads=1)
        sides = program.lower, program.upper
        start = x, jnp.zeros((), jnp.float32)
        (found, steps), _ = run.answer(start, (inputs, sides, max_steps))
        answer = jnp.where(jnp.isfinite(found), found, x)
        guess = Guess.at(program, answer)
        count = jnp.where(jnp.isnan(steps), 0, steps).astype(jnp.int32)
        lost = jnp.where(jnp.isfinite(found).all(), guess.x, jnp.nan)
        return eqx.tree_at(lambda g: (g.x, g.steps), guess, (lost, count))


class _Call(eqx.Module):
    """What is the same in all lanes."""

    method: str = eqx.field(static=True)
    tol: float | None = eqx.field(static=True)
    options: tuple[tuple[str, Any], ...] = eqx.field(static=True)
    functions: TracedFunction = eqx.field(static=True)


def _on_host(call: _Call, start: tuple, args: Any) -> tuple[Any, Any]:
    import scipy.optimize

    (x0, _), (inputs, (lower, upper), limit) = start, args
    n, at = x0.size, _compiled(call.functions)
    x0, kind = np.asarray(x0, np.float64), x0.dtype
    m = lower.size - n
    box = scipy.optimize.Bounds(lower[m:].astype(float), upper[m:].astype(float))
    inputs = jax.tree.map(jnp.asarray, inputs)
    how: dict[str, Any]

    def ours(function: Any) -> Any:
        return lambda x, *more: np.asarray(
            function(jnp.asarray(x, kind), inputs, *more), np.float64
        )

    tight = tolerances(
        call.method, float(jnp.finfo(kind).eps), x0, ours(at["gradient"])(x0)
    )
    options = {} if call.tol is not None else tight
    if call.method in BOUNDED_FITS:
        if call.tol is not None:
            options = dict.fromkeys(("ftol", "xtol", "gtol"), call.tol)
        how = {"max_nfev": int(limit)} | options | dict(call.options)
        found = scipy.optimize.least_squares(
            ours(at["errors"]),
            np.clip(x0, box.lb, box.ub),
            jac=ours(at["slopes"]),
            bounds=(box.lb, box.ub),
            method=call.method,
            **how,
        )
        return found.x, np.float32(found.nfev)
    uses, steps = MINIMIZE[call.method]
    second = {"hess": ours(at["hessian"])} if uses == "products" else {}
    fixed = lower[:m] == upper[:m]
    kinds = [np.flatnonzero(kind) for kind in (fixed, ~fixed)]
    rows = [
        _rows(ours, at, kind, lower, upper, bool(second)) for kind in kinds if kind.size
    ]
    found = scipy.optimize.minimize(
        lambda x: float(ours(at["objective"])(x)),
        x0,
        jac=ours(at["gradient"]) if uses else None,
        bounds=box,
        constraints=rows,
        method=call.method,
        tol=call.tol,
        options={steps: int(limit)} | options | dict(call.options),
        **second,
    )
    return found.x, np.float32(found.get("nit", -1))


def _rows(
    ours: Any,
    at: dict[str, Any],
    which: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    bends: bool,
) -> Any:
    """Some of the constraints, as SciPy takes them."""
    import scipy.optimize

    def bent(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
        everywhere = np.zeros(lower.size - x.size)
        everywhere[which] = weights
        return ours(at["bent"])(x, everywhere)

    constraint: Any = scipy.optimize.NonlinearConstraint
    return constraint(
        lambda x: ours(at["rows"])(x)[which],
        lower[which].astype(float),
        upper[which].astype(float),
        jac=lambda x: ours(at["jacobian"])(x)[which],
        **({"hess": bent} if bends else {}),
    )


@functools.lru_cache(maxsize=64)
def _compiled(functions: TracedFunction) -> dict[str, Any]:
    """Objective, rows, errors and their derivatives, of `(x, inputs)`."""

    def part(name: str) -> Any:
        return lambda x, inputs: getattr(functions.output((x,), inputs), name)

    def bent(x: Array, inputs: PyTree[Array], weights: Any) -> Array:
        pulled = jnp.asarray(weights, x.dtype)
        return jax.hessian(lambda x: pulled @ part("rows")(x, inputs))(x)

    objective, rows, errors = map(part, ("objective", "rows", "errors"))
    found = {
        "objective": objective,
        "gradient": jax.grad(objective),
        "hessian": jax.hessian(objective),
        "rows": rows,
        "jacobian": jax.jacrev(rows),
        "bent": bent,
        "errors": errors,
        "slopes": jax.jacfwd(errors),
    }
    return {name: jax.jit(function) for name, function in found.items()}
