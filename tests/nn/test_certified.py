"""An optimiser that heeds certificates: it leaves out, corrects, tells, tightens."""

import jax
import jax.numpy as jnp
import optax
import pytest

import implicax as ix

from ..oracles import relative_error

PROBLEM = ix.FixedPoint(lambda z, w: jnp.tanh(w["w"] * z + w["b"]))
W = {"w": jnp.asarray(0.5), "b": jnp.asarray(1.0)}
EXACT = ix.fixed_point(PROBLEM.fn, 0.0, W).value


def loss(z, w):
    return (z - 0.6) ** 2 + 0.1 * w["w"]


def certificate(z):
    return ix.certify(loss, PROBLEM, z, W)


#: By error bar: small, not small, and where Newton's correction leads nowhere.
GOOD, ROUGH = certificate(EXACT + 1e-6), certificate(EXACT + 0.05)
#: (Of a value that is NaN inside a transformation.)
WRONG = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), GOOD)


def update(policy, certificate, gradient=None):
    optimiser = ix.nn.certified(optax.sgd(0.1, momentum=0.9), policy)
    gradient = certificate.gradient if gradient is None else gradient
    state = optimiser.init(W)
    with jax.numpy_dtype_promotion("standard"):
        return jax.jit(optimiser.update)(gradient, state, W, certificate=certificate)


def trace(state):
    return jax.tree.leaves(state.inner)


def test_the_certificates_are_what_they_should_be():
    assert GOOD.ok
    assert not ROUGH.ok
    assert ROUGH.checks["Newton"]
    assert not WRONG.ok


@pytest.mark.parametrize("policy", ["skip", "correct", "warn"])
def test_a_good_gradient_is_taken(policy):
    came, state = update(policy, GOOD)
    wanted = jax.tree.map(lambda g: -0.1 * g, GOOD.gradient)
    assert relative_error(came, wanted) <= 1e-5
    assert state.ok
    assert state.skipped == 0
    assert relative_error(state.rtol, 1e-4) <= 1e-6
    assert 0 < state.relative_gradient_error < 1e-4
    assert 0 < state.spectral_radius < 1


@pytest.mark.parametrize("bad", [ROUGH, WRONG], ids=["rough", "NaN"])
def test_skip_leaves_all_as_it_is(bad):
    came, state = update("skip", bad)
    assert all(leaf == 0 for leaf in jax.tree.leaves(came))
    assert all(leaf == 0 for leaf in trace(state))
    assert not state.ok
    assert state.skipped == 1
    assert relative_error(state.rtol, 1e-5) <= 1e-6


def test_correct_takes_the_error_off():
    """A rough gradient becomes one of second order, and one without hope is skipped."""
    came, state = update("correct", ROUGH)
    exact = jax.tree.map(lambda g: -0.1 * g, certificate(EXACT).gradient)
    plain = jax.tree.map(lambda g: -0.1 * g, ROUGH.gradient)
    assert relative_error(came, exact) < 0.1 * relative_error(plain, exact)
    assert state.skipped == 0
    came, state = update("correct", WRONG)
    assert all(leaf == 0 for leaf in jax.tree.leaves(came))
    assert state.skipped == 1


def test_warn_says_so_and_steps(capfd):
    came, state = update("warn", ROUGH)
    jax.effects_barrier()
    assert "the certificate is not ok, relative error" in capfd.readouterr().out
    assert all(leaf != 0 for leaf in jax.tree.leaves(came))
    assert state.skipped == 0
    update("warn", GOOD)
    jax.effects_barrier()
    assert not capfd.readouterr().out


def test_a_batch_is_as_good_as_its_worst():
    values = EXACT + jnp.asarray([0.0, 1e-7, 0.05])
    batch = jax.vmap(certificate)(values)
    _, state = update("skip", batch, W)
    assert not state.ok
    assert relative_error(
        state.relative_gradient_error, ROUGH.relative_gradient_error
    ) <= 1e-6  # fmt: skip
    _, state = update("skip", jax.vmap(certificate)(values[:2]), W)
    assert state.ok


def test_tolerances_have_a_floor():
    optimiser = ix.nn.certified(optax.sgd(0.1))
    state = optimiser.init(W)
    for _ in range(30):
        _, state = optimiser.update(W, state, W, certificate=ROUGH)
    assert 1e-15 < state.rtol < 1e-13
    assert state.skipped == 30


MISTAKES = {
    "policy": (lambda: update("stop", GOOD), ValueError, "policy must be 'skip'"),
    "rtol": (
        lambda: ix.nn.certified(optax.sgd(0.1), rtol=-1.0),
        ValueError,
        "rtol",
    ),
    "none": (
        lambda: ix.nn.certified(optax.sgd(0.1)).update(W, None, W),
        TypeError,
        "takes the certificate of the gradient",
    ),
    "batch": (
        lambda: update("correct", jax.vmap(certificate)(jnp.full(2, EXACT)), W),
        TypeError,
        "takes one certificate",
    ),
    "structure": (
        lambda: update("correct", GOOD, {"w": W["w"]}),
        TypeError,
        "whose args are the parameters",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name):
    do, error, words = MISTAKES[name]
    with pytest.raises(error, match=words):
        do()
