"""Linear programs by SciPy's HiGHS: our verdict and derivative on its vertex."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicax as ix

from ...oracles import relative_error

LINPROG = ix.SciPy("linprog")
N, ROWS = 8, 5


def draw(seed):
    """Two-sided rows, equations and bounds, with something inside."""
    rng = np.random.default_rng(seed)
    G, A = rng.normal(size=(ROWS, N)), rng.normal(size=(2, N))
    inside = rng.uniform(size=N)
    slack = rng.uniform(size=(2, ROWS))
    h = G @ inside - slack[0], G @ inside + slack[1]
    return rng.normal(size=N), A, A @ inside, G, h


def solve(data, solver):
    q, A, b, G, h = data
    bounds = (0.0, 2.0)
    return ix.linear_program(q, A=A, b=b, G=G, h=h, bounds=bounds, solver=solver)


def everything(solver):
    """Value, multipliers, and the derivatives of both in all data."""

    def run(data):
        found = solve(data, solver)
        outputs = lambda data: (lambda s: (s.value, s.dual))(solve(data, solver))
        pulled = jax.vjp(outputs, data)[1]
        weights = jax.tree.map(
            lambda leaf: jnp.cos(leaf + 1), (found.value, found.dual)
        )
        return found.value, found.dual, pulled(weights), found.converged

    return jax.jit(jax.vmap(run))


def test_it_is_the_solution_of_our_own():
    data = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(draw, range(8)))
    came, right = everything(LINPROG)(data), everything(None)(data)
    assert came[-1].all()
    for ours, theirs in zip(came[:-1], right[:-1], strict=True):
        assert relative_error(ours, theirs) <= 1e-10


def test_without_a_solution_it_says_so():
    for q, more in (
        (-jnp.ones(2), {}),
        (jnp.ones(2), {"G": jnp.ones((1, 2)), "h": -jnp.ones(1)}),
    ):
        found = ix.linear_program(
            q, bounds=(0.0, None), solver=LINPROG, on_failure="ignore", **more
        )
        assert not found.converged


MISTAKES = {
    "integers": (
        lambda: ix.SciPy("milp"),
        ValueError,
        r"integers.*no.*linear_program.*linprog",
    ),
    "quadratic": (
        lambda: ix.quadratic_program(jnp.eye(2), jnp.ones(2), solver=LINPROG),
        TypeError,
        "linprog' is for linear programs, P=None.*InteriorPoint",
    ),
    "another method": (
        lambda: ix.linear_program(
            jnp.ones(2), bounds=(0.0, 1.0), solver=ix.SciPy("BFGS")
        ),
        TypeError,
        "'BFGS' is not for programs.*linprog",
    ),
    "an equation": (
        lambda: ix.root(lambda y, a: y, 1.0, solver=LINPROG),
        TypeError,
        "not for an equation",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name):
    do, error, words = MISTAKES[name]
    with pytest.raises(error, match=words):
        do()
