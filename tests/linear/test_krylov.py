"""Krylov methods with their preconditioners, beside the sparse factorisation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg

import implicax as ix
from implicax._linear import sparse_lu
from implicax._linear.krylov import Krylov
from implicax._solvers.forcing import FACTOR, FIRST, MOST, Forcing

from ..asdex_here import needs_asdex

pytestmark = needs_asdex
M = 12
RATE = 1.0 + jnp.linspace(0.0, 1.0, M * M)


def convection(u, rate, wind=20.0):
    """Bratu's equation in a wind: not symmetric."""
    field = jnp.pad(u.reshape(M, M), 1)
    left, right = field[1:-1, :-2], field[1:-1, 2:]
    around = left + right + field[:-2, 1:-1] + field[2:, 1:-1]
    blown = wind / (M + 1) * (right - left) / 2
    heat = rate * jnp.exp(u) / (M + 1) ** 2
    return (4 * field[1:-1, 1:-1] - around + blown).ravel() - heat


def laplacian():
    line = scipy.sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(M, M))
    one = scipy.sparse.eye_array(M)
    return (scipy.sparse.kron(line, one) + scipy.sparse.kron(one, line)).tocsc()


class Exact:
    """An approximate inverse of the user's: of a matrix near by."""

    def __init__(self):
        self.inverse = jnp.linalg.inv(jnp.asarray(laplacian().toarray()))

    def solve(self, b, transposed):
        inverse = self.inverse.T if transposed else self.inverse
        return (inverse @ b[0],)


def sweep(r):
    """Four damped sweeps of Jacobi's method for the Laplacian: a linear function."""
    field = jnp.zeros((M, M), r.dtype)
    for _ in range(4):
        full = jnp.pad(field, 1)
        around = full[2:, 1:-1] + full[:-2, 1:-1] + full[1:-1, 2:] + full[1:-1, :-2]
        field = field + 0.2 * (r.reshape(M, M) - 4 * field + around)
    return field.ravel()


def host_operator():
    factor = scipy.sparse.linalg.splu(laplacian())
    return scipy.sparse.linalg.LinearOperator(
        (M * M, M * M), factor.solve, rmatvec=lambda r: factor.solve(r, "T")
    )


PRECONDITIONERS = {
    "none": None,
    "jacobi": "jacobi",
    "ilu": "ilu",
    "a matrix near by": laplacian(),
    "a function": sweep,
    "on the host": host_operator(),
    "the user's": Exact(),
}


def solve(rate, method=None, **options):
    solver = None if method is None else ix.Newton(method)
    options = {"sparsity": "auto", **options}
    return ix.root(convection, jnp.zeros(M * M), rate, solver=solver, **options)


def everything(method, rate):
    """The value, a gradient, a tangent, a second derivative, and two columns."""

    def loss(rate):
        return jnp.sum(solve(rate, method).value ** 2)

    def some(rate):
        return solve(rate, method).value[jnp.array([0, M])]

    wave = jnp.cos(jnp.arange(M * M, dtype=float))
    gradient, second = jax.jvp(jax.grad(loss), (rate,), (wave,))
    _, tangent = jax.jvp(some, (rate,), (wave,))
    found = solve(rate, method)
    return found.value, gradient, second, tangent, jax.jacrev(some)(rate)


@functools.cache
def oracle():
    return jax.jit(functools.partial(everything, None))(RATE)


@pytest.mark.parametrize("name", PRECONDITIONERS)
def test_values_and_derivatives_are_those_of_the_factorisation(name):
    method = ix.Krylov(PRECONDITIONERS[name], restart=30)
    found = jax.jit(functools.partial(everything, method))(RATE)
    for ours, exact in zip(found, oracle(), strict=True):
        np.testing.assert_allclose(ours, exact, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["ilu", "on the host"])
def test_lanes_fail_each_by_itself(name):
    """The second rate is beyond the fold: there is no solution."""
    method = ix.Krylov(PRECONDITIONERS[name])
    rates = jnp.stack([RATE, 1e3 * RATE, 0.5 * RATE])

    def value(rate):
        found = solve(rate, method, on_failure="ignore")
        return jnp.sum(solve(rate, method).value), found.converged

    run = jax.jit(jax.vmap(jax.value_and_grad(value, has_aux=True)))
    (_, converged), gradient = run(rates)
    assert converged.tolist() == [True, False, True]
    assert np.isnan(gradient[1]).all()
    alone = jax.grad(lambda rate: jnp.sum(solve(rate).value))
    for lane in (0, 2):
        np.testing.assert_allclose(gradient[lane], alone(rates[lane]), rtol=1e-8)


