"""Facts about JAX and XLA that the library relies upon (see ARCHITECTURE.md)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmarks.kernels import computations, count

from implicax._core import tree_math
from implicax._core.packed import Flag, Number, Packed


def one_round(needed, function, x):
    """`function(x)` where it is needed, else zero."""

    def body(carry):
        return jnp.zeros((), bool), function(carry[0], x)

    first = needed, jnp.zeros_like(x)
    return tree_math.while_loop(lambda carry: carry[0], body, first)[1]


@pytest.mark.parametrize("needed", [[], [1]])
def test_a_loop_of_one_round_runs_if_some_lane_needs_it(needed):
    ran, lanes = [], np.isin(np.arange(3), needed)

    def costly(_, x):
        jax.debug.callback(lambda: ran.append(1))
        return 2 * x

    solve = jax.vmap(lambda on, x: one_round(on, costly, x))
    got = jax.jit(solve)(lanes, jnp.ones(3))
    jax.effects_barrier()
    np.testing.assert_array_equal(got, np.where(lanes, 2.0, 0.0))
    assert bool(ran) == bool(needed)


def test_a_cond_pays_for_both_branches_under_vmap():
    ran = []

    def costly(x):
        jax.debug.callback(lambda: ran.append(1))
        return 2 * x

    either = jax.vmap(lambda on, x: jax.lax.cond(on, costly, lambda x: x, x))
    jax.block_until_ready(jax.jit(either)(np.zeros(3, bool), jnp.ones(3)))
    jax.effects_barrier()
    assert ran


def test_what_depends_on_the_carry_stays_in_the_loop():
    """A factorisation, by where its call to LAPACK is in the optimised program."""

    def factorise(on, x):
        return jnp.linalg.cholesky(jnp.where(on, x, jnp.nan))

    program = jax.jit(lambda on, x: one_round(on, factorise, x))
    text = program.lower(True, jnp.eye(40)).compile().as_text()
    places = {
        name: any("potrf" in line for line in lines)
        for name, lines in computations(text).items()
    }
    entry = next(line for line in text.splitlines() if line.startswith("ENTRY"))
    assert any(places.values())
    assert not places[entry.split()[1].removeprefix("%")]


def test_numbers_that_are_packed_are_few_kernels():
    class Six(Packed):
        a = Number()
        b = Number()
        c = Number()
        d = Number()
        e = Number()
        f = Flag()

    six = Six.of(jnp.float64, f=True, a=1.0, b=2.0, c=3.0, d=4.0, e=5.0)
    assert [float(x) for x in (six.a, six.b, six.c, six.d, six.e)] == [1, 2, 3, 4, 5]
    assert bool(six.f)

    def packed(x):
        sums = [jnp.sin(x * k) for k in range(5)]
        return Six.of(x.dtype, **dict(zip("abcde", sums, strict=True)), f=x > 0).numbers

    def apart(x):
        return [jnp.sin(x * k) for k in range(5)], x > 0

    def kernels(f):
        return count(jax.jit(f).lower(1.0).compile().as_text(), "sine").kernels

    assert kernels(packed) < kernels(apart)
