"""A fixed-point layer in an Equinox network, trained with optax, certified on the way.

The layer's output is the fixed point of `z = tanh(W z + u)`. Keeping the norm of `W`
below one keeps it unique, and the certificate's spectral radius shows how close to the
edge training has gone. The number of iterations costs no memory in the reverse pass.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import implicax as ix

jax.config.update("jax_enable_x64", True)


class Equilibrium(eqx.Module):
    """Two numbers in, one logit out; a fixed point in between."""

    lift: eqx.nn.Linear
    mix: eqx.nn.Linear
    read: eqx.nn.Linear

    def __init__(self, width, key):
        lift, mix, read = jax.random.split(key, 3)
        self.lift = eqx.nn.Linear(2, width, key=lift)
        self.mix = eqx.nn.Linear(width, width, use_bias=False, key=mix)
        self.read = eqx.nn.Linear(width, "scalar", key=read)

    def cell(self, z, x):
        """One application of the layer."""
        W = self.mix.weight
        W = W * (0.9 / jnp.maximum(jnp.linalg.norm(W), 0.9))
        return jnp.tanh(W @ z + self.lift(x))

    def solve(self, x):
        """The layer applied infinitely often."""
        return ix.fixed_point(self.cell, jnp.zeros_like(self.lift.bias), x).value


def two_moons(samples):
    """Points on two interleaved half circles, with noise, and which of the two."""
    rng = np.random.default_rng(0)
    angle, label = np.pi * rng.uniform(size=samples), np.arange(samples) % 2
    side = 1 - 2 * label
    x = np.stack([label + side * np.cos(angle), side * np.sin(angle) + label / 2], 1)
    return jnp.asarray(x + 0.1 * rng.normal(size=x.shape)), jnp.asarray(label, float)


points, labels = two_moons(64)
params, static = eqx.partition(Equilibrium(16, jax.random.key(0)), eqx.is_array)


def loss(z, params):
    """The cross entropy, given the fixed points of all samples."""
    logits = jax.vmap(eqx.combine(params, static).read)(z)
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, labels))


def solve_all(params):
    """Each sample is a system of its own."""
    return jax.vmap(eqx.combine(params, static).solve)(points)


problem = ix.FixedPoint(
    lambda z, params: jax.vmap(eqx.combine(params, static).cell)(z, points)
)
optimiser = optax.adam(2e-2)


@jax.jit
def step(params, memory):
    """One step of training: new parameters, and the loss and solution before it."""

    def of(params):
        z = solve_all(params)
        return loss(z, params), z

    (value, z), gradient = jax.value_and_grad(of, has_aux=True)(params)
    updates, memory = optimiser.update(gradient, memory)
    return optax.apply_updates(params, updates), memory, value, z


certify = jax.jit(lambda z, params: ix.certify(loss, problem, z, params))

print("step    loss   error bar of the gradient   spectral radius   ok")
memory = optimiser.init(params)
for k in range(101):
    before = params
    params, memory, value, z = step(params, memory)
    if k % 25 == 0:
        c = certify(z, before)
        print(f"{k:4}  {value:.4f}   {c.relative_gradient_error:25.0e}"
              f"   {c.spectral_radius:15.2f}   {c.ok}")  # fmt: skip
