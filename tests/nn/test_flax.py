"""An equilibrium layer in Flax NNX: its state is frozen in the solve, and moves on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import implicax as ix

from ..oracles import relative_error
from ..subprocesses import printed_without

WIDTH = 4
X = jnp.asarray(np.random.default_rng(0).normal(size=(6, WIDTH)), "float32")


@pytest.fixture(autouse=True)
def _promotion():
    """Flax' own layers mix dtypes and ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


class Plain(nnx.Module):
    def __init__(self, rngs, dtype=jnp.float32):
        self.mix = nnx.Linear(WIDTH, WIDTH, param_dtype=dtype, rngs=rngs)

    def __call__(self, z, x):
        return jnp.tanh(0.3 * self.mix(z) + x)


class Stateful(nnx.Module):
    def __init__(self, rngs):
        self.mix = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.norm = nnx.BatchNorm(WIDTH, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, z, x):
        return jnp.tanh(0.1 * self.drop(self.norm(self.mix(z))) + x)


def test_value_and_gradient():
    x = X.astype("float64")
    cell = Plain(nnx.Rngs(0), jnp.float64)
    layer = ix.nn.flax.DEQ(cell)

    def loss(layer):
        return jnp.sum(jnp.sin(layer(x)))

    value, gradient = nnx.jit(nnx.value_and_grad(loss))(layer)
    kernel, bias = cell.mix.kernel[...], cell.mix.bias[...]

    def right(kernel, bias):
        z = jnp.zeros_like(x)
        for _ in range(100):
            z = jnp.tanh(0.3 * (z @ kernel + bias) + x)
        return jnp.sum(jnp.sin(z))

    wanted, (by_kernel, by_bias) = jax.value_and_grad(right, (0, 1))(kernel, bias)
    assert relative_error(value, wanted) <= 1e-9
    found = gradient["cell"]["mix"]
    assert relative_error(found["kernel"][...], by_kernel) <= 1e-8
    assert relative_error(found["bias"][...], by_bias) <= 1e-8


def test_state_is_frozen_in_the_solve_and_follows():
    layer = ix.nn.flax.DEQ(Stateful(nnx.Rngs(0)))
    graph, state = nnx.split(layer.cell)
    before = jax.tree.map(jnp.copy, state)
    z = layer(X)
    frozen = nnx.merge(graph, before)(z, X)
    assert relative_error(frozen, z) <= 1e-4
    again = layer(X)  # another mask, other statistics
    assert relative_error(again, z) > 1e-3
    moved = nnx.state(layer.cell, nnx.BatchStat)
    assert jnp.all(moved["norm"]["mean"][...] != before["norm"]["mean"][...])
    layer.eval()
    assert relative_error(layer(X), layer(X)) == 0


def test_it_trains():
    """`nnx.jit`, an `nnx.Optimizer`, dropout and batch statistics."""
    layer = ix.nn.flax.DEQ(Stateful(nnx.Rngs(0)), solver=ix.Anderson(rtol=1e-4))
    optimizer = nnx.Optimizer(layer, optax.adam(3e-2), wrt=nnx.Param)
    wanted = jnp.tanh(0.5 + X)

    @nnx.jit
    def step(layer, optimizer):
        def loss(layer):
            return jnp.mean((layer(X) - wanted) ** 2)

        value, gradient = nnx.value_and_grad(loss)(layer)
        optimizer.update(layer, gradient)
        return value

    values = [float(step(layer, optimizer)) for _ in range(80)]
    assert np.mean(values[-5:]) < 0.7 * np.mean(values[:5])


def test_layers_in_a_scan():
    """Three layers with parameters of their own, scanned over."""

    @nnx.vmap(in_axes=0, out_axes=0)
    def make(key):
        return ix.nn.flax.DEQ(Plain(nnx.Rngs(key)))

    layers = make(jax.random.split(jax.random.key(0), 3))

    @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
    def through(layer, z):
        return layer(z)

    came = through(layers, X)
    z = X
    graph, state = nnx.split(layers)
    for k in range(3):
        one = nnx.merge(graph, jax.tree.map(lambda leaf, k=k: leaf[k], state))
        z = one(z)
    assert relative_error(came, z) <= 1e-4


def test_mistakes():
    with pytest.raises(TypeError, match=r"flax.nnx.*ix\.nn\.DEQ"):
        ix.nn.flax.DEQ(lambda z, x: z)


def test_without_flax():
    code = """
        import implicax as ix
        try:
            ix.nn.flax
        except ImportError as error:
            print(error)
    """
    (line,) = printed_without(("flax",), code)
    assert "pip install 'implicax[flax]'" in line
