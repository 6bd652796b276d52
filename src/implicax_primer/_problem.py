"""The problem: `z = tanh(W z + x)` in ten dimensions.

`W` and `x` are `jax.random.normal` divided by the square root of ten, from the keys 0
and 1 in float32. JAX has had two generators. Both draws are kept here as text, to the
last bit, so that no setting can change them: `former.txt` is what earlier tutorials
print (`jax_threefry_partitionable=False`), `current.txt` what the same lines give today
(`True`). Ten rows of `W`, then `x`.

The problem is that of Kolter, Duvenaud & Johnson's tutorial on deep implicit layers
(NeurIPS 2020).
"""

import importlib.resources
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Problem(NamedTuple):
    """The arguments of the map: what the solution depends on."""

    W: Float[Array, "n n"]
    x: Float[Array, " n"]


def load(name: str, dtype: Any = jnp.float64) -> Problem:
    """`"former"` or `"current"`; the values are float32 numbers in either dtype."""
    text = importlib.resources.files("implicax_primer") / "data" / f"{name}.txt"
    rows = np.loadtxt(text.read_text("ascii").splitlines(), dtype=np.float32)
    return Problem(jnp.asarray(rows[:-1], dtype), jnp.asarray(rows[-1], dtype))


def tanh_map(z: Float[Array, " n"], a: Problem) -> Float[Array, " n"]:
    """The map whose fixed point is sought."""
    return jnp.tanh(a.W @ z + a.x)


def residual(z: Float[Array, " n"], a: Problem) -> Float[Array, " n"]:
    """The same as a root: `F(z, a) = z - tanh(W z + x)`."""
    return z - tanh_map(z, a)
