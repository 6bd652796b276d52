"""Linear programs by SciPy's `linprog`, on the host."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from implicax._solvers.external.one_sided import OneSided
from implicax._solvers.external.scipy import SciPy
from implicax._solvers.programs.base import AbstractProgramSolver
from implicax._solvers.programs.verdict import Guess, sides_at


class SciPyLinprog(AbstractProgramSolver):
    """`ix.SciPy("linprog")`: HiGHS, whose answer is led to the last digits."""

    options: tuple[tuple[str, Any], ...] = eqx.field(static=True)
    rtol: Float[Array, ""] | None = None

    @classmethod
    def of(cls, solver: SciPy, linear: bool) -> "SciPyLinprog":
        """**Raises:** `TypeError` for another method, and another program."""
        if solver.method != "linprog":
            raise TypeError(
                f"SciPy's {solver.method!r} is not for programs. Use "
                "ix.InteriorPoint(), ix.QPSolvers(name), or, of linear programs, "
                "ix.SciPy('linprog')."
            )
        if not linear:
            raise TypeError(
                "SciPy's 'linprog' is for linear programs, P=None, and P is there. Use "
                "ix.InteriorPoint() or ix.QPSolvers(name)."
            )
        return cls(options=solver.options, rtol=solver.rtol)

    def init(self, program):
        return ()

    def attempt(self, program, state, number, max_steps):
        shapes = tuple(
            jax.ShapeDtypeStruct(like.shape, like.dtype)
            for like in (program.q, program.lower)
        )
        data = program.q, program.rows.matrix, program.lower, program.upper
        x, t = jax.pure_callback(
            self._solve, shapes, *data, max_steps, vmap_method="sequential"
        )
        guess = Guess(x, t, sides_at(program, x, t), jnp.abs(x))
        return state, guess, jnp.where(max_steps > 0, 1, 0)

    def _solve(self, *data: Any) -> tuple[np.ndarray, np.ndarray]:
        """The vertex and its signed multipliers; zero where there is none."""
        import scipy.optimize

        q, matrix, lower, upper = (np.asarray(x, float) for x in data[:4])
        rows = OneSided.of(matrix, lower, upper)
        free = np.full(q.size, np.inf)
        least, most = (-free, free) if rows.bounds is None else rows.bounds
        stated = {
            "A_ub": rows.G if rows.h.size else None,
            "b_ub": rows.h if rows.h.size else None,
            "A_eq": rows.A if rows.b.size else None,
            "b_eq": rows.b if rows.b.size else None,
            "bounds": np.stack([least, most], 1),
        }
        options = {"maxiter": int(data[4]), **dict(self.options)}
        found = scipy.optimize.linprog(q, **stated, method="highs", options=options)
        x, t = np.zeros(q.size), np.zeros(lower.size)
        if found.x is not None:
            # What the least value gains by a side, where a multiplier is its loss.
            x = found.x
            t = rows.multipliers(
                -found.ineqlin.marginals if rows.h.size else None,
                -found.eqlin.marginals if rows.b.size else None,
                -(found.lower.marginals + found.upper.marginals),
            )
        return x.astype(data[0].dtype), t.astype(data[0].dtype)
