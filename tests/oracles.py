"""What derivatives must be: closed forms, differences, and unrolled autodiff.

Closed forms are written in NumPy, in double precision, on the *real view*: a complex
vector as its real parts followed by its imaginary parts. The equation linearised at a
solution is `A dz + B conj(dz) + r = 0`, an ordinary real system twice as large; without
conjugates and imaginary parts it is `A dz + r = 0`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from .cases import MINIMA, SIZE, Case, restore, squares


def central(fn: Callable[[np.ndarray], np.ndarray], t: Any, step: float) -> np.ndarray:
    """The Jacobian of `fn` at `t` by central differences of fourth order.

    The truncation error is of order `step**4`, that of rounding `eps / step`: a step
    near `eps**(1/5) = 7e-4` makes both about 1e-12.
    """
    columns = []
    for e in np.eye(np.size(t)):
        near = fn(t + step * e) - fn(t - step * e)
        far = fn(t + 2 * step * e) - fn(t - 2 * step * e)
        columns.append((8 * near - far) / (12 * step))
    return np.stack(columns, axis=-1)


def relative_error(came: Any, expected: Any) -> float:
    """`|came - expected| / |expected|`, all leaves of the two trees in one row."""
    assert jax.tree.structure(came) == jax.tree.structure(expected)
    came, expected = (
        np.concatenate([np.asarray(x).reshape(-1) for x in jax.tree.leaves(tree)])
        for tree in (came, expected)
    )
    return float(np.linalg.norm(came - expected) / np.linalg.norm(expected))


class ClosedForm:
    """Solution and derivatives of a `Case`, none of them by autodiff or by the library.

    The case's own numbers (which may be float32) are taken as exact.
    """

    def __init__(self, case: Case):
        self.case = case
        dtype = np.complex128 if case.dtype.kind == "c" else np.float64
        self.double = lambda tree: jax.tree.map(lambda x: np.asarray(x, dtype), tree)

    def arguments(self, t: np.ndarray) -> dict[str, Any]:
        """`case.along(t)` in double precision."""
        return jax.tree.map(
            lambda leaf, tangents: leaf + np.tensordot(t, tangents, axes=1),
            self.double(self.case.args),
            self.double(self.case.directions),
        )

    def solve(self, args: dict[str, Any]) -> np.ndarray:
        """`z` by Newton's method, to rounding."""
        z = np.zeros(SIZE, args["W"].dtype)
        for _ in range(12):
            z = z + self._linear_solve(z, args, self._residual(z, args))
        assert np.linalg.norm(self._residual(z, args)) < 1e-14
        return z

    def tangent(self, z: np.ndarray, args: Any, tangents: Any) -> np.ndarray:
        """`dz` for `tangents` of the arguments."""
        affine = tangents["W"] @ z + _row(tangents["x"])
        if self.case.conjugate:
            affine = affine + tangents["C"] @ np.conj(z)
        return self._linear_solve(z, args, -self._outer(z, args) * affine)

    def cotangent(self, z: np.ndarray, args: Any, cotangent: Any) -> Any:
        """What `jax.vjp` gives: `v` with `Re sum(v da) = Re sum(cotangent dz)`.

        One entry at a time: `Re v` from a real unit tangent, `-Im v` from an imaginary.
        """
        flat, unravel = _ravel(args)
        row = _row(self.double(cotangent))

        def pair(tangents: np.ndarray) -> float:
            return float(np.sum(row * self.tangent(z, args, unravel(tangents))).real)

        units = np.eye(flat.size, dtype=flat.dtype)
        v = np.array([pair(e) for e in units])
        if flat.dtype.kind == "c":
            v = v - 1j * np.array([pair(1j * e) for e in units])
        return unravel(v)

    def jacobian(self, t: np.ndarray) -> np.ndarray:
        """`dz/dt` along the directions."""
        args, directions = self.arguments(t), self.double(self.case.directions)
        z = self.solve(args)
        columns = [
            self.tangent(z, args, jax.tree.map(lambda leaf: leaf[k], directions))
            for k in range(t.size)
        ]
        return np.stack(columns, axis=-1)

    def gradient(self, t: np.ndarray) -> np.ndarray:
        """`d loss / dt = Re((w conj(z) + c) dz/dt)`."""
        z = self.solve(self.arguments(t))
        c, w = _row(self.double(self.case.cotangent)), np.asarray(self.case.weights)
        return ((w.astype(np.float64) * np.conj(z) + c) @ self.jacobian(t)).real

    def hessian(self, t: np.ndarray) -> np.ndarray:
        """`d^2 loss / dt^2`, by differences of the closed-form gradient."""
        return central(self.gradient, t, 5e-4)

    def _affine(self, z: np.ndarray, args: Any) -> np.ndarray:
        affine = args["W"] @ z + _row(args["x"])
        return affine + args["C"] @ np.conj(z) if self.case.conjugate else affine

    def _residual(self, z: np.ndarray, args: Any) -> np.ndarray:
        affine = self._affine(z, args)
        if self.case.kind == "fixed_point":
            return z - np.tanh(affine)
        return z + z**2 * (np.conj(z) if self.case.conjugate else z) / 4 - affine

    def _outer(self, z: np.ndarray, args: Any) -> np.ndarray:
        """Minus the derivative of the residual in the affine part."""
        if self.case.kind == "root":
            return np.ones_like(z)
        return 1 - np.tanh(self._affine(z, args)) ** 2

    def _linear_solve(self, z: np.ndarray, args: Any, r: np.ndarray) -> np.ndarray:
        """`dz` with `A dz + B conj(dz) + r = 0`."""
        outer = self._outer(z, args)[:, None]
        A = np.eye(SIZE) - outer * args["W"]
        B = -outer * args["C"] if self.case.conjugate else np.zeros_like(A)
        if self.case.kind == "root" and self.case.conjugate:
            A, B = A + np.diag(np.abs(z) ** 2 / 2), B + np.diag(z**2 / 4)
        elif self.case.kind == "root":
            A = A + np.diag(3 * z**2 / 4)
        if A.dtype.kind != "c":
            return np.linalg.solve(A + B, -r)
        real_view = np.block(
            [[(A + B).real, (B - A).imag], [(A + B).imag, (A - B).real]]
        )
        dz = np.linalg.solve(real_view, -np.concatenate([r.real, r.imag]))
        return dz[:SIZE] + 1j * dz[SIZE:]


