"""Sizes component by component, for all the numbers that there are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from implicax._core import componentwise, tree_math

DTYPES = ["float16", "float32", "float64"]
SIZE = 7


def numbers(dtype):
    width = np.finfo(dtype).bits
    tiny = float(np.finfo(dtype).tiny)
    # (The compiler may flush what is below the normal numbers to zero.)
    floats = st.floats(width=width).map(lambda x: 0.0 if abs(x) < tiny else x)
    return st.lists(floats, min_size=SIZE, max_size=SIZE)


max_abs, ratios = jax.jit(tree_math.max_abs), jax.jit(componentwise.ratios)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_the_largest_is_numpys_and_nan_is_larger(dtype, data):
    x = np.asarray(data.draw(numbers(dtype)), dtype)
    got = max_abs(jnp.asarray(x))
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, np.max(np.abs(x)))


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_ratios_are_infinite_or_what_they_are(data):
    d, y, e = (np.asarray(data.draw(numbers("float64"))) for _ in range(3))
    got = ratios((jnp.asarray(d), jnp.asarray(y)), (jnp.asarray(e), jnp.asarray(y)))
    tiny = np.finfo(np.float64).tiny
    for numerator, found in zip((d, e), got, strict=True):
        with np.errstate(all="ignore"):
            wanted = np.max(np.abs(numerator) / np.maximum(np.abs(y), tiny))
        wanted = np.inf if np.isnan(wanted) else wanted
        np.testing.assert_allclose(found, wanted, rtol=1e-15)


def test_a_maximum_has_no_derivative():
    assert np.all(jax.grad(tree_math.max_abs)(jnp.asarray([1.0, -3.0])) == 0)
