"""A fixed point as a layer: it trains in Equinox and in Flax NNX, certified on the way.

The task is two moons. The layer is `z = tanh(W z + u)` with `|W| < 1`, so that a fixed
point exists and is one. In Equinox each sample is a system of its own, under `vmap`; in
NNX the batch is one system of 1024 unknowns.
"""

import gc
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import implicax as ix

from ..oracles import relative_error

SAMPLES, WIDTH, STEPS = 64, 16, 100
CERTIFIED = (0, 30, 60, 99)
OPTIMISER = optax.adam(2e-2)


def two_moons():
    """Points on two interleaved half circles, with noise, and which of the two."""
    rng = np.random.default_rng(0)
    angle, label = np.pi * rng.uniform(size=SAMPLES), np.arange(SAMPLES) % 2
    side = 1 - 2 * label
    points = np.stack([label + side * np.cos(angle), side * np.sin(angle)], axis=-1)
    points[:, 1] += label / 2
    points += 0.1 * rng.normal(size=points.shape)
    return jnp.asarray(points), jnp.asarray(label, dtype=float)


POINTS, LABELS = two_moons()


def entropy(logits):
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, LABELS))


def bounded(W):
    """`W`, scaled down where its norm is above 0.9: `tanh(W z + u)` contracts."""
    return W * (0.9 / jnp.maximum(jnp.linalg.norm(W), 0.9))


class Layer(eqx.Module):
    """Made once in each framework's own words; this is Equinox'."""

    lift: eqx.nn.Linear
    mix: eqx.nn.Linear
    read: eqx.nn.Linear

    def __init__(self, key):
        lift, mix, read = jax.random.split(key, 3)
        self.lift = eqx.nn.Linear(2, WIDTH, key=lift)
        self.mix = eqx.nn.Linear(WIDTH, WIDTH, use_bias=False, key=mix)
        self.read = eqx.nn.Linear(WIDTH, "scalar", key=read)

    def cell(self, z, point):
        return jnp.tanh(bounded(self.mix.weight) @ z + self.lift(point))

    def equilibrium(self, point, max_steps):
        solution = ix.fixed_point(
            self.cell, jnp.zeros(WIDTH), point, max_steps=max_steps
        )
        return solution.value


class NnxLayer(nnx.Module):
    """The same in Flax NNX."""

    def __init__(self, rngs):
        options = {"param_dtype": jnp.float64, "rngs": rngs}
        self.lift = nnx.Linear(2, WIDTH, **options)
        self.mix = nnx.Linear(WIDTH, WIDTH, use_bias=False, **options)
        self.read = nnx.Linear(WIDTH, 1, **options)

    def cell(self, z, points):
        return jnp.tanh(z @ bounded(self.mix.kernel[...]) + self.lift(points))

    def equilibrium(self, points, max_steps):
        z0 = jnp.zeros((SAMPLES, WIDTH))
        return ix.fixed_point(self.cell, z0, points, max_steps=max_steps).value


class Net(NamedTuple):
    """A network as functions of its parameters, a pytree of arrays."""

    params: object
    cell: object
    """The map of the whole batch, `(z, params) -> z`."""
    equilibrium: object
    """Its fixed point, `(params, max_steps) -> z`."""
    loss: object
    """`(z, params) -> loss`."""


def equinox_net():
    params, static = eqx.partition(Layer(jax.random.key(0)), eqx.is_array)

    def net(params):
        return eqx.combine(params, static)

    return Net(
        params,
        lambda z, params: jax.vmap(net(params).cell)(z, POINTS),
        lambda params, steps: jax.vmap(lambda x: net(params).equilibrium(x, steps))(
            POINTS
        ),
        lambda z, params: entropy(jax.vmap(net(params).read)(z)),
    )


def nnx_net():
    definition, params = nnx.split(NnxLayer(nnx.Rngs(0)), nnx.Param)

    def net(params):
        return nnx.merge(definition, params)

    return Net(
        params,
        lambda z, params: net(params).cell(z, POINTS),
        lambda params, steps: net(params).equilibrium(POINTS, steps),
        lambda z, params: entropy(net(params).read(z)[:, 0]),
    )


