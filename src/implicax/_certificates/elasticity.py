"""Errors of a gradient, datum by datum.

In one norm a gradient with respect to a temperature and a rate constant of 1e-14 is
that with respect to the rate constant. What has no such unit are *elasticities*,
`a_i dl/da_i`: what a change of a datum by one per cent makes of the loss.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from implicax._core import tree_math


class Elasticity(eqx.Module):
    error: Float[Array, ""]
    """The largest error of an elasticity, relative to the largest elasticity."""
    worst: Int[Array, ""]
    """Where that error is: the place in the raveled data."""


def elasticity(
    errors: PyTree[Array], gradient: PyTree[Array], args: PyTree[Array]
) -> Elasticity:
    """Of a gradient in `args` with those errors."""
    leaves = zip(*map(jax.tree.leaves, (errors, gradient, args)), strict=True)
    dtype = tree_math.working_dtype(errors)
    error, size = jnp.zeros((), dtype), jnp.zeros((), dtype)
    worst, start = jnp.zeros((), jnp.int32), 0
    for e, g, a in leaves:
        if a.size == 0:
            continue
        here = _product(e, a).astype(dtype)
        largest, place = jnp.max(here), jnp.argmax(here).astype(jnp.int32)
        worst = jnp.where(largest > error, start + place, worst)
        error = jnp.maximum(error, largest)
        size = jnp.maximum(size, jnp.max(_product(g, a).astype(dtype)))
        start += a.size
    relative = jnp.where(error == 0, 0, error / size)
    return Elasticity(jnp.where(jnp.isnan(relative), jnp.inf, relative), worst)


def _product(slope: Array, datum: Array) -> Float[Array, " n"]:
    """`|slope| |datum|`, in a row: infinite where it is not a number, and zero where
    the datum does not matter (missing ones may be coded as NaN)."""
    slope, datum = jnp.abs(slope).ravel(), jnp.abs(datum).ravel()
    product = jnp.where(slope == 0, 0, slope * datum)
    return jnp.where(jnp.isnan(product), jnp.inf, product)
