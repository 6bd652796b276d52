"""Solvers of quadratic programs by `qpsolvers`, on the host."""

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from implicax._core.keywords import check_solver_call
from implicax._core.optional import library
from implicax._solvers.base import tolerance
from implicax._solvers.external.one_sided import OneSided
from implicax._solvers.programs.base import AbstractProgramSolver
from implicax._solvers.programs.verdict import Guess, sides_at


def _qpsolvers() -> Any:
    with warnings.catch_warnings():
        # It imports all solvers that are there, and some of these warn of themselves.
        warnings.simplefilter("ignore")
        return library("qpsolvers", "ix.QPSolvers")


class QPSolvers(AbstractProgramSolver):
    """Any solver that `qpsolvers` knows (PIQP, Clarabel, HiGHS, ProxQP, OSQP, ...).

    It runs on the host, on a program that is scaled: sparse where the solver takes
    sparse matrices. From where it ends, the solution, the verdict and the derivative
    are ours, as those of [`implicax.InteriorPoint`][]. Lanes of a `vmap` take turns.
    Needs `implicax[qpsolvers]`.

    **Arguments:**

    - `name`: as `qpsolvers` calls it: `"piqp"`, `"clarabel"`, `"proxqp"`, ...
    - `options`: passed on, by name.
    - `rtol`: as of [`implicax.InteriorPoint`][].

    ```python
    import implicax as ix
    import jax.numpy as jnp

    engine = ix.QPSolvers("piqp", options={"eps_abs": 1e-9})
    solution = ix.quadratic_program(
        jnp.eye(2), -jnp.ones(2), bounds=(None, 0.5), solver=engine
    )
    print(solution.value)
    ```
    ```text
    [0.5 0.5]
    ```
    """

    name: str = eqx.field(static=True)
    options: Any = eqx.field(
        static=True, converter=lambda o: tuple((o or {}).items()), default=None
    )
    rtol: Float[Array, ""] | None = eqx.field(converter=tolerance, default=None)

    def __new__(cls, *args: Any, **options: Any):
        check_solver_call(cls, args, options)
        return super().__new__(cls)

    def __check_init__(self):
        qpsolvers = _qpsolvers()
        if self.name not in qpsolvers.available_solvers:
            there = ", ".join(qpsolvers.available_solvers) or "none"
            raise ValueError(
                f"qpsolvers has no solver {self.name!r} here. Installed are: {there}."
            )

    def init(self, program):
        return ()

    def attempt(self, program, state, number, max_steps):
        rows = program.rows
        shapes = tuple(
            jax.ShapeDtypeStruct(like.shape, like.dtype)
            for like in (program.q, program.lower)
        )
        x, t = jax.pure_callback(
            self._solve,
            shapes,
            *(program.P, program.q, rows.matrix, program.lower, program.upper),
            vmap_method="sequential",
        )
        guess = Guess(x, t, sides_at(program, x, t), jnp.abs(x))
        return state, guess, jnp.where(max_steps > 0, 1, 0)

    def _solve(self, *data: Any) -> tuple[np.ndarray, np.ndarray]:
        """The point and the signed multipliers that the solver finds, zero where it
        finds none."""
        qpsolvers = _qpsolvers()
        P, q, matrix, lower, upper = (np.asarray(x, float) for x in data)
        rows = OneSided.of(matrix, lower, upper)
        problem = {"G": rows.G, "h": rows.h} if rows.h.size else {}
        if rows.b.size:
            problem |= {"A": rows.A, "b": rows.b}
        if rows.bounds is not None:
            problem |= dict(zip(("lb", "ub"), rows.bounds, strict=True))
        if self.name in qpsolvers.sparse_solvers:
            sparse = library("scipy.sparse", "ix.QPSolvers", "qpsolvers").csc_matrix
            P = sparse(P)
            problem |= {k: sparse(problem[k]) for k in ("A", "G") if k in problem}
        stated = qpsolvers.Problem(P, q, **problem)
        found = qpsolvers.solve_problem(stated, self.name, **dict(self.options))
        x, t = np.zeros(q.size), np.zeros(lower.size)
        if found.x is not None:
            x = np.asarray(found.x)
            t = rows.multipliers(found.z, found.y, found.z_box)
        kind = data[1].dtype
        return x.astype(kind), t.astype(kind)
