"""Step 5: what a derivative costs, like for like.

Eager: every JAX call is dispatched on its own, as in a notebook, in float32, by the
classic loops. Compiled: one `jax.jit` around solve and derivative together, in float64.
There the three ways run the same Newton iteration from the same start:

- implicit: the library's solver, differentiated by the theorem;
- unrolled: the same solver and stopping test, its steps differentiated;
- fixed length: hand-written, told beforehand how many steps suffice, no stopping test.
  No unrolled derivative is cheaper, and none knows less about its own error.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

import implicax as ix

from . import _classic
from ._problem import Problem, load, residual

#: The bound for the unrolled solver: what it takes, and a little to spare.
MAX_STEPS = 8
REPEATS = 15


@dataclass(frozen=True)
class Timed:
    """Seconds, medians of `REPEATS` alternating batches."""

    eager: dict[str, float]
    """`solve`, `implicit` (the derivative alone, at a known solution), `unrolled`."""
    forward: dict[str, float]
    """Solve and `jax.jacfwd`, compiled: `implicit`, `unrolled`, `fixed length`."""
    reverse: dict[str, float]
    """Solve and `jax.jacrev`, compiled: the same."""

    @property
    def speedup_eager(self) -> float:
        """As the classic claim counts: the implicit side is given the solution."""
        return self.eager["unrolled"] / self.eager["implicit"]

    @property
    def speedup_eager_with_solve(self) -> float:
        """The implicit side pays for its solve too."""
        return self.eager["unrolled"] / (self.eager["solve"] + self.eager["implicit"])

    @property
    def speedup_compiled_forward(self) -> float:
        return self.forward["unrolled"] / self.forward["implicit"]

    @property
    def speedup_compiled_reverse(self) -> float:
        return self.reverse["unrolled"] / self.reverse["implicit"]

    @property
    def speedup_over_notebook(self) -> float:
        """The compiled implicit derivative against the notebook's way."""
        return self.eager["unrolled"] / self.reverse["implicit"]


def duration(seconds: float | None) -> str:
    """In words: milliseconds or microseconds, a dash for what was not measured."""
    if seconds is None:
        return "-"
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds * 1e6:.0f} us"


def measure(former: Problem) -> Timed:
    """Time everything; the derivatives were compared in step 3."""
    single = load("former", jnp.float32)
    z, _ = _classic.newton(single)
    eager = _alternate(
        {
            "solve": lambda: _classic.newton(single)[0],
            "implicit": lambda: _classic.implicit(single, z),
            "unrolled": lambda: _classic.through_newton(single),
        },
        calls=1,
        repeats=REPEATS // 3,
    )

    steps = int(ix.root(residual, jnp.zeros_like(former.x), former).stats.steps)
    ways = {
        "implicit": _library(former),
        "unrolled": _library(former, derivative=ix.Unrolled(), max_steps=MAX_STEPS),
        "fixed length": _fixed_length(former, steps),
    }

    def compiled(mode: Callable) -> dict[str, float]:
        def call(solution: Callable) -> Callable[[], Any]:
            program = jax.jit(mode(solution))
            return lambda: program(former.x)

        return _alternate({name: call(way) for name, way in ways.items()}, calls=50)

    return Timed(eager, compiled(jax.jacfwd), compiled(jax.jacrev))


def _library(a: Problem, **options: Any) -> Callable[[jax.Array], jax.Array]:
    def solution(x: jax.Array) -> jax.Array:
        arguments = Problem(a.W, x)
        return ix.root(residual, jnp.zeros_like(x), arguments, **options).value

    return solution


def _fixed_length(a: Problem, steps: int) -> Callable[[jax.Array], jax.Array]:
    def solution(x: jax.Array) -> jax.Array:
        step = _classic.newton_step(Problem(a.W, x))
        z0 = jnp.zeros_like(x)
        return jax.lax.scan(lambda z, _: (step(z), None), z0, None, length=steps)[0]

    return solution


def _alternate(
    ways: dict[str, Callable[[], Any]], *, calls: int, repeats: int = REPEATS
) -> dict[str, float]:
    """Median seconds per call; the ways take turns, so that a slow spell hits all."""
    for way in ways.values():
        jax.block_until_ready(way())
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            begin = time.perf_counter()
            result = None
            for _ in range(calls):
                result = way()
            jax.block_until_ready(result)
            times[name].append((time.perf_counter() - begin) / calls)
    return {name: statistics.median(values) for name, values in times.items()}