@pytest.mark.parametrize("name", ["none", "jacobi", "ilu"])
@pytest.mark.parametrize("seed", range(2))
def test_units_of_equations_and_unknowns_do_not_matter(name, seed):
    """An equation in small units is not left to itself."""
    rng = np.random.default_rng(seed)
    rows = jnp.asarray(10.0 ** rng.uniform(-12, 12, M * M))
    columns = jnp.asarray(10.0 ** rng.uniform(-4, 4, M * M))

    def scaled(v, rate):
        return rows * convection(v * columns, rate)

    method = ix.Krylov(name if name != "none" else None, restart=60)
    found = ix.root(
        scaled,
        0.1 / columns,
        RATE,
        solver=ix.Newton(method),
        sparsity="auto",
        on_failure="ignore",
    )
    right = np.allclose(found.value * columns, solve(RATE).value, rtol=1e-6, atol=0)
    assert right or not found.converged
    assert right == (found.status.name == "converged") or name == "none"


def test_blocks_that_know_nothing_of_each_other_are_all_solved():
    """One is large and far from solved, the others are small: whoever looks at the
    residual as a whole sees the first alone."""
    size = jnp.array([1e9, 1.0, 1e-9])

    def blocks(y, a):
        return size * (y**3 + y - a)

    data = jnp.array([1e6, 1.0, 2.0])
    found = ix.root(blocks, jnp.zeros(3), data, solver=ix.Newton(ix.Krylov()))
    exact = ix.root(blocks, jnp.zeros(3), data).value
    np.testing.assert_allclose(found.value, exact, rtol=1e-10)


def test_many_unknowns_have_it_by_default():
    """Beyond 4096 unknowns, and without a pattern."""

    def chain(y, a):
        padded = jnp.pad(y, 1)
        return 3 * y - padded[2:] - padded[:-2] + y**3 - a

    a = jnp.sin(jnp.arange(5000.0))
    default = jax.jit(lambda a: ix.root(chain, jnp.zeros(5000), a).value)
    exact = ix.root(chain, jnp.zeros(5000), a, sparsity="auto").value
    np.testing.assert_allclose(default(a), exact, rtol=1e-8, atol=1e-12)
    bad = a.at[4321].set(jnp.nan)
    found = ix.root(chain, jnp.zeros(5000), bad, on_failure="ignore")
    assert not found.converged


def strip(u, load):
    """The energy of a neo-Hookean strip, clamped at one end and pulled at the other:
    symmetric, so that its middle line stays where it is."""
    m = u.shape[0]
    u = jnp.pad(u, ((1, 0), (0, 0), (0, 0)))
    along, across, energy = jnp.diff(u, axis=0), jnp.diff(u, axis=1), 0.0
    for i in (slice(None, -1), slice(1, None)):
        for j in (slice(None, -1), slice(1, None)):
            both = m * jnp.stack([along[:, j], across[i]], axis=-1)
            F = both + jnp.eye(2)[None, None]
            log = jnp.log(F[..., 0, 0] * F[..., 1, 1] - F[..., 0, 1] * F[..., 1, 0])
            squares = jnp.sum(F**2, axis=(-2, -1)) / 2 - 1
            energy = energy + jnp.sum(squares - log + log**2 / 2) / 4
    return energy / m**2 - load * jnp.sum(u[-1, :, 0]) / m


