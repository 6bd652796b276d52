"""Many unknowns, many systems, many orders of magnitude."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core as jex_core

import implicax as ix

from .. import large_worker
from ..cases import KINDS
from ..oracles import central, relative_error

# --- a million unknowns -------------------------------------------------------------


def largest_array(value):
    """The number of elements of the largest array in a jaxpr, sub-jaxprs included."""
    if isinstance(value, jex_core.ClosedJaxpr):
        value = value.jaxpr
    if isinstance(value, tuple | list):
        return max(map(largest_array, value), default=0)
    if not isinstance(value, jex_core.Jaxpr):
        return 0
    sizes = [0]
    for equation in value.eqns:
        sizes += [getattr(v.aval, "size", 0) for v in equation.outvars]
        sizes.append(largest_array(tuple(equation.params.values())))
    return max(sizes)


@pytest.mark.parametrize("kind", KINDS)
def test_no_array_grows_with_the_square_of_the_unknowns(kind):
    """The largest ones are histories and Krylov bases: a few dozen vectors."""
    n = large_worker.SIZE
    unknown = jax.ShapeDtypeStruct((n,), jnp.float64)
    jaxpr = jax.make_jaxpr(large_worker.value_and_gradient(kind))(unknown, unknown)
    assert n <= largest_array(jaxpr) <= 64 * n


def test_a_matrix_would_be_noticed():
    n = 100
    gradient = jax.grad(
        lambda a: jnp.sum(ix.root(lambda y, a: y**3 - a, jnp.ones(n), a).value)
    )
    assert largest_array(jax.make_jaxpr(gradient)(jnp.ones(n))) >= n * n


@pytest.mark.parametrize("kind", KINDS)
def test_a_million_unknowns_fit_in_four_gibibytes(kind):
    process = subprocess.run(
        [sys.executable, large_worker.__file__, kind],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout)
    assert found["peak"] <= 4 * 2**30
    assert found["residual"] <= 1e-9
    assert found["error"] <= 1e-9


# --- ten thousand small systems -----------------------------------------------------

LANES, SMALL = 10_000, 3


@pytest.fixture(scope="module")
def lanes():
    rng = np.random.default_rng(1)
    W = rng.normal(size=(LANES, SMALL, SMALL))
    W = 0.8 * W / np.linalg.norm(W, 2, axis=(1, 2))[:, None, None]
    return {"W": W, "x": rng.normal(size=(LANES, SMALL))}


def loss_of_a_lane(kind):
    def loss(a):
        def fn(y, a):
            mapped = jnp.tanh(a["W"] @ y + a["x"])
            return mapped if kind == "fixed_point" else y - mapped

        y = getattr(ix, kind)(fn, jnp.zeros(SMALL), a).value
        return jnp.sum(y**2) / 2, y

    return jax.value_and_grad(loss, has_aux=True)


def check_lanes(lanes, came):
    """Solutions by the residual; gradients by the closed form, in NumPy."""
    (_, y), gradient = jax.tree.map(np.asarray, came)
    slope = 1 - y**2
    residual = y - np.tanh(np.einsum("bij,bj->bi", lanes["W"], y) + lanes["x"])
    assert np.max(np.abs(residual)) <= 1e-10
    J = np.eye(SMALL) - slope[:, :, None] * lanes["W"]
    adjoint = np.linalg.solve(np.swapaxes(J, 1, 2), y[:, :, None])[:, :, 0]
    by_x = slope * adjoint
    expected = {"W": by_x[:, :, None] * y[:, None, :], "x": by_x}
    assert relative_error(gradient, expected) <= 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_lanes_at_once(lanes, kind):
    check_lanes(lanes, jax.jit(jax.vmap(loss_of_a_lane(kind)))(lanes))


@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_lanes_in_chunks(lanes, kind):
    """10,000 is not a multiple of the chunk: the last one is shorter."""
    chunked = lambda a: jax.lax.map(loss_of_a_lane(kind), a, batch_size=768)
    check_lanes(lanes, jax.jit(chunked)(lanes))


# --- Kepler's equation --------------------------------------------------------------


def test_many_of_kepler_s_equations():
    """`M = E - e sin E`, with `dE/dM = 1/(1 - e cos E)` and `dE/de = sin E dE/dM`."""
    n = 200_000
    rng = np.random.default_rng(2)
    e, M = rng.uniform(0, 0.97, n), rng.uniform(0, 2 * np.pi, n)

    def anomaly(e, M):
        kepler = lambda E, a: E - a[0] * jnp.sin(E) - a[1]
        return ix.root(kepler, jnp.asarray(jnp.pi), (e, M)).value

    program = jax.jit(jax.vmap(jax.value_and_grad(anomaly, argnums=(0, 1))))
    E, (by_e, by_M) = jax.tree.map(np.asarray, program(e, M))
    slope = 1 - e * np.cos(E)
    assert np.max(np.abs(E - e * np.sin(E) - M)) <= 1e-9
    assert np.max(np.abs(by_M * slope - 1)) <= 1e-12
    assert np.max(np.abs(by_e * slope - np.sin(E))) <= 1e-12


# --- a stiff chemical network -------------------------------------------------------

#: Robertson's three reactions (1966) in a stirred tank that exchanges its contents at
#: the rate `flow`: constants and concentrations spread over more than ten decades.
RATES = {"k1": 0.04, "k2": 3e7, "k3": 1e4, "flow": 1e-6, "feed": 1.0}
GUESS = {"A": 0.5, "B": 1e-6, "C": 0.5}


def production(y, k):
    """A -> B, B + B -> B + C, B + C -> A + C; A flows in, all flow out."""
    first = k["k1"] * y["A"]
    second = k["k2"] * y["B"] ** 2
    third = k["k3"] * y["B"] * y["C"]
    return {
        "A": k["flow"] * (k["feed"] - y["A"]) - first + third,
        "B": first - second - third - k["flow"] * y["B"],
        "C": second - k["flow"] * y["C"],
    }


def production_of_logarithms(u, k):
    return production(jax.tree.map(jnp.exp, u), k)


def steady_state(k):
    """The logarithms of the concentrations."""
    start = jax.tree.map(jnp.log, jax.tree.map(jnp.asarray, GUESS))
    return ix.root(production_of_logarithms, start, k).value


KEYS = list(RATES)


@pytest.fixture(scope="module")
def rates():
    return jax.tree.map(jnp.asarray, RATES)


def test_sensitivities_of_a_stiff_network(rates):
    """`d log y / d log k`: of all concentrations with respect to all constants."""

    def logarithms(t):
        k = {key: rates[key] * jnp.exp(t[i]) for i, key in enumerate(KEYS)}
        return jnp.stack(list(steady_state(k).values()))

    zero = jnp.zeros(len(KEYS))
    forward = jax.jit(jax.jacfwd(logarithms))(zero)
    reverse = jax.jit(jax.jacrev(logarithms))(zero)
    differences = central(jax.jit(logarithms), np.zeros(len(KEYS)), 1e-3)
    assert relative_error(forward, differences) <= 1e-8
    assert relative_error(reverse, differences) <= 1e-8


def test_a_stiff_network_conserves_what_flows_in(rates):
    y = jax.tree.map(jnp.exp, steady_state(rates))
    assert abs(float(y["A"] + y["B"] + y["C"]) / RATES["feed"] - 1) <= 1e-10
    assert 1e-7 < float(y["B"]) < 1e-6


def test_the_certificate_of_a_stiff_network(rates):
    """In logarithms it is in order: every unknown is then of order one."""
    name = "B"
    problem = ix.Root(production_of_logarithms)
    certificate = ix.certify(
        lambda u, k: jnp.exp(u[name]), problem, steady_state(rates), rates
    )
    assert bool(certificate.ok), certificate
    gradient = jax.grad(lambda k: jnp.exp(steady_state(k)[name]))(rates)
    assert relative_error(certificate.gradient, gradient) <= 1e-8


def test_concentrations_as_they_are_get_the_same_derivative(rates):
    """Elimination scales its equations, so nine orders of magnitude do no harm. The
    condition number does see them, and the certificate says what to do."""
    start = jax.tree.map(jnp.asarray, GUESS)
    solve = lambda k: ix.root(production, start, k).value
    plain = jax.jacrev(solve)(rates)
    scaled = jax.jacrev(lambda k: jax.tree.map(jnp.exp, steady_state(k)))(rates)
    for name in GUESS:
        assert relative_error(plain[name], scaled[name]) <= 1e-7

    certificate = ix.certify(
        lambda y, k: y["C"], ix.Root(production), solve(rates), rates
    )
    assert float(certificate.condition_number) > 1e9
    assert "scale the equations" in repr(certificate)