def unrolled_solution(case: Case, args: Any, steps: int = 40) -> Any:
    """The solution by Newton's method in plain JAX on the real view.

    Every step is differentiated. Quadratic convergence carries over to derivatives of
    every order, so the last ones are exact to rounding.
    """
    complex_ = case.dtype.kind == "c"

    def view(v: Any) -> Any:
        return jax.lax.complex(v[:SIZE], v[SIZE:]) if complex_ else v

    def output(v: Any) -> Any:
        return ravel_pytree(case.fn(restore(view(v)), args))[0]

    def objective(v: Any) -> Any:
        out = output(v)
        return out[0] if case.kind == "minimize" else jnp.sum(squares(out)) / 2

    def residual(v: Any) -> Any:
        if case.kind in MINIMA:
            return jax.grad(objective)(v)
        out = output(v)
        out = view(v) - out if case.kind == "fixed_point" else out
        return jnp.concatenate([out.real, out.imag]) if complex_ else out

    def newton(v: Any, _: None) -> tuple[Any, None]:
        return v - jnp.linalg.solve(jax.jacfwd(residual)(v), residual(v)), None

    start = jnp.zeros(2 * SIZE if complex_ else SIZE, case.weights.dtype)
    v, _ = jax.lax.scan(newton, start, None, length=steps)
    return restore(view(v))


def unrolled(case: Case, t: Any, steps: int = 40) -> Any:
    """The loss along the directions, through that."""
    return case.loss(unrolled_solution(case, case.along(t), steps))


def _row(y: dict[str, Any]) -> np.ndarray:
    return np.concatenate([y["a"], y["b"].reshape(-1), y["c"].reshape(-1)])


def _ravel(tree: Any) -> tuple[np.ndarray, Callable[[np.ndarray], Any]]:
    leaves, treedef = jax.tree.flatten(tree)
    ends = np.cumsum([leaf.size for leaf in leaves])

    def unravel(flat: np.ndarray) -> Any:
        pieces = np.split(flat, ends[:-1])
        shaped = [p.reshape(x.shape) for p, x in zip(pieces, leaves, strict=True)]
        return jax.tree.unflatten(treedef, shaped)

    return np.concatenate([leaf.reshape(-1) for leaf in leaves]), unravel
