"""Problems whose exact gradient is known, each with values at five distances.

The truth is never the library's own derivative: it is a closed form, evaluated in
50-digit arithmetic where float64 would not do, or the theorem written out with dense
numpy matrices at a solution found to rounding.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
from jax.flatten_util import ravel_pytree

import implicax as ix


class Case(NamedTuple):
    """One problem: `values` are approximate solutions, from far to near."""

    problem: ix.Root | ix.FixedPoint
    loss: Callable[[Any, Any], Any]
    args: Any
    values: list[Any]
    truth: np.ndarray
    """The exact gradient: the raveled `args`, real and imaginary parts apart."""


def flat(tree: Any) -> np.ndarray:
    """All numbers of a pytree as one real vector."""
    leaves = [np.atleast_1d(np.asarray(leaf)) for leaf in jax.tree.leaves(tree)]
    parts = [
        part
        for leaf in leaves
        for part in ([leaf.real, leaf.imag] if np.iscomplexobj(leaf) else [leaf])
    ]
    return np.concatenate([part.ravel() for part in parts])


def stack(values: list[Any]) -> Any:
    """A list of pytrees as one batch."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *values)


def perturbed(solution: Any, sizes: list[float], seed: int = 7) -> list[Any]:
    """`solution + size * direction`, the direction fixed and of unit length."""
    vector, unravel = ravel_pytree(solution)
    direction = np.random.default_rng(seed).normal(size=vector.shape)
    direction = jnp.asarray(direction / np.linalg.norm(direction), vector.dtype)
    return [unravel(vector + size * direction) for size in sizes]


def polished(residual: Callable[[Any], Any], start: Any) -> Any:
    """Newton's method in numpy, to rounding."""
    vector, unravel = ravel_pytree(start)
    flat_residual = jax.jit(lambda v: ravel_pytree(residual(unravel(v)))[0])
    jacobian = jax.jit(jax.jacfwd(flat_residual))
    for _ in range(50):
        step = np.linalg.solve(jacobian(vector), flat_residual(vector))
        vector = vector - step
        if np.linalg.norm(step) < 1e-15 * np.linalg.norm(vector):
            break
    assert np.linalg.norm(step) < 1e-13 * np.linalg.norm(vector)
    return unravel(vector)


def theorem(residual: Callable, loss: Callable, y: Any, args: Any) -> np.ndarray:
    """`dl/da - dF/da^T (dF/dy)^-T dl/dy` with dense matrices, for real pytrees."""
    v, unravel_y = ravel_pytree(y)
    a, unravel_a = ravel_pytree(args)

    def both(v, a):
        y, args = unravel_y(v), unravel_a(a)
        return ravel_pytree(residual(y, args))[0], loss(y, args)

    (F_y, l_y), (F_a, l_a) = (
        jax.jit(jax.jacrev(both, argnums=argnum))(v, a) for argnum in (0, 1)
    )
    return np.asarray(l_a) - np.asarray(F_a).T @ np.linalg.solve(
        np.asarray(F_y).T, np.asarray(l_y)
    )


def tanh_map(n: int = 30, size: float = 0.6, seed: int = 0) -> tuple:
    """`z = tanh(W z + x)` with spectral radius about `size`, and a quadratic loss."""
    rng = np.random.default_rng(seed)
    args = {
        "W": jnp.asarray(size * rng.normal(size=(n, n)) / np.sqrt(n)),
        "x": jnp.asarray(rng.normal(size=n) / np.sqrt(n)),
    }

    def fn(z, a):
        return jnp.tanh(a["W"] @ z + a["x"])

    def loss(z, a):
        return jnp.sum(z**2) + jnp.sum(a["x"] * z)

    return fn, loss, args


