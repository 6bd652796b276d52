"""The oracle: solution and derivative in closed form, in NumPy, without the library.

With `s = sech^2(W z + x)` at the solution, differentiating `z = tanh(W z + x)` gives
`dz = diag(s) (W dz + dx)`, so that

    J = dF/dz = I - diag(s) W,        dz*/dx = J^-1 diag(s).
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._problem import Problem

Matrix = NDArray[np.floating[Any]]


class Exact(NamedTuple):
    """Everything at the solution, to rounding."""

    z: Matrix
    jacobian: Matrix
    dz_dx: Matrix


def jacobian(W: Matrix, x: Matrix, z: Matrix) -> Matrix:
    """`dF/dz = I - diag(sech^2(W z + x)) W`."""
    return np.eye(z.size) - W / np.cosh(W @ z + x)[:, None] ** 2


def exact(problem: Problem) -> Exact:
    """Twenty Newton steps from zero: many more than it takes to reach rounding."""
    W, x = (np.asarray(a, np.float64) for a in problem)
    z = np.zeros_like(x)
    for _ in range(20):
        z = z - np.linalg.solve(jacobian(W, x, z), z - np.tanh(W @ z + x))
    J = jacobian(W, x, z)
    return Exact(z, J, np.linalg.solve(J, np.diag(1 / np.cosh(W @ z + x) ** 2)))


def relative(value: object, reference: object) -> float:
    """`|value - reference| / |reference|` in the Euclidean (Frobenius) norm."""
    a, b = np.asarray(value), np.asarray(reference)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))
