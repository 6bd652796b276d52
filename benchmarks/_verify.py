"""Whether an answer is a solution, whoever found it: by its own corrections.

A root is one if one more Newton correction changes no unknown by more than 1e-6 of
itself; a minimum likewise, with a Hessian that has no negative curvature. Where the
Jacobian or the Hessian is singular, so that corrections say nothing, the residual, or
the objective, must be as small as the best that is known.
"""

import dataclasses

import jax
import numpy as np

#: Of each unknown; and an error that is none, as a fraction of the largest unknown.
DIGITS, ZERO = 1e-6, 1e-12
#: A condition number (after scaling) from which corrections say nothing.
SINGULAR = 1e12
#: A residual and an objective that count as zero.
RESIDUAL, OBJECTIVE = 1e-10, 1e-14
#: How near to the least known value, relatively: published ones have six digits.
RELATIVE = 1e-6
#: Negative curvature that is none, relative to the largest.
CURVATURE = 1e-8


@dataclasses.dataclass
class Verified:
    """What there is to say about one answer."""

    kind: str
    finite: bool
    #: The largest relative correction of an unknown.
    error: float
    singular: bool
    #: Whether the curvature is nowhere negative (a root: `True`).
    convex: bool
    #: Of a root the largest residual, else what is minimised.
    objective: float

    def right(self, least: float) -> bool:
        """`least` is the best value known."""
        if not self.finite:
            return False
        regular = not self.singular and self.convex and self.error <= DIGITS
        if self.kind == "root":
            return regular or (self.singular and self.objective <= RESIDUAL)
        near = self.objective - least <= max(RELATIVE * abs(least), OBJECTIVE)
        return regular or near


def verify(problem, y) -> Verified:
    """An answer `y` to a problem with `kind` and `fn`."""
    root = problem.kind == "root"
    output = np.asarray(problem.fn(y))
    if not (np.isfinite(y).all() and np.isfinite(output).all()):
        return Verified(problem.kind, False, np.inf, True, False, np.inf)
    if root:
        value, matrix = output, np.asarray(jax.jacfwd(problem.fn)(y))
        objective = float(np.max(np.abs(output)))
    else:

        def total(y):
            output = problem.fn(y)
            return 0.5 * (output**2).sum() if output.ndim else output

        objective = float(total(y))
        value = np.asarray(jax.grad(total)(y))
        matrix = np.asarray(jax.hessian(total)(y))
    if not (np.isfinite(value).all() and np.isfinite(matrix).all()):
        return Verified(problem.kind, False, np.inf, True, False, objective)
    # Unknowns in units of their own columns, then equations in those of their rows: a
    # Hessian stays symmetric.
    size = np.max(np.abs(matrix), axis=0) if root else np.abs(np.diag(matrix)) ** 0.5
    columns = 1 / np.where(size > 0, size, 1)
    scaled = matrix * columns
    rows = columns if not root else 1 / np.max(np.abs(scaled), axis=1).clip(1e-300)
    scaled = rows[:, None] * scaled
    singular = not np.linalg.cond(scaled) < SINGULAR
    step = columns * np.linalg.lstsq(scaled, rows * value, rcond=None)[0]
    largest = np.max(np.maximum(np.abs(y), np.abs(problem.y0)))
    error = np.abs(step) / np.maximum(np.abs(y), ZERO / DIGITS * largest + 1e-300)
    error = float(np.max(error))
    convex = True
    if not root:
        curvatures = np.linalg.eigvalsh((scaled + scaled.T) / 2)
        convex = bool(curvatures[0] >= -CURVATURE * max(curvatures[-1], 0))
    return Verified(problem.kind, True, error, singular, convex, objective)


def best_known(problem, answers) -> float:
    """The least value that is published, or that anybody found."""
    found = [answer.objective for answer in answers if answer.finite]
    if problem.kind == "minimum" and problem.known is not None:
        found.append(float(problem.known))
    return min(found, default=np.inf)
