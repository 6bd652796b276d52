"""Step 4: the derivative at an unfinished solution, its error bar, its correction.

The derivative is that of the loss `|z*|^2 / 2` with respect to `x`; its exact value is
`(dz*/dx)^T z*`.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

import implicax as ix

from ._exact import Exact, relative
from ._problem import Problem, tanh_map

#: The steps of plain iteration whose derivatives are certified, and those tabulated.
STEPS = range(1, 31)
TABULATED = (6, 12, 18, 24)


@dataclass(frozen=True)
class Entry:
    """Relative errors of the gradient after `k` steps of plain iteration."""

    k: int
    true: float
    predicted: float
    corrected: float


@dataclass(frozen=True)
class Certified:
    """What step 4 found."""

    entries: list[Entry]
    reports: dict[int, str]
    """The certificates in words, by `k`."""

    @property
    def table(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.k in TABULATED]


@jax.jit
def certificate(z: jax.Array, a: Problem) -> ix.Certificate:
    """Of the gradient with respect to `x`, at `z`."""
    problem = ix.FixedPoint(lambda z, x: tanh_map(z, Problem(a.W, x)))
    return ix.certify(lambda z, x: jnp.vdot(z, z) / 2, problem, z, a.x)


def certify(former: Problem, solution: Exact) -> Certified:
    """Certify every iterate of plain iteration."""
    gradient = solution.dz_dx.T @ solution.z
    z, entries, reports = jnp.zeros_like(former.x), [], {}
    for k in STEPS:
        z = tanh_map(z, former)
        found = certificate(z, former)
        entries.append(
            Entry(
                k,
                relative(found.gradient, gradient),
                float(found.relative_gradient_error),
                relative(found.corrected_gradient, gradient),
            )
        )
        reports[k] = repr(found)
    return Certified(entries, reports)
