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


def certificates(kind: str, fn: Callable) -> Callable:
    """A function of several points: the certificates there."""
    equation = PROBLEMS[kind](fn)

    def at(points, args):
        return jax.vmap(lambda y: ix.certify(loss, equation, y, args))(points)

    return at


def norms(tree: Any) -> np.ndarray:
    """Euclidean norms of a batch of pytrees."""
    rows = [np.reshape(leaf, (len(leaf), -1)) for leaf in jax.tree.leaves(tree)]
    return np.linalg.norm(np.concatenate(rows, axis=1), axis=1)


def error_bars(problem: Problem, value: Any, program: Callable) -> ErrorBars:
    """The certificates of `program` at the solution `value`, and displaced from it."""
    value = np.asarray(value)
    rng = np.random.default_rng(value.size)
    directions = rng.standard_normal((len(DISPLACEMENTS), value.size))
    steps = np.asarray(DISPLACEMENTS)[:, None] * directions
    displaced = value + steps * np.where(value == 0, 1, np.abs(value))
    found = jax.device_get(
        program(np.concatenate([value[None], displaced]), problem.args)
    )
    exact = jax.tree.map(lambda leaf: leaf[:1], found.corrected_gradient)
    size = float(norms(exact)[0])
    true = norms(jax.tree.map(np.subtract, found.gradient, exact))[1:]
    predicted, ok = found.gradient_error[1:], found.ok[1:]
    seen = np.maximum(true, predicted) > ROUNDING * size
    with np.errstate(divide="ignore"):
        ratios = (predicted / true)[ok & seen]
    return ErrorBars(
        name=problem.name,
        singular=problem.singular,
        ok=bool(found.ok[0]),
        condition=float(found.condition_number[0]),
        gradient=jax.tree.map(lambda leaf: leaf[0], found.gradient),
        size=size,
        ratios=tuple(map(float, ratios)),
        exact=int(np.sum(ok & ~seen)),
        distrusted=int(np.sum(~ok)),
    )
