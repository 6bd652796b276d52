"""Several solvers in turns."""

from typing import Any

import equinox as eqx


class Fallback(eqx.Module):
    """The first solver; where it fails, the next from the same start; and so on.

    What all fail at is answered by the one that came nearest. A solution of equations
    that is `degenerate` ends the turns: it is one, and only its derivative is missing.

    Outside `jit`, and in a program that is already compiled, what is not needed costs
    nothing. `solution.stats` add up. A derivative that takes steps of a solver
    ([`implicax.Unrolled`][], [`implicax.Truncated`][], [`implicax.OneStep`][]) takes
    those of the first.

    **Arguments:**

    - `solvers`: whatever `solver=` takes, one by one.

    ```python
    import implicax as ix
    import jax.numpy as jnp

    solver = ix.Fallback(ix.Chord(), ix.Newton())
    print(f"{ix.root(lambda y, a: jnp.exp(y) - a, 3.0, 0.01, solver=solver).value:.1f}")
    ```
    ```text
    -4.6
    ```
    """

    solvers: tuple[Any, ...]

    def __init__(self, *solvers: Any):
        if not solvers:
            raise ValueError("Fallback needs at least one solver: ix.Fallback(first).")
        self.solvers = solvers
