"""What a person who knows the theorem writes by hand, for `z = tanh(W z + x)`.

Forward solves stop by the same rule as the libraries' (`|F| <= atol + rtol |z|`).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import bicgstab, gmres


def fn(z, params):
    W, x = params
    return jnp.tanh(W @ z + x)


def picard(tol):
    """A bounded while loop of plain iteration."""

    def solve(params):
        x = params[1]

        def going(carry):
            z, z_next, k = carry
            return (jnp.linalg.norm(z_next - z) > tol * (1 + jnp.linalg.norm(z))) & (
                k < 256
            )

        def step(carry):
            _, z, k = carry
            return z, fn(z, params), k + 1

        zero = jnp.zeros_like(x)
        return jax.lax.while_loop(going, step, (zero, fn(zero, params), 0))[0]

    return solve


def newton(tol):
    """A bounded while loop of Newton steps with a dense Jacobian."""

    def solve(params):
        x = params[1]

        def residual(z):
            return z - fn(z, params)

        def going(carry):
            z, F, k = carry
            return (jnp.linalg.norm(F) > tol * (1 + jnp.linalg.norm(z))) & (k < 256)

        def step(carry):
            z, F, k = carry
            z = z - jnp.linalg.solve(jax.jacfwd(residual)(z), F)
            return z, residual(z), k + 1

        zero = jnp.zeros_like(x)
        return jax.lax.while_loop(going, step, (zero, residual(zero), 0))[0]

    return solve


def with_adjoint(solve, adjoint):
    """A `custom_vjp` around `solve` whose backward pass is `adjoint`."""

    @jax.custom_vjp
    def solution(params):
        return solve(params)

    def forward(params):
        z = solve(params)
        return z, (z, params)

    def backward(saved, v):
        z, params = saved
        _, pull_z = jax.vjp(lambda z: fn(z, params), z)
        u = adjoint(z, params, lambda u: pull_z(u)[0], v)
        _, pull_params = jax.vjp(lambda p: fn(z, p), params)
        return pull_params(u)

    solution.defvjp(forward, backward)
    return solution


def dense(z, params, pull, v):
    """Form `I - A`, solve with its transpose."""
    A = jax.jacfwd(fn)(z, params)
    return jnp.linalg.solve((jnp.eye(z.size, dtype=z.dtype) - A).T, v)


def iterated(z, params, pull, v, *, tol):
    """The fixed-point adjoint `u <- v + A^T u`."""

    def going(carry):
        u, u_next, k = carry
        return (jnp.linalg.norm(u_next - u) > tol * jnp.linalg.norm(v)) & (k < 256)

    def step(carry):
        _, u, k = carry
        return u, v + pull(u), k + 1

    return jax.lax.while_loop(going, step, (v, v + pull(v), 0))[1]


def krylov(z, params, pull, v, *, method, tol):
    """A Krylov method from JAX's SciPy."""
    return method(lambda u: u - pull(u), v, tol=tol, atol=0.0)[0]


def adjoints(tol):
    """The matrix-free adjoints that a person would try."""
    return {
        "iterated": partial(iterated, tol=tol),
        "bicgstab": partial(krylov, method=bicgstab, tol=tol),
        "gmres": partial(krylov, method=gmres, tol=tol),
    }