def train_step(net, max_steps=256):
    def loss(params):
        z = net.equilibrium(params, max_steps)
        return net.loss(z, params), z

    def step(params, memory):
        (value, z), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        # Adam multiplies its own integers and floats.
        with jax.numpy_dtype_promotion("standard"):
            updates, memory = OPTIMISER.update(gradient, memory, params)
        return optax.apply_updates(params, updates), memory, value, gradient, z

    return step


NETS = {"equinox": equinox_net, "nnx": nnx_net}


@pytest.mark.parametrize("name", NETS)
def test_it_trains_certified_in_constant_memory(name):
    net = NETS[name]()
    problem = ix.FixedPoint(net.cell)
    step = jax.jit(train_step(net))
    certify = jax.jit(lambda z, params: ix.certify(net.loss, problem, z, params))
    params, memory = net.params, OPTIMISER.init(net.params)
    losses, alive = [], []
    gc.collect()
    for k in range(STEPS):
        before = params
        params, memory, value, gradient, z = step(params, memory)
        losses.append(float(value))
        if k in CERTIFIED:
            certificate = certify(z, before)
            assert certificate.ok, certificate
            assert certificate.relative_gradient_error < 1e-8
            assert certificate.spectral_radius < 0.95
            assert relative_error(gradient, certificate.gradient) < 1e-8
        del before, gradient, z
        alive.append(sum(array.nbytes for array in jax.live_arrays()))
    assert losses[-1] < 0.2 * losses[0], losses[::10]
    assert max(alive) == alive[0], alive


@pytest.mark.parametrize("name", NETS)
def test_memory_does_not_depend_on_the_number_of_iterations(name):
    net = NETS[name]()
    memory = OPTIMISER.init(net.params)

    def temporary(max_steps):
        step = jax.jit(train_step(net, max_steps))
        program = step.lower(net.params, memory).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert 0 < temporary(10) == temporary(1000)


class Stateful(nnx.Module):
    """Batch statistics and dropout, both of which change as they are called."""

    def __init__(self, rngs):
        self.mix = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.norm = nnx.BatchNorm(WIDTH, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, z, x):
        return jnp.tanh(0.1 * self.drop(self.norm(self.mix(z))) + x)


def test_a_cell_with_a_state_is_split_and_merged():
    x = jnp.linspace(-1, 1, 4 * WIDTH, dtype="float32").reshape(4, WIDTH)
    layer = Stateful(nnx.Rngs(0))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        with pytest.raises(TypeError, match=r"pure function.*nnx\.split.*nnx\.merge"):
            ix.fixed_point(layer, jnp.zeros_like(x), x)
        graph, state = nnx.split(layer)

        def cell(z, args):
            state, x = args
            return nnx.merge(graph, state)(z, x)  # the same mask at each step

        z = ix.fixed_point(cell, jnp.zeros_like(x), (state, x)).value
        np.testing.assert_allclose(jax.jit(cell)(z, (state, x)), z, atol=1e-4)
        before = layer.norm.mean[...]
        np.testing.assert_allclose(layer(z, x), z, atol=1e-4)  # its state moves
    assert not jnp.allclose(layer.norm.mean[...], before)


class Compact(linen.Module):
    """Linen makes parameters as it is called: outside the cell, then."""

    @linen.compact
    def __call__(self, x):
        dense = linen.Dense(WIDTH, param_dtype=jnp.float64, parent=None)
        params = self.param("cell", dense.init, x)

        def cell(z, args):
            params, x = args
            return jnp.tanh(0.1 * dense.apply(params, z) + x)

        return ix.fixed_point(cell, jnp.zeros_like(x), (params, x)).value


def test_a_linen_cell_is_applied_to_parameters_made_outside():
    x = jnp.linspace(-1.0, 1.0, 4 * WIDTH).reshape(4, WIDTH)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        params = Compact().init(jax.random.key(0), x)
        z = Compact().apply(params, x)
        kernel = params["params"]["cell"]["params"]["kernel"]
    np.testing.assert_allclose(jnp.tanh(0.1 * (z @ kernel) + x), z, atol=1e-10)
