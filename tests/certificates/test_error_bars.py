"""Error bars are true: predicted against true gradient errors, level by level."""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicax as ix

from ..error_bar_problems import CASES, Case, conditioned, flat, stack

#: Between these true relative errors a prediction has to be right within a factor two.
WINDOW = (1e-10, 1e-2)
#: How many of the five levels must lie in the window (else nothing is tested).
#: Newton's errors square at each step, and leave it sooner.
LEVELS = dict.fromkeys(CASES, 4) | {"newton iterates": 3}


class Level(NamedTuple):
    true: float
    predicted: float
    corrected: float
    ok: bool


def measure(case: Case) -> list[Level]:
    """Relative errors at each level, all five certified in one compiled batch."""
    certificates = jax.jit(
        jax.vmap(lambda y: ix.certify(case.loss, case.problem, y, case.args))
    )(stack(case.values))
    size = np.linalg.norm(case.truth)
    levels = []
    for k in range(len(case.values)):
        one = jax.tree.map(lambda leaf: leaf[k], certificates)
        levels.append(
            Level(
                np.linalg.norm(flat(one.gradient) - case.truth) / size,
                float(one.gradient_error) / size,
                np.linalg.norm(flat(one.corrected_gradient) - case.truth) / size,
                bool(one.ok),
            )
        )
    return levels


@functools.cache
def levels_of(name: str) -> list[Level]:
    return measure(CASES[name]())


def test_enough_problems_and_levels():
    assert len(CASES) >= 6
    assert sum(LEVELS.values()) >= 30


@pytest.mark.parametrize("name", CASES)
def test_predicted_over_true_is_within_a_factor_of_two(name):
    tested = 0
    for level in levels_of(name):
        if WINDOW[0] <= level.true <= WINDOW[1]:
            tested += 1
            assert 0.5 <= level.predicted / level.true <= 2, level
            assert level.corrected < level.true, level
            assert level.ok, level
    assert tested >= LEVELS[name]


def test_the_table_of_picard_steps():
    """After k = 6, 12, 18, 24 steps of a 30-dimensional tanh map: the prediction has
    two digits from the start, and the corrected gradient the square of the error."""
    table = levels_of("contraction")[:4]
    for earlier, later in itertools.pairwise(table):
        assert 10 < earlier.true / later.true < 100
    for level in table:
        assert level.predicted == pytest.approx(level.true, rel=0.02)
        assert level.corrected < level.true**2


def test_at_the_rounding_level_the_bar_does_not_promise_too_much():
    """With condition number 1e8 no value is known better than `1e8 eps`: there the bar
    is of that size, and never below half the true error."""
    floor = 1e8 * np.finfo(float).eps
    for level in measure(conditioned(1e8, [1e-9, 1e-10, 1e-11, 1e-12, 0.0])):
        assert level.predicted >= level.true / 2, level
        assert level.predicted < 10 * floor, level
        assert level.true < floor, level


def test_float32_under_x64():
    """The bar of a float32 gradient, against the same gradient in float64."""

    def fn(z, a):
        return jnp.tanh(a * z + jnp.asarray(0.5, a.dtype))

    def certify(dtype, steps):
        a, z = jnp.asarray(0.7, dtype), jnp.zeros((), dtype)
        for _ in range(steps):
            z = fn(z, a)
        return ix.certify(lambda z, a: z, ix.FixedPoint(fn), z, a)

    truth = float(certify("float64", 200).gradient)
    rough = certify("float32", 6)
    assert rough.gradient.dtype == rough.gradient_error.dtype == jnp.float32
    true = abs(float(rough.gradient) - truth)
    assert 2e-5 < true < 1e-2
    assert float(rough.gradient_error) == pytest.approx(true, rel=0.05)
