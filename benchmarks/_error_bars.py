"""Error bars beside true errors, on gradients of solutions of the library.

The gradient is that of `sum(w * y)` in the problem's data, with fixed random weights.
At the solution it is exact; at a point that is displaced by a known amount it is wrong,
and the certificate that is taken there says by how much.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import implicax as ix
from benchmarks.problems import Problem

#: Relative displacements of the unknowns (absolute, of those that are zero).
DISPLACEMENTS = (1e-3, 1e-4, 1e-5, 1e-6)
#: Relative errors below which rounding is all there is to see.
ROUNDING = 1e-10
PROBLEMS = {"root": ix.Root, "least_squares": ix.LeastSquares, "minimum": ix.Minimum}
CALLS = {"root": ix.root, "least_squares": ix.least_squares, "minimum": ix.minimize}


@dataclasses.dataclass(frozen=True)
class ErrorBars:
    """What the certificates of one problem said."""

    name: str
    singular: bool
    """What is known of the problem."""
    ok: bool
    """What the certificate says at the solution."""
    condition: float
    gradient: Any
    """At the solution, the certificate's."""
    size: float
    """Its Euclidean norm."""
    ratios: tuple[float, ...]
    """Predicted over true error, where a displaced certificate is `ok` and there is
    something to see."""
    exact: int
    """Displacements after which the gradient was still right to rounding."""
    distrusted: int
    """Displacements at which the certificate was not `ok`."""


def weights(n: int) -> np.ndarray:
    return np.random.default_rng(n).standard_normal(n)


def loss(y, args):
    del args
    return jnp.sum(weights(y.size) * y)


def certificate(kind: str, fn: Callable) -> Callable:
    """The certificate as a function of the point and the arguments."""
    equation = PROBLEMS[kind](fn)
    return lambda y, args: ix.certify(loss, equation, y, args)


def distance(a: Any, b: Any) -> float:
    """Euclidean, of two pytrees."""
    leaves = jax.tree.leaves(jax.tree.map(np.subtract, a, b))
    return float(np.linalg.norm(np.concatenate([np.ravel(leaf) for leaf in leaves])))


def error_bars(problem: Problem, value: Any, program: Callable) -> ErrorBars:
    """What `program`, a compiled `certificate`, says at the solution `value`, and
    displaced from it."""
    value = np.asarray(value)
    rng = np.random.default_rng(value.size)
    directions = rng.standard_normal((len(DISPLACEMENTS), value.size))
    steps = np.asarray(DISPLACEMENTS)[:, None] * directions
    displaced = value + steps * np.where(value == 0, 1, np.abs(value))
    at, *others = (
        jax.device_get(program(y, problem.args)) for y in (value, *displaced)
    )
    exact = at.corrected_gradient
    size = distance(exact, jax.tree.map(np.zeros_like, exact))
    true = np.asarray([distance(other.gradient, exact) for other in others])
    predicted = np.asarray([other.gradient_error for other in others])
    ok = np.asarray([other.ok for other in others])
    seen = np.maximum(true, predicted) > ROUNDING * size
    with np.errstate(divide="ignore"):
        ratios = (predicted / true)[ok & seen]
    return ErrorBars(
        name=problem.name,
        singular=problem.singular,
        ok=bool(at.ok),
        condition=float(at.condition_number),
        gradient=at.gradient,
        size=size,
        ratios=tuple(map(float, ratios)),
        exact=int(np.sum(ok & ~seen)),
        distrusted=int(np.sum(~ok)),
    )
