"""A million unknowns, in a process of its own: prints its peak memory as JSON.

Both problems couple neighbours only, so their Jacobians are tridiagonal and the oracle
is banded elimination in SciPy. The library sees none of that: only the functions.
"""

import json
import pathlib
import resource
import sys

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.linalg

import implicax as ix

SIZE = 1_000_000
#: Matrices are out of the question; five Krylov vectors a cycle are not.
KRYLOV = lx.GMRES(rtol=1e-4, atol=0.0, restart=5)
OPTIONS = {
    "fixed_point": {},
    "root": {
        "solver": ix.Newton(linear_solver=KRYLOV),
        "derivative": ix.Implicit(linear_solver=KRYLOV),
    },
}


def peak_memory():
    """In bytes. `ru_maxrss` remembers the parent that this process was forked from (a
    test runner with all its programs); Linux' own high-water mark does not."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def neighbours(y):
    padded = jnp.pad(y, 1)
    return padded[2:] + padded[:-2]


def smoothed(y, a):
    return 0.4 * jnp.tanh(neighbours(y)) + a


def reaction_diffusion(y, a):
    return 4 * y + y**3 - neighbours(y) - a


FUNCTIONS = {"fixed_point": smoothed, "root": reaction_diffusion}


def value_and_gradient(kind):
    """Of `sum(y^2)` with respect to `a`, and the solution, as a function of both
    arguments: a constant `y0` would be folded by the compiler, slowly."""

    def loss(a, y0):
        y = getattr(ix, kind)(FUNCTIONS[kind], y0, a, **OPTIONS[kind]).value
        return jnp.sum(y**2), y

    return jax.value_and_grad(loss, has_aux=True)


def errors(kind, y, a, gradient):
    """The residual of `y`, and the error of the gradient: `J^T u = 2 y`, `u` the
    gradient, for both residuals have the derivative `-1` in `a`."""
    s = np.pad(y, 1)
    s = s[2:] + s[:-2]
    if kind == "fixed_point":
        residual = y - 0.4 * np.tanh(s) - a
        diagonal, beside = np.ones_like(y), -0.4 * (1 - np.tanh(s) ** 2)
    else:
        residual = 4 * y + y**3 - s - a
        diagonal, beside = 4 + 3 * y**2, -np.ones_like(y)
    # Row i of J holds `beside[i]` left and right of the diagonal; so does column i of
    # the transpose, and `bands[k, i]` lies in column i.
    bands = np.stack([beside, diagonal, beside])
    u = scipy.linalg.solve_banded((1, 1), bands, 2 * y)
    return np.max(np.abs(residual)), np.max(np.abs(gradient - u)) / np.max(np.abs(u))


def main(kind):
    jax.config.update("jax_enable_x64", True)
    a = np.random.default_rng(0).normal(size=SIZE)
    (_, y), gradient = jax.jit(value_and_gradient(kind))(a, jnp.zeros(SIZE))
    peak = peak_memory()
    residual, error = errors(kind, np.asarray(y), a, np.asarray(gradient))
    print(json.dumps({"peak": peak, "residual": residual, "error": error}))


if __name__ == "__main__":
    main(sys.argv[1])
