"""Kepler's equation `M = E - e sin E` for many planets at once, and its derivatives.

The closed form `dE/dM = 1 / (1 - e cos E)` is what the derivative is compared with. A
lane that cannot be solved (here one with a NaN for its data) turns into NaN by itself,
in value and derivative; the others do not notice.
"""

import jax
import jax.numpy as jnp

import implicax as ix

jax.config.update("jax_enable_x64", True)


def kepler(E, a):
    """Zero where `E` is the eccentric anomaly of mean anomaly `a["M"]`."""
    return E - a["e"] * jnp.sin(E) - a["M"]


def solve(a):
    """The eccentric anomaly, from the guess `E = pi`, which serves for all `e < 1`."""
    return ix.root(kepler, jnp.asarray(jnp.pi), a)


planets = {
    "e": jnp.array([0.0068, 0.0167, 0.2056, 0.9671, 0.5]),
    "M": jnp.array([0.1, 1.0, 2.0, 0.01, jnp.nan]),
}
solution = jax.jit(jax.vmap(solve))(planets)
gradient = jax.jit(jax.vmap(jax.grad(lambda a: solve(a).value)))(planets)

E, e = solution.value, planets["e"]
error = jnp.abs(gradient["M"] * (1 - e * jnp.cos(E)) - 1)
print("    e        E      dE/dM   correct")
for row in zip(e, E, gradient["M"], error < 1e-12, strict=True):
    print("{:.4f} {:8.5f} {:9.5f}   {}".format(*row))
print(repr(solution).splitlines()[0])
