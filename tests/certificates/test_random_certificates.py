"""Certificates of random problems say `ok` where, and only where, that is right.

The oracle is the theorem written out in NumPy, at the solution that Newton's method in
NumPy reaches from the value that was certified.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ..random_problems import (
    KINDS,
    SIZES,
    certifier,
    data,
    displaced,
    draw,
    gradient,
    jacobian,
    newton,
)

EPS = np.finfo(float).eps
COUNT = 60


class Found:
    """What the certificates of one kind say, beside what is true."""

    def __init__(self, kind: str):
        p = draw(kind, COUNT, seed=1)
        values = displaced(p, seed=2)
        c = jax.device_get(certifier(kind)(jax.tree.map(jnp.asarray, p), values))
        end, self.arrived = newton(kind, p, values)
        exact = gradient(kind, p, end)
        wrong = np.concatenate([c.gradient[name] for name in "bkw"], -1) - exact
        size = np.linalg.norm(exact, axis=-1)
        self.certificates, self.ok = c, c.ok
        self.true = np.linalg.norm(wrong, axis=-1) / size
        self.predicted = c.gradient_error / size
        self.elastic = np.max(np.abs(wrong * data(p)), -1) / np.max(
            np.abs(exact * data(p)), -1
        )
        matrix = np.nan_to_num(jacobian(kind, p, end))
        self.condition = np.linalg.cond(matrix)
        self.lowest = np.linalg.eigvalsh(matrix)[..., 0]
        moved = np.linalg.norm(end - p.x, axis=-1)
        self.home = moved <= 1e-6 * np.linalg.norm(p.x, axis=-1)


found = functools.cache(Found)


@pytest.mark.parametrize("kind", KINDS)
def test_ok_is_right(kind):
    """From wherever: there is a solution, and the gradient is that at it to one part in
    a hundred, as a whole and in each elasticity."""
    f = found(kind)
    assert np.sum(f.ok) >= 2 * COUNT
    assert np.all(f.arrived[f.ok])
    assert np.max(f.true[f.ok]) < 1e-2
    assert np.max(f.elastic[f.ok]) < 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_predicted_over_true_is_within_a_factor_of_two(kind):
    """Above what rounding leaves of a solution and of an adjoint: the rounding unit
    times the condition number, and a hundred for both."""
    f = found(kind)
    seen = f.ok & (f.true > 100 * EPS * f.condition)
    ratio = f.predicted[seen] / f.true[seen]
    assert ratio.size >= 2 * COUNT
    assert np.min(ratio) >= 0.5
    assert np.max(ratio) <= 2


@pytest.mark.parametrize("kind", KINDS)
def test_good_values_are_not_refused(kind):
    """Displaced by 1e-4 at most, the gradient right to half of what is trusted, the
    equations not ill-conditioned; and a minimum is one."""
    f = found(kind)
    good = (SIZES[:, None] <= 1e-4) & f.home & (f.condition < 1e8)
    good &= (f.true < 5e-3) & (f.elastic < 5e-3)
    if kind == "minimum":
        good &= f.lowest > 0
    assert np.sum(good) >= 2 * COUNT
    assert np.mean(f.ok[good]) >= 0.99


def test_no_saddle_point_is_ok():
    f = found("minimum")
    saddles = f.lowest < 0
    assert np.sum(saddles[0]) >= COUNT // 4
    assert not np.any(f.ok & saddles)
    assert not np.any(f.certificates.minimum[0][saddles[0]])
