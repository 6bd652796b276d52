"""Entropic optimal transport: the derivative of a matching through Sinkhorn's loop.

Mass `a` at the points `x` is moved to mass `b` at the points `y`. The solver is the
classic loop, written by hand; `ix.custom_fixed_point` differentiates its answer by the
equation it solves. The potentials are free up to a constant. Left free, a linear solver
of minimum norm gives the derivative of whatever does not depend on that constant, and
NaN for what does; with the gauge fixed (here: centred) nothing is left to choose.
"""

import jax
import jax.numpy as jnp
import lineax as lx
from jax.scipy.special import logsumexp

import implicax as ix

jax.config.update("jax_enable_x64", True)

n, eps = 64, 0.01


def cost(x, y):
    """Squared distances."""
    return jnp.sum((x[:, None] - y[None, :]) ** 2, axis=-1)


def potential_g(f, p):
    """The dual potential that gives the columns of the plan their mass."""
    return eps * (jnp.log(p["b"]) - logsumexp((f[:, None] - p["C"]) / eps, axis=0))


def sweep(f, p):
    """Sinkhorn's iteration, on one potential: `f` is a fixed point, and `f + c`."""
    g = potential_g(f, p)
    return eps * (jnp.log(p["a"]) - logsumexp((g[None, :] - p["C"]) / eps, axis=1))


def centred(f, p):
    """The same with one fixed point."""
    f = sweep(f, p)
    return f - jnp.mean(f)


def sinkhorn(f, p):
    """Sweep until nothing moves."""

    def moves(carry):
        f, before, k = carry
        return (k < 5000) & (jnp.max(jnp.abs(f - before)) > 1e-13)

    def go(carry):
        f, _, k = carry
        return centred(f, p), f, k + 1

    return jax.lax.while_loop(moves, go, (centred(f, p), f, 0))[0]


fixed = ix.custom_fixed_point(centred)(sinkhorn)
minimum_norm = ix.Implicit(linear_solver=lx.SVD(rcond=1e-8))
free = ix.custom_fixed_point(sweep, derivative=minimum_norm)(sinkhorn)


def transport_cost(f, p):
    """`<P, C>`: what moving the mass costs."""
    plan = jnp.exp((f[:, None] + potential_g(f, p)[None, :] - p["C"]) / eps)
    return jnp.sum(plan * p["C"])


def first_potential(f, p):
    """Means nothing until the gauge is fixed."""
    del p
    return f[0]


def at(x, measure, solve):
    """The measure, as a function of where the mass is."""
    p = {"C": cost(x, y), "a": jnp.full(n, 1 / n), "b": jnp.full(n, 1 / n)}
    return measure(solve(jnp.zeros(n), p).value, p)


x, y = jax.random.uniform(jax.random.key(0), (2, n, 2))
direction = jax.random.normal(jax.random.key(1), x.shape)


def difference(measure, h=1e-5):
    """The derivative along the direction by central differences."""
    fn = jax.jit(lambda x: at(x, measure, fixed))
    near = fn(x + h * direction) - fn(x - h * direction)
    far = fn(x + 2 * h * direction) - fn(x - 2 * h * direction)
    return (8 * near - far) / (12 * h)


print("                             gradient   differences")
for measure in (transport_cost, first_potential):
    wanted = difference(measure)
    for gauge, solve in {"centred": fixed, "free": free}.items():
        gradient = jax.jit(jax.grad(at), static_argnums=(1, 2))(x, measure, solve)
        slope = jnp.vdot(gradient, direction)
        print(f"{measure.__name__:15} {gauge:7}   {slope:12.8f}"
              f"  {wanted:12.8f}")  # fmt: skip

p = {"C": cost(x, y), "a": jnp.full(n, 1 / n), "b": jnp.full(n, 1 / n)}
f = sinkhorn(jnp.zeros(n), p)
for name, equation in {"centred": centred, "free": sweep}.items():
    print(f"\nfirst_potential, {name}")
    print(ix.certify(first_potential, ix.FixedPoint(equation), f, p))
