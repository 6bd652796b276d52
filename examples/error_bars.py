"""An error bar on a gradient: predicted against true, as the iterations go on.

The solution of `z = tanh(W z + x)` is approached by plain iteration, written here by
hand: `ix.certify` needs the equation and a value, not the solver that found it.

Usage: `python examples/error_bars.py [--picture error_bars.png]`.
"""

import argparse

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

rows = []
z = jnp.zeros(n)
for k in range(1, 13):
    z = problem.fn(z, args)
    c = certify(z, args)
    true = distance(c.gradient, exact)
    corrected = distance(c.corrected_gradient, exact)
    rows.append((k, true, float(c.relative_gradient_error), corrected))

print(" k   true error   predicted   error of the corrected gradient")
for k, true, predicted, corrected in rows[2::3]:
    print(f"{k:2}   {true:10.2e}   {predicted:9.2e}   {corrected:.1e}")

parser = argparse.ArgumentParser()
parser.add_argument("--picture")
picture = parser.parse_args().picture
if picture is not None:
    import matplotlib.pyplot as plt

    k, true, predicted, corrected = map(list, zip(*rows, strict=True))
    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    axes.semilogy(k, true, color="C3", label="true error of the gradient")
    axes.semilogy(k, predicted, "o", color="C3", mfc="none", label="the error bar")
    axes.semilogy(k, corrected, color="C0", label="error of the corrected gradient")
    axes.set(xlabel="iterations when it was stopped", ylabel="relative error")
    axes.legend()
    figure.savefig(picture, dpi=100)