def contraction(steps: tuple[int, ...] = (6, 12, 18, 24, 30)) -> Case:
    """Plain iteration on a contracting map, stopped early."""
    fn, loss, args = tanh_map()
    values, z = [], jnp.zeros(30)
    for k in range(1, max(steps) + 1):
        z = fn(z, args)
        values += [z] if k in steps else []
    solution = polished(lambda y: y - fn(y, args), z)
    truth = theorem(lambda y, a: y - fn(y, a), loss, solution, args)
    return Case(ix.FixedPoint(fn), loss, args, values, truth)


def expansion() -> Case:
    """A map with spectral radius about 3: only Newton gets there."""
    fn, loss, args = tanh_map(n=8, size=3.0, seed=5)

    def residual(y, a):
        return y - fn(y, a)

    start = ix.root(residual, 0.1 * jnp.ones(8), args, max_steps=1000).value
    solution = polished(lambda y: residual(y, args), start)
    truth = theorem(residual, loss, solution, args)
    values = perturbed(solution, [3e-3, 1e-4, 1e-5, 1e-7, 1e-9])
    return Case(ix.Root(residual), loss, args, values, truth)


def newton_iterates() -> Case:
    """Kepler's equation at eccentricity 0.9, after one to five Newton steps."""

    def residual(E, a):
        return E - a["e"] * jnp.sin(E) - a["M"]

    with mpmath.workdps(50):
        e, M = mpmath.mpf(0.9), mpmath.mpf(0.5)
        exact = mpmath.findroot(lambda E: E - e * mpmath.sin(E) - M, 1.6)
        slope = 2 * exact / (1 - e * mpmath.cos(exact))
        truth = np.array([float(slope * mpmath.sin(exact)), float(slope)])
    E, values = jnp.asarray(2.2), []
    for _ in range(5):
        E = E - (E - 0.9 * jnp.sin(E) - 0.5) / (1 - 0.9 * jnp.cos(E))
        values.append(E)
    args = {"M": jnp.asarray(0.5), "e": jnp.asarray(0.9)}
    truth = truth[::-1]  # the order of the dictionary's keys: M, e
    return Case(ix.Root(residual), lambda E, a: E**2, args, values, truth)


def conditioned(
    condition: float, sizes: list[float], n: int = 6, seed: int | None = None
) -> Case:
    """`M phi(y) = a` with `phi(y) = y + y^3 / 10` and `cond(M) = condition`.

    Closed form: for the loss `w^T y`, `dl/da = M^-T (w / phi'(y))`, evaluated for the
    float64 numbers of `M` in 50-digit arithmetic.
    """
    seed = int(np.log10(condition)) if seed is None else seed
    rng = np.random.default_rng(seed)
    left, _ = np.linalg.qr(rng.normal(size=(n, n)))
    right, _ = np.linalg.qr(rng.normal(size=(n, n)))
    M = left @ np.diag(np.logspace(0, -np.log10(condition), n)) @ right
    w, y = rng.normal(size=n), rng.uniform(1, 2, size=n)
    with mpmath.workdps(50):
        matrix = mpmath.matrix(M.tolist())
        phi = mpmath.matrix([mpmath.mpf(t) + mpmath.mpf(t) ** 3 / 10 for t in y])
        right_side = np.array([float(t) for t in matrix * phi])
        scaled = [
            mpmath.mpf(s) / (1 + 3 * mpmath.mpf(t) ** 2 / 10)
            for s, t in zip(w, y, strict=True)
        ]
        u = mpmath.lu_solve(matrix.T, mpmath.matrix(scaled))
        truth = np.array([float(t) for t in u])
    M, w = jnp.asarray(M), jnp.asarray(w)

    def residual(y, a):
        return M @ (y + y**3 / 10) - a

    values = perturbed(jnp.asarray(y), sizes)
    args = jnp.asarray(right_side)
    return Case(ix.Root(residual), lambda y, a: w @ y, args, values, truth)


