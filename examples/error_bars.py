"""An error bar on a gradient: predicted against true, as the iterations go on.

The solution of `z = tanh(W z + x)` is approached by plain iteration, written here by
hand: `ix.certify` needs the equation and a value, not the solver that found it.
"""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

import implicax as ix

jax.config.update("jax_enable_x64", True)

n = 30
args = {
    "W": 0.5 * jax.random.normal(jax.random.key(0), (n, n)) / jnp.sqrt(n),
    "x": jax.random.normal(jax.random.key(1), (n,)),
}
problem = ix.FixedPoint(lambda z, a: jnp.tanh(a["W"] @ z + a["x"]))


def loss(z, a):
    """What is differentiated: any real function of the solution."""
    return jnp.sum(z**2)


def solved(a):
    """The same loss at the converged solution."""
    solver = ix.Newton(rtol=1e-14)
    return loss(ix.fixed_point(problem.fn, jnp.zeros(n), a, solver=solver).value, a)


def distance(gradient, reference):
    """The relative error over all of `W` and `x`."""
    flat, _ = ravel_pytree(gradient)
    reference, _ = ravel_pytree(reference)
    return jnp.linalg.norm(flat - reference) / jnp.linalg.norm(reference)


certify = jax.jit(lambda z, a: ix.certify(loss, problem, z, a))
exact = jax.grad(solved)(args)

print(" k   true error   predicted   error of the corrected gradient")
z = jnp.zeros(n)
for k in range(1, 13):
    z = problem.fn(z, args)
    if k % 3 == 0:
        c = certify(z, args)
        true = distance(c.gradient, exact)
        corrected = distance(c.corrected_gradient, exact)
        print(f"{k:2}   {true:10.2e}   {c.relative_gradient_error:9.2e}"
              f"   {corrected:.1e}")  # fmt: skip
