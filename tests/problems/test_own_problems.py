"""Problems, domains and unknowns that are the user's own."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicax as ix

#: Transformations of a function of one array, by their number of derivatives.
TRANSFORMATIONS = {
    "forward": jax.jacfwd,
    "reverse": jax.jacrev,
    "forward over reverse": lambda f: jax.jacfwd(jax.jacrev(f)),
    "reverse over forward": lambda f: jax.jacrev(jax.jacfwd(f)),
}


class EqualityQP(ix.AbstractProblem):
    """min x^T P x / 2 + q^T x subject to A x = b, with `A` a field."""

    A: jax.Array
    structure = ix.JacobianStructure(symmetric=True)

    def conditions(self, y, args):
        (x, u), (P, q, b) = y, args
        residual = (P @ x + q + self.A.T @ u, self.A @ x - b)
        return ix.Conditions(residual, aux={"slack": self.A @ x - b, "name": "QP"})


P = jnp.array([[4.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 3.0]])
Q = jnp.array([1.0, -1.0, 0.5])
A = jnp.array([[1.0, 1.0, 0.0], [0.0, 1.0, -2.0]])
B = jnp.array([1.0, 0.3])


def program(theta):
    """The solution where `b` and `P` depend on `theta`, by implicax."""
    args = (P + theta[0] * jnp.eye(3), Q, B * theta)
    start = (jnp.zeros(3), jnp.zeros(2))
    return ix.solve(EqualityQP(A * theta[1]), start, args)


def kkt(theta):
    """The same in closed form."""
    matrix = jnp.block([[P + theta[0] * jnp.eye(3), theta[1] * A.T],
                        [theta[1] * A, jnp.zeros((2, 2))]])  # fmt: skip
    return jnp.linalg.solve(matrix, jnp.concatenate([-Q, B * theta]))


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_a_problem_of_the_users_has_every_derivative(name):
    transform, theta = TRANSFORMATIONS[name], jnp.array([0.7, 1.3])
    found = transform(lambda theta: jnp.concatenate(program(theta).value))(theta)
    assert jnp.allclose(found, transform(kkt)(theta), rtol=0, atol=1e-10)


def test_it_is_certified_and_its_auxiliary_output_is_there():
    args = (P, Q, B)
    start = (jnp.zeros(3), jnp.zeros(2))
    solution = ix.solve(EqualityQP(A), start, args)
    assert solution.aux["name"] == "QP"
    assert jnp.allclose(solution.aux["slack"], 0, atol=1e-14)
    least = lambda y, args: y[0] @ args[0] @ y[0] / 2 + args[1] @ y[0]
    certificate = ix.certify(least, EqualityQP(A), solution, args)
    assert certificate.ok
    # The least value changes by the multipliers.
    assert jnp.allclose(certificate.gradient[2], -solution.value[1], atol=1e-12)


class Says(ix.AbstractProblem):
    what: dict

    def conditions(self, y, args):
        return ix.Conditions(**self.what) if isinstance(self.what, dict) else self.what


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({}, "one of residual=, objective= or errors= .*and 0"),
        ({"objective": 1.0, "errors": 1.0}, "and 2 of them came"),
        (1.0, "must return ix.Conditions.*it returned float"),
        ({"residual": jnp.ones(2)}, "as many numbers as the unknown has"),
        ({"objective": jnp.ones(2)}, "a real scalar"),
    ],
)
def test_what_is_no_condition_is_refused(what, message):
    with pytest.raises((TypeError, ValueError), match=message):
        ix.solve(Says(what), 1.0)


def test_solve_takes_problems():
    with pytest.raises(TypeError, match="AbstractProblem"):
        ix.solve(lambda y, a: y, 1.0, 1.0)


class Sphere(ix.AbstractDomain):
    """Vectors of length one."""

    def zero(self, y):
        return jnp.zeros(y.size - 1)

    def retract(self, y, tangent):
        axis = y + jnp.where(y[0] < 0, -1.0, 1.0) * jnp.eye(y.size)[0]
        reflection = jnp.eye(y.size) - 2 * jnp.outer(axis, axis) / (axis @ axis)
        moved = y + reflection[:, 1:] @ tangent
        return moved / jnp.linalg.norm(moved)


NEAREST = ix.LeastSquares(lambda y, data: y - data, domain=Sphere())
DATA, POLE = jnp.array([2.0, 2.0, 1.0]), jnp.array([1.0, 0.0, 0.0])


def direction(data):
    return ix.solve(NEAREST, POLE, data).value


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_a_fit_on_the_sphere_has_every_derivative(name):
    """The nearest vector of length one, however far the start is."""
    transform = jax.jit(TRANSFORMATIONS[name](direction))
    expected = TRANSFORMATIONS[name](lambda data: data / jnp.linalg.norm(data))
    assert jnp.allclose(transform(DATA), expected(DATA), rtol=0, atol=1e-10)


def test_lanes_on_the_sphere_and_their_certificate():
    lanes = jnp.stack([DATA, 1e6 * DATA, 1e-2 * jnp.array([1.0, -2.0, 0.5])])
    found = jax.vmap(jax.jacrev(direction))(lanes)
    expected = jax.vmap(jax.jacrev(lambda x: x / jnp.linalg.norm(x)))(lanes)
    scale = jnp.abs(expected).max((1, 2), keepdims=True)
    assert jnp.all(jnp.abs(found - expected) <= 1e-10 * scale)
    certificate = ix.certify(lambda y, a: y[0], NEAREST, direction(DATA), DATA)
    assert certificate.ok
    exact = jax.grad(lambda data: (data / jnp.linalg.norm(data))[0])(DATA)
    assert jnp.allclose(certificate.gradient, exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_solution_in_the_other_half_of_the_sphere_is_found(compiled):
    """A chart ends at the equator, where the objective has a minimum that is none."""
    solve = lambda data: ix.solve(NEAREST, POLE, data).value
    solve = jax.jit(solve) if compiled else solve
    for data in (-DATA, jnp.array([-2.0, 0.1, 0.0])):
        exact = data / jnp.linalg.norm(data)
        assert jnp.allclose(solve(data), exact, rtol=0, atol=1e-12)


def test_the_start_on_a_sphere_has_no_derivative():
    start = lambda y0: ix.solve(NEAREST, y0, DATA).value[0]
    assert jnp.array_equal(jax.grad(start)(POLE), jnp.zeros(3))


class Nowhere(Sphere):
    def retract(self, y, tangent):
        return y / 0.0 + 0.0 * tangent.sum()


class Longer(Sphere):
    def retract(self, y, tangent):
        return jnp.concatenate([y, tangent])


def test_retractions_that_are_none_are_told():
    with pytest.raises(ix.ConvergenceError, match="NaN or infinity"):
        ix.solve(ix.Minimum(lambda y, a: y @ a, domain=Nowhere()), POLE, DATA)
    with pytest.raises(TypeError, match=r"Longer\.retract.*like y"):
        ix.solve(ix.Minimum(lambda y, a: y @ a, domain=Longer()), POLE, DATA)


def test_a_zero_gradient_of_an_infinite_objective_is_no_minimum():
    infinite = lambda y, a: jax.lax.stop_gradient(y) / 0.0
    with pytest.raises(ix.ConvergenceError, match="NaN or infinity"):
        ix.minimize(infinite, 1.0, 1.0)


def test_the_least_eigenvalue_is_a_minimum_on_the_sphere():
    rayleigh = ix.Minimum(lambda y, m: y @ m @ y, domain=Sphere())
    least = lambda m: ix.solve(rayleigh, POLE, m).objective
    values, vectors = jnp.linalg.eigh(P)
    assert least(P) == pytest.approx(float(values[0]), rel=1e-12)
    v = vectors[:, 0]
    assert jnp.allclose(jax.grad(least)(P), jnp.outer(v, v), rtol=0, atol=1e-10)


def test_domains_that_are_not_there_yet_say_so():
    with pytest.raises(TypeError, match="AbstractDomain"):
        ix.Root(lambda y, a: y, domain="sphere")
    with pytest.raises(TypeError, match="domain"):
        ix.implicit(NEAREST)
    with pytest.raises(TypeError, match="domain"):
        ix.covariance(NEAREST, DATA, DATA)
    loss = lambda y, data: y[0]
    with pytest.raises(TypeError, match=r"domain.*ix\.certify"):
        ix.certified_gradient(loss, NEAREST, POLE, DATA, gradient_rtol=1e-6)


def test_a_module_is_an_unknown():
    """A fit of a network with a penalty: value, and derivative by differences."""
    key = jax.random.key(0)
    model = eqx.nn.MLP(2, 1, 3, 1, jax.nn.tanh, dtype=jnp.float64, key=key)
    x = jax.random.normal(key, (12, 2), jnp.float64)
    target = jnp.sin(x[:, :1])

    def loss(model, penalty):
        weights = jax.tree.leaves(eqx.filter(model, eqx.is_array))
        return jnp.mean((jax.vmap(model)(x) - target) ** 2) + penalty * sum(
            jnp.sum(w**2) for w in weights
        )

    solution = ix.minimize(loss, model, 0.1)
    assert solution.value.activation is model.activation
    assert "converged" in repr(solution)
    misfit = lambda penalty: loss(ix.minimize(loss, model, penalty).value, 0.0)
    h = 1e-4
    expected = (misfit(0.1 + h) - misfit(0.1 - h)) / (2 * h)
    assert jax.grad(misfit)(0.1) == pytest.approx(float(expected), rel=1e-6)


def test_the_second_derivative_of_a_minimum_value_moves_the_minimum():
    """`min (y - a)^2 + y^2 = a^2 / 2`: with a frozen minimum it would be 2, not 1."""

    def value(a):
        problem = ix.Minimum(lambda y, a: (y - a) ** 2 + y**2)
        return ix.solve(problem, 1.0, a).objective

    for derivative in (jax.hessian, lambda f: jax.jacfwd(jax.jacfwd(f))):
        np.testing.assert_allclose(jax.jit(derivative(value))(3.0), 1.0, rtol=1e-9)
    np.testing.assert_allclose(jax.grad(value)(3.0), 3.0, rtol=1e-9)
