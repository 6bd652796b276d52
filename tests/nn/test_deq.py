"""An equilibrium layer: right derivatives, a verdict per sample, and nothing stored.

The oracle is the equation itself in dense linear algebra: `z` by Newton steps, and
`dz = (I - J)^-1 (d cell)`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import implicax as ix

from ..oracles import relative_error

WIDTH, LANES = 5, 3


class Cell(eqx.Module):
    """A state of two leaves, with dropout where a key comes."""

    mix: eqx.nn.Linear
    drop: eqx.nn.Dropout
    slope: jax.Array

    def __init__(self, key, dtype="float64"):
        self.mix = eqx.nn.Linear(WIDTH, WIDTH, key=key, dtype=jnp.dtype(dtype))
        self.drop = eqx.nn.Dropout(0.4)
        self.slope = jnp.asarray(0.5, dtype)

    def __call__(self, z, x, *, key=None):
        weight = ix.nn.bounded(self.mix.weight, 0.8)
        mixed = weight @ self.drop(z["state"], key=key, inference=key is None)
        return {
            "state": jnp.tanh(mixed + self.mix.bias + x),
            "mean": self.slope * jnp.tanh(z["mean"]) + jnp.mean(z["state"]),
        }


def start(x):
    return {"state": jnp.zeros_like(x), "mean": jnp.zeros((), x.dtype)}


X = jnp.asarray(np.random.default_rng(0).normal(size=(LANES, WIDTH)))
CELL = Cell(jax.random.key(0))


def oracle(cell, x, key=None):
    """The equilibrium and its derivatives by Newton steps, all differentiated."""
    flat, unravel = jax.flatten_util.ravel_pytree(start(x))
    fn = lambda v: jax.flatten_util.ravel_pytree(cell(unravel(v), x, key=key))[0]

    def newton(v, _):
        J = jnp.eye(v.size, dtype=v.dtype) - jax.jacobian(fn)(v)
        return v - jnp.linalg.solve(J, v - fn(v)), None

    return unravel(jax.lax.scan(newton, flat, None, length=12)[0])


def loss(solve):
    """Of the parameters and the inputs, through a batch."""

    def of(cell, x):
        z = jax.vmap(lambda x: solve(cell, x))(x)
        return jnp.sum(jnp.sin(z["state"])) + jnp.sum(z["mean"] ** 2)

    return of


def layer(cell, **options):
    return ix.nn.DEQ(cell, start, **options)


def flat(tree):
    return jax.flatten_util.ravel_pytree(eqx.filter(tree, eqx.is_inexact_array))[0]


SOLVERS = {"default": None, "Newton": ix.Newton(), "Picard": ix.Picard()}


@pytest.mark.parametrize("name", SOLVERS)
def test_value_gradient_and_second_order(name):
    ours = loss(lambda cell, x: layer(cell, solver=SOLVERS[name])(x))
    wanted = loss(oracle)
    params, static = eqx.partition(CELL, eqx.is_inexact_array)
    direction = jax.tree.map(lambda leaf: jnp.cos(leaf + 1.0), params)

    def program(of, params, x):
        of_params = lambda params: of(eqx.combine(params, static), x)
        gradient = jax.value_and_grad(of_params)
        (value, first), (slope, second) = jax.jvp(gradient, (params,), (direction,))
        return value, flat(first), slope, flat(second), jax.grad(of, 1)(CELL, x)

    run = jax.jit(program, static_argnums=0)
    for came, right in zip(run(ours, params, X), run(wanted, params, X), strict=True):
        assert relative_error(came, right) <= 1e-8


def test_a_start_changes_the_steps_and_not_the_result():
    ready = layer(CELL)
    z = ready(X[0])
    again = ready.solve(X[0], z)
    assert int(again.stats.steps) < int(ready.solve(X[0]).stats.steps)
    assert relative_error(again.value, z) <= 1e-9
    slope = jax.grad(lambda z0: ready(X[0], z0)["mean"])(z)
    assert all(jnp.all(leaf == 0) for leaf in jax.tree.leaves(slope))


def test_a_key_is_one_mask_for_the_whole_solve():
    keys = jax.random.split(jax.random.key(1), LANES)
    z = jax.vmap(lambda x, key: layer(CELL)(x, key=key))(X, keys)
    right = jax.vmap(lambda x, key: oracle(CELL, x, key))(X, keys)
    assert relative_error(z, right) <= 1e-9
    without = jax.vmap(layer(CELL))(X)
    assert relative_error(z, without) > 1e-3


def test_each_lane_has_its_own_verdict():
    """One without an equilibrium: NaN there, in value and derivative, and nowhere else;
    a best effort and the status with `on_failure="ignore"`."""

    def cell(z, x):
        return jnp.where(x > 1, z + x, 0.5 * jnp.tanh(z) + x)

    x = jnp.asarray([0.1, 2.0, -0.3])
    run = jax.vmap(ix.nn.DEQ(cell).solve)
    found = run(x)
    assert found.converged.tolist() == [True, False, True]
    assert jnp.isnan(found.value).tolist() == [False, True, False]
    slope = jax.vmap(jax.grad(ix.nn.DEQ(cell)))(x)
    assert jnp.isnan(slope).tolist() == [False, True, False]
    ignored = jax.vmap(ix.nn.DEQ(cell, on_failure="ignore").solve)(x)
    assert ignored.converged.tolist() == [True, False, True]
    assert jnp.all(jnp.isfinite(ignored.value))


APPROXIMATE = {
    "Phantom": ix.Phantom(60, 0.9),
    "Neumann": ix.Neumann(60),
    "Truncated": ix.Truncated(60),
    "Unrolled": ix.Unrolled(),
}


@pytest.mark.parametrize("name", APPROXIMATE)
def test_approximate_derivatives_come_near(name):
    """With many terms; one step alone is far off."""
    exact = flat(jax.grad(lambda x: layer(CELL)(x)["mean"])(X[0]))
    solver = ix.Picard()

    def slope(derivative):
        ready = layer(CELL, solver=solver, derivative=derivative)
        return jax.grad(lambda x: ready(x)["mean"])(X[0])

    assert relative_error(slope(APPROXIMATE[name]), exact) <= 1e-6
    assert relative_error(slope(ix.OneStep()), exact) > 1e-3


def test_states_on_the_way():
    """Each nearer to the equilibrium, and each with a gradient that is no zero."""
    ready = layer(CELL, solver=ix.Picard())
    states = ready.states(X[0], (1, 4, 16))
    z = ready(X[0])
    distances = [relative_error(state, z) for state in states]
    assert distances[0] > 2 * distances[1] > 4 * distances[2] > 0
    first = CELL(start(X[0]), X[0])
    assert relative_error(states[0], first) <= 1e-12
    slopes = jax.jacobian(lambda x: [s["mean"] for s in ready.states(x, (1, 4))])(X[0])
    assert all(jnp.all(jnp.abs(slope) > 0) for slope in slopes)
    for wrong in ((), (0, 1), (4, 2), (1.5, 3)):
        with pytest.raises(ValueError, match="positive whole numbers that rise"):
            ready.states(X[0], wrong)


@pytest.mark.parametrize(("dtype", "digits"), [("float32", 1e-4), ("bfloat16", 5e-2)])
def test_low_precision(dtype, digits):
    """It converges to the digits that the precision has, and the gradient has them."""
    cell, x = Cell(jax.random.key(0), dtype), X[0].astype(dtype)
    with jax.numpy_dtype_promotion("standard"):
        found = layer(cell).solve(x)
        slope = jax.grad(lambda x: jnp.sum(layer(cell)(x)["state"]))(x)
    assert found.status == ix.Status.converged
    up = lambda tree: jax.tree.map(
        lambda leaf: leaf.astype("float64") if eqx.is_inexact_array(leaf) else leaf,
        tree,
    )
    right = oracle(up(cell), up(x))
    assert relative_error(up(found.value), right) <= digits
    wanted = jax.grad(lambda x: jnp.sum(oracle(up(cell), x)["state"]))(up(x))
    assert relative_error(up(slope), wanted) <= 3 * digits


def test_it_trains():
    """With `eqx.filter_jit`, warm starts, and the batch's failures counted."""
    wanted = jnp.sum(jnp.sin(X), axis=1)
    optimiser = optax.adam(3e-2)

    def objective(cell, z0):
        found = jax.vmap(layer(cell, on_failure="ignore").solve)(X, z0)
        error = jnp.mean((found.value["mean"] - wanted) ** 2)
        return error, found

    @eqx.filter_jit
    def step(cell, memory, z0):
        of = eqx.filter_value_and_grad(objective, has_aux=True)
        (error, found), gradient = of(cell, z0)
        with jax.numpy_dtype_promotion("standard"):
            updates, memory = optimiser.update(gradient, memory)
        return eqx.apply_updates(cell, updates), memory, error, found

    cell, z0 = CELL, jax.vmap(start)(X)
    memory = optimiser.init(eqx.filter(cell, eqx.is_inexact_array))
    errors = []
    for _ in range(60):
        cell, memory, error, found = step(cell, memory, z0)
        assert jnp.all(found.converged)
        z0 = found.value
        errors.append(float(error))
    assert errors[-1] < 0.2 * errors[0]


MISTAKES = {
    "no function": (lambda: ix.nn.DEQ(3.0), TypeError, "cell must be a function"),
    "another shape": (
        lambda: ix.nn.DEQ(lambda z, x: z[:2])(X[0]),
        Exception,
        r"shape|structure",
    ),
    "integers": (
        lambda: ix.nn.DEQ(lambda z, x: z)(jnp.arange(3)),
        TypeError,
        "float",
    ),
    "no such option": (
        lambda: ix.nn.DEQ(lambda z, x: z, on_failure="stop")(X[0]),
        ValueError,
        "on_failure",
    ),
    "one argument": (
        lambda: ix.nn.DEQ(lambda z: z)(X[0]),
        TypeError,
        r"cell must take the state and the input, \(z, x\); this one takes \(z\)",
    ),
    "no key": (
        lambda: ix.nn.DEQ(lambda z, x: z)(X[0], key=jax.random.key(0)),
        TypeError,
        r"\(z, x, \*, key\), since a key was given",
    ),
    "no such name": (lambda: ix.nn.deep, AttributeError, "ix.nn has no 'deep'.*DEQ"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name):
    do, error, words = MISTAKES[name]
    with pytest.raises(error, match=words):
        do()
