"""`progress=`: what a long solve tells of itself."""

import jax
import jax.numpy as jnp
import optimistix as optx
import pytest

import implicax as ix

from ..subprocesses import printed_without

START = jnp.ones(3)


def residual(y, a):
    return y - 0.9 * jnp.tanh(a * y) - 1


def bowl(y, a):
    return jnp.sum((y**2 - a) ** 2)


@pytest.mark.parametrize("jit", [False, True])
def test_every_step_is_told_and_the_end(jit):
    seen = []

    def solve(a):
        return ix.root(residual, START, a, solver=ix.Newton(), progress=seen.append)

    solution = (jax.jit(solve) if jit else solve)(1.0)
    jax.block_until_ready(solution)
    jax.effects_barrier()
    steps = int(solution.stats.steps)
    assert [now.step for now in seen] == [*range(1, steps + 1), steps]
    assert [now.done for now in seen] == [False] * steps + [True]
    assert seen[-1].residual_norm == float(solution.stats.residual_norm)
    assert {now.max_steps for now in seen} == {256}
    assert {now.objective for now in seen} == {None}


def test_a_minimisation_tells_its_objective():
    seen = []
    solution = ix.minimize(bowl, START, 3.0, progress=seen.append)
    objectives = [now.objective for now in seen]
    assert objectives == sorted(objectives, reverse=True)
    assert objectives[-1] == float(solution.objective)


def test_lanes_are_told_one_by_one():
    seen = []
    solve = jax.vmap(
        lambda a: ix.root(residual, START, a, solver=ix.Newton(), progress=seen.append)
    )
    steps = jax.block_until_ready(solve(jnp.asarray([1.0, 2.0]))).stats.steps
    jax.effects_barrier()
    assert len(seen) >= int(steps.sum()) + 2
    assert sum(now.done for now in seen) == 2


@pytest.mark.parametrize("solver", [ix.SciPy("hybr"), optx.Newton(1e-8, 1e-8)])
def test_other_solvers_tell_of_each_evaluation(solver):
    for _ in range(2):  # the count starts anew
        seen = []
        ix.root(residual, START, 1.0, solver=solver, progress=seen.append)
        assert [now.step for now in seen] == list(range(1, len(seen) + 1))
        assert len(seen) > 3
        assert seen[-1].done
        assert seen[-1].residual_norm <= 1e-8


def test_derivatives_do_not_mind():
    def root(a, progress):
        return ix.root(residual, START, a, progress=progress).value[0]

    told = jax.grad(root)(1.0, lambda now: None)
    assert told == jax.grad(root)(1.0, False)


def test_off_it_is_free():
    def program(**options):
        def solve(a):
            return ix.root(residual, START, a, solver=ix.Newton(), **options).value

        return str(jax.make_jaxpr(solve)(1.0))

    assert "callback" not in program()
    assert program() == program(progress=False)
    assert "callback" in program(progress=print)


def test_the_bar(capsys):
    ix.fixed_point(
        lambda y, a: 0.9 * y + a, START, 1.0, solver=ix.Picard(), progress=True
    )
    ix.minimize(bowl, START, 3.0, progress=True)
    written = capsys.readouterr().err
    assert "residual" in written
    assert "objective" in written


BLOCKED = """
    import implicax as ix

    try:
        ix.root(lambda y, a: y**2 - a, 1.0, 4.0, progress=True)
    except ImportError as error:
        print(error)
"""


def test_without_tqdm():
    (message,) = printed_without(("tqdm", "tqdm.auto"), BLOCKED)
    assert "pip install 'implicax[progress]'" in message
