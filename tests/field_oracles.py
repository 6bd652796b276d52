"""What is right, without the library: mpmath's numbers for equations, SciPy and
Newton's method on the exact gradient for fits and minima."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import scipy.optimize
from jax.flatten_util import ravel_pytree


class Digits:
    """What equations need of `jax.numpy`, for mpmath's numbers in NumPy's arrays."""

    exp, log, sqrt, cos, sin, asinh = (
        np.frompyfunc(getattr(mpmath, name), 1, 1)
        for name in ("exp", "log", "sqrt", "cos", "sin", "asinh")
    )
    stack, concatenate, sum = np.stack, np.concatenate, np.sum


def root(residual, near, args):
    """The root of `residual(y, args, Digits)` next to `near`, in double precision."""
    with mpmath.workdps(50):
        return _double(_root(residual, near, args))


def root_slope(residual, near, args, along):
    """Its derivative along a direction of the arguments."""
    with mpmath.workdps(50):
        h = mpmath.mpf(10) ** -12
        along = _many(along)
        ahead, behind = (
            _root(residual, near, _many(args) + s * along) for s in (h, -h)
        )
        return _double((ahead - behind) / (2 * h))


def _many(row):
    return np.array([mpmath.mpmathify(x) for x in row])


def _double(row):
    is_complex = any(isinstance(u, mpmath.mpc) for u in row)
    return row.astype(complex if is_complex else float)


def _root(residual, near, args):
    y, a = _many(near), _many(args)
    for _ in range(60):
        f = np.asarray(residual(y, a, Digits))
        columns = []
        for u, unit in zip(y, np.eye(y.size, dtype=int), strict=True):
            h = mpmath.mpf(10) ** -25 * (abs(u) or 1)
            columns.append((np.asarray(residual(y + h * unit, a, Digits)) - f) / h)
        matrix = mpmath.matrix(np.stack(columns, 1).tolist())
        step = np.array(list(mpmath.lu_solve(matrix, mpmath.matrix(f.tolist()))))
        y = y - step
        # (Unknowns that are zero are never small next to themselves.)
        sizes = np.array([max(abs(u), 1e-13) for u in y])
        if np.all(np.abs(step) < 1e-32 * sizes):
            return np.array([u if abs(u) > 1e-40 else 0 * u for u in y])
    raise ArithmeticError("the oracle does not converge")


class Best:
    """The unknowns with the least sum of squared errors, or objective: flat vectors."""

    def __init__(self, fn, y, args, fit):
        back, args_back = (
            ravel_pytree(jax.tree.map(jnp.asarray, tree))[1] for tree in (y, args)
        )
        out = lambda v, a: ravel_pytree(fn(back(v), args_back(a)))[0]
        value = lambda v, a: jnp.sum(out(v, a) ** 2) / 2 if fit else jnp.sum(out(v, a))
        self.fit = fit
        self.errors = jax.jit(lambda v, a: (out(v, a), jax.jacfwd(out)(v, a)))
        self.slope = jax.jit(
            lambda v, a: (jax.grad(value)(v, a), jax.hessian(value)(v, a))
        )

    def near(self, v, a):
        """MINPACK, and Newton's method on the exact gradient."""
        if self.fit:
            v = scipy.optimize.least_squares(
                lambda v: np.asarray(self.errors(v, a)[0]),
                v,
                lambda v: np.asarray(self.errors(v, a)[1]),
                method="lm",
                x_scale="jac",
                xtol=1e-15,
                ftol=1e-15,
                gtol=1e-15,
                max_nfev=20000,
            ).x
        return self.polished(v, a)

    def polished(self, v, a, steps=8):
        for _ in range(steps):
            slope, hessian = map(np.asarray, self.slope(v, a))
            units = 1 / np.sqrt(np.abs(np.diag(hessian)))
            scaled = hessian * units * units[:, None]
            v = v - units * np.linalg.solve(scaled, units * slope)
        return v

    def along(self, v, a, direction, step=1e-5):
        """The derivative of the solution `v` along a direction of the arguments."""
        ahead, behind = (self.polished(v, a + s * direction) for s in (step, -step))
        return (ahead - behind) / (2 * step)

    def standard_errors(self, v, a, absolute):
        e, J = map(np.asarray, self.errors(v, a))
        units = np.linalg.norm(J, axis=0)
        inverse = np.linalg.inv(np.linalg.qr(J / units)[1])
        variance = 1.0 if absolute else e @ e / (e.size - v.size)
        return np.sqrt(variance * np.sum(inverse**2, axis=1)) / units
