"""Quadratic and linear programs: what is solved, what is proved, what is degenerate."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicax as ix

#: Two unknowns, and a third one that has only the equation `x_2 = 0` to it.
FREE = {
    "P": jnp.eye(2),
    "q": jnp.zeros(2),
    "A": None,
    "b": jnp.zeros(1),
    "G": jnp.zeros((3, 2)),
    "h": (jnp.full(3, -jnp.inf), jnp.full(3, jnp.inf)),
    "bounds": (jnp.full(2, -jnp.inf), jnp.full(2, jnp.inf)),
}


def program(**parts):
    made = {**FREE, **parts}
    P, A = jnp.eye(3).at[:2, :2].set(made["P"]), jnp.array([[0.0, 0.0, 1.0]])
    made["A"] = A if made["A"] is None else wider(made["A"])
    made["bounds"] = tuple(
        jnp.append(side, end)
        for side, end in zip(made["bounds"], (-jnp.inf, jnp.inf), strict=True)
    )
    made |= {"P": P, "q": jnp.append(jnp.array(made["q"]), 0.0), "G": wider(made["G"])}
    return jax.tree.map(lambda x: jnp.asarray(x, float), made, is_leaf=is_list)


def is_list(x):
    return isinstance(x, list)


def wider(rows):
    return jnp.pad(jnp.asarray(rows, float), ((0, 0), (0, 1)))


def solved(data, **options):
    data = dict(data)
    P, q = data.pop("P"), data.pop("q")
    return ix.quadratic_program(P, q, **data, on_failure="ignore", **options)


compiled = jax.jit(solved)


def rows(*given):
    """Inequalities, and as many of no effect as are missing."""
    padded = [*given, *([[0.0, 0.0]] * (3 - len(given)))]
    return jnp.array(padded)


def below(*given):
    return jnp.full(3, -jnp.inf), jnp.array([*given, *([jnp.inf] * (3 - len(given)))])


INF = jnp.inf
ZERO = jnp.zeros((2, 2))
#: name: (program, value, flags of degeneracy (None: not asked))
SOLVED = {
    "nothing binds": (program(q=[-1.0, 2.0]), [1.0, -2.0], ""),
    "one row binds": (
        program(q=[-1.0, -1.0], G=rows([1, 1]), h=below(1.0)),
        [0.5, 0.5],
        "",
    ),
    "a lower side binds": (
        program(
            q=[1.0, 1.0],
            G=rows([1, 1]),
            h=(jnp.array([1.0, -INF, -INF]), jnp.full(3, INF)),
        ),
        [0.5, 0.5],
        "",
    ),
    "an equation": (program(A=[[1.0, 2.0]], b=[5.0]), [1.0, 2.0], ""),
    "a row twice": (
        program(q=[-1.0, -1.0], G=rows([1, 1], [1, 1]), h=below(1.0, 1.0)),
        [0.5, 0.5],
        "dependent",
    ),
    "weakly active": (
        program(q=[-1.0, 0.0], bounds=(jnp.zeros(2), jnp.full(2, INF))),
        [1.0, 0.0],
        "weak",
    ),
    "a vertex of three": (
        program(
            P=ZERO,
            q=[-1.0, -1.0],
            G=rows([1, 0], [0, 1], [1, 1]),
            h=below(1.0, 1.0, 2.0),
        ),
        [1.0, 1.0],
        "dependent",
    ),
    "an empty interior": (
        program(q=[1.0, -3.0], G=rows([1, 1], [-1, -1]), h=below(1.0, -1.0)),
        [-1.5, 2.5],
        "dependent",
    ),
    "a fixed unknown": (
        program(q=[1.0, 1.0], bounds=(jnp.array([0.5, -INF]), jnp.array([0.5, INF]))),
        [0.5, -1.0],
        "",
    ),
    "a linear vertex": (
        program(
            P=ZERO, q=[1.0, 2.0], bounds=(jnp.array([-1.0, 3.0]), jnp.full(2, INF))
        ),
        [-1.0, 3.0],
        "",
    ),
    "zero, exactly": (program(bounds=(-jnp.ones(2), jnp.ones(2))), [0.0, 0.0], ""),
    "a free direction": (
        program(P=jnp.diag(jnp.array([1.0, 0.0])), q=[1.0, 0.0]),
        [-1.0, 0.0],
        "not_unique",
    ),
    "far sides": (
        program(q=[-1.0, -1.0], bounds=(jnp.full(2, -1e15), jnp.full(2, 1e15))),
        [1.0, 1.0],
        "",
    ),
    "a narrow set": (
        program(
            q=[-1.0, -1.0],
            G=rows([1, 1]),
            h=below(1e-9),
            bounds=(jnp.zeros(2), jnp.full(2, INF)),
        ),
        [5e-10, 5e-10],
        "",
    ),
    "large and small units": (
        program(
            P=jnp.diag(jnp.array([1e16, 1e-16])),
            q=[-1e8, -1e-8],
            G=rows([1e8, 1e-8]),
            h=below(1.0),
        ),
        [0.5e-8, 0.5e8],
        "",
    ),
}


@pytest.mark.parametrize("name", SOLVED)
def test_it_is_solved_and_its_degeneracy_named(name):
    data, value, flags = SOLVED[name]
    solution = compiled(data)
    assert solution.status.name == "converged"
    np.testing.assert_allclose(solution.value[:2], value, rtol=1e-9, atol=1e-14)
    found = [
        f
        for f in ("weak", "dependent", "not_unique")
        if getattr(solution.degeneracy, f)
    ]
    assert found == flags.split()


#: name: (program, status)
UNSOLVED = {
    "sides that cross": (
        program(G=rows([1, 0], [-1, 0]), h=below(0.0, -1.0)),
        "infeasible",
    ),
    "an equation out of the box": (
        program(
            P=ZERO,
            q=[1.0, 1.0],
            A=[[1.0, 1.0]],
            b=[3.0],
            bounds=(jnp.zeros(2), jnp.ones(2)),
        ),
        "infeasible",
    ),
    "out of the box by a millionth": (
        program(
            P=ZERO,
            q=[1.0, 1.0],
            A=[[1.0, 1.0]],
            b=[2 + 1e-6],
            bounds=(jnp.zeros(2), jnp.ones(2)),
        ),
        "infeasible",
    ),
    "a linear objective falls": (
        program(P=ZERO, q=[1.0, -1.0], bounds=(jnp.zeros(2), jnp.full(2, INF))),
        "unbounded",
    ),
    "a quadratic one falls along a line": (
        program(P=jnp.diag(jnp.array([1.0, 0.0])), q=[1.0, -1.0]),
        "unbounded",
    ),
    "negative curvature": (program(P=jnp.diag(jnp.array([1.0, -1.0]))), "not_convex"),
    "negative curvature in a box": (
        program(P=jnp.diag(jnp.array([1.0, -1.0])), bounds=(-jnp.ones(2), jnp.ones(2))),
        "not_convex",
    ),
}


@pytest.mark.parametrize("name", UNSOLVED)
def test_what_has_no_solution_is_proved_to_have_none(name):
    data, status = UNSOLVED[name]
    solution = compiled(data)
    assert solution.status.name == status
    lower, upper = (
        np.concatenate([data["b"], data["h"][k], data["bounds"][k]]) for k in (0, 1)
    )
    R = np.concatenate([data["A"], data["G"], np.eye(3)])
    if status == "infeasible":
        t = np.concatenate(jax.tree.leaves(solution.farkas))
        np.testing.assert_allclose(R.T @ t, 0, atol=1e-12)
        limit = np.where(t > 0, upper, lower)
        assert np.isfinite(limit[t != 0]).all()
        assert np.sum(t[t != 0] * limit[t != 0]) < 0
        assert np.isnan(solution.ray).all()
    if status == "unbounded":
        d = np.asarray(solution.ray)
        assert data["q"] @ d < 0
        np.testing.assert_allclose(data["P"] @ d, 0, atol=1e-12)
        moved = R @ d
        assert (moved[np.isfinite(upper)] <= 1e-12).all()
        assert (moved[np.isfinite(lower)] >= -1e-12).all()


def test_a_failure_raises_and_says_why():
    data = dict(UNSOLVED["sides that cross"][0])
    P, q = data.pop("P"), data.pop("q")
    with pytest.raises(
        ix.ConvergenceError, match=r"infeasible.*\n.*\n.*farkas"
    ) as caught:
        ix.quadratic_program(P, q, **data)
    assert caught.value.solution.status == ix.Status.infeasible
    assert caught.value.solution.farkas.inequality.shape == (3,)


def test_lanes_fail_each_by_itself():
    names = ["one row binds", "a vertex of three"]
    cases = [SOLVED[name][0] for name in names]
    cases += [UNSOLVED[name][0] for name in ("sides that cross", "negative curvature")]
    cases.append(program(q=[jnp.nan, 0.0]))
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *cases)

    def value(data):
        data = dict(data)
        P, q = data.pop("P"), data.pop("q")
        solution = ix.quadratic_program(P, q, **data)
        return jnp.sum(solution.value), solution

    lanes = jax.vmap(jax.value_and_grad(value, has_aux=True))
    (total, solution), gradient = jax.jit(lanes)(batch)
    assert list(np.isfinite(total)) == [True, True, False, False, False]
    assert list(np.isfinite(gradient["q"]).all(1)) == [True, True, False, False, False]
    assert list(solution.status.name[:4]) == [
        "converged",
        "converged",
        "infeasible",
        "not_convex",
    ]
    assert solution.status.name[4] != "converged"


def random_program(rng, n=8, m=6, p=2, dtype=float):
    """With a strictly complementary solution, some constraints active, some bounds."""
    B = rng.normal(size=(n, n))
    G, A, at = rng.normal(size=(m, n)), rng.normal(size=(p, n)), rng.normal(size=n)
    slack = rng.uniform(0.5, 1.0, m) * (rng.uniform(size=m) < 0.5)
    data = {
        "P": B @ B.T / n + 0.1 * np.eye(n),
        "q": 3 * rng.normal(size=n),
        "A": A,
        "b": A @ at,
        "G": G,
        "h": (G @ at - 3.0, G @ at + slack),
        "bounds": (at - 1.5, at + 1.5),
    }
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), data)


def outcome(data):
    data = dict(data)
    P, q = data.pop("P"), data.pop("q")
    return ix.quadratic_program(P, q, **data)


def loss(data):
    solution = outcome(data)
    duals = sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(solution.dual))
    return jnp.sum(jnp.cos(solution.value)) + duals + solution.objective


@functools.cache
def gradients():
    return jax.jit(jax.value_and_grad(loss))


def test_all_derivatives_are_those_of_central_differences():
    gradient = gradients()
    for seed in range(3):
        rng = np.random.default_rng(seed)
        data = random_program(rng)
        direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), data)
        direction["P"] = direction["P"] + direction["P"].T

        def moved(e, data=data, direction=direction):
            return jax.tree.map(lambda x, d: x + e * d, data, direction)

        (plus, _), (minus, _) = gradient(moved(1e-5)), gradient(moved(-1e-5))
        _, found = gradient(data)
        pairs = zip(jax.tree.leaves(found), jax.tree.leaves(direction), strict=True)
        slope = sum(jnp.sum(g * d) for g, d in pairs)
        np.testing.assert_allclose(slope, (plus - minus) / 2e-5, rtol=1e-6)


def test_forward_reverse_and_second_order_agree():
    data = random_program(np.random.default_rng(3))

    def by_q(q):
        return loss({**data, "q": q})

    @jax.jit
    def all_of_them(q):
        nestings = (
            jax.hessian(by_q)(q),
            jax.jacfwd(jax.jacfwd(by_q))(q),
            jax.jacrev(jax.jacfwd(by_q))(q),
            jax.jacrev(jax.jacrev(by_q))(q),
        )
        return jax.grad(by_q)(q), jax.jacfwd(by_q)(q), nestings

    q, e = data["q"], 1e-5
    reverse, forward, nestings = all_of_them(q)
    np.testing.assert_allclose(forward, reverse, rtol=1e-9, atol=1e-12)
    _, plus = gradients()({**data, "q": q + e * jnp.eye(q.size)[2]})
    _, minus = gradients()({**data, "q": q - e * jnp.eye(q.size)[2]})
    row = (plus["q"] - minus["q"]) / (2 * e)
    for hessian in nestings:
        np.testing.assert_allclose(hessian[2], row, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(hessian, nestings[0], rtol=1e-8, atol=1e-10)


def test_units_do_not_matter():
    rng = np.random.default_rng(5)
    data = random_program(rng)
    d, e = 10.0 ** rng.uniform(-6, 6, 8), 10.0 ** rng.uniform(-9, 9, 6)
    other = {
        "P": data["P"] * d[:, None] * d[None],
        "q": data["q"] * d,
        "A": data["A"] * d[None] * 1e7,
        "b": data["b"] * 1e7,
        "G": data["G"] * e[:, None] * d[None],
        "h": tuple(side * e for side in data["h"]),
        "bounds": tuple(side / d for side in data["bounds"]),
    }
    here, there = outcome(data), outcome(other)
    np.testing.assert_allclose(there.value * d, here.value, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(
        there.dual.inequality * e, here.dual.inequality, rtol=1e-9, atol=1e-10
    )


def test_single_precision():
    data = random_program(np.random.default_rng(6))
    narrow = jax.tree.map(lambda x: x.astype(jnp.float32), data)
    value, gradient = jax.jit(jax.value_and_grad(loss))(narrow)
    right, slope = gradients()(jax.tree.map(lambda x: x.astype(float), narrow))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, right, rtol=1e-4)
    np.testing.assert_allclose(gradient["q"], slope["q"], rtol=2e-3, atol=2e-4)


def test_the_last_solution_is_tried_first():
    data = random_program(np.random.default_rng(7))
    first = compiled(data)
    near = {**data, "q": data["q"] * (1 + 1e-3)}
    warm, cold = jax.jit(lambda y0: (solved(near, y0=y0), solved(near)))(first)
    assert int(warm.stats.steps) == 0 < int(cold.stats.steps)
    np.testing.assert_allclose(warm.value, cold.value, rtol=1e-10)
    far = {**data, "q": -5 * data["q"]}
    again = solved(far, y0=first)
    np.testing.assert_allclose(again.value, compiled(far).value, rtol=1e-9, atol=1e-12)


def test_what_the_constraints_determine_has_a_derivative_where_they_repeat():
    """`x = ((1 + a) / 2, (1 - a) / 2)`, whichever of the equal rows says so."""

    def first(a, rows):
        A = jnp.ones((rows, 2))
        return ix.quadratic_program(
            jnp.eye(2), jnp.stack([-a, 0.0 * a]), A=A, b=jnp.ones(rows)
        ).value[0]

    for rows_ in (1, 2, 3):
        np.testing.assert_allclose(jax.grad(first)(0.3, rows_), 0.5, rtol=1e-9)
        np.testing.assert_allclose(jax.jacfwd(first)(0.3, rows_), 0.5, rtol=1e-9)


def test_no_derivative_where_there_is_none_but_of_the_objective():
    def flat(q):
        solution = ix.quadratic_program(
            jnp.diag(jnp.array([1.0, 0.0])), q, bounds=(-1.0, 1.0)
        )
        return solution

    q = jnp.array([0.5, 0.0])
    assert jnp.isnan(jax.grad(lambda q: flat(q).value[1])(q)).any()
    np.testing.assert_allclose(
        jax.grad(lambda q: flat(q).value[0])(q), [-1.0, 0.0], atol=1e-9
    )
    np.testing.assert_allclose(jax.grad(lambda q: flat(q).objective)(q), flat(q).value)


def test_a_problem_states_a_program_and_is_certified():
    def stated(a):
        G, h = jnp.array([[1.0, 1.0]]), jnp.stack([a])
        return ix.Program(jnp.eye(2), -jnp.ones(2), G=G, h=h)

    problem = ix.QuadraticProgram(stated)

    def total(y, a):
        x, dual = y
        return jnp.sum(x**2) + dual.inequality[0]

    solution = ix.solve(problem, None, 1.0)
    certificate = ix.certify(total, problem, solution, 1.0)
    assert certificate.ok
    np.testing.assert_allclose(certificate.gradient, 1.0 - 0.5, rtol=1e-9)
    weak = ix.solve(problem, None, 2.0)
    assert weak.degeneracy.weak
    assert not ix.certify(total, problem, weak, 2.0).ok


BAD = {
    "P is not symmetric": (
        lambda: ix.quadratic_program([[1.0, 2.0], [0.0, 1.0]], jnp.ones(2)),
        "symmetric",
    ),
    "P has the wrong shape": (
        lambda: ix.quadratic_program(jnp.eye(3), jnp.ones(2)),
        r"P must have shape \(2, 2\)",
    ),
    "q is a matrix": (lambda: ix.linear_program(jnp.eye(2)), "q must be a vector"),
    "A without b": (
        lambda: ix.linear_program(jnp.ones(2), A=jnp.ones((1, 2))),
        "b is missing",
    ),
    "h without G": (
        lambda: ix.linear_program(jnp.ones(2), h=jnp.ones(1)),
        "G is missing",
    ),
    "b of another size": (
        lambda: ix.linear_program(jnp.ones(2), A=jnp.ones((1, 2)), b=jnp.ones(2)),
        r"b must have shape \(1\)",
    ),
    "NaN": (lambda: ix.linear_program(jnp.array([jnp.nan, 1.0])), "q is not finite"),
    "another precision": (
        lambda: ix.quadratic_program(jnp.eye(2, dtype=jnp.float32), jnp.ones(2)),
        "precision of q",
    ),
    "complex": (
        lambda: ix.quadratic_program(jnp.eye(2, dtype=complex), jnp.ones(2)),
        "must be real",
    ),
    "crossed bounds": (
        lambda: ix.linear_program(jnp.ones(2), bounds=(1.0, 0.0)),
        "must not be above",
    ),
    "bounds of one side": (lambda: ix.linear_program(jnp.ones(2), bounds=1.0), "pair"),
    "a solver of equations": (
        lambda: ix.linear_program(jnp.ones(2), bounds=(0, 1), solver=ix.Newton()),
        "InteriorPoint",
    ),
    "unrolling": (
        lambda: ix.linear_program(jnp.ones(2), bounds=(0, 1), derivative=ix.Unrolled()),
        "ix.Implicit",
    ),
    "a start of another size": (
        lambda: ix.linear_program(
            jnp.ones(2), bounds=(0, 1), y0=(jnp.ones(3), ix.Dual(bounds=jnp.ones(3)))
        ),
        "same size",
    ),
    "no program": (
        lambda: ix.solve(ix.QuadraticProgram(lambda a: a), None, 1.0),
        "ix.Program",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told(name):
    call, words = BAD[name]
    with pytest.raises((TypeError, ValueError), match=words):
        call()


@pytest.mark.parametrize("name", ["piqp", "clarabel"])
def test_solvers_of_others_get_our_verdict_and_derivative(name):
    pytest.importorskip("qpsolvers")
    data = random_program(np.random.default_rng(8))
    engine = ix.QPSolvers(name)

    def by_q(q, solver):
        rest = {key: x for key, x in data.items() if key not in "Pq"}
        found = ix.quadratic_program(data["P"], q, **rest, solver=solver)
        return jnp.sum(jnp.sin(found.value)) + jnp.sum(found.dual.bounds)

    theirs = jax.jit(jax.value_and_grad(lambda q: by_q(q, engine)))(data["q"])
    ours = jax.jit(jax.value_and_grad(lambda q: by_q(q, None)))(data["q"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11),
        theirs,
        ours,
    )


def test_an_engine_that_is_not_there_is_told():
    pytest.importorskip("qpsolvers")
    with pytest.raises(ValueError, match="piqp"):
        ix.QPSolvers("nobody")


def test_being_out_of_steps_is_told_from_being_stuck():
    data = random_program(np.random.default_rng(9))
    assert solved(data, max_steps=2).status == ix.Status.max_steps_reached
    # Twenty rows that all but repeat each other: their multiplier spreads slowly.
    nearly = jnp.linspace(1.0, 1.0 + 1e-9, 20)
    found = ix.quadratic_program(
        jnp.eye(2), -jnp.ones(2), G=jnp.ones((20, 2)), h=nearly, on_failure="ignore"
    )
    assert found.status == ix.Status.stagnated
    np.testing.assert_allclose(found.value, 0.5, rtol=1e-8)