@pytest.mark.parametrize("name", ["none", "jacobi", "ilu", "factors"])
def test_what_vanishes_by_symmetry_and_cancels_inside_is_found(name):
    """Neither is a correction of such an unknown ever small, beside it, nor does the
    Jacobian show how large the rounding errors of a stress are."""
    m = 8
    balance, u0 = jax.grad(strip), jnp.zeros((m, m + 1, 2))
    if name == "factors":
        problem = ix.Root(balance, sparsity="auto")
        method = ix.Krylov(ix.factorise(problem, u0, 0.1))
    else:
        method = ix.Krylov(PRECONDITIONERS[name])

    def pulled(load, solver):
        return ix.root(balance, u0, load, solver=solver, sparsity="auto")

    found, exact = pulled(0.1, ix.Newton(method)), pulled(0.1, None)
    assert jnp.max(jnp.abs(found.value - exact.value)) < 1e-15
    assert jnp.max(jnp.abs(exact.value[:, m // 2, 1])) < 1e-15
    assert found.stats.steps <= 16
    # Of what is zero no digit is promised.
    assert not found.stats.error < 1e-10

    def work(load, solver):
        value = pulled(load, solver).value
        return jnp.sum(value[-1, :, 0])

    slopes = [float(jax.grad(work)(0.1, s)) for s in (ix.Newton(method), None)]
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-10)


def test_no_solution_is_not_converged():
    method = ix.Krylov("ilu")
    found = solve(1e3 * RATE, method, on_failure="ignore")
    assert not found.converged


def test_a_preconditioner_that_is_wrong_costs_only_time():
    """Its transpose is that of another matrix."""
    wrong = scipy.sparse.linalg.LinearOperator(
        (M * M, M * M), lambda r: r, rmatvec=lambda r: r[::-1].copy()
    )
    method = ix.Krylov(wrong, restart=60)
    gradient = jax.grad(lambda rate: jnp.sum(solve(rate, method).value ** 2))(RATE)
    exact = oracle()[1]
    assert np.isnan(gradient).all() or np.allclose(gradient, exact, rtol=1e-7)


def test_reverse_mode_asks_for_a_transpose():
    factor = scipy.sparse.linalg.splu(laplacian())
    one_way = scipy.sparse.linalg.LinearOperator((M * M, M * M), factor.solve)
    value = lambda rate: jnp.sum(solve(rate, ix.Krylov(one_way)).value)
    np.testing.assert_allclose(value(RATE), jnp.sum(oracle()[0]), rtol=1e-9)
    with pytest.raises(Exception, match="no rmatvec, and reverse mode"):
        jax.grad(value)(RATE)


def test_a_singular_preconditioner_is_no_answer():
    flat = lambda r: jnp.zeros_like(r)
    found = solve(RATE, ix.Krylov(flat), on_failure="ignore")
    assert found.status.name == "linear_solve_failed"
    assert np.isnan(
        jax.jit(lambda rate: solve(rate, ix.Krylov(flat)).value)(RATE)
    ).all()


def test_the_derivative_may_have_a_method_of_its_own():
    derivative = ix.Implicit(linear_solver=ix.Krylov("jacobi", restart=60))
    gradient = jax.grad(
        lambda rate: jnp.sum(solve(rate, derivative=derivative).value ** 2)
    )
    np.testing.assert_allclose(gradient(RATE), oracle()[1], rtol=1e-8)


def test_minima_take_conjugate_gradients():
    """The Hessian of an energy, with a preconditioner for its derivative."""

    def energy(u, load):
        padded = jnp.pad(u, 1)
        return jnp.sum(jnp.diff(padded) ** 2) / 2 + jnp.sum(u**4) / 4 - load @ u

    load, u0 = jnp.cos(jnp.arange(40.0)), jnp.zeros(40)

    def loss(load, method):
        derivative = ix.Implicit(linear_solver=method)
        found = ix.minimize(energy, u0, load, sparsity="auto", derivative=derivative)
        return jnp.sum(found.value**3)

    exact = jax.grad(loss)(load, "auto")
    for method in (ix.Krylov("jacobi"), ix.Krylov("ilu")):
        np.testing.assert_allclose(jax.grad(loss)(load, method), exact, rtol=1e-9)


def test_certificates_are_those_of_the_factorisation():
    problem = ix.Root(convection, sparsity="auto")
    rough = solve(RATE).value * (1 + 1e-4 * jnp.sin(jnp.arange(M * M, dtype=float)))

    def certificate(linear_solver):
        loss = lambda u, rate: jnp.sum(u**2)
        return ix.certify(loss, problem, rough, RATE, linear_solver=linear_solver)

    ours, exact = certificate(ix.Krylov("ilu")), certificate("auto")
    assert ours.ok
    for name in ("gradient_error", "condition_number", "relative_gradient_error"):
        np.testing.assert_allclose(getattr(ours, name), getattr(exact, name), rtol=1e-6)


def test_no_certificate_of_a_singular_system():
    """Which the steps do not notice."""

    def ring(y, a):
        padded = jnp.concatenate([y[-1:], y, y[:1]])
        return 2 * y - padded[2:] - padded[:-2] - (a - jnp.mean(a))

    a = jnp.cos(jnp.arange(40.0))
    solver = ix.Newton(ix.Krylov("ilu"))
    problem = ix.Root(ring, sparsity="auto")
    found = ix.solve(problem, jnp.ones(40), a, solver=solver, on_failure="ignore")
    certificate = ix.certify(
        lambda y, a: y[0], problem, found.value, a, linear_solver=ix.Krylov("ilu")
    )
    assert not certificate.ok
    derivative = jax.jit(
        jax.grad(lambda a: ix.solve(problem, jnp.ones(40), a, solver=solver).value[0])
    )
    assert np.isnan(derivative(a)).all()


@pytest.mark.parametrize("sparsity", ["auto", None])
def test_one_factorisation_serves_steps_in_time(sparsity, monkeypatch):
    """Forward and backward, through the scan."""

    def euler(u, both):
        return u - both[0] + 0.1 * convection(u, both[1])

    def end(rate, solver):
        def body(u, _):
            return ix.root(euler, u, (u, rate), solver=solver, sparsity="auto").value, u

        return jnp.sum(jax.lax.scan(body, jnp.zeros(M * M), None, length=8)[0] ** 2)

    exact = jax.jit(jax.value_and_grad(end))(RATE, ix.Newton())
    problem, zeros = ix.Root(euler, sparsity=sparsity), jnp.zeros(M * M)
    factors = ix.factorise(problem, zeros, (zeros, RATE))

    def none(*_):
        raise AssertionError("factorised once more")

    monkeypatch.setattr(sparse_lu._Host, "_factorise", none)
    found = jax.jit(jax.value_and_grad(end))(RATE, ix.Newton(ix.Krylov(factors)))
    for ours, wanted in zip(found, exact, strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-8, atol=1e-12)


def test_what_cannot_be_factorised():
    problem = ix.Root(lambda y, a: y - a)
    with pytest.raises(ValueError, match="sparsity='auto'"):
        ix.factorise(problem, jnp.zeros(5000), jnp.zeros(5000))
    square = ix.Root(lambda y, a: y**2 - a)
    with pytest.raises(ValueError, match="singular at y"):
        ix.factorise(square, jnp.zeros(3), jnp.ones(3))
    inverse = ix.factorise(problem, jnp.zeros(3), jnp.zeros(3))
    with pytest.raises(ValueError, match="3 x 3, and there are 144"):
        solve(RATE, ix.Krylov(inverse))


def test_forcing_terms_are_those_of_the_paper():
    """Eisenstat & Walker's choice 2, with its safeguard."""
    residuals = [1.0, 0.5, 0.45, 1e-3, 1e-9]
    forcing, before, rtol = Forcing.first(jnp.ones(1)), None, FIRST
    for norm in residuals:
        forcing = forcing.next(jnp.full(1, norm), jnp.asarray(1.0))
        if before is not None:
            safeguard = FACTOR * rtol**2
            rtol = FACTOR * (norm / before) ** 2
            rtol = min(max(rtol, safeguard) if safeguard > 0.1 else rtol, MOST)
            rtol = max(rtol, np.finfo(float).eps ** 0.7)
        assert float(forcing.rtol) == pytest.approx(rtol, rel=1e-12)
        before = norm
    near = forcing.next(jnp.full(1, norm), jnp.asarray(1e-6))
    assert float(near.rtol) <= np.finfo(float).eps ** 0.5


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"preconditioner": "amg"}, TypeError, "'jacobi', 'ilu'"),
        ({"preconditioner": 3}, TypeError, "must be"),
        ({"preconditioner": Krylov}, TypeError, "must be"),
        ({"preconditioner": scipy.sparse.csr_array((2, 3))}, ValueError, "2 x 3"),
        ({"preconditioner": scipy.sparse.csr_array((3, 3))}, ValueError, "singular"),
        ({"restart": 0}, ValueError, "restart"),
        ({"max_steps": 2.5}, ValueError, "max_steps"),
    ],
)
def test_what_is_none(given, kind, words):
    with pytest.raises(kind, match=words):
        ix.Krylov(**given)


@pytest.mark.parametrize(
    ("preconditioner", "words"),
    [
        ("ilu", "sparsity='auto'"),
        (scipy.sparse.eye_array(5), "5 x 5, and there are 144"),
    ],
)
def test_what_does_not_fit_the_problem(preconditioner, words):
    with pytest.raises(ValueError, match=words):
        solve(RATE, ix.Krylov(preconditioner), sparsity=None)


def test_steps_have_no_derivative():
    with pytest.raises(TypeError, match="Krylov method"):
        solve(RATE, ix.Krylov(), derivative=ix.Unrolled(), max_steps=3)
