"""Random problems with the theorem written out in NumPy, for thousands at a time.

In well-scaled unknowns `x` (five of them, coupled at random):

    root          A x + k tanh(C x) + q x^3 = b
    fixed point   x = k tanh(C x) + b
    minimum       x.A x / 2 + k.log cosh(C x) + q.x^4 / 4 - b.x,  A not always definite

The problem that is certified is in the unknowns `y = s x`, its equations multiplied by
`r` (numbers between 1e-3 and 1e3, or ones), and `b` with them. The loss is
`w.sin(y / s)`, the gradient that in `b`, `k` and `w`. Each problem comes with a
solution and values displaced from it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import implicax as ix

N = 5
KINDS = ("root", "fixed point", "minimum")
#: Displacements of the values, relative to each unknown.
SIZES = np.array([0, 1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1, 1e2])


class Problems(NamedTuple):
    """A batch of them: arrays with a leading axis."""

    A: np.ndarray
    C: np.ndarray
    q: np.ndarray
    k: np.ndarray
    b: np.ndarray
    w: np.ndarray
    s: np.ndarray
    r: np.ndarray
    x: np.ndarray
    """A solution."""


def tanh_of(p, x):
    return np.tanh(np.einsum("...ij,...j->...i", p.C, x))


def residual(kind, p, x):
    """`F(x)`, without scales."""
    t = p.k * tanh_of(p, x)
    if kind == "fixed point":
        return x - t - p.b
    if kind == "minimum":
        t = np.einsum("...ji,...j->...i", p.C, t)
    return np.einsum("...ij,...j->...i", p.A, x) + t + p.q * x**3 - p.b


def jacobian(kind, p, x):
    slope = (p.k * (1 - tanh_of(p, x) ** 2))[..., None] * p.C
    if kind == "fixed point":
        return np.eye(N) - slope
    if kind == "minimum":
        slope = np.einsum("...ji,...jk->...ik", p.C, slope)
    return p.A + slope + 3 * (p.q * x**2)[..., None] * np.eye(N)


def gradient(kind, p, x):
    """The theorem at `x`: of `w.sin(x)` in `r b`, `k` and `w`, in a row."""
    t, J = tanh_of(p, x), jacobian(kind, p, x)
    u = np.linalg.solve(np.swapaxes(J, -1, -2), (p.w * np.cos(x))[..., None])[..., 0]
    by_k = np.einsum("...ji,...i->...j", p.C, u) * t if kind == "minimum" else u * t
    sign = 1 if kind == "fixed point" else -1
    return np.concatenate([u / p.r, sign * by_k, np.sin(x)], -1)


def data(p):
    """What the gradient is in, in a row."""
    return np.concatenate([p.r * p.b, p.k, p.w], -1)


def newton(kind, p, x, steps=40):
    """Newton's method from `x`, and whether it has arrived."""
    with np.errstate(all="ignore"):
        for _ in range(steps):
            J, F = jacobian(kind, p, x), residual(kind, p, x)
            regular = np.isfinite(J).all((-1, -2)) & (np.abs(np.linalg.det(J)) > 0)
            J = np.where(regular[..., None, None], J, np.eye(N))
            step = np.linalg.solve(J, F[..., None])[..., 0]
            x = np.where(regular[..., None], x - step, np.nan)
        size = np.linalg.norm(step, axis=-1)
        return x, size <= 1e-9 * np.linalg.norm(x, axis=-1)


def draw(kind: str, count: int, seed: int) -> Problems:
    """`count` problems: a third of them with scales, a third with a zero unknown."""
    rng = np.random.default_rng(seed)
    normal = rng.normal
    A = normal(size=(count, N, N)) + 2 * np.eye(N)
    if kind == "minimum":
        A = (A + np.swapaxes(A, -1, -2)) / 2
    # Unknowns beyond a random number of them are coupled to nothing.
    coupled = np.arange(N) < rng.integers(1, N + 1, size=count)[:, None]
    both = (coupled[:, :, None] & coupled[:, None, :]) | np.eye(N, dtype=bool)
    A = np.where(both, A, 0)
    C = np.where(both, normal(size=(count, N, N)), 0) * 10 ** rng.uniform(
        -1, 0.7, size=(count, 1, 1)
    )
    k = normal(size=(count, N)) * (0.5 if kind == "fixed point" else 2)
    x = normal(size=(count, N)) * 10 ** rng.uniform(-2, 1, size=(count, N))
    zero = (np.arange(count) % 3 == 0)[:, None] & (np.arange(N) == 0)
    x = np.where(zero, 0, x)
    scaled = (np.arange(count) % 3 == 1)[:, None]
    s, r = 10 ** np.where(scaled, rng.uniform(-3, 3, size=(2, count, N)), 0)
    if kind != "root":  # of which the equations have the unit of `y`, or the inverse
        r = s if kind == "fixed point" else 1 / s
    q = np.where(rng.random((count, N)) < 0.5, 0.3, 0)
    p = Problems(A, C, q, k, np.zeros((count, N)), normal(size=(count, N)), s, r, x)
    p = p._replace(b=residual(kind, p, x))
    # What the rounding of `b` leaves.
    return p._replace(x=np.where(zero, 0, newton(kind, p, x, 2)[0]))


def displaced(p: Problems, seed: int) -> np.ndarray:
    """Values `x` at all `SIZES` (first axis) from the solution."""
    u = np.random.default_rng(seed).normal(size=(SIZES.size, *p.x.shape))
    return p.x + SIZES[:, None, None] * u * np.where(p.x == 0, 1, np.abs(p.x))


def certifier(kind: str):
    """One problem and a value to a certificate."""

    def certify(p: Problems, x) -> ix.Certificate:
        A, C, q, s, r = p.A, p.C, p.q, p.s, p.r
        args = {"b": r * p.b, "k": p.k, "w": p.w}

        def root(y, a):
            x = y / s
            return r * (A @ x + a["k"] * jnp.tanh(C @ x) + q * x**3) - a["b"]

        def fixed_point(y, a):
            return s * a["k"] * jnp.tanh(C @ (y / s)) + a["b"]

        def minimum(y, a):
            x = y / s
            t = C @ x
            softened = jnp.logaddexp(t, -t)
            smooth = x @ A @ x / 2 + a["k"] @ softened + q @ x**4 / 4
            return smooth - a["b"] @ y

        problem = {
            "root": ix.Root(root),
            "fixed point": ix.FixedPoint(fixed_point),
            "minimum": ix.Minimum(minimum),
        }[kind]
        return ix.certify(lambda y, a: a["w"] @ jnp.sin(y / s), problem, s * x, args)

    return jax.jit(jax.vmap(jax.vmap(certify), in_axes=(None, 0)))
