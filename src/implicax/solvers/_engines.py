"""Solvers of other libraries, as they are: their steps, our conditions."""

import abc
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from .. import _tree
from .._conditions import Conditions
from .._host import host
from .._system import System
from .._tree import Vector


class AbstractEngine(eqx.Module):
    """A solver that runs to its end by itself."""

    @abc.abstractmethod
    def solve(
        self,
        conditions: Conditions,
        v0: Vector,
        inputs: PyTree[Array],
        max_steps: int,
    ) -> tuple[Vector, Array, Bool[Array, ""]]:
        """The answer, the steps it took (-1: not told), whether it broke."""


class SciPy(AbstractEngine):
    """`scipy.optimize.root` with an exact Jacobian, on the host.

    Works under `jit`, `vmap` (lanes take turns) and `scan`, for both problem classes;
    the derivative is ours. Real unknowns are passed as one vector, complex ones as real
    and imaginary parts.

    **Arguments:**

    - `method`: one of SciPy's: `"hybr"`, `"lm"` (both with the Jacobian), `"broyden1"`,
      `"broyden2"`, `"anderson"`, `"linearmixing"`, `"diagbroyden"`, `"excitingmixing"`,
      `"krylov"`, `"df-sane"`.
    - `tol`: SciPy's `tol`; `None` means `eps**(2/3)` of the dtype.

    Needs SciPy, which JAX brings.

    ```python
    import implicax as ix
    import jax
    import jax.numpy as jnp

    def root(a):
        return ix.root(lambda y, a: y**3 - a, 1.0, a, solver=ix.SciPy("hybr")).value

    print(f"{root(8.0):.4f} {jax.grad(root)(8.0):.4f}")
    ```
    ```text
    2.0000 0.0833
    ```
    """

    method: str = eqx.field(static=True, default="hybr")
    tol: float | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if self.method not in _SCIPY_METHODS:
            raise ValueError(
                f"method must be one of {', '.join(_SCIPY_METHODS)}, not "
                f"{self.method!r}."
            )

    def solve(self, conditions, v0, inputs, max_steps):
        run = host(_scipy_root, threads=1)
        tol = _tree.coarsest_eps(v0) ** (2 / 3) if self.tol is None else self.tol
        options = (conditions, self.method, tol, max_steps)
        v, broke = run.answer(v0, (inputs, _Constant(options)))
        return v, jnp.full((), -1, jnp.int32), broke


class Optimistix(AbstractEngine):
    """An optimistix solver: root finder, fixed point, least squares or minimiser."""

    solver: Any

    def solve(self, conditions, v0, inputs, max_steps):
        optx = _optimistix()
        system = System.of(conditions, inputs)

        def residual(v: Vector, _: None) -> Vector:
            return system.residual(v)

        def step(v: Vector, _: None) -> Vector:
            return _tree.subtract(v, system.residual(v))

        find, fn = optx.root_find, residual
        if conditions.fixed_point or isinstance(
            self.solver, optx.AbstractFixedPointSolver
        ):
            find, fn = optx.fixed_point, step
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            found = find(fn, self.solver, v0, max_steps=max_steps, throw=False)
        steps = jnp.asarray(found.stats["num_steps"], jnp.int32)
        return found.value, steps, jnp.zeros((), bool)


def engine(solver: Any) -> AbstractEngine | None:
    """The engine that runs a solver of another library, if there is one for it."""
    if isinstance(solver, AbstractEngine):
        return solver
    if type(solver).__module__.partition(".")[0] == "optimistix":
        optx = _optimistix()
        kinds = (
            optx.AbstractRootFinder,
            optx.AbstractFixedPointSolver,
            optx.AbstractLeastSquaresSolver,
            optx.AbstractMinimiser,
        )
        if isinstance(solver, kinds):
            return Optimistix(solver)
    return None


_SCIPY_METHODS = (
    "hybr",
    "lm",
    "broyden1",
    "broyden2",
    "anderson",
    "linearmixing",
    "diagbroyden",
    "excitingmixing",
    "krylov",
    "df-sane",
)


class _Constant:
    """Wraps what is not an array, so that it travels as one leaf."""

    def __init__(self, value: Any):
        self.value = value


@functools.lru_cache(maxsize=64)
def _compiled(conditions: Conditions) -> tuple[Any, Any]:
    """The residual and its Jacobian, for flat vectors."""

    def residual(flat: Array, v: Vector, inputs: PyTree[Array]) -> Array:
        _, unravel = _tree.ravel(v)
        return _tree.ravel(conditions.residual(unravel(flat), inputs))[0]

    jacobian = jax.jacrev if conditions.reverse_only else jax.jacfwd
    return jax.jit(residual), jax.jit(jacobian(residual))


def _scipy_root(v0: PyTree, args: Any) -> PyTree:
    import scipy.optimize

    inputs, constant = args
    v0, inputs = jax.tree.map(jnp.asarray, (v0, inputs))
    conditions, method, tol, max_steps = constant.value
    # SciPy's fixed steps go along +F, so it is given the step of the map, f(y) - y.
    sign = -1 if conditions.fixed_point else 1
    residual, jacobian = _compiled(conditions)
    flat, unravel = _tree.ravel(v0)
    exact = method in ("hybr", "lm")
    limit = {"hybr": "maxfev", "lm": "maxiter", "df-sane": "maxfev"}
    found = scipy.optimize.root(
        lambda x: sign * np.asarray(residual(x, v0, inputs)),
        np.asarray(flat),
        jac=(lambda x: sign * np.asarray(jacobian(x, v0, inputs))) if exact else None,
        method=method,
        tol=tol,
        options={limit.get(method, "maxiter"): max_steps},
    )
    return jax.tree.map(np.asarray, unravel(jnp.asarray(found.x, flat.dtype)))


def _optimistix() -> Any:
    try:
        import optimistix
    except ImportError as error:
        raise ImportError(
            "This solver needs optimistix: pip install 'implicax[optimistix]'."
        ) from error
    return optimistix