def matrix_root() -> Case:
    """`Y Y = A`, `t = trace(Y) s`: a dictionary of a matrix and a scalar."""
    rng = np.random.default_rng(3)
    half = rng.normal(size=(3, 3))
    A = jnp.asarray(half @ half.T + np.eye(3))
    args = (A, {"s": jnp.asarray(0.7)})

    def residual(y, a):
        A, more = a
        square = y["Y"] @ y["Y"] - A
        return {"Y": square, "t": y["t"] - more["s"] * jnp.trace(y["Y"]) ** 2}

    def loss(y, a):
        return jnp.sin(y["t"] / 10) + jnp.sum(y["Y"] ** 3)

    start = {"Y": jnp.eye(3) + A / 4, "t": jnp.asarray(1.0)}
    solution = polished(lambda y: residual(y, args), start)
    truth = theorem(residual, loss, solution, args)
    values = perturbed(solution, [1e-3, 1e-4, 1e-6, 1e-7, 1e-9])
    return Case(ix.Root(residual), loss, args, values, truth)


def coupled_map(steps: tuple[int, ...] = (4, 8, 12, 20, 30)) -> Case:
    """A fixed point in a nested pytree, `args` a tuple, after Picard steps."""
    rng = np.random.default_rng(4)
    args = (jnp.asarray(rng.normal(size=(4, 4)) / 5), [jnp.asarray(0.3)])

    def fn(y, a):
        W, (b,) = a
        u, v = y["u"], y["more"][0]
        return {"u": jnp.sin(W @ u + v), "more": [0.5 * jnp.cos(jnp.sum(u) * b)]}

    def loss(y, a):
        return jnp.sum(y["u"]) * y["more"][0] + a[1][0] ** 2

    y, values = {"u": jnp.zeros(4), "more": [jnp.asarray(0.0)]}, []
    for k in range(1, max(steps) + 1):
        y = fn(y, args)
        values += [y] if k in steps else []

    def residual(y, a):
        return jax.tree.map(jnp.subtract, y, fn(y, a))

    solution = polished(lambda y: residual(y, args), y)
    truth = theorem(residual, loss, solution, args)
    return Case(ix.FixedPoint(fn), loss, args, values, truth)


def complex_map() -> Case:
    """`z = c + b conj(z)^2`: complex, not holomorphic; truth on real coordinates.

    JAX's gradient of a real function of `a = p + i q` is `dl/dp - i dl/dq`.
    """

    def fn(z, a):
        return a["c"] + a["b"] * jnp.conj(z) ** 2

    def loss(z, a):
        return jnp.real(z * (1 + 2j)) + jnp.abs(z) ** 2

    args = {"b": jnp.asarray(0.3 - 0.2j), "c": jnp.asarray(0.4 + 0.5j)}

    def to_complex(real):
        return {k: jax.lax.complex(*x) for k, x in real.items()}

    real_args = {k: jnp.stack([x.real, x.imag]) for k, x in args.items()}

    def residual(v, real):
        z = jax.lax.complex(v[0], v[1])
        out = z - fn(z, to_complex(real))
        return jnp.stack([out.real, out.imag])

    def real_loss(v, real):
        return loss(jax.lax.complex(v[0], v[1]), to_complex(real))

    solution = polished(lambda v: residual(v, real_args), jnp.asarray([0.4, 0.5]))
    truth = theorem(residual, real_loss, solution, real_args)
    truth = truth * np.array([1, -1, 1, -1])
    values = [
        jax.lax.complex(v[0], v[1])
        for v in perturbed(solution, [1e-3, 1e-4, 1e-6, 1e-7, 1e-9])
    ]
    return Case(ix.FixedPoint(fn), loss, args, values, truth)


CASES: dict[str, Callable[[], Case]] = {
    "contraction": contraction,
    "expansion": expansion,
    "newton iterates": newton_iterates,
    "condition 1e2": lambda: conditioned(1e2, [1e-2, 1e-3, 1e-5, 1e-7, 1e-9]),
    "condition 1e8": lambda: conditioned(1e8, [1e-2, 1e-3, 1e-4, 1e-5, 1e-6]),
    "matrix root": matrix_root,
    "coupled map": coupled_map,
    "complex map": complex_map,
}
